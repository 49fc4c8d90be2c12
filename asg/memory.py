"""Memory that is freed stays with the process: a training step asks for the same blocks again, 2 to 3 % of its time."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
MOST = 2**30  # bytes; what is freed in larger blocks than this goes back to the system


def keep_freed() -> bool:
    """Let the C library keep freed blocks for the next step, which glibc would give back; False where it is another."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(what, MOST) == 1 for what in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
