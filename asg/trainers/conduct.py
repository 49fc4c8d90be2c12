"""One run of a task: from its configuration to its result."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from asg import tracking
from asg.config import RunConfig
from asg.controllers import make_controller, rate_groups
from asg.trainers.checkpoints import Progress
from asg.trainers.devices import make_accelerator
from asg.trainers.loop import Training, fit
from asg.trainers.projection import make_projection
from asg.trainers.task import Task


@contextmanager
def cpu_threads(count: int):
    """``count`` threads within, the former number after; 0 changes nothing."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def conduct(
    config: RunConfig,
    folder: Path,
    device: str | None,
    prepare: Callable[[RunConfig, Accelerator], Task],
    on_evaluation: Callable[[dict], None],
    stop: int | None = None,
    known: dict | None = None,
) -> tuple[dict, nn.Module]:
    """One run in ``folder`` (resumed if it holds a checkpoint): its result and the trained network.

    The result holds every evaluation, the final one, and beside it the one that is best on the
    target photos (None without photos), which is an oracle selection and named so (``selection``;
    departure 1). ``first_losses`` are those of the first steps, one by one. ``peak_memory_mb`` is the device's during
    the run, on a CPU the process's so far. With ``stop`` the run ends after that many steps. ``known``: the evaluation
    of its start, if it was made before.
    """
    with cpu_threads(config.threads):
        accelerator = make_accelerator(config, device)
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        began = time.monotonic()
        task = prepare(config, accelerator)
        prepared = time.monotonic() - began
        groups = rate_groups(config, task.network, task.groups)
        controller = make_controller(config, groups, len(task.images))
        projection = make_projection(config, task.network, task.images, task.held_out)
        tracking.begin(accelerator, config)
        try:
            task = replace(task, groups=groups)
            done = fit(Training(config, task, controller, folder, accelerator, projection, stop), on_evaluation, known)
        finally:
            tracking.end(accelerator)
    return {**result_of(task, done, accelerator, prepared), **controller.report()}, task.network


def result_of(task: Task, done: Progress, accelerator: Accelerator, prepared: float) -> dict:
    """What a record says of a run that is ``done``, after ``prepared`` seconds of preparation."""
    for evaluation in done.evaluations[:-1]:
        for name in task.bulky:
            evaluation.pop(name, None)
    on_cuda = accelerator.device.type == "cuda"
    seen = [e for e in done.evaluations[1:] or done.evaluations if task.metric in e]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    peak = torch.cuda.max_memory_allocated(accelerator.device) / 2**20 if on_cuda else kilobytes / 1024
    return {
        "first_losses": done.first_losses,
        "evaluations": done.evaluations,
        "final": done.evaluations[-1],
        "selection": "last iterate; best_on_target is an oracle selection on the photos",
        "best_on_target": max(seen, key=lambda e: e[task.metric], default=None),
        "steps": done.step,
        "seconds": round(done.seconds, 1),
        "seconds_preparing": round(prepared, 1),
        "peak_memory_mb": round(peak),
        "device": torch.cuda.get_device_name(accelerator.device) if on_cuda else accelerator.device.type,
        "processes": accelerator.num_processes,
    }
