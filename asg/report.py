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
import torch
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor
from tqdm import tqdm

from asg import AsgError, records
from asg.config import RunConfig
from asg.data.folder import HELD_OUT
from asg.data.images import Domains, ImageSet, total_steps
from asg.dense_metrics import confusion_matrix

TEMPLATE = Path(__file__).with_name("report.html.jinja")
LEVEL = 0.01  # of the test whether held-out images are answered better than by guessing
FEW_HELD_OUT, FEW_PHOTOS = 30, 10  # images; of a class: with 9 of 10 right the 95 % interval spans 40 points
NAMED = 5  # classes that a warning names
WHOLE, WORST, PAIRS = 15, 12, 15  # most classes of a whole confusion matrix; else its worst ones, and pairs beside it
WRONG, UNSURE, RIGHT = 12, 6, 6  # pictures
PICTURE = 160  # pixels of a picture's side, at most
WIDTH = 3.5  # inches of a figure, about a phone's width: letters stay nine points high
SYNTHETIC, REAL = "#0072B2", "#D55E00"  # Okabe and Ito's
LEAST = 1e-6  # top of an axis: a divergence of the start is 0, or rounding on either side of it
STYLE = {
    "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "svg.fonttype": "path", "svg.hashsalt": "asg",
}  # fmt: skip
NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # a date would make every page another one


def write_report(folder: Path, result: dict, config: RunConfig, domains: Domains) -> None:
    """Write ``report.json``, every number, and two pages, ``report.md`` and ``report.html``.

    ``domains``: what was read for the run. A picture whose file is gone by now is left out, its name stays.
    """
    made_by = records.provenance()
    records.write_text(folder / "report.json", json.dumps({**result, **made_by}, indent=1))
    records.write_text(folder / "report.md", markdown(result, config, domains))
    records.write_text(folder / "report.html", page(result, config, domains, made_by))


def ending(config: RunConfig) -> str:
    """Which network a training ends with, in words."""
    network = "an average over the iterates" if config.average else "the last iterate"
    if config.interpolate is None:
        return network
    return f"{network}, its backbone {config.interpolate:.0%} of the way from ImageNet's weights"


