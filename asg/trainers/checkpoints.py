"""What a stopped training goes on from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from asg import AsgError


@dataclass
class Progress:
    """What a checkpoint keeps besides weights and momentum."""

    step: int = 0
    first_losses: list[dict[str, float]] = field(default_factory=list)  # of each of the first steps
    evaluations: list[dict] = field(default_factory=list)
    seconds: float = 0.0
    window: dict[str, float] = field(default_factory=dict)  # sums of the losses since the last evaluation
    window_steps: int = 0


def save_checkpoint(path: Path, progress: Progress, parts: dict) -> None:
    """Write the state of ``parts`` to ``path`` at once; a full disk leaves the former checkpoint as it was."""
    partial = path.with_suffix(".partial")
    state = {"progress": vars(progress), **{name: part.state_dict() for name, part in parts.items()}}
    try:
        torch.save(state, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        partial.unlink(missing_ok=True)
        raise AsgError(
            f"The checkpoint {path} cannot be written ({str(error).splitlines()[0]}): free some space and run the "
            "same command again; it goes on from the last checkpoint."
        ) from None


def load_checkpoint(path: Path, device: torch.device) -> dict:
    """What :func:`save_checkpoint` wrote; a broken file is named in the error."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a broken file
        raise AsgError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}): remove it, and the run starts afresh."
        ) from None
