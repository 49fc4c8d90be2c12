"""What each method of "Since then" costs: images that pass the network forwards and backwards, and seconds.

Passes are counted over a whole training of a small network on the same images, with hooks on the first convolution;
seconds are measured on the network of the runs over one pass of the images, all methods in one run, and evaluations are
left out of both. Writes results/costs.json, which the chapter shows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from tqdm import tqdm

from asg import records
from asg.config import RunConfig, make_config
from asg.data import load_domains
from asg.trainers import classification, frozen
from asg.trainers.conduct import conduct
from asg.trainers.task import Task
from asg_book.catalogue import get

SMALL = {"backbone": "timm:test_efficientnet", "weights": "random", "size": 32, "signals": None}


@dataclass
class Passes:
    """Images that went through a backbone of three input channels."""

    forward: int = 0
    backward: int = 0


@contextmanager
def counted() -> Iterator[Passes]:
    """Count the images of every pass within."""
    passes = Passes()

    def note(module: nn.Module, given: tuple, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            passes.forward += len(output)
            if output.requires_grad:
                output.register_hook(lambda gradient: setattr(passes, "backward", passes.backward + len(gradient)))

    hook = register_module_forward_hook(note)
    try:
        yield passes
    finally:
        hook.remove()


@contextmanager
def swapped(module: ModuleType, name: str, other: Callable) -> Iterator[None]:
    """``module.name`` is ``other`` within."""
    own = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, own)


def bare(config: RunConfig, accelerator: Accelerator, prepared: list[int], passes: Passes | None) -> Task:
    """The task of a run without its evaluations; ``prepared`` gets the forward passes of its preparation."""
    with swapped(classification, "make_evaluation", lambda *given: lambda now, final=False: {}):
        task = classification.prepare(config, accelerator)
    prepared.append(passes.forward if passes else 0)
    return replace(task, evaluate=lambda now: {}, final=None)


def train(config: RunConfig, passes: Passes | None = None) -> tuple[float, int]:
    """Seconds of a training without evaluations, and forward passes of its preparation."""
    prepared: list[int] = []
    prepare = partial(bare, prepared=prepared, passes=passes)
    with tempfile.TemporaryDirectory() as folder:
        result, _ = conduct(config, Path(folder), "cpu", prepare, lambda evaluation: None)
    return result["seconds"], prepared[0]


def count(config: RunConfig) -> dict[str, float]:
    """Passes of a whole training as shares of its batches' images; ``once``: images seen before the first step."""
    small = make_config(config.model_dump(), SMALL)
    with swapped(frozen, "cached", lambda folder, name, device, compute: compute()), counted() as passes:
        _, once = train(small, passes)  # what is kept from a run before would cost nothing
    images = config.steps * config.batch
    return {"forward": (passes.forward - once) / images, "backward": passes.backward / images, "once": once}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="cartoon")
    parser.add_argument("--experiment", default="since")
    arguments = parser.parse_args()
    declared = get(arguments.experiment)
    arms = {arm: declared.configs(arguments.profile, arm, (0,))[0] for arm in declared.arms}
    first = next(iter(arms.values()))
    steps = len(load_domains(first).source) // first.batch
    costs = {arm: count(config) for arm, config in tqdm(arms.items(), unit="method")}
    for arm, config in tqdm(arms.items(), unit="method"):
        short = make_config(config.model_dump(), {"steps": steps, "warmup": steps // 10})
        costs[arm]["seconds"] = train(short)[0] / steps
    again = make_config(first.model_dump(), {"steps": steps, "warmup": steps // 10})
    result = {
        "costs": costs,
        "again": train(again)[0] / steps,  # the first method once more, at the end
        "setting": f"{first.backbone}, {first.size} px, batch {first.batch}, {first.threads} CPU thread, {steps} steps",
        "date": datetime.now(UTC).date().isoformat(),
        **records.provenance(),
    }
    for arm, cost in costs.items():
        print(f"{arm}: " + "  ".join(f"{name} {value:.2f}" for name, value in cost.items()))
    records.write_text(records.results_root() / "costs.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
