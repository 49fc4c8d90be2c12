"""What two workers make of work for one: a run that two processes share, and episodes side by side.

One run: the steps that `gpu.py` measures, of ResNet-50 on the CPU, with a thread in each of two processes, beside one
process of as many threads and beside one of one thread. Episodes: those of a policy on the embedded benchmark, one
after the other, and two at a time on Ray (`pip install -e ".[ray]"`). All are measured in one run, in turn; the median
of the turns' ratios counts. Writes results/benchmarks/workers.json, which the status page shows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from asg import meta_training, processes
from asg_book import cluster
from asg_book.policies import policy_config
from gpu import config_of, prepared
from rounds import keep, medians, ratio

TURNS, STEPS, EPISODES = 2, 4, 4
NETWORK = {"backbone": "torchvision:resnet50", "batch": 8}


def seconds_of_steps() -> float:
    """Seconds of a guided step, after one that warms up; several processes share its batch."""
    step = prepared(config_of("guidance", "small_proxy", NETWORK), False, "cpu").step
    step(0)
    began = time.perf_counter()
    for number in range(1, STEPS + 1):
        step(number)
    return (time.perf_counter() - began) / STEPS


def measured(count: int, threads: int) -> float:
    """:func:`seconds_of_steps` of so many processes with so many threads each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    command = [*launcher, __file__, "--steps"] if count > 1 else [sys.executable, __file__, "--steps"]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout
    return float(output.splitlines()[-1])


def seconds_of_episodes(parallel: int, folder: Path) -> float:
    """Seconds of an episode, of ``parallel`` ones at a time: the median round after the first, which prepares."""
    meta = policy_config("asg", "mini").model_copy(update={"episodes": EPISODES * parallel, "parallel": parallel})
    times = [time.perf_counter()]

    def note(point: dict) -> None:
        times.append(time.perf_counter())

    if parallel == 1:
        meta_training.train_policy(meta, folder, "cpu", note)
    else:
        with cluster.rounds(meta, folder, "cpu") as play_round:
            meta_training.train_policy(meta, folder, "cpu", note, play_round)
    ends = times[parallel::parallel]  # of the rounds
    return statistics.median(b - a for a, b in pairwise(ends)) / parallel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", action="store_true", help="print the seconds of a step in these processes")
    if parser.parse_args().steps:
        seconds = seconds_of_steps()
        if processes.index() == 0:
            print(seconds)
        return
    seconds: dict[str, list[float]] = {}
    for _ in tqdm(range(TURNS), unit="turn"):
        with tempfile.TemporaryDirectory() as folder:
            turn = {
                "one process, a thread": measured(1, 1),
                "one process, two threads": measured(1, 2),
                "two processes": measured(2, 1),
                "an episode": seconds_of_episodes(1, Path(folder) / "one"),
                "an episode of two": seconds_of_episodes(2, Path(folder) / "two"),
            }
        for name, value in turn.items():
            seconds.setdefault(name, []).append(value)
    faster = {
        "images/s, two processes over one with a thread": ("one process, a thread", "two processes"),
        "images/s, two processes over one with two threads": ("one process, two threads", "two processes"),
        "episodes/s, two workers over one": ("an episode", "an episode of two"),
    }
    ratios = {name: ratio(seconds, *pair) for name, pair in faster.items()}
    setting = f"{NETWORK['backbone']}, batch {NETWORK['batch']}, 224 px; mini's episodes; {os.cpu_count()} CPUs"
    keep("workers", ratios, setting, seconds=medians(seconds))


if __name__ == "__main__":
    main()
