"""Benchmarks: each module loads one as :class:`~asg.data.images.Domains`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from asg.config import RunConfig
from asg.data import digits, folder, mini, scenes, street, toy, visda
from asg.data.images import Domains, ImageSet, fingerprint_of, materialise
from asg.data.segmentation import SegmentationDomains, SegmentationSet

Images = TypeVar("Images", ImageSet, SegmentationSet)
SEGMENTATION = ("toy-scenes", "scenes", "gta5")  # benchmarks with a label for every pixel


def data_root() -> Path:
    """Where benchmarks and weights lie: ``$ASG_DATA``, else ``data/`` of the repository."""
    return Path(os.environ.get("ASG_DATA", Path(__file__).parents[2] / "data"))


def cache_root() -> Path:
    """Where decoded images and teacher outputs are kept (safe to delete): ``data/cache``."""
    return data_root() / "cache"


def read_domains(config: RunConfig) -> Domains | SegmentationDomains:
    """The benchmark that ``config.data`` names; no image is decoded before it is asked for.

    Where a run adapts to one half of the target, the target to report on is the other half.
    """
    domains = _read(config)
    if config.adapt and config.adapt.half:
        domains = replace(domains, target=subset(domains.target, range(1, len(domains.target), 2)))
    return domains


def unlabelled(config: RunConfig) -> ImageSet | SegmentationSet:
    """The target images that a run adapts to: all of them, one half, or a folder."""
    if config.data == "folder":
        return folder.unlabelled(Path(config.adapt.images), config.size)
    target = _read(config).target
    return subset(target, range(0, len(target), 2)) if config.adapt.half else target


def subset(images: Images, indices: Sequence[int]) -> Images:
    """The images ``indices`` of a set, in that order."""
    chosen = list(indices)
    parts = {"names": tuple(images.names[i] for i in chosen), "decode": lambda i: images.decode(chosen[i])}
    parts |= {
        name: value[chosen]
        for name in ("labels", "imagenet", "cluster")
        if (value := getattr(images, name, None)) is not None
    }
    return replace(images, **parts, fingerprint=fingerprint_of(images.fingerprint, chosen))


def _read(config: RunConfig) -> Domains | SegmentationDomains:
    if config.data == "toy":
        return toy.load(config.size)
    if config.data == "mini":
        return mini.load(data_root() / "mini", config.size, config.rendering)
    if config.data == "toy-scenes":
        return toy.load_scenes(config.size)
    if config.data == "scenes":
        return scenes.load(data_root() / "mini", config.size, config.rendering)
    if config.data == "gta5":
        source, held_out = street.gta5(Path(config.source or data_root() / "gta5"))
        return SegmentationDomains(
            source, held_out, street.cityscapes(Path(config.target or data_root() / "cityscapes"))
        )
    if config.data == "digits":
        return digits.load(config.size)
    if config.data == "visda17":
        return visda.load(Path(config.source or data_root() / "visda17"), config.size)
    return folder.load(Path(config.source), Path(config.target) if config.target else None, config.size)


def load_domains(config: RunConfig) -> Domains:
    """:func:`read_domains`, decoded once and read from a memory map from then on."""
    domains = read_domains(config)
    kept = {
        name: materialise(images, config.size, cache_root() / "images", f"{config.data} {name}")
        for name in ("source", "validation", "target")
        if (images := getattr(domains, name)) is not None
    }
    return replace(domains, **kept)
