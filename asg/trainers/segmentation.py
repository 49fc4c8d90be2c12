"""Train a network that answers at every pixel, with or without dense proxy guidance, and measure what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from asg import AsgError, processes
from asg.config import RunConfig
from asg.data import mirrored, read_domains
from asg.data.images import UNLABELLED, Draws, same_size
from asg.data.looks import LOOKS, with_look
from asg.data.segmentation import Augmentation, SegmentationDomains, SegmentationSet
from asg.dense_losses import capped_weight, segmentation_loss
from asg.dense_metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy
from asg.dense_models import DenseStudent, build, predict
from asg.losses import proxy_guidance
from asg.metrics import mean_error
from asg.models import drift, layer_groups
from asg.signals import answers_entropy
from asg.trainers import frozen
from asg.trainers.conduct import conduct
from asg.trainers.regularisers import Penalty, make_penalty
from asg.trainers.task import Task
from asg.trainers.weighing import weigh

WINDOW, OVERLAP = (1024, 2048), 256  # the largest piece that is answered at once: a whole image of Cityscapes
DENSE = ("weights", "csg")  # penalties that scenes can have
PIXELS = 2**18  # of the small images that are answered at once; more of them take longer each on a CPU


@torch.inference_mode()
def imagenet_answers(
    student: DenseStudent, images: SegmentationSet, chunks: int, device: torch.device, workers: int = 0
) -> Tensor:
    """Log-softmax ``(N, chunks², K)`` of a network's ImageNet answers on whole, fixed images."""
    answers = [
        student.imagenet_logits(x.to(device), chunks).float().cpu().unflatten(0, (-1, chunks**2))  # (n, chunks², K)
        for _, x, _ in same_size(images, range(len(images)), workers, PIXELS)
    ]
    return torch.cat(answers).log_softmax(2)


def kept_answers(
    student: DenseStudent, images: SegmentationSet, chunks: int, device: torch.device, workers: int = 0
) -> Tensor:
    """:func:`imagenet_answers` of a student that is still at its start, computed once and kept on disk."""

    def compute() -> dict[str, Tensor]:
        return {"answers": imagenet_answers(student, images, chunks, device, workers)}

    name = f"{images.fingerprint}-{frozen.fingerprint(student)}-{chunks}"
    return frozen.cached("dense", name, device, compute)["answers"]


@torch.inference_mode()
def both_answers(student: DenseStudent, x: Tensor) -> tuple[Tensor, Tensor]:
    """Task logits ``(N, C, H, W)`` and ImageNet logits ``(N, K)`` of uint8 images ``(N, 3, H, W)``.

    One forward gives both, unless the images are larger than ``WINDOW``: then the task is answered in windows, and
    ImageNet's classifier still sees the whole image.
    """
    if all(side <= most for side, most in zip(x.shape[-2:], WINDOW, strict=True)):
        logits, features = student(x)
        return logits.float(), student.kept_logits(features).float()
    windowed = torch.stack([predict(student, image, WINDOW, OVERLAP) for image in x])  # (N, C, H, W)
    return windowed.float(), student.imagenet_logits(x).float()


