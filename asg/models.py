"""Backbones with two heads: the frozen ImageNet classifier that is kept, and the task's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from asg import AsgError
from asg.config import RunConfig
from asg.contrastive import QUEUE, Contrast, Taps, compared_stages
from asg.folding import fold
from asg.grouping import backbone_groups
from asg.guidance import last_linear
from asg.weights import LITES, lite_weights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)  # pixels are (x − 127) / 128 in the EfficientNet-Lite release


class Student(nn.Module):
    """``uint8 (N, 3, H, W)`` → (task logits ``(N, C)``, ImageNet logits ``(N, K)``, features ``(N, D)``).

    The backbone and the task head (Linear → ReLU → Linear) are trained. The kept head is the
    ImageNet classifier, frozen. BatchNorm keeps its ImageNet statistics and trains its affine
    parameters (paper, section 4.1): the backbone stays in eval mode throughout (departure 7). The task
    head starts from a generator of its own (departure 8).
    """

    def __init__(
        self,
        backbone: nn.Module,
        kept_head: nn.Linear,
        classes: int,
        head_width: int,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.kept_head = kept_head.requires_grad_(False)
        self.task_head = nn.Sequential(
            nn.Linear(kept_head.in_features, head_width), nn.ReLU(), nn.Linear(head_width, classes)
        )
        for layer in (self.task_head[0], self.task_head[2]):  # torch's default, from our own generator
            bound = layer.in_features**-0.5
            for parameter in (layer.weight, layer.bias):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in normalisation)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.contrast: Contrast | None = None  # of runs that CSG regularises
        self.eval()

    def train(self, mode: bool = True) -> Student:
        """Always eval: no statistics move and nothing is dropped, in training too."""
        return super().train(False)

    def features(self, x: Tensor) -> Tensor:
        """Pooled backbone features ``(N, D)`` of uint8 images ``(N, 3, H, W)``."""
        x = (x.float() - self.mean) / self.std
        return self.backbone(x.contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor, contrast: bool = False) -> tuple:
        """Task logits ``(N, C)``, ImageNet logits ``(N, K)`` and pooled features ``(N, D)``.

        With ``contrast`` also the queries of :class:`~asg.contrastive.Contrast`, one ``(N, 128)`` a stage.
        """
        if not contrast:
            return self.heads(self.features(x))
        features, maps = self.features_and_maps(x, self.contrast.stages)
        return *self.heads(features), self.contrast.queries(maps)

    def features_and_maps(self, x: Tensor, stages: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """:meth:`features`, and the maps ``(N, D, H, W)`` of named modules of the backbone on the way there."""
        with Taps(self.backbone, stages) as taps:
            features = self.features(x)
        return features, taps.maps()

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`forward` gives of images whose pooled features ``(N, D)`` are known."""
        return self.task_head(features), self.kept_head(features), features

    def imagenet_logits(self, x: Tensor) -> Tensor:
        """Logits ``(N, K)`` of the backbone through the kept head."""
        return self.kept_head(self.features(x))


def create(library_and_name: str, pretrained: bool) -> tuple[nn.Module, tuple]:
    """The named ImageNet network and its (mean, std), each in [0, 1]; of torchvision the V1 weights, as in the paper.

    Raises :class:`AsgError` for an unknown library or name and when pretrained weights cannot be had.
    """
    library, _, name = library_and_name.partition(":")
    try:
        if library == "timm":
            network = timm.create_model(name, pretrained=pretrained)
            given = network.pretrained_cfg
            if isinstance(given.get("classifier"), tuple):
                raise AsgError(
                    f"The backbone {name} has several classifiers: choose one with a single linear classifier."
                )
            return network, (tuple(given["mean"]), tuple(given["std"]))
        if library == "torchvision":
            network = torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
            return network, IMAGENET
    except AsgError:
        raise
    except Exception as error:  # the libraries and their download clients raise a dozen kinds
        if not pretrained or "Unknown model" in str(error):
            raise AsgError(
                f"There is no backbone {name!r} in {library} ({error}): see `timm.list_models()` or "
                "`torchvision.models.list_models()`."
            ) from None
        raise AsgError(f"The weights of {library_and_name} cannot be had ({error}): {SUPPLY}") from None
    raise AsgError(f"The backbone {library_and_name!r} names no library: write timm:NAME or torchvision:NAME.")


