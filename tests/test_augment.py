"""PASTA and RandAugment: what they change, what they keep, and that the teacher sees what the student sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from asg import AsgError
from asg.config import Augment, RunConfig, make_config
from asg.data import load_domains
from asg.data.augment import make_change, opposite, pasta
from asg.losses import proxy_guidance
from asg.models import build
from asg.run import run
from asg.trainers import classification, frozen
from asg.trainers.devices import make_accelerator
from asg_book.profiles import PROFILES

CPU = torch.device("cpu")


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Middle tones with some noise, so that small changes are not clipped."""
    return np.random.default_rng(seed).integers(110, 146, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(16, 16), (15, 22), (9, 7)])
def test_without_variance_pasta_is_the_identity(shape):
    image = picture(*shape)
    assert np.array_equal(pasta(image, 0.0, 2.0, 0.0, np.random.default_rng(0)), image)


@pytest.mark.parametrize("shape", [(32, 32), (31, 24)])
def test_pasta_keeps_every_phase_that_rounding_can_show(shape):
    image = picture(*shape)
    changed = pasta(image, 0.0, 2.0, 0.2, np.random.default_rng(1))
    before, after = (np.fft.fft2(x / 255, axes=(0, 1)) for x in (image, changed))
    large = (np.abs(before) > 0.3) & (np.abs(after) > 0.3)  # others are lost in the rounding to 256 tones
    assert large.mean() > 0.5
    turned = np.angle(after[large] / before[large])
    assert np.abs(turned).max() < 0.3


def test_the_spread_of_amplitudes_follows_the_formula():
    """Over many draws of one image; σ grows from β at frequency 0 to α^k + β at the corner."""
    image, alpha, k, beta = picture(12, 12), 0.3, 2.0, 0.05
    before = np.abs(np.fft.fft2(image / 255, axes=(0, 1)))
    ratios = []
    for seed in range(3000):
        changed = pasta_unrounded(image, alpha, k, beta, np.random.default_rng(seed))
        ratios.append(np.abs(np.fft.fft2(changed, axes=(0, 1))) / before)
    spread = np.std(ratios, axis=0).mean(2)  # (H, W)
    side = np.minimum(np.arange(12), 12 - np.arange(12))
    distance = np.hypot(side[:, None], side[None, :])
    expected = (alpha * distance / distance.max()) ** k + beta
    assert np.allclose(spread, expected, rtol=0.06)


def pasta_unrounded(image: np.ndarray, alpha: float, k: float, beta: float, rng: np.random.Generator) -> np.ndarray:
    """The same by hand, frequency by frequency, with factors that are shared by opposite frequencies."""
    height, width, _ = image.shape
    furthest = np.hypot(height // 2, width // 2)
    draws = rng.standard_normal(image.shape)
    spectrum = np.fft.fft2(image / 255, axes=(0, 1))
    for u in range(height):
        for v in range(width):
            across, down = (-u) % height, (-v) % width
            distance = np.hypot(min(u, height - u), min(v, width - v))
            sigma = (alpha * distance / furthest) ** k + beta
            which = min((u, v), (across, down))
            spectrum[u, v] *= np.abs(1 + sigma * draws[which])
    return np.fft.ifft2(spectrum, axes=(0, 1)).real


def test_pasta_is_what_is_computed_frequency_by_frequency():
    image = picture(10, 13)
    changed = pasta(image, 0.5, 1.0, 0.1, np.random.default_rng(3))
    by_hand = pasta_unrounded(image, 0.5, 1.0, 0.1, np.random.default_rng(3))
    assert np.array_equal(changed, (by_hand.clip(0, 1) * 255).round().astype(np.uint8))


def test_opposite_finds_the_negative_frequency():
    x = np.arange(5)[:, None] * 10 + np.arange(4)[None, :]
    opposites = opposite(x)
    assert all(opposites[u, v] == x[-u % 5, -v % 4] for u in range(5) for v in range(4))


@pytest.mark.parametrize("kind", ["pasta", "randaugment"])
def test_a_change_depends_on_seed_draw_and_index_alone(kind):
    image, changes = picture(24, 24), [make_change(Augment(kind=kind), seed) for seed in (0, 0, 1)]
    before = torch.get_rng_state()
    results = {(d, i): changes[0](image, d, i) for d in range(4) for i in range(4)}
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    torch.manual_seed(99)
    assert all(np.array_equal(changes[1](image, *key), results[key]) for key in reversed(list(results)))
    assert len({x.tobytes() for x in results.values()}) > 8
    assert any(not np.array_equal(changes[2](image, *key), x) for key, x in results.items())
    assert all(x.shape == image.shape and x.dtype == np.uint8 for x in results.values())


def test_teacher_and_penalty_see_the_changed_image(workplace):
    config = toy(guidance=0.1, regulariser={"kind": "features", "strength": 1.0}, augment={"kind": "pasta"})
    task = classification.prepare(config, make_accelerator(config, "cpu"))
    untouched = build(config, 3)
    indices = torch.tensor([3, 9, 4])
    x = torch.stack([task.images[int(i), 7][1] for i in indices])
    assert not torch.equal(x, task.images.batch(indices))
    losses = task.objective(task.network, indices, x, task.images.labels[indices])
    assert losses["guidance"].item() == pytest.approx(0.0, abs=1e-9)  # the student is still the teacher
    assert losses["penalty"].item() == 0.0
    with torch.no_grad():
        for parameter in task.network.backbone.parameters():
            parameter.mul_(1.05)
        logits, features = task.network(x)[1:]
        expected = proxy_guidance(logits, untouched.imagenet_logits(x).log_softmax(1))
        distance = (features - untouched.features(x)).square().sum(1).mean()
    losses = task.objective(task.network, indices, x, task.images.labels[indices])
    assert losses["guidance"].item() == pytest.approx(float(expected), rel=1e-5)
    assert losses["penalty"].item() == pytest.approx(float(distance), rel=1e-4)


def test_where_nothing_changes_live_and_kept_answers_agree(workplace):
    student, source = build(toy(), 3), load_domains(toy()).source
    same = replace(source, augmentation=lambda image, draw, index: image)
    indices = torch.arange(5)
    x = source.batch(indices)
    for of_batch in (frozen.batch_answers, frozen.batch_features):
        cached, live = (of_batch(student, images, CPU)(indices, x) for images in (source, same))
        torch.testing.assert_close(live, cached, rtol=1e-5, atol=1e-6)


def test_augmentation_changes_the_training_and_not_what_is_measured(workplace):
    plain, pasted, other = (
        run(toy(**overrides))
        for overrides in ({}, {"augment": {"kind": "pasta"}}, {"augment": {"kind": "randaugment"}})
    )
    assert plain["evaluations"][0] == pasted["evaluations"][0] == other["evaluations"][0]
    assert len({r["final"]["validation_loss"] for r in (plain, pasted, other)}) == 3


def test_a_frozen_backbone_sees_changed_images_too(workplace):
    plain, pasted = (
        run(toy(backbone_factor=0.0, **overrides)) for overrides in ({}, {"augment": {"kind": "pasta", "beta": 1.0}})
    )
    assert pasted["final"]["agreement"] == 1.0 and pasted["first_losses"] != plain["first_losses"]


def test_scenes_take_no_augmentation_of_whole_images(workplace):
    with pytest.raises(AsgError, match="leave it out for scenes"):
        run(toy(data="toy-scenes", batch=4, augment={"kind": "pasta"}))
