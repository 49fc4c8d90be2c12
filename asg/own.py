"""People's own folders: a model of renders, its report, and its adaptation to unlabelled photos."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from asg import AsgError, model_files, processes, records
from asg.config import RunConfig, make_config
from asg.data import folder_scenes, read_domains, unlabelled
from asg.data.folder import times_of
from asg.data.images import Domains, make_folder
from asg.data.scanner import Scan, class_folders, has_class_folders, images_below
from asg.data.segmentation import SegmentationDomains
from asg.dense_models import DenseStudent
from asg.models import Student
from asg.own_recipes import PROFILES, recipe
from asg.recipes import is_dense
from asg.report import write_report
from asg.report.pictures import Scene, answered
from asg.report.warnings import watch
from asg.trainers import interpolation, self_training
from asg.trainers.devices import make_accelerator

log = logging.getLogger(__name__)


@contextmanager
def own_folder(out: Path, made_of: dict[str, object]) -> Iterator[Path]:
    """``out``, held by this process alone, with nothing in it that was begun from anything else.

    ``made_of``: what a run is made of, in words → what identifies it (JSON).
    """
    with records.lock(folder := make_folder(out)):
        config_path, now = folder / "config.json", json.dumps(made_of)
        if (
            any(folder.rglob("checkpoint.pt"))
            and config_path.exists()
            and (before := config_path.read_text("utf-8")) != now
        ):
            other = " and ".join(differing(before, now))
            raise AsgError(f"{folder} holds an unfinished run of other {other}: give another --out, or remove it.")
        records.write_text(config_path, now)
        yield folder


def differing(before: str, now: str) -> list[str]:
    """The names under which two JSON objects differ, in the order of the second; all of them if the first is none."""
    try:
        former = dict(json.loads(before))
    except (TypeError, ValueError):
        former = {}
    return [name for name, value in json.loads(now).items() if former.get(name) != value]


def refuse_inside(out: Path, *images: Path | None) -> None:
    """Raise :class:`AsgError` for results among the images, where the next run would read them as images."""
    for folder in images:
        if folder is not None and out.resolve().is_relative_to(folder.resolve()):
            raise AsgError(f"{out} lies in {folder}, whose folders are read as images: give another place for results.")


def read_below(what: str, folder: Path, config: RunConfig) -> str:
    """What is read below a folder of class folders, or of images and masks, and what is left out, in one line."""
    if is_dense(config):
        if what == "target" and not folder_scenes.has_masks(folder):
            return summary_without_labels(folder_scenes.photos_of(folder), "masks/")
        return f"{what} {folder}: {images_below(folder / folder_scenes.IMAGES)}, each with a mask"
    if what == "target" and not has_class_folders(folder):
        return summary_without_labels(folder, "class folders")
    classes = class_folders(folder, what)
    left_out = {path: why for scan in classes.values() for path, why in scan.left_out.items()}
    combined = Scan(folder, [path for scan in classes.values() for path in scan.images], left_out)
    return f"{what} {folder}: {combined.summary(f' of {len(classes)} classes')}"


def summary_without_labels(folder: Path, lacking: str) -> str:
    """The line about a target that is answered and not judged."""
    return f"target {folder}: {images_below(folder)}; without {lacking} they have no labels to report on"


def model_of(
    source: Path | Mapping[Path, int],
    target: Path | None,
    out: Path,
    overrides: dict,
    device: str | None = None,
    recipe_name: str | None = None,
    task: str = "classification",
    class_list: Path | None = None,
) -> dict:
    """Train on folders (resumed if ``out`` holds a checkpoint), write model and report, return the result.

    ``source``: a folder, or several of class folders, each with how often a pass sees its images.
    ``recipe_name``: of a :func:`recipe` of the ``task``, which ``overrides`` change further. ``class_list``: what the
    values of masks mean, in segmentation. Names, order and files are read once, before the training; what is left
    out is logged.
    """
    sources = times_of(source)
    refuse_inside(out, *sources, target)
    given = {"target": target, "class_list": class_list}
    folders = {**source_fields(sources), **{name: str(path) if path else None for name, path in given.items()}}
    config = make_config(PROFILES[task], recipe(recipe_name, task), folders, overrides)
    make_accelerator(config, device)  # the processes meet before the first thing that one does for all
    for what, images in (*(("source", folder) for folder in sources), ("target", target)):
        if images is not None:
            log.info(read_below(what, images, config))
    domains = read_domains(config)
    classes, trainer = domains.source.classes, self_training.base_of(config)
    if is_dense(config):
        log.info("classes: %s", ", ".join(classes))
    made_of = {"settings": config.model_dump(), "images": domains.fingerprint, "classes": classes}
    with processes.held(own_folder(out, made_of)) as folder:
        training_config = config.model_copy(update={"interpolate": None})
        result, student = trainer.train(training_config, folder, device, watch(config, domains), domains=domains)
        if config.interpolate is not None:
            prepare = partial(trainer.prepare, domains=domains)
            between, student = interpolation.train(config, prepare, student, device)
            result = {**result, "final": between["final"], "evaluations": [*result["evaluations"], between["final"]]}

        def keep() -> None:
            mirror = result["final"].get("mirror", config.mirror)
            model_files.save_model(student, config.model_copy(update={"mirror": mirror}), classes, folder)
            write_report(folder, result, config, domains, scenes_of(student, domains))
            (folder / "checkpoint.pt").unlink(missing_ok=True)

        processes.once(keep)
    return result


def source_fields(sources: Mapping[Path, int]) -> dict:
    """The fields of a configuration that say where its source lies: ``source``, or where there are more ``sources``."""
    (first, times), *others = sources.items()
    if times == 1 and not others:
        return {"source": str(first), "sources": None}
    return {"source": None, "sources": {str(folder): times for folder, times in sources.items()}}


def scenes_of(student: Student | DenseStudent, domains: Domains | SegmentationDomains) -> list[Scene]:
    """What a segmentation model answers on scenes of its target, or on held-out ones where it has none."""
    if not isinstance(student, DenseStudent):
        return []
    return answered(student, domains.validation if domains.target is None else domains.target)


def adapt(
    model: Path, source: Path | Mapping[Path, int], target: Path, out: Path, overrides: dict, device: str | None = None
) -> tuple[dict, tuple[str, ...]]:
    """Adapt a model to the images below ``target`` (resumed if ``out`` holds a checkpoint); the result and the classes.

    ``overrides`` are fields of the adaptation. Raises :class:`AsgError` where the source's classes are not the model's.
    """
    if out.resolve() == model.resolve():
        raise AsgError(f"{model} is the model that the adaptation starts from: give another --out.")
    sources = times_of(source)
    refuse_inside(out, *sources, target)
    start, config, classes = model_files.load_model(model)
    adapt_settings = {"images": str(target), **overrides}
    config = make_config(config.model_dump(), source_fields(sources), {"target": None, "adapt": adapt_settings})
    make_accelerator(config, device)
    images, domains = unlabelled(config), read_domains(config)
    for folder in sources:
        log.info(read_below("source", folder, config))
    photos = folder_scenes.photos_of(target) if is_dense(config) else target
    log.info("target %s: %s", target, images_below(photos))
    if classes != (source_classes := domains.source.classes):
        theirs = f"{' and '.join(map(str, sources))} has the classes {', '.join(source_classes)}"
        raise AsgError(f"{theirs}, and {model} knows {', '.join(classes)}.")
    weights = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    prints = [domains.fingerprint, images.fingerprint]
    made_of = {"settings": config.model_dump(), "images": prints, "classes": classes, "start": weights}
    with processes.held(own_folder(out, made_of)) as folder:
        result, student = self_training.train(config, folder, start, device)

        def keep() -> None:
            model_files.save_model(student, config.model_copy(update={"adapt": None}), classes, folder)
            write_report(folder, result, config, domains, scenes_of(student, domains))
            for part in folder.glob("round-*"):
                shutil.rmtree(part)

        processes.once(keep)
    return result, classes
