"""What a model says of images that no one has labelled, one row an image."""

from __future__ import annotations

import csv
import glob
import io
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from asg import AsgError
from asg.data import mirrored
from asg.data.pixels import read_pixels
from asg.data.scanner import images_below
from asg.metrics import ranked
from asg.model_files import load_model
from asg.trainers.devices import make_accelerator
from asg.trainers.frozen import evaluation_batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image: its best classes, each with its probability, or why the image was not read."""

    image: Path
    answers: tuple[tuple[str, float], ...] = ()
    reason: str | None = None


def images_of(given: Sequence[Path]) -> list[Path]:
    """Files as they are, of folders every image below them, of patterns what they match; what is left out is logged.

    Raises :class:`AsgError` for a pattern that matches nothing. A file that is not there stays: its row says so.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            scan = images_below(path)
            log.info("%s: %s", path, scan)
            files += scan.images
        elif not path.exists() and glob.has_magic(str(path)):
            matched = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 (Path takes no absolute pattern)
            if not matched:
                raise AsgError(f"Nothing matches {path}: give files, folders, or another pattern.")
            files += images_of(matched)
        else:
            files.append(path)
    return files


def predict(model: Path, images: Sequence[Path], top: int = 1, device: str | None = None) -> Iterator[Prediction]:
    """Each image with its ``top`` classes and their mean softmax probabilities: :func:`asg.metrics.ranked`.

    The rule is that of the reported accuracy. An image that cannot be read is answered with the reason, in its place.
    Raises :class:`AsgError` for a folder without a model.
    """
    student, config, classes = load_model(model)
    mirror = mirrored(config) is not False  # a model of before this was asked does not say
    place = make_accelerator(config.model_copy(update={"precision": "no"}), device).device
    student.to(place)
    batch = evaluation_batch(place)
    for first in range(0, len(images), batch):
        pixels, reasons = {}, {}
        for path in images[first : first + batch]:
            try:
                pixels[path] = read_pixels(path, config.size)
            except AsgError as error:
                reasons[path] = str(error)
        answered = {}
        if pixels:
            x = torch.from_numpy(np.stack(list(pixels.values()))).permute(0, 3, 1, 2).to(place)  # (N, 3, H, W)
            with torch.inference_mode():
                plain = student(x)[0].float().cpu()
                flipped = student(x.flip(3))[0].float().cpu() if mirror else plain
            for path, order, sure in zip(pixels, *(part.tolist() for part in ranked(plain, flipped, top)), strict=True):
                answered[path] = tuple(zip((classes[k] for k in order), sure, strict=True))
        for path in images[first : first + batch]:
            yield Prediction(path, answered.get(path, ()), reasons.get(path))


def prediction_table(predictions: Iterable[Prediction], kind: str, top: int) -> Iterator[str]:
    """Lines of CSV, with a column for each of the ``top`` classes, or of a JSON list; each ends in a line feed."""
    if kind == "json":
        yield from json_list(
            {"image": str(one.image), "answers": [{"class": c, "probability": round(p, 4)} for c, p in one.answers]}
            | ({"reason": one.reason} if one.reason else {})
            for one in predictions
        )
        return
    numbers = ["", *(f" {k}" for k in range(2, top + 1))]
    columns = ["image", *(f"{name}{k}" for k in numbers for name in ("class", "probability")), "reason"]
    yield csv_line(columns)
    for one in predictions:
        cells = [cell for name, p in one.answers for cell in (name, f"{p:.4f}")]
        yield csv_line([str(one.image), *cells, *[""] * (2 * len(numbers) - len(cells)), one.reason or ""])


def json_list(rows: Iterable[dict]) -> Iterator[str]:
    """Rows as a JSON list, one a line, as they come."""
    yield "["
    for k, row in enumerate(rows):
        yield f"{',' if k else ''}\n {json.dumps(row)}"
    yield "\n]\n"


def csv_line(cells: Sequence[str]) -> str:
    """One row of CSV that ends in a plain line feed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # so that both of these letters are quoted in a cell
    return f"{text.getvalue().removesuffix(chr(13) + chr(10))}\n"
