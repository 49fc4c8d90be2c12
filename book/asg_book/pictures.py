"""What figures of networks show, kept as records are: a page that shows them trains nothing and needs no data.

They lie in ``results/figures``, named by what they are made of. What makes them takes seconds to import, and is
imported where it is needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from asg import AsgError, records
from asg.config import RunConfig
from asg.data import load_domains, read_domains
from asg.data.images import Domains, ImageSet, make_folder, subset
from asg_book.catalogue import get

if TYPE_CHECKING:
    from asg.models import Student

VERSION = 1  # raised where other numbers are meant to be shown, with a word why. 1: as first recorded
UNTOUCHED = "ImageNet"  # what the network that nobody trained is called

Configs = Mapping[str, RunConfig]  # arm → its run
Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """Where all of it lies."""
    return records.results_root() / "figures"


@dataclass(frozen=True)
class Picture:
    """What a figure shows: ``compute`` makes its arrays, ``made_of`` is all that they depend on."""

    name: str
    made_of: tuple
    compute: Callable[[], Arrays]

    @property
    def path(self) -> Path:
        """Where the arrays are kept."""
        digest = hashlib.sha256(repr((VERSION, self.made_of)).encode()).hexdigest()[:12]
        return folder() / f"{self.name}-{digest}.npz"

    def arrays(self, fresh: bool = False) -> Arrays:
        """The arrays: read if they are kept, else computed and kept; ``fresh`` computes them and leaves what is kept.

        Networks that this machine has not kept are trained to compute them. Raises :class:`AsgError` where the file
        is damaged, or where it cannot be written.
        """
        if fresh:
            return self.compute()
        if not self.path.exists():
            make_folder(self.path.parent)  # an unwritable place is said before the training
            write(self.path, self.compute())
        return read(self.path)


def write(path: Path, arrays: Arrays) -> None:
    """Keep ``arrays`` in ``path``, all of them or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise AsgError(f"{path} cannot be written ({error.strerror}): free some space.") from None


