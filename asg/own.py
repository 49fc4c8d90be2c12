"""People's own folders: a model of renders, its report, and its adaptation to unlabelled photos."""

import csv
import glob
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from asg import AsgError, models, processes, records
from asg.config import make_config
from asg.data import mirrored, read_domains, unlabelled
from asg.data.images import make_folder
from asg.data.pixels import read_pixels
from asg.data.scanner import Found, class_folders, images_below
from asg.metrics import ranked
from asg.own_recipes import PROFILE, recipe
from asg.report import watch, write_report
from asg.trainers import classification, interpolation, self_training
from asg.trainers.frozen import evaluation_batch
from asg.trainers.loop import make_accelerator


@contextmanager
def own_folder(out: Path, made_of: dict[str, object]) -> Iterator[Path]:
    """``out``, held by this process alone, with nothing in it that was begun from anything else.

    ``made_of``: what a run is made of, in words → what identifies it (JSON).
    """
    with records.lock(folder := make_folder(out)):
        kept, now = folder / "config.json", json.dumps(made_of)
        if any(folder.rglob("checkpoint.pt")) and kept.exists() and (before := kept.read_text("utf-8")) != now:
            other = " and ".join(differing(before, now))
            raise AsgError(f"{folder} holds an unfinished run of other {other}: give another --out, or remove it.")
        records.write_text(kept, now)
        yield folder


def differing(before: str, now: str) -> list[str]:
    """The names under which two JSON objects differ, in the order of the second; all of them if the first is none."""
    try:
        former = dict(json.loads(before))
    except (TypeError, ValueError):
        former = {}
    return [name for name, value in json.loads(now).items() if former.get(name) != value]


def refuse_inside(out: Path, *images: Path | None) -> None:
    """Raise :class:`AsgError` for results among the images, where the next run would take their folder for a class."""
    for folder in images:
        if folder is not None and out.resolve().is_relative_to(folder.resolve()):
            raise AsgError(f"--out {out} lies in {folder}, whose folders are read as images: give another place.")


def read_below(what: str, folder: Path) -> str:
    """What is read below a folder of class folders, and what is left out, in one line."""
    classes = class_folders(folder, what)
    left_out = {path: why for found in classes.values() for path, why in found.left_out.items()}
    whole = Found(folder, [path for found in classes.values() for path in found.images], left_out)
    return f"{what} {folder}: {whole.told(f' of {len(classes)} classes')}"


