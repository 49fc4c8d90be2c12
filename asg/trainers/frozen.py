"""What the untouched ImageNet network says about images: computed once, kept on disk."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from asg import AsgError, processes
from asg.data import cache_root
from asg.data.images import ImageSet, make_folder
from asg.folding import is_folded
from asg.metrics import forward_all
from asg.models import Student
from asg.recipes import version
from asg.tensors import write_tensors

log = logging.getLogger(__name__)

Outputs = Callable[[Tensor, Tensor], Tensor]  # of the indices (N,) and images (N, 3, H, W) of a batch


def evaluation_batch(device: torch.device) -> int:
    """Images of one forward pass without gradient: on a CPU as few as its caches hold the activations of."""
    return 16 if device.type == "cpu" else 64


def log_probabilities(
    student: Student, images: ImageSet, device: torch.device, precision: Literal["fp16"] | None = None
) -> Tensor:
    """Log-softmax ``(N, K)`` of the ImageNet network on ``images``: the teacher of the proxy guidance.

    ASG feeds its network without augmentation, so the teacher's outputs are constants of the images
    and the weights (departure 3). ``student`` must still be at its start. On a CPU they are a map of their file,
    which processes share. ``precision``: that of :func:`batch_answers`.
    """
    kind = torch.float16 if precision == "fp16" else torch.float32
    return _outputs(
        "teacher", student, images, device, lambda x: (student.imagenet_logits(x).log_softmax(1),), kind=kind
    )


def features(student: Student, images: ImageSet, device: torch.device, mirror: bool = False) -> Tensor:
    """Pooled features ``(N, D)`` of the ImageNet network on ``images`` or their mirror images.

    No weight of ``student``'s backbone may have moved from its start.
    """
    return _outputs("features", student, images, device, lambda x: (student.features(x),), mirror)


def batch_answers(
    student: Student, images: ImageSet, device: torch.device, precision: Literal["fp16"] | None = None
) -> Outputs:
    """:func:`log_probabilities` batch by batch: looked up, or computed where each step sees other pixels.

    In ``fp16`` what is looked up is rounded: it takes half the memory and disk, and each log-probability is off by a
    share of :math:`2^{-11}` at most (departure 3). A batch is float32.
    """
    if images.augmentation is not None:
        return _live(student, lambda network, x: network.imagenet_logits(x).log_softmax(1))
    return _looked_up(log_probabilities(student, images, device, precision).to(device))


def batch_features(student: Student, images: ImageSet, device: torch.device) -> Outputs:
    """:func:`features` batch by batch, in the same two ways."""
    if images.augmentation is not None:
        return _live(student, lambda network, x: network.features(x))
    return _looked_up(features(student, images, device).to(device))


def _looked_up(outputs: Tensor) -> Outputs:
    return lambda indices, x: outputs[indices].float()


def _live(student: Student, network: Callable[[Student, Tensor], Tensor]) -> Outputs:
    untouched = copy.deepcopy(student).requires_grad_(False)

    def answers(indices: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return network(untouched, x)

    return answers


@torch.inference_mode()
def outputs(student: Student, images: ImageSet, device: torch.device, mirror: bool = False) -> tuple[Tensor, ...]:
    """Task logits, ImageNet logits and features of ``images``, as :func:`asg.metrics.forward_all` gives them.

    For a student whose backbone has not moved: both heads on :func:`features`.
    """
    return tuple(output.cpu() for output in student.heads(features(student, images, device, mirror).to(device)))


def _outputs(
    what: str,
    student: Student,
    images: ImageSet,
    device: torch.device,
    network: Callable,
    mirror: bool = False,
    kind: torch.dtype = torch.float32,
) -> Tensor:
    def compute() -> dict[str, Tensor]:
        return {what: forward_all(network, images, evaluation_batch(device), device, mirror)[0].to(kind)}

    rounded = "-fp16" if kind == torch.float16 else ""
    name = f"{images.fingerprint}{'-mirror' * mirror}-{fingerprint(student)}{rounded}"
    return cached(what, name, device, compute)[what]


def cached(what: str, name: str, device: torch.device, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that ``compute`` gives, from the file ``name`` if they were computed before.

    Of several processes the main one computes, and the others read the file.
    The file is also named by the version of what computes it (:mod:`asg.recipes`), and by the device and its threads,
    since the last bit depends on how sums are split.
    """
    split = f"cpu{torch.get_num_threads()}" if device.type == "cpu" else device.type
    path = cache_root() / what / f"{version(what)}-{name}-{split}.safetensors"

    def write() -> None:
        log.debug("computing %s of the ImageNet network, kept in %s", what, path)
        make_folder(path.parent)
        try:
            write_tensors(path, compute())
        except OSError as error:
            raise AsgError(f"What was computed cannot be kept in {path.parent} ({error}): free some space.") from None

    processes.written(path, write)
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own kind for a broken file
        raise AsgError(f"{path} is damaged ({error}): remove it, and it is computed again.") from None


def fingerprint(student: Student) -> str:
    """Hash (12 hex digits) of the backbone and kept head, to name what was computed with them."""
    digest = hashlib.sha256()
    for part in (student.backbone, student.kept_head):
        for value in part.state_dict().values():
            digest.update(value.cpu().contiguous().numpy().tobytes())
    if is_folded(student.backbone):  # the same up to rounding, which a result must not owe to who came first
        digest.update(b"folded")
    for value in (student.mean, student.std):  # the same weights may stand behind another normalisation
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
