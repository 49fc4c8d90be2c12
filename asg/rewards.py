"""What a decision of the policy is paid for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from asg.data.images import ImageSet
from asg.data.looks import mixed_looks


@dataclass(frozen=True)
class Window:
    """What a reward is made of: mean losses of the window, and losses on held-out renders at its end (nats)."""

    task: float
    guidance: float
    held_task: float = math.nan
    held_guidance: float = math.nan

    def loss(self, weight: float) -> float:
        """Task loss + ``weight`` · divergence from the ImageNet network, in training."""
        return self.task + weight * self.guidance

    def held_out(self, weight: float) -> float:
        """The same on held-out renders."""
        return self.held_task + weight * self.held_guidance


# Name → reward of a window, given the one before and λ; the paper's is unknown (departure 13).
REWARDS: dict[str, Callable[[Window, Window, float], float]] = {
    "loss": lambda now, before, weight: -now.loss(weight),
    "improvement": lambda now, before, weight: before.loss(weight) - now.loss(weight),
    "held-out": lambda now, before, weight: before.held_out(weight) - now.held_out(weight),
    "retention": lambda now, before, weight: before.held_out(1.0) - now.held_out(1.0),
    "looks": lambda now, before, weight: before.held_out(weight) - now.held_out(weight),
}


# Rewards that look at held-out images where a window ends, and how these look then.
HELD_OUT: dict[str, Callable[[ImageSet], ImageSet]] = {
    "held-out": lambda held: held,
    "retention": lambda held: held,
    "looks": mixed_looks,
}