def model_of(
    source: Path,
    target: Path | None,
    out: Path,
    overrides: dict,
    device: str | None = None,
    how: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict:
    """Train on folders (resumed if ``out`` holds a checkpoint), write model and report, return the result.

    ``how``: the name of a :func:`recipe`, which ``overrides`` change further. Names, order and files are read once,
    before the training; ``say`` is told what is left out.
    """
    refuse_inside(out, source, target)
    folders = {"source": str(source), "target": str(target) if target else None}
    config = make_config(PROFILE, recipe(how), folders, overrides)
    make_accelerator(config, device)  # the processes meet before the first thing that one does for all
    for what, images in (("source", source), ("target", target)):
        if images is not None:
            say(read_below(what, images))
    domains = read_domains(config)
    classes = domains.source.classes
    made_of = {"settings": config.model_dump(), "images": domains.fingerprint, "classes": classes}
    with processes.held(own_folder(out, made_of)) as folder:
        whole = config.model_copy(update={"interpolate": None})
        result, student = classification.train(whole, folder, device, watch(config, domains, say), domains=domains)
        if config.interpolate is not None:
            prepare = partial(classification.prepare, domains=domains)
            between, student = interpolation.train(config, prepare, student, device)
            result = {**result, "final": between["final"], "evaluations": [*result["evaluations"], between["final"]]}

        def keep() -> None:
            mirror = result["final"].get("mirror", config.mirror)
            models.save_model(student, config.model_copy(update={"mirror": mirror}), classes, folder)
            write_report(folder, result, config, domains)
            (folder / "checkpoint.pt").unlink(missing_ok=True)

        processes.once(keep)
    return result


def adapt(
    model: Path,
    source: Path,
    target: Path,
    out: Path,
    overrides: dict,
    device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[dict, tuple[str, ...]]:
    """Adapt a model to the images below ``target`` (resumed if ``out`` holds a checkpoint); the result and the classes.

    ``overrides`` are fields of the adaptation. Raises :class:`AsgError` where the source's classes are not the model's.
    """
    if out.resolve() == model.resolve():
        raise AsgError(f"{model} is the model that the adaptation starts from: give another --out.")
    refuse_inside(out, source, target)
    start, config, classes = models.load_model(model)
    how = {"images": str(target), **overrides}
    config = make_config(config.model_dump(), {"source": str(source), "target": None, "adapt": how})
    make_accelerator(config, device)
    images, domains = unlabelled(config), read_domains(config)
    say(read_below("source", source))
    say(f"target {target}: {images_below(target)}")
    if classes != (found := domains.source.classes):
        raise AsgError(f"{source} has the classes {', '.join(found)}, and {model} knows {', '.join(classes)}.")
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    prints = [domains.fingerprint, images.fingerprint]
    made_of = {"settings": config.model_dump(), "images": prints, "classes": classes, "start": weights}
    with processes.held(own_folder(out, made_of)) as folder:
        result, student = self_training.train(config, folder, start, device)

        def keep() -> None:
            models.save_model(student, config.model_copy(update={"adapt": None}), classes, folder)
            write_report(folder, result, config, domains)
            for part in folder.glob("round-*"):
                shutil.rmtree(part)

        processes.once(keep)
    return result, classes


@dataclass(frozen=True)
class Prediction:
    """What a model says of an image: its best classes, each with its probability, or why the image was not read."""

    image: Path
    answers: tuple[tuple[str, float], ...] = ()
    reason: str | None = None


def images_of(given: Sequence[Path], say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Files as they are, of folders every image below them, of patterns what they match; ``say``: what is left out.

    Raises :class:`AsgError` for a pattern that matches nothing. A file that is not there stays: its row says so.
    """
    files: list[Path] = []
    for path in given:
        if path.is_dir():
            found = images_below(path)
            say(f"{path}: {found}")
            files += found.images
        elif not path.exists() and glob.has_magic(str(path)):
            matched = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 (Path takes no absolute pattern)
            if not matched:
                raise AsgError(f"Nothing matches {path}: give files, folders, or another pattern.")
            files += images_of(matched, say)
        else:
            files.append(path)
    return files


def predict(model: Path, images: Sequence[Path], top: int = 1, device: str | None = None) -> Iterator[Prediction]:
    """Each image with its ``top`` classes and their mean softmax probabilities: :func:`asg.metrics.ranked`.

    The rule is that of the reported accuracy. An image that cannot be read is answered with the reason, in its place.
    Raises :class:`AsgError` for a folder without a model.
    """
    student, config, classes = models.load_model(model)
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
        yield "["
        for k, one in enumerate(predictions):
            answers = [{"class": name, "probability": round(p, 4)} for name, p in one.answers]
            row = {"image": str(one.image), "answers": answers} | ({"reason": one.reason} if one.reason else {})
            yield f"{',' if k else ''}\n {json.dumps(row)}"
        yield "\n]\n"
        return
    numbers = ["", *(f" {k}" for k in range(2, top + 1))]
    columns = ["image", *(f"{name}{k}" for k in numbers for name in ("class", "probability")), "reason"]
    yield csv_line(columns)
    for one in predictions:
        cells = [cell for name, p in one.answers for cell in (name, f"{p:.4f}")]
        yield csv_line([str(one.image), *cells, *[""] * (2 * len(numbers) - len(cells)), one.reason or ""])


def csv_line(cells: Sequence[str]) -> str:
    """One row of CSV with a plain line feed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()
