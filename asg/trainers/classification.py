"""Train a classifier on synthetic images, with or without proxy guidance, and measure what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import BatchSampler

from asg import AsgError, processes, signals
from asg.config import RunConfig
from asg.data import load_domains
from asg.data.augment import make_change
from asg.data.images import Domains, Draws, ImageSet, Repeated, StepSampler
from asg.losses import proxy_guidance, task_loss
from asg.metrics import answers as both_answers
from asg.metrics import (
    class_map,
    evaluate_photos,
    forward_all,
    hyperspherical_energy,
    linear_cka,
    mean_error,
    mean_per_class,
)
from asg.models import Student, build, drift, layer_groups
from asg.trainers import frozen
from asg.trainers.conduct import conduct
from asg.trainers.regularisers import Penalty, make_penalty
from asg.trainers.task import Task
from asg.trainers.weighing import weigh

IMAGENET_CLASSES = 1000


def make_objective(
    config: RunConfig, teacher: frozen.Outputs | None, penalty: Penalty | None = None, known: Tensor | None = None
) -> Callable[..., dict[str, Tensor]]:
    r"""``L = L_task + λ · KL(old ‖ new) + penalty`` of one batch; a term that is not asked for is left out.

    Where λ is weighed (:mod:`asg.trainers.weighing`) the losses hold it too, as ``weight``.

    ``teacher``: log-softmax ``(N, K)`` of the ImageNet network on a batch. ``known``: features ``(N, D)`` of all
    images, of a backbone that does not move; the images are then not looked at.
    """

    contrast = config.regulariser is not None and config.regulariser.kind == "csg"

    def objective(
        network: nn.Module, indices: Tensor, x: Tensor, labels: Tensor, share: float = 1.0
    ) -> dict[str, Tensor]:
        if contrast:
            logits, imagenet_logits, features, queries = network(x, contrast=True)
        else:
            logits, imagenet_logits, features = network(x) if known is None else network.heads(known[indices])
            queries = features
        losses = {"task": task_loss(logits, labels)}
        total = losses["task"]
        if teacher is not None:
            losses["guidance"] = proxy_guidance(imagenet_logits, teacher(indices, x))
            weight = weigh(config, share, losses["task"], losses["guidance"], features)
            total = total + weight * losses["guidance"]
            if config.weigh:
                losses["weight"] = torch.as_tensor(weight, device=total.device)
        if penalty is not None:
            losses["penalty"] = penalty(indices, x, queries)
            total = total + losses["penalty"]
        return {"total": total, **losses}

    return objective


def mapping_of(config: RunConfig, student: Student, domains: Domains) -> Tensor | None:
    """The classes of a benchmark that ImageNet's stand for (:func:`asg.metrics.class_map`); None where none is known.

    Raises :class:`AsgError` for a network whose classifier is of other classes than ImageNet-1k's.
    """
    if domains.imagenet_classes is None:
        return None
    if student.kept_head.out_features != IMAGENET_CLASSES:
        raise AsgError(
            f"{config.backbone} has {student.kept_head.out_features} classes, and the benchmark's class mapping is "
            f"of ImageNet's {IMAGENET_CLASSES}: choose a backbone with an ImageNet-1k classifier."
        )
    return class_map(domains.imagenet_classes, domains.source.classes, student.kept_head.out_features)


def signals_of(student: Student, source: ImageSet, mapping: Tensor | None, device: torch.device) -> dict[str, float]:
    """What the ImageNet network's answers on the source say (:mod:`asg.signals`)."""
    teacher = frozen.log_probabilities(student, source, device)
    numbers = {
        "entropy": signals.answers_entropy(teacher), "information": signals.shared_information(teacher, source.labels),
    }  # fmt: skip
    if mapping is not None:
        numbers["mapped"] = signals.mapped_accuracy(teacher, source.labels, mapping)
    return numbers


def held_out(task: Tensor, held: ImageSet) -> dict[str, float]:
    """What logits ``(N, C)`` on held-out images reach: accuracy (mean per class), loss, and the loss's standard error.

    The error is over the designs (:func:`asg.metrics.mean_error`), and left out where it is not defined.
    """
    losses = F.cross_entropy(task, held.labels, reduction="none")  # (N,)
    numbers = {
        "validation": mean_per_class(task.argmax(1), held.labels, len(held.classes)),
        "validation_loss": float(losses.mean()),
    }
    if (error := mean_error(losses, held.cluster)) is not None:
        numbers["validation_loss_error"] = error
    return numbers


