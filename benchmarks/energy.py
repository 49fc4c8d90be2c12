"""What the hyperspherical energy of VisDA-17's photographs costs: 55,388 features of 2,048 numbers, on the CPU.

Before: the rule of the first edition (each power by itself, the whole Gram matrix in float64), timed on a subset and
multiplied by (N / n)², and at every evaluation of the run. After: :func:`asg.metrics.hyperspherical_energy` on all
features, once a run. Where the machine does other work too, the seconds that pass are more than an idle one would take;
seconds of the processors, over the threads, come nearer to those.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from asg.metrics import hyperspherical_energy, linear_cka

PHOTOS, WIDTH, CLASSES, EVALUATIONS = 55_388, 2_048, 12, 31  # VisDA-17, ResNet-101, the paper profile
SUBSET = 6_144


def before(features: Tensor, power: int, chunk: int = 1024) -> float:
    """The energy at one power (in the convention of now), as it was computed."""
    unit, count, total = normalize(features.double(), dim=1), len(features), 0.0
    for first in range(0, count, chunk):
        rows = unit[first : first + chunk]
        squared = (2 - 2 * rows @ unit.T).clamp_min(1e-6)  # (chunk, N)
        energy = -squared.log() if power == 0 else squared ** (-power / 2)
        energy[torch.arange(len(rows)), torch.arange(first, first + len(rows))] = 0
        total += float(energy.sum())
    return total / (count * (count - 1))


def timed(work: Callable) -> tuple[object, float, float]:
    """Result, seconds that passed, seconds of the processors."""
    passed, used = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - passed, time.process_time() - used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=PHOTOS)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, cpu, generator = arguments.photos, torch.device("cpu"), torch.Generator().manual_seed(0)
    kinds = torch.randn(CLASSES, WIDTH, generator=generator)
    features = torch.randn(count, WIDTH, generator=generator)  # ReLU features that lie around their class
    features += kinds[torch.arange(count) % CLASSES]
    features.relu_()

    part = features[torch.randperm(count, generator=generator)[: min(SUBSET, count)]]
    scale = (count / len(part)) ** 2
    after, small, small_used = timed(lambda: hyperspherical_energy(part, cpu))
    old, was, was_used = timed(lambda: [before(part, power) for power in range(3)])
    energies, now, now_used = timed(lambda: hyperspherical_energy(features, cpu))
    worst = max(abs(a - b) / max(1, abs(b)) for a, b in zip(after, old, strict=True))
    listed = ", ".join(f"{energy:.5f}" for energy in energies)
    print(f"features: {count:,} x {WIDTH:,}, {arguments.threads} threads; energies {listed}")
    print(f"largest difference of before and after on {len(part):,} features: {worst:.1e} (relative above 1)")
    print(f"subset: before {was:.1f} s, after {small:.1f} s ({was_used / small_used:.1f} x the processor time)")
    was, was_used = was * scale, was_used * scale
    print(f"before: {was:,.0f} s, extrapolated from {len(part):,} features ({was_used:,.0f} s of processors)")
    print(f"after: {now:,.0f} s, measured ({now_used:,.0f} s of processors)")
    print(f"before / after: {was / now:.1f} an evaluation, {EVALUATIONS * was / now:,.0f} a run of {EVALUATIONS}")
    _, cka, cka_used = timed(lambda: linear_cka(part, part.roll(1, 0)))
    share = count / len(part)
    print(f"linear CKA: {cka * share:.0f} s, extrapolated ({cka_used * share:.0f} s of processors)")


if __name__ == "__main__":
    main()
