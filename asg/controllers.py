"""Who sets the learning rate of each layer group.

A controller is asked before every step and answers with one rate a group; it does no I/O. The
hand-tuned schedule is here; the random and the learned policies of the paper answer to the same
protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Controller(Protocol):
    """What the training loop asks."""

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate of each layer group for ``step`` (0, 1, …)."""
        ...


def schedule(step: int, total: int, warmup: int) -> float:
    r"""The reference's factor on the peak rate at ``step`` of ``total``.

    .. math:: \min(.01 + .99 (t/w)^2, 1) \cdot (1 - \min(t/T, .8))^{.9}

    A quadratic warm-up over ``warmup`` steps (100 in the reference), and a decay that stops at 80 %.
    """
    return min(0.01 + 0.99 * (step / warmup) ** 2, 1.0) * (1 - min(step / total, 0.8)) ** 0.9


@dataclass(frozen=True)
class HandTuned:
    """One peak rate for the head and a fixed share of it for every backbone group."""

    groups: Sequence[str]
    lr: float
    backbone_factor: float
    total: int
    warmup: int

    def rates(self, step: int) -> dict[str, float]:
        """``lr · schedule`` for the group ``head``, ``backbone_factor`` times that for the others."""
        now = self.lr * schedule(step, self.total, self.warmup)
        return {name: now if name == "head" else now * self.backbone_factor for name in self.groups}