def make_evaluation(student: Student, domains: Domains, config: RunConfig, device: torch.device) -> Callable[..., dict]:
    """``evaluate(student, final=False)``: every number of an evaluation, on held-out renders and on photos.

    ``kl`` is the divergence from the ImageNet network on held-out synthetic images, in nats;
    ``validation`` …: :func:`held_out`; ``drift`` the relative distance of each layer group from its ImageNet
    weights; the numbers on photos are those of :func:`asg.metrics.evaluate_photos`. The ``final`` evaluation, and
    no other, has what takes minutes on VisDA-17: the energy of the photos' features at three powers (``hse0`` …; of
    two photos or more), and the features' likeness to the ImageNet network's (``cka``). Where it is not known
    whether a mirror image has the same class, held-out images say it: ``mirror``, whether answers that average both
    (``validation_mirrored``) are right there as often as those of the image alone (departure 42). Where
    ``config.signals``, it has what :mod:`asg.signals` says of the source (``entropy``, ``information``, ``mapped``)
    and of held-out images under every look (``looks``).
    """
    mapping = mapping_of(config, student, domains)
    held, photos = domains.validation, domains.target
    batch = frozen.evaluation_batch(device)
    held_teacher = frozen.log_probabilities(student, held, device)
    if photos is not None:
        photo_teacher = frozen.log_probabilities(student, photos, device)
        photo_features = frozen.features(student, photos, device)
    of_source = signals_of(student, domains.source, mapping, device) if config.signals else {}
    start = {k: [p.detach().clone() for p in v] for k, v in layer_groups(student).items() if k != "head"}

    def evaluate(now: Student, *, final: bool = False) -> dict:
        moved = drift(now, start)
        answers = partial(forward_all, now, batch=batch, device=device)
        if not any(moved.values()):
            answers = partial(frozen.outputs, now, device=device)
        task, imagenet, _ = answers(held)
        numbers = held_out(task, held)
        numbers |= {"kl": float(proxy_guidance(imagenet, held_teacher)), "drift": moved}
        mirror = domains.mirror
        if mirror is None:
            both = both_answers(task, answers(held, mirror=True)[0])[0]
            numbers["validation_mirrored"] = mean_per_class(both, held.labels, len(held.classes))
            mirror = numbers["mirror"] = numbers["validation_mirrored"] >= numbers["validation"]
        if photos is not None:
            *plain, features = answers(photos)
            mirrored = plain
            if mirror:
                *mirrored, _ = answers(photos, mirror=True)
            numbers |= evaluate_photos(plain, mirrored, photos, photo_teacher, mapping)
            if final and len(photos) > 1:
                energies = hyperspherical_energy(features, device)
                numbers |= {f"hse{power}": energy for power, energy in enumerate(energies)}
            if final:
                numbers["cka"] = linear_cka(features, photo_features)
        if final and config.signals:
            numbers["looks"] = signals.under_looks(now, held, batch, device)
            numbers |= of_source
        return numbers

    return evaluate


def batches_of(config: RunConfig, source: ImageSet) -> Callable[..., BatchSampler]:
    """How the batches of a run are drawn: with the step where images are augmented, some images more often."""
    kind = Draws if config.augment else StepSampler
    return kind if source.repeats is None else partial(Repeated, kind, source.repeats)


def prepare(config: RunConfig, accelerator: Accelerator, domains: Domains | None = None) -> Task:
    """Data, network, objective and evaluation of a classification run; ``domains``: its data, if they were read."""
    domains = load_domains(config, domains)
    student = build(config, len(domains.source.classes)).to(accelerator.device)
    evaluate = make_evaluation(student, domains, config, accelerator.device)
    source = domains.source
    if config.augment:
        source = replace(source, augmentation=make_change(config.augment, config.seed))
    teacher = frozen.batch_answers(student, source, accelerator.device, config.teacher) if config.guidance else None
    penalty = make_penalty(config, student, source, accelerator.device)
    known = None
    moves = config.backbone_factor or config.control or config.augment or config.weigh or student.contrast is not None
    if not moves and processes.count() == 1:  # DDP waits for every gradient
        known = frozen.features(student, source, accelerator.device).to(accelerator.device)
    objective = make_objective(config, teacher, penalty, known)
    return Task(
        student, layer_groups(student), source, objective, evaluate, domains.validation, "accuracy",
        batches=batches_of(config, source),
        bulky=("predicted", "confidence"), final=partial(evaluate, final=True),
    )  # fmt: skip


def train(
    config: RunConfig,
    folder: Path,
    device: str | None = None,
    on_evaluation: Callable[[dict], None] = lambda evaluation: None,
    stop: int | None = None,
    domains: Domains | None = None,
) -> tuple[dict, Student]:
    """One run: see :func:`asg.trainers.conduct.conduct`; ``domains`` as for :func:`prepare`."""
    return conduct(config, folder, device, partial(prepare, domains=domains), on_evaluation, stop)
