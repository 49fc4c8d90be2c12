"""What a number depends on besides settings, data and weights: a version of each part of the code that makes it.

A version is raised by hand, where numbers are meant to change, by one more line here that says why; what was made
by an earlier version is then outdated. Everything else may be rewritten at will. That the code still does what the
versions say is tested: by golden runs (``asg golden``) and by the first steps of the records (``asg verify``).
"""

from __future__ import annotations

from asg.benchmarks import BENCHMARKS
from asg.config import RunConfig

# Part → why each of its versions came, the first one first; the number of lines is the version.
RECIPES: dict[str, tuple[str, ...]] = {
    # trainers
    "classification": (
        "as first recorded",
        "energies at the end alone, s = 0 as published; errors of held-out losses are clustered by design",
    ),
    "segmentation": ("as first recorded", "EfficientNets have a feature pyramid"),
    "self-training": ("as first recorded", "ranks are floored, no class has the index of what is ignored"),
    "meta-training": ("as first recorded", "an episode begins with a window at ratio 1"),
    # who sets the rates
    "hand-tuned": ("as first recorded",),
    "windows": ("as first recorded", "windows, start and averaged progress as the reference has them"),
    "auto-rgn": ("as first recorded",),
    # what keeps knowledge
    "teacher": ("as first recorded",),
    "features": ("as first recorded",),
    "dense": ("as first recorded",),
    "weights": ("as first recorded",),
    "ewc": ("as first recorded",),
    "si": ("as first recorded",),
    "csg": ("as first recorded",),
    "signals": ("as first recorded",),
    "weighed by gradients": ("as first recorded",),
    "weighed by policy": ("as first recorded",),
    # after or instead of training
    "pasta": ("as first recorded",),
    "randaugment": ("as first recorded",),
    "tpgm": ("as first recorded",),
    "ftp": ("as first recorded",),
    "head-first": ("as first recorded",),
    "average": ("as first recorded",),
    "interpolation": ("as first recorded",),
    # data
    "looks": ("as first recorded",),
    **{name: benchmark.versions for name, benchmark in BENCHMARKS.items()},
}  # fmt: skip


def is_dense(config: RunConfig) -> bool:
    """Whether a run answers at every pixel."""
    return BENCHMARKS[config.data].dense


def version(part: str) -> int:
    """The version of a part of the code: how many lines its history has."""
    return len(RECIPES[part])


def parts_of(config: RunConfig) -> tuple[str, ...]:
    """The parts that make the numbers of a run."""
    dense = is_dense(config)
    parts = ["segmentation" if dense else "classification", config.data]
    kind = config.control.kind if config.control else "hand-tuned"
    parts.append(kind if kind in RECIPES else "windows")
    if config.synthetic:
        parts.append("looks")
    if config.guidance:
        parts.append("dense" if dense else "teacher")
    if config.weigh:
        parts.append(f"weighed by {config.weigh}")
    if config.regulariser:
        parts.append(config.regulariser.kind)
    if config.augment:
        parts.append(config.augment.kind)
    if config.project:
        parts.append(config.project.kind)
    if config.head_first:
        parts.append("head-first")
    if config.average:
        parts.append("average")
    if config.interpolate is not None:
        parts.append("interpolation")
    if config.signals:
        parts.append("signals")
    if config.adapt:
        parts.append("self-training")
    return tuple(parts)


def recipe_of(config: RunConfig) -> dict[str, int]:
    """Part → version of all that makes the numbers of a run."""
    return {part: version(part) for part in parts_of(config)}
