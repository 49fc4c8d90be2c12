"""What the labelled synthetic images alone say beforehand about whether guidance will pay (departure 32: ours).

Guidance holds a network near the ImageNet one. Whether that is worth anything on photographs depends on what the
ImageNet features are worth there against trained ones, which only photographs tell. These numbers need none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from asg.data.images import ImageSet
from asg.data.looks import LOOKS, with_look
from asg.losses import task_loss
from asg.metrics import forward_all, mean_per_class


def answers_entropy(teacher: Tensor) -> float:
    r"""Mean entropy of the ImageNet network's answers, in nats: how unsure it is of each image.

    .. math:: -\frac1N \sum_i \sum_k p_{ik} \log p_{ik}

    ``teacher``: log-probabilities ``(N, K)``.
    """
    return float(-(teacher.exp() * teacher).sum(1).mean())


def shared_information(teacher: Tensor, labels: Tensor) -> float:
    r"""Mutual information of labels and the ImageNet network's answers, as a share of the entropy of the labels.

    .. math:: \frac{I(y; k)}{H(y)}, \qquad q(y, k) = \frac1N \sum_{i: y_i = y} p_{ik}

    0 where its answers are the same for every class, 1 where the class can be told from the answer. ``teacher``:
    log-probabilities ``(N, K)``; ``labels`` ``(N,)`` of two classes or more.
    """
    rows = labels.unique(return_inverse=True)[1]  # (N,)
    joint = torch.zeros(int(rows.max()) + 1, teacher.shape[1], dtype=torch.double)  # (C, K)
    joint.index_add_(0, rows, teacher.double().exp())
    joint /= joint.sum()
    classes, answers = joint.sum(1), joint.sum(0)  # (C,), (K,)
    product = classes[:, None] * answers
    information = torch.where(joint > 0, joint * (joint / product).log(), 0).sum()
    return float(information / -(classes * classes.log()).sum())


def mapped_accuracy(teacher: Tensor, labels: Tensor, mapping: Tensor) -> float:
    """Accuracy, mean per class, of the ImageNet network through the class mapping: arg max of the summed probabilities.

    It is over the classes that have an ImageNet class; NaN where none has. ``teacher``: log-probabilities ``(N, K)``;
    ``labels`` ``(N,)``; ``mapping``: :func:`asg.metrics.class_map` ``(K, C)``.
    """
    known = mapping.sum(0)[labels] > 0
    if not known.any():
        return math.nan
    predicted = (teacher[known].exp() @ mapping).argmax(1)
    return mean_per_class(predicted, labels[known], mapping.shape[1])


def under_looks(
    network: Callable[[Tensor], tuple[Tensor, ...]], held: ImageSet, batch: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Look → accuracy (mean per class) and task loss (nats) on held-out synthetic images that have it.

    Who has learned the style of the source loses more by a change of it than who has learned the objects.
    """
    measures = {}
    for look in LOOKS:
        task = forward_all(network, with_look(held, look), batch, device)[0]
        measures[look] = {
            "accuracy": mean_per_class(task.argmax(1), held.labels, len(held.classes)),
            "loss": float(task_loss(task, held.labels)),
        }
    return measures
