"""A request to end (SIGTERM, which schedulers send before they take a machine away), obeyed where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asg import AsgError

EXIT_CODE = 128 + signal.SIGTERM  # as shells have it


class Stopped(AsgError):
    """A training has ended because it was asked to, after a checkpoint."""


@contextmanager
def requests() -> Iterator[Callable[[], bool]]:
    """Whether the process was asked to end since the block began, which is then up to the block.

    Outside of it the process ends at once. A thread beside the main one is told nothing.
    """
    asked = False

    def note(*_: object) -> None:
        nonlocal asked
        asked = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
