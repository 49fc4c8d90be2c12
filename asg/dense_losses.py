"""Losses of answers at every pixel, as pure functions of tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asg.data.images import UNLABELLED


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled pixels of a batch, in nats; 0 where no pixel is labelled.

    ``logits`` ``(N, C, H, W)``, integer ``labels`` ``(N, H, W)``; pixels labelled UNLABELLED do not count.
    """
    total = F.cross_entropy(logits, labels.long(), ignore_index=UNLABELLED, reduction="sum")
    return total / (labels != UNLABELLED).sum().clamp_min(1)


def cut(features: Tensor, chunks: int, side: int) -> Tensor:
    r"""The pieces of maps ``(N, D, h, w)`` that dense guidance classifies, ``(N · chunks², D · side²)``.

    A map is cut into ``chunks × chunks`` pieces and each is averaged to ``side × side`` cells (adaptive
    average pooling, so that sizes need not divide). Side 1 suits a linear classifier, side 7 VGG's; 1 chunk is
    the whole map. The :func:`~asg.losses.proxy_guidance` of pieces is the mean over pieces and batch. Order: image
    by image, rows of pieces from the top.
    """
    cells = F.adaptive_avg_pool2d(features, chunks * side)  # (N, D, chunks · side, chunks · side)
    pieces = cells.unflatten(3, (chunks, side)).unflatten(2, (chunks, side))  # (N, D, chunks, side, chunks, side)
    return pieces.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(0, 2)  # (N · chunks², D · side²)


def capped_weight(weight: float, guidance: Tensor, most: float = 9.0) -> Tensor:
    r"""The weight λ of the guidance, lowered where :math:`\lambda \cdot \mathrm{KL}` would exceed ``most``.

    :math:`\lambda` if :math:`\lambda \cdot \mathrm{KL} \le 9`, else :math:`9 / \mathrm{KL}`, a constant of the
    gradient. Source: the reference's segmentation with a policy.
    """
    value = guidance.detach()
    return torch.where(weight * value > most, most / value, weight)
