"""From an image as people have it to upright, opaque RGB: pixel types by their range, EXIF, transparency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from asg import AsgError
from asg.data.images import opened, read_image, square

ORIENTATION = 0x0112  # EXIF tag
T = Image.Transpose
# EXIF orientation → what makes such an image upright; the others are, or say nothing that is known.
UPRIGHT = {
    2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_270, 7: T.TRANSVERSE,
    8: T.ROTATE_90,
}  # fmt: skip

SIDEWAYS = (T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)  # those that change width and height


def eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """The image with eight bits a channel.

    Sixteen bits are divided by 257, whole numbers of 32 bits are taken as what their greatest value fits into, eight or
    sixteen bits, and floating point numbers as 0 … 1 or, if one is above 1, as 0 … 255. Raises :class:`AsgError` for
    values of no such range.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
        if (clear := image.info.get("transparency")) is not None:
            grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey
    if image.mode not in ("I", "F"):
        return image
    values = np.asarray(image, np.float64)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and low >= 0 and high <= (255 if image.mode == "F" else 65_535)):
        raise AsgError(
            f"{path} has values from {low:g} to {high:g}, which are no brightness of a known range: save it with 8 or "
            "16 bits, or with floating point numbers from 0 to 1."
        )
    most = (1 if high <= 1 else 255) if image.mode == "F" else (255 if high <= 255 else 65_535)
    return Image.fromarray(np.rint(values * (255 / most)).astype(np.uint8))


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What makes an image upright, by its EXIF orientation; metadata that cannot be read say nothing, as in viewers."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION))
    except Exception:  # Pillow raises a dozen kinds for rubbish
        return None


def upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF orientation says (:func:`turn_of`)."""
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of :func:`upright`, of a file whose pixels are not decoded."""
    with opened(path) as image:
        lies = turn_of(image) in SIDEWAYS and image.format != "TIFF"  # of which Pillow gives the upright size
        return image.size[::-1] if lies else image.size


def opaque(image: Image.Image) -> Image.Image:
    """The image on white where it is transparent: renders often have no ground."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def read_photo(path: Path) -> Image.Image:
    """The picture in one file as RGB: whatever its pixel type, upright and opaque.

    Raises :class:`AsgError` that names the file where it cannot be read.
    """
    return opaque(eight_bits(upright(read_image(path)), path)).convert("RGB")


def read_pixels(path: Path, size: int) -> np.ndarray:
    """The network's input of one file, uint8 ``(size, size, 3)``: :func:`read_photo`, resized and cut out."""
    return square(read_photo(path), size)
