"""The one training loop: steps, layer-wise rates, evaluations, checkpoints.

It knows nothing of the task. A task gives the network, its layer groups, an objective for one batch
and an evaluation.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState
from accelerate.utils import patch_environment
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import BatchSampler, DataLoader, Dataset
from tqdm import tqdm

from asg import AsgError, processes, tracking
from asg.config import RunConfig
from asg.controllers.base import Controller
from asg.data.images import StepSampler, total_steps
from asg.interrupts import Stopped, requests
from asg.trainers.optimiser import ReferenceSGD
from asg.trainers.projection import Projection

log = logging.getLogger(__name__)

FIRST = 3  # steps whose losses a record keeps, so that they can be repeated
CHECK = 10  # steps between two looks at the loss: each look waits for the device
CHECKPOINT_SECONDS = 120.0  # at most this much work is lost to an interruption


class Diverged(AsgError):
    """A loss, a weight or a result is no longer finite."""


@dataclass
class Progress:
    """What a checkpoint keeps besides weights and momentum."""

    step: int = 0
    first_losses: list[dict[str, float]] = field(default_factory=list)  # of each of the first steps
    evaluations: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)  # sums of the losses since the last evaluation
    window_steps: int = 0


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


def make_optimiser(config: RunConfig, groups: dict[str, list[nn.Parameter]]) -> torch.optim.Optimizer:
    """SGD with one parameter group a layer group, in the variant that ``config.sgd`` names."""
    parameters = [{"params": group, "name": name} for name, group in groups.items()]
    kind = {"reference": ReferenceSGD, "torch": torch.optim.SGD}[config.sgd]
    return kind(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def make_average(config: RunConfig, network: nn.Module) -> AveragedModel | None:
    r"""The average that ``config.average`` names, over all weights; None: the last iterate is evaluated.

    ``ema``: :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta` after every step, from the first iterate on;
    ``swa`` (Izmailov et al. 2018): the mean of the iterates after a share of the steps (departure 35).
    """
    if config.average is None:
        return None
    if config.average.kind == "ema":
        return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.average.decay))
    return AveragedModel(network)


def evaluation_steps(total: int, count: int) -> set[int]:
    """Step 0, then ``count`` evenly spaced steps; the last is ``total``."""
    return {0, *(math.ceil(total * k / count) for k in range(1, count + 1))}


def save_checkpoint(path: Path, progress: Progress, parts: dict) -> None:
    """Write the state of ``parts`` to ``path`` at once; a full disk leaves the former checkpoint as it was."""
    partial = path.with_suffix(".partial")
    state = {"progress": vars(progress), **{k: part.state_dict() for k, part in parts.items() if part is not None}}
    try:
        torch.save(state, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise AsgError(
            f"The checkpoint {path} cannot be written ({str(error).splitlines()[0]}): free some space and run the "
            "same command again; it goes on from the last checkpoint."
        ) from None


def raise_diverged(config: RunConfig, step: int, folder: Path | None = None) -> NoReturn:
    """Raise :class:`Diverged` with what to do; ``folder`` holds the last good checkpoint, if there is one."""
    last_good = f"; the last good checkpoint is in {folder}" if folder else ""
    raise Diverged(
        f"The training diverged (a loss, weight or result is not finite) by step {step}: lower lr ({config.lr:g}) or "
        f"guidance ({config.guidance:g}), or lengthen warmup ({config.warmup}){last_good}."
    )


def is_finite(numbers: object) -> bool:
    """Whether a number is finite, or every number of nested dicts and lists."""
    if isinstance(numbers, dict | list):
        return all(map(is_finite, numbers.values() if isinstance(numbers, dict) else numbers))
    return math.isfinite(numbers)


def load_checkpoint(path: Path, device: torch.device) -> dict:
    """What :func:`save_checkpoint` wrote; a broken file is named in the error."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a broken file
        raise AsgError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}): remove it, and the run starts afresh."
        ) from None


def fit(
    config: RunConfig,
    network: nn.Module,
    groups: dict[str, list[nn.Parameter]],
    images: Dataset,
    objective: Callable[[nn.Module, Tensor, Tensor, Tensor, float], dict[str, Tensor]],
    evaluate: Callable[[nn.Module], dict],
    controller: Controller,
    folder: Path,
    accelerator: Accelerator,
    on_evaluation: Callable[[dict], None] = lambda evaluation: None,
    batches: Callable[[int, int, int, int, int], BatchSampler] = StepSampler,
    final: Callable[[nn.Module], dict] | None = None,
    stop: int | None = None,
    projection: Projection | None = None,
    known: dict | None = None,
) -> Progress:
    """Train ``network`` in place and return its evaluations, going on from ``folder``'s checkpoint if any.

    With ``stop`` it ends after that many steps of the whole training, not evaluated there.

    ``objective(network, indices, x, labels, share)`` gives named losses, of which ``total`` is minimised; ``share`` is
    that of λ (:meth:`~asg.controllers.base.Controller.weight`);
    ``batches`` draws the indices of each step; ``final`` is called in place of ``evaluate`` after the last one.
    ``projection`` bounds the weights after each step. ``known``: the evaluation of the start, where there is one.
    The controller sets the rate of each layer group before each step and is told the losses after it.
    Several processes share each batch: losses are averaged over them, as gradients are, so an objective that divides
    by a count of its own part must scale it (:func:`asg.processes.share`). The main process alone writes the
    checkpoint and calls ``on_evaluation``; every process ends with the same network and evaluations.
    Raises :class:`Diverged` when the loss is no longer finite; the last good checkpoint stays. Raises
    :class:`~asg.interrupts.Stopped` after a checkpoint, where the process was asked to end.
    """
    total = total_steps(config, len(images))
    optimiser, progress, path = make_optimiser(config, groups), Progress(), folder / "checkpoint.pt"
    network.to(accelerator.device)
    saved = load_checkpoint(path, accelerator.device) if processes.once(path.exists) else None
    if saved is not None:
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        controller.load_state_dict(saved["controller"])
        if projection is not None:
            projection.load_state_dict(saved["projection"])
        progress = Progress(**saved["progress"])
        log.info("goes on after step %d of %d", progress.step, total)
    end = total if stop is None else min(stop, total)
    sampler = batches(len(images), config.batch, config.seed, progress.step, end)
    pinned = accelerator.device.type == "cuda"  # else there is nothing to copy while the device works
    loader = DataLoader(images, batch_sampler=sampler, num_workers=config.workers, pin_memory=pinned)
    network, optimiser, loader = accelerator.prepare(network, optimiser, loader)
    bare = accelerator.unwrap_model(network)
    stepped = torch.compile(network) if config.compile else network
    if saved is not None and "scaler" in saved and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
    average = make_average(config, bare)
    if saved is not None and average is not None:
        average.load_state_dict(saved["average"])
    averaged_from = math.floor(total * config.average.after) if average and config.average.kind == "swa" else 0
    parts = {
        "network": bare,
        "optimiser": optimiser,
        "controller": controller,
        "scaler": accelerator.scaler,
        "average": average,
        "projection": projection,
    }

    when = evaluation_steps(total, config.evaluations)
    sums: dict[str, Tensor] = {k: torch.tensor(v, device=accelerator.device) for k, v in progress.window.items()}
    began, saved_at, watched = time.monotonic() - progress.seconds, time.monotonic(), (time.monotonic(), progress.step)

    def check_progress(checkpoint: bool) -> None:
        nonlocal saved_at
        progress.window = {k: float(v) for k, v in sums.items()}
        norms = torch.stack(torch._foreach_norm([p.detach() for p in bare.parameters()]))
        if not (is_finite(progress.window) and bool(norms.isfinite().all())):
            raise_diverged(config, progress.step, folder)
        progress.seconds = time.monotonic() - began
        if checkpoint and accelerator.is_main_process:
            save_checkpoint(path, progress, parts)
            log.debug("step %d: checkpoint in %s", progress.step, path)
            saved_at = time.monotonic()

    def judged() -> nn.Module:
        """What is evaluated, and what a run ends with."""
        return average.module if average is not None and average.n_averaged else bare

    def take_stock() -> None:
        check_progress(checkpoint=False)
        means = {k: v / progress.window_steps for k, v in progress.window.items()}
        measure = final if final and progress.step == total else evaluate
        numbers = {"step": progress.step, **{f"train_{k}": v for k, v in means.items()}, **measure(judged().eval())}
        bare.train()
        numbers = processes.gathered(numbers)[0]  # the last bits may differ between devices, what is decided must not
        if not is_finite(numbers):
            raise_diverged(config, progress.step, folder)
        progress.evaluations.append(numbers)
        tracking.note(accelerator, "evaluation", numbers, progress.step)
        log.debug(
            "step %d: %s", progress.step, "  ".join(f"{k} {v:.4g}" for k, v in numbers.items() if isinstance(v, float))
        )
        sums.clear()
        progress.window_steps = 0
        check_progress(checkpoint=True)
        if accelerator.is_main_process:
            on_evaluation(progress.evaluations[-1])

    def watch(losses: dict[str, Tensor], rates: dict[str, float]) -> None:
        """Tell those who watch the run about its last step, and its speed since the last time."""
        nonlocal watched
        now, seen = time.monotonic(), progress.step - watched[1]
        tracking.note(accelerator, "loss", {name: value.item() for name, value in losses.items()}, progress.step)
        tracking.note(accelerator, "rate", rates, progress.step)
        speed = {"images_per_second": seen * config.batch / max(now - watched[0], 1e-9)}
        if accelerator.device.type == "cuda":
            speed["memory_mb"] = torch.cuda.max_memory_allocated(accelerator.device) / 2**20
        tracking.note(accelerator, "speed", speed, progress.step)
        watched = now, progress.step

    def asked_by_any(step: int) -> bool:
        """Whether a process was asked to end; of several ones all must agree on the step."""
        if processes.count() == 1:
            return asked()
        return step % CHECK == 0 and any(processes.gathered(asked()))

    bare.train()
    if not progress.evaluations and known:
        progress.evaluations.append({**known, "step": 0})
    elif not progress.evaluations:
        take_stock()
    quiet = {} if accelerator.is_main_process else {"disable": True}  # else $TQDM_DISABLE decides
    bar = tqdm(loader, initial=progress.step, total=total, unit="step", leave=False, **quiet)
    with requests() as asked:
        for indices, x, labels in bar:
            rates = controller.rates(progress.step)
            for group in optimiser.param_groups:
                group["lr"] = rates[group["name"]]
            losses = objective(stepped, indices, x, labels, controller.weight(progress.step))
            optimiser.zero_grad()
            accelerator.backward(losses["total"])
            optimiser.step()
            if projection is not None:
                projection.step(progress.step)
            if average is not None and progress.step >= averaged_from:
                average.update_parameters(bare)
            losses = accelerator.reduce({name: value.detach() for name, value in losses.items()}, "mean")
            controller.observe(progress.step, losses)
            if progress.step < FIRST:
                progress.first_losses.append({name: float(value) for name, value in losses.items()})
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            progress.step += 1
            progress.window_steps += 1
            if accelerator.trackers and progress.step % CHECK == 0:
                watch(losses, rates)
            if progress.step in when:
                take_stock()
                bar.set_postfix(
                    {k: f"{v:.3f}" for k, v in progress.evaluations[-1].items() if k in ("train_task", "accuracy")}
                )
            elif progress.step % CHECK == 0:
                check_progress(checkpoint=time.monotonic() - saved_at > CHECKPOINT_SECONDS)
            if progress.step < end and asked_by_any(progress.step):
                check_progress(checkpoint=True)
                raise Stopped(
                    f"The training was asked to end: the same command goes on after step {progress.step} of {total}."
                )
    bare.eval()
    if judged() is not bare:
        bare.load_state_dict(judged().state_dict())
    return progress
