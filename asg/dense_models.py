"""Networks that answer at every pixel, beside the frozen ImageNet classifier that is kept."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from timm.models import EfficientNet
from torch import Tensor, nn
from torch.nn.utils import skip_init
from torchvision.models import VGG, ResNet
from torchvision.models.resnet import Bottleneck
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import FeaturePyramidNetwork

from asg import AsgError
from asg.config import RunConfig
from asg.contrastive import QUEUE, Contrast
from asg.dense_losses import cut
from asg.models import imagenet_network

DILATIONS = (6, 12, 18, 24)  # of DeepLab-v2's head
RATES, WIDTH = (12, 24, 36), 256  # dilations and channels of DeepLab-v3's, as CSG has it
PYRAMID = 128  # channels of the feature pyramid


class DenseStudent(nn.Module):
    """``uint8 (N, 3, H, W)`` → (task logits ``(N, C, H, W)``, guidance map ``(N, D, h, w)``).

    The contract is that of :class:`asg.models.Student`: backbone and task head are trained, the kept head
    is the frozen ImageNet classifier, BatchNorm and dropout of the backbone stay in eval mode, pixels are normalised
    inside. ``asg.models.layer_groups`` and ``drift`` apply as they are.

    ``backbone``: the stages in order (:func:`stages`); ``taps``: those whose maps the task head reads,
    coarse to fine; ``guide``: the one whose map the ImageNet classifier reads, averaged to ``side × side`` cells;
    ``compared``: those that CSG compares, with their channels, the last one ``guide``.
    """

    def __init__(
        self,
        backbone: nn.Sequential,
        taps: Sequence[str],
        guide: str,
        kept_head: nn.Module,
        side: int,
        task_head: nn.Module,
        normalisation: tuple[tuple[float, ...], tuple[float, ...]],
        compared: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.compared, self.contrast = compared or {}, None  # Contrast, of runs that CSG regularises
        self.backbone, self.taps, self.guide, self.side = backbone, tuple(taps), guide, side
        self.kept_head, self.task_head = kept_head.requires_grad_(False), task_head
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in normalisation)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.eval()

    def train(self, mode: bool = True) -> DenseStudent:
        """Backbone and kept head stay in eval mode (departure 7); the task head, which is new, has the one asked for.

        Only DeepLab-v3's head tells the modes apart: it has BatchNorms, whose statistics it must learn, and dropout.
        """
        super().train(False)
        self.task_head.train(mode)
        return self

    def maps(self, x: Tensor, last: str | None = None) -> dict[str, Tensor]:
        """The maps of ``taps`` and ``guide`` by name, of uint8 images ``(N, 3, H, W)``; none after stage ``last``."""
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        maps = {}
        for name, stage in stages(self.backbone):
            x = stage(x)
            if name in (*self.taps, self.guide, *self.compared):
                maps[name] = x
            if name == last:
                break
        return maps

    def forward(self, x: Tensor, contrast: int = 0) -> tuple:
        """Task logits ``(N, C, H, W)`` and the map ``(N, D, h, w)`` that :meth:`kept_logits` takes.

        With ``contrast`` pieces a side also the queries of CSG, one ``(N · contrast², 128)`` a stage.
        """
        maps = self.maps(x)
        answers = self.task_head([maps[name] for name in self.taps], x.shape[-2:]), maps[self.guide]
        if not contrast:
            return answers
        return *answers, self.contrast.queries([maps[name] for name in self.compared], contrast)

    def kept_logits(self, features: Tensor, chunks: int = 1) -> Tensor:
        """ImageNet logits ``(N · chunks², K)`` of a guidance map ``(N, D, h, w)`` cut into ``chunks × chunks``."""
        return self.kept_head(cut(features, chunks, self.side))

    def imagenet_logits(self, x: Tensor, chunks: int = 1) -> Tensor:
        """ImageNet logits ``(N · chunks², K)`` of uint8 images ``(N, 3, H, W)``; stages after the map are not run."""
        return self.kept_logits(self.maps(x, self.guide)[self.guide], chunks)

    def teacher(self) -> DenseStudent:
        """A frozen copy of the network as it stands; ask it for :meth:`imagenet_logits` alone.

        Taken before the first step it is the untouched ImageNet network. The kept head is shared, and
        what the ImageNet network does not have (task head, FCN's fc6-7) is left out.
        """
        names, modules = zip(*stages(self.backbone), strict=True)
        spare = [self.task_head, *modules[names.index(self.guide) + 1 :]]
        spare += [self.contrast] if self.contrast is not None else []
        memo = {id(self.kept_head): self.kept_head, **{id(module): nn.Identity() for module in spare}}
        return copy.deepcopy(self, memo).requires_grad_(False)


def stages(backbone: nn.Sequential) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every stage, input to output; timm's ``blocks`` count one by one."""
    for name, child in backbone.named_children():
        if name == "blocks":
            yield from ((f"blocks.{k}", block) for k, block in child.named_children())
        else:
            yield name, child


class Upscore(nn.ConvTranspose2d):
    r"""Trained enlargement by an even factor f; at its start it is bilinear interpolation, class by class.

    .. math:: k(i) = 1 - \left| \frac{i + 1/2}{f} - 1 \right|, \quad i = 0 \dots 2f - 1

    in both directions, with stride f. The border is repeated outwards by one cell, so that the start equals
    ``interpolate(align_corners=False)`` up to the border. ``(N, C, h, w)`` → ``(N, C, f·h, f·w)``.
    """

    def __init__(self, classes: int, factor: int) -> None:
        super().__init__(classes, classes, 2 * factor, stride=factor, padding=3 * factor // 2, bias=False)
        ramp = 1 - ((torch.arange(2 * factor) + 0.5) / factor - 1).abs()
        with torch.no_grad():
            self.weight.copy_(torch.eye(classes)[:, :, None, None] * ramp[:, None] * ramp)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, h, w)`` → ``(N, C, f·h, f·w)``."""
        return super().forward(F.pad(x, (1, 1, 1, 1), mode="replicate"))


class FCNHead(nn.Module):
    """Class scores of maps of stride 32, 16 and 8, summed while they are enlarged by 2, 2 and 8 (Long et al. 2015).

    ``widths`` and ``scales``: channels of each map and the factor on it. Scores start at zero.
    """

    def __init__(self, widths: Sequence[int], scales: Sequence[float], classes: int) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.score = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths)
        self.upscore = nn.ModuleList(Upscore(classes, factor) for factor in (2, 2, 8))
        for parameter in self.score.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(N, C, *size)`` of maps ``(N, D, ⌈H/32⌉, ⌈W/32⌉)``, then 16, then 8; the surplus is cut off."""
        sizes = [*(x.shape[-2:] for x in maps[1:]), size]
        total = 0.0
        for x, scale, score, upscore, (h, w) in zip(maps, self.scales, self.score, self.upscore, sizes, strict=True):
            total = upscore(total + score(scale * x))[..., :h, :w]
        return total


class DeepLabV2Head(nn.Module):
    """3 × 3 convolutions of four dilations from one map to the classes, summed (departure 25).

    Weights start from N(0, 0.01²), biases at zero. Enlarged with corners aligned: a cell of a ResNet's
    map is centred on pixel 8i, not in the middle of pixels 8i … 8i + 7.
    """

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(width, classes, 3, padding=d, dilation=d) for d in DILATIONS)
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01, generator=generator)
            nn.init.zeros_(branch.bias)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(N, C, *size)`` of the one map ``(N, D, h, w)``."""
        total = sum(branch(maps[0]) for branch in self.branches)  # (N, C, h, w)
        return F.interpolate(total, tuple(size), mode="bilinear", align_corners=True)


class Dropout(nn.Module):
    """Dropout ½ in training; a mask depends on the seed and the number of former ones, which is kept (departure 8)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.register_buffer("drawn", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """``x``, or in train mode 2 · ``x`` or 0, each for half of its entries."""
        if not self.training:
            return x
        generator = torch.Generator(x.device).manual_seed(self.seed * 1_000_003 + int(self.drawn))
        self.drawn += 1
        return 2 * x * torch.empty_like(x).bernoulli_(0.5, generator=generator)


class DeepLabV3Head(nn.Module):
    """CSG's head (departure 25): atrous spatial pyramid pooling of one map, then a 1 × 1 convolution to the classes.

    The pyramid is torchvision's: a 1 × 1 and three dilated 3 × 3 convolutions and the pooled image, 256 channels each,
    concatenated and projected to 256, with BatchNorm and ReLU after each, dropout ½ at last. In train mode
    BatchNorm uses the statistics of the batch, and learns those that it uses in eval mode. torch's default start, from
    ``generator``, whose seed is that of the dropout too. Enlarged as :class:`DeepLabV2Head` does.
    """

    def __init__(self, width: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.pyramid, self.classifier = ASPP(width, RATES, WIDTH), nn.Conv2d(WIDTH, classes, 1)
        self.pyramid.project[3] = Dropout(generator.initial_seed())  # torch's draws from the global generator
        initialise(self, generator)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(N, C, *size)`` of the one map ``(N, D, h, w)``; one image alone has no statistics to train on."""
        if self.training and len(maps[0]) < 2:
            raise AsgError("DeepLab-v3's head trains on two images a step on each device, or more: raise batch.")
        scores = self.classifier(self.pyramid(maps[0]))  # (N, C, h, w)
        return F.interpolate(scores, tuple(size), mode="bilinear", align_corners=True)


class PyramidHead(nn.Module):
    """The semantic branch of a feature pyramid (Kirillov et al. 2019), for maps of stride 32, 16 and 8 (departure 23).

    torchvision's pyramid gives each map 128 channels and adds to it what the coarser ones know; their sum at stride 8
    passes a 3 × 3 convolution with ReLU and a 1 × 1 convolution to the classes. torch's default start, from
    ``generator``.
    """

    def __init__(self, widths: Sequence[int], classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(widths)[::-1], PYRAMID)
        self.scores = nn.Sequential(
            nn.Conv2d(PYRAMID, PYRAMID, 3, padding=1), nn.ReLU(), nn.Conv2d(PYRAMID, classes, 1)
        )
        initialise(self, generator)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Logits ``(N, C, *size)`` of maps ``(N, D, ⌈H/32⌉, ⌈W/32⌉)``, then 16, then 8."""
        finest = maps[-1].shape[-2:]
        levels = self.pyramid({str(k): x for k, x in enumerate(maps[::-1])})  # stride 8 first
        total = sum(F.interpolate(x, finest, mode="bilinear") for x in levels.values())  # (N, 128, ⌈H/8⌉, ⌈W/8⌉)
        return F.interpolate(self.scores(total), tuple(size), mode="bilinear")


def initialise(head: nn.Module, generator: torch.Generator) -> None:
    """Draw the convolutions of a head anew, as torch does by default, from ``generator``."""
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d):
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


HEADS = {"deeplab-v3": DeepLabV3Head, "deeplab-v2": DeepLabV2Head}


def build_dense(
    network: nn.Module,
    normalisation: tuple[tuple[float, ...], tuple[float, ...]],
    classes: int,
    generator: torch.Generator,
    head: str | None = None,
) -> DenseStudent:
    """The segmentation student of an ImageNet network, which it takes over; a new task head from ``generator``.

    - torchvision's VGG: FCN-8s, trained at once; groups conv1 … conv5, fc6-7 and head.
    - torchvision's ResNet of bottlenecks (50, 101): one of HEADS (None: the first) at output stride 8; groups conv1,
      bn1, layer1 … layer4 and head. Under DeepLab-v3 the affine parameters of the blocks' BatchNorms are frozen.
    - timm's EfficientNet: :class:`PyramidHead`; groups as for classification.
    """
    resnet = isinstance(network, ResNet) and isinstance(network.layer4[0], Bottleneck)
    if head is not None and not resnet:
        raise AsgError(f"The head {head} is of ResNets, not of {type(network).__name__}: leave dense_head out.")
    if isinstance(network, VGG):
        student = _fcn8s(network, normalisation, classes)
    elif resnet:
        student = _deeplab(network, normalisation, classes, generator, head or next(iter(HEADS)))
    elif isinstance(network, EfficientNet):
        student = _pyramid(network, normalisation, classes, generator)
    else:
        raise AsgError(
            f"There is no segmentation head for {type(network).__name__}: choose torchvision's vgg16, resnet50 or "
            "resnet101, or an EfficientNet of timm."
        )
    return student.to(memory_format=torch.channels_last)


def build(config: RunConfig, classes: int) -> DenseStudent:
    """The network of a run at its start: ImageNet weights, kept classifier, new task head from ``config.seed``."""
    generator = torch.Generator().manual_seed(config.seed)
    student = build_dense(*imagenet_network(config), classes, generator, config.dense_head)
    regulariser = config.regulariser
    if regulariser and regulariser.kind == "csg" and not config.adapt:  # rounds of self-training have none
        student.contrast = Contrast(student.compared, regulariser.queue or QUEUE, generator)
    return student


def _fcn8s(network: VGG, normalisation: tuple, classes: int) -> DenseStudent:
    """Pools round up, fc6 pads by 3: the maps cover an image of any size without a frame around it (departure 24)."""
    backbone, layers, widths = nn.Sequential(), [], []
    for layer in network.features:
        layers.append(layer)
        if isinstance(layer, nn.Conv2d):
            width = layer.out_channels
        elif isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
            backbone.add_module(f"conv{len(backbone) + 1}", nn.Sequential(*layers))
            widths.append(width)
            layers = []
    convolutions = []
    for linear, size in ((network.classifier[0], 7), (network.classifier[3], 1)):
        convolution = skip_init(
            nn.Conv2d, width, linear.out_features, size, padding=size // 2, device=linear.weight.device
        )
        with torch.no_grad():
            convolution.weight.copy_(linear.weight.view_as(convolution.weight))  # (out, D · 7 · 7) → (out, D, 7, 7)
            convolution.bias.copy_(linear.bias)
        convolutions += [convolution, nn.ReLU(inplace=True)]
        width = linear.out_features
    # Nested, since layer_groups splits a large child that has several parts of its own.
    backbone.add_module("fc6-7", nn.Sequential(nn.Sequential(*convolutions)))
    head = FCNHead((width, widths[3], widths[2]), (1.0, 0.01, 0.0001), classes)
    compared = {"conv4": widths[3], "conv5": widths[4]}
    return DenseStudent(
        backbone, ("fc6-7", "conv4", "conv3"), "conv5", network.classifier, 7, head, normalisation, compared
    )


def _deeplab(
    network: ResNet, normalisation: tuple, classes: int, generator: torch.Generator, head: str
) -> DenseStudent:
    """The last two layers dilate instead of halving, as torchvision's ``replace_stride_with_dilation`` does."""
    for layer, dilation in ((network.layer3, 2), (network.layer4, 4)):
        layer[0].conv2.stride = layer[0].downsample[0].stride = (1, 1)
        for k, block in enumerate(layer):
            block.conv2.dilation = block.conv2.padding = (dilation if k else dilation // 2,) * 2
    if head == "deeplab-v3":
        for block in (network.layer1, network.layer2, network.layer3, network.layer4):
            for module in block.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)
    backbone = nn.Sequential(OrderedDict(list(network.named_children())[:-2]))  # all but avgpool and fc
    task_head = HEADS[head](network.fc.in_features, classes, generator)
    compared = {"layer3": network.fc.in_features // 2, "layer4": network.fc.in_features}
    return DenseStudent(backbone, ("layer4",), "layer4", network.fc, 1, task_head, normalisation, compared)


def _pyramid(network: EfficientNet, normalisation: tuple, classes: int, generator: torch.Generator) -> DenseStudent:
    """Taps the whole backbone, and the last block of stride 16 and of stride 8."""
    backbone = nn.Sequential(OrderedDict(list(network.named_children())[:-2]))  # all but global_pool and classifier
    by_stride = {info["reduction"]: info for info in network.feature_info}
    widths = (network.num_features, by_stride[16]["num_chs"], by_stride[8]["num_chs"])
    task_head = PyramidHead(widths, classes, generator)
    taps = ("bn2", by_stride[16]["module"], by_stride[8]["module"])
    compared = {taps[1]: widths[1], taps[0]: widths[0]}
    return DenseStudent(backbone, taps, "bn2", network.classifier, 1, task_head, normalisation, compared)


def _starts(side: int, window: int, overlap: int) -> list[int]:
    """Where windows begin along a side: evenly spaced, at least ``overlap`` shared, the last one at the edge."""
    last = max(1, math.ceil((side - overlap) / (window - overlap))) - 1
    return [0, *(round(k * (side - window) / last) for k in range(1, last + 1))]


@torch.inference_mode()
def predict(student: DenseStudent, image: Tensor, window: tuple[int, int], overlap: int) -> Tensor:
    """Task logits ``(C, H, W)`` of one uint8 image ``(3, H, W)``, on the student's device.

    In one piece if it fits into ``window`` (height, width); else in windows that share ``overlap`` pixels
    or more with the next, one at a time, their logits averaged where they meet.
    """
    if not 0 <= overlap < min(window):
        raise AsgError(f"Windows of {window[0]} × {window[1]} cannot overlap by {overlap}: choose less than a side.")
    image, total, count = image.to(student.mean.device), None, None
    (height, width), (h, w) = image.shape[-2:], window
    for top in _starts(height, h, overlap):
        for left in _starts(width, w, overlap):
            part = (..., slice(top, top + h), slice(left, left + w))
            logits = student(image[part][None])[0][0]  # (C, h, w)
            if total is None:
                total, count = logits.new_zeros(len(logits), height, width), logits.new_zeros(height, width)
            total[part] += logits
            count[part] += 1
    return total.div_(count)
