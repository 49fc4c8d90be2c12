"""Masks as people have them: which value or colour of a pixel means which class, and reading them so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib.colors import hsv_to_rgb

from asg import AsgError
from asg.data.images import UNLABELLED, read_image
from asg.data.pixels import upright

LISTS = ("classes.json", "classes.txt")  # in the folder that has images/ and masks/
IGNORED = "unlabelled"  # the name in a list under which values stand that no pixel is trained on or counted for
BEYOND = 255  # the value that is unlabelled, unless a list names it
MOST = 256  # classes that masks may have without a list
COLOUR = 1 << 24  # added to a colour 0xRRGGBB, so that no colour is taken for a value


@dataclass(frozen=True)
class ClassList:
    """Names of classes, in order, and what their pixels hold: ``meaning`` is value → index, or UNLABELLED.

    A value is that of a mask of whole numbers or with a palette, or COLOUR + 0xRRGGBB.
    """

    names: tuple[str, ...]
    meaning: dict[int, int]

    @property
    def colours(self) -> bool:
        """Whether masks hold colours."""
        return any(value >= COLOUR for value in self.meaning)

    def of(self, names: tuple[str, ...], where: Path) -> ClassList:
        """The same list with the indices of other ``names``, which must have all of its own."""
        if unknown := [name for name in self.names if name not in names]:
            raise AsgError(
                f"{where} names the classes {', '.join(unknown)}, which the source lacks (it has {', '.join(names)}): "
                "give them the source's names, or list their values as unlabelled."
            )
        index = {k: names.index(name) for k, name in enumerate(self.names)} | {UNLABELLED: UNLABELLED}
        return ClassList(names, {value: index[k] for value, k in self.meaning.items()})

    def __str__(self) -> str:
        """Names with their values, as a sentence shows them."""
        values = {
            k: [format_value(v) for v, other in self.meaning.items() if other == k] for k in range(len(self.names))
        }
        return ", ".join(f"{name} ({', '.join(values[k])})" for k, name in enumerate(self.names))


def format_value(value: int) -> str:
    """A value, or a colour as ``#rrggbb``."""
    return f"#{value - COLOUR:06x}" if value >= COLOUR else str(value)


