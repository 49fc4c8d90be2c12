"""WiSE-FT: after a training, the backbone goes part of the way back to its ImageNet weights (Wortsman et al. 2022)."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn

from asg.config import RunConfig
from asg.data.images import total_steps
from asg.trainers.checkpoints import Progress
from asg.trainers.conduct import cpu_threads, result_of
from asg.trainers.devices import make_accelerator
from asg.trainers.divergence import is_finite, raise_diverged
from asg.trainers.task import Task


@torch.no_grad()
def interpolate(network: nn.Module, trained: nn.Module, share: float) -> None:
    r"""Move ``network``, which is at its start, by a share :math:`\alpha` of the way to ``trained``.

    .. math:: \theta = (1 - \alpha)\,\theta_0 + \alpha\,\theta_T

    for every weight of the backbone, bit by bit the one or the other at 0 and 1. The task head, which has no ImageNet
    weights, is the trained one (departure 36).
    """
    trained_weights = dict(trained.named_parameters())
    for name, weight in network.named_parameters():
        end = trained_weights[name].to(weight.device)
        weight.lerp_(end, 1.0 if name.startswith("task_head.") else share)


def train(
    config: RunConfig, prepare: Callable[[RunConfig, Accelerator], Task], trained: nn.Module, device: str | None = None
) -> tuple[dict, nn.Module]:
    """The result and network at ``config.interpolate`` between the start of ``config`` and what it has ``trained``.

    ``prepare`` is that of the task's trainer. The one evaluation is that of a training's end; nothing is trained here.
    """
    with cpu_threads(config.threads):
        accelerator = make_accelerator(config, device)
        began = time.monotonic()
        task = prepare(config, accelerator)
        prepared, began = time.monotonic() - began, time.monotonic()
        interpolate(task.network, trained, config.interpolate)
        steps = total_steps(config, len(task.images))
        numbers = {"step": steps, **(task.final or task.evaluate)(task.network.eval())}
        if not is_finite(numbers):
            raise_diverged(config, steps)
        done = Progress(step=steps, evaluations=[numbers], seconds=time.monotonic() - began)
    return result_of(task, done, accelerator, prepared), task.network
