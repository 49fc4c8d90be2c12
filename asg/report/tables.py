"""Tables of the report: from a confusion matrix, or from answers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from asg.report.warnings import wilson

WHOLE, WORST, PAIRS = 15, 12, 15  # most classes of a whole confusion matrix; else its worst ones, and pairs beside it


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
