"""Figures of the report: inline SVG, equal bytes for equal numbers."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from asg.config import RunConfig
from asg.recipes import is_dense

WIDTH = 3.5  # inches of a figure, about a phone's width: letters stay nine points high
SYNTHETIC, REAL = "#0072B2", "#D55E00"  # Okabe and Ito's
LEAST = 1e-6  # top of an axis: a divergence of the start is 0, or rounding on either side of it
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "svg.fonttype": "path", "svg.hashsalt": "asg",
}  # fmt: skip
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # a date would make every page another one


@dataclass(frozen=True)
class Measure:
    """What a task is judged by: its field in an evaluation of the target, its name, alone and as a title."""

    field: str
    name: str
    title: str
    of_target: str


ACCURACY = Measure("accuracy", "accuracy", "Accuracy", "accuracy on the target (mean per class)")
MIOU = Measure("miou", "mIoU", "mIoU", "mIoU on the target")


def measure_of(config: RunConfig) -> Measure:
    """The measure of a run's task."""
    return MIOU if is_dense(config) else ACCURACY


@dataclass(frozen=True)
class Drawing:
    """A figure of the page: what it shows, in words, and inline SVG."""

    title: str
    svg: Markup


def drawing(name: str, title: str, height: float, draw: Callable[[Figure], None]) -> Drawing:
    """What ``draw`` draws, equal bytes for equal numbers, whatever matplotlib's settings are.

    ``name``: prefix of the ids, which are those of the whole page; ``height`` in inches.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure, file = Figure(figsize=(WIDTH, height), layout="constrained"), io.StringIO()
        draw(figure)
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    text = file.getvalue()
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    label = Markup('<svg role="img" aria-label="{}"').format(title)
    return Drawing(title, label + Markup(text.removeprefix("<svg")))


def curve(name: str, title: str, evaluations: list[dict], lines: dict[str, tuple[str, str]], scale: float) -> Drawing:
    """Numbers of the evaluations, times ``scale``, against their step; ``lines``: field → label and colour.

    A last evaluation at the step of the one before is that of a network between ImageNet's and the trained one: a star.
    """
    between = len(evaluations) > 1 and evaluations[-1]["step"] == evaluations[-2]["step"]
    trained = evaluations[:-1] if between else evaluations
    most = max(e[field] for e in evaluations for field in lines)
    top = scale if scale > 1 else max(1.05 * most, LEAST)

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        for (field, (label, colour)), shape in zip(lines.items(), ("-o", "--s"), strict=False):
            steps, values = [e["step"] for e in trained], [scale * e[field] for e in trained]
            axis.plot(steps, values, shape, color=colour, label=label, clip_on=False)
            if between:
                star = {"color": colour, "markersize": 12, "clip_on": False, "label": f"{label}: result"}
                axis.plot(evaluations[-1]["step"], scale * evaluations[-1][field], "*", **star)
        axis.set(xlabel="step", ylim=(0, top))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure.legend(loc="outside lower left")

    return drawing(name, title, 2.1 + 0.2 * len(lines) * (1 + between), draw)  # a row of the legend is 0.2


def curves(result: dict, measure: Measure) -> list[Drawing]:
    """What the task is judged by, agreement and divergence over the steps, each if measured; which images, below."""
    held, target = ("held-out images (synthetic)", SYNTHETIC), ("target images (real)", REAL)
    panels = {
        f"{measure.title}, %": ({"validation": held, measure.field: target}, 100.0),
        "Agreement with the ImageNet network, %": ({"agreement": target}, 100.0),
        "Divergence from the ImageNet network (KL), nats": ({"kl": held}, 1.0),
    }
    drawn = []
    for k, (title, (lines, scale)) in enumerate(panels.items()):
        if measured := {field: style for field, style in lines.items() if field in result["final"]}:
            drawn.append(curve(f"curve{k}", title, result["evaluations"], measured, scale))
    return drawn


def drift_bars(drift: dict[str, float]) -> Drawing:
    """How far each layer group has moved from ImageNet's weights, the first layers on top."""

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        bars = axis.barh(list(drift), [100 * moved for moved in drift.values()], color=SYNTHETIC)
        axis.bar_label(bars, [f"{100 * moved:.2g}" for moved in drift.values()], padding=3)
        axis.invert_yaxis()
        axis.margins(x=0.15)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axis.tick_params(axis="y", length=0)

    title = "Distance of each layer group from ImageNet's weights, % of their norm"
    return drawing("drift", title, 0.8 + 0.22 * len(drift), draw)
