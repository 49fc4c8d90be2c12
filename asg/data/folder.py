"""Folders of images: ``DIR/<class>/<any name>.{jpg,png,…}``, also deeper, as people have them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from asg import AsgError
from asg.data.images import UNLABELLED, Domains, ImageSet, fingerprint_of
from asg.data.pixels import read_pixels
from asg.data.scanner import class_folders, has_class_folders, images_below

HELD_OUT = 10  # every tenth source image, or design, is held out for validation (departure 4)
DESIGNS = 5  # sub-folders of a class from which on each is taken for a design of its own


@cache
def content_hash(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, read once a process while its size in bytes and time of change (ns) stay."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def decode_file(names: Sequence[str], size: int, i: int) -> np.ndarray:
    """One file, ``(size, size, 3)``."""
    return read_pixels(Path(names[i]), size)


def image_set(
    files: list[Path],
    labels: list[int],
    classes: tuple[str, ...],
    size: int,
    designs: Sequence[object] | None = None,
    repeats: Sequence[int] | None = None,
) -> ImageSet:
    """Files as an :class:`ImageSet`; its fingerprint covers what the files hold, wherever they lie.

    ``designs``: what each image shows, where several show the same; ``repeats``: how often a pass sees each one.
    """
    contents = [content_hash(p, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    cluster = None
    if designs is not None and len(set(designs)) < len(files):
        numbers = {design: k for k, design in enumerate(dict.fromkeys(designs))}
        cluster = torch.tensor([numbers[design] for design in designs])
    names = tuple(map(str, files))
    return ImageSet(
        partial(decode_file, names, size),
        torch.tensor(labels),
        classes,
        names,
        fingerprint_of(
            contents,
            labels,
            classes,
            size,
            *([] if cluster is None else [cluster.tolist()]),
            *([] if repeats is None else ["repeats", repeats]),
        ),
        cluster=cluster,
        repeats=None if repeats is None else torch.tensor(repeats),
    )


def designs_of(folder: Path, files: Sequence[Path]) -> list[Path]:
    """What each image of a class shows: the design whose sub-folder it lies in, or itself.

    Sub-folders are designs where no image of the class lies beside them and there are DESIGNS or more.
    """
    below = [path.relative_to(folder).parts for path in files]
    names = {parts[0] for parts in below}
    if len(names) < DESIGNS or any(len(parts) == 1 for parts in below):
        return list(files)
    return [folder / parts[0] for parts in below]


def load(source: Path | Mapping[Path, int], target: Path | None, size: int) -> Domains:
    """Train on nine tenths of ``source``, validate on the rest, report on ``target`` (may be None).

    ``source``: a folder, or several, each with how often a pass sees its images; their classes are taken together.
    Held out is every tenth image of a class of a folder, or of its designs every tenth with all its images
    (:func:`designs_of`). Raises :class:`AsgError` for a missing or empty folder, a file that is no image, and a target
    class that the source lacks. Source classes without target images are allowed. A target without class folders has
    no labels.
    """
    sources = times_of(source)
    synthetic = {folder: class_folders(folder, "source") for folder in sources}
    where = " and ".join(map(str, sources))
    classes = tuple(sorted({name for named in synthetic.values() for name in named}, key=in_bytes))
    if len(classes) < 2:
        raise AsgError(f"{where} has one class only: a classifier needs at least two class folders.")
    train, held = [], []  # (file, label, design, times)
    for label, name in enumerate(classes):
        before = len(held)
        for folder, times in sources.items():
            if (scan := synthetic[folder].get(name)) is None:
                continue
            designs = designs_of(scan.folder, scan.images)
            number = {design: k for k, design in enumerate(dict.fromkeys(designs))}
            for path, design in zip(scan.images, designs, strict=True):
                (held if number[design] % HELD_OUT == 1 else train).append((path, label, design, times))
        if len(held) == before:
            raise AsgError(f"The class {name!r} has one image in {where}: one is needed to train, one to validate.")
    photos = None
    if target is not None and not has_class_folders(target):
        photos = replace(unlabelled(target, size), classes=classes)
    elif target is not None:
        real = class_folders(target, "target")
        if unknown := sorted(set(real) - set(classes)):
            raise AsgError(
                f"The target {target} has classes that the source lacks: {', '.join(unknown)}; "
                f"rename or remove them (the source has {', '.join(classes)})."
            )
        pairs = [(path, classes.index(name)) for name, scan in real.items() for path in scan.images]
        photos = image_set([p for p, _ in pairs], [y for _, y in pairs], classes, size)
    sets = []
    for rows in (train, held):
        files, labels, designs, repeats = (list(column) for column in zip(*rows, strict=True))
        repeated = repeats if rows is train and max(repeats) > 1 else None
        sets.append(image_set(files, labels, classes, size, designs, repeated))
    return Domains(*sets, photos)


def times_of(source: Path | Mapping[Path, int]) -> dict[Path, int]:
    """Folder → how often a pass sees its images, of one folder or several."""
    return {source: 1} if isinstance(source, Path) else dict(source)


def in_bytes(name: str) -> bytes:
    """A name of :func:`~asg.data.scanner.name_of` as the bytes that folders are sorted by."""
    return name.encode("utf-8", "surrogateescape")


def unlabelled(folder: Path, size: int) -> ImageSet:
    """Every image of a folder and its sub-folders, of no class (labels: UNLABELLED)."""
    files = unlabelled_files(folder)
    return image_set(files, [UNLABELLED] * len(files), (), size)


def unlabelled_files(folder: Path) -> list[Path]:
    """Every image of a folder and its sub-folders; :class:`AsgError` where it is missing or has none."""
    if not folder.is_dir():
        raise AsgError(f"The folder {folder} of unlabelled images does not exist.")
    scan = images_below(folder)
    if not scan.images:
        raise AsgError(f"The folder {folder} holds {scan}: put unlabelled images into it.")
    return scan.images


def export(images: ImageSet, to: Path, classes: tuple[str, ...], per_class: int) -> Path:
    """Write up to ``per_class`` images of some classes as ``to/<class>/<number>.png``; for demonstrations."""
    for name in classes:
        indices = (images.labels == images.classes.index(name)).nonzero().flatten().tolist()[:per_class]
        (to / name).mkdir(parents=True, exist_ok=True)
        for i in indices:
            path = to / name / f"{i:05}.png"
            if not path.exists():
                Image.fromarray(images.decode(i)).save(path)
    return to
