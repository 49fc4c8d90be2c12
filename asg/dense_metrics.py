"""What an evaluation of answers at every pixel measures: everything comes from one confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from asg import AsgError
from asg.data.images import UNLABELLED


def confusion_matrix(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Pixel counts ``(C, C)``, rows the truth and columns the prediction, int64; sum them over a whole set.

    ``predicted`` and ``labels``: integers of one shape; pixels labelled UNLABELLED do not count.
    """
    labelled = labels != UNLABELLED
    pairs = torch.stack((labels[labelled].long(), predicted[labelled].long()))  # (2, labelled pixels)
    if bool(((pairs < 0) | (pairs >= classes)).any()):
        raise AsgError(
            f"A pixel's label or prediction is none of the classes 0 … {classes - 1} and its label is not "
            f"{UNLABELLED}: map the labels of the data set to the classes first."
        )
    return torch.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).view(classes, classes)  # (C²,) → (C, C)


def iou_per_class(confusion: Tensor) -> Tensor:
    r"""Intersection over union :math:`\frac{TP}{TP + FP + FN}` of each class, ``(C,)``, of a confusion matrix.

    NaN for a class that is neither in the truth nor in any prediction; 0 for one that is only predicted.
    """
    right = confusion.diagonal().double()
    return right / (confusion.sum(0) + confusion.sum(1) - right)


def mean_iou(confusion: Tensor) -> float:
    """mIoU: mean of :func:`iou_per_class` over the classes that occur, as Cityscapes has it; NaN if none does."""
    return float(iou_per_class(confusion).nanmean())


def pixel_accuracy(confusion: Tensor) -> float:
    """Share of labelled pixels that are predicted right; NaN without a labelled pixel."""
    return float(confusion.diagonal().sum() / confusion.sum())
