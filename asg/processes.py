"""Several processes on one run: the device of each, what the main one does for all, and what they share.

Their number is torch's launcher's (``torchrun``, ``accelerate launch``). Every process runs the same code and calls
the functions below in the same order; in a single process each of them is what it is without any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from asg import AsgError
from asg.launcher import is_main, launched

T = TypeVar("T")
PATIENCE = timedelta(days=30)  # of processes that wait for the main one's work; torch's own limit is 10 to 30 minutes

_patient: dist.ProcessGroup | None = None  # on the CPU, without a time limit: values of any kind, long waits
_alone = False  # whether this process works for all at the moment, see `once`


def count() -> int:
    """Processes that work on the run together now; 1 inside :func:`once`."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


def index() -> int:
    """Number of this process among :func:`count`."""
    return dist.get_rank() if dist.is_initialized() and not _alone else 0


def available() -> list[str]:
    """The devices of this machine, by the names that can be asked for."""
    cards = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
    return ["cpu", *(["cuda", *cards] if cards else []), *(["mps"] if torch.backends.mps.is_available() else [])]


def device_kind(device: str | None) -> str:
    """The kind of the device that ``device`` asks for (None: the best there is): ``cpu``, ``cuda``, ``mps``, …

    Raises :class:`AsgError` for a device that this machine does not have, and for one that several processes
    cannot share: each takes a GPU of its own.
    """
    if device is not None and device not in available():
        raise AsgError(f"There is no device {device!r} here: choose from {', '.join(available())}, or give none.")
    if device is not None:
        kind = device.partition(":")[0]
    elif parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available():
        kind = "cpu"
    else:
        kind = torch.accelerator.current_accelerator().type
    number, local_processes, cards = launched(), launched("LOCAL_WORLD_SIZE"), torch.cuda.device_count()
    if number > 1 and (kind == "mps" or (device or "").startswith("cuda:")):
        raise AsgError(
            f"{number} processes cannot share {device or kind}: start one process, or give a kind of device of which "
            "each has its own (cuda, cpu)."
        )
    if number > 1 and kind == "cuda" and local_processes > cards:
        raise AsgError(
            f"{local_processes} processes were started on a machine with {cards} GPUs: start at most {cards}, or give "
            "cpu."
        )
    return kind


def meet() -> None:
    """Let the processes know each other, once torch's default group is there (accelerate makes it)."""
    global _patient
    if _patient is None and dist.is_initialized() and dist.get_world_size() > 1:
        _patient = dist.new_group(backend="gloo", timeout=PATIENCE)


def once(work: Callable[[], T]) -> T:
    """What ``work`` gives: done by the main process alone, while the others wait, however long it takes.

    Its value reaches every process by pickling. An error of it is raised on the main process as it is, and on the
    others as an :class:`AsgError` of the same words.
    """
    global _alone
    if count() == 1:
        return work()
    value = error = None
    if is_main():
        _alone = True
        try:
            value = work()
        except Exception as caught:  # whatever it is, the others must hear of it before it is raised
            error = caught
        finally:
            _alone = False
    payload = [value, error and (str(error) or type(error).__name__)]
    dist.broadcast_object_list(payload, src=0, group=_patient)
    if error is not None:
        raise error
    if payload[1] is not None:
        raise AsgError(payload[1])
    return payload[0]


@contextmanager
def held(resource: AbstractContextManager[T]) -> Iterator[T]:
    """``resource``, entered and left by the main process alone; its value reaches every process (see :func:`once`)."""
    with ExitStack() as stack:
        yield once(lambda: stack.enter_context(resource))


def written(path: Path, write: Callable[[], None]) -> None:
    """Have the file ``path``: if it is missing, ``write`` makes it on the main process while the others wait."""
    once(lambda: None if path.exists() else write())
    visible(path)


def visible(path: Path) -> None:
    """Raise :class:`AsgError` where a file of the main process is not seen by this one."""
    if not path.exists():
        raise AsgError(
            f"The main process has written {path}, and process {index()} does not see it: let the folder be one that "
            "all machines share."
        )


def gathered(value: T) -> list[T]:
    """The values of all processes in the order of their numbers, by pickling."""
    if count() == 1:
        return [value]
    values: list = [None] * count()
    dist.all_gather_object(values, value, group=_patient)
    return values


def share(counts: Tensor) -> Tensor:
    r"""This process's share of ``counts``, times the number of processes; 1 in a single process.

    .. math:: P \, n_p \,/ \sum_q n_q

    A mean over :math:`n_p` samples of this process, multiplied by it, becomes what averages over the :math:`P`
    processes to the mean over all samples. Gradients are averaged so. 0 where no process counts any.
    """
    if count() == 1:
        return torch.ones_like(counts, dtype=torch.float32)
    total = counts.clone()
    dist.all_reduce(total)
    return count() * counts / total.clamp_min(1)


def mean(value: Tensor) -> Tensor:
    """The mean of ``value`` over the processes, detached."""
    value = value.detach().clone()
    if count() > 1:
        dist.all_reduce(value)
    return value / count()