def evaluated(
    student: DenseStudent, images: SegmentationSet, device: torch.device, workers: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Confusion matrix ``(C, C)``, loss of each image ``(N,)`` and ImageNet logits ``(N, K)`` of a set, on the CPU.

    Each image is decoded and answered once; several processes share the images out, and each gets the whole result.
    """
    classes, results = len(images.classes), {}
    confusion = torch.zeros(classes, classes, dtype=torch.long)
    mine = range(processes.index(), len(images), processes.count())
    for indices, x, labels in same_size(images, mine, workers, PIXELS):
        logits, imagenet = both_answers(student, x.to(device))
        truth = labels.to(device)
        for k, index in enumerate(indices):
            results[index] = float(segmentation_loss(logits[k : k + 1], truth[k : k + 1])), imagenet[k].cpu()
        confusion += confusion_matrix(logits.argmax(1).cpu(), labels, classes)
    parts = processes.gathered((confusion, results))
    everything = {index: one for _, part in parts for index, one in part.items()}
    losses, imagenet = zip(*(everything[i] for i in range(len(images))), strict=True)
    return sum(matrix for matrix, _ in parts), torch.tensor(losses), torch.stack(imagenet)


def make_objective(
    config: RunConfig,
    student: DenseStudent,
    teacher: Callable[[Tensor, Tensor], Tensor] | None,
    penalty: Penalty | None = None,
) -> Callable[..., dict[str, Tensor]]:
    r"""``L = L_seg + λ · KL(old ‖ new) + penalty`` of one batch, the KL averaged over the pieces of a map.

    ``teacher(indices, x)``: log-softmax ``(N · chunks², K)`` of the ImageNet network; None: plain training.
    With ``config.cap`` λ is lowered where λ · KL would exceed it. ``student`` is the network, bare.
    """

    contrast = (config.chunks or 1) if student.contrast is not None else 0

    def objective(
        network: nn.Module, indices: Tensor, x: Tensor, labels: Tensor, share: float = 1.0
    ) -> dict[str, Tensor]:
        logits, features, *queries = network(x, contrast=contrast)
        task = segmentation_loss(logits, labels) * processes.share((labels != UNLABELLED).sum())
        penalties = {} if penalty is None else {"penalty": penalty(indices, x, *(queries or [features]))}
        task_and_penalty = sum(penalties.values(), task)
        if teacher is None:
            return {"total": task_and_penalty, "task": task, **penalties}
        kl = proxy_guidance(student.kept_logits(features, config.chunks or 1), teacher(indices, x))
        weight = weigh(config, share, task, kl, features)
        if config.cap:
            weight = capped_weight(weight, processes.mean(kl), config.cap)
        weighed = {"weight": torch.as_tensor(weight, device=kl.device)} if config.weigh else {}
        return {"total": task_and_penalty + weight * kl, "task": task, "guidance": kl, **penalties, **weighed}

    return objective


def make_teacher(
    config: RunConfig, student: DenseStudent, images: SegmentationSet, device: torch.device
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The ImageNet network's answers to a batch: looked up for fixed images, computed for augmented ones (departure 3).

    None without guidance; ``student`` must still be at its start.
    """
    if config.teacher:
        raise AsgError(f"teacher = {config.teacher} is of classification alone: leave it out.")
    if not config.guidance:
        return None
    chunks = config.chunks or 1
    if images.augmentation is None:
        answers = kept_answers(student, images, chunks, device, config.workers).to(device)  # (N, chunks², K)
        return lambda indices, x: answers[indices].flatten(0, 1)
    untouched = student.teacher()

    def live(indices: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return untouched.imagenet_logits(x, chunks).log_softmax(1)

    return live


def make_evaluation(
    student: DenseStudent, domains: SegmentationDomains, config: RunConfig, device: torch.device
) -> Callable[..., dict]:
    """``evaluate(student, final=False)``: mIoU, pixel accuracy and forgetting on held-out scenes and on real ones.

    Images are answered whole, at full size (in windows where they are larger than ``WINDOW``), and each
    set has one confusion matrix (departure 26). ``miou`` and ``per_class`` (IoU) are the target's,
    ``validation`` and ``validation_loss`` (with its standard error over the images) those of held-out
    synthetic scenes, ``kl`` the divergence from the ImageNet network there, ``agreement`` the share of
    target images with the same top ImageNet class, the one number of a target without labels. Every composed
    scene is drawn by itself, from the same few held-out designs: the error is that of scenes of these designs, and
    says nothing of other designs.

    Where ``config.signals``, the ``final`` evaluation has what :mod:`asg.signals` says of scenes: ``entropy`` on the
    source, and mIoU and loss on held-out scenes under every look (``looks``).
    """
    entropy = None
    if config.signals:
        entropy = answers_entropy(kept_answers(student, domains.source, 1, device, config.workers)[:, 0])
    held = kept_answers(student, domains.validation, 1, device, config.workers)[:, 0]  # (N, K)
    real = None
    if domains.target is not None:
        real = kept_answers(student, domains.target, 1, device, config.workers)[:, 0].argmax(1)  # (M,)
    start = {k: [p.detach().clone() for p in v] for k, v in layer_groups(student).items() if k != "head"}

    def evaluate(now: DenseStudent, *, final: bool = False) -> dict:
        synthetic, losses, imagenet = evaluated(now, domains.validation, device, config.workers)
        error = mean_error(losses)
        numbers = {
            "validation": mean_iou(synthetic),
            "validation_loss": float(losses.mean()),
            **({} if error is None else {"validation_loss_error": error}),
            "kl": float(proxy_guidance(imagenet, held)),
            "drift": drift(now, start),
        }
        if real is not None:
            photographed, _, imagenet_of_photos = evaluated(now, domains.target, device, config.workers)
            if photographed.any():
                numbers |= {
                    "miou": mean_iou(photographed),
                    "pixels": pixel_accuracy(photographed),
                    "per_class": named(iou_per_class(photographed), domains.target.classes),
                }
            numbers["agreement"] = float((imagenet_of_photos.argmax(1) == real).float().mean())
        if final and config.signals:
            numbers |= {"entropy": entropy, "looks": {}}
            for look in LOOKS:
                confusion, losses, _ = evaluated(now, with_look(domains.validation, look), device, config.workers)
                numbers["looks"][look] = {"miou": mean_iou(confusion), "loss": float(losses.mean())}
        return numbers

    return evaluate


def named(iou: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Class → its IoU ``(C,)``; without those that are neither there nor answered."""
    return {name: float(value) for name, value in zip(classes, iou, strict=True) if not value.isnan()}


def crops(config: RunConfig) -> Augmentation:
    """The random crops of a run; mirrored, unless a mirror image is not known to show the same (departure 42)."""
    return Augmentation(crop=config.crop, seed=config.seed, mirror=mirrored(config) is not False)


def prepare(config: RunConfig, accelerator: Accelerator, domains: SegmentationDomains | None = None) -> Task:
    """Data, network, objective and evaluation of a segmentation run; ``domains``: its data, if they were read."""
    if config.augment:
        raise AsgError("augment changes images that have one label each: leave it out for scenes, which have crop.")
    domains, device = domains or read_domains(config), accelerator.device
    student = build(config, len(domains.source.classes)).to(device)
    source = domains.source
    if config.crop:
        source = replace(source, augmentation=crops(config))
    evaluate = make_evaluation(student, domains, config, device)
    teacher = make_teacher(config, student, source, device)
    penalty = None
    if config.regulariser:
        if config.regulariser.kind not in DENSE:
            raise AsgError(f"The penalty {config.regulariser.kind} is not of scenes: choose {' or '.join(DENSE)}.")
        penalty = make_penalty(config, student, source, device)
    objective = make_objective(config, student, teacher, penalty)
    return Task(
        student, layer_groups(student), source, objective, evaluate, domains.validation, "miou",
        batches=Draws, final=partial(evaluate, final=True),
    )  # fmt: skip


def train(
    config: RunConfig,
    folder: Path,
    device: str | None = None,
    on_evaluation: Callable[[dict], None] = lambda evaluation: None,
    stop: int | None = None,
    domains: SegmentationDomains | None = None,
) -> tuple[dict, DenseStudent]:
    """One run: see :func:`asg.trainers.conduct.conduct`; ``domains`` as for :func:`prepare`."""
    return conduct(config, folder, device, partial(prepare, domains=domains), on_evaluation, stop)
