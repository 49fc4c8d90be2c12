"""The rule that chooses among trials by held-out synthetic images (departure 22), which no photograph enters."""

from collections.abc import Mapping, Sequence

import numpy as np

from asg import AsgError


def as_good(trials: Sequence[Sequence[dict]]) -> list[int]:
    r"""Which of several settings are as good as the best, from their trials, on held-out synthetic images alone.

    Those whose mean loss there is at most :math:`\min_k \bar L_k` plus that one's standard error over the designs
    (:func:`asg.metrics.mean_error`). Raises :class:`AsgError` where that error is not defined.
    """
    if any("validation_loss_error" not in r["final"] for records in trials for r in records):
        raise AsgError(
            "Records of these trials have no standard error of the held-out loss, which one held-out design alone "
            "does not give: hold out more designs and run them again."
        )
    losses = [mean_final(records, "validation_loss") for records in trials]
    best = int(np.argmin(losses))
    allowed = losses[best] + mean_final(trials[best], "validation_loss_error")
    return [k for k, loss in enumerate(losses) if loss <= allowed]


def best_kept(trials: Sequence[Sequence[dict]]) -> int:
    """Which of several strengths is chosen from its trials (departure 22).

    Of those that are :func:`as_good`, the one whose divergence from the ImageNet network is smallest on held-out
    synthetic images.
    """
    return min(as_good(trials), key=lambda k: mean_final(trials[k], "kl"))


def shortest(trials: Mapping[tuple[int, float], Sequence[dict]]) -> tuple[int, float]:
    """Length and base rate of plain training, from its trials: (steps, rate) → records (departure 22).

    Of those that are :func:`as_good`, the fewest steps, and then the lowest loss on held-out synthetic images.
    """
    tried = list(trials)
    good = [tried[k] for k in as_good(list(trials.values()))]
    return min(good, key=lambda trial: (trial[0], mean_final(trials[trial], "validation_loss")))


def mean_final(records: Sequence[dict], metric: str) -> float:
    """Mean over runs of a metric of the last evaluation."""
    return float(np.mean([record["final"][metric] for record in records]))
