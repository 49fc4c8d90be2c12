"""Where a run computes, and how processes share it: accelerate's view of a device."""

from __future__ import annotations

from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment

from asg import AsgError, processes, tracking
from asg.config import RunConfig


def make_accelerator(config: RunConfig, device: str | None) -> Accelerator:
    """accelerate's view of ``device`` (None: the best there is); processes that share a run split its batches.

    Raises :class:`AsgError` for a device that there is not (see :func:`asg.processes.device_kind`) and for a batch
    that does not divide.
    """
    kind, several = processes.device_kind(device), processes.launched() > 1
    if config.batch % processes.launched():
        raise AsgError(
            f"A batch of {config.batch} cannot be split over {processes.launched()} processes: choose a batch that "
            "their number divides, or another number of processes."
        )
    if config.precision == "fp16" and kind == "cpu":
        raise AsgError("fp16 needs a GPU: give precision = bf16 or no, or another device.")
    AcceleratorState._reset_state(reset_partial_state=True)  # else a process's first run fixes precision and device
    with patch_environment(**({"ACCELERATE_TORCH_DEVICE": device} if device and not several else {})):
        accelerator = Accelerator(
            cpu=kind == "cpu",
            mixed_precision=config.precision,
            dataloader_config=DataLoaderConfiguration(
                split_batches=True, dispatch_batches=False, even_batches=False, non_blocking=kind == "cuda"
            ),
            **tracking.arguments(),
        )
    if accelerator.num_processes != processes.launched() or accelerator.device.type != kind:
        raise AsgError(
            f"accelerate gives {accelerator.num_processes} processes on {accelerator.device.type} where "
            f"{processes.launched()} on {kind} were asked for: unset the ACCELERATE_… variables of the environment."
        )
    processes.meet()
    return accelerator
