"""The embedded benchmark for segmentation: scenes of emoji → scenes of photographed objects, six classes.

Two to four objects of :mod:`asg.data.mini` stand on one ground, later ones in front of earlier ones; their
alpha masks give the labels: a pixel belongs to the object whose alpha is above one half there. Emoji
stand on random textures, at random scale, angle and mirror; photographs, upright, on photographed scenes. The classes
of mini are taken together in groups, since its designs are too few to tell small birds from small bugs.
Departure 23: not a benchmark of the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from asg import AsgError
from asg.config import Rendering
from asg.data import mini
from asg.data.images import ImageSet, Remembered, fingerprint_of
from asg.data.segmentation import SegmentationDomains, SegmentationSet

GROUPS: dict[str, tuple[str, ...]] = {
    "animal": ("bird", "bug", "mammal", "sea animal"), "food": ("fruit", "vegetable"),
    "object": ("ball", "instrument", "tool"), "plant": ("flower", "plant"), "vehicle": ("vehicle",),
}  # fmt: skip
CLASSES = ("background", *GROUPS)
COUNTS = (1000, 100, 150)  # scenes for training, validation, and of photographs
FEWEST, MOST = 2, 4  # objects of a scene
SHARE = 0.6  # objects are this much smaller than where they stand alone
VISIBLE = 0.01  # every object is seen on this share of the image at least,
UNCOVERED = 0.5  # and on this share of its own pixels
ATTEMPTS = 200  # to place an object so
NOTHING = Image.new("RGBA", (1, 1))  # pasted as an object, it leaves the ground as it is


def turned(design: Image.Image, rng: np.random.Generator, rendering: Rendering) -> Image.Image:
    """A design at a random angle, mirrored or not, cropped to its alpha mask; RGBA."""
    if rng.random() < 0.5:
        design = design.transpose(Image.FLIP_LEFT_RIGHT)
    design = design.rotate(rng.uniform(-rendering.angle, rendering.angle), Image.BICUBIC, expand=True)
    return design.crop(design.getchannel("A").getbbox())


def mask_of(cutout: Image.Image, size: int, share: float, position: tuple[float, float]) -> np.ndarray:
    """Where :func:`asg.data.mini.paste` puts ``cutout``, by an alpha above one half; bool ``(size, size)``."""
    white = Image.new("RGBA", cutout.size, "white")
    white.putalpha(cutout.getchannel("A"))
    return mini.paste(white, Image.new("RGB", (size, size)), share, position)[..., 0] > 127


def compose(
    ground: Image.Image, draw: Callable[[int], Image.Image], rng: np.random.Generator, rendering: Rendering
) -> tuple[np.ndarray, np.ndarray]:
    """Objects on a square ground: uint8 ``(size, size, 3)`` and int16 labels ``(size, size)``, from the stream ``rng``.

    The class of an object is drawn first, then ``draw(class)`` gives a cut-out (RGBA). An object that is
    seen too little (VISIBLE, UNCOVERED) or covers too much of another is drawn again, of the same class;
    one that finds no place in ATTEMPTS is left out, if it would be the third or fourth.
    """
    size = ground.width
    labels, front, needed = np.zeros((size, size), np.int16), np.zeros((size, size), np.uint8), [0.0]
    for number in range(1, int(rng.integers(FEWEST, MOST + 1)) + 1):
        label = int(rng.integers(1, len(CLASSES)))
        for _ in range(ATTEMPTS):
            cutout, share = draw(label), SHARE * rng.uniform(rendering.smallest, rendering.largest)
            position = tuple(rng.random(2))
            mask = mask_of(cutout, size, share, position)
            seen = np.where(mask, np.uint8(number), front)  # which object each pixel shows, 0: the ground
            pixels = [*needed, max(VISIBLE * size**2, UNCOVERED * mask.sum())]
            if (np.bincount(seen.ravel(), minlength=number + 1) >= pixels).all():
                break
        else:
            if number <= FEWEST:
                raise AsgError(f"No place shows {CLASSES[label]}: change the rendering's smallest and largest.")
            break  # there is no room for another
        front, needed, labels[mask] = seen, pixels, label
        mini.paste(cutout, ground, share, position)
    return np.asarray(ground), labels


REAL = 2  # the split of the photographed scenes


def scene_set(alone: ImageSet, split: int, root: Path, size: int, rendering: Rendering) -> SegmentationSet:
    """Scenes of the objects that ``alone`` shows one by one; composed once and kept in memory."""
    classes = {name: alone.classes[label] for name, label in zip(alone.names, alone.labels.tolist(), strict=True)}
    by_group = [[name for name, one in classes.items() if one in group] for group in GROUPS.values()]
    read = Remembered(partial(mini.cut_out_of if split == REAL else mini.drawing_of, root, rendering))
    decode = Remembered(partial(decode_scene, by_group, split, read, size, rendering))
    names = tuple(f"scene-{split}-{i}" for i in range(COUNTS[split]))
    return SegmentationSet(decode, CLASSES, names, fingerprint_of("scenes", alone.fingerprint, names, size))


def decode_scene(
    by_group: list[list[str]], split: int, read: Callable, size: int, rendering: Rendering, i: int
) -> tuple[np.ndarray, np.ndarray]:
    """One scene ``(size, size, 3)`` and its labels; ``by_group``: names of the objects of each class."""
    rng = np.random.default_rng((rendering.seed, split, i))
    ground = Image.fromarray((mini.compose if split == REAL else mini.render)(NOTHING, size, rng, rendering))

    def draw(label: int) -> Image.Image:
        cutout = read(by_group[label - 1][rng.integers(len(by_group[label - 1]))])
        return cutout if split == REAL else turned(cutout, rng, rendering)

    return compose(ground, draw, rng, rendering)


def load(root: Path, size: int, rendering: Rendering = Rendering(ground="textures")) -> SegmentationDomains:
    """Source: scenes of training designs; validation: of other designs; target: of photographs, ``size`` px square.

    ``root`` is that of :func:`asg.data.mini.load`. Of ``rendering``, the seed, style, detail, number of designs,
    ground, backdrop, angle and range of sizes apply, the last times SHARE.
    """
    alone = mini.load(root, size, rendering)
    sets = (alone.source, alone.validation, alone.target)
    return SegmentationDomains(*(scene_set(images, split, root, size, rendering) for split, images in enumerate(sets)))
