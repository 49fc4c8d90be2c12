"""The report of a training on own folders: every number as JSON, a page as Markdown, and one to look at as HTML.

The HTML page holds its figures and pictures itself: it asks no other host for anything and runs no script.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import matplotlib
import numpy as np
import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from asg import AsgError, records
from asg.config import RunConfig
from asg.data.images import UNLABELLED, Domains, ImageSet
from asg.data.masks import palette
from asg.data.segmentation import SegmentationDomains, SegmentationSet
from asg.dense_metrics import confusion_matrix
from asg.dense_models import DenseStudent, predict
from asg.recipes import is_dense
from asg.report_warnings import labelled_target, percent, unlabelled_target, warnings_of, wilson
from asg.trainers.segmentation import OVERLAP, WINDOW

TEMPLATE = Path(__file__).with_name("report.html.jinja")
WHOLE, WORST, PAIRS = 15, 12, 15  # most classes of a whole confusion matrix; else its worst ones, and pairs beside it
WRONG, UNSURE, RIGHT = 12, 6, 6  # pictures
PICTURE = 160  # pixels of a picture's side, at most
SCENES = 6  # that are shown
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


def write_report(
    folder: Path, result: dict, config: RunConfig, domains: Domains | SegmentationDomains, scenes: Sequence[Scene] = ()
) -> None:
    """Write ``report.json``, every number, and two pages, ``report.md`` and ``report.html``.

    ``domains``: what was read for the run; ``scenes``: what a segmentation model answers (:func:`answered`). A picture
    whose file is gone by now is left out, its name stays.
    """
    made_by = records.provenance()
    records.write_text(folder / "report.json", json.dumps({**result, **made_by}, indent=1))
    records.write_text(folder / "report.md", markdown(result, config, domains))
    records.write_text(folder / "report.html", page(result, config, domains, made_by, scenes))


def ending(config: RunConfig) -> str:
    """Which network a training ends with, in words."""
    network = "an average over the iterates" if config.average else "the last iterate"
    if config.interpolate is None:
        return network
    return f"{network}, its backbone {config.interpolate:.0%} of the way from ImageNet's weights"


def markdown(result: dict, config: RunConfig, domains: Domains | SegmentationDomains) -> str:
    """A page about one run on own folders, as Markdown: what was trained, what it reaches, what it keeps, warnings."""
    first, final, measure = result["evaluations"][0], result["final"], measure_of(config)
    names = {
        "validation": f"{measure.name} on held-out source images",
        measure.field: measure.of_target,
        "agreement": "agreement with the ImageNet network on the target",
        "kl": "divergence from the ImageNet network (nats)",
    }
    lines = [
        f"# ASG report\n\n{config.backbone}, {config.size} px, {result['steps']} steps of {config.batch}, "
        f"λ = {config.guidance:g}, seed {config.seed}; {result['seconds']:.0f} s on {result['device']}. "
        f"Result: {ending(config)}.\n\n| | before | after |\n|---|---|---|",
        *(f"| {text} | {first[k]:.3f} | {final[k]:.3f} |" for k, text in names.items() if k in final),
    ]
    if "mirror" in final:
        alone, both = final["validation"], final["validation_mirrored"]
        use = "average an image and its mirror image" if final["mirror"] else "are of the image alone"
        lines += [f"\nAnswers {use}: right on held-out images {both:.3f} averaged, {alone:.3f} alone."]
    if "per_class" in final:
        rows = (f"| {table_cell(c)} | {a:.3f} |" for c, a in final["per_class"].items())
        lines += [f"\n| target class | {'IoU' if is_dense(config) else 'accuracy'} |\n|---|---|", *rows]
    lines += [f"\nwarning: {warning}" for warning in warnings_of(result, config, domains)]
    return "\n".join(lines) + "\n"


def table_cell(name: str) -> str:
    """A name as a cell of a Markdown table: what would end the cell or the line is an escape."""
    lines = re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda letter: letter[0].encode("unicode_escape").decode(), name)
    return lines.replace("|", r"\|")


@dataclass(frozen=True)
class ClassRow:
    """What the target says of one class: images, right ones with Wilson's interval, the commonest wrong answer."""

    name: str
    images: int
    right: int
    interval: tuple[float, float] | None  # None: the class has no images
    mistaken_for: str | None  # None: no wrong answer
    times: int


