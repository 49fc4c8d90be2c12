"""Images as people have them: every pixel type gives the pixels of its copy in eight bits, rubbish beside them none."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from asg import AsgError
from asg.data.pixels import ORIENTATION, eight_bits, opaque, read_pixels, upright

GREY = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
GREY[0, :2] = 0, 255
COLOUR = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def written(folder: Path, name: str, image: Image.Image, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def pgm(folder: Path) -> Path:
    (folder / "a.pgm").write_bytes(b"P5 32 32 65535\n" + (GREY.astype(">u2") * 257).tobytes())
    return folder / "a.pgm"


GREYS = {
    "16-bit PNG": lambda to: written(to, "a.png", Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16-bit TIFF": lambda to: written(to, "a.tif", Image.fromarray(GREY.astype(np.uint16) * 257)),
    "16-bit PGM": pgm,
    "32-bit TIFF of 16 bits": lambda to: written(to, "a.tif", Image.fromarray(GREY.astype(np.int32) * 257)),
    "32-bit TIFF of 8 bits": lambda to: written(to, "a.tif", Image.fromarray(GREY.astype(np.int32))),
    "float TIFF to 1": lambda to: written(to, "a.tif", Image.fromarray(GREY.astype(np.float32) / 255)),
    "float TIFF to 255": lambda to: written(to, "a.tif", Image.fromarray(GREY.astype(np.float32))),
    "8-bit PNG": lambda to: written(to, "a.png", Image.fromarray(GREY)),
    "grey with alpha": lambda to: written(to, "a.png", Image.fromarray(GREY).convert("LA")),
    "palette": lambda to: written(to, "a.png", Image.fromarray(GREY).convert("P")),
    "RGB with alpha": lambda to: written(to, "a.png", Image.fromarray(GREY).convert("RGBA")),
    "TIFF of CMYK": lambda to: written(to, "a.tif", Image.fromarray(GREY).convert("RGB").convert("CMYK")),
}


@pytest.mark.parametrize("kind", GREYS)
def test_every_pixel_type_gives_the_grey_of_eight_bits(tmp_path: Path, kind: str):
    assert np.array_equal(read_pixels(GREYS[kind](tmp_path), 32), np.stack([GREY] * 3, 2))


def test_one_bit_is_black_and_white(tmp_path: Path):
    two = np.where(GREY > 99, 255, 0).astype(np.uint8)
    path = written(tmp_path, "a.png", Image.fromarray(two).convert("1"))
    assert np.array_equal(read_pixels(path, 32), np.stack([two] * 3, 2))


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path):
    """No value is above 255: its type says what they mean, not its content."""
    path = written(tmp_path, "a.png", Image.fromarray(np.full((32, 32), 200, np.uint16)))
    assert (read_pixels(path, 32) == 1).all()


def test_a_transparent_16_bit_grey_is_white(tmp_path: Path):
    values = GREY.astype(np.uint16) * 257
    path = written(tmp_path, "a.png", Image.fromarray(values), transparency=int(values[3, 3]))
    expected = np.where(values[3, 3] == values, 255, GREY)
    assert np.array_equal(read_pixels(path, 32)[..., 0], expected)


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 256.0], [0.0, np.nan], [0.0, np.inf]])
def test_floating_point_numbers_of_no_known_range_are_refused(tmp_path: Path, values: list[float]):
    path = written(tmp_path, "a.tif", Image.fromarray(np.array([values], np.float32)))
    with pytest.raises(AsgError, match=r"a\.tif has values from .* no brightness of a known range"):
        read_pixels(path, 32)


@pytest.mark.parametrize("value", [-1, 65_536])
def test_whole_numbers_of_no_known_range_are_refused(tmp_path: Path, value: int):
    path = written(tmp_path, "a.tif", Image.fromarray(np.array([[0, value]], np.int32)))
    with pytest.raises(AsgError, match="no brightness of a known range"):
        read_pixels(path, 32)


def test_transparent_renders_stand_on_white(tmp_path: Path):
    render = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    render.putpixel((3, 3), (200, 10, 20, 255))
    pixels = read_pixels(written(tmp_path, "a.png", render), 32)
    assert pixels[3, 3].tolist() == [200, 10, 20] and pixels[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path: Path, orientation: int):
    """Against numpy: the image as stored is what the inverse of the turn makes of the upright one."""
    stored = {
        1: COLOUR, 2: COLOUR[:, ::-1], 3: COLOUR[::-1, ::-1], 4: COLOUR[::-1], 5: COLOUR.transpose(1, 0, 2),
        6: np.rot90(COLOUR), 7: COLOUR[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(COLOUR, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = written(tmp_path, "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert np.array_equal(read_pixels(path, 32), COLOUR)


def rubbish(kind: str) -> dict:
    """Options of a PNG with metadata that mean nothing, or cannot be written again."""
    if kind == "EXIF":
        return {"exif": b"Exif\x00\x00no TIFF at all"}
    if kind == "raw profile":
        info = PngImagePlugin.PngInfo()
        info.add_text("Raw profile type exif", "\nexif\n   8\nnot hexadecimal")
        return {"pnginfo": info}
    head = b"Exif\x00\x00II*\x00" + struct.pack("<LH", 8, 2)  # a TIFF of two entries
    turned = struct.pack("<HHLHH", ORIENTATION, 3, 1, 6, 0)
    negative = struct.pack("<HHLL", 0x011A, 10, 1, 38)  # a signed fraction, where an unsigned one belongs
    return {"exif": head + turned + negative + struct.pack("<L", 0) + struct.pack("<ll", -72, 1)}


@pytest.mark.parametrize("kind", ["EXIF", "raw profile", "negative resolution"])
def test_rubbish_beside_the_pixels_does_not_matter(tmp_path: Path, kind: str):
    path = written(tmp_path, "a.png", Image.fromarray(COLOUR), **rubbish(kind))
    expected = np.rot90(COLOUR, -1) if kind == "negative resolution" else COLOUR  # orientation 6 is readable
    assert np.array_equal(read_pixels(path, 32), expected)


def test_the_steps_leave_alone_what_needs_none():
    image = Image.fromarray(COLOUR)
    assert eight_bits(image, Path("a")) is upright(image) is opaque(image) is image
