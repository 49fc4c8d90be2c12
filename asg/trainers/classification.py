"""Train a classifier on synthetic images, with or without proxy guidance, and measure what it keeps."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asg import AsgError
from asg.config import RunConfig
from asg.controllers import make_controller
from asg.data import load_domains
from asg.data.images import Domains
from asg.losses import proxy_guidance, task_loss
from asg.metrics import class_map, evaluate_photos, forward_all, hyperspherical_energy, linear_cka, mean_per_class
from asg.models import Student, build, drift, layer_groups
from asg.trainers import frozen
from asg.trainers.loop import fit, make_accelerator
from asg.trainers.regularisers import Penalty, make_penalty

IMAGENET_CLASSES = 1000


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


def make_objective(
    config: RunConfig, teacher: Tensor | None, penalty: Penalty | None = None
) -> Callable[..., dict[str, Tensor]]:
    r"""``L = L_task + λ · KL(old ‖ new) + penalty`` of one batch; a term that is not asked for is left out."""

    def objective(network: nn.Module, indices: Tensor, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits, imagenet_logits, features = network(x)
        losses = {"task": task_loss(logits, labels)}
        total = losses["task"]
        if teacher is not None:
            losses["guidance"] = proxy_guidance(imagenet_logits, teacher[indices])
            total = total + config.guidance * losses["guidance"]
        if penalty is not None:
            losses["penalty"] = penalty(indices, features)
            total = total + losses["penalty"]
        return {"total": total, **losses}

    return objective


def make_evaluation(
    student: Student, domains: Domains, config: RunConfig, device: torch.device
) -> Callable[[Student], dict]:
    """A function of the student: every number of an evaluation, on held-out renders and on photos.

    ``kl`` is the divergence from the ImageNet network on held-out synthetic images, in nats;
    ``validation`` the accuracy there, ``validation_loss`` the task loss with its standard error over
    the images; ``drift`` the relative distance of each layer group from its ImageNet weights; the
    numbers on photos are those of :func:`asg.metrics.evaluate_photos`, the energy of their features
    at three powers (``hse0`` …) and the features' likeness to the ImageNet network's (``cka``).
    """
    mapping = None
    if domains.imagenet_classes is not None:
        if student.kept_head.out_features != IMAGENET_CLASSES:
            raise AsgError(
                f"{config.backbone} has {student.kept_head.out_features} classes, and the benchmark's class mapping is "
                f"of ImageNet's {IMAGENET_CLASSES}: choose a backbone with an ImageNet-1k classifier."
            )
        mapping = class_map(domains.imagenet_classes, domains.source.classes, student.kept_head.out_features)
    held, photos = domains.validation, domains.target
    held_teacher = frozen.log_probabilities(student, held, device)
    if photos is not None:
        photo_teacher = frozen.log_probabilities(student, photos, device)
        photo_features = frozen.features(student, photos, device)
    start = {k: [p.detach().clone() for p in v] for k, v in layer_groups(student).items() if k != "head"}

    def evaluate(now: Student) -> dict:
        task, imagenet, _ = forward_all(now, held, frozen.EVALUATION_BATCH, device)
        losses = F.cross_entropy(task, held.labels, reduction="none")  # (N,)
        numbers = {
            "validation": mean_per_class(task.argmax(1), held.labels, len(held.classes)),
            "validation_loss": float(losses.mean()),
            "validation_loss_error": float(losses.std() / len(losses) ** 0.5),
            "kl": float(proxy_guidance(imagenet, held_teacher)),
            "drift": drift(now, start),
        }
        if photos is not None:
            *plain, features = forward_all(now, photos, frozen.EVALUATION_BATCH, device)
            mirrored = plain
            if domains.mirror:
                *mirrored, _ = forward_all(now, photos, frozen.EVALUATION_BATCH, device, mirror=True)
            numbers |= evaluate_photos(plain, mirrored, photos, photo_teacher, mapping)
            numbers |= {f"hse{power}": hyperspherical_energy(features, power) for power in (0, 1, 2)}
            numbers["cka"] = linear_cka(features, photo_features)
        return numbers

    return evaluate


def train(
    config: RunConfig,
    folder: Path,
    device: str | None = None,
    on_evaluation: Callable[[dict], None] = lambda evaluation: None,
) -> tuple[dict, Student]:
    """One run in ``folder`` (resumed if it holds a checkpoint): its result and the trained student.

    The result holds every evaluation, the final one, and beside it the one that is best on the
    target photos (None without photos), which is an oracle selection and named so (``selection``;
    departure 1). ``peak_memory_mb`` is the device's during the run, on a CPU the process's so far.
    """
    with cpu_threads(config.threads):
        accelerator = make_accelerator(config, device)
        if accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        domains = load_domains(config)
        student = build(config, len(domains.source.classes)).to(accelerator.device)
        groups = layer_groups(student)
        began = time.monotonic()
        with accelerator.main_process_first():
            evaluate = make_evaluation(student, domains, config, accelerator.device)
            teacher = None
            if config.guidance:
                teacher = frozen.log_probabilities(student, domains.source, accelerator.device)
                teacher = teacher.to(accelerator.device)  # indexed there: no step waits for the host
            penalty = make_penalty(config, student, domains.source, accelerator.device)
        prepared = time.monotonic() - began
        controller = make_controller(config, groups, len(domains.source))
        done = fit(
            config, student, groups, domains.source, make_objective(config, teacher, penalty), evaluate, controller,
            folder, accelerator, on_evaluation,
        )  # fmt: skip
    for evaluation in done.evaluations[:-1]:  # photo by photo only once
        evaluation.pop("predicted", None), evaluation.pop("confidence", None)
    on_cuda = accelerator.device.type == "cuda"
    seen = [e for e in done.evaluations[1:] or done.evaluations if "accuracy" in e]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    result = {
        "evaluations": done.evaluations,
        "final": done.evaluations[-1],
        "selection": "last iterate; best_on_target is an oracle selection on the photos",
        "best_on_target": max(seen, key=lambda e: e["accuracy"], default=None),
        "steps": done.step,
        "seconds": round(done.seconds, 1),
        "seconds_preparing": round(prepared, 1),
        "peak_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20 if on_cuda else kilobytes / 1024),
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "processes": accelerator.num_processes,
        **controller.report(),
    }
    return result, student
