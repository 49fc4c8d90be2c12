"""The hand-tuned schedule: one peak rate, a fixed share of it for the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from asg.config import RunConfig
from asg.controllers.base import Controller
from asg.data.images import total_steps


def schedule(step: int, total: int, warmup: int) -> float:
    r"""The reference's factor on the peak rate at ``step`` of ``total``.

    .. math:: \min(.01 + .99 (t/w)^2, 1) \cdot (1 - \min(t/T, .8))^{.9}

    A quadratic warm-up over ``warmup`` steps (100 in the reference), and a decay that stops at 80 %.
    """
    return min(0.01 + 0.99 * (step / warmup) ** 2, 1.0) * (1 - min(step / total, 0.8)) ** 0.9


@dataclass(frozen=True)
class HandTuned(Controller):
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


@dataclass(frozen=True)
class HeadFirst(Controller):
    """LP-FT (Kumar et al. 2022): the head alone, then everything at the backbone's rate, each with its own schedule.

    ``probing`` steps at ``lr`` for the head and 0 for the backbone; then ``backbone_factor`` times ``lr`` for all.
    Together they are as many steps as any other run has (departure 34).
    """

    groups: Sequence[str]
    lr: float
    backbone_factor: float
    probing: int
    total: int
    warmup: int

    def rates(self, step: int) -> dict[str, float]:
        """Rate of each group; ``warmup`` is that of the whole, of which each part has its share."""
        first, begun = step < self.probing, 0 if step < self.probing else self.probing
        length = self.probing if first else self.total - self.probing
        factor = schedule(step - begun, length, max(1, round(self.warmup * length / self.total)))
        if first:
            return {name: self.lr * factor * (name == "head") for name in self.groups}
        return dict.fromkeys(self.groups, self.lr * self.backbone_factor * factor)


def make(config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int) -> HandTuned | HeadFirst:
    """The hand-tuned controller of a run over ``images`` training images."""
    total = total_steps(config, images)
    if config.head_first:
        probing = round(config.head_first * total)
        return HeadFirst(tuple(groups), config.lr, config.backbone_factor, probing, total, config.warmup)
    return HandTuned(tuple(groups), config.lr, config.backbone_factor, total, config.warmup)
