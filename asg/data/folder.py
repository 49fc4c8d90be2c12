"""Folders of images: ``DIR/<class>/<any name>.{jpg,png,…}``, as people have them."""

import hashlib
from functools import cache
from pathlib import Path

import torch
from PIL import Image

from asg import AsgError
from asg.data.images import UNLABELLED, Domains, ImageSet, fingerprint_of
from asg.data.pixels import read_pixels
from asg.recipes import version

HELD_OUT = 10  # every tenth source image is held out for validation (departure 4)


def scan(folder: Path, what: str) -> dict[str, list[Path]]:
    """Class → image files, both sorted. Hidden files are passed over; anything else must be an image."""
    if not folder.is_dir():
        raise AsgError(f"The {what} folder {folder} does not exist: give a folder with one sub-folder a class.")
    extensions = Image.registered_extensions()
    found: dict[str, list[Path]] = {}
    if loose := next((p for p in sorted(folder.iterdir()) if p.suffix.lower() in extensions), None):
        raise AsgError(f"{loose} lies beside the class folders of {folder}: move it into its class folder.")
    for sub in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(p for p in sub.iterdir() if not p.name.startswith("."))
        for path in files:
            if path.is_dir() or path.suffix.lower() not in extensions:
                raise AsgError(f"{path} is not an image: take it out of the class folder.")
        if not files:
            raise AsgError(f"The class folder {sub} is empty: add images or remove the folder.")
        found[sub.name] = files
    if not found:
        raise AsgError(f"The {what} folder {folder} has no class folders: put images in {folder}/CLASS/.")
    return found


@cache
def content_hash(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, read once a process while its size in bytes and time of change (ns) stay."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def image_set(files: list[Path], labels: list[int], classes: tuple[str, ...], size: int) -> ImageSet:
    """Files as an :class:`ImageSet`; its fingerprint covers what the files hold, wherever they lie."""
    contents = [content_hash(p, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return ImageSet(
        lambda i: read_pixels(files[i], size),
        torch.tensor(labels),
        classes,
        tuple(map(str, files)),
        fingerprint_of(contents, labels, classes, size, version("folder")),
    )


def load(source: Path, target: Path | None, size: int) -> Domains:
    """Train on nine tenths of ``source``, validate on the rest, report on ``target`` (may be None).

    Raises :class:`AsgError` for a missing or empty folder, a file that is no image, and a target
    class that the source lacks. Source classes without target images are allowed.
    """
    synthetic = scan(source, "source")
    if len(synthetic) < 2:
        raise AsgError(f"{source} has one class only: a classifier needs at least two class folders.")
    classes = tuple(synthetic)
    train, held, train_y, held_y = [], [], [], []
    for label, name in enumerate(classes):
        if len(synthetic[name]) < 2:
            raise AsgError(f"The class {name!r} has one image in {source}: one is needed to train, one to validate.")
        for i, path in enumerate(synthetic[name]):
            chosen, chosen_y = (held, held_y) if i % HELD_OUT == 1 else (train, train_y)
            chosen.append(path)
            chosen_y.append(label)
    photos = None
    if target is not None:
        real = scan(target, "target")
        if unknown := sorted(set(real) - set(classes)):
            raise AsgError(
                f"The target {target} has classes that the source lacks: {', '.join(unknown)}; "
                f"rename or remove them (the source has {', '.join(classes)})."
            )
        pairs = [(path, classes.index(name)) for name, paths in real.items() for path in paths]
        photos = image_set([p for p, _ in pairs], [y for _, y in pairs], classes, size)
    return Domains(image_set(train, train_y, classes, size), image_set(held, held_y, classes, size), photos)


def unlabelled(folder: Path, size: int) -> ImageSet:
    """Every image of a folder and its sub-folders, of no class (labels: UNLABELLED)."""
    if not folder.is_dir():
        raise AsgError(f"The folder {folder} of unlabelled images does not exist.")
    extensions = Image.registered_extensions()
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in extensions and not p.name.startswith("."))
    if not files:
        raise AsgError(f"The folder {folder} holds no image: put unlabelled images into it.")
    return image_set(files, [UNLABELLED] * len(files), (), size)


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
