"""Short trainings on the synthetic side, by which a policy is trained and ratios are searched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from asg import AsgError
from asg.config import MetaConfig, RunConfig
from asg.controllers.base import Controller
from asg.controllers.windows import Windowed, first_window
from asg.data import load_domains
from asg.data.images import ImageSet, make_folder, total_steps
from asg.losses import proxy_guidance, task_loss
from asg.metrics import forward_all
from asg.models import Student, build, layer_groups
from asg.rewards import HELD_OUT
from asg.trainers import frozen
from asg.trainers.classification import make_objective
from asg.trainers.devices import make_accelerator
from asg.trainers.divergence import Diverged
from asg.trainers.loop import Training, fit
from asg.trainers.task import Task


def episode_seed(meta: MetaConfig, number: int) -> int:
    """The seed of everything random in one episode of a meta-training or search: its head, its images, its choices."""
    return meta.seed * 1_000_003 + number


class Probe:
    """Losses of a network in training on held-out renders, in nats; the latest are kept in ``last``."""

    def __init__(self, student: Student, held: ImageSet, teacher: Tensor, device: torch.device) -> None:
        self.student, self.held, self.teacher, self.device = student, held, teacher, device
        self.last: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        """Task loss and divergence from the ImageNet network, now."""
        task, imagenet, _ = forward_all(self.student, self.held, frozen.evaluation_batch(self.device), self.device)
        guidance = proxy_guidance(imagenet, self.teacher)
        self.last = {"held_task": float(task_loss(task, self.held.labels)), "held_guidance": float(guidance)}
        return self.last


class Episodes:
    """Short student trainings on the synthetic side; data, teacher's outputs and weights are prepared once.

    Every episode starts at the ImageNet weights with another head and another order of the images. ``looked_at`` makes
    of the held-out images what the probe sees of them (HELD_OUT).
    """

    def __init__(
        self,
        student: RunConfig,
        folder: Path,
        device: str | None,
        looked_at: Callable[[ImageSet], ImageSet] = HELD_OUT["held-out"],
    ) -> None:
        self.student, self.folder = student, make_folder(folder) / "episode"
        self.accelerator = make_accelerator(student, device)
        self.device, self.domains = self.accelerator.device, load_domains(student)
        self.held = looked_at(self.domains.validation)
        first = build(student, len(self.domains.source.classes)).to(self.device)
        self.held_teacher = frozen.log_probabilities(first, self.held, self.device)
        self.teacher = None
        for name in ("augment", "regulariser", "head_first", "project", "average", "interpolate"):
            if getattr(student, name) is not None:
                raise AsgError(f"Episodes know neither {name} nor its like: leave it out of the student's settings.")
        steps = total_steps(student, images := len(self.domains.source))
        if student.control and steps <= (window := first_window(student, images)):
            raise AsgError(
                f"An episode of {steps} steps is over before its first decision, after {window}: give the student more "
                "steps, or its control a lower shortest."
            )
        if student.guidance:
            self.teacher = frozen.batch_answers(first, self.domains.source, self.device, student.teacher)

    def run(self, seed: int, make: Callable[[RunConfig, dict, Probe], Controller]) -> tuple[Controller, dict]:
        """One episode: its controller, made by ``make(config, groups, probe)``, and how it ended.

        The end: what the probe found after the last step (None when the episode diverged).
        """
        config = self.student.model_copy(update={"seed": seed})
        student = build(config, len(self.domains.source.classes)).to(self.device)
        groups, probe = layer_groups(student), Probe(student, self.held, self.held_teacher, self.device)
        controller = make(config, groups, probe)
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            objective = make_objective(config, self.teacher)
            task = Task(student, groups, self.domains.source, objective, lambda now: probe())
            fit(Training(config, task, controller, make_folder(self.folder), self.accelerator))
            end = probe.last
        except Diverged:
            end = {"held_task": None, "held_guidance": None}
        self.accelerator.free_memory()  # else it holds on to the network of every episode
        shutil.rmtree(self.folder, ignore_errors=True)
        return controller, end


def mean_ratios(controller: Windowed) -> dict[str, float]:
    """Part of the network → mean ratio over the decisions of an episode; nothing where it diverged before the first."""
    report = controller.report()
    if not report["decisions"]:
        return {}
    columns = zip(*(decision["ratios"] for decision in report["decisions"]), strict=True)
    return {part: round(fmean(column), 4) for part, column in zip(report["parts"], columns, strict=True)}
