"""Removes the grain that few paths a pixel leave: an edge-avoiding à-trous wavelet filter (Dammertz et al. 2010).

Light is divided by the surface's colour, averaged over neighbours of like colour, normal, depth and brightness at
growing distances, and multiplied again, so that patterns and edges stay sharp. Mitsuba's own denoiser needs a
graphics card.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter

STEPS = (1, 2, 4, 8)  # pixels between the 3 × 3 neighbours
ALIKE = {"normal": 0.35, "albedo": 0.12, "depth": 0.05, "light": 0.3}  # differences that reduce a weight to 1/e
DARKEST = 0.04  # colour below which light is not divided further
BRIGHTEST = 4.0  # a pixel's light as a multiple of its surroundings': a lone bright path is cut to this


def denoise(light: np.ndarray, albedo: np.ndarray, normal: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """``light`` without its grain; all ``(H, W, 3)`` but ``depth`` ``(H, W)``, which is 0 where the sky is seen."""
    surface = np.where(depth[..., None] > 0, np.maximum(albedo, DARKEST), 1).astype(np.float32)
    received = (light / surface).astype(np.float32)
    around = (9 * uniform_filter(received, (3, 3, 0)) - received) / 8
    received = np.minimum(received, BRIGHTEST * around + 0.05)
    nearness = np.where(depth > 0, np.log(np.maximum(depth, 1e-6)), 9)[..., None]
    guides = (normal / ALIKE["normal"], albedo / ALIKE["albedo"], nearness / ALIKE["depth"])
    fixed = np.concatenate(guides, axis=2).astype(np.float32)  # (H, W, 7)
    height, width = depth.shape
    for step in STEPS:
        bright = np.log(uniform_filter(received.mean(2), 3) + 0.01)[..., None] / ALIKE["light"]
        values = np.concatenate((received, fixed, bright), axis=2)  # (H, W, 11)
        padded = np.pad(values, ((step, step), (step, step), (0, 0)), mode="edge")
        total, weights = np.zeros_like(received), np.zeros((height, width, 1), np.float32)
        for i, j in np.ndindex(3, 3):
            neighbour = padded[i * step : i * step + height, j * step : j * step + width]
            difference = neighbour[..., 3:] - values[..., 3:]
            weight = (2 - abs(i - 1)) * (2 - abs(j - 1)) * np.exp(-np.einsum("hwc,hwc->hw", difference, difference))
            total += weight[..., None] * neighbour[..., :3]
            weights += weight[..., None]
        received = total / weights
    return received * surface