def class_rows(confusion: Tensor, classes: Sequence[str]) -> list[ClassRow]:
    """A row a class of a confusion matrix ``(C, C)``, the worst one first, those without images last."""
    rows = []
    for k, (name, counts) in enumerate(zip(classes, confusion, strict=True)):
        images, right = int(counts.sum()), int(counts[k])
        wrong = counts.clone()
        wrong[k] = 0
        other = int(wrong.argmax())
        interval = wilson(right, images) if images else None
        rows.append(ClassRow(name, images, right, interval, classes[other] if wrong.any() else None, int(wrong[other])))
    return sorted(rows, key=lambda row: row.right / row.images if row.images else 2)


def confused_pairs(confusion: Tensor, classes: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """The most frequent pairs of truth and wrong answer: class, answer, times, images of the class."""
    wrong = confusion.clone().fill_diagonal_(0)
    times, order = wrong.flatten().sort(descending=True, stable=True)
    pairs = [(*divmod(i, len(classes)), n) for i, n in zip(order[:PAIRS].tolist(), times.tolist(), strict=False) if n]
    return [(classes[truth], classes[answer], n, int(confusion[truth].sum())) for truth, answer, n in pairs]


@dataclass(frozen=True)
class Cell:
    """One field of a confusion matrix: how many images, their share of the row, whether they are right."""

    images: int
    share: float
    right: bool


@dataclass(frozen=True)
class Matrix:
    """A confusion matrix to show: names of rows and columns, and its cells; ``complete``: of all classes."""

    rows: list[tuple[str, list[Cell]]]
    columns: list[str]
    complete: bool


def shown_matrix(confusion: Tensor, classes: Sequence[str]) -> Matrix:
    """The whole matrix ``(C, C)`` of up to WHOLE classes; of more, the classes with the most wrong answers.

    Their answers of other classes are one column. A class without images is a column alone.
    """
    images = confusion.sum(1)
    chosen, complete = list(range(len(classes))), len(classes) <= WHOLE
    if not complete:
        wrong = images - confusion.diagonal()
        chosen = sorted(wrong.sort(descending=True, stable=True).indices[:WORST].tolist())
    columns = [classes[k] for k in chosen] + ([] if complete else ["another class"])
    rows = []
    for k in chosen:
        if not images[k]:
            continue
        counts = confusion[k, chosen].tolist()
        counts += [] if complete else [int(images[k]) - sum(counts)]
        cells = [Cell(n, n / int(images[k]), j < len(chosen) and chosen[j] == k) for j, n in enumerate(counts)]
        rows.append((classes[k], cells))
    return Matrix(rows, columns, complete)


@dataclass(frozen=True)
class Example:
    """A target image with its class, the model's answer, how sure it is, and its file.

    ``picture`` None: it is gone; ``truth`` None: it has no label.
    """

    picture: str | None
    truth: str | None
    answer: str
    confidence: float
    file: str

    @property
    def caption(self) -> str:
        """``truth → answer``, or the answer alone."""
        return self.answer if self.truth is None else f"{self.truth} → {self.answer}"


def examples(final: dict, target: ImageSet, root: str | None) -> dict[str, list[Example]]:
    """Images by what they show of the model: the surest wrong ones, the least sure, and right ones of many classes.

    An image is shown once. ``root``: the folder under which files are named.
    """
    labels, predicted, confidence = target.labels.tolist(), final["predicted"], final["confidence"]
    by_confidence = sorted(range(len(labels)), key=lambda i: confidence[i])
    wrong = [i for i in reversed(by_confidence) if predicted[i] != labels[i]][:WRONG]
    rest = [i for i in by_confidence if i not in wrong]
    unsure = rest[: min(UNSURE, len(rest) // 2)]
    seen: dict[int, int] = {}
    rank = {}
    for i in reversed(by_confidence):
        if predicted[i] == labels[i] and i not in unsure:
            rank[i] = seen[labels[i]] = seen.get(labels[i], 0) + 1
    right = sorted(rank, key=lambda i: rank[i])[:RIGHT]  # of each class the surest one first

    groups = {"Wrong, the surest first": wrong, "Least sure": unsure, "Right": right}
    return {title: [example(final, target, i, root) for i in chosen] for title, chosen in groups.items() if chosen}


def example(final: dict, target: ImageSet, i: int, root: str | None) -> Example:
    """One target image with what is said of it."""
    label, answer = int(target.labels[i]), target.classes[final["predicted"][i]]
    truth = None if label == UNLABELLED else target.classes[label]
    return Example(picture(target, i), truth, answer, final["confidence"][i], below(target.names[i], root))


@dataclass(frozen=True)
class Answered:
    """How many images without label were answered with a class, and how sure the model was, on the mean."""

    name: str
    images: int
    confidence: float | None  # None: no image


def answers_of(final: dict, classes: Sequence[str]) -> list[Answered]:
    """A row a class, the commonest answer first."""
    sure: dict[int, list[float]] = {k: [] for k in range(len(classes))}
    for k, confidence in zip(final["predicted"], final["confidence"], strict=True):
        sure[k].append(confidence)
    rows = [Answered(classes[k], len(c), sum(c) / len(c) if c else None) for k, c in sure.items()]
    return sorted(rows, key=lambda row: -row.images)


def unlabelled_examples(final: dict, target: ImageSet, root: str | None) -> dict[str, list[Example]]:
    """The images that the model is least and most sure of; nobody knows which answers are right."""
    confidence = final["confidence"]
    order = sorted(range(len(confidence)), key=lambda i: confidence[i])
    unsure, sure = order[:WRONG], order[::-1][: min(RIGHT, max(0, len(order) - WRONG))]

    groups = {"Least sure": unsure, "Surest": sure}
    return {title: [example(final, target, i, root) for i in chosen] for title, chosen in groups.items() if chosen}


def below(name: str, root: str | None) -> str:
    """The name of a file under ``root``, if it lies there."""
    path = Path(name)
    return str(path.relative_to(root)) if root is not None and path.is_relative_to(root) else name


def picture(images: ImageSet, i: int) -> str | None:
    """An image as a small JPEG in a data URI; None if its file cannot be read any more."""
    try:
        image = Image.fromarray(images.decode(i))
    except AsgError:
        return None
    image.thumbnail((PICTURE, PICTURE))
    return encoded(image)


def encoded(image: Image.Image) -> str:
    """An image as a JPEG in a data URI."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass(frozen=True)
class Scene:
    """A scene three times: as it is, its labels over it, and the answers over it; ``right``: share of its pixels."""

    picture: str
    truth: str | None  # None: no pixel is labelled, and so none is right
    answer: str
    right: float | None
    file: str


@torch.inference_mode()
def answered(network: DenseStudent, images: SegmentationSet) -> list[Scene]:
    """What a network answers on evenly spaced scenes of a set, SCENES at most."""
    colours, count, scenes = palette(len(images.classes)), min(SCENES, len(images)), []
    for i in ((2 * k + 1) * len(images) // (2 * count) for k in range(count)):  # the middles of equal parts
        pixels, labels = images.decode(i)
        logits = predict(network, torch.from_numpy(np.array(pixels)).permute(2, 0, 1), WINDOW, OVERLAP)
        answer, labelled = logits.argmax(0).cpu().numpy(), labels != UNLABELLED
        photo = Image.fromarray(pixels)
        truth, right = None, None
        if labelled.any():
            truth = encoded(laid_over(photo, labels, colours))
            right = float((answer == labels)[labelled].mean())
        answered_over = encoded(laid_over(photo, answer, colours))
        scenes.append(Scene(encoded(photo), truth, answered_over, right, images.names[i]))
    return scenes


def laid_over(photo: Image.Image, labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """A photo under the colours of its labels ``(H, W)``; UNLABELLED pixels show the photo alone."""
    blended = np.asarray(Image.blend(photo, Image.fromarray(colours[labels]), 0.6))
    return Image.fromarray(np.where((labels == UNLABELLED)[..., None], np.asarray(photo), blended))


def legend(images: ImageSet | SegmentationSet) -> list[tuple[str, str]]:
    """Each class with its colour in a scene, ``#rrggbb``."""
    return [
        (name, f"#{r:02x}{g:02x}{b:02x}")
        for name, (r, g, b) in zip(images.classes, palette(len(images.classes)).tolist(), strict=True)
    ]


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


def left_of_imagenet(first: dict, final: dict) -> list[tuple[str, str | None, str]]:
    """What was measured of the ImageNet network that is left: name, before (None: not measured then), after."""
    names = {
        "agreement": ("same top-1 class as the ImageNet network, target images (real)", percent),
        "kl": ("divergence from its answers in nats, held-out images (synthetic)", "{:z.3f}".format),
        "cka": ("likeness of the features to its own (CKA, 1: the same), target images (real)", "{:z.3f}".format),
        "imagenet": ("right ImageNet class, target images (real) that have one", percent),
        "kept": ("accuracy through the ImageNet classifier, target images (real)", percent),
    }
    return [
        (name, show(first[field]) if field in first else None, show(final[field]))
        for field, (name, show) in names.items()
        if field in final
    ]


def adaptation_rounds(evaluations: Iterable[dict]) -> list[dict]:
    """The last evaluation of each round of an adaptation, which holds the round's pseudo-labels."""
    return list({e["round"]: e for e in evaluations if "round" in e}.values())


def settings(config: RunConfig) -> list[tuple[str, str, str]]:
    """Every setting: name, value as JSON, what it means."""
    values = config.model_dump()
    return [
        (name, json.dumps(values[name], ensure_ascii=False), field.description)
        for name, field in type(config).model_fields.items()
    ]


def readable(value: object) -> object:
    """Text that has bytes of a file's name in it, which are no UTF-8, with these as escapes; all else as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def page(
    result: dict, config: RunConfig, domains: Domains | SegmentationDomains, made_by: dict, scenes: Sequence[Scene] = ()
) -> str:
    """The HTML page of one run; ``made_by``: :func:`asg.records.provenance`. Every text in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True, finalize=readable, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    final, target, measure = result["final"], labelled_target(result, domains), measure_of(config)
    photos = domains.target if measure.field in final else None
    parts: dict[str, object] = {}
    if target is not None:
        confusion = confusion_matrix(torch.tensor(final["predicted"]), target.labels, len(target.classes))
        parts = {
            "rows": class_rows(confusion, target.classes),
            "matrix": shown_matrix(confusion, target.classes),
            "pairs": confused_pairs(confusion, target.classes),
            "examples": examples(final, target, config.target),
        }
    if (photos_alone := unlabelled_target(result, domains)) is not None:
        parts = {
            "answers": answers_of(final, photos_alone.classes),
            "examples": unlabelled_examples(final, photos_alone, config.target),
        }
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        result=result, config=config, final=final, target=target,
        held=domains.validation, source=domains.source, warnings=warnings_of(result, config, domains),
        measure=measure, photos=photos, scenes=scenes, scenes_of_target=domains.target is not None,
        legend=legend(domains.source), dense=is_dense(config),
        curves=curves(result, measure), drift=drift_bars(final["drift"]), first=result["evaluations"][0],
        left=left_of_imagenet(result["evaluations"][0], final),
        rounds=adaptation_rounds(result["evaluations"]), settings=settings(config), made_by=made_by,
        ending=ending(config), **{**dict.fromkeys(("rows", "matrix", "pairs", "examples", "answers")), **parts},
    )  # fmt: skip
