"""Folders of images with a mask each: ``DIR/images/NAME.jpg`` and ``DIR/masks/NAME.png``, also deeper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from asg import AsgError
from asg.data.folder import HELD_OUT, content_hash, unlabelled_files
from asg.data.images import UNLABELLED, Remembered, fingerprint_of, shorter_side
from asg.data.masks import BEYOND, LISTS, ClassList, find_list, known, list_of_masks, read_list, read_mask, values_of
from asg.data.pixels import read_photo, upright_size
from asg.data.scanner import images_below
from asg.data.segmentation import SegmentationDomains, SegmentationSet, nearest

IMAGES, MASKS = "images", "masks"
MEMORY = 10**9  # bytes of resized images and labels that are kept in memory; where there are more, they are read anew

Pair = tuple[Path, Path | None]


def pairs_of(folder: Path, what: str) -> list[Pair]:
    """Every image below ``folder/images`` with its mask below ``folder/masks``: the same path but for the ending.

    Raises :class:`AsgError` where a folder, an image or a mask is missing, or two have one name.
    """
    for part in (IMAGES, MASKS):
        if not (folder / part).is_dir():
            raise AsgError(
                f"The {what} folder {folder} has no {part}/: segmentation reads {folder}/{IMAGES}/NAME.jpg and "
                f"{folder}/{MASKS}/NAME.png."
            )
    images, masks = (by_name(folder / part) for part in (IMAGES, MASKS))
    if not images:
        raise AsgError(f"{folder / IMAGES} holds {images_below(folder / IMAGES)}: put images into it.")
    for named, others, role, other in ((images, masks, "image", "mask"), (masks, images, "mask", "image")):
        if alone := [name for name in named if name not in others]:
            raise AsgError(
                f"{named[alone[0]]} ({len(alone)} of {len(named)} such files) has no {other} of its name in "
                f"{folder / (MASKS if other == 'mask' else IMAGES)}: add the {other}, or take the {role} out."
            )
    return [(images[name], masks[name]) for name in images]


def by_name(folder: Path) -> dict[Path, Path]:
    """Path below the folder, without its ending → file."""
    files: dict[Path, Path] = {}
    for path in images_below(folder).images:
        name = path.relative_to(folder).with_suffix("")
        if name in files:
            raise AsgError(f"{files[name]} and {path} have one name: remove one of them.")
        files[name] = path
    return files


def classes_of(source: Path, pairs: Sequence[Pair], given: Path | None) -> ClassList:
    """The classes of a source: of the file that is given, or lies in its folder, or of what its masks hold."""
    if (path := given or find_list(source)) is not None:
        return read_list(path)
    return list_of_masks(mask for _, mask in tqdm(pairs, desc="reading masks", unit="mask", leave=False, delay=1))


def check(pairs: Sequence[Pair], classes: ClassList, folder: Path, complete: bool) -> None:
    """Raise :class:`AsgError` for a mask of another size than its image, or with a value that means nothing.

    ``complete``: and for a class of the list that no mask shows.
    """
    seen: set[int] = set()
    for image, mask in tqdm(pairs, desc=f"checking {folder}", unit="mask", leave=False, delay=1):
        present, (width, height) = values_of(mask, classes.colours)
        known(present, classes, mask)
        if (size := upright_size(image)) != (width, height):
            raise AsgError(
                f"{mask} is {width} × {height} pixels, and its image {image} {size[0]} × {size[1]}: a mask has a value "
                "for each pixel of its image."
            )
        seen |= {classes.meaning[value] for value in present}
    if complete and (absent := [name for k, name in enumerate(classes.names) if k not in seen]):
        raise AsgError(
            f"No mask below {folder} shows {', '.join(absent)}: the list says {classes}. Mend its values, or take "
            "the class out."
        )


def pair_set(folder: Path, pairs: Sequence[Pair], classes: ClassList, size: int) -> SegmentationSet:
    """Pairs as a set whose images have a shorter side of ``size``; its fingerprint covers what the files hold.

    Images are resized bilinearly, labels to the nearest. An image without a mask (None) is UNLABELLED throughout.
    """
    files = [path for pair in pairs for path in pair if path is not None]
    contents = [content_hash(p, p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    shapes = [shorter_side(upright_size(image), size) for image, _ in pairs]
    bytes_needed = sum(width * height for width, height in shapes) * 5  # three of the image, two of the labels
    names = tuple(image.relative_to(folder).as_posix() for image, _ in pairs)
    print_ = fingerprint_of(contents, classes.names, sorted(classes.meaning.items()), size)
    decode = partial(decode_pair, pairs, classes, size)
    return SegmentationSet(decode if bytes_needed > MEMORY else Remembered(decode), classes.names, names, print_)


def decode_pair(pairs: Sequence[Pair], classes: ClassList, size: int, i: int) -> tuple[np.ndarray, np.ndarray]:
    """An image ``(H, W, 3)`` and its labels ``(H, W)``."""
    image = read_photo(pairs[i][0])
    sides = shorter_side(image.size, size)
    pixels = np.asarray(image.resize(sides, Image.BILINEAR))
    if pairs[i][1] is None:
        return pixels, np.full(pixels.shape[:2], UNLABELLED, np.int16)
    return pixels, nearest(read_mask(pairs[i][1], classes), sides)


def load(source: Path, target: Path | None, size: int, given: Path | None = None) -> SegmentationDomains:
    """Pairs with masks: every tenth of the source is held out for validation (departure 4).

    ``given``: the class list; None: that of the source's folder (``asg.data.masks.LISTS``), or what its masks
    hold. A target whose folder has a list of its own is read by that one. Every mask is read once, and checked. A
    target without ``masks/`` has no labels: every pixel of it is UNLABELLED.
    """
    pairs = pairs_of(source, "source")
    if len(pairs) < 2:
        raise AsgError(f"{source} has one image: one is needed to train, one to validate.")
    classes = classes_of(source, pairs, given)
    check(pairs, classes, source, complete=True)
    train, held = ([p for i, p in enumerate(pairs) if (i % HELD_OUT == 1) == out] for out in (False, True))
    photos = None
    if target is not None and not has_masks(target):
        photos = unlabelled(target, classes.names, size)
    elif target is not None:
        real, theirs = pairs_of(target, "target"), classes
        if (own := find_list(target)) is not None and given is None:
            theirs = read_list(own).of(classes.names, own)
        check(real, theirs, target, complete=False)
        photos = pair_set(target / IMAGES, real, theirs, size)
    return SegmentationDomains(*(pair_set(source / IMAGES, p, classes, size) for p in (train, held)), photos)


def has_masks(folder: Path) -> bool:
    """Whether a folder has a folder of masks."""
    return (folder / MASKS).is_dir()


def photos_of(folder: Path) -> Path:
    """Where the images of a folder lie: below its images/, if it has one, and no other folder of it holds images.

    Its masks/ hold no photos; another folder beside images/ may be masks of another name, and raises :class:`AsgError`.
    """
    if not (folder / IMAGES).is_dir():
        return folder
    for path in images_below(folder).images:
        if (part := path.relative_to(folder).parts[0]) not in (IMAGES, MASKS):
            raise AsgError(
                f"{folder} has {IMAGES}/ and {path}: if {part} holds masks, call it {MASKS}/; if it holds photos, put "
                f"them below {IMAGES}/."
            )
    return folder / IMAGES


def unlabelled(folder: Path, classes: tuple[str, ...], size: int) -> SegmentationSet:
    """Every image of a folder and its sub-folders (:func:`photos_of`), its pixels of no class (UNLABELLED)."""
    photos = photos_of(folder)
    return pair_set(photos, [(path, None) for path in unlabelled_files(photos)], ClassList(classes, {}), size)


def export(images: SegmentationSet, to: Path, count: int) -> Path:
    """Write the first ``count`` pairs of a set, and its classes, as :func:`load` reads them; for demonstrations."""
    for part in (IMAGES, MASKS):
        (to / part).mkdir(parents=True, exist_ok=True)
    (to / LISTS[1]).write_text("\n".join(images.classes), "utf-8")
    for i in range(count):
        pixels, labels = images.decode(i)
        Image.fromarray(pixels).save(to / IMAGES / f"{i:05}.png")
        Image.fromarray(np.where(labels == UNLABELLED, BEYOND, labels).astype(np.uint8)).save(
            to / MASKS / f"{i:05}.png"
        )
    return to
