"""VisDA-17 classification: CAD renders → photographs, 12 classes, read from the published lists.

Layout (``data_scripts/visda17.py`` makes and verifies it): ``ROOT/train/image_list.txt`` and
``ROOT/validation/image_list.txt``, lines of ``class/file label``, beside their class folders.
Following the paper, the validation photographs are what results are reported on.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from asg import AsgError
from asg.data.images import Domains, ImageSet, fingerprint_of, read_image, square

CLASSES = ("aeroplane", "bicycle", "bus", "car", "horse", "knife",
           "motorcycle", "person", "plant", "skateboard", "train", "truck")  # fmt: skip
HELD_OUT = 100  # every hundredth render is held out for validation on the synthetic side (departure 4)
# ImageNet classes that mean a VisDA class, for the oracle (departure 11); ImageNet has no horse but the sorrel,
# and people, plants in pots and skateboards only by what stands near them.
IMAGENET_CLASSES = {
    "aeroplane": [404, 895], "bicycle": [444, 671], "bus": [654, 779, 874],
    "car": [436, 468, 511, 609, 627, 656, 661, 751, 817], "horse": [339],
    "knife": [499, 623], "motorcycle": [665, 670], "person": [981, 982, 983], "plant": [738],
    "skateboard": [], "train": [466, 547, 705, 820, 829], "truck": [555, 569, 675, 717, 864, 867],
}  # fmt: skip


def read_list(root: Path, split: str) -> list[tuple[str, int]]:
    """Lines ``path label`` of one split's ``image_list.txt``; a faulty line is named with its number."""
    path = root / split / "image_list.txt"
    if not path.exists():
        raise AsgError(
            f"VisDA-17 is not at {root} ({path} is missing): run `python data_scripts/visda17.py --to {root}`, "
            "or give the folder that holds train/ and validation/ as source."
        )
    rows = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal() or int(label) >= len(CLASSES):
            raise AsgError(f"{path}, line {number}: expected 'class/file label', got {line!r}; obtain the list again.")
        rows.append((name, int(label)))
    if not rows:
        raise AsgError(f"{path} is empty: obtain the list again.")
    return rows


def models(names: Sequence[str]) -> torch.Tensor:
    """Number of the CAD model that each render ``class/MODEL__yaw_light_pitch.png`` shows, ``(N,)``.

    A file that is named otherwise, as the photographs are, shows its own.
    """
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(name.rpartition("__")[0] or name, len(numbers)) for name in names])


def image_set(root: Path, split: str, rows: list[tuple[str, int]], size: int) -> ImageSet:
    """The listed images of one split, resized and cropped as in the paper."""
    names = tuple(name for name, _ in rows)
    return ImageSet(
        partial(decode_file, root / split, names, size),
        torch.tensor([label for _, label in rows]),
        CLASSES,
        names,
        fingerprint_of("visda17", split, size, rows),
        cluster=models(names),
    )


def decode_file(folder: Path, names: Sequence[str], size: int, i: int) -> np.ndarray:
    """One file, ``(size, size, 3)``."""
    return square(read_image(folder / names[i]), size)


def load(root: Path, size: int) -> Domains:
    """Renders (all but every hundredth), held-out renders, and the validation photographs."""
    renders = read_list(root, "train")
    return Domains(
        image_set(root, "train", [r for i, r in enumerate(renders) if i % HELD_OUT], size),
        image_set(root, "train", renders[::HELD_OUT], size),
        image_set(root, "validation", read_list(root, "validation"), size),
        IMAGENET_CLASSES,
    )
