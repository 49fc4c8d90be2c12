"""What two workers make of work for one: a run that two processes share, and episodes side by side.

One run: steps of the book's network with a thread in each of two processes, beside one process of as many threads and
beside one of one thread. Episodes: those of a policy on the embedded benchmark, one after the other, and two at a time
on Ray (`pip install -e ".[ray]"`). All are measured in one run, in turn; the median of the turns' ratios counts.
Writes results/benchmarks/workers.json, which the status page shows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import torch
from tqdm import tqdm

from asg import processes, records, reinforce
from asg.config import RunConfig
from asg.trainers import classification
from asg.trainers.loop import make_accelerator, make_optimiser
from asg_book import cluster
from asg_book.experiments import get, policy_config

TURNS, STEPS, EPISODES = 2, 8, 4
CLASSES = 7


def seconds_of_steps(config: RunConfig) -> float:
    """Seconds of a guided step, after one that warms up; several processes share its batch."""
    accelerator = make_accelerator(config, "cpu")
    student = classification.build(config, CLASSES)
    generator = torch.Generator().manual_seed(0)
    each = config.batch // processes.launched()
    x = torch.randint(0, 256, (each, 3, config.size, config.size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (each,), generator=generator)
    known = torch.randn(each, 1000, generator=generator).log_softmax(1)
    objective = classification.make_objective(config, lambda indices, x: known)
    network, optimiser = accelerator.prepare(student, make_optimiser(config, classification.layer_groups(student)))
    for step in range(STEPS + 1):
        if step == 1:
            began = time.perf_counter()
        loss = objective(network, torch.arange(each), x, labels)["total"]
        optimiser.zero_grad()
        accelerator.backward(loss)
        optimiser.step()
    return (time.perf_counter() - began) / STEPS


def measured(count: int, threads: int) -> float:
    """:func:`seconds_of_steps` of so many processes with so many threads each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    command = [*launcher, __file__, "--steps"] if count > 1 else [sys.executable, __file__, "--steps"]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    return float(told.splitlines()[-1])


def seconds_of_episodes(parallel: int, folder: Path) -> float:
    """Seconds of an episode, of ``parallel`` ones at a time: the median round after the first, which prepares."""
    meta = policy_config("asg", "mini").model_copy(update={"episodes": EPISODES * parallel, "parallel": parallel})
    times = [time.perf_counter()]

    def note(point: dict) -> None:
        times.append(time.perf_counter())

    if parallel == 1:
        reinforce.train_policy(meta, folder, "cpu", note)
    else:
        with cluster.rounds(meta, folder, "cpu") as play_round:
            reinforce.train_policy(meta, folder, "cpu", note, play_round)
    ends = times[parallel::parallel]  # of the rounds
    return statistics.median(b - a for a, b in pairwise(ends)) / parallel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", action="store_true", help="print the seconds of a step in these processes")
    config = get("guidance").config("cartoon", "small_proxy", 0, {"weights": "random"})
    if parser.parse_args().steps:
        seconds = seconds_of_steps(config)
        if processes.index() == 0:
            print(seconds)
        return
    turns: list[dict[str, float]] = []
    for _ in tqdm(range(TURNS), unit="turn"):
        with tempfile.TemporaryDirectory() as folder:
            turns.append(
                {
                    "one process, a thread": measured(1, 1),
                    "one process, two threads": measured(1, 2),
                    "two processes": measured(2, 1),
                    "an episode": seconds_of_episodes(1, Path(folder) / "one"),
                    "an episode of two": seconds_of_episodes(2, Path(folder) / "two"),
                }
            )

    def faster(name: str, rival: str) -> float:
        return statistics.median(turn[rival] / turn[name] for turn in turns)

    ratios = {
        "images/s, two processes over one with a thread": faster("two processes", "one process, a thread"),
        "images/s, two processes over one with two threads": faster("two processes", "one process, two threads"),
        "episodes/s, two workers over one": faster("an episode of two", "an episode"),
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    result = {
        "ratios": ratios,
        "seconds": {name: statistics.median(turn[name] for turn in turns) for name in turns[0]},
        "setting": f"{config.backbone}, batch {config.batch}, {config.size} px; mini's episodes; {os.cpu_count()} CPUs",
        "date": datetime.now(UTC).date().isoformat(),
        **records.provenance(),
    }
    records.write_text(records.results_root() / "benchmarks" / "workers.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
