"""A trained model as a folder: its weights, and how to rebuild it."""

from __future__ import annotations

import json
from pathlib import Path

from asg import AsgError, dense_models, models
from asg.config import RunConfig
from asg.data.images import make_folder
from asg.dense_models import DenseStudent
from asg.models import Student, load_weights
from asg.recipes import is_dense
from asg.tensors import write_tensors


def save_model(student: Student | DenseStudent, config: RunConfig, classes: tuple[str, ...], folder: Path) -> None:
    """Write ``model.safetensors`` (the student's state dict) and ``model.json`` (how to rebuild it).

    What CSG adds serves its training alone and is left out.
    """
    make_folder(folder)
    state = {k: v for k, v in student.state_dict().items() if not k.startswith("contrast.")}
    imagenet = getattr(student.kept_head, "out_features", None)
    try:
        write_tensors(folder / "model.safetensors", state)
        described = {"config": config.model_dump(), "classes": classes, "imagenet": imagenet}
        (folder / "model.json").write_text(json.dumps(described, indent=1), "utf-8")
    except OSError as error:
        raise AsgError(f"The model cannot be written to {folder} ({error}): free some space.") from None


def describe(folder: Path) -> tuple[RunConfig, tuple[str, ...]]:
    """Settings and class names of a model that :func:`save_model` wrote."""
    try:
        described = json.loads((folder / "model.json").read_text("utf-8"))
        return RunConfig(**described["config"]), tuple(described["classes"])
    except (OSError, KeyError, TypeError, ValueError) as error:  # ValueError: no JSON, or settings that are not valid
        raise AsgError(f"{folder} holds no saved model ({error}): give a folder that `asg train` wrote.") from None


def load_model(folder: Path) -> tuple[Student | DenseStudent, RunConfig, tuple[str, ...]]:
    """The student, settings and class names that :func:`save_model` wrote."""
    config, classes = describe(folder)
    build = dense_models.build if is_dense(config) else models.build
    student = build(config.model_copy(update={"weights": "random", "regulariser": None}), len(classes))
    load_weights(student, folder / "model.safetensors")
    return student, config, classes
