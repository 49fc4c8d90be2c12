"""A look inside trained networks: what they answer, how they see images, where they look."""

from collections.abc import Sequence

import numpy as np
import torch
from captum.attr import LayerGradCam
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from timm.data import ImageNetInfo
from torch import Tensor

from asg.data.images import ImageSet
from asg.data.segmentation import SegmentationSet
from asg.dense_models import DenseStudent
from asg.metrics import forward_all
from asg.models import Student
from asg.trainers.frozen import evaluation_batch


def view(student: Student, images: ImageSet, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Task logits ``(N, C)``, ImageNet logits ``(N, K)`` and features ``(N, D)`` of all images."""
    where = torch.device(device)
    return forward_all(student.to(where), images, evaluation_batch(where), where)


@torch.inference_mode()
def label_maps(student: DenseStudent, images: SegmentationSet, chosen: Sequence[int]) -> list[np.ndarray]:
    """The class ``(H, W)`` that a network gives every pixel of some whole images."""
    return [student(images[i][1][None])[0].argmax(1)[0].numpy() for i in chosen]


def answers(student: Student, images: ImageSet, head: str) -> list[int]:
    """The class that a head (``task_head`` or ``kept_head``) gives each image."""
    return view(student, images)[0 if head == "task_head" else 1].argmax(1).tolist()


def names_of(predicted: Sequence[int], head: str, classes: Sequence[str]) -> list[str]:
    """The name of each class that a head gives: of ``classes``, or of the kept head the first of ImageNet's names."""
    imagenet = ImageNetInfo().index_to_description
    return [classes[k] if head == "task_head" else imagenet(k).split(",")[0] for k in predicted]


def titles(images: ImageSet, seen: dict[str, list[int]], heads: dict[str, str]) -> list[list[str]]:
    """For each image its class, then the name of what each network answers (see :func:`answers`)."""
    columns = [names_of(images.labels.tolist(), "task_head", images.classes)]
    columns += [names_of(predicted, heads[network], images.classes) for network, predicted in seen.items()]
    return [list(row) for row in zip(*columns, strict=True)]


def embedding(features: Tensor) -> np.ndarray:
    """Points ``(N, 2)`` where features ``(N, D)`` lie by t-SNE, of their 50 first principal components at most."""
    parts = PCA(min(50, *features.shape), random_state=0).fit_transform(features.numpy())
    return TSNE(random_state=0, init="pca", perplexity=30).fit_transform(parts)


def grad_cam(student: Student, images: ImageSet, layer: str, head: str, targets: Sequence[int]) -> np.ndarray:
    r"""Where a network looks for class ``targets[i]`` in image i: Grad-CAM at a layer (Selvaraju et al. 2017).

    .. math:: \mathrm{ReLU}\Big(\sum_c \alpha_c A^c\Big), \qquad
              \alpha_c = \tfrac{1}{hw}\sum_{ij} \partial y / \partial A^c_{ij}

    ``layer`` names a module of the backbone, ``head`` is ``task_head`` or ``kept_head``. Returns ``(N, h, w)`` in
    [0, 1], as coarse as the layer, the maximum of each map 1 where the class has any support.
    """
    answer = getattr(student, head)
    x = (images.batch(range(len(images))).float() - student.mean.cpu()) / student.std.cpu()  # (N, 3, H, W)
    camera = LayerGradCam(lambda x: answer(student.backbone(x)), student.backbone.get_submodule(layer))
    coarse = camera.attribute(x.to(student.mean.device), torch.tensor(targets, device=student.mean.device))
    maps = coarse.relu().detach().cpu()[:, 0]  # (N, 1, h, w) → (N, h, w)
    return (maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-9)).numpy()
