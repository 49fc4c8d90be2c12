"""Runs that can be watched: accelerate's trackers (TensorBoard, W&B, MLflow), named by ``$ASG_TRACK``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Number

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration

from asg import AsgError
from asg.config import RunConfig
from asg.places import place

KINDS = ("tensorboard", "wandb", "mlflow")
SHOWN_AS: ContextVar[str | None] = ContextVar("shown_as", default=None)


@contextmanager
def shown_as(name: str) -> Iterator[None]:
    """Within, runs are shown under a name that a person gave them."""
    before = SHOWN_AS.set(name.replace("/", "-"))  # trackers make a folder of it
    try:
        yield
    finally:
        SHOWN_AS.reset(before)


def arguments() -> dict:
    """What makes accelerate track a run: nothing where no tracker is named.

    Raises :class:`AsgError` for another name, and where its package is missing.
    """
    if not (kind := os.environ.get("ASG_TRACK")):
        return {}
    if kind not in KINDS:
        raise AsgError(f"There is no tracker {kind!r}: choose from {', '.join(KINDS)}.")
    if kind not in [str(tracker) for tracker in get_available_trackers()]:
        raise AsgError(f"The tracker {kind} is not installed: pip install {kind}, or leave --track out.")
    folder = str(place("runs") / "watched")
    return {"log_with": kind, "project_config": ProjectConfiguration(project_dir=folder, logging_dir=folder)}


def begin(accelerator: Accelerator, config: RunConfig) -> None:
    """Start the trackers of a run, if it has any: they show its name (:func:`shown_as`) and hash, and its settings."""
    if accelerator.log_with:
        settings = {k: v if isinstance(v, Number | str) else str(v) for k, v in config.model_dump().items()}
        name = SHOWN_AS.get() or f"{config.profile} seed {config.seed}"
        accelerator.init_trackers(f"{name} {config.identity()}", config=settings)


def end(accelerator: Accelerator) -> None:
    """Close the trackers; the processes stay together."""
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers.clear()


def note(accelerator: Accelerator, kind: str, numbers: Mapping[str, object], step: int) -> None:
    """Show the numbers of a step, as ``kind/name``; what is no number is left out."""
    if accelerator.trackers:
        accelerator.log({f"{kind}/{k}": float(v) for k, v in flat(numbers) if isinstance(v, Number)}, step=step)


def flat(numbers: Mapping[str, object]) -> list[tuple[str, object]]:
    """Names and values, those of a mapping within as ``name/inner``."""
    pairs = []
    for name, value in numbers.items():
        if isinstance(value, Mapping):
            pairs += [(f"{name}/{inner}", number) for inner, number in flat(value)]
        else:
            pairs.append((name, value))
    return pairs