def markdown(result: dict, config: RunConfig, domains: Domains) -> str:
    """A page about one run on own folders, as Markdown: what was trained, what it reaches, what it keeps, warnings."""
    first, final = result["evaluations"][0], result["final"]
    names = {
        "validation": "accuracy on held-out source images",
        "accuracy": "accuracy on the target (mean per class)",
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
        rows = (f"| {c.replace('|', chr(92) + '|')} | {a:.3f} |" for c, a in final["per_class"].items())
        lines += ["\n| target class | accuracy |\n|---|---|", *rows]
    lines += [f"\nwarning: {warning}" for warning in warnings_of(result, config, domains)]
    return "\n".join(lines) + "\n"


def percent(share: float) -> str:
    """A share as a person reads it."""
    return f"{share:.1%}"


def is_guessing(accuracy: float, held: ImageSet) -> bool:
    r"""Whether an accuracy (mean per class) on ``held`` is no better than guessing: a one-sided binomial test at 1 %.

    If every answer is right with probability 1/C, the mean of the accuracies of K classes of :math:`n_k` images has
    the variance that the share of right answers has among

    .. math:: N = \frac{K^2}{\sum_k 1 / n_k}

    images: all of them, where classes are equally large. So ``accuracy`` · N right ones of N, rounded both, are
    tested. Where not even N right ones of N would tell, nothing is known: False.
    """
    counts = held.labels.bincount()
    counts = counts[counts > 0].double()
    images = round(float(len(counts) ** 2 / counts.reciprocal().sum()))

    def chance(right: int) -> float:
        return float(binomtest(right, images, 1 / len(held.classes), alternative="greater").pvalue)

    return chance(images) <= LEVEL < chance(round(accuracy * images))


def guessing_line(accuracy: float, held: ImageSet) -> str:
    """What is said of held-out images that are answered no better than by guessing."""
    return (
        f"held-out accuracy is {percent(accuracy)} on {len(held)} images, no better than guessing among "
        f"{len(held.classes)} classes (one-sided binomial test at {LEVEL:.0%})"
    )


def watch(config: RunConfig, domains: Domains, say: Callable[[str], None]) -> Callable[[dict], None]:
    """Told of every evaluation, ``say`` once of one between start and end that is still no better than guessing."""
    last, said = total_steps(config, len(domains.source)), False

    def on_evaluation(evaluation: dict) -> None:
        nonlocal said
        accuracy, held = evaluation["validation"], domains.validation
        if said or not 0 < evaluation["step"] < last or not is_guessing(accuracy, held):
            return
        said = True
        with tqdm.external_write_mode():  # else the line begins where the progress bar ends
            say(
                f"early warning: at step {evaluation['step']} of {last} {guessing_line(accuracy, held)}: if the next "
                f"evaluation is no better, stop, look at the class folders, and raise lr ({config.lr:g})."
            )

    return on_evaluation


def wilson(right: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``images``."""
    interval = binomtest(right, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def labelled_target(result: dict, domains: Domains) -> ImageSet | None:
    """The target, where there is one and the result holds an answer for each of its images."""
    return domains.target if "predicted" in result["final"] else None


def warnings_of(result: dict, config: RunConfig, domains: Domains) -> list[str]:
    """What a reader of a report must know before its numbers: a sentence each, with what to do."""
    final, held = result["final"], domains.validation
    lines = []
    if is_guessing(final["validation"], held):
        remedy = f"look at the class folders, then train longer (steps > {result['steps']}) or with a higher lr"
        if config.adapt:
            remedy = "adapt a model that has learned its renders"
        line = guessing_line(final["validation"], held)
        lines.append(f"{line[0].upper()}{line[1:]}: {remedy}.")
    if len(held) < FEW_HELD_OUT:
        lines.append(
            f"Only {len(held)} synthetic images are held out, so their accuracy is coarse: give more renders, of which "
            f"every {HELD_OUT}th is held out."
        )
    if (target := labelled_target(result, domains)) is not None:
        lines += [*fall(result, target), *few(target)]
        answered = set(final["predicted"])
        if len(answered) == 1 and len(target.labels.unique()) > 1:
            lines.append(
                f"Every target image is answered {target.classes[answered.pop()]!r}: the model does not tell them "
                "apart, so train it longer, or give renders that look more like the photos."
            )
    return lines


def fall(result: dict, target: ImageSet) -> list[str]:
    """A warning if an earlier evaluation of the target was better by more than the last one's 95 % interval."""
    final = result["final"]
    best = max(result["evaluations"][:-1], key=lambda e: e["overall"], default=final)
    if best["overall"] <= wilson(round(final["overall"] * len(target)), len(target))[1]:
        return []
    return [
        f"Of the target images {percent(final['overall'])} are right, and {percent(best['overall'])} were at step "
        f"{best['step']}: choosing a step by them would be an oracle, so try more guidance or a lower lr and judge "
        "by other photos."
    ]


def few(target: ImageSet) -> list[str]:
    """A warning if a class has few target images."""
    counts = target.labels.bincount(minlength=len(target.classes)).tolist()
    rare = [f"{name} ({n})" for name, n in zip(target.classes, counts, strict=True) if n < FEW_PHOTOS]
    if not rare:
        return []
    more = f" and {len(rare) - NAMED} more" if len(rare) > NAMED else ""
    return [
        f"Fewer than {FEW_PHOTOS} target images show {', '.join(rare[:NAMED])}{more}: read the accuracy of such a "
        "class with its interval, or add photos."
    ]


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
    """A confusion matrix to show: names of rows and columns, and its cells; ``whole``: of all classes."""

    rows: list[tuple[str, list[Cell]]]
    columns: list[str]
    whole: bool


def shown_matrix(confusion: Tensor, classes: Sequence[str]) -> Matrix:
    """The whole matrix ``(C, C)`` of up to WHOLE classes; of more, the classes with the most wrong answers.

    Their answers of other classes are one column. A class without images is a column alone.
    """
    images = confusion.sum(1)
    chosen, whole = list(range(len(classes))), len(classes) <= WHOLE
    if not whole:
        wrong = images - confusion.diagonal()
        chosen = sorted(wrong.sort(descending=True, stable=True).indices[:WORST].tolist())
    columns = [classes[k] for k in chosen] + ([] if whole else ["another class"])
    rows = []
    for k in chosen:
        if not images[k]:
            continue
        counts = confusion[k, chosen].tolist()
        counts += [] if whole else [int(images[k]) - sum(counts)]
        cells = [Cell(n, n / int(images[k]), j < len(chosen) and chosen[j] == k) for j, n in enumerate(counts)]
        rows.append((classes[k], cells))
    return Matrix(rows, columns, whole)


@dataclass(frozen=True)
class Example:
    """A target image with its class, the model's answer, how sure it is, and its file; ``picture`` None: it is gone."""

    picture: str | None
    truth: str
    answer: str
    confidence: float
    file: str


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

    def shown(i: int) -> Example:
        truth, answer = target.classes[labels[i]], target.classes[predicted[i]]
        return Example(picture(target, i), truth, answer, confidence[i], below(target.names[i], root))

    groups = {"Wrong, the surest first": wrong, "Least sure": unsure, "Right": right}
    return {title: [shown(i) for i in chosen] for title, chosen in groups.items() if chosen}


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
    file = io.BytesIO()
    image.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


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


def curves(result: dict) -> list[Drawing]:
    """Accuracies, agreement and divergence over the steps, each if it was measured; which images, in the legend."""
    held, target = ("held-out images (synthetic)", SYNTHETIC), ("target images (real)", REAL)
    panels = {
        "Accuracy, %": ({"validation": held, "accuracy": target}, 100.0),
        "Agreement with the ImageNet network, %": ({"agreement": target}, 100.0),
        "Divergence from the ImageNet network (KL), nats": ({"kl": held}, 1.0),
    }
    drawn = []
    for k, (title, (lines, scale)) in enumerate(panels.items()):
        if measured := {field: look for field, look in lines.items() if field in result["final"]}:
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
        (name, shown(first[field]) if field in first else None, shown(final[field]))
        for field, (name, shown) in names.items()
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


def page(result: dict, config: RunConfig, domains: Domains, made_by: dict) -> str:
    """The HTML page of one run; ``made_by``: :func:`asg.records.provenance`. Every text in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True, finalize=readable, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = percent
    final, target = result["final"], labelled_target(result, domains)
    parts: dict[str, object] = {}
    if target is not None:
        confusion = confusion_matrix(torch.tensor(final["predicted"]), target.labels, len(target.classes))
        parts = {
            "rows": class_rows(confusion, target.classes),
            "matrix": shown_matrix(confusion, target.classes),
            "pairs": confused_pairs(confusion, target.classes),
            "examples": examples(final, target, config.target),
        }
    return environment.from_string(TEMPLATE.read_text("utf-8")).render(
        result=result, config=config, first=result["evaluations"][0], final=final, target=target,
        held=domains.validation, source=domains.source, warnings=warnings_of(result, config, domains),
        curves=curves(result), drift=drift_bars(final["drift"]), left=left_of_imagenet(result["evaluations"][0], final),
        rounds=adaptation_rounds(result["evaluations"]), settings=settings(config), made_by=made_by,
        ending=ending(config), **{"rows": None, "matrix": None, "pairs": None, "examples": None, **parts},
    )  # fmt: skip
