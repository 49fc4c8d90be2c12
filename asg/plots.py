"""One pure function a figure: numbers in, figure out.

Sized for a phone: five inches wide, so that a ten-point letter is still legible at 390 pixels.
Colours are Okabe and Ito's, safe for colour-blind readers; line style and marker repeat them.
"""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from asg.data.images import ImageSet

WIDTH = 5.0  # inches
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
NAMES = {
    "accuracy": "photos, task head",
    "kept": "photos, kept ImageNet head",
    "product": "photos, both heads",
    "agreement": "agreement with ImageNet net",
    "imagenet": "ImageNet top-1 on photos",
    "validation": "held-out synthetic",
    "train_task": "task loss (nats)",
    "kl": "KL to ImageNet net (nats)",
    "validation_loss": "held-out task loss (nats)",
    "held_task": "held-out task loss",
    "held_guidance": "held-out KL",
}
SHARES = {"accuracy", "kept", "product", "agreement", "imagenet", "validation"}  # shown in per cent


def style() -> None:
    """Set the book's look for every figure that follows."""
    sns.set_theme(
        style="ticks",
        palette=COLOURS,
        rc={
            "figure.dpi": 200, "savefig.dpi": 200, "figure.constrained_layout.use": True, "font.size": 10,
            "axes.titlesize": 9, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
            "legend.fontsize": 9, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False,
        },
    )  # fmt: skip


def gallery(images: ImageSet, columns: int = 6, rows: int = 4, titles: Sequence[str] | None = None) -> Figure:
    """Evenly spaced images of a set, each under its class (or its entry of ``titles``, one an image of the set)."""
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, WIDTH * rows / columns * 1.22))
    chosen = np.linspace(0, len(images) - 1, rows * columns).round().astype(int)
    for axis, index in zip(axes.flat, chosen, strict=True):
        axis.imshow(images.decode(int(index)))
        axis.set_title(titles[index] if titles else images.classes[int(images.labels[index])], fontsize=8, pad=2)
        axis.axis("off")
    return figure


def over_training(curves: pd.DataFrame, metrics: Sequence[str]) -> Figure:
    """Each metric against the step, one line an arm: mean over seeds, band of one standard deviation.

    ``curves``: the long table of :func:`asg.analysis.curves`.
    """
    rows = -(-len(metrics) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 1.95 * rows + 0.5), sharex=True, squeeze=False)
    arms = list(dict.fromkeys(curves["arm"]))
    for axis, metric in zip(axes.flat, metrics, strict=False):
        part = curves[curves["metric"] == metric]
        values = part.assign(value=part["value"] * (100 if metric in SHARES else 1))
        arm_lines(axis, values, "step", "value", arms)
        axis.set(title=NAMES.get(metric, metric), ylabel="%" if metric in SHARES else "", xlabel="step")
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    one_legend(figure, axes.flat)
    return figure


def arm_lines(axis: Axes, table: pd.DataFrame, x: str, y: str, arms: Sequence[str]) -> None:
    """One line an arm: the mean over seeds, in a band of one standard deviation."""
    look = {"hue": "arm", "style": "arm", "hue_order": arms, "style_order": arms, "markers": True, "markersize": 4}
    sns.lineplot(table, x=x, y=y, errorbar="sd", ax=axis, **look)


def one_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Move the legends of ``axes`` above the figure, once; none for a single line."""
    entries: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
        if axis.get_legend():
            axis.get_legend().remove()
    if len(entries) > 1:
        figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=2)


def control_loop() -> Figure:
    """Who tells whom what: the loop of training and policy, without numbers."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.0))
    boxes = {
        "network": (0.2, 0.8, "network in training,\nlayer groups 1 … G"),
        "window": (0.8, 0.8, "a window of steps:\nstatistics"),
        "policy": (0.8, 0.2, "policy π: LSTMs,\na head for each group"),
        "rates": (0.2, 0.2, "rate of group g:\n$\\eta\\, a_g$"),
    }  # fmt: skip
    for x, y, text in boxes.values():
        axis.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.6", "fc": "white", "ec": "0.3"},
        )
    arrows = {
        ("network", "window"): "losses,\nweights", ("window", "policy"): "state s",
        ("policy", "rates"): "draws\nratios $a_g$", ("rates", "network"): "SGD",
    }  # fmt: skip
    for (a, b), text in arrows.items():
        (x0, y0, _), (x1, y1, _) = boxes[a], boxes[b]
        dx, dy = 0.2 * np.sign(round(x1 - x0, 1)), 0.16 * np.sign(round(y1 - y0, 1))
        axis.annotate("", (x1 - dx, y1 - dy), (x0 + dx, y0 + dy), arrowprops={"arrowstyle": "-|>", "color": COLOURS[0]})
        axis.text(
            (x0 + x1) / 2 + 0.02,
            (y0 + y1) / 2 + 0.03,
            text,
            fontsize=8,
            ha="left" if dx == 0 else "center",
            va="bottom",
        )
    axis.text(0.52, 0.5, "reward of the window\nteaches π (REINFORCE)", fontsize=8, color=COLOURS[1], ha="center")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.axis("off")
    return figure


def meta_training(curves: pd.DataFrame) -> Figure:
    """Reward, entropy and held-out losses over the episodes of meta-trainings, one line a policy.

    ``curves``: the long table of :func:`asg.analysis.meta_curves`.
    """
    titles = {
        "reward": "reward", "entropy": "entropy of a choice (nats)",
        "held_task": "held-out task loss (nats)", "held_guidance": "held-out KL (nats)",
    }  # fmt: skip
    figure, axes = plt.subplots(2, 2, figsize=(WIDTH, 4.4), sharex=True)
    policies = list(dict.fromkeys(curves["policy"]))
    for axis, (metric, title) in zip(axes.flat, titles.items(), strict=True):
        part = curves[curves["metric"] == metric]
        sns.lineplot(part, x="episode", y="value", hue="policy", style="policy", hue_order=policies, ax=axis)
        axis.set(title=title, ylabel="")
    one_legend(figure, axes.flat)
    return figure


