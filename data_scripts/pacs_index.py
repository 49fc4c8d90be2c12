"""How ``asg/data/pacs_index.csv`` was made; nobody who only uses the benchmark needs it.

``python data_scripts/pacs_index.py PACS > asg/data/pacs_index.csv``, where the folder PACS holds photo/, cartoon/ and
sketch/. Its columns beside ``path``, ``bytes`` and ``sha256``:

- ``group``: drawings that are no independent examples have one name, and blank is a drawing of its own. Sketches of
  one photograph have its path (a sketch ``n02103406_1011-2.png`` was drawn by a person who looked at the photograph
  ``n02103406_1011.jpg``: Sangkloy et al. 2016). Cartoons of one class that are chained by a likeness of ALIKE or more
  (one clip art recoloured, mirrored, or with another watermark or dress) have the path of the first of them.
- ``split``: photographs are ``test``. Of the drawings of a domain and class, whole groups are ``validation`` in the
  order of the SHA-256 of their names until these are a tenth; the others are ``train``.
- ``imagenet``: the ImageNet-1k class of a photograph whose file name tells it. PACS took photographs from ImageNet
  (by way of the Sketchy database), whose names begin with their WordNet synset, and from Caltech-256, whose names begin
  with the number of their category: 63 is *electric guitar*. All others are blank: no breed is known of the dogs of
  Caltech-256, no species of the elephants, and a horse need not be a sorrel.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse.csgraph import connected_components

from asg.data.images import read_image
from asg.data.indexed import Row

DOMAINS = ("photo", "cartoon", "sketch")
COLUMNS = ("path", "bytes", "sha256", "split", "group", "imagenet")
SKETCHES = 3_929  # as published, of which every third is taken
ALIKE = 0.8  # likeness of drawings that count as one: one pair of two classes, of 2.3 million, is as like by chance
SIDE = 56  # pixels to which drawings are reduced,
STRONGEST = 0.25  # where a stronger edge counts as this one,
BLUR = 1.0  # and edges are blurred by this many pixels
TENTH = 10
# What a file name begins with → ImageNet-1k class: German shepherd, Saint Bernard, acoustic and electric guitar
# (synsets), electric guitar (Caltech-256). n02103406, n02503517, n02439033, n03467517, n02374451 (working dog,
# elephant, giraffe, guitar, horse) are no ImageNet-1k classes.
IMAGENET = {"n02106662": 235, "n02109525": 247, "n02676566": 402, "n03272010": 546, "063": 546}


def rows_of(root: Path) -> list[Row]:
    """The rows of the index of the tree at ``root``, sorted by path within photographs, cartoons, sketches."""
    rows = []
    for domain in DOMAINS:
        paths = sorted(path.relative_to(root).as_posix() for path in (root / domain).glob("*/[!.]*"))
        if len(paths) == SKETCHES:
            paths = paths[::3]
        groups = {"photo": no_groups, "cartoon": alike, "sketch": drawn}[domain](root, paths)
        held = held_out(paths, groups) if domain != "photo" else set()
        for path in paths:
            content = (root / path).read_bytes()
            split = "test" if domain == "photo" else "validation" if path in held else "train"
            imagenet = IMAGENET.get(Path(path).name.split("_")[0], "") if domain == "photo" else ""
            values = (path, len(content), hashlib.sha256(content).hexdigest(), split, groups.get(path, ""), imagenet)
            rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    return rows


def no_groups(root: Path, paths: list[str]) -> dict[str, str]:
    """Photographs are only reported on."""
    return {}


def drawn(root: Path, paths: list[str]) -> dict[str, str]:
    """Sketch → the photograph that it was drawn from."""
    return {p: f"{p.replace('sketch/', 'photo/').rpartition('-')[0]}.jpg" for p in paths if "/n" in p}


def alike(root: Path, paths: list[str]) -> dict[str, str]:
    """Cartoon → the first of those that it is chained to by a likeness of ALIKE or more, within its class."""
    edges = np.stack([edges_of(read_image(root / path)) for path in paths])  # (N, SIDE, SIDE)
    straight, mirrored = (x.reshape(len(paths), -1) for x in (edges, edges[:, :, ::-1]))  # (N, SIDE²)
    likeness = np.maximum(straight @ straight.T, straight @ mirrored.T)  # (N, N)
    classes = np.array([path.split("/")[1] for path in paths])
    _, number = connected_components((likeness >= ALIKE) & (classes[:, None] == classes))
    members = defaultdict(list)
    for path, k in zip(paths, number, strict=True):
        members[k].append(path)
    return {path: group[0] for group in members.values() if len(group) > 1 for path in group}


def edges_of(image: Image.Image) -> np.ndarray:
    """Where a drawing has edges, ``(SIDE, SIDE)`` of mean 0 and norm 1: a scalar product is a correlation.

    Edges, since one drawing comes in several colours: the greatest gradient of the three channels.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.BOX)) / 255  # (SIDE, SIDE, 3)
    edges = np.hypot(*np.gradient(pixels, axis=(0, 1))).max(2)  # (SIDE, SIDE)
    edges = gaussian_filter(np.minimum(edges, STRONGEST), BLUR)
    edges -= edges.mean()
    return edges / np.linalg.norm(edges)


def held_out(paths: list[str], groups: dict[str, str]) -> set[str]:
    """A tenth of each class, in whole groups, in the order of the SHA-256 of their names."""
    members = defaultdict(lambda: defaultdict(list))  # class → group → paths
    for path in paths:
        members[path.split("/")[1]][groups.get(path, path)].append(path)
    chosen = set()
    for of_class in members.values():
        room = round(sum(map(len, of_class.values())) / TENTH)
        for name in sorted(of_class, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
            if room > 0:
                chosen |= set(of_class[name])
                room -= len(of_class[name])
    return chosen


if __name__ == "__main__":
    writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows_of(Path(sys.argv[1])))
