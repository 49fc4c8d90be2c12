"""Generated shapes in two styles, seconds to train on: for tests only, never in the book."""

from functools import partial

import numpy as np
import torch
from PIL import Image, ImageDraw

from asg.data.images import Domains, ImageSet, fingerprint_of
from asg.data.segmentation import SegmentationDomains, SegmentationSet

CLASSES = ("circle", "cross", "square")


def draw(label: int, size: int, rng: np.random.Generator, real: bool) -> np.ndarray:
    """One shape, uint8 ``(size, size, 3)``; "real" adds noise and a dark background."""
    image = Image.new("RGB", (size, size), (40, 30, 30) if real else (230, 230, 230))
    pen = ImageDraw.Draw(image)
    radius = rng.integers(size // 6, size // 3)
    x, y = rng.integers(radius, size - radius, 2)
    colour = tuple(int(c) for c in rng.integers(60, 200, 3))
    if label == 0:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    elif label == 1:
        pen.line((x - radius, y, x + radius, y), fill=colour, width=4)
        pen.line((x, y - radius, x, y + radius), fill=colour, width=4)
    else:
        pen.rectangle((x - radius, y - radius, x + radius, y + radius), fill=colour)
    pixels = np.asarray(image).astype(np.int16)
    if real:
        pixels = pixels + rng.integers(-20, 21, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def image_set(count: int, size: int, seed: int, real: bool) -> ImageSet:
    """``count`` shapes, classes in turn; image i is drawn from (seed, i) alone."""
    labels = torch.arange(count) % len(CLASSES)
    return ImageSet(
        partial(decode_shape, size, seed, real),
        labels,
        CLASSES,
        tuple(f"toy-{seed}-{i}" for i in range(count)),
        fingerprint_of("toy", count, size, seed, real),
        imagenet=labels.clone(),
    )


def decode_shape(size: int, seed: int, real: bool, i: int) -> np.ndarray:
    """The shape of image ``i``."""
    return draw(i % len(CLASSES), size, np.random.default_rng((seed, i)), real)


def load(size: int) -> Domains:
    """48 training shapes, 12 validation shapes, 24 "photos"; the first three ImageNet classes stand in."""
    mapping = {name: [i] for i, name in enumerate(CLASSES)}
    return Domains(image_set(48, size, 1, False), image_set(12, size, 2, False), image_set(24, size, 3, True), mapping)


def scene_set(count: int, size: int, seed: int, real: bool) -> SegmentationSet:
    """``count`` scenes of one shape; its pixels are those that differ much from the ground."""
    names = tuple(f"toy-scene-{seed}-{i}" for i in range(count))
    decode, fingerprint = partial(decode_scene, size, seed, real), fingerprint_of("toy scenes", count, size, seed, real)
    return SegmentationSet(decode, ("ground", *CLASSES), names, fingerprint)


def decode_scene(size: int, seed: int, real: bool, i: int) -> tuple[np.ndarray, np.ndarray]:
    """The scene ``i`` and its labels ``(H, W)``."""
    pixels = decode_shape(size, seed, real, i)
    shape = np.abs(pixels.astype(int) - (35 if real else 230)).max(2) > 30  # (H, W)
    return pixels, (shape * (1 + i % len(CLASSES))).astype(np.int16)


def load_scenes(size: int) -> SegmentationDomains:
    """48 training scenes, 6 validation scenes, 6 "photos"."""
    return SegmentationDomains(*(scene_set(n, size, k, k == 3) for k, n in ((1, 48), (2, 6), (3, 6))))
