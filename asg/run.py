"""From a configuration to its record: train once, keep the result, never twice."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from asg import records
from asg.config import RunConfig
from asg.data import read_domains
from asg.data.images import make_folder
from asg.models import load_weights
from asg.recipes import recipe_of
from asg.trainers import self_training


def trained(config: RunConfig, device: str | None = None) -> nn.Module:
    """The network that a run ends with: trained once, then read from ``models/`` beside the runs."""
    folder = records.runs_root() / "models" / f"{records.run_key(config)}-{config.seed}"
    path, task = folder / "network.safetensors", self_training.base_of(config)
    with records.lock(make_folder(folder), wait=True):
        if not path.exists():
            _, network = task.train(config, folder, device)
            save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
            (folder / "checkpoint.pt").unlink()
    start = config.model_copy(update={"weights": "random"})
    network = task.build(start, len(read_domains(config).source.classes))
    load_weights(network, path)
    return network


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
        "recipe": recipe_of(config),
    }
    if not fresh:
        make_folder(records.records_path(config).parent)  # an unwritable place is said before the training
    with records.run_folder(config, fresh) as folder:
        if not fresh and (kept := records.find(config)):  # another process finished it in between
            return kept
        if fresh:
            forget(folder)
        if config.adapt:
            start = trained(config.model_copy(update={"adapt": None}), device)
            result, _ = self_training.train(config, folder, start, device, on_evaluation)
        else:
            result, _ = self_training.base_of(config).train(config, folder, device, on_evaluation)
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
        forget(folder)
    return record


def forget(folder: Path) -> None:
    """Remove the checkpoints of a run and of its rounds."""
    for checkpoint in (*folder.glob("checkpoint.pt"), *folder.glob("round-*/*.pt")):
        checkpoint.unlink()
