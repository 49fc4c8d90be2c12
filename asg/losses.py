"""Losses as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy :math:`-\frac1N\sum_i \log p_i(y_i)` of logits ``(N, C)`` and labels ``(N,)``, in nats."""
    return F.cross_entropy(logits, labels)


def proxy_guidance(new_logits: Tensor, old_log_probabilities: Tensor) -> Tensor:
    r"""Mean Kullback–Leibler divergence of the trained network from the ImageNet network, in nats.

    .. math:: \frac1N \sum_i \mathrm{KL}(f_\mathrm{old}(x_i) \,\|\, f_\mathrm{new}(x_i))
              = \frac1N \sum_i \sum_k q_{ik} (\log q_{ik} - \log p_{ik})

    ``new_logits`` ``(N, K)``: the trained backbone through the frozen ImageNet head;
    ``old_log_probabilities`` ``(N, K)``: log-softmax of the frozen ImageNet network on the same
    synthetic images. Source: the paper, section 3.1; the mean is over the batch.

    >>> import torch
    >>> x = torch.randn(4, 10)
    >>> bool(proxy_guidance(x, x.log_softmax(1)).abs() < 1e-6)
    True
    """
    return F.kl_div(new_logits.log_softmax(1), old_log_probabilities, log_target=True, reduction="batchmean")


def feature_distance(features: Tensor, frozen: Tensor) -> Tensor:
    r"""Mean squared distance :math:`\frac1N \sum_i \|f_\theta(x_i) - f_0(x_i)\|^2` of features ``(N, D)`` (ROAD)."""
    return (features - frozen).square().sum(1).mean()


def weight_distance(
    weights: Sequence[Tensor], start: Sequence[Tensor], importance: Sequence[Tensor] | None = None
) -> Tensor:
    r"""Squared distance :math:`\frac12 \sum_k \Omega_k (\theta_k - \theta_{0k})^2` of weights from their start.

    Without importances Ω is 1: L2-SP's penalty. Elastic weight consolidation and synaptic intelligence
    give each weight its own.
    """
    importance = importance or [torch.ones(())] * len(weights)
    parts = [(i * (w - s).square()).sum() for w, s, i in zip(weights, start, importance, strict=True)]
    return torch.stack(parts).sum() / 2
