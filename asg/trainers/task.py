"""What a training is given of its task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset

from asg.data.images import StepSampler


@dataclass(frozen=True)
class Task:
    """What is trained on which images, how a step and a network are judged.

    ``objective(network, indices, x, labels, share)`` gives the named losses of a batch, of which ``total`` is
    minimised; ``share`` is that of λ (:meth:`~asg.controllers.base.Controller.weight`). Where several processes share
    a batch, losses are averaged over them, so that an objective that divides by a count of its own part must scale it
    (:func:`asg.processes.share`).
    """

    network: nn.Module
    groups: dict[str, list[nn.Parameter]]
    images: Dataset
    objective: Callable[[nn.Module, Tensor, Tensor, Tensor, float], dict[str, Tensor]]
    evaluate: Callable[[nn.Module], dict]
    held_out: Dataset | None = None  # synthetic, for those that choose by it
    metric: str = "accuracy"  # of the oracle selection
    batches: Callable[[int, int, int, int, int], BatchSampler] = StepSampler  # draws the indices of each step
    bulky: tuple[str, ...] = ()  # what only the last evaluation keeps
    final: Callable[[nn.Module], dict] | None = None  # the last evaluation, where it measures more than the others
