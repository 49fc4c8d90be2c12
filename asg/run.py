"""From a configuration to its record and its network: train once, keep the result, never twice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from asg import AsgError, processes, progress, records
from asg.config import RunConfig
from asg.data import read_domains
from asg.data.images import make_folder
from asg.recipes import recipe_of
from asg.tensors import write_tensors
from asg.trainers import interpolation, self_training
from asg.trainers.devices import make_accelerator

On = Callable[[dict], None]  # is told of every evaluation


def run(
    config: RunConfig,
    fresh: bool = False,
    device: str | None = None,
    on_evaluation: On = lambda _: None,
    wait: bool = False,
) -> dict:
    """The record of ``config``: read if it exists, else trained (or resumed) and written.

    ``fresh`` trains from the start and returns the result without touching what is kept, so that it can be compared
    with it. The record is the last thing that a run writes, after the network (:func:`trained`). Several processes
    train one run together: the main one locks and writes, every one gets the record. A run in progress elsewhere is an
    :class:`AsgError`, or with ``wait`` its end is waited for.
    """
    make_accelerator(config, device)  # the processes meet before the first thing that one does for all

    def record() -> dict | None:
        return None if fresh else records.find(config)

    if recorded := processes.once(record):
        return recorded
    return _train(config, records.run_folder(config, fresh, wait), record, fresh, device, on_evaluation)


def trained(config: RunConfig, device: str | None = None) -> nn.Module:
    """The network that a run ends with, on the CPU: read where the run has kept it, else trained and kept.

    Where the run is in progress elsewhere, its end is waited for. A run without a record gets it.
    """
    make_accelerator(config, device)
    path = network_path(config)
    if not processes.once(path.exists):
        _train(config, records.run_folder(config, wait=True), path.exists, False, device, lambda _: None)
    processes.visible(path)
    return read_network(config, path)


def network_path(config: RunConfig) -> Path:
    """Where the network of a run is kept, on this machine only: ``models/`` beside the runs.

    Four bytes a parameter and buffer, for good: 22 MB for EfficientNet-Lite0, 175 MB for ResNet-101, 560 MB for FCN-8s
    on VGG-16, times the runs. ``runs/models`` can be removed: what is asked for again is trained again.
    """
    return records.runs_root() / "models" / f"{records.run_key(config)}-{config.seed}.safetensors"


def write_network(network: nn.Module, path: Path) -> None:
    """Keep the state of ``network`` in ``path``, the whole of it or nothing."""
    make_folder(path.parent)
    try:
        write_tensors(path, network.state_dict())
    except OSError as error:
        raise AsgError(
            f"The network cannot be kept in {path.parent} ({error}): free some space and run the same command again; "
            "it goes on from the last checkpoint."
        ) from None


def read_network(config: RunConfig, path: Path) -> nn.Module:
    """The network that :func:`write_network` kept of a run of ``config``."""
    start = config.model_copy(update={"weights": "random"})  # all of them are about to be replaced
    network = self_training.base_of(config).build(start, len(read_domains(config).source.classes))
    try:
        network.load_state_dict(load_file(path))
    except Exception as error:  # safetensors and torch raise several kinds for a broken file
        reason = str(error).splitlines()[0]
        raise AsgError(f"The network {path} is damaged ({reason}): remove it, and its run is trained again.") from None
    return network


def training(
    config: RunConfig,
    folder: Path,
    device: str | None = None,
    on_evaluation: On = lambda _: None,
    stop: int | None = None,
) -> tuple[dict, nn.Module]:
    """Result and network of a run in ``folder``, which keeps no record; what comes before it is :func:`trained`.

    Self-training starts from the training without it, and interpolation ends where one has ended. With ``stop`` a
    training, or a round, ends after that many steps.
    """
    base = self_training.base_of(config)
    if config.adapt:
        start = trained(config.model_copy(update={"adapt": None}), device)
        return self_training.train(config, folder, start, device, on_evaluation, stop)
    if config.interpolate is not None:
        end = trained(config.model_copy(update={"interpolate": None}), device)
        return interpolation.train(config, base.prepare, end, device)
    return base.train(config, folder, device, on_evaluation, stop)


def _train(
    config: RunConfig,
    held: AbstractContextManager[Path],
    done: Callable[[], object],
    fresh: bool,
    device: str | None,
    on_evaluation: On,
) -> dict | None:
    """Train in the folder ``held`` and keep network and record; what ``done`` gives if another process was faster."""

    def identify() -> dict:
        if not fresh:
            make_folder(records.records_path(config).parent)  # an unwritable place is said before the training
        return {  # before training: files and code may be edited while it runs
            "key": records.run_key(config),
            "index": records.index_hash(config),
            "recipe": recipe_of(config),
        }

    made_of = processes.once(identify)
    with processes.held(held) as folder:
        if recorded := processes.once(done):
            return recorded
        if fresh:
            processes.once(lambda: forget(folder))
        with processes.held(progress.announced(folder, config)) as about:

            def on(evaluation: dict) -> None:
                progress.note(folder, about, evaluation.get("step"))
                on_evaluation(evaluation)

            result, network = training(config, folder, device, on)

        def keep() -> dict:
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
                write_network(network, network_path(config))
                if records.find(config) is None:  # a network that was lost may have its record
                    records.append(config, record)
            forget(folder)
            return record

        return processes.once(keep)


def forget(folder: Path) -> None:
    """Remove the checkpoints of a run and of its rounds."""
    for checkpoint in (*folder.glob("checkpoint.pt"), *folder.glob("round-*/*.pt")):
        checkpoint.unlink()
