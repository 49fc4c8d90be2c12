"""Train a classifier on synthetic images, with or without proxy guidance, and measure what it keeps."""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asg import AsgError
from asg.config import RunConfig
from asg.controllers import make_controller
from asg.data import cache_root, load_domains
from asg.data.images import Domains, ImageSet, make_folder
from asg.losses import proxy_guidance, task_loss
from asg.metrics import class_map, evaluate_photos, forward_all, mean_per_class
from asg.models import Student, build, drift, layer_groups
from asg.trainers.loop import fit, make_accelerator

EVALUATION_BATCH = 64
IMAGENET_CLASSES = 1000


def teacher_log_probabilities(student: Student, images: ImageSet, config: RunConfig, device: torch.device) -> Tensor:
    """Log-softmax ``(N, K)`` of the ImageNet network on ``images``, computed once and kept on disk.

    ASG feeds its network without augmentation, so the teacher's outputs are constants of the images
    and the weights (departure 3). ``student`` must still be at its start. The file is named by both,
    and by the device and its threads, since the last bit depends on how the sums are split.
    """
    split = f"cpu{torch.get_num_threads()}" if device.type == "cpu" else device.type
    path = cache_root() / "teacher" / f"{images.fingerprint}-{fingerprint(student)}-{split}.npy"
    if not path.exists():
        make_folder(path.parent)
        (logits,) = forward_all(lambda x: (student.imagenet_logits(x),), images, EVALUATION_BATCH, device)
        partial = path.with_suffix(f".{os.getpid()}.npy")
        try:
            np.save(partial, logits.log_softmax(1).numpy())
            partial.replace(path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise AsgError(
                f"The teacher's outputs cannot be kept in {path.parent} ({error}): free some space."
            ) from None
    try:
        return torch.from_numpy(np.load(path))
    except (OSError, ValueError, EOFError) as error:
        raise AsgError(f"{path} is damaged ({error}): remove it, and it is computed again.") from None


def fingerprint(student: Student) -> str:
    """Hash (12 hex digits) of the backbone and kept head, to name what was computed with them."""
    digest = hashlib.sha256()
    for part in (student.backbone, student.kept_head):
        for value in part.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
    for value in (student.mean, student.std):  # the same weights may stand behind another normalisation
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


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


def make_objective(config: RunConfig, teacher: Tensor | None) -> Callable[..., dict[str, Tensor]]:
    r"""``L = L_task + λ · KL(old ‖ new)`` of one batch; the KL is left out of plain training."""

    def objective(network: nn.Module, indices: Tensor, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits, imagenet_logits = network(x)
        task = task_loss(logits, labels)
        if teacher is None:
            return {"total": task, "task": task}
        kl = proxy_guidance(imagenet_logits, teacher[indices])
        return {"total": task + config.guidance * kl, "task": task, "guidance": kl}

    return objective


def make_evaluation(
    student: Student, domains: Domains, config: RunConfig, device: torch.device
) -> Callable[[Student], dict]:
    """A function of the student: every number of an evaluation, on held-out renders and on photos.

    ``kl`` is the divergence from the ImageNet network on held-out synthetic images, in nats;
    ``validation`` the accuracy there; ``drift`` the relative distance of each layer group from its
    ImageNet weights; the numbers on photos are those of :func:`asg.metrics.evaluate_photos`.
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
    held_teacher = teacher_log_probabilities(student, held, config, device)
    photo_teacher = teacher_log_probabilities(student, photos, config, device) if photos is not None else None
    start = {k: [p.detach().clone() for p in v] for k, v in layer_groups(student).items() if k != "head"}

    def evaluate(now: Student) -> dict:
        task, imagenet = forward_all(now, held, EVALUATION_BATCH, device)
        numbers = {
            "validation": mean_per_class(task.argmax(1), held.labels, len(held.classes)),
            "validation_loss": float(task_loss(task, held.labels)),
            "kl": float(proxy_guidance(imagenet, held_teacher)),
            "drift": drift(now, start),
        }
        if photos is not None:
            plain = forward_all(now, photos, EVALUATION_BATCH, device)
            mirrored = forward_all(now, photos, EVALUATION_BATCH, device, mirror=True)
            numbers |= evaluate_photos(plain, mirrored, photos, photo_teacher, mapping)
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
                teacher = teacher_log_probabilities(student, domains.source, config, accelerator.device)
                teacher = teacher.to(accelerator.device)  # indexed there: no step waits for the host
        prepared = time.monotonic() - began
        controller = make_controller(config, groups, len(domains.source))
        done = fit(
            config, student, groups, domains.source, make_objective(config, teacher), evaluate, controller,
            folder, accelerator, on_evaluation,
        )  # fmt: skip
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
