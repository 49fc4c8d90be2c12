"""One pure function a figure: numbers in, figure out.

Sized for a phone: five inches wide, so that a ten-point letter is still legible at 390 pixels.
Colours are Okabe and Ito's, safe for colour-blind readers; line style and marker repeat them.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asg_book.measures import NAMES, SHARES

WIDTH = 5.0  # inches
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


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


def from_records(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw from a table of records, or say that it holds none: a chapter goes on where runs are missing.

    The figure keeps the table as its ``numbers``.
    """

    @wraps(draw)
    def drawn(table: pd.DataFrame, *more: object, **named: object) -> Figure:
        if not table.empty:
            figure = draw(table, *more, **named)
            figure.numbers = table
            return figure
        figure, axis = plt.subplots(figsize=(WIDTH, 0.6))
        axis.text(0.5, 0.5, "no records yet", ha="center", va="center")
        axis.axis("off")
        return figure

    return drawn


@from_records
def over_training(curves: pd.DataFrame, metrics: Sequence[str], xlabel: str = "step") -> Figure:
    """Each metric against the step, one line an arm: mean over seeds, band of one standard deviation.

    ``curves``: the long table of :func:`asg_book.analysis.curves`, or of :func:`asg_book.analysis.rounds`.
    """
    rows = -(-len(metrics) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(WIDTH, 1.95 * rows + 0.5), sharex=True, squeeze=False)
    arms = list(dict.fromkeys(curves["arm"]))
    for axis, metric in zip(axes.flat, metrics, strict=False):
        part = curves[curves["metric"] == metric]
        values = part.assign(value=part["value"] * (100 if metric in SHARES else 1))
        arm_lines(axis, values, "step", "value", arms)
        axis.set(title=NAMES.get(metric, metric), ylabel="%" if metric in SHARES else "", xlabel=xlabel)
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


