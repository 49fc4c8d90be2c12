"""What an evaluation measures, from logits that were computed once for each image and its mirror."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.functional.classification import binary_calibration_error

from asg import processes
from asg.data.images import UNLABELLED, ImageSet

BINS = 15  # of confidence, for the expected calibration error
NEAR = 0.02  # squared distance, as a share of the squared norms: below it float32 differences lose two digits
FLOOR = 1e-3  # least share that the product of heads gives a class, so that an unmapped class can win


def accuracy_per_class(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Share of right predictions of each class, ``(classes,)``; NaN for a class without images."""
    right = torch.zeros(classes).index_add_(0, labels, (predicted == labels).float())
    return right / torch.bincount(labels, minlength=classes)


def mean_per_class(predicted: Tensor, labels: Tensor, classes: int) -> float:
    """VisDA-17's metric: the mean of the per-class accuracies, over the classes that have images."""
    return float(accuracy_per_class(predicted, labels, classes).nanmean())


def mean_error(values: Tensor, cluster: Tensor | None = None) -> float | None:
    r"""Standard error of the mean of ``values`` ``(N,)`` that come in G independent clusters ``(N,)``.

    Renders of one design err alike. With the sum of the deviations of each cluster in place of each deviation
    (Liang and Zeger 1986, with the factor that makes it unbiased for clusters of one size),

    .. math:: \sqrt{\frac{G}{G - 1} \sum_{g=1}^{G} \Big(\frac1N \sum_{i \in g} (x_i - \bar x)\Big)^2},

    which is :math:`s / \sqrt N` where each value is a cluster of its own (``cluster`` None). One cluster does not
    say how much clusters differ: None.
    """
    values, ids = values.double(), torch.arange(len(values))
    if cluster is not None:
        ids = cluster.unique(return_inverse=True)[1]
    count = int(ids.max()) + 1
    if count < 2:
        return None
    sums = torch.zeros(count, dtype=torch.double).index_add_(0, ids, values - values.mean())
    return float((count / (count - 1) * sums.square().sum()).sqrt() / len(values))


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
    """Outputs of ``network`` for every image in order, on the CPU; of their mirror images if asked.

    Several processes take the batches in turn, and each gets the outputs of all: the same as one process computes.
    """
    outputs = {}
    for first in range(processes.index() * batch, len(images), processes.count() * batch):
        x = images.batch(range(first, min(first + batch, len(images)))).to(device)  # (N, 3, H, W)
        outputs[first] = tuple(o.float().cpu() for o in network(x.flip(3) if mirror else x))
    everything = {first: columns for part in processes.gathered(outputs) for first, columns in part.items()}
    return tuple(torch.cat(column) for column in zip(*(everything[k] for k in sorted(everything)), strict=True))


