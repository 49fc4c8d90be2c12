"""PACS: drawings (cartoons, or sketches) → photographs, 7 classes; the target is every photograph.

Li, Yang, Song, Hospedales (2017), *Deeper, broader and artier domain generalization*; its fourth domain, art
paintings, and two of three sketches are not in this benchmark. The files, 227 × 227 pixels, come from
``data_scripts/pacs.py``; the index beside this module says which they are, which drawings are held out, which are
no independent examples, and which photographs have an ImageNet class (``data_scripts/pacs_index.py`` has the rules).

Two things to know. The photographs of five classes are in part ImageNet's own, so that an ImageNet network may have
been trained on them; and every one of these was drawn: most *sketches* show a photograph of the target.
``ImageSet.imagenet`` holds the ImageNet class that a file name tells, of some dogs and most guitars; the others are
UNLABELLED. Departure 31: not a benchmark of the paper.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from asg.data.images import UNLABELLED, Domains, ImageSet, fingerprint_of, square
from asg.data.indexed import Row, image_of, read_index

REMEDY = "run `python data_scripts/pacs.py` to obtain the benchmark."


def index() -> tuple[Row, ...]:
    """Rows of the index: path (``domain/class/file``), bytes, sha256, split, group, imagenet."""
    return read_index("pacs_index.csv")


@cache
def imagenet_classes() -> dict[str, list[int]]:
    """Each class → the ImageNet-1k classes that mean it (departure 11).

    Dogs are the domestic breeds, elephants the two species and the tusker, horses the sorrel, guitars the acoustic and
    the electric one. ImageNet has neither giraffes nor persons, and houses of special kinds only (barn, boathouse,
    mobile home, palace): none counts.
    """
    return json.loads(Path(__file__).with_name("pacs_classes.json").read_text("utf-8"))


def image_set(root: Path, domain: str, split: str, size: int) -> ImageSet:
    """The images of one domain and split, resized and cropped as in the paper; a decoded file is the published one.

    Decoding raises :class:`AsgError` where a file is missing, cut short or altered.
    """
    rows = [row for row in index() if row["path"].startswith(f"{domain}/") and row["split"] == split]
    classes = tuple(sorted(imagenet_classes()))
    groups: dict[str, int] = {}
    return ImageSet(
        partial(decode_file, root, rows, size),
        torch.tensor([classes.index(row["path"].split("/")[1]) for row in rows]),
        classes,
        tuple(row["path"] for row in rows),
        fingerprint_of("pacs", [(r["path"], r["sha256"], r["group"], r["imagenet"]) for r in rows], size),
        torch.tensor([int(row["imagenet"] or UNLABELLED) for row in rows]),
        torch.tensor([groups.setdefault(row["group"] or row["path"], len(groups)) for row in rows]),
    )


def decode_file(root: Path, rows: list[Row], size: int, i: int) -> np.ndarray:
    """One file, ``(size, size, 3)``."""
    return square(image_of(root, rows[i], REMEDY), size)


def load(root: Path, domain: str, size: int) -> Domains:
    """Source and validation: drawings of ``domain`` ("cartoon" or "sketch"), a tenth held out; target: photographs."""
    return Domains(
        image_set(root, domain, "train", size),
        image_set(root, domain, "validation", size),
        image_set(root, "photo", "test", size),
        imagenet_classes(),
    )