@from_records
def meta_training(curves: pd.DataFrame) -> Figure:
    """Reward, entropy and held-out losses over the episodes of meta-trainings, one line a policy.

    ``curves``: the long table of :func:`asg_book.analysis.meta_curves`.
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


@from_records
def intervals(table: pd.DataFrame, xlabel: str) -> Figure:
    """Estimates with their 95 % intervals, a panel a metric: the long table of :func:`asg_book.estimates.differences`.

    Shares are shown in points. What lies on the line at zero is not shown to differ from it. Where the table has
    verdicts of a corrected test (``decided``), a point without a difference is open, whatever its own interval says.
    """
    metrics, rows = list(dict.fromkeys(table["metric"])), list(dict.fromkeys(table["row"]))
    figure, axes = plt.subplots(1, len(metrics), figsize=(WIDTH, 0.3 * len(rows) + 0.9), sharey=True, squeeze=False)
    for axis, metric in zip(axes.flat, metrics, strict=True):
        part = table[table["metric"] == metric].set_index("row")
        estimates = part[["mean", "low", "high"]].reindex(rows) * (100 if metric in SHARES else 1)
        decided = part.get("decided", pd.Series(True, part.index)).reindex(rows, fill_value=True).to_numpy(bool)
        for chosen, fill in ((c, f) for c, f in ((decided, COLOURS[0]), (~decided, "white")) if c.any()):
            subset = estimates[chosen]
            distance = np.nan_to_num([subset["mean"] - subset["low"], subset["high"] - subset["mean"]])
            look = {"color": COLOURS[0], "mfc": fill, "markersize": 5}
            axis.errorbar(subset["mean"], np.arange(len(rows))[chosen], xerr=distance, fmt="o", **look)
        axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        axis.set_title(NAMES.get(metric, metric).replace(", ", ",\n").replace(" ImageNet", "\nImageNet"), fontsize=9)
    names = [" + ".join(part.strip() for part in row.split("+")) for row in rows]
    axes.flat[0].set_yticks(np.arange(len(rows)), names)
    axes.flat[0].set_ylim(len(rows) - 0.5, -0.5)  # the first row on top; no point touches the frame
    figure.supxlabel(xlabel, fontsize=10)
    return figure


@from_records
def paying(table: pd.DataFrame, variants: pd.DataFrame | None = None) -> Figure:
    """What guidance gains (up) against what the frozen backbone has over plain training (right), a point a benchmark.

    ``table``: :func:`asg_book.paying.gains`; shares, shown in points, with 95 % intervals both ways; ``variants``: the
    same of changed synthetic images, as dots. On the dashed line guided training is as good as the frozen backbone;
    right of zero and above it is where guidance pays.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.4))
    axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    axis.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for k, (name, row) in enumerate(table.iterrows()):
        x, y = row["advantage"], row["gain"]
        half = {f"{side}err": 100 * np.nan_to_num((e.high - e.low) / 2) for side, e in (("x", x), ("y", y))}
        look = {"color": COLOURS[k % len(COLOURS)], "markersize": 7, "elinewidth": 0.8}
        axis.errorbar(100 * x.mean, 100 * y.mean, **half, **look, fmt=marker(k), label=name)
    means = [100 * e.mean for e in table["advantage"]]
    if variants is not None and len(variants):
        points = variants.map(lambda e: 100 * e.mean)
        look = {"color": "0.45", "markersize": 4, "linestyle": "none", "zorder": 1}
        axis.plot(points["advantage"], points["gain"], ".", label="cartoons, changed", **look)
        means += points["advantage"].tolist()
    ends = [min(means) - 3, max(means) + 3]
    axis.plot(ends, ends, color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    axis.set(xlabel="frozen less plain training, points", ylabel="guided less plain training, points")
    one_legend(figure, [axis])
    return figure


@from_records
def over_weights(table: pd.DataFrame) -> Figure:
    """What guidance gains at each λ, one line a benchmark, with 95 % intervals over seeds, in points.

    ``table``: :func:`asg_book.paying.over_weights`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 3.6))
    axis.axhline(0, color="0.6", linewidth=0.8, zorder=0)
    weights = sorted(table["λ"].unique())
    for k, (name, part) in enumerate(table.groupby("benchmark", sort=False)):
        x = np.array([weights.index(weight) for weight in part["λ"]]) + 0.06 * (k - 1.5)
        mean = 100 * np.array([e.mean for e in part["gain"]])
        half = 100 * np.nan_to_num([(e.high - e.low) / 2 for e in part["gain"]])
        look = {"color": COLOURS[k % len(COLOURS)], "capsize": 3}
        axis.errorbar(x, mean, half, marker=marker(k), label=name, **look)
    axis.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
    axis.set(xlabel="λ", ylabel="guided less plain, points")
    one_legend(figure, [axis])
    return figure


@from_records
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
        axis.set(title=part_title(str(part)), ylabel="ratio", ylim=(-0.05, 1.05))
    for axis in axes.flat[len(parts) :]:
        axis.set_visible(False)
    one_legend(figure, axes.flat)
    return figure


def part_title(part: str) -> str:
    """A part of the network by its layer groups, of more than three the first and the last."""
    groups = part.split("+")
    return " + ".join(groups) if len(groups) <= 3 else f"{groups[0]} … {groups[-1]}"


@from_records
def sweep(table: pd.DataFrame, metrics: Sequence[str], xlabel: str) -> Figure:
    """Each metric against the arms in their order: :class:`~asg_book.estimates.Estimate`, 95 % intervals."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    x = np.arange(len(table))
    for k, metric in enumerate(metrics):
        estimates = list(table[metric])
        mean = 100 * np.array([e.mean for e in estimates])
        half = 100 * np.nan_to_num(np.array([(e.high - e.low) / 2 for e in estimates]))
        axis.errorbar(x + 0.06 * (k - len(metrics) / 2), mean, half, marker=marker(k), capsize=3, label=NAMES[metric])
    axis.set_xticks(x, list(table.index))
    axis.set(xlabel=xlabel, ylabel="%")
    one_legend(figure, [axis])
    return figure


@from_records
def interpolation(table: pd.DataFrame) -> Figure:
    """Each metric (rows) of each benchmark (columns) on the way from ImageNet's weights to the trained ones.

    One line a start, with a band of 95 % intervals. ``table``: :func:`asg_book.since.curves`, its metrics shares.
    """
    benchmarks, metrics = (list(dict.fromkeys(table[column])) for column in ("benchmark", "metric"))
    size = (WIDTH, 2.2 * len(metrics) + 0.8)
    figure, axes = plt.subplots(len(metrics), len(benchmarks), figsize=size, sharex=True, squeeze=False)
    for (metric, benchmark), axis in zip(product(metrics, benchmarks), axes.flat, strict=True):
        part = table[(table["metric"] == metric) & (table["benchmark"] == benchmark)]
        for k, (start, line) in enumerate(part.groupby("start", sort=False)):
            mean, low, high = 100 * np.array([(e.mean, e.low, e.high) for e in line["estimate"]]).T
            axis.plot(line["share"], mean, marker=marker(k), color=COLOURS[k], label=start)
            axis.fill_between(line["share"], low, high, color=COLOURS[k], alpha=0.15, linewidth=0)
        if metric == metrics[0]:
            axis.set_title(benchmark)
        if benchmark == benchmarks[0]:
            axis.set_ylabel(f"{NAMES[metric]}, %")
    figure.supxlabel("α: share of the way to the trained weights", fontsize="medium")
    one_legend(figure, axes.flat)
    return figure


@from_records
def drift(table: pd.DataFrame) -> Figure:
    """Relative distance of each layer group from its ImageNet weights, one line an arm, log scale."""
    figure, axis = plt.subplots(figsize=(WIDTH, 3.4))
    arm_lines(axis, table, "group", "drift", list(dict.fromkeys(table["arm"])))
    axis.set(yscale="log", xlabel="layer group, input to output", ylabel="relative distance")
    axis.tick_params(axis="x", rotation=60)
    one_legend(figure, [axis])
    return figure


def marker(k: int) -> str:
    """The shape of the k-th line."""
    return "osD^v<>PX*"[k % 10]


@from_records
def class_bars(table: pd.DataFrame, measure: str = "accuracy") -> Figure:
    """Accuracy (or another ``measure``) of each class (rows) under each arm (columns), in per cent."""
    figure, axis = plt.subplots(figsize=(WIDTH, 0.32 * len(table) + 1.2))
    y = np.arange(len(table))
    for k, arm in enumerate(table):
        axis.plot(100 * table[arm], y, marker(k), label=arm, markersize=6)
    axis.hlines(y, 100 * table.min(axis=1), 100 * table.max(axis=1), color="0.7", zorder=0)
    axis.set_yticks(y, table.index)
    axis.invert_yaxis()
    axis.set(xlabel=f"{measure} on photos, %", xlim=(-3, 103))
    one_legend(figure, [axis])
    return figure


@from_records
def trade_off(table: pd.DataFrame, x_metric: str, *y_metrics: str) -> Figure:
    """``x_metric`` against each of ``y_metrics``: an arm's mean with bars of one standard deviation, a panel a metric.

    ``table``: :func:`asg_book.estimates.summary`, one row an arm, its metrics shares.
    """
    figure, axes = plt.subplots(
        len(y_metrics), 1, figsize=(WIDTH, 2.7 * len(y_metrics) + 0.9), sharex=True, squeeze=False
    )
    for axis, metric in zip(axes.flat, y_metrics, strict=True):
        for k, arm in enumerate(table.index):
            x, y = table.loc[arm, x_metric], table.loc[arm, metric]
            colour = COLOURS[k % len(COLOURS)]
            look = {"color": colour, "mfc": colour if k < len(COLOURS) else "white", "markersize": 6, "elinewidth": 0.8}
            spread = {"xerr": 100 * np.nan_to_num(x.sd), "yerr": 100 * np.nan_to_num(y.sd)}
            axis.errorbar(100 * x.mean, 100 * y.mean, **spread, **look, fmt=marker(k), label=arm)
        axis.set(ylabel=f"{NAMES[metric]}, %")
    axes.flat[-1].set(xlabel=f"{NAMES[x_metric]}, %")
    one_legend(figure, axes.flat)
    return figure


@from_records
def study(table: pd.DataFrame, metric: str) -> Figure:
    """A metric against each axis of the synthetic data, one panel an axis, one line a method with a band of one sd.

    ``table``: the long table of :func:`asg_book.analysis.points`; points stand in their order.
    """
    rows = table[table["metric"] == metric].assign(value=lambda t: t["value"] * (100 if metric in SHARES else 1))
    axes_names, arms = list(dict.fromkeys(rows["axis"])), list(dict.fromkeys(rows["arm"]))
    figure, axes = plt.subplots(-(-len(axes_names) // 2), 2, figsize=(WIDTH, 5.4), sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, axes_names, strict=False):
        part = rows[rows["axis"] == name]
        arm_lines(axis, part, "point", "value", arms)
        axis.set(title=name, xlabel="", ylabel="")
        axis.set_xticks(range(part["point"].nunique()), [p.replace(", ", ",\n") for p in dict.fromkeys(part["point"])])
        axis.tick_params(axis="x", rotation=45 if part["point"].str.len().max() > 3 else 0)
    for axis in axes.flat[len(axes_names) :]:
        axis.set_visible(False)
    figure.supylabel(f"{NAMES[metric]}, %" if metric in SHARES else NAMES[metric], fontsize=10)
    one_legend(figure, axes.flat)
    return figure


@from_records
def confusion(table: pd.DataFrame) -> Figure:
    """What photographs of each class (rows) are taken for (columns), in per cent; shares of 5 and more are written.

    Of a difference of two such tables: what was added in one colour, what was taken away in the other.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, WIDTH))
    percent = (100 * table).round().astype(int)
    most = max(1, int(percent.abs().to_numpy().max()))
    signed = {"vmin": -most, "vmax": most, "cmap": "PuOr"}
    look = signed if (percent < 0).to_numpy().any() else {"vmin": 0, "vmax": 100, "cmap": "cividis_r"}
    sns.heatmap(
        percent, **look, cbar=False, square=True, linewidths=0.3, ax=axis,
        annot=percent.map(lambda p: str(p) if abs(p) >= 5 else ""), fmt="", annot_kws={"fontsize": 8},
    )  # fmt: skip
    axis.set(xlabel="predicted", ylabel="true class")
    axis.tick_params(length=0, labelsize=9)
    axis.tick_params(axis="x", rotation=60)
    return figure


@from_records
def reliability(table: pd.DataFrame) -> Figure:
    """Share of right answers against confidence, one line an arm: mean over seeds, bars of one standard deviation.

    On the diagonal a network is as sure as it should be, below it too sure. ``table``: the long
    table of :func:`asg_book.analysis.reliability`.
    """
    figure, axis = plt.subplots(figsize=(WIDTH, 4.2))
    axis.plot([0, 100], [0, 100], color="0.6", linewidth=0.8)
    for k, (arm, rows) in enumerate(table.groupby("arm", sort=False)):
        means = 100 * rows.groupby("bin")[["confidence", "right"]].mean()
        spread = 100 * rows.groupby("bin")["right"].std().fillna(0)
        look = {"marker": marker(k), "markersize": 5, "capsize": 3, "color": COLOURS[k % len(COLOURS)]}
        axis.errorbar(means["confidence"], means["right"], spread, label=arm, **look)
    axis.set(xlabel="confidence, %", ylabel="photos answered rightly, %", xlim=(0, 101), ylim=(0, 101))
    one_legend(figure, [axis])
    return figure
