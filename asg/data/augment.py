"""Random changes of synthetic images, drawn anew in every step: PASTA and RandAugment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torchvision.transforms import v2

from asg.config import Augment

Change = Callable[[np.ndarray, int, int], np.ndarray]  # of an image (H, W, 3), its draw and its index


def pasta(image: np.ndarray, alpha: float, k: float, beta: float, rng: np.random.Generator) -> np.ndarray:
    r"""An image ``(H, W, 3)`` whose spectrum has other amplitudes and the same phases (Chattopadhyay et al. 2023).

    .. math:: A(f) \leftarrow A(f)\,|\epsilon(f)|, \qquad \epsilon(f) \sim \mathcal N(1, \sigma^2(f)), \qquad
              \sigma(f) = (\alpha\,|f| / f_{\max})^k + \beta

    drawn for every channel and frequency, :math:`|f|` the distance from frequency zero; clipped to [0, 1]. Opposite
    frequencies share their factor, and a negative one counts as positive: phases stay (departure 38).
    """
    height, width, _ = image.shape
    y, x = (np.fft.fftfreq(side, 1 / side) for side in (height, width))
    distance = np.hypot(y[:, None], x[None, :])  # (H, W)
    sigma = (alpha * distance / distance.max()) ** k + beta
    factors = np.abs(1 + sigma[:, :, None] * rng.standard_normal(image.shape))  # (H, W, 3)
    place = np.arange(height * width).reshape(height, width)
    first = place <= opposite(place)
    factors = np.where(first[:, :, None], factors, opposite(factors))
    changed = np.fft.ifft2(np.fft.fft2(image / 255, axes=(0, 1)) * factors, axes=(0, 1)).real
    return (changed.clip(0, 1) * 255).round().astype(np.uint8)


def opposite(spectrum: np.ndarray) -> np.ndarray:
    """``(H, W, …)`` with the value of frequency −f at f."""
    return np.roll(spectrum[::-1, ::-1], 1, axis=(0, 1))


def make_change(augment: Augment, seed: int) -> Change:
    """The change of an image from (seed, draw, index) alone, whoever makes it and in whatever order."""
    if augment.kind == "pasta":
        return partial(changed_by_pasta, augment, seed)
    return partial(changed_by_randaugment, v2.RandAugment(augment.operations, augment.magnitude), seed)


def changed_by_pasta(augment: Augment, seed: int, image: np.ndarray, draw: int, index: int) -> np.ndarray:
    """:func:`pasta` of one draw of an image."""
    return pasta(image, augment.alpha, augment.k, augment.beta, np.random.default_rng((seed, draw, index)))


def changed_by_randaugment(
    operations: v2.RandAugment, seed: int, image: np.ndarray, draw: int, index: int
) -> np.ndarray:
    """Cubuk et al. 2020, as torchvision has it, whose draws from torch's global generator are fenced in here."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(int(np.random.default_rng((seed, draw, index)).integers(2**63)))
        changed = operations(torch.from_numpy(np.array(image)).permute(2, 0, 1))  # (3, H, W)
    return changed.permute(1, 2, 0).numpy()
