"""CAD renders → photographs, 14 classes: VisDA-17's recipe at a laptop's size.

Meshes of a collection for shape retrieval are rendered by ``data_scripts/cad.py`` (their material, ground, light and
view are random); photographs come from Caltech-101, Office-Caltech and PACS. The index beside this module, checked by
looking at every mesh, says which files are used, which axis of a mesh points up and how many views of it there are.
Held-out renders show held-out meshes, and near-identical meshes are on one side.

Layout: ``ROOT/<repository>/<path>`` as published, and ``ROOT/renders-v<version>/<class>/<mesh>-<view>.png``.
Departure 31: not a benchmark of the paper.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from asg import AsgError
from asg.data.images import UNLABELLED, Domains, ImageSet, fingerprint_of, read_image, square
from asg.data.indexed import Row, image_of, read_index

INDEX = "cad_index.csv"
RENDERER = 1  # version of the renderer: raised where its images are meant to change
REMEDY = "run `python data_scripts/cad.py` to obtain, render and check the benchmark."


@cache
def imagenet_classes() -> dict[str, list[int]]:
    """Each class → the ImageNet classes that mean it (none for *helicopter* and *house*)."""
    return json.loads((Path(__file__).parent / "cad_classes.json").read_text("utf-8"))


def index(split: str) -> tuple[Row, ...]:
    """The rows of a split, "train" and "validation" (meshes) or "test" (photographs).

    Of all: class, repository, path, bytes, sha256. Of meshes: views, up (an axis of the file, or three numbers where
    the mesh leans), front (an axis, or empty), design (which near-identical meshes share). Of photographs: imagenet,
    empty where it is not clear. A change of what is rendered needs a higher RENDERER: renders are named by it.
    """
    return tuple(row for row in read_index(INDEX) if row["split"] == split)


def render_name(mesh: Row, view: int) -> str:
    """Where the render of one view of a mesh lies, below the folder of the benchmark."""
    return f"renders-v{RENDERER}/{mesh['class']}/{Path(mesh['path']).stem}-{view}.png"


def _labels(rows: Sequence[Row]) -> torch.Tensor:
    classes = list(imagenet_classes())
    return torch.tensor([classes.index(row["class"]) for row in rows])


def renders(root: Path, split: str, size: int) -> ImageSet:
    """Every view of the meshes of a split; a mesh is one ``cluster``."""
    meshes = index(split)
    views = [(k, view) for k, mesh in enumerate(meshes) for view in range(int(mesh["views"]))]
    names = tuple(render_name(meshes[k], view) for k, view in views)
    made_of = [(row["class"], row["sha256"], row["views"], row["up"], row["front"]) for row in meshes]
    return ImageSet(
        partial(decode_render, root, names, size),
        _labels([meshes[k] for k, _ in views]),
        tuple(imagenet_classes()),
        names,
        fingerprint_of("cad renders", RENDERER, made_of, size),
        cluster=torch.tensor([k for k, _ in views]),
    )


def decode_render(root: Path, names: Sequence[str], size: int, i: int) -> np.ndarray:
    """One render, ``(size, size, 3)``."""
    path = root / names[i]
    if not path.exists():
        raise AsgError(f"The render {path} is missing: {REMEDY}")
    return square(read_image(path), size)


def photographs(root: Path, size: int) -> ImageSet:
    """The photographs; a decoded file is the published one, else :class:`AsgError` is raised."""
    rows = index("test")
    return ImageSet(
        partial(decode_photograph, root, rows, size),
        _labels(rows),
        tuple(imagenet_classes()),
        tuple(f"{row['repository']}/{row['path']}" for row in rows),
        fingerprint_of("cad photographs", [(row["class"], row["sha256"], row["imagenet"]) for row in rows], size),
        torch.tensor([int(row["imagenet"] or UNLABELLED) for row in rows]),
    )


def decode_photograph(root: Path, rows: Sequence[Row], size: int, i: int) -> np.ndarray:
    """One photograph, ``(size, size, 3)``."""
    return square(image_of(root / rows[i]["repository"], rows[i], REMEDY), size)


def load(root: Path, size: int) -> Domains:
    """Source: renders of training meshes; validation: of held-out meshes; target: the photographs."""
    return Domains(
        renders(root, "train", size), renders(root, "validation", size), photographs(root, size), imagenet_classes()
    )
