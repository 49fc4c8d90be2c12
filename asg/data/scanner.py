"""Which files below a folder are images: one rule for training, adapting and predicting."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from asg import AsgError

SYSTEM = {"thumbs.db", "desktop.ini", "__macosx"}  # what systems leave in people's folders
HIDDEN, NO_IMAGE, NOTHING, CIRCLE = (
    "hidden",
    "no image that can be read here",
    "a link to nothing",
    "a link in a circle",
)


@dataclass(frozen=True)
class Scan:
    """Images below ``folder``, in the order of their paths, and what was left out: file → why."""

    folder: Path
    images: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """:meth:`summary` of images of no classes."""
        return self.summary()

    def summary(self, of: str = "") -> str:
        """``24 images``, and what was left out: how many for which reason, with the endings of what no one can read."""
        reasons = Counter(
            f"{why} ({path.suffix.lower() or path.name})" if why == NO_IMAGE else why
            for path, why in self.left_out.items()
        )
        left_out = ", ".join(f"{count} × {why}" for why, count in sorted(reasons.items()))
        return f"{len(self.images):,} images{of}" + (f"; left out: {left_out}" if left_out else "")


def name_of(path: Path) -> str:
    """The name of a folder, the same under every locale: its bytes as UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "surrogateescape")


def is_hidden(path: Path) -> bool:
    """Whether a system or a program keeps it for itself."""
    return path.name.startswith(".") or path.name.lower() in SYSTEM


def is_image(path: Path) -> bool:
    """Whether Pillow has a reader for such a name."""
    return path.suffix.lower() in Image.registered_extensions()


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, sorted by the bytes of its names, as under every locale; one not to be read is named."""
    try:
        return sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    except OSError as error:
        raise AsgError(f"The folder {folder} cannot be read ({error.strerror}): let it be readable.") from None


def images_below(folder: Path) -> Scan:
    """Every image of a folder and of the folders in it, linked ones too; hidden files and folders are left out."""
    scan = Scan(folder)

    def walk(inside: Path, above: frozenset[Path]) -> None:
        for path in entries(inside):
            if is_hidden(path):
                scan.left_out[path] = HIDDEN
            elif path.is_dir():
                if (real := path.resolve()) in above:
                    scan.left_out[path] = CIRCLE
                else:
                    walk(path, above | {real})
            elif not path.exists():
                scan.left_out[path] = NOTHING
            elif path.is_file() and is_image(path):
                scan.images.append(path)
            else:
                scan.left_out[path] = NO_IMAGE

    walk(folder, frozenset([folder.resolve()]))
    return scan


def has_class_folders(folder: Path) -> bool:
    """Whether a folder has sub-folders, which say what images show; of a missing one :func:`class_folders` tells."""
    return not folder.is_dir() or any(path.is_dir() for path in entries(folder) if not is_hidden(path))


def class_folders(folder: Path, what: str) -> dict[str, Scan]:
    """Class → what is below its folder, sorted by name.

    Raises :class:`AsgError` for a folder that is missing or has no class folders, for an image that lies beside them,
    and for a class folder without an image.
    """
    if not folder.is_dir():
        raise AsgError(f"The {what} folder {folder} does not exist: give a folder with one sub-folder a class.")
    visible = [path for path in entries(folder) if not is_hidden(path)]
    if loose := next((path for path in visible if path.is_file() and is_image(path)), None):
        raise AsgError(f"{loose} lies beside the class folders of {folder}: move it into its class folder.")
    classes = {name_of(path): images_below(path) for path in visible if path.is_dir()}
    if not classes:
        raise AsgError(f"The {what} folder {folder} has no class folders: put images in {folder}/CLASS/.")
    if empty := next((name for name, scan in classes.items() if not scan.images), None):
        raise AsgError(f"The class folder {folder / empty} holds {classes[empty]}: add images or remove the folder.")
    return classes
