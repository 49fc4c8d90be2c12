"""The one training loop: steps, layer-wise rates, evaluations, checkpoints.

It knows nothing of the task (:class:`asg.trainers.task.Task`).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from asg import processes, tracking
from asg.config import RunConfig
from asg.controllers.base import Controller
from asg.data.images import total_steps
from asg.interrupts import Stopped, requests
from asg.trainers.average import Average
from asg.trainers.checkpoints import Progress, load_checkpoint, save_checkpoint
from asg.trainers.divergence import is_finite, raise_diverged
from asg.trainers.optimiser import make_optimiser
from asg.trainers.projection import Projection
from asg.trainers.task import Task

log = logging.getLogger(__name__)

FIRST = 3  # steps whose losses a record keeps, so that they can be repeated
CHECK = 10  # steps between two looks at the loss: each look waits for the device
CHECKPOINT_SECONDS = 120.0  # at most this much work is lost to an interruption


def evaluation_steps(total: int, count: int) -> set[int]:
    """Step 0, then ``count`` evenly spaced steps; the last is ``total``."""
    return {0, *(math.ceil(total * k / count) for k in range(1, count + 1))}


class Training:
    """A training in progress: what a step changes, and how far it has come.

    It goes on from the checkpoint of ``folder``, if there is one. ``stop``: steps of the whole training after which it
    ends, not evaluated there. ``projection`` bounds the weights after each step.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        controller: Controller,
        folder: Path,
        accelerator: Accelerator,
        projection: Projection | None = None,
        stop: int | None = None,
    ) -> None:
        self.config, self.task, self.controller, self.projection = config, task, controller, projection
        self.accelerator, self.folder, self.path = accelerator, folder, folder / "checkpoint.pt"
        self.total = total_steps(config, len(task.images))
        self.end = self.total if stop is None else min(stop, self.total)
        task.network.to(accelerator.device)
        saved = load_checkpoint(self.path, accelerator.device) if processes.once(self.path.exists) else None
        self.progress = Progress(**saved["progress"]) if saved else Progress()

        start = self.progress.step
        sampler = task.batches(len(task.images), config.batch, config.seed, start, self.end)
        pinned = accelerator.device.type == "cuda"  # else there is nothing to copy while the device works
        loader = DataLoader(task.images, batch_sampler=sampler, num_workers=config.workers, pin_memory=pinned)
        network, self.optimiser, self.loader = accelerator.prepare(
            task.network, make_optimiser(config, task.groups), loader
        )
        self.bare = accelerator.unwrap_model(network)
        self.stepped = torch.compile(network) if config.compile else network
        self.average = Average(config, self.bare, self.total)
        parts = {
            "network": self.bare,
            "optimiser": self.optimiser,
            "controller": controller,
            "scaler": accelerator.scaler,
            "average": self.average.model,
            "projection": projection,
        }
        self.parts = {name: part for name, part in parts.items() if part is not None}
        if saved:
            for name, part in self.parts.items():
                part.load_state_dict(saved[name])
            log.info("goes on after step %d of %d", start, self.total)

        window = self.progress.window.items()
        self.sums: dict[str, Tensor] = {k: torch.tensor(v, device=accelerator.device) for k, v in window}
        self.rates: dict[str, float] = {}
        self.losses: dict[str, Tensor] = {}  # of the last step, as are the rates
        self.began, self.last_save = time.monotonic() - self.progress.seconds, time.monotonic()
        self.last_note = time.monotonic(), start

    def step(self, indices: Tensor, x: Tensor, labels: Tensor) -> None:
        """One step on a batch: the controller sets the rate of each layer group before it and is told the losses."""
        step = self.progress.step
        self.rates = self.controller.rates(step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.rates[group["name"]]
        losses = self.task.objective(self.stepped, indices, x, labels, self.controller.weight(step))
        self.optimiser.zero_grad()
        self.accelerator.backward(losses["total"])
        self.optimiser.step()
        if self.projection is not None:
            self.projection.step(step)
        self.average.update(step)
        self.losses = self.accelerator.reduce({name: value.detach() for name, value in losses.items()}, "mean")
        self.controller.observe(step, self.losses)
        if step < FIRST:
            self.progress.first_losses.append({name: float(value) for name, value in self.losses.items()})
        for name, value in self.losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.progress.step += 1
        self.progress.window_steps += 1

    def check(self) -> None:
        """Look at the losses since the last evaluation and at the weights.

        Raises :class:`~asg.trainers.divergence.Diverged` where one is no longer finite.
        """
        self.progress.window = {name: float(value) for name, value in self.sums.items()}
        norms = torch.stack(torch._foreach_norm([p.detach() for p in self.bare.parameters()]))
        if not (is_finite(self.progress.window) and bool(norms.isfinite().all())):
            raise_diverged(self.config, self.progress.step, self.folder)
        self.progress.seconds = time.monotonic() - self.began

    def save(self) -> None:
        """Write a checkpoint, of what :meth:`check` has passed; the main process does."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.path, self.progress, self.parts)
            log.debug("step %d: checkpoint in %s", self.progress.step, self.path)
            self.last_save = time.monotonic()

    def evaluate(self) -> dict:
        """Evaluate the network as it is, or its average, and write a checkpoint."""
        self.check()
        progress, task = self.progress, self.task
        means = {f"train_{name}": value / progress.window_steps for name, value in progress.window.items()}
        measure = task.final if task.final and progress.step == self.total else task.evaluate
        numbers = {"step": progress.step, **means, **measure(self.average.network.eval())}
        self.bare.train()
        numbers = processes.gathered(numbers)[0]  # the last bits may differ between devices, what is decided must not
        if not is_finite(numbers):
            raise_diverged(self.config, progress.step, self.folder)
        progress.evaluations.append(numbers)
        tracking.note(self.accelerator, "evaluation", numbers, progress.step)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items() if isinstance(value, float))
        log.debug("step %d: %s", progress.step, shown)
        self.sums.clear()
        progress.window_steps = 0
        self.check()
        self.save()
        return numbers

    def note(self) -> None:
        """Tell those who watch the run about its last step, and its speed since the last time."""
        now, step, accelerator = time.monotonic(), self.progress.step, self.accelerator
        tracking.note(accelerator, "loss", {name: value.item() for name, value in self.losses.items()}, step)
        tracking.note(accelerator, "rate", self.rates, step)
        then, before = self.last_note
        speed = {"images_per_second": (step - before) * self.config.batch / max(now - then, 1e-9)}
        if accelerator.device.type == "cuda":
            speed["memory_mb"] = torch.cuda.max_memory_allocated(accelerator.device) / 2**20
        tracking.note(accelerator, "speed", speed, step)
        self.last_note = now, step

    def is_asked_to_end(self, asked: Callable[[], bool]) -> bool:
        """Whether a process was ``asked`` to end before the last step; of several ones all must agree on the step."""
        if self.progress.step >= self.end:
            return False
        if processes.count() == 1:
            return asked()
        return self.progress.step % CHECK == 0 and any(processes.gathered(asked()))


def fit(
    training: Training, on_evaluation: Callable[[dict], None] = lambda evaluation: None, known: dict | None = None
) -> Progress:
    """Carry a training out, which trains its task's network in place, and return its evaluations.

    ``known``: the evaluation of the start, where there is one. Several processes share each batch, and gradients are
    averaged over them; every process ends with the same network and evaluations, and the main one alone calls
    ``on_evaluation``. Raises :class:`~asg.trainers.divergence.Diverged` when the loss is no longer finite; the last
    good checkpoint stays. Raises :class:`~asg.interrupts.Stopped` after a checkpoint, where the process was asked to
    end.
    """
    progress, accelerator, main = training.progress, training.accelerator, training.accelerator.is_main_process
    when = evaluation_steps(training.total, training.config.evaluations)

    def evaluate() -> dict:
        evaluation = training.evaluate()
        if main:
            on_evaluation(evaluation)
        return evaluation

    training.bare.train()
    if not progress.evaluations and known:
        progress.evaluations.append({**known, "step": 0})
    elif not progress.evaluations:
        evaluate()
    quiet = {} if main else {"disable": True}  # else $TQDM_DISABLE decides
    bar = tqdm(training.loader, initial=progress.step, total=training.total, unit="step", leave=False, **quiet)
    with requests() as asked:
        for batch in bar:
            training.step(*batch)
            if accelerator.trackers and progress.step % CHECK == 0:
                training.note()
            if progress.step in when:
                numbers = evaluate().items()
                bar.set_postfix({name: f"{value:.3f}" for name, value in numbers if name in ("train_task", "accuracy")})
            elif progress.step % CHECK == 0:
                training.check()
                if time.monotonic() - training.last_save > CHECKPOINT_SECONDS:
                    training.save()
            if training.is_asked_to_end(asked):
                training.check()
                training.save()
                raise Stopped(
                    f"The training was asked to end: the same command goes on after step {progress.step} of "
                    f"{training.total}."
                )
    training.bare.eval()
    training.average.settle()
    return progress
