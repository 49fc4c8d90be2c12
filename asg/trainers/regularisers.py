"""Other ways to keep ImageNet knowledge than proxy guidance: penalties on weights or features that leave the start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from asg.config import RunConfig
from asg.data.images import ImageSet, StepSampler
from asg.dense_models import DenseStudent
from asg.losses import feature_distance, proxy_guidance, task_loss, weight_distance
from asg.models import Student, layer_groups
from asg.trainers import frozen
from asg.trainers.optimiser import make_optimiser

FISHER_IMAGES = 512  # of the source, evenly spaced; one label is drawn for each
PATH_STEPS, PATH_IMAGES = 20, 64  # of the path integral: steps, and images of the old task's loss
CAP = 100.0  # times the mean: the largest importance; a few weights have far more, and gradient descent would diverge
DAMPING = 0.1  # of the path integral: share of the mean squared displacement

# Of a batch's indices (N,), images and features (N, D), or CSG's queries in their place; a scalar.
Penalty = Callable[[Tensor, Tensor, Tensor | Sequence[Tensor]], Tensor]


def make_penalty(config: RunConfig, student: Student, images: ImageSet, device: torch.device) -> Penalty | None:
    """The penalty of ``config.regulariser`` times its strength, or None; ``student`` must still be at its start.

    - ``weights`` (L2-SP, Li et al. 2018): squared distance of the backbone's weights from ImageNet's.
    - ``features`` (ROAD, Chen et al. 2018): squared distance of the features from the ImageNet network's.
    - ``ewc`` (Kirkpatrick et al. 2017): squared distance of the weights, each weighted by its :func:`fisher`.
    - ``si`` (Zenke et al. 2017): the same, weighted by :func:`path_importance`.
    - ``csg`` (Chen et al. 2021): :func:`contrast` with the ImageNet network, of images or of pieces of scenes.

    Importances have mean 1 before they are capped, so that strengths are on the scale of ``weights``
    (departure 19).
    """
    if config.regulariser is None:
        return None
    kind, strength = config.regulariser.kind, config.regulariser.strength
    if kind == "csg":
        return contrast(student, strength, config.chunks or 1)
    if kind == "features":
        before = frozen.batch_features(student, images, device)
        return lambda indices, x, features: strength * feature_distance(features, before(indices, x))
    weights = backbone(student)
    start = [p.detach().clone() for p in weights]
    importance = IMPORTANCES[kind](config, student, images, device)
    return lambda indices, x, features: strength * weight_distance(weights, start, importance)


def contrast(student: Student | DenseStudent, strength: float, chunks: int) -> Penalty:
    """CSG's loss of a batch's queries; the keys are the untouched network's, which sees the same images."""
    spare = {id(part): nn.Identity() for part in (student.contrast, student.task_head)}
    untouched = copy.deepcopy(student, spare).requires_grad_(False)
    stages = student.contrast.stages

    def penalty(indices: Tensor, x: Tensor, queries: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            if isinstance(untouched, DenseStudent):
                by_stage = untouched.maps(x, stages[-1])
                maps = [by_stage[name] for name in stages]
            else:
                _, maps = untouched.features_and_maps(x, stages)
            keys = student.contrast.keys(maps, chunks)
        return strength * student.contrast.loss(queries, keys)

    return penalty


def backbone(student: Student) -> list[nn.Parameter]:
    """The trained parameters of every layer group but the head, in the network's order."""
    return [p for name, group in layer_groups(student).items() if name != "head" for p in group]


def of_mean_one(importance: Sequence[Tensor]) -> list[Tensor]:
    """Importances divided by their mean over all weights, none above ``CAP``."""
    mean = sum(float(i.sum()) for i in importance) / sum(i.numel() for i in importance)
    return [(i / mean).clamp_max(CAP) for i in importance]


def fisher(
    parameters: Sequence[Tensor], logits: Sequence[Callable[[], Tensor]], generator: torch.Generator
) -> list[Tensor]:
    r"""Diagonal of the Fisher information of a classifier at ``parameters``.

    .. math:: F_k = \frac1N \sum_i \big(\partial_k \log p(\tilde y_i \mid x_i)\big)^2,
              \qquad \tilde y_i \sim p(\cdot \mid x_i)

    ``logits``: a function for each image that gives its logits ``(K,)``. The labels are drawn from
    the network's own answers, so none is needed.
    """
    total = [torch.zeros_like(p) for p in parameters]
    for answer in logits:
        log_p = answer().log_softmax(0)
        drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(log_p.device)
        for sum_, gradient in zip(total, torch.autograd.grad(log_p[drawn].sum(), parameters), strict=True):
            sum_ += gradient.square() / len(logits)
    return total


def path_integral(
    parameters: Sequence[Tensor], old_loss: Callable[[], Tensor], step: Callable[[], None], steps: int
) -> tuple[list[Tensor], list[Tensor]]:
    r"""What each weight's movement did to ``old_loss`` along a path, and how far it moved.

    .. math:: \omega_k = \int \partial_k L_{\text{old}} \, d\theta_k, \qquad \Delta_k = \theta_k(T) - \theta_k(0)

    by the trapezoidal rule over ``steps`` calls of ``step``, which moves ``parameters`` in place. The sum
    over all weights is the change of the loss; on a quadratic the rule is exact.
    """
    first = [p.detach().clone() for p in parameters]
    omega, before = [torch.zeros_like(p) for p in parameters], torch.autograd.grad(old_loss(), parameters)
    for _ in range(steps):
        previous = [p.detach().clone() for p in parameters]
        step()
        after = torch.autograd.grad(old_loss(), parameters)
        for o, g0, g1, p, q in zip(omega, before, after, parameters, previous, strict=True):
            o += (g0 + g1) / 2 * (p.detach() - q)
        before = after
    return omega, [p.detach() - q for p, q in zip(parameters, first, strict=True)]


def path_importance(omega: Sequence[Tensor], displacement: Sequence[Tensor], damping: float) -> list[Tensor]:
    r"""Synaptic intelligence's :math:`\Omega_k = \max(\omega_k, 0) / (\Delta_k^2 + \xi)`, ξ = ``damping`` · mean Δ²."""
    squared = [d.square() for d in displacement]
    xi = damping * sum(float(s.sum()) for s in squared) / sum(s.numel() for s in squared)
    return [o.clamp_min(0) / (s + xi) for o, s in zip(omega, squared, strict=True)]


def _no_importance(config: RunConfig, student: Student, images: ImageSet, device: torch.device) -> None:
    return None


def _fisher(config: RunConfig, student: Student, images: ImageSet, device: torch.device) -> list[Tensor]:
    """Of the ImageNet classifier on synthetic images: no ImageNet image is at hand (departure 19)."""

    def compute() -> list[Tensor]:
        chosen = torch.linspace(0, len(images) - 1, min(FISHER_IMAGES, len(images))).long().tolist()
        answers = [lambda i=i: student(images.batch([i]).to(device))[1][0] for i in chosen]
        return fisher(backbone(student), answers, torch.Generator().manual_seed(0))

    return _cached("ewc", "", student, images, device, compute)


def _path(config: RunConfig, student: Student, images: ImageSet, device: torch.device) -> list[Tensor]:
    """Along the first steps of plain training; the old loss is the proxy guidance, 0 at its start (departure 20)."""

    def compute() -> list[Tensor]:
        plain = copy.deepcopy(student)
        seen = torch.linspace(0, len(images) - 1, min(PATH_IMAGES, len(images))).long().tolist()
        x = images.batch(seen).to(device)  # (N, 3, H, W)
        with torch.no_grad():
            teacher = plain(x)[1].log_softmax(1)
        optimiser = make_optimiser(config, layer_groups(plain))
        for group in optimiser.param_groups:
            group["lr"] = config.lr * (1.0 if group["name"] == "head" else config.backbone_factor)
        batches = iter(StepSampler(len(images), config.batch, 0, 0, PATH_STEPS))

        def step() -> None:
            indices = next(batches)
            optimiser.zero_grad()
            task_loss(plain(images.batch(indices).to(device))[0], images.labels[indices].to(device)).backward()
            optimiser.step()

        moved = path_integral(backbone(plain), lambda: proxy_guidance(plain(x)[1], teacher), step, PATH_STEPS)
        return path_importance(*moved, DAMPING)

    settings = f"-{config.lr:g}-{config.backbone_factor:g}-{config.batch}-{config.seed}"
    return _cached("si", settings, student, images, device, compute)


def _cached(
    kind: str, settings: str, student: Student, images: ImageSet, device: torch.device, compute: Callable
) -> list[Tensor]:
    def numbered() -> dict[str, Tensor]:
        return {f"{k:04}": value for k, value in enumerate(of_mean_one(compute()))}

    name = f"{images.fingerprint}-{frozen.fingerprint(student)}{settings}"
    tensors = frozen.cached(kind, name, device, numbered)
    return [tensors[key].to(device) for key in sorted(tensors)]


IMPORTANCES = {"weights": _no_importance, "ewc": _fisher, "si": _path}