def read_list(path: Path) -> ClassList:
    """The classes of a file.

    ``.txt``: one name a line, which the mask holds as the number of the line, from 0. ``.json``: name → value,
    ``"#rrggbb"``, or a list of these. Under the name ``unlabelled`` stand values that mean no class; 255 is one where
    nothing else is said of it.

    Raises :class:`AsgError` for a file that is missing or not so, with what is wrong with it.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AsgError(f"The class list {path} cannot be read ({error}): give a text or JSON file in UTF-8.") from None
    if path.suffix.lower() == ".json":
        try:
            given = json.loads(text, object_pairs_hook=lambda pairs: pairs)
        except ValueError as error:
            raise AsgError(f"The class list {path} is no JSON ({error}): mend it.") from None
        if not (isinstance(given, list) and all(isinstance(one, tuple) for one in given)):
            raise AsgError(f'The class list {path} is not name → value: write {{"road": 0, "car": "#00008e"}}.')
        pairs = [
            (name, value) for name, values in given for value in (values if isinstance(values, list) else [values])
        ]
    else:
        lines = text.rstrip().splitlines()
        pairs = [(line.strip(), number) for number, line in enumerate(lines)]
    return class_list(pairs, path)


def class_list(pairs: Iterable[tuple[str, object]], path: Path) -> ClassList:
    """Pairs of a name and one of its values, checked: two classes or more, each value once, numbers or colours."""
    names: list[str] = []
    meaning: dict[int, int] = {}
    for name, given in pairs:
        if not name:
            raise AsgError(f"The class list {path} has a class without a name: name every class.")
        if name != IGNORED and name not in names:
            names.append(name)
        value = number_of(given, name, path)
        if value in meaning:
            raise AsgError(f"The class list {path} has {format_value(value)} twice: each value means one class.")
        meaning[value] = UNLABELLED if name == IGNORED else names.index(name)
    if len(names) < 2:
        raise AsgError(f"The class list {path} has {len(names)} classes: name two or more.")
    classes = ClassList(tuple(names), meaning)
    if classes.colours and any(value < COLOUR for value in meaning):
        raise AsgError(f"The class list {path} has numbers and colours: write the ones or the others.")
    if not classes.colours:
        meaning.setdefault(BEYOND, UNLABELLED)
    return classes


def number_of(given: object, name: str, path: Path) -> int:
    """A value of a class list as :class:`ClassList` has it."""
    if isinstance(given, str) and re.fullmatch("#[0-9a-fA-F]{6}", given):
        return COLOUR + int(given[1:], 16)
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 1 << 16:
        return given
    raise AsgError(
        f"The class list {path} gives {name!r} the value {given!r}: write a whole number from 0 to 65535, or a colour "
        'as "#rrggbb".'
    )


def find_list(folder: Path) -> Path | None:
    """The class list that lies in a folder, if there is one."""
    return next((path for name in LISTS if (path := folder / name).is_file()), None)


def values(path: Path, colours: bool | None = None) -> np.ndarray:
    """What the pixels of a mask hold, ``(H, W)``: its numbers, palette indices or (COLOUR +) colours.

    ``colours``: whether those are wanted; None: where the file has nothing else. Raises :class:`AsgError` for a file
    that is no mask of the kind that is wanted.
    """
    mask = upright(read_image(path))
    if mask.mode in ("1", "L", "I", "I;16", "P") and not (colours and mask.mode == "P"):
        if colours:
            raise AsgError(f"{path} holds numbers, and its class list has colours: give the numbers of its classes.")
        return np.asarray(mask).astype(np.int64)
    if colours is False or mask.mode not in ("P", "RGB", "RGBA"):
        raise AsgError(
            f"{path} is an image of mode {mask.mode}, and a mask holds a number for each pixel, or a colour that its "
            "class list names: save it so."
        )
    return COLOUR + np.asarray(mask.convert("RGB")).astype(np.int64) @ (1 << 16, 1 << 8, 1)  # (H, W, 3) → (H, W)


def values_of(path: Path, colours: bool | None = None) -> tuple[frozenset[int], tuple[int, int]]:
    """Which values occur in a mask, and its width and height; read once a process while the file stays as it is."""
    state = path.stat()
    return _values_of(path, colours, state.st_size, state.st_mtime_ns)


@cache
def _values_of(path: Path, colours: bool | None, size: int, changed: int) -> tuple[frozenset[int], tuple[int, int]]:
    held = values(path, colours)
    return frozenset(np.unique(held).tolist()), held.shape[::-1]


def known(present: Iterable[int], classes: ClassList, path: Path) -> None:
    """Raise :class:`AsgError` for a value of a mask that the list does not name."""
    if unknown := sorted(value for value in present if value not in classes.meaning):
        lossy = " (JPEG changes colours: save masks as PNG)" if path.suffix.lower() in (".jpg", ".jpeg") else ""
        examples = ", ".join(map(format_value, unknown[:3])) + " …" * (len(unknown) > 3)
        raise AsgError(
            f"{path} holds {examples}, which the class list does not name{lossy}: it names {classes}. "
            f"Add the value to the list, as a class or as {IGNORED}."
        )


def read_mask(path: Path, classes: ClassList) -> np.ndarray:
    """Labels ``(H, W)``, int16: indices of the classes, or UNLABELLED. Raises :class:`AsgError` for another value."""
    held = values(path, classes.colours)
    present, places = np.unique(held, return_inverse=True)
    known(present.tolist(), classes, path)
    meanings = np.array([classes.meaning[value] for value in present.tolist()], np.int16)
    return meanings[places].reshape(held.shape)


def list_of_masks(paths: Iterable[Path]) -> ClassList:
    """The classes of masks without a list: every value (but 255) or colour that occurs, named by itself."""
    occurring: set[int] = set()
    for path in paths:
        occurring |= values_of(path)[0]
        if len(occurring) > MOST:
            raise AsgError(
                f"The masks up to {path} hold more than {MOST} values: they are no plain masks, or need a class list "
                f"({' or '.join(LISTS)}, or --classes FILE)."
            )
    if any(value >= COLOUR for value in occurring) and any(value < COLOUR for value in occurring):
        raise AsgError("Some masks hold colours and others numbers: give a class list, or save them alike.")
    names = sorted(occurring - {BEYOND})
    if len(names) < 2:
        raise AsgError(
            f"The masks hold {', '.join(map(format_value, sorted(occurring)))} alone, and {BEYOND} means unlabelled: "
            f"there is nothing to tell apart. If it is a class, say so in a list ({' or '.join(LISTS)})."
        )
    meaning = {value: k for k, value in enumerate(names)}
    return ClassList(tuple(map(format_value, names)), {BEYOND: UNLABELLED} | meaning)


def palette(classes: int) -> np.ndarray:
    """A colour for each class, uint8 ``(C, 3)``, none of them dark, so that a photo shows under each.

    Hues a golden section of the circle apart, so that neighbours differ however many there are; saturation and
    brightness change from one to the next.
    """
    numbers = np.arange(classes)
    hue = (0.6 + numbers * (5**0.5 - 1) / 2) % 1
    saturation, brightness = np.take([0.75, 0.5, 0.95], numbers % 3), np.take([0.95, 0.75], numbers % 2)
    return np.rint(255 * hsv_to_rgb(np.stack([hue, saturation, brightness], 1))).astype(np.uint8)
