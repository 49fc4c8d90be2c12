"""Images with a label for every pixel: read whole, or mirrored, scaled and cropped anew for every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from asg.data.images import UNLABELLED, fingerprint_of

PADDING = 115  # grey of the pixels beyond an image, the mean over ImageNet and the three channels


def nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels ``(H, W)`` at another ``size`` (width, height), each the one nearest to its place; the type stays."""
    image = Image.fromarray(labels.astype(np.int32))  # Pillow has no other signed integers
    return np.asarray(image.resize(size, Image.NEAREST)).astype(labels.dtype)


@dataclass(frozen=True)
class Augmentation:
    """A random mirror (p = ½), scale and square crop of each training pair; the paper's settings for GTA5.

    ``mirror``: whether a mirror image shows the same classes.
    """

    scales: tuple[float, ...] = (0.75, 1.0, 1.25)
    crop: int = 512
    seed: int = 0
    mirror: bool = True

    def __call__(self, image: np.ndarray, labels: np.ndarray, draw: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pair ``(H, W, 3)``, ``(H, W)`` → ``(crop, crop, 3)``, ``(crop, crop)``, from (seed, draw, index) alone.

        Scaled bilinearly (labels: nearest), both sides to ``round(scale · side)`` pixels. Where that is
        smaller than the crop, pixels of grey with the label UNLABELLED follow on the right and below.
        """
        rng = np.random.default_rng((self.seed, draw, index))
        if rng.random() < 0.5 and self.mirror:
            image, labels = image[:, ::-1], labels[:, ::-1]
        scale = self.scales[rng.integers(len(self.scales))]
        size = tuple(round(scale * side) for side in labels.shape[::-1])  # (W, H)
        image = np.asarray(Image.fromarray(image).resize(size, Image.BILINEAR))
        labels = nearest(labels, size)
        beyond = [(0, max(0, self.crop - side)) for side in labels.shape]
        image = np.pad(image, (*beyond, (0, 0)), constant_values=PADDING)
        labels = np.pad(labels, beyond, constant_values=UNLABELLED)
        top, left = (int(rng.integers(side - self.crop + 1)) for side in labels.shape)
        window = np.s_[top : top + self.crop, left : left + self.crop]
        return image[window], labels[window]


@dataclass(frozen=True)
class SegmentationSet(Dataset):
    """Pairs that a function decodes by index: uint8 image ``(H, W, 3)`` and int16 labels ``(H, W)``.

    Labels are indices of ``classes``, or UNLABELLED. ``names`` say which file an image came from;
    ``fingerprint`` changes whenever a pixel or label could; the augmentation, which the configuration
    describes, is not part of it.
    """

    decode: Callable[[int], tuple[np.ndarray, np.ndarray]]
    classes: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Index, image uint8 ``(3, H, W)``, labels long ``(H, W)``; at ``(index, draw)`` augmented, if it can be."""
        index, draw = key if isinstance(key, tuple) else (key, None)
        image, labels = self.decode(index)
        if draw is not None and self.augmentation is not None:
            image, labels = self.augmentation(image, labels, draw, index)
        image = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (H, W, 3) → (3, H, W)
        return index, image, torch.from_numpy(np.array(labels)).long()


@dataclass(frozen=True)
class SegmentationDomains:
    """One benchmark: train on ``source``, choose on ``validation`` (synthetic too), report on ``target``, if any."""

    source: SegmentationSet
    validation: SegmentationSet
    target: SegmentationSet | None

    @property
    def fingerprint(self) -> str:
        """Changes whenever one of its sets does."""
        sets = (self.source, self.validation, self.target)
        return fingerprint_of([s.fingerprint for s in sets if s is not None])
