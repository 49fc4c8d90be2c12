"""Files that an index lists: a CSV beside this module with a path, SHA-256 and, to tell a cut file, bytes of each.

Paths are relative to the benchmark's folder, with ``/``. A file counts as published only if its SHA-256 says so.
"""

from __future__ import annotations

import csv
import hashlib
import io
from functools import cache
from pathlib import Path

from PIL import Image

from asg import AsgError

Row = dict[str, str]


@cache
def read_index(name: str) -> tuple[Row, ...]:
    """The rows of the index ``name`` (a file beside this module), in its order."""
    with (Path(__file__).parent / name).open(newline="") as file:
        return tuple(csv.DictReader(file))


def fault_of(content: bytes, row: Row) -> str | None:
    """How ``content`` differs from the file that ``row`` describes: "cut short" or "altered"; None if it does not."""
    if hashlib.sha256(content).hexdigest() == row["sha256"]:
        return None
    return "cut short" if len(content) < int(row["bytes"]) else "altered"


def fault_at(root: Path, row: Row) -> str | None:
    """:func:`fault_of` the file of ``row`` below ``root``, or "missing"."""
    path = root / row["path"]
    return fault_of(path.read_bytes(), row) if path.is_file() else "missing"


def content_of(root: Path, row: Row, remedy: str) -> bytes:
    """The bytes of the file of ``row`` below ``root``; raises with ``remedy`` unless they are the published ones."""
    path = root / row["path"]
    content = path.read_bytes() if path.is_file() else None
    if fault := "missing" if content is None else fault_of(content, row):
        raise AsgError(f"The benchmark's file {path} is {fault}: {remedy}")
    return content


def image_of(root: Path, row: Row, remedy: str) -> Image.Image:
    """The image that :func:`content_of` holds."""
    return Image.open(io.BytesIO(content_of(root, row, remedy)))
