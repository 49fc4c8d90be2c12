"""What the runs of this machine are doing: each says so in its folder, until its record is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from asg import AsgError, records
from asg.config import RunConfig
from asg.interrupts import Stopped

FILE = "run.json"


@dataclass(frozen=True)
class State:
    """One run that is not finished."""

    folder: Path
    state: str  # running, stopped, failed
    about: dict

    def __str__(self) -> str:
        config, reason = self.about["config"], self.about.get("reason")
        arm = f"{config['profile']} {self.folder.parent.name} seed {config['seed']}"
        step = f"step {self.about['step']}" if "step" in self.about else "not yet evaluated"
        return f"{self.state:8} {arm}: {step}, begun {self.about['begun']}{f'; {reason}' if reason else ''}"


@contextmanager
def announced(folder: Path, config: RunConfig) -> Iterator[dict]:
    """Say in ``folder`` what is being trained there, and why it failed if it does; nothing is said of what succeeds.

    Yields what is said, to be changed by :func:`note`.
    """
    about = {
        "config": {"profile": config.profile, "data": config.data, "seed": config.seed},
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write(folder, about)
    try:
        yield about
    except Stopped:
        raise
    except Exception as error:
        write(folder, {**about, "reason": f"{type(error).__name__}: {error}"})
        raise
    (folder / FILE).unlink(missing_ok=True)


def note(folder: Path, about: dict, step: int) -> None:
    """Say how far the run has come."""
    about["step"] = step
    write(folder, about)


def write(folder: Path, about: dict) -> None:
    """Replace what is said in ``folder``; where there is no space for it nothing is said, and the run goes on."""
    with suppress(AsgError):
        records.write_text(folder / FILE, json.dumps(about) + "\n")


def states() -> list[State]:
    """Every run that is not finished, those in progress first, then the latest."""
    unfinished = []
    for path in records.runs_root().glob(f"*/*/{FILE}"):
        about = json.loads(path.read_text("utf-8"))
        state = "failed" if "reason" in about else "stopped"
        unfinished.append(State(path.parent, "running" if is_held(path.parent) else state, about))
    return sorted(unfinished, key=lambda one: (one.state != "running", one.about["begun"]))


def is_held(folder: Path) -> bool:
    """Whether a process trains the run of ``folder`` now."""
    try:
        with FileLock(str(folder / "lock"), timeout=0):
            return False
    except Timeout:
        return True


def kept_networks() -> int:
    """How many networks of finished runs are kept on this machine."""
    return sum(1 for _ in (records.runs_root() / "models").glob("*.safetensors"))