def intervals(table: pd.DataFrame, xlabel: str) -> Figure:
    """Estimates with their 95 % intervals, a panel a metric: the long table of :func:`asg.analysis.differences`.

    Shares are shown in points. What lies on the line at zero is not shown to differ from it.
    """
    metrics, rows = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["row"]))
    figure, axes = plt.subplots(1, len(metrics), figsize=(WIDTH, 0.3 * len(rows) + 0.9), sharey=True, squeeze=False)
    for axis, metric in zip(axes.flat, metrics, strict=True):
        found = table[table["metric"] == metric].set_index("row").drop(columns="metric")
        found = found.reindex(rows) * (100 if metric in SHARES else 1)
        distance = np.nan_to_num([found["mean"] - found["low"], found["high"] - found["mean"]])
        axis.errorbar(found["mean"], np.arange(len(rows)), xerr=distance, fmt="o", color=COLOURS[0], markersize=5)
        axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        axis.set_title(NAMES.get(metric, metric).replace(", ", ",\n"), fontsize=9)
    axes.flat[0].set_yticks(np.arange(len(rows)), [row.replace("+", " + ") for row in rows])
    axes.flat[0].invert_yaxis()  # the first row on top
    figure.supxlabel(xlabel, fontsize=10)
    return figure


def ratios(table: pd.DataFrame, x: str) -> Figure:
    """Chosen share of the base rate against ``x`` (step or episode), one panel a layer group, one line an arm.

    Mean over seeds with a band of one standard deviation; ``table`` has x, part, ratio, and arm and seed or neither.
    """
    parts = list(dict.fromkeys(table["part"]))
    rows = -(-len(parts) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 1.3 * rows + 0.8), sharex=True, sharey=True, squeeze=False)
    look = {"hue": "arm", "style": "arm"} if "arm" in table else {}
    for axis, part in zip(axes.flat, parts, strict=False):
        sns.lineplot(table[table["part"] == part], x=x, y="ratio", errorbar="sd", ax=axis, **look)
        axis.set(title=str(part).replace("+", " + "), ylabel="ratio", ylim=(-0.05, 1.05))
    for axis in axes.flat[len(parts) :]:
        axis.set_visible(False)
    one_legend(figure, axes.flat)
    return figure


def sweep(table: pd.DataFrame, metrics: Sequence[str], xlabel: str) -> Figure:
    """Each metric against the arms in their order: mean and 95 % interval of each :class:`~asg.analysis.Estimate`."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    x = np.arange(len(table))
    for k, metric in enumerate(metrics):
        found = list(table[metric])
        mean = 100 * np.array([e.mean for e in found])
        half = 100 * np.nan_to_num(np.array([(e.high - e.low) / 2 for e in found]))
        axis.errorbar(x + 0.06 * (k - len(metrics) / 2), mean, half, marker="osD^v"[k], capsize=3, label=NAMES[metric])
    axis.set_xticks(x, list(table.index))
    axis.set(xlabel=xlabel, ylabel="%")
    one_legend(figure, [axis])
    return figure


def drift(table: pd.DataFrame) -> Figure:
    """Relative distance of each layer group from its ImageNet weights, one line an arm, log scale."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    arm_lines(axis, table, "group", "drift", list(dict.fromkeys(table["arm"])))
    axis.set(yscale="log", xlabel="layer group, input to output", ylabel="relative distance")
    axis.tick_params(axis="x", rotation=60)
    one_legend(figure, [axis])
    return figure


def class_bars(table: pd.DataFrame) -> Figure:
    """Accuracy of each class (rows) under each arm (columns, at most four), in per cent."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.32 * len(table) + 1.2))
    y = np.arange(len(table))
    for k, arm in enumerate(table):
        axis.plot(100 * table[arm], y, "osD^"[k], label=arm, markersize=6)
    axis.hlines(y, 100 * table.min(axis=1), 100 * table.max(axis=1), color="0.7", zorder=0)
    axis.set_yticks(y, table.index)
    axis.invert_yaxis()
    axis.set(xlabel="accuracy on photos, %", xlim=(-3, 103))
    one_legend(figure, [axis])
    return figure


def feature_map(
    synthetic: np.ndarray, real: np.ndarray, synthetic_labels: Sequence[str], real_labels: Sequence[str]
) -> Figure:
    """t-SNE of features ``(N, D)`` and ``(M, D)`` of both domains, with class names at their medians."""
    points = PCA(50, random_state=0).fit_transform(np.concatenate([synthetic, real]))
    points = TSNE(random_state=0, init="pca", perplexity=30).fit_transform(points)
    figure, axis = plt.subplots(figsize=(WIDTH, WIDTH))
    first, second = points[: len(synthetic)], points[len(synthetic) :]
    parts = ((first, synthetic_labels, "o", "synthetic"), (second, real_labels, "^", "photos"))
    for (part, labels, marker, name), colour in zip(parts, COLOURS, strict=False):
        axis.scatter(*part.T, s=12, marker=marker, color=colour, label=name, alpha=0.6, linewidths=0)
        for label in sorted(set(labels)):
            at = np.median(part[np.array(labels) == label], axis=0)
            axis.text(*at, label, color=colour, fontsize=8, ha="center", weight="bold",
                      bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5})  # fmt: skip
    axis.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    one_legend(figure, [axis])
    return figure
