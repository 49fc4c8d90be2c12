r"""Self-training: which of a network's own answers on unlabelled images become its labels, and how it learns them.

Class-balanced self-training (CBST, Zou et al. 2018) and its confidence regularisation (CRST, Zou et al. 2019). In
each round, pseudo-labels :math:`\hat y` in the simplex, or 0 for "not selected", minimise

.. math:: C(\hat y) = -\sum_c \hat y_c \log\frac{p_c}{\lambda_c} + \alpha \sum_c \hat y_c \log \hat y_c,
          \qquad C(0) = 0, \qquad \lambda_c = e^{-k_c}

per sample or pixel; then the network is trained on them. α = 0 is CBST (:func:`hard_labels`) and α > 0
CRST-LRENT (:func:`soft_labels`). An answer that costs exactly 0 is selected here, where the papers ask for less
than 0: the sample that sets a CBST threshold is such a tie, and so is every sample of a class whose threshold is 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asg import AsgError
from asg.data.images import UNLABELLED
from asg.dense_losses import segmentation_loss
from asg.dense_metrics import confusion_matrix

HALVINGS, BINS = 24, 1024  # of 1 − p, down to float32's 2⁻²⁴, and histogram bins for each


def class_thresholds(confidence: Tensor, predicted: Tensor, classes: int, portion: float) -> Tensor:
    r"""Thresholds :math:`\lambda_c = e^{-k_c}`, ``(classes,)``, that the share ``portion`` of every class reaches.

    ``confidence`` ``(N,)``: the largest probability of each sample; ``predicted`` ``(N,)``: its class. λ_c is the
    confidence at rank ⌊portion · n_c⌋, sorted descending, among the n_c samples predicted as
    c. Samples that tie with it reach it too; with portion 1 all do. Where the rank is 0 (portion 0, a class never
    predicted or too rarely) λ_c is 1, its upper bound. Source: CBST, its algorithm for k_c.
    """
    _require_numbers(confidence)
    ranks = _ranks(predicted.bincount(minlength=classes), portion)
    thresholds = torch.ones(classes, dtype=confidence.dtype, device=confidence.device)
    for c in ranks.nonzero().flatten().tolist():
        thresholds[c] = confidence[predicted == c].sort(descending=True).values[ranks[c] - 1]
    return thresholds


class ConfidenceHistograms:
    r"""The thresholds of :func:`class_thresholds` for any number of pixels, in the memory of one histogram a class.

    Bins are fine where networks are sure: their lower edges are :math:`1 - 2^{-j/1024}`, j = 0 … 24 · 1024, and 1.
    A threshold is the lower edge of the bin that holds the exact one: never above it, and 1 − λ is at most 0.07 %
    larger than exact (near 1, λ is at most 2⁻²⁴ smaller). So every pixel that the exact threshold selects is
    selected, and besides only those in the same bin. 19 classes take 3.7 MB.
    """

    def __init__(self, classes: int) -> None:
        self.edges = torch.cat((1 - torch.exp2(-torch.arange(HALVINGS * BINS + 1).double() / BINS), torch.ones(1)))
        self.counts = torch.zeros(classes, len(self.edges), dtype=torch.int64)

    def add(self, confidence: Tensor, predicted: Tensor) -> None:
        """Count a batch: confidences and predicted classes of one shape, any, on any device."""
        _require_numbers(confidence)
        edges = self.edges.to(confidence.device)
        bins = torch.bucketize(confidence.double(), edges, right=True) - 1  # edges[bin] ≤ confidence < edges[bin + 1]
        flat = (predicted.long() * len(edges) + bins).flatten().bincount(minlength=self.counts.numel())
        self.counts += flat.view_as(self.counts).cpu()  # (C · bins,) → (C, bins)

    def thresholds(self, portion: float) -> Tensor:
        """Thresholds ``(C,)`` of all pixels so far, float64, by the rule of :func:`class_thresholds`."""
        ranks = _ranks(self.counts.sum(1), portion)
        reached = self.counts.flip(1).cumsum(1) >= ranks[:, None]  # (C, bins), the surest first, which rank 0 reaches
        return self.edges.flip(0)[reached.int().argmax(1)]


def hard_labels(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    r"""CBST's pseudo-labels: :math:`\arg\max_c p_c / \lambda_c` where that ratio is at least 1, else UNLABELLED.

    ``probabilities`` ``(N, C, ...)``, ``thresholds`` ``(C,)`` → long ``(N, ...)``. The class need not be the one
    predicted: dividing by λ favours classes that the network is less sure of.
    """
    ratio, labels = (probabilities / _along_classes(thresholds, probabilities)).max(1)
    return labels.where(ratio >= 1, UNLABELLED)


def soft_labels(probabilities: Tensor, thresholds: Tensor, alpha: float) -> Tensor:
    r"""CRST-LRENT's pseudo-labels :math:`\hat y_c \propto (p_c / \lambda_c)^{1/\alpha}`, all 0 where not selected.

    Selected where :math:`C(\hat y) = -\alpha \log \sum_c (p_c / \lambda_c)^{1/\alpha} \le 0`: whatever
    :func:`hard_labels` selects, and samples with several likely classes. Up to rounding, α ≥ 1 selects every
    sample, since λ ≤ 1. ``probabilities`` ``(N, C, ...)``, ``thresholds`` ``(C,)`` → ``(N, C, ...)``.
    """
    if alpha <= 0:
        raise AsgError(f"The weight alpha of soft pseudo-labels is {alpha}: choose it above 0, or use hard labels.")
    scores = (probabilities.log() - _along_classes(thresholds, probabilities).log()) / alpha  # (N, C, ...)
    return scores.softmax(1).where(scores.logsumexp(1, keepdim=True) >= 0, 0.0)


def self_training_loss(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Cross-entropy :math:`-\sum_c \hat y_c \log p_c` in nats, averaged over what is selected; 0 where nothing is.

    ``logits`` ``(N, C, ...)``; ``targets``: :func:`hard_labels` ``(N, ...)`` or :func:`soft_labels`
    ``(N, C, ...)``, told apart by their type.
    """
    if not targets.is_floating_point():
        return segmentation_loss(logits, targets)
    return F.cross_entropy(logits, targets, reduction="sum") / (targets.sum(1) > 0).sum().clamp_min(1)


