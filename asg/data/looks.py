"""Synthetic images with less in them: fewer of a class, no colour, few tones, no detail, nothing but outlines.

What ``RunConfig.synthetic`` asks for is done to the decoded images of source and validation, at the network's size; the
photographs stay as they are. Departure 31: not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

from asg import AsgError
from asg.config import Synthetic
from asg.data.images import Domains, Images, ImageSet, fingerprint_of, subset
from asg.data.segmentation import SegmentationSet
from asg.recipes import version


def blurred(image: Image.Image) -> Image.Image:
    """No detail finer than a 48th of the image."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) / 48))


def edges(image: Image.Image) -> Image.Image:
    """Dark lines on white."""
    return ImageOps.invert(ImageOps.grayscale(image).filter(ImageFilter.FIND_EDGES))


# Look → what it makes of an RGB image.
LOOKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": ImageOps.grayscale,
    "posterised": partial(ImageOps.posterize, bits=1),  # two levels a channel: eight colours
    "blurred": blurred,
    "edges": edges,
}


def with_look(images: Images, look: str) -> Images:
    """The same images, or scenes, under one of LOOKS; labels, names and clusters stay."""
    return _changed(images, look, LOOKS[look])


def mixed_looks(images: ImageSet) -> ImageSet:
    """The same images, in turn as they are and under each of LOOKS."""
    return _changed(images, "mixed", unchanged, *LOOKS.values())


def unchanged(image: Image.Image) -> Image.Image:
    """The image as it is."""
    return image


def with_detail(images: ImageSet, pixels: int) -> ImageSet:
    """The same images with ``pixels`` a side, enlarged to the old size."""
    return _changed(images, f"{pixels} pixels", partial(coarse, pixels))


def coarse(pixels: int, image: Image.Image) -> Image.Image:
    """An image of its size with ``pixels`` a side."""
    return image.resize((pixels, pixels), Image.LANCZOS).resize(image.size, Image.BICUBIC)


def _changed(images: Images, name: str, *changes: Callable[[Image.Image], Image.Image]) -> Images:
    """The images with ``changes`` in turn, image by image."""
    change = decode_changed_pair if isinstance(images, SegmentationSet) else decode_changed
    decode = partial(change, images.decode, changes)
    return replace(images, decode=decode, fingerprint=fingerprint_of(images.fingerprint, version("looks"), name))


def decode_changed(decode: Callable, changes: Sequence[Callable], i: int) -> np.ndarray:
    """One image after its change."""
    return np.asarray(changes[i % len(changes)](Image.fromarray(decode(i))).convert("RGB"))


def decode_changed_pair(decode: Callable, changes: Sequence[Callable], i: int) -> tuple[np.ndarray, np.ndarray]:
    """One image after its change, and its labels."""
    image, labels = decode(i)
    return np.asarray(changes[i % len(changes)](Image.fromarray(image)).convert("RGB")), labels


def fewer(labels: torch.Tensor, per_class: int) -> list[int]:
    """Numbers of ``per_class`` images of each class, evenly spaced in their order; of a smaller class all.

    ``labels``: ``(N,)``.
    """
    chosen: list[int] = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten().tolist()
        count = min(per_class, len(members))
        chosen += [members[i * len(members) // count] for i in range(count)]
    return sorted(chosen)


def reduced(domains: Domains, synthetic: Synthetic) -> Domains:
    """A benchmark whose synthetic images have what ``synthetic`` leaves them; the held-out ones keep their number.

    Raises :class:`AsgError` for scenes, whose label maps would have to change with the images.
    """
    if not isinstance(domains, Domains):
        raise AsgError("synthetic changes images that have one label each: leave it out for scenes.")
    source, validation = domains.source, domains.validation
    if synthetic.per_class:
        source = subset(source, fewer(source.labels, synthetic.per_class))
    for change, value in ((with_look, synthetic.look), (with_detail, synthetic.detail)):
        if value is not None:
            source, validation = change(source, value), change(validation, value)
    return replace(domains, source=source, validation=validation)
