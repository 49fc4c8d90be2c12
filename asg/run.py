"""From a configuration to its record: train once, keep the result, never twice."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import ModuleType

from asg import records
from asg.config import RunConfig
from asg.data import SEGMENTATION
from asg.data.images import make_folder
from asg.trainers import classification, segmentation


def task_of(config: RunConfig) -> ModuleType:
    """The trainer of the benchmark that ``config`` names."""
    return segmentation if config.data in SEGMENTATION else classification


def run(
    config: RunConfig,
    fresh: bool = False,
    device: str | None = None,
    on_evaluation: Callable[[dict], None] = lambda evaluation: None,
) -> dict:
    """The record of ``config``: read if it exists, else trained (or resumed) and written.

    ``fresh`` trains from the start and returns the result without touching the kept records, so
    that it can be compared with them. The record is the last thing that a run writes.
    """
    if not fresh and (kept := records.find(config)):
        return kept
    made_of = {  # before training: files and code may be edited while it runs
        "key": records.run_key(config),
        "index": records.index_hash(config),
        "recipe": records.recipe_of(config),
    }
    if not fresh:
        make_folder(records.records_path(config).parent)  # an unwritable place is said before the training
    with records.run_folder(config, fresh) as folder:
        if not fresh and (kept := records.find(config)):  # another process finished it in between
            return kept
        checkpoint = folder / "checkpoint.pt"
        if fresh:
            checkpoint.unlink(missing_ok=True)
        result, _ = task_of(config).train(config, folder, device, on_evaluation)
        record = {
            "format": records.FORMAT,
            **made_of,
            "seed": config.seed,
            "config": config.model_dump(),
            **result,
            **records.provenance(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if not fresh:
            records.append(config, record)
        checkpoint.unlink(missing_ok=True)
    return record