def mrkld(logits: Tensor, selected: Tensor, alpha: float) -> Tensor:
    r"""CRST's model regulariser: α times the mean of :math:`-\frac1C \sum_c \log p_c` over ``selected``, in nats.

    That is :math:`\mathrm{KL}(\text{uniform} \,\|\, p) + \log C`, whose constant the paper leaves in: α log C for
    uniform answers, never less. ``logits`` ``(N, C, ...)``, boolean ``selected`` ``(N, ...)``; 0 where nothing is
    selected.
    """
    return -alpha * logits.log_softmax(1).mean(1)[selected].sum() / selected.sum().clamp_min(1)


def selection_matrix(labels: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Counts ``(C, C + 1)`` of :func:`hard_labels` against the truth; sum them over a whole set.

    Rows are the truth and columns the pseudo-labels; the last column is what was not selected. Pixels whose
    truth is UNLABELLED do not count.
    """
    chosen = labels != UNLABELLED
    left = confusion_matrix(torch.zeros_like(labels[~chosen]), truth[~chosen], classes)[:, :1]  # (C, 1)
    return torch.cat((confusion_matrix(labels[chosen], truth[chosen], classes), left), 1)


def precision_per_class(matrix: Tensor) -> Tensor:
    """Share of the pseudo-labels of each class that are right, ``(C,)``, of a :func:`selection_matrix`; NaN if none."""
    return matrix.diagonal().double() / matrix[:, :-1].sum(0)


def coverage_per_class(matrix: Tensor) -> Tensor:
    """Share of each true class that got a pseudo-label, right or wrong, ``(C,)``; NaN for a class not in the truth."""
    return matrix[:, :-1].sum(1).double() / matrix.sum(1)


def _require_numbers(confidence: Tensor) -> None:
    if bool(confidence.isnan().any()):
        raise AsgError("The network's probabilities are not numbers: its training diverged, so lower its rates.")


def _ranks(counts: Tensor, portion: float) -> Tensor:
    if not 0 <= portion <= 1:
        raise AsgError(f"The portion of pseudo-labels is {portion}: choose a share from 0 to 1.")
    return (portion * counts.double()).floor().long()  # (C,)


def _along_classes(thresholds: Tensor, probabilities: Tensor) -> Tensor:
    return thresholds.to(probabilities).view(-1, *[1] * (probabilities.dim() - 2))  # (C,) → (C, 1, …)
