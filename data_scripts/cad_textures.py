"""Procedural pictures: noise, the surfaces of things and grounds, skies. No photograph is among them.

Every function takes a random stream and gives colours of 0 … 1 in linear light, float32 ``(H, W, 3)``.
"""

from __future__ import annotations

import colorsys

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

SIDE = 256  # pixels of a texture's side
SKY = (256, 768)  # height and width of a sky, from straight up to straight down

Stream = np.random.Generator


def colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """A colour ``(3,)`` in linear light of a hue, saturation and value of the screen."""
    return np.array(colorsys.hsv_to_rgb(hue % 1, np.clip(saturation, 0, 1), np.clip(value, 0, 1))) ** 2.2


def any_colour(rng: Stream, saturation: tuple[float, float] = (0.05, 0.6), value=(0.15, 0.95)) -> np.ndarray:
    """A colour ``(3,)`` of any hue."""
    return colour(rng.random(), rng.uniform(*saturation), rng.uniform(*value))


def noise(rng: Stream, cells: tuple[int, int], shape: tuple[int, int] = (SIDE, SIDE), octaves: int = 5) -> np.ndarray:
    """Fractal noise of 0 … 1 ``shape``, with ``cells`` patches in the first octave; its opposite edges fit together."""
    total, weight = np.zeros(shape), 1.0
    for octave in range(octaves):
        grid = rng.random([min(n * 2**octave, side) for n, side in zip(cells, shape, strict=True)])
        places = [np.arange(side) * n / side for side, n in zip(shape, grid.shape, strict=True)]
        total += weight * map_coordinates(grid, np.meshgrid(*places, indexing="ij"), order=1, mode="grid-wrap")
        weight *= 0.55
    low, high = np.quantile(total, (0.01, 0.99))
    return np.clip((total - low) / (high - low), 0, 1)


