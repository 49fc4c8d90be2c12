"""Files of tensors: written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a ``.safetensors`` file; its mode is what the umask asks for. Raises OSError, and leaves no part then.

    It takes the memory of the tensors once more: safetensors' own writer makes files that nobody else may read.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        partial.write_bytes(save(contiguous, metadata))
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
