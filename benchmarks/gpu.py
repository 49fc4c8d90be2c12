"""What a GPU makes of a step at the paper's scale: ten minutes, no data set, no weights from elsewhere.

    python benchmarks/gpu.py                        # one GPU
    torchrun --nproc_per_node=8 benchmarks/gpu.py   # several, which share each batch

Random images, random weights: what a step costs depends on neither. The median round of a case counts, and the spread
of its rounds is told. Memory is measured beside what ``--dry-run`` says. Writes results/gpu.json, which the status page
shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from asg import AsgError, dryrun, processes, records
from asg.cli import parse_settings
from asg.config import RunConfig
from asg.data.images import UNLABELLED
from asg.recipes import is_dense
from asg.trainers import classification, segmentation
from asg.trainers.devices import make_accelerator
from asg.trainers.optimiser import make_optimiser
from asg_book.catalogue import get

PRECISIONS = {
    "fp32": {}, "bf16": {"precision": "bf16"}, "bf16, folded": {"precision": "bf16", "fold": True},
    "bf16, compiled": {"precision": "bf16", "compile": True},
}  # fmt: skip
# Name → (experiment, arm, settings, whether the teacher looks at each batch).
CASES: dict[str, tuple[str, str, dict, bool]] = {
    **{f"plain, {name}": ("guidance", "small", overrides, False) for name, overrides in PRECISIONS.items()},
    **{
        f"guided, cached teacher, {name}": ("guidance", "small_proxy", overrides, False)
        for name, overrides in PRECISIONS.items()
    },
    "guided, live teacher, bf16": ("guidance", "small_proxy", PRECISIONS["bf16"], True),
    "FCN-8s, crop 512": ("segmentation", "whole map", {}, True),
    "DeepLab-v2, crop 512": ("segmentation_resnet50", "vanilla", {}, False),
}
ROUNDS, STEPS, POOL = 5, 10, 64  # rounds, steps of a case in each, images that are kept on the device


@dataclass
class Case:
    """One kind of step, ready to be repeated, and the seconds of its rounds."""

    config: RunConfig
    step: Callable[[int], None]
    evaluate: Callable[[], None]
    seconds: list[float]
    planned: int  # bytes, by the dry run


def config_of(experiment: str, arm: str, settings: dict) -> RunConfig:
    """The run of an arm at the paper's scale, from random weights."""
    return get(experiment).config("paper", arm, 0, {"weights": "random", **settings})


def prepared(config: RunConfig, live: bool, device: str) -> Case:
    """The network, optimiser and objective of a run as the trainer makes them, on random images."""
    accelerator = make_accelerator(config, device)
    place, dense = accelerator.device, is_dense(config)
    trainer, classes = (segmentation, 19) if dense else (classification, 12)
    student = trainer.build(config, classes).to(place)
    untouched = trainer.build(config, classes).to(place).requires_grad_(False) if live else None
    generator = torch.Generator().manual_seed(0)
    side = config.crop or config.size
    pool = torch.randint(0, 256, (POOL, 3, side, side), generator=generator, dtype=torch.uint8)
    truth = torch.randint(UNLABELLED, classes, (POOL, side, side) if dense else (POOL,), generator=generator).abs()
    outputs, pieces = dryrun.imagenet_classes(student), (config.chunks or 1) ** 2
    known = torch.randn(POOL, pieces, outputs, generator=generator).log_softmax(2).to(place)

    def teacher(indices: Tensor, x: Tensor) -> Tensor:
        if untouched is None:
            return known[indices].flatten(0, 1)
        with torch.no_grad():
            chunks = (config.chunks or 1,) if dense else ()
            return untouched.imagenet_logits(x, *chunks).log_softmax(1)

    given = (student,) if dense else ()
    objective = trainer.make_objective(config, *given, teacher if config.guidance else None)
    optimiser = make_optimiser(config, trainer.layer_groups(student))
    network, optimiser = accelerator.prepare(student, optimiser)
    network = torch.compile(network) if config.compile else network
    each = config.batch // processes.launched()

    def step(number: int) -> None:
        indices = (torch.arange(each) + number * each) % POOL
        x, labels = pool[indices].to(place, non_blocking=True), truth[indices].to(place, non_blocking=True)
        losses = objective(network, indices.to(place), x, labels)
        optimiser.zero_grad()
        accelerator.backward(losses["total"])
        optimiser.step()

    @torch.inference_mode()
    def evaluate() -> None:
        accelerator.unwrap_model(student).imagenet_logits(pool.to(place))

    planned = dryrun.dry_run(config).memory
    planned = sum(planned.values()) - planned["teacher"]  # of which there is that of a few images here
    return Case(config, step, evaluate, [], planned)


def clock(place: torch.device) -> float:
    """The time when everything that was asked of the device is done."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter()


def measured(case: Case, place: torch.device, steps: int, rounds: int) -> dict:
    """Images a second in training and in evaluation, the spread over rounds, and memory, of one case."""
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)
    for turn in range(rounds + 1):
        began = clock(place)
        for k in range(steps):
            case.step(turn * steps + k)
        if turn:  # the first round warms up, and compiles
            case.seconds.append((clock(place) - began) / steps)
    peak = torch.cuda.max_memory_allocated(place) if place.type == "cuda" else None
    began = clock(place)
    case.evaluate()
    seconds, batch = statistics.median(case.seconds), case.config.batch
    return {
        "images_per_second": batch / seconds, "seconds_per_step": seconds,
        "spread": (max(case.seconds) - min(case.seconds)) / seconds, "batch": batch,
        "memory_mb": None if peak is None else round(peak / 2**20), "planned_mb": round(case.planned / 2**20),
        "evaluated_per_second": POOL / (clock(place) - began),
    }  # fmt: skip


def main() -> None:
    """Measure every case that fits, say so as it goes, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--case", action="append", help="name of a case; all if not given")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="for every case, to try it")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, help="file to write; results/gpu.json if not given")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: there is no CUDA device: run this on a machine that has one, or try --device cpu.")
    if unknown := [name for name in options.case or () if name not in CASES]:
        raise SystemExit(f"error: there is no case {unknown[0]!r}: choose from {'; '.join(CASES)}.")
    settings = parse_settings(options.set)
    cases = {}
    for name, (experiment, arm, overrides, live) in CASES.items():
        if options.case and name not in options.case:
            continue
        try:
            config = config_of(experiment, arm, {**overrides, **settings})
            case = prepared(config, live, options.device)
            cases[name] = measured(case, make_accelerator(config, options.device).device, options.steps, options.rounds)
        except torch.cuda.OutOfMemoryError:
            cases[name] = {"error": "out of memory"}
        except AsgError as error:
            cases[name] = {"error": str(error)}
        if processes.index() == 0:
            speed = "{images_per_second:.1f} images/s, {memory_mb} MB"
            summary = cases[name].get("error") or speed.format(**cases[name])
            print(f"{name}: {summary}", flush=True)
    device = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    result = {
        "device": device, "processes": processes.launched(), "rounds": options.rounds, "steps": options.steps,
        "settings": settings, "cases": cases, "date": datetime.now(UTC).date().isoformat(), **records.provenance(),
    }  # fmt: skip
    if processes.index() == 0:
        records.write_text(options.out or records.results_root() / "gpu.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
