"""How benchmarks measure, and what they keep: all cases in one run, in turn, so that a slow minute slows all alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from tqdm import tqdm

from asg import records

Seconds = Mapping[str, Sequence[float]]  # of a step of each case, round by round


def alternating(
    cases: Mapping[str, Callable[[int], object]], rounds: int, steps: int
) -> tuple[dict[str, list[float]], dict[str, list]]:
    """Seconds of a step in each round, after one that warms up, and what all steps gave, of each case.

    A step is told its number.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    given: dict[str, list] = {name: [] for name in cases}
    for turn in tqdm(range(rounds + 1), unit="round"):
        for name, step in cases.items():
            began = time.perf_counter()
            given[name] += [step(turn * steps + k) for k in range(steps)]
            if turn:
                seconds[name].append((time.perf_counter() - began) / steps)
    return seconds, given


def medians(seconds: Seconds) -> dict[str, float]:
    """The median round of each case."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(seconds: Seconds, name: str, rival: str) -> float:
    """Seconds of a case over those of another: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[rival], strict=True))


def keep(benchmark: str, ratios: Mapping[str, float], setting: str, **more: object) -> None:
    """Print the ratios, and write results/benchmarks/BENCHMARK.json, which the status page shows."""
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    today = datetime.now(UTC).date().isoformat()
    result = {"ratios": ratios, **more, "setting": setting, "date": today, **records.provenance()}
    path = records.results_root() / "benchmarks" / f"{benchmark}.json"
    records.write_text(path, json.dumps(result, indent=1) + "\n")