def read(path: Path) -> Arrays:
    """The arrays that :func:`write` kept."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # given a path, numpy leaves a broken file open
            return dict(arrays)
    except Exception as error:  # numpy, zipfile and zlib raise several kinds for a broken file
        raise AsgError(f"{path} is damaged ({error}): remove it, and what the figure shows is made again.") from None


def identity(configs: Configs) -> tuple:
    """What tells the networks of some arms from all others."""
    return tuple((arm, records.run_key(config), config.seed) for arm, config in configs.items())


def networks(configs: Configs, domains: Domains) -> dict[str, Student]:
    """The ImageNet network that the first arm starts from, and the network of each arm that trains at all."""
    from asg.models import build
    from asg.run import trained

    untouched = build(next(iter(configs.values())), len(domains.source.classes))
    return {UNTOUCHED: untouched} | {arm: trained(config) for arm, config in configs.items() if config.steps != 0}


def classes_of(images: ImageSet) -> np.ndarray:
    """The class name of each image, ``(N,)``."""
    return np.array([images.classes[int(label)] for label in images.labels])


def answers(configs: Configs) -> Picture:
    """What the ImageNet network, from which the first arm starts, says of each photograph: class ``names`` ``(M,)``."""

    def compute() -> Arrays:
        from asg.models import build
        from asg_book import inspection

        config = next(iter(configs.values()))
        domains = load_domains(config)
        network = build(config, len(domains.source.classes))
        predicted = inspection.answers(network, domains.target, "kept_head")
        return {"names": np.array(inspection.names_of(predicted, "kept_head", domains.target.classes))}

    return Picture("answers", identity(configs), compute)


def embeddings(configs: Configs) -> Picture:
    """Where the features of synthetic images and photographs lie in the ImageNet network and in that of each arm.

    ``networks`` ``(K,)``: their names; ``points`` ``(K, N + M, 2)``: t-SNE, of N synthetic images, evenly spaced and
    about as many as photographs, and then of all M photographs; ``synthetic`` ``(N,)`` and ``photos`` ``(M,)``: their
    class names. An arm that trains nothing is the ImageNet network.
    """

    def compute() -> Arrays:
        from asg_book import inspection

        domains = load_domains(next(iter(configs.values())))
        step = max(1, len(domains.source) // len(domains.target))
        some, by_name = subset(domains.source, range(0, len(domains.source), step)), networks(configs, domains)
        features = [[inspection.view(net, images)[2] for images in (some, domains.target)] for net in by_name.values()]
        points = np.array([inspection.embedding(torch.cat(both)) for both in features], np.float16)
        names = {"synthetic": classes_of(some), "photos": classes_of(domains.target)}
        return {"networks": np.array(list(by_name)), "points": points, **names}

    return Picture("embeddings", identity(configs), compute)


def attention(configs: Configs, count: int = 6, layer: str = "blocks.4") -> Picture:
    """Where the ImageNet network and that of each arm look in evenly spaced photographs, for the class they answer.

    ``networks`` ``(K,)``: their names; ``chosen`` ``(P,)``: indices of the photographs, P = ``count``; ``maps``
    ``(K, P, h, w)``: :func:`asg_book.inspection.grad_cam` at ``layer``; ``titles`` ``(P, 1 + K)``: the class of a
    photograph, then what each network answers, the ImageNet network by its ImageNet head and the others by their own.
    """

    def compute() -> Arrays:
        from asg_book import inspection

        domains = load_domains(next(iter(configs.values())))
        chosen = [(2 * k + 1) * len(domains.target) // (2 * count) for k in range(count)]  # the middles of equal parts
        by_name = networks(configs, domains)
        photos = subset(domains.target, chosen)
        heads = {name: "kept_head" if name == UNTOUCHED else "task_head" for name in by_name}
        seen = {name: inspection.answers(net, photos, heads[name]) for name, net in by_name.items()}
        maps = [inspection.grad_cam(net, photos, layer, heads[name], seen[name]) for name, net in by_name.items()]
        titles = np.array(inspection.titles(photos, seen, heads))
        names = {"networks": np.array(list(by_name)), "chosen": np.array(chosen)}
        return {**names, "maps": np.array(maps, np.float16), "titles": titles}

    return Picture("attention", (identity(configs), count, layer), compute)


def label_maps(configs: Configs, every: int = 40) -> Picture:
    """What the network of each arm answers at every pixel of a held-out scene and of every so many target scenes.

    ``networks`` ``(K,)``: the arms; ``held_out`` and ``photos``: indices of the scenes in their sets, P together, which
    have one size; ``maps`` uint8 ``(K, P, H, W)``: a class, never UNLABELLED, which no network answers.
    """

    def compute() -> Arrays:
        from asg.run import trained
        from asg_book import inspection

        domains = read_domains(next(iter(configs.values())))
        parts = ((domains.validation, range(1)), (domains.target, range(0, len(domains.target), every)))
        nets = [trained(config) for config in configs.values()]
        maps = [[m for d, chosen in parts for m in inspection.label_maps(net, d, chosen)] for net in nets]
        chosen = {"held_out": np.array(parts[0][1]), "photos": np.array(parts[1][1])}
        return {"networks": np.array(list(configs)), **chosen, "maps": np.array(maps, np.uint8)}

    return Picture("label_maps", (identity(configs), every), compute)


@dataclass(frozen=True)
class Shown:
    """Which networks of an experiment the book shows, of the first seed, and the pictures of them."""

    profiles: tuple[str, ...]
    arms: tuple[str, ...]
    makers: tuple[Callable[[Configs], Picture], ...]


# Every picture of the book, by experiment: chapters and `asg figures` take profiles and arms from here.
SHOWN = {
    "oracle": Shown(("cartoon",), ("imagenet",), (answers, embeddings)),
    "comparison": Shown(("cartoon",), ("vanilla", "guidance"), (embeddings, attention)),
    "segmentation": Shown(("mini",), ("vanilla", "whole map"), (label_maps,)),
}


def configs_of(experiment: str, profile: str) -> dict[str, RunConfig]:
    """The run of each arm that the book shows of an experiment in a profile."""
    return {arm: get(experiment).configs(profile, arm)[0] for arm in SHOWN[experiment].arms}


def wanted() -> list[tuple[str, str, Callable[[Configs], Picture]]]:
    """Experiment, profile and maker of every picture of the book."""
    return [(name, profile, make) for name, s in SHOWN.items() for profile in s.profiles for make in s.makers]
