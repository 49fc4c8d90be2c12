"""Numbers that are no longer finite: found, and said with what to do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NoReturn

from asg import AsgError
from asg.config import RunConfig


class Diverged(AsgError):
    """A loss, a weight or a result is no longer finite."""


def is_finite(numbers: object) -> bool:
    """Whether a number is finite, or every number of nested dicts and lists."""
    if isinstance(numbers, dict | list):
        return all(map(is_finite, numbers.values() if isinstance(numbers, dict) else numbers))
    return math.isfinite(numbers)


def raise_diverged(config: RunConfig, step: int, folder: Path | None = None) -> NoReturn:
    """Raise :class:`Diverged` with what to do; ``folder`` holds the last good checkpoint, if there is one."""
    last_good = f"; the last good checkpoint is in {folder}" if folder else ""
    raise Diverged(
        f"The training diverged (a loss, weight or result is not finite) by step {step}: lower lr ({config.lr:g}) or "
        f"guidance ({config.guidance:g}), or lengthen warmup ({config.warmup}){last_good}."
    )
