"""What an evaluation measures, from logits that were computed once for each image and its mirror."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asg.data.images import UNLABELLED, ImageSet

FLOOR = 1e-3  # least share that the product of heads gives a class, so that an unmapped class can win


def accuracy_per_class(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Share of right predictions of each class, ``(classes,)``; NaN for a class without images."""
    right = torch.zeros(classes).index_add_(0, labels, (predicted == labels).float())
    return right / torch.bincount(labels, minlength=classes)


def mean_per_class(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """VisDA-17's metric: the mean of the per-class accuracies, over the classes that have images."""
    return float(accuracy_per_class(predicted, labels, classes).nanmean())


def class_map(imagenet_classes: dict[str, list[int]], classes: tuple[str, ...], total: int) -> Tensor:
    """0/1 matrix ``(total ImageNet classes, C)``: which ImageNet class means which class."""
    matrix = torch.zeros(total, len(classes))
    for column, name in enumerate(classes):
        matrix[imagenet_classes[name], column] = 1.0
    return matrix


@torch.inference_mode()
def forward_all(
    network: Callable[[Tensor], tuple[Tensor, ...]],
    images: ImageSet,
    batch: int,
    device: torch.device,
    mirror: bool = False,
) -> tuple[Tensor, ...]:
    """Outputs of ``network`` for every image in order, on the CPU; of their mirror images if asked."""
    outputs = []
    for first in range(0, len(images), batch):
        x = images.batch(range(first, min(first + batch, len(images)))).to(device)  # (N, 3, H, W)
        outputs.append(tuple(o.float().cpu() for o in network(x.flip(3) if mirror else x)))
    return tuple(torch.cat(column) for column in zip(*outputs, strict=True))


def evaluate_photos(
    plain: tuple[Tensor, Tensor],
    mirrored: tuple[Tensor, Tensor],
    photos: ImageSet,
    reference: Tensor,
    mapping: Tensor | None,
) -> dict:
    """Every number about the target images.

    ``plain`` and ``mirrored``: (task logits ``(N, C)``, kept-head logits ``(N, K)``) of the images
    and of their mirrors; ``reference``: the ImageNet network's kept-head logits ``(N, K)``;
    ``mapping``: :func:`class_map` or None.

    - ``accuracy``: arg max of the mean sigmoid of image and mirror (paper, section 4.1), mean per class.
    - ``agreement``: share of photos on which the kept head's top-1 is the ImageNet network's.
    - ``imagenet``: true top-1 of the kept head on photos that have an ImageNet class.
    - ``kept``: accuracy through the kept head and the class mapping.
    - ``product``: accuracy of the product of both heads' class probabilities (departure 9, ours).
    """
    count = len(photos.classes)
    task = (plain[0].sigmoid() + mirrored[0].sigmoid()) / 2
    predicted, top1 = task.argmax(1), plain[1].argmax(1)
    per_class = accuracy_per_class(predicted, photos.labels, count)
    numbers = {
        "accuracy": float(per_class.nanmean()),
        "overall": float((predicted == photos.labels).float().mean()),
        "per_class": {c: float(a) for c, a in zip(photos.classes, per_class, strict=True) if not a.isnan()},
        "agreement": float((top1 == reference.argmax(1)).float().mean()),
    }
    if photos.imagenet is not None and (known := photos.imagenet != UNLABELLED).any():
        numbers["imagenet"] = float((top1 == photos.imagenet)[known].float().mean())
    if mapping is not None:
        kept = (plain[1].softmax(1) @ mapping + mirrored[1].softmax(1) @ mapping) / 2
        both = (plain[0].softmax(1) + mirrored[0].softmax(1)) / 2 * (kept + FLOOR)
        numbers["kept"] = mean_per_class(kept.argmax(1), photos.labels, count)
        numbers["product"] = mean_per_class(both.argmax(1), photos.labels, count)
    return numbers
