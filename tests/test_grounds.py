"""Synthetic grounds: drawn, not photographed; the same for a seed, different between seeds; each kind is what it says."""

from __future__ import annotations

import numpy as np
import pytest
from test_mini import needs_mini

from asg.config import make_config
from asg.data import grounds, read_domains
from asg_book.profiles import PROFILES


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", grounds.KINDS)
@pytest.mark.parametrize("size", [32, 65])
def test_a_kind_gives_colours_that_a_seed_decides(kind: str, size: int):
    draw = grounds.KINDS[kind]
    pictures = [draw(size, rng(seed)) for seed in (0, 1, 0)]
    assert pictures[0].shape == (size, size, 3) and pictures[0].min() >= 0 and pictures[0].max() <= 255
    np.testing.assert_array_equal(pictures[0], pictures[2])
    assert not np.array_equal(pictures[0], pictures[1])


def test_grounds_are_of_every_kind():
    """With as many draws none is missing (chance of a miss: 5 · .8⁶⁰ < 1e-5)."""
    draws = [int(rng(seed).integers(len(grounds.KINDS))) for seed in range(60)]
    assert set(draws) == set(range(len(grounds.KINDS)))
    textures = np.stack([np.asarray(grounds.textured(32, rng(seed))) for seed in range(60)])
    assert textures.dtype == np.uint8 and len(np.unique(textures.reshape(60, -1), axis=0)) == 60


def test_a_gradient_goes_from_one_colour_to_another_without_a_step():
    picture = grounds.gradient(64, rng(3))
    steps = [np.abs(np.diff(picture, axis=axis)).max() for axis in (0, 1)]
    assert 0 < max(steps) < np.ptp(picture, axis=(0, 1)).max() / 8


def test_noise_falls_with_frequency():
    """Over many draws, whose exponent is between 0 and 2, low frequencies hold more than high ones."""
    power = np.mean([np.abs(np.fft.fft2(grounds.noise(64, rng(s)).mean(2))) ** 2 for s in range(40)], axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    low, high = (frequency > 0) & (frequency < 0.1), frequency > 0.3
    assert power[low].mean() > 10 * power[high].mean()


def test_a_cell_has_one_hue():
    """Pixels with the same nearest point differ by a shade alone."""
    draws = rng(1)
    points = draws.uniform(0, 48, (int(draws.integers(10, 400)), 2))
    pixels = np.stack(np.meshgrid(range(48), range(48), indexing="ij"), -1).reshape(-1, 2)  # (H * W, 2)
    nearest = np.linalg.norm(pixels[:, None] - points, axis=-1).argmin(1)
    picture = grounds.cells(48, rng(1)).reshape(-1, 3)
    hue = picture / picture.sum(1, keepdims=True).clip(1)
    assert max(np.ptp(hue[nearest == cell], axis=0).max() for cell in set(nearest)) < 0.01


@needs_mini
def test_a_benchmark_stands_on_them():
    config = make_config(PROFILES["mini"], {"rendering": {"ground": "textures"}, "size": 48})
    grey = make_config(PROFILES["mini"], {"size": 48})
    textured, plain = read_domains(config), read_domains(grey)
    assert not np.array_equal(textured.source.decode(0), plain.source.decode(0))
    assert textured.source.fingerprint != plain.source.fingerprint
    np.testing.assert_array_equal(textured.target.decode(0), plain.target.decode(0))  # photographs stay
