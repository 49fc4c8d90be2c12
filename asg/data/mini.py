"""The embedded benchmark: rendered emoji → photographs, 12 classes.

As in VisDA-17, the synthetic objects stand on plain ground and the real ones in scenes: emoji designs
are pasted at random scale, angle and mirror onto grey; photographed objects (with their alpha masks)
onto crops of photographs. Every image has its own random stream. The files come from
``data_scripts/mini.py``, which checks them against the index beside this module.
Departure 6: not a benchmark of the paper.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

from asg import AsgError
from asg.config import Rendering
from asg.data import grounds
from asg.data.images import UNLABELLED, Domains, ImageSet, Remembered, fingerprint_of, read_image
from asg.data.indexed import Row, read_index

HERE = Path(__file__).parent
REMEDY = "run `python data_scripts/mini.py` to obtain and check the benchmark."


DARKEST = 90  # the plain ground is grey, DARKEST … 255
STYLES = ("modern", "flat")  # the same designs as vector drawings, in emoji-STYLE/
PATCHES = 5  # the soft ground is an upscaled k × k grid of random colours, k ≤ PATCHES
SMALLEST_CROP = 100  # side of the smallest scene crop, pixels


def index() -> tuple[Row, ...]:
    """Rows of the hand-checked index: domain, split, class, path, sha256, imagenet, credit."""
    return read_index("mini_index.csv")


@cache
def imagenet_classes() -> dict[str, list[int]]:
    """Each class → the ImageNet classes that mean it (none for *plant*: ImageNet has no trees)."""
    return json.loads((HERE / "mini_classes.json").read_text("utf-8"))


def cut_out(path: Path) -> Image.Image:
    """The object with its alpha mask, cropped to it; RGBA."""
    if not path.exists():
        raise AsgError(f"The benchmark's file {path} is missing: {REMEDY}")
    image = read_image(path).convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


def draw(path: Path, rendering: Rendering) -> Image.Image:
    """The design that lies at ``path`` as a 3-D render, in the style and detail that are asked for; RGBA."""
    if rendering.style in STYLES:
        path = path.parent.with_name(f"emoji-{rendering.style}") / f"{path.stem}.png"
    design = cut_out(path)
    if rendering.style == "silhouette":
        black = Image.new("RGBA", design.size, "black")
        black.putalpha(design.getchannel("A"))
        design = black
    if rendering.detail:
        coarse = design.copy()
        coarse.thumbnail((rendering.detail, rendering.detail), Image.LANCZOS)
        design = coarse.resize(design.size, Image.BICUBIC)
    return design


def paste(cutout: Image.Image, background: Image.Image, share: float, position: tuple[float, float]) -> np.ndarray:
    """``cutout`` scaled to ``share`` of the square background, at ``position`` in the room left; ``(H, W, 3)``."""
    scale = share * background.width / max(cutout.size)
    cutout = cutout.resize((max(1, round(cutout.width * scale)), max(1, round(cutout.height * scale))), Image.LANCZOS)
    left = int(position[0] * (background.width - cutout.width))
    top = int(position[1] * (background.height - cutout.height))
    background.paste(cutout, (left, top), cutout)
    return np.asarray(background)


@cache
def scenes() -> tuple[Image.Image, ...]:
    """Photographs without an object of ours: lakeside trees, dark leaves, brick, grass, gravel.

    They ship inside scikit-learn and scikit-image, so nothing more needs to be obtained.
    """
    from sklearn.datasets import load_sample_images  # takes a second to import

    lake, leaves = (Image.fromarray(image) for image in load_sample_images().images)
    grounds = (skimage.data.brick(), skimage.data.grass(), skimage.data.gravel())
    return (
        lake.crop((330, 0, 640, 427)),
        leaves.crop((0, 0, 165, 427)),
        *(Image.fromarray(ground).convert("RGB") for ground in grounds),
    )


def compose(photo: Image.Image, size: int, rng: np.random.Generator, rendering: Rendering) -> np.ndarray:
    """A photographed object in the middle of a random scene crop (or of white), uint8 ``(size, size, 3)``.

    Every pixel is photographed; that object and scene stand together is composed.
    """
    if rendering.backdrop == "white":
        return paste(photo, Image.new("RGB", (size, size), "white"), rendering.photo, (0.5, 0.5))
    scene = scenes()[int(rng.integers(len(scenes())))]
    side = int(rng.integers(SMALLEST_CROP, min(scene.size)))
    left, top = int(rng.integers(scene.width - side)), int(rng.integers(scene.height - side))
    background = scene.crop((left, top, left + side, top + side)).resize((size, size), Image.BICUBIC)
    return paste(photo, background, rendering.photo, (0.5, 0.5))


def render(design: Image.Image, size: int, rng: np.random.Generator, rendering: Rendering) -> np.ndarray:
    """One synthetic image, uint8 ``(size, size, 3)``, from the random stream ``rng``."""
    if rendering.ground == "white":
        background = Image.new("RGB", (size, size), "white")
    elif rendering.ground == "grey":
        background = Image.new("RGB", (size, size), (int(rng.integers(DARKEST, 256)),) * 3)
    elif rendering.ground == "textures":
        background = grounds.textured(size, rng)
    else:
        k = int(rng.integers(1, PATCHES + 1))
        colours = rng.integers(0, 256, (k, k, 3), dtype=np.uint8)
        background = Image.fromarray(colours).resize((size, size), Image.BICUBIC)
    if rendering.pose == "fixed":
        return paste(design, background, (rendering.smallest + rendering.largest) / 2, (0.5, 0.5))
    share, angle = rng.uniform(rendering.smallest, rendering.largest), rng.uniform(-rendering.angle, rendering.angle)
    if rng.random() < 0.5:
        design = design.transpose(Image.FLIP_LEFT_RIGHT)
    design = design.rotate(angle, Image.BICUBIC, expand=True)
    return paste(design.crop(design.getchannel("A").getbbox()), background, share, tuple(rng.random(2)))


def missing_or_altered(root: Path) -> list[str]:
    """One line for each indexed file that is missing from ``root`` or whose bytes differ."""
    faults = []
    for row in index():
        path = root / row["path"]
        if not path.exists():
            faults.append(f"missing: {path}")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            faults.append(f"altered: {path}")
    return faults


def by_hash(row: dict[str, str]) -> str:
    """A fixed order that has nothing to do with what is drawn."""
    return row["sha256"]


def _image_set(rows: list[dict], root: Path, size: int, copies: int, rendering: Rendering) -> ImageSet:
    classes = tuple(sorted(imagenet_classes()))
    photos = rows[0]["domain"] == "real"
    design_of = Remembered(partial(cut_out_of if photos else drawing_of, root, rendering))
    repeated = [row for row in rows for _ in range(copies)]
    return ImageSet(
        partial(decode_copy, rows, copies, compose if photos else render, design_of, size, rendering),
        torch.tensor([classes.index(row["class"]) for row in repeated]),
        classes,
        tuple(row["path"] for row in repeated),
        fingerprint_of(
            [(row["class"], row["sha256"], row["imagenet"]) for row in rows], copies, size, rendering.model_dump()
        ),
        torch.tensor([int(row["imagenet"] or UNLABELLED) for row in repeated]),
        torch.arange(len(repeated)) // copies,
    )


def cut_out_of(root: Path, rendering: Rendering, name: str) -> Image.Image:
    """A photographed object by the name of its file."""
    return cut_out(root / name)


def drawing_of(root: Path, rendering: Rendering, name: str) -> Image.Image:
    """A design by the name of its file."""
    return draw(root / name, rendering)


def decode_copy(
    rows: list[dict], copies: int, show: Callable, design_of: Callable, size: int, rendering: Rendering, i: int
) -> np.ndarray:
    """One of the ``copies`` of a design, ``(size, size, 3)``; ``show`` is :func:`render` or :func:`compose`."""
    row = rows[i // copies]
    rng = np.random.default_rng((rendering.seed, int(row["sha256"][:8], 16), i % copies))
    return show(design_of(row["path"]), size, rng, rendering)


def load(root: Path, size: int, rendering: Rendering = Rendering()) -> Domains:
    """Source: training designs; validation: other designs of the same classes; target: the photographs."""
    rows = {split: [r for r in index() if r["split"] == split] for split in ("train", "validation", "test")}
    if rendering.designs:
        by_class = {name: [r for r in rows["train"] if r["class"] == name] for name in imagenet_classes()}
        rows["train"] = [r for same in by_class.values() for r in sorted(same, key=by_hash)[: rendering.designs]]
    return Domains(
        _image_set(rows["train"], root, size, rendering.per_design, rendering),
        _image_set(rows["validation"], root, size, rendering.per_held_out, rendering),
        _image_set(rows["test"], root, size, 1, rendering),
        imagenet_classes(),
    )
