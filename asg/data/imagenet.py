"""ImageNet's validation photographs, on which a network's forgetting can be measured at the paper's scale.

Two layouts: ``wnid/*.JPEG``, a folder of each of the 1,000 classes, as torchvision and others unpack the set, whose
sorted names are the classes; or files beside a ``labels.csv`` with the columns ``file`` and ``label`` (0 to 999).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from asg import AsgError
from asg.data.images import ImageSet, fingerprint_of, read_image, shorter_side

CLASSES, EACH = 1000, 50  # and photographs of each in the whole set
RESIZED = 256 / 224  # the shorter side over the crop's
REMEDY = (
    'unpack the set with `torchvision.datasets.ImageNet(root, split="val")` and give its folder val, or give files '
    "with a labels.csv (file, label from 0 to 999)."
)


def load(root: Path, size: int) -> ImageSet:
    """The photographs below ``root``: the shorter side resized to 256/224 · ``size``, then the centre.

    Raises :class:`AsgError` for another layout, and for a part of the whole set that names no labels of its own.
    """
    rows = listed(root) if (root / "labels.csv").is_file() else in_folders(root)
    names = tuple(name for name, _ in rows)
    sizes = [(root / name).stat().st_size for name in names]
    labels = torch.tensor([label for _, label in rows])
    return ImageSet(
        partial(decode_file, root, names, size),
        labels,
        tuple(map(str, range(CLASSES))),
        names,
        fingerprint_of("imagenet", rows, sizes, size),
        imagenet=labels.clone(),
    )


def listed(root: Path) -> list[tuple[str, int]]:
    """The files that ``labels.csv`` names, each of which must be there."""
    rows = []
    with (root / "labels.csv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            name, label = row.get("file") or "", row.get("label") or ""
            if not label.isdecimal() or int(label) >= CLASSES or not (root / name).is_file():
                raise AsgError(f"{root / 'labels.csv'}, line {number}: no such file, or no label from 0 to 999: {row}.")
            rows.append((name, int(label)))
    if not rows:
        raise AsgError(f"{root / 'labels.csv'} names no file: {REMEDY}")
    return rows


def in_folders(root: Path) -> list[tuple[str, int]]:
    """The photographs of 1,000 folders, 50 in each."""
    folders = sorted(path for path in root.glob("n*") if path.is_dir()) if root.is_dir() else []
    if len(folders) != CLASSES:
        raise AsgError(f"ImageNet's validation set is not at {root} ({len(folders)} class folders of 1,000): {REMEDY}")
    files = [sorted(folder.glob("*.JPEG")) for folder in folders]
    if short := [folder.name for folder, inside in zip(folders, files, strict=True) if len(inside) != EACH]:
        raise AsgError(f"{len(short)} folders of {root} have not {EACH} photographs (first {short[0]}): {REMEDY}")
    return [(path.relative_to(root).as_posix(), k) for k, inside in enumerate(files) for path in inside]


def decode_file(root: Path, names: Sequence[str], size: int, i: int) -> np.ndarray:
    """One photograph, ``(size, size, 3)``."""
    image = read_image(root / names[i]).convert("RGB")
    larger = shorter_side(image.size, round(size * RESIZED))
    image = image.resize(larger, Image.BILINEAR)
    left, top = (round((side - size) / 2) for side in larger)
    return np.asarray(image.crop((left, top, left + size, top + size)))
