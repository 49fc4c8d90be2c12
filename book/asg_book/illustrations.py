"""Figures without an axis: images, maps over images, and how parts work together; numbers in, figure out."""

from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from asg.data.images import ImageSet
from asg_book.plots import COLOURS, WIDTH, one_legend


def gallery(images: ImageSet, columns: int = 6, rows: int = 4, titles: Sequence[str] | None = None) -> Figure:
    """Evenly spaced images of a set, each under its class (or its entry of ``titles``, one an image of the set)."""
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, WIDTH * rows / columns * 1.22))
    chosen = np.linspace(0, len(images) - 1, rows * columns).round().astype(int)
    for axis, index in zip(axes.flat, chosen, strict=True):
        axis.imshow(images.decode(int(index)))
        axis.set_title(
            titles[index] if titles is not None else images.classes[int(images.labels[index])], fontsize=8, pad=2
        )
        axis.axis("off")
    return figure


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


def feature_maps(
    networks: Sequence[str], points: Sequence[np.ndarray], synthetic: Sequence[str], photos: Sequence[str]
) -> Figure:
    """Where both domains lie in each network, one map under another; class names at the medians of their points.

    ``points``: for each network ``(N + M, 2)``, of N synthetic images and then M photographs, whose classes are
    ``synthetic`` and ``photos``.
    """
    figure, axes = plt.subplots(len(networks), 1, figsize=(WIDTH, 4.4 * len(networks) + 0.4), squeeze=False)
    for axis, network, placed in zip(axes.flat, networks, points, strict=True):
        first, second = placed[: len(synthetic)], placed[len(synthetic) :]
        parts = ((first, synthetic, "o", "synthetic"), (second, photos, "^", "photos"))
        for (part, labels, marker, name), colour in zip(parts, COLOURS, strict=False):
            axis.scatter(*part.T, s=12, marker=marker, color=colour, label=name, alpha=0.6, linewidths=0)
            for label in sorted(set(labels)):
                centre = np.median(part[np.array(labels) == label], axis=0)
                axis.text(*centre, label, color=colour, fontsize=8, ha="center", weight="bold",
                          bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5})  # fmt: skip
        axis.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2", title=network)
    one_legend(figure, axes.flat)
    return figure


def strips(sets: dict[str, ImageSet], columns: int) -> Figure:
    """Evenly spaced images of each set, one row a set under its name."""
    side = WIDTH / columns
    figure, axes = plt.subplots(len(sets), columns, figsize=(WIDTH, len(sets) * (side + 0.22)), squeeze=False)
    for row, (name, images) in zip(axes, sets.items(), strict=True):
        for axis, index in zip(row, np.linspace(0, len(images) - 1, columns).round().astype(int), strict=True):
            axis.imshow(images.decode(int(index)))
            axis.axis("off")
        row[0].set_title(name, loc="left", pad=2)
    return figure


def heat_maps(
    photos: ImageSet,
    chosen: Sequence[int],
    networks: Sequence[str],
    maps: Sequence[Sequence[np.ndarray]],
    titles: Sequence[Sequence[str]],
) -> Figure:
    """Each of the ``chosen`` photographs (rows) and where each network looks (columns).

    ``maps``: for each network and photograph an array ``(h, w)`` in [0, 1], which is enlarged to the photograph;
    ``titles``: for each photograph its true class, then what each network says.
    """
    columns, pictures = ["photo", *networks], [photos.decode(int(i)) for i in chosen]
    size = WIDTH / len(columns)
    figure, axes = plt.subplots(len(chosen), len(columns), figsize=(WIDTH, len(chosen) * size * 1.2), squeeze=False)
    for i, (row, picture) in enumerate(zip(axes, pictures, strict=True)):
        height, width = picture.shape[:2]
        options = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5), "interpolation": "bilinear"}
        for j, (axis, name) in enumerate(zip(row, columns, strict=True)):
            axis.imshow(picture)
            if j:
                axis.imshow(maps[j - 1][i], cmap="inferno", alpha=0.55, vmin=0, vmax=1, **options)
            head = f"{name}\n" if i == 0 else ""
            axis.set_title(head + titles[i][j], fontsize=8, pad=2)
            axis.axis("off")
    return figure


def scenes(rows: Iterable[Sequence[np.ndarray]], columns: Sequence[str], classes: Sequence[str]) -> Figure:
    """Each image (first column) and label maps of it, every class in one colour, with one legend.

    ``rows``: uint8 ``(H, W, 3)``, then label maps ``(H, W)`` of indices of ``classes``; the first class is the ground,
    and what is UNLABELLED (−1) is white.
    """
    rows, colours = list(rows), np.array([(0.93, 0.93, 0.93), *sns.color_palette("husl", len(classes) - 1)])
    colours[2::2] *= 0.6  # neighbours on the wheel differ in lightness too
    palette, size = np.vstack([colours, np.ones(3)]), WIDTH / len(columns)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=(WIDTH, size * len(rows) + 1.3), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis, picture in zip(line, row, strict=True):
            axis.imshow(picture if picture.ndim == 3 else palette[picture])
            axis.axis("off")
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name)
    patches = [Patch(color=c, label=name) for c, name in zip(colours, classes, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, fontsize=8, handlelength=1)
    return figure
