"""What a reader of a report must know before its numbers, and what is said of a training while it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import binomtest

from asg.config import RunConfig
from asg.data.folder import HELD_OUT
from asg.data.images import UNLABELLED, Domains, ImageSet, total_steps
from asg.data.segmentation import SegmentationDomains, SegmentationSet

log = logging.getLogger(__name__)

LEVEL = 0.01  # of the test whether held-out images are answered better than by guessing
FEW_HELD_OUT, FEW_PHOTOS = 30, 10  # images; of a class: with 9 of 10 right the 95 % interval spans 40 points
NAMED = 5  # classes that a warning names


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


def one_class_miou(held: SegmentationSet) -> float:
    r"""The most that an answer of one class everywhere reaches on ``held``.

    .. math:: \frac{1}{C'} \max_k \frac{n_k}{\sum_j n_j}

    with :math:`n_k` pixels of class k and C′ classes that occur: the IoU of the class answered is its share, that of
    every other class is 0.
    """
    counts = torch.zeros(len(held.classes), dtype=torch.long)
    for i in range(len(held)):
        labels = torch.from_numpy(held.decode(i)[1].astype(np.int64))
        counts += labels[labels != UNLABELLED].bincount(minlength=len(held.classes))
    return float(counts.max() / counts.sum().clamp_min(1) / (counts > 0).sum().clamp_min(1))


def one_class_line(miou: float, held: SegmentationSet) -> str | None:
    """What is said of held-out scenes that are answered no better than by one class everywhere; None: they are."""
    if miou > (most := one_class_miou(held)):
        return None
    return (
        f"held-out mIoU is {percent(miou)} on {len(held)} images, no better than one class everywhere ({percent(most)})"
    )


def at_chance(value: float, held: ImageSet | SegmentationSet) -> str | None:
    """What is said of held-out images that are answered as if nothing were learned; None where something is."""
    if isinstance(held, SegmentationSet):
        return one_class_line(value, held)
    return guessing_line(value, held) if is_guessing(value, held) else None


def watch(config: RunConfig, domains: Domains | SegmentationDomains) -> Callable[[dict], None]:
    """Told of every evaluation, warn once of one between start and end that is still :func:`at_chance`."""
    last, warned = total_steps(config, len(domains.source)), False

    def on_evaluation(evaluation: dict) -> None:
        nonlocal warned
        if warned or not 0 < evaluation["step"] < last:
            return
        if (line := at_chance(evaluation["validation"], domains.validation)) is None:
            return
        warned = True
        log.warning(
            f"early warning: at step {evaluation['step']} of {last} {line}: if the next evaluation is no better, "
            f"stop, look at the source, and raise lr ({config.lr:g})."
        )

    return on_evaluation


def wilson(right: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of ``images``."""
    interval = binomtest(right, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def labelled_target(result: dict, domains: Domains | SegmentationDomains) -> ImageSet | None:
    """The target, where it has labels and the result holds an answer for each of its images."""
    return domains.target if {"predicted", "accuracy"} <= result["final"].keys() else None


def unlabelled_target(result: dict, domains: Domains | SegmentationDomains) -> ImageSet | None:
    """The target, where it has no labels and the result holds an answer for each of its images."""
    return domains.target if "predicted" in result["final"] and "accuracy" not in result["final"] else None


def warnings_of(result: dict, config: RunConfig, domains: Domains | SegmentationDomains) -> list[str]:
    """What a reader of a report must know before its numbers: a sentence each, with what to do."""
    final, held = result["final"], domains.validation
    lines = []
    if (line := at_chance(final["validation"], held)) is not None:
        remedy = f"look at the source, then train longer (steps > {result['steps']}) or with a higher lr"
        if config.adapt:
            remedy = "adapt a model that has learned its renders"
        lines.append(f"{line[0].upper()}{line[1:]}: {remedy}.")
    if len(held) < FEW_HELD_OUT:
        lines.append(
            f"Only {len(held)} synthetic images are held out, so their numbers are coarse: give more renders, of which "
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