SUPPLY = "download them elsewhere and give the state-dict file as `weights`."


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict (``.safetensors``, or a ``.pth`` of tensors) strictly; say what does not fit."""
    if not path.exists():
        raise AsgError(f"The weights file {path} is missing: {SUPPLY}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except PermissionError as error:
        raise AsgError(f"{path} may not be read ({error.strerror}): let it be readable for you.") from None
    except Exception as error:  # torch and safetensors raise a dozen kinds for a broken file
        raise AsgError(
            f"{path} cannot be read as a state dict of tensors ({type(error).__name__}): obtain it again."
        ) from None
    if not isinstance(state, dict):
        raise AsgError(f"{path} holds a {type(state).__name__}, not a state dict: save `network.state_dict()`.")
    own = network.state_dict()
    missing, unknown = [n for n in own if n not in state], [n for n in state if n not in own]
    other = [n for n in own if n in state and getattr(state[n], "shape", None) != own[n].shape]
    if wrong := [*missing, *unknown, *other]:
        raise AsgError(
            f"The weights in {path} do not fit {type(network).__name__} ({len(missing)} missing, {len(unknown)} "
            f"unknown, {len(other)} of another shape; first {wrong[0]}): give the backbone they were trained with."
        )
    network.load_state_dict(state)


def split_classifier(network: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """The network without its last linear layer, and that layer (the ImageNet classifier)."""
    if (name := last_linear(network)) is None:
        raise AsgError(f"{type(network).__name__} ends in no linear classifier: choose another backbone.")
    parent, _, leaf = name.rpartition(".")
    holder = network.get_submodule(parent)
    classifier = getattr(holder, leaf)
    setattr(holder, leaf, nn.Identity())
    return network, classifier


def imagenet_network(config: RunConfig) -> tuple[nn.Module, tuple]:
    """The network that a run starts from, with the weights that ``config`` names, and its (mean, std) in [0, 1]."""
    network, normalisation = create(config.backbone, pretrained=config.weights == "pretrained")
    if config.weights == "random":
        generator = torch.Generator().manual_seed(config.seed)
        for parameter in network.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
                nn.init.zeros_(module.bias)  # the libraries draw some of these from the global generator
    elif config.weights in LITES:
        load_weights(network, lite_weights(config.weights))
        normalisation = LITE
    elif config.weights != "pretrained":
        load_weights(network, Path(config.weights))
    if config.fold:
        fold(network, config.crop or config.size)
    return network, normalisation


def build(config: RunConfig, classes: int) -> Student:
    """The network of a run at its start: ImageNet weights, kept head, new task head from ``config.seed``."""
    network, normalisation = imagenet_network(config)
    backbone, kept_head = split_classifier(network)
    generator = torch.Generator().manual_seed(config.seed)
    student = Student(backbone, kept_head, classes, config.head_width, normalisation, generator)
    regulariser = config.regulariser
    if regulariser and regulariser.kind == "csg" and not config.adapt:  # rounds of self-training have none
        student.contrast = Contrast(compared_stages(backbone, config.backbone), regulariser.queue or QUEUE, generator)
    return student.to(memory_format=torch.channels_last)


def layer_groups(student: Student) -> dict[str, list[nn.Parameter]]:
    """Trained parameters by layer group (:func:`asg.grouping.backbone_groups`); the task head is last, ``head``.

    CSG's projectors, which are new too, have the head's rate.
    """
    # timm calls what is left around the classifier "head" too (ConvNeXt: a LayerNorm)
    groups = {"backbone_head" if k == "head" else k: v for k, v in backbone_groups(student.backbone).items()}
    projectors = [] if student.contrast is None else student.contrast.projectors.parameters()
    return {**groups, "head": [*projectors, *student.task_head.parameters()]}


def drift(student: Student, start: dict[str, list[Tensor]]) -> dict[str, float]:
    r"""Relative distance :math:`\|\theta - \theta_0\| / \|\theta_0\|` of each backbone group from ``start``."""
    moved = {}
    groups = layer_groups(student)
    for name, before in start.items():
        now = torch.cat([p.detach().flatten() for p in groups[name]])
        origin = torch.cat([p.flatten() for p in before])
        moved[name] = float((now - origin).norm() / origin.norm())
    return moved
