"""Masks that a segmentation model gives to images, and the images with the masks laid over them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from asg import AsgError, records
from asg.data.images import make_folder, shorter_side
from asg.data.masks import LISTS, palette
from asg.data.pixels import read_photo
from asg.dense_models import predict as answer
from asg.model_files import load_model
from asg.predict import csv_line, json_list
from asg.trainers.devices import make_accelerator
from asg.trainers.segmentation import OVERLAP, WINDOW

MASKS, OVERLAYS = "masks", "overlays"
MOST = 256  # classes that an image with a palette can hold


@dataclass(frozen=True)
class Mask:
    """The files written for an image and the share of it that each class takes, or why it was not read."""

    image: Path
    mask: Path | None = None
    overlay: Path | None = None
    shares: dict[str, float] = field(default_factory=dict)
    reason: str | None = None


def labels_of(logits: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The best class of every pixel, uint8 ``(H, W)``, of logits ``(C, h, w)`` enlarged bilinearly to ``size``.

    Class by class, so that a large image needs the memory of two.
    """
    best = torch.full(size, -torch.inf, device=logits.device)
    labels = torch.zeros(size, dtype=torch.uint8, device=logits.device)
    for k, scores in enumerate(logits):
        enlarged = F.interpolate(scores[None, None].float(), size, mode="bilinear")[0, 0]  # (h, w) → (H, W)
        higher = enlarged > best
        best, labels = torch.where(higher, enlarged, best), labels.masked_fill(higher, k)
    return labels.cpu().numpy()


def unused(name: str, taken: set[str]) -> str:
    """``name``, or with the first number that makes it another than those that are taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


def predict(model: Path, images: Sequence[Path], out: Path, device: str | None = None) -> Iterator[Mask]:
    """Write ``out/masks/NAME.png`` and ``out/overlays/NAME.jpg`` for each image, both of its size.

    A mask holds the number of a class in the order of ``out/classes.json``, so that it can be read as a mask of one's
    own, in the colours of :func:`~asg.data.masks.palette`. An image that cannot be read is answered with the reason, in
    its place.
    """
    student, config, classes = load_model(model)
    if len(classes) > MOST:
        raise AsgError(f"The model has {len(classes)} classes, and a mask can hold {MOST}: write masks in parts.")
    place = make_accelerator(config.model_copy(update={"precision": "no"}), device).device
    student.to(place)
    colours, taken = palette(len(classes)), set()
    masks, overlays = (make_folder(out / part) for part in (MASKS, OVERLAYS))
    records.write_text(out / LISTS[0], json.dumps({name: k for k, name in enumerate(classes)}, indent=1))
    for path in images:
        try:
            photo = read_photo(path)
        except AsgError as error:
            yield Mask(path, reason=str(error))
            continue
        small = np.array(photo.resize(shorter_side(photo.size, config.size), Image.BILINEAR))
        pixels = torch.from_numpy(small).permute(2, 0, 1)  # (H, W, 3) → (3, H, W)
        labels = labels_of(answer(student, pixels, WINDOW, OVERLAP), photo.size[::-1])
        name = unused(path.stem, taken)
        written = Mask(
            path,
            masks / f"{name}.png",
            overlays / f"{name}.jpg",
            {c: float(share) for c, share in zip(classes, shares_of(labels, len(classes)), strict=True)},
        )
        drawn = Image.fromarray(labels, "P")
        drawn.putpalette(colours.tobytes())
        try:
            drawn.save(written.mask)
            Image.blend(photo, Image.fromarray(colours[labels]), 0.5).save(written.overlay, quality=90)
        except OSError as error:
            raise AsgError(f"Masks cannot be written to {out} ({error}): free some space.") from None
        yield written


def shares_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """The share of pixels that each class takes, ``(C,)``."""
    return np.bincount(labels.ravel(), minlength=classes) / labels.size


def table(rows: Iterable[Mask], kind: str, classes: Sequence[str]) -> Iterator[str]:
    """Lines of CSV, with the share of each class, or of a JSON list; each ends in a line feed."""
    if kind == "json":
        yield from json_list(
            {"image": str(one.image)}
            | (
                {"reason": one.reason}
                if one.reason
                else {"mask": str(one.mask), "overlay": str(one.overlay), "shares": one.shares}
            )
            for one in rows
        )
        return
    yield csv_line(["image", "mask", "overlay", *classes, "reason"])
    for one in rows:
        shares = [f"{share:.4f}" for share in one.shares.values()] or [""] * len(classes)
        yield csv_line([str(one.image), str(one.mask or ""), str(one.overlay or ""), *shares, one.reason or ""])
