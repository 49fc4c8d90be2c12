"""Benchmarks: each module loads one as :class:`~asg.data.images.Domains`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from asg.benchmarks import BENCHMARKS
from asg.config import RunConfig
from asg.data import cad, digits, folder, folder_scenes, mini, pacs, scenes, street, toy, visda
from asg.data.images import UNLABELLED, Domains, Images, ImageSet, fingerprint_of, materialise, subset
from asg.data.looks import reduced
from asg.data.segmentation import SegmentationDomains, SegmentationSet
from asg.places import place
from asg.recipes import version


def data_root() -> Path:
    """Where benchmarks and weights lie (:func:`asg.places.place`): ``$ASG_DATA``, else ``data/``."""
    return place("data")


def cache_root() -> Path:
    """Where decoded images and teacher outputs are kept (safe to delete): ``data/cache``."""
    return data_root() / "cache"


def read_domains(config: RunConfig) -> Domains | SegmentationDomains:
    """The benchmark that ``config.data`` names; no image is decoded before it is asked for.

    Synthetic images have what ``config.synthetic`` leaves them. Where a run adapts to one half of the target, the
    target to report on is the other half.
    """
    domains = READERS[config.data].load(config)
    if isinstance(domains, Domains):
        domains = replace(domains, mirror=mirrored(config))
    if config.synthetic:
        domains = reduced(domains, config.synthetic)
    sets = {name: stamped(images, config.data) for name, images in sets_of(domains).items()}
    domains = replace(domains, **sets)
    if config.adapt and config.adapt.half:
        domains = replace(domains, target=subset(domains.target, range(1, len(domains.target), 2)))
    return domains


def unlabelled(config: RunConfig) -> ImageSet | SegmentationSet:
    """The images that a run adapts to, every label UNLABELLED: the target, one half of it, or those of its reader."""
    if photos := READERS[config.data].photos:
        return stamped(photos(config, False), config.data)
    target = with_truth(config)
    if isinstance(target, ImageSet):
        return replace(target, labels=torch.full_like(target.labels, UNLABELLED))
    return replace(target, decode=partial(decode_unlabelled, target.decode))


def decode_unlabelled(decode: Callable, i: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene without its labels."""
    image, labels = decode(i)
    return image, np.full_like(labels, UNLABELLED)


def with_truth(config: RunConfig) -> ImageSet | SegmentationSet:
    """The images of :func:`unlabelled` with the labels that are there, which only say what pseudo-labels are worth."""
    reader = READERS[config.data]
    if reader.photos:
        return stamped(reader.photos(config, True), config.data)
    target = stamped(reader.load(config).target, config.data)
    return subset(target, range(0, len(target), 2)) if config.adapt.half else target


def sets_of(domains: Domains | SegmentationDomains) -> dict[str, ImageSet | SegmentationSet]:
    """The sets of a benchmark that are there, by their role."""
    roles = ("source", "validation", "target")
    return {role: images for role in roles if (images := getattr(domains, role)) is not None}


def stamped(images: Images, reader: str) -> Images:
    """A set whose fingerprint, which names all that is kept of it, also holds the version of its reader."""
    return replace(images, fingerprint=fingerprint_of(reader, version(reader), images.fingerprint))


def mirrored(config: RunConfig) -> bool | None:
    """:attr:`Domains.mirror` of a run, without its files: whether answers average image and mirror image."""
    if config.mirror is not None:
        return config.mirror
    return BENCHMARKS[config.data].mirror


@dataclass(frozen=True)
class Reader:
    """How a benchmark is read.

    ``photos``: what a run adapts to where that is not the target: it is given whether to read the labels that are
    there, and gives images whose labels are UNLABELLED where it does not, or where there are none.
    """

    load: Callable[[RunConfig], Domains | SegmentationDomains]
    photos: Callable[[RunConfig, bool], ImageSet | SegmentationSet] | None = None


def _folder(config: RunConfig) -> Domains:
    sources = {Path(path): times for path, times in (config.sources or {config.source: 1}).items()}
    return folder.load(sources, Path(config.target) if config.target else None, config.size)


def _folder_scenes(config: RunConfig) -> SegmentationDomains:
    target, classes = (Path(path) if path else None for path in (config.target, config.class_list))
    return folder_scenes.load(Path(config.source), target, config.size, classes)


def _scenes_to_adapt_to(config: RunConfig, labelled: bool) -> SegmentationSet:
    classes = _folder_scenes(config).source.classes
    return folder_scenes.unlabelled(Path(config.adapt.images), classes, config.size)


def _cityscapes(config: RunConfig) -> Path:
    return Path(config.target or data_root() / "cityscapes")


def _gta5(config: RunConfig) -> SegmentationDomains:
    source, held_out = street.gta5(Path(config.source or data_root() / "gta5"), config.source_list)
    return SegmentationDomains(source, held_out, street.cityscapes(_cityscapes(config)))


def _cityscapes_train(config: RunConfig, labelled: bool) -> SegmentationSet:
    """As CRST does, runs adapt to train and report on val; without labels no label map of train is read."""
    root = _cityscapes(config)
    return street.cityscapes(root, "train", labelled=labelled and (root / "gtFine" / "train").is_dir())


READERS = {
    "toy": Reader(lambda c: toy.load(c.size)),
    "mini": Reader(lambda c: mini.load(data_root() / "mini", c.size, c.rendering)),
    "digits": Reader(lambda c: digits.load(c.size)),
    "visda17": Reader(lambda c: visda.load(Path(c.source or data_root() / "visda17"), c.size)),
    "cad": Reader(lambda c: cad.load(data_root() / "cad", c.size)),
    "pacs-cartoon": Reader(lambda c: pacs.load(data_root() / "pacs", "cartoon", c.size)),
    "pacs-sketch": Reader(lambda c: pacs.load(data_root() / "pacs", "sketch", c.size)),
    "folder": Reader(_folder, lambda c, labelled: folder.unlabelled(Path(c.adapt.images), c.size)),
    "folder-scenes": Reader(_folder_scenes, _scenes_to_adapt_to),
    "toy-scenes": Reader(lambda c: toy.load_scenes(c.size)),
    "scenes": Reader(lambda c: scenes.load(data_root() / "mini", c.size, c.rendering)),
    "gta5": Reader(_gta5, _cityscapes_train),
}


def load_domains(config: RunConfig, domains: Domains | None = None) -> Domains:
    """:func:`read_domains`, or ``domains`` that were read so, decoded once and read from a memory map from then on."""
    domains = domains or read_domains(config)
    decoded = {
        role: materialise(images, config.size, cache_root() / "images", f"{config.data} {role}")
        for role, images in sets_of(domains).items()
    }
    return replace(domains, **decoded)
