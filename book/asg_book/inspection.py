"""A look inside trained networks: what they answer, how they see images, where they look."""

from collections.abc import Sequence

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from timm.data import ImageNetInfo
from torch import Tensor

from asg.data.images import ImageSet
from asg.data.segmentation import SegmentationSet
from asg.dense_models import DenseStudent
from asg.metrics import forward_all
from asg.models import Student


def view(student: Student, images: ImageSet, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Task logits ``(N, C)``, ImageNet logits ``(N, K)`` and features ``(N, D)`` of all images."""
    return forward_all(student.to(device), images, 64, torch.device(device))


@torch.inference_mode()
def label_maps(student: DenseStudent, images: SegmentationSet, chosen: Sequence[int]) -> list[np.ndarray]:
    """The class ``(H, W)`` that a network gives every pixel of some whole images."""
    return [student(images[i][1][None])[0].argmax(1)[0].numpy() for i in chosen]


def answers(student: Student, images: ImageSet, head: str) -> list[int]:
    """The class that a head (``task_head`` or ``kept_head``) gives each image."""
    return view(student, images)[0 if head == "task_head" else 1].argmax(1).tolist()


def titles(images: ImageSet, seen: dict[str, list[int]], heads: dict[str, str]) -> list[list[str]]:
    """For each image its class, then the name of what each network answers (see :func:`answers`)."""
    imagenet = ImageNetInfo().index_to_description
    return [
        [images.classes[int(images.labels[i])]]
        + [images.classes[k[i]] if heads[n] == "task_head" else imagenet(k[i]).split(",")[0] for n, k in seen.items()]
        for i in range(len(images))
    ]


def grad_cam(student: Student, images: ImageSet, layer: str, head: str, targets: Sequence[int]) -> list[np.ndarray]:
    r"""Where a network looks for class ``targets[i]`` in image i: Grad-CAM at a layer (Selvaraju et al. 2017).

    .. math:: \mathrm{ReLU}\Big(\sum_c \alpha_c A^c\Big), \qquad
              \alpha_c = \tfrac{1}{hw}\sum_{ij} \partial y / \partial A^c_{ij}

    ``layer`` names a module of the backbone, ``head`` is ``task_head`` or ``kept_head``. Each map is
    ``(H, W)`` in [0, 1], enlarged to the image, its maximum 1 where the class has any support.
    """
    answer = getattr(student, head)
    x = (images.batch(range(len(images))).float() - student.mean.cpu()) / student.std.cpu()  # (N, 3, H, W)
    camera = LayerGradCam(lambda x: answer(student.backbone(x)), student.backbone.get_submodule(layer))
    coarse = camera.attribute(x.to(student.mean.device), torch.tensor(targets, device=student.mean.device))
    maps = LayerAttribution.interpolate(coarse, x.shape[2:], "bilinear").relu().detach().cpu()  # (N, 1, H, W)
    return [(one / one.max().clamp_min(1e-9)).numpy() for one in maps[:, 0]]
