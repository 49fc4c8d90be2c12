"""Synthetic grounds: what stands behind an object where a plain colour would teach too little.

No photograph is in them. Kind, colours, scale and direction are drawn anew for each image (domain randomisation):
gradients, noise of a random spectrum, noise drawn out in one direction, cells and tiles.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate
from scipy.spatial import cKDTree


def textured(size: int, rng: Generator) -> Image.Image:
    """A ground ``size`` pixels square, from the random stream ``rng``."""
    kind = list(KINDS.values())[rng.integers(len(KINDS))]
    return Image.fromarray(np.rint(kind(size, rng)).astype(np.uint8))


def gradient(size: int, rng: Generator) -> np.ndarray:
    """From one colour to another in a random direction."""
    y, x = np.mgrid[:size, :size] / max(1, size - 1) - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    return _coloured(x * np.cos(angle) + y * np.sin(angle), rng, 2)


def noise(size: int, rng: Generator) -> np.ndarray:
    r"""Noise whose amplitude falls with spatial frequency as :math:`f^{-\beta}`, β between 0 (grain) and 2 (clouds)."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf  # no mean: colours set it
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * frequency ** -rng.uniform(0, 2)
    return _coloured(np.fft.irfft2(spectrum, (size, size)), rng, int(rng.integers(2, 5)))


def strokes(size: int, rng: Generator) -> np.ndarray:
    """Noise drawn out in a random direction."""
    wide = int(1.5 * size)  # what a rotation leaves of the corners is cut off
    drawn = gaussian_filter(rng.standard_normal((wide, wide)), (rng.uniform(0.5, 2), rng.uniform(3, 20)))
    return _coloured(_centre(rotate(drawn, rng.uniform(0, 180), reshape=False, mode="reflect"), size), rng, 3)


def cells(size: int, rng: Generator) -> np.ndarray:
    """Cells around random points, each of its own colour, darker towards their borders."""
    points = rng.uniform(0, size, (int(rng.integers(10, 400)), 2))
    where = np.moveaxis(np.mgrid[:size, :size], 0, -1).reshape(-1, 2)  # (H * W, 2)
    distance, nearest = cKDTree(points).query(where, k=2)  # (H * W, 2) both
    colours = _near(_colour(rng), rng, len(points))
    border = np.minimum(1, (distance[:, 1] - distance[:, 0]) / rng.uniform(1, 6))[:, None]
    return (colours[nearest[:, 0]] * (rng.uniform(0.3, 1) * (1 - border) + border)).reshape(size, size, 3)


def tiles(size: int, rng: Generator) -> np.ndarray:
    """Rows of rectangles of nearly one colour, with joints of another, at a random angle."""
    wide = int(1.5 * size)
    height, width, joint = rng.integers(6, 40), rng.integers(6, 60), rng.integers(1, 4)
    row = np.arange(wide) // height
    shift = (row % 2) * int(width * rng.choice((0, 0.5)))
    x = np.arange(wide)[None] + shift[:, None]  # (H, W)
    column = x // width
    colours = _near(_colour(rng), rng, 97)
    picture = colours[(row[:, None] * 31 + column * 17) % len(colours)]  # (H, W, 3)
    picture[(np.arange(wide)[:, None] % height < joint) | (x % width < joint)] = _colour(rng)
    return _centre(rotate(picture, rng.uniform(0, 180), reshape=False, order=1, mode="reflect"), size).clip(0, 255)


KINDS: dict[str, Callable[[int, Generator], np.ndarray]] = {
    "gradient": gradient, "noise": noise, "strokes": strokes, "cells": cells, "tiles": tiles,
}  # fmt: skip


def _colour(rng: Generator) -> np.ndarray:
    """A colour ``(3,)`` between grey and full saturation."""
    grey, colour = rng.uniform(0, 255), rng.uniform(0, 255, 3)
    return grey + rng.random() * (colour - grey)


def _near(colour: np.ndarray, rng: Generator, count: int) -> np.ndarray:
    """``(count, 3)`` colours about one, in brightness more than in hue."""
    spread = rng.uniform(2, 50)
    return (colour + rng.normal(0, spread, (count, 1)) + rng.normal(0, spread / 4, (count, 3))).clip(0, 255)


def _coloured(values: np.ndarray, rng: Generator, count: int) -> np.ndarray:
    """``(H, W)`` values as colours ``(H, W, 3)`` of a ramp through ``count`` random ones, by rank."""
    rank = values.ravel().argsort().argsort().reshape(values.shape) / values.size
    ramp = np.array([_colour(rng) for _ in range(count)])
    return np.stack([np.interp(rank, np.linspace(0, 1, count), channel) for channel in ramp.T], axis=-1)


def _centre(picture: np.ndarray, size: int) -> np.ndarray:
    first = (len(picture) - size) // 2
    return picture[first : first + size, first : first + size]