def answers(plain: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each image ``(N,)`` and how sure it is, from task logits ``(N, C)`` of image and mirror image.

    The class is the arg max of the mean sigmoid (paper, section 4.1), its confidence the mean softmax probability of
    that class. Where a mirror image is another thing, give the image's own logits twice.
    """
    predicted, sure = ranked(plain, mirrored, 1)
    return predicted[:, 0], sure[:, 0]


def ranked(plain: Tensor, mirrored: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The ``top`` classes of each image and how sure each is, ``(N, top)`` both, by the rule of :func:`answers`."""
    scores, probabilities = of_both(plain, mirrored)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return order, probabilities.gather(1, order).clamp(0, 1)  # torchmetrics takes a rounded 1 for a logit


def of_both(plain: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Mean sigmoid and mean softmax ``(N, C)`` of an image and its mirror image."""
    return (plain.sigmoid() + mirrored.sigmoid()) / 2, (plain.softmax(1) + mirrored.softmax(1)) / 2


def evaluate_photos(
    plain: tuple[Tensor, Tensor],
    mirrored: tuple[Tensor, Tensor],
    photos: ImageSet,
    reference: Tensor,
    mapping: Tensor | None,
) -> dict:
    r"""Every number about the target images.

    ``plain`` and ``mirrored``: (task logits ``(N, C)``, kept-head logits ``(N, K)``) of the images
    and of their mirrors; ``reference``: the ImageNet network's kept-head logits ``(N, K)``;
    ``mapping``: :func:`class_map` or None.

    - ``accuracy``: share of right :func:`answers`, mean per class.
    - ``agreement``: share of photos on which the kept head's top-1 is the ImageNet network's.
    - ``imagenet``: true top-1 of the kept head on photos that have an ImageNet class.
    - ``kept``: accuracy through the kept head and the class mapping.
    - ``product``: accuracy of the product of both heads' class probabilities (departure 9, ours).
    - ``predicted``, ``confidence``: the :func:`answers`.
    - ``ece``: expected calibration error :math:`\sum_b \frac{n_b}{N} |\mathrm{acc}_b - \mathrm{conf}_b|` of these.

    Of images without any label ``agreement``, ``predicted`` and ``confidence`` alone.
    """
    count = len(photos.classes)
    (predicted, confidence), top1 = answers(plain[0], mirrored[0]), plain[1].argmax(1)
    agreement = float((top1 == reference.argmax(1)).float().mean())
    answered = {"predicted": predicted.tolist(), "confidence": [round(c, 4) for c in confidence.tolist()]}
    if bool((photos.labels == UNLABELLED).all()):
        return {"agreement": agreement, **answered}
    per_class = accuracy_per_class(predicted, photos.labels, count)
    numbers = {
        "accuracy": float(per_class.nanmean()),
        "overall": float((predicted == photos.labels).float().mean()),
        "per_class": {c: float(a) for c, a in zip(photos.classes, per_class, strict=True) if not a.isnan()},
        "agreement": agreement,
        **answered,
        "ece": float(binary_calibration_error(confidence, (predicted == photos.labels).long(), n_bins=BINS)),
    }
    if photos.imagenet is not None and (known := photos.imagenet != UNLABELLED).any():
        numbers["imagenet"] = float((top1 == photos.imagenet)[known].float().mean())
    if mapping is not None:
        kept_probabilities = (plain[1].softmax(1) @ mapping + mirrored[1].softmax(1) @ mapping) / 2
        numbers["kept"] = mean_per_class(kept_probabilities.argmax(1), photos.labels, count)
        both = (plain[0].softmax(1) + mirrored[0].softmax(1)) / 2
        numbers["product"] = mean_per_class((both * (kept_probabilities + FLOOR)).argmax(1), photos.labels, count)
    return numbers


def hyperspherical_energy(features: Tensor, device: torch.device, block: int = 512) -> tuple[float, float, float]:
    r"""Mean energy of pairs of unit-length features at powers s = 0, 1, 2; lower is more diverse (CSG, section 3.1).

    .. math:: \frac{1}{N(N-1)} \sum_{i \ne j} \|\hat v_i - \hat v_j\|^{-s} \quad (s > 0), \qquad
              \frac{1}{N(N-1)} \sum_{i \ne j} \log \|\hat v_i - \hat v_j\|^{-2} \quad (s = 0)

    At s = 0 the printed formula has the exponent −1; the published values have −2, and so has this: twice the
    formula (departure 29). Pairs nearer than 10⁻³ count as that far apart, so that two equal features do not make it
    infinite; a feature of zeros has no direction and stays at the origin.

    ``features`` ``(N, D)``, N > 1, in host memory. Squared distances come from one Gram matrix of the centred unit
    features in float32, on ``device``, whose ``block`` × ``block`` pieces on and above the diagonal are made one
    at a time: N²·D operations, and memory for a copy of the features and a piece. Where a row of a piece holds a pair
    so near that the subtraction may have cost two digits, that row is computed again in float64 on the host.
    """
    count, pieces = len(features), range(0, len(features), block)

    def unit(first: int) -> Tensor:  # (B, D); float64
        return normalize(features[first : first + block].double(), dim=1)

    mean = sum(unit(first).sum(0) for first in pieces) / count
    centred = torch.empty(features.shape, device=device)  # moves no distance; float32 loses fewer digits near 0
    for first in pieces:
        centred[first : first + block] = (unit(first) - mean).float()
    norms = centred.square().sum(1)  # (N,)
    energies = [0.0, -float(count), -float(count)]  # each image's distance from itself is set to 1 below
    for first in pieces:
        rows, ours = centred[first : first + block], norms[first : first + block, None]
        for other in range(first, count, block):
            theirs = norms[other : other + block]
            squared = torch.addmm(theirs, rows, centred[other : other + block].T, alpha=-2).add_(ours)  # (B, B)
            if other == first:
                squared.fill_diagonal_(1.0)
            near = (squared.amin(1) < NEAR * (ours[:, 0] + theirs.max())).nonzero()[:, 0]
            if len(near):
                a, b = unit(first)[near.cpu()], unit(other)
                exact = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
                squared[near] = exact.float().to(device)
            if other == first:
                squared.fill_diagonal_(1.0)
            twice = 1 if other == first else 2  # a piece above the diagonal stands for the one below
            inverse = squared.clamp_min_(1e-6).reciprocal()
            energies[0] -= twice * float(squared.log_().sum())
            energies[2] += twice * float(inverse.sum())
            energies[1] += twice * float(inverse.sqrt_().sum())
    return tuple(energy / (count * (count - 1)) for energy in energies)


def linear_cka(a: Tensor, b: Tensor) -> float:
    r"""Likeness of two representations of the same images, 1 where one is a rotation and scaling of the other.

    .. math:: \frac{\|\bar A^\top \bar B\|_F^2}{\|\bar A^\top \bar A\|_F \, \|\bar B^\top \bar B\|_F}

    ``a`` ``(N, D)`` and ``b`` ``(N, E)``, centred over the images (Kornblith et al. 2019). Computed
    from the smaller of the N × N and D × E products, which give the same number. Representations that do not
    tell the images apart are like nothing: 0.
    """
    a, b = (m.double() - m.double().mean(0) for m in (a, b))
    if not (a.any() and b.any()):
        return 0.0
    if len(a) <= max(a.shape[1], b.shape[1]):
        k, m = a @ a.T, b @ b.T  # (N, N)
        return float((k * m).sum() / (k.norm() * m.norm()))
    return float((a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm()))
