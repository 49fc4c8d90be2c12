"""What the launcher of several processes (torchrun, accelerate launch) says, before any of them does anything."""

import os


def launched(what: str = "WORLD_SIZE") -> int:
    """Processes that the launcher started: in all, or on this machine (``LOCAL_WORLD_SIZE``)."""
    return int(os.environ.get(what, 1))


def is_main() -> bool:
    """Whether this is the process that locks, writes and prints."""
    return int(os.environ.get("RANK", 0)) == 0