def mix(share: np.ndarray, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """``one`` where ``share`` ``(H, W)`` is 0 and ``two`` where it is 1."""
    return (one + share[..., None] * (two - one)).astype(np.float32)


def plain(rng: Stream, base: np.ndarray) -> np.ndarray:
    """One colour, a little uneven."""
    return mix(noise(rng, (3, 3)), base * rng.uniform(0.8, 0.97), base)


def speckled(rng: Stream, base: np.ndarray) -> np.ndarray:
    """Fine grains over soft patches: asphalt, concrete, carpet, plaster."""
    share = 0.5 * noise(rng, (3, 3), octaves=4) + 0.5 * noise(rng, (64, 64), octaves=2)
    return mix(share, base * rng.uniform(0.45, 0.8), np.minimum(base * 1.15, 1))


def concrete(rng: Stream) -> np.ndarray:
    """A rough floor or table of any quiet colour."""
    return speckled(rng, any_colour(rng, (0.0, 0.35), (0.2, 0.9)))


def plaster(rng: Stream) -> np.ndarray:
    """A rough wall, often nearly white."""
    return speckled(rng, wall_colour(rng))


def wallpaper(rng: Stream) -> np.ndarray:
    """A smooth wall, often nearly white."""
    return plain(rng, wall_colour(rng))


def wall_colour(rng: Stream) -> np.ndarray:
    """Nearly white, or quiet."""
    return (
        any_colour(rng, (0.0, 0.06), (0.6, 0.97)) if rng.random() < 0.6 else any_colour(rng, (0.05, 0.22), (0.3, 0.9))
    )


def grass(rng: Stream) -> np.ndarray:
    """Grass, from lush to dry."""
    hue = rng.uniform(0.13, 0.28)
    dark, light = colour(hue, 0.5, rng.uniform(0.2, 0.35)), colour(hue - 0.03, 0.42, rng.uniform(0.4, 0.65))
    return mix(0.4 * noise(rng, (3, 3)) + 0.6 * noise(rng, (40, 40), octaves=3), dark, light)


def earth(rng: Stream) -> np.ndarray:
    """Soil or sand."""
    return speckled(rng, colour(rng.uniform(0.05, 0.13), rng.uniform(0.15, 0.5), rng.uniform(0.35, 0.8)))


def paving(rng: Stream) -> np.ndarray:
    """Asphalt or concrete, any grey."""
    return speckled(rng, colour(rng.uniform(0.05, 0.6), rng.uniform(0, 0.05), rng.uniform(0.25, 0.75)))


def boards(rng: Stream, count: int | None = None) -> np.ndarray:
    """Boards of wood with their grain, ``count`` side by side."""
    count = count or int(rng.integers(3, 9))
    hue, value = rng.uniform(0.04, 0.1), rng.uniform(0.25, 0.85)
    light = colour(hue, rng.uniform(0.3, 0.7), value)
    grain = 0.6 * noise(rng, (4, 24), octaves=4) + 0.4 * noise(rng, (2, 90), octaves=2)
    board = np.arange(SIDE) * count // SIDE
    shade = rng.uniform(0.75, 1.0, count)[board]
    gap = np.r_[True, board[1:] != board[:-1]] & (count > 1)
    return mix(grain, light * 0.5, light) * (shade * np.where(gap, 0.35, 1))[None, :, None].astype(np.float32)


def board(rng: Stream) -> np.ndarray:
    """One board: a table top, the body of a guitar."""
    return boards(rng, 1)


def courses(rng: Stream, base: np.ndarray, rows: int, across: int, joint: np.ndarray, shift: float) -> np.ndarray:
    """Bricks, tiles, shingles: ``rows`` of ``across`` stones, each row shifted, with joints of colour ``joint``."""
    v, u = np.mgrid[:SIDE, :SIDE] / SIDE
    row = np.floor(v * rows).astype(int)
    place = u * across + shift * (row % 2)
    stone = np.floor(place).astype(int) % across
    shade = rng.uniform(0.65, 1.0, (rows, across))[row % rows, stone]
    edge = np.minimum((v * rows) % 1, (place % 1) * rows / across) < 0.1
    body = base * shade[..., None] * (0.8 + 0.2 * noise(rng, (32, 32), octaves=2)[..., None])
    return np.where(edge[..., None], joint, body).astype(np.float32)


def tiles(rng: Stream) -> np.ndarray:
    """A tiled floor."""
    count = int(rng.integers(2, 6))
    base = any_colour(rng, (0, 0.3), (0.3, 0.95))
    return courses(rng, base, count, count, base * rng.uniform(0.3, 0.8), 0.0)


def bricks(rng: Stream) -> np.ndarray:
    """A brick wall."""
    base = colour(rng.uniform(0.0, 0.08), rng.uniform(0.2, 0.65), rng.uniform(0.35, 0.75))
    return courses(rng, base, 12, 5, colour(0.1, 0.05, rng.uniform(0.3, 0.8)), 0.5)


def siding(rng: Stream) -> np.ndarray:
    """Painted boards one above the other, each in the shadow of the next."""
    base = any_colour(rng, (0.0, 0.45), (0.4, 0.97))
    rise = (np.arange(SIDE) * 12 / SIDE) % 1
    return mix(np.repeat(0.15 + 0.85 * np.minimum(rise / 0.25, 1)[:, None], SIDE, 1), base * 0.35, base)


def shingles(rng: Stream) -> np.ndarray:
    """A roof of tiles, shingles or slates."""
    hue = rng.choice([rng.uniform(0.0, 0.06), rng.uniform(0.5, 0.65)])
    base = colour(hue, rng.uniform(0.05, 0.6), rng.uniform(0.2, 0.6))
    return courses(rng, base, 16, 10, base * 0.45, 0.5)


def leaf(rng: Stream) -> np.ndarray:
    """Leaves: greens, at times yellow or red."""
    hue = rng.uniform(0.2, 0.36) if rng.random() < 0.85 else rng.uniform(0.0, 0.18)
    dark, light = colour(hue, rng.uniform(0.5, 0.9), 0.25), colour(hue - 0.03, 0.55, rng.uniform(0.45, 0.8))
    return mix(noise(rng, (10, 10), octaves=3), dark, light)


def cloth(rng: Stream) -> np.ndarray:
    """Woven cloth, plain or with stripes."""
    base = any_colour(rng, (0.0, 0.8), (0.15, 0.9))
    v, u = np.mgrid[:SIDE, :SIDE]
    weave = 0.5 + 0.25 * np.sin(v * np.pi / 2) + 0.25 * np.sin(u * np.pi / 2)
    picture = mix(0.6 * weave + 0.4 * noise(rng, (6, 6)), base * 0.6, base)
    if rng.random() < 0.25:
        stripe = (u // int(rng.integers(8, 40))) % 2 == 0
        picture = np.where(stripe[..., None], picture * any_colour(rng, (0.0, 0.6), (0.5, 1.0)), picture)
    return picture.astype(np.float32)


def waves(rng: Stream, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Height ``(N,)`` and unit normal ``(N, 3)``, y up, of wavy water at ``places`` ``(N, 2)`` of its plane."""
    count = 24
    length = 2.0 ** rng.uniform(-2.7, 0.5, count)  # of a wave; a ship's longest side is 1
    way = rng.normal(rng.uniform(0, 2 * np.pi), 0.7, count)
    number = 2 * np.pi / length * np.stack((np.cos(way), np.sin(way)))  # (2, count)
    height = rng.uniform(0.002, 0.010) * length * rng.random(count)
    phase = places @ number + rng.uniform(0, 2 * np.pi, count)  # (N, count)
    slope = (height * np.cos(phase)) @ number.T  # (N, 2)
    normal = np.stack((-slope[:, 0], np.ones(len(places)), -slope[:, 1]), 1)
    return np.sin(phase) @ height, normal / np.linalg.norm(normal, axis=1, keepdims=True)


def ceiling(rng: Stream) -> np.ndarray:
    """Light of a room, ``SKY + (3,)``: brighter from above, uneven, a little tinted."""
    glow = 0.35 + 0.65 * np.clip(np.linspace(1.2, -0.6, SKY[0]), 0, 1)[:, None]
    uneven = 0.7 + 0.6 * noise(rng, (3, 4), SKY, 2)
    return ((glow * uneven)[..., None] * any_colour(rng, (0.0, 0.06), (0.5, 1.0))).astype(np.float32)


def sky(rng: Stream, horizon: str) -> np.ndarray:
    """Light from all around ``SKY + (3,)``: sky above, ground below, and at the horizon what ``horizon`` says.

    ``horizon``: "air" (no ground at all), "none", "trees", "hills" or "houses".
    """
    height, width = SKY
    above = np.linspace(1, -1, height)[:, None]  # elevation over a right angle, top row first
    if rng.random() < 0.6:  # blue
        zenith = colour(rng.uniform(0.55, 0.62), rng.uniform(0.35, 0.75), rng.uniform(0.6, 0.9))
        low = colour(rng.uniform(0.52, 0.62), rng.uniform(0.02, 0.25), rng.uniform(0.85, 1.0))
    else:  # overcast, or towards evening
        zenith = colour(rng.uniform(0.55, 0.68), rng.uniform(0.0, 0.12), rng.uniform(0.6, 0.95))
        low = colour(rng.uniform(0.02, 0.12), rng.uniform(0.0, 0.15), rng.uniform(0.8, 1.0))
    picture = mix(np.repeat(np.clip(above, 0, 1) ** rng.uniform(0.4, 0.8), width, 1), low, zenith)
    cover = np.clip((noise(rng, (6, 8), SKY, 6) - rng.uniform(0.3, 1.0)) * rng.uniform(1.5, 4), 0, 1)
    picture = mix(cover * rng.uniform(0.5, 1), picture, colour(0.6, 0.02, rng.uniform(0.8, 1)))
    ground = any_colour(rng, (0.05, 0.4), (0.25, 0.6))
    if horizon != "air":
        picture = np.where(above[..., None] < 0, ground, picture)
    if horizon not in ("air", "none"):
        if horizon == "houses":
            count = int(rng.integers(20, 60))
            outline = np.repeat(rng.uniform(0.01, rng.uniform(0.08, 0.3), count), -(-width // count))[:width]
            body = np.repeat(rng.uniform(0.2, 0.9, count), -(-width // count))[:width][None, :, None]
            body = body * (0.6 + 0.4 * noise(rng, (40, 120), SKY, 2)[..., None])
            body = body * any_colour(rng, (0.0, 0.3), (0.4, 0.9))
        else:
            rough = {"trees": 6, "hills": 2}[horizon]
            outline = noise(rng, (1, {"trees": 20, "hills": 5}[horizon]), (1, width), rough)[0]
            outline = rng.uniform(0.01, 0.05) + outline * rng.uniform(0.02, 0.15)
            hue = rng.uniform(0.2, 0.36) if horizon == "trees" else rng.uniform(0.2, 0.6)
            dark = colour(hue, rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.3))
            light = colour(hue - 0.04, rng.uniform(0.1, 0.35), rng.uniform(0.3, 0.6))
            body = mix(noise(rng, (20, 60), SKY, 4), dark, light)
        haze = rng.uniform(0.0, 0.4)
        body = (1 - haze) * body + haze * low
        picture = np.where(((above >= 0) & (above < outline))[..., None], body, picture)
    return gaussian_filter(picture, (rng.uniform(0.3, 1.2),) * 2 + (0,), mode=("nearest", "wrap", "nearest")).astype(
        np.float32
    )
