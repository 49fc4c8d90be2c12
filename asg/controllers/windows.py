"""Rates that are decided once a window of steps, from statistics averaged over the window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from asg import AsgError, places
from asg.config import STATISTICS, RunConfig
from asg.controllers.base import Controller
from asg.controllers.hand_tuned import schedule
from asg.data.images import total_steps

GUIDANCE = "guidance"  # what a decision about λ is named among the layer groups


def partition(groups: Sequence[str], parts: int) -> list[list[str]]:
    """Layer groups, input to output, in ``parts`` consecutive parts; the head, last, is a part of its own.

    The backbone's groups are shared out as evenly as their number allows, earlier parts taking
    one more; 1 is one rate for all. A ResNet in 7 parts is the paper's (departure 16).
    """
    if not 1 <= parts <= len(groups):
        raise AsgError(
            f"The policy sets {parts} rates and this backbone has {len(groups)} layer groups ({', '.join(groups)}): "
            "choose a policy of fewer groups, or another backbone."
        )
    if parts == 1:
        return [list(groups)]
    *backbone, head = groups
    each, more = divmod(len(backbone), parts - 1)
    ends = [each * k + min(k, more) for k in range(parts)]
    return [*(backbone[a:b] for a, b in pairwise(ends)), [head]]


def policy_path(name: str | None, suffix: str = ".safetensors") -> Path:
    """The file of a policy: as given, or by its name in the folder of policies (:func:`asg.places.policies`)."""
    if name is None:
        raise AsgError("This control needs its policy: a name in policies/, or a file.")
    if name.endswith(suffix):
        return Path(name)
    return places.policies() / f"{name}{suffix}"


def next_window(rule: str, shortest: int, current: int, former: int, epoch: int) -> int:
    r"""Steps until the next decision: ``current`` steps into an epoch of ``epoch``, ``former`` in all epochs before.

    .. math:: \min\big(\max(m, c + \lfloor f/20 \rfloor),\ e - c\big)

    as the reference computes it (``written``): windows double within an epoch and are longer in later ones. With
    ``divided`` the growth is :math:`\lfloor (c + f)/20 \rfloor`, as it perhaps means (departure 14).
    """
    growth = current + former // 20 if rule == "written" else (current + former) // 20
    return min(max(shortest, growth), epoch - current)


def epoch_of(config: RunConfig, images: int) -> int:
    """Steps after which a window ends in any case: those that the control says, or of a pass over ``images``."""
    return config.control.epoch or max(1, images // config.batch)


def first_window(config: RunConfig, images: int) -> int:
    """Steps before the first decision."""
    return min(config.control.shortest, epoch_of(config, images))


class Windowed(Controller):
    r"""Rate of every layer group: :math:`\eta \cdot a`, with a ratio :math:`a` that :meth:`decide` sets.

    Where ``config.weigh`` is ``policy`` there is one more ratio, the last: of λ (departure 41).

    As in the reference the first window, of the shortest length, is trained at ratio 1, and its statistics are the
    first that a decision sees. No warm-up and no decay, as in its classification, unless ``schedule`` asks for the
    hand-tuned factor (departure 18).
    """

    def __init__(self, config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int, parts: int) -> None:
        self.config, self.control = config, config.control
        self.weighs = config.weigh == "policy"
        self.parts = partition(list(groups), parts - self.weighs)
        self.total = total_steps(config, images)
        self.epoch = epoch_of(config, images)
        self.last = next(p for p in reversed(groups["head"]) if p.dim() > 1)  # weight of the last layer, (C, D, …)
        self.sums, self.count = torch.zeros(len(STATISTICS), device=self.last.device), 0
        self.ratios = [1.0] * parts
        self.window = first_window(config, images)
        self.decisions: list[dict] = []

    def decide(self, state: Tensor) -> list[float]:
        """Ratio of each part, and of λ where it is weighed, for the coming window.

        ``state`` ``(5,)``: :data:`STATISTICS` of the last one.
        """
        raise NotImplementedError

    def rates(self, step: int) -> dict[str, float]:
        """The rates in force at ``step``."""
        factor = schedule(step, self.total, self.config.warmup) if self.control.schedule else 1.0
        base = self.config.lr * factor
        ratios = self.ratios[:-1] if self.weighs else self.ratios
        return {name: base * ratio for part, ratio in zip(self.parts, ratios, strict=True) for name in part}

    def weight(self, step: int) -> float:
        """The last ratio, where the decisions are also about λ (``config.weigh``); else 1."""
        return self.ratios[-1] if self.weighs else 1.0

    def observe(self, step: int, losses: dict[str, Tensor]) -> None:
        """Add ``step`` to the window: losses, progress, mean and standard deviation of the last layer's weights.

        Where that ends the window, the ratios of the next one are decided, unless the training is over.
        """
        std, mean = torch.std_mean(self.last.detach())
        guidance = losses.get("guidance", torch.zeros_like(mean))
        progress = torch.full_like(mean, step / self.total)
        self.sums = self.sums + torch.stack([losses["task"], guidance, progress, mean, std])  # no wait for the device
        self.count += 1
        if self.count == self.window and step + 1 < self.total:
            self.turn(step + 1)

    def turn(self, step: int) -> None:
        """Decide from the window that is over, and begin the next one with ``step``."""
        state = self.state()
        if bool(state.isfinite().all()):  # else the loop is about to say that the run diverged
            self.ratios = self.decide(state)
        self.decisions.append({"step": step, "ratios": [round(r, 4) for r in self.ratios]})
        current = step % self.epoch
        self.window = next_window(self.control.window, self.control.shortest, current, step - current, self.epoch)
        self.sums, self.count = torch.zeros_like(self.sums), 0

    def state(self) -> Tensor:
        """:data:`STATISTICS` ``(5,)``, each averaged over the steps of the window so far, on the CPU (departure 17)."""
        return (self.sums / self.count).cpu()

    def state_dict(self) -> dict:
        """The window so far and the decisions."""
        return {name: getattr(self, name) for name in ("sums", "count", "ratios", "window", "decisions")}

    def load_state_dict(self, state: dict) -> None:
        """Go on within the window."""
        for name, value in state.items():
            setattr(self, name, value.to(self.last.device) if name == "sums" else value)

    def report(self) -> dict:
        """The parts, and every decision with its step."""
        parts = ["+".join(part) for part in self.parts] + [GUIDANCE] * self.weighs
        return {"parts": parts, "decisions": self.decisions}
