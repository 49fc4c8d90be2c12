"""Where runs, trials and episodes are worked on: processes here or a Ray cluster; and the options that say so."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from asg import AsgError
from asg.config import MetaConfig
from asg_book.workers import in_workers

T = TypeVar("T")

Jobs = Annotated[int, typer.Option(help="Runs at a time on this machine, or workers of the cluster started here.")]
On = Annotated[
    str, typer.Option(help="local: processes here; ray: the cluster at $RAY_ADDRESS, else one started here.")
]
Cpus = Annotated[float, typer.Option(help="CPUs that a run takes of a node (ray).")]
Gpus = Annotated[float, typer.Option(help="GPUs that a run takes of a node, also less than one (ray).")]


def engine_of(on: str, jobs: int, cpus: float, gpus: float) -> Callable[[Callable, list[tuple]], Iterator]:
    """What shares out calls: processes of this machine, or a Ray cluster (see :func:`asg_book.cluster.on_ray`)."""
    from asg_book import cluster

    return chosen(on, {
        "local": partial(in_workers, jobs=jobs),
        "ray": partial(cluster.on_ray, workers=jobs, resources=cluster.Resources(cpus, gpus)),
    })  # fmt: skip


def players_of(
    on: str, meta: MetaConfig, folder: Path, device: str | None, cpus: float, gpus: float
) -> AbstractContextManager:
    """Who plays a round of a meta-training: this process (None), or workers of a cluster."""
    from asg_book import cluster

    return chosen(on, {
        "local": nullcontext(),
        "ray": cluster.rounds(meta, folder, device, cluster.Resources(cpus, gpus)),
    })  # fmt: skip


def chosen(on: str, engines: dict[str, T]) -> T:
    """The engine of that name."""
    if on not in engines:
        raise AsgError(f"There is no engine {on!r}: choose from {', '.join(engines)}.")
    return engines[on]
