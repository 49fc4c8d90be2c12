"""Another domain: digits rendered from printed fonts → scikit-learn's handwritten digits, 10 classes.

Neither side is photographed and ImageNet has no digits, so this shows where ImageNet guidance has
little to give. The fonts ship inside matplotlib, the handwriting (8 × 8 pixels, from the UCI
repository) inside scikit-learn: nothing is obtained. Every render has its own random stream.
Departure 21: not a benchmark of the paper.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from asg.data.images import Domains, ImageSet, fingerprint_of

CLASSES = tuple("0123456789")
NO_DIGITS = ("DejaVuSansDisplay", "DejaVuSerifDisplay", "STIXNonUni", "STIXSiz", "cmex", "cmsy", "cmmi", "LastResort")
PER_FONT, PER_HELD_OUT = 8, 2  # renders of each digit in each font
EVERY = 5  # every fifth font is held out for validation
PHOTOS = 600  # of the 1,797 handwritten digits, evenly spaced
ANGLE, SMALLEST, LARGEST = 15.0, 0.55, 0.9  # degrees either way; height of a digit as a share of the image


def fonts() -> list[Path]:
    """matplotlib's fonts that have digits, sorted by name."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(p for p in folder.glob("*.ttf") if not p.name.startswith(NO_DIGITS))


def render(digit: int, font: Path, size: int, rng: np.random.Generator) -> np.ndarray:
    """One printed digit, light on dark as the handwriting is; uint8 ``(size, size, 3)``."""
    height = rng.uniform(SMALLEST, LARGEST) * size
    face = ImageFont.truetype(str(font), round(2 * size))
    left, top, right, bottom = face.getbbox(str(digit))
    glyph = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(glyph).text((1 - left, 1 - top), str(digit), fill=255, font=face)
    glyph = glyph.resize((max(1, round(glyph.width * height / glyph.height)), round(height)), Image.LANCZOS)
    glyph = glyph.rotate(rng.uniform(-ANGLE, ANGLE), Image.BICUBIC, expand=True)
    page = Image.new("L", (size, size))
    page.paste(glyph, tuple(int(r * (size - side)) for r, side in zip(rng.random(2), glyph.size, strict=True)), glyph)
    return np.asarray(page.convert("RGB"))


def printed(chosen: list[Path], copies: int, size: int, seed: int) -> ImageSet:
    """Every digit in every chosen font, ``copies`` times."""
    images = [(digit, font, copy) for digit in range(10) for font in chosen for copy in range(copies)]

    names = tuple(f"{font.stem} {digit} {copy}" for digit, font, copy in images)
    labels = torch.tensor([digit for digit, _, _ in images])
    fingerprint = fingerprint_of("printed digits", matplotlib.__version__, names, size, seed)
    cluster = torch.tensor([chosen.index(font) for _, font, _ in images])  # the digits of a font are of one hand
    return ImageSet(partial(decode_printed, images, size, seed), labels, CLASSES, names, fingerprint, cluster=cluster)


def decode_printed(images: list[tuple[int, Path, int]], size: int, seed: int, i: int) -> np.ndarray:
    """One printed digit, ``(size, size, 3)``."""
    digit, font, copy = images[i]
    return render(digit, font, size, np.random.default_rng((seed, i, copy)))


@cache
def handwriting() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's images ``(N, 8, 8)``, 0 … 16, and their digits ``(N,)``."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    return digits.images, digits.target


def written(size: int) -> ImageSet:
    """The handwritten digits, enlarged."""
    images, digits = handwriting()
    chosen = np.linspace(0, len(digits) - 1, PHOTOS).round().astype(int)
    names = tuple(f"handwritten {i}" for i in chosen)
    labels, fingerprint = torch.tensor(digits[chosen]), fingerprint_of("written digits", PHOTOS, size)
    return ImageSet(partial(decode_written, images[chosen], size), labels, CLASSES, names, fingerprint)


def decode_written(images: np.ndarray, size: int, i: int) -> np.ndarray:
    """One handwritten digit, ``(size, size, 3)``; ``images`` are 0 to 16."""
    page = Image.fromarray((images[i] / 16 * 255).astype(np.uint8))
    return np.asarray(page.resize((size, size), Image.BICUBIC).convert("RGB"))


def load(size: int) -> Domains:
    """Source: four fifths of the fonts; validation: the others; target: handwriting. A mirrored digit is no digit."""
    faces = fonts()
    held = faces[::EVERY]
    source = printed([f for f in faces if f not in held], PER_FONT, size, 1)
    return Domains(source, printed(held, PER_HELD_OUT, size, 2), written(size), mirror=False)
