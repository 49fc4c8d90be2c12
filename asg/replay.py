"""Whether today's code still gives what a record says: its first evaluation and its first steps, repeated."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from asg import records
from asg.config import make_config
from asg.run import training
from asg.trainers.loop import FIRST

TOLERANCE = 1e-4  # relative: another processor moves the last bits
RENDERED = {"cad": 2e-3}  # the same where images are rendered by the user: instruction sets differ in a few pixels
FLOOR = 0.01  # what is nearer to 0 than this share of the tolerance is 0
SHARE = 0.02  # of images, whose answers may tip over with the last bits
SHARES = ("accuracy", "overall", "agreement", "imagenet", "kept", "product", "validation", "miou", "pixels", "ece")
IMAGE_BY_IMAGE = ("per_class", "predicted", "confidence", "pseudo", "selection", "labelled")


def deviations(expected: object, given: object, tolerance: float = TOLERANCE, where: str = "") -> list[str]:
    """One line for each number of nested dicts and lists that is not ``expected`` within a relative ``tolerance``.

    What ``given`` has besides does not count.
    """
    if isinstance(expected, dict) and isinstance(given, dict):
        lines = []
        for name, value in expected.items():
            inner = f"{where}.{name}" if where else str(name)
            lines += deviations(value, given[name], tolerance, inner) if name in given else [f"{inner} is gone"]
        return lines
    if isinstance(expected, list) and isinstance(given, list) and len(expected) == len(given):
        pairs = enumerate(zip(expected, given, strict=True))
        return [line for k, (a, b) in pairs for line in deviations(a, b, tolerance, f"{where}[{k}]")]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (expected, given))
    if numbers and math.isclose(expected, given, rel_tol=tolerance, abs_tol=FLOOR * tolerance):
        return []
    return [] if expected == given else [f"{where} is {given}, was {expected}"]


def is_elsewhere(record: dict) -> bool:
    """Whether a record was made under another instruction set than this processor's."""
    return record["cpu"] != torch.backends.cpu.get_cpu_capability()


def begins_elsewhere(record: dict) -> bool:
    """Whether a record begins where a whole training on another processor has ended.

    Over a whole training the last bits grow into other numbers, so that nothing can be said of what follows it.
    """
    config = record["config"]
    follows = config.get("adapt") is not None or config.get("interpolate") is not None
    return follows and record["device"] == "cpu" and is_elsewhere(record)


def replay(record: dict, device: str | None = None) -> list[str]:
    """What today's code gives otherwise than ``record`` in its first evaluation and first steps; empty: nothing.

    Losses and other continuous numbers may differ by ``TOLERANCE``, those of renders under another instruction set by
    ``RENDERED``, shares of images by ``SHARE``. A self-training or interpolation is repeated from the network of the
    training before it, which is trained anew where it is not kept (see :func:`begins_elsewhere`).
    """
    config = make_config(record["config"])
    tolerance = RENDERED.get(config.data, TOLERANCE) if is_elsewhere(record) else TOLERANCE
    with TemporaryDirectory() as folder:
        result, _ = training(config, Path(folder), device, stop=FIRST)
    before, now = record["evaluations"][0], result["evaluations"][0]
    lines = [
        f"{name} is {now.get(name)}, was {before[name]}"
        for name in SHARES
        if name in before and not math.isclose(before[name], now.get(name, math.inf), abs_tol=SHARE)
    ]
    exact = {k: v for k, v in before.items() if k not in (*SHARES, *IMAGE_BY_IMAGE)}
    losses = deviations(record["first_losses"], result["first_losses"], tolerance, "step")
    return [*lines, *deviations(exact, now, tolerance), *losses]


def verify(record: dict, device: str | None = None) -> list[str]:
    """Why today's code cannot vouch for a record; empty: it can."""
    if not records.is_current(record):
        made, now = record.get("recipe"), records.recipe_of(make_config(record["config"]))
        return [f"it is outdated (made by {made}, now {now}, or of other data): `asg reproduce` makes it anew"]
    return replay(record, device)
