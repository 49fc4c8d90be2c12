"""Evaluation and pseudo-labelling in batches: the numbers of one image at a time, each image decoded once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from asg.config import make_config
from asg.data import read_domains
from asg.data.images import same_size
from asg.data.segmentation import SegmentationSet
from asg.dense_losses import segmentation_loss
from asg.dense_metrics import confusion_matrix
from asg.dense_models import predict
from asg.pseudo_labels import ConfidenceHistograms
from asg.trainers import segmentation, self_training
from asg_book.profiles import PROFILES

CPU = torch.device("cpu")
CONFIG = make_config(PROFILES["toy"], {"data": "toy-scenes", "batch": 4})
SIDES = [(32, 32), (32, 32), (32, 64), (32, 32), (64, 64), (64, 64), (64, 64), (96, 40), (32, 32), (32, 32)]


@pytest.fixture
def network() -> torch.nn.Module:
    """A student whose every pixel has its own answer."""
    network = segmentation.build(CONFIG, 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.task_head.parameters():
            parameter.normal_(generator=generator)
    return network


@pytest.fixture
def scenes() -> tuple[SegmentationSet, list[int]]:
    """Scenes of the sizes ``SIDES``, and the list of those that were decoded so far."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*side, 3), dtype=np.uint8) for side in SIDES]
    labels = [rng.integers(0, 4, side).astype(np.uint8) for side in SIDES]
    decoded: list[int] = []

    def decode(i: int) -> tuple[np.ndarray, np.ndarray]:
        decoded.append(i)
        return pictures[i], labels[i]

    some = read_domains(CONFIG).target
    return replace(some, decode=decode, names=tuple(map(str, range(len(SIDES))))), decoded


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_neighbours_of_one_size_within_the_pixels(scenes, workers: int):
    images, _ = scenes
    batches = list(same_size(images, range(10), workers, 2 * 64 * 64))
    assert [indices for indices, _, _ in batches] == [[0, 1], [2], [3], [4, 5], [6], [7], [8, 9]]
    for indices, x, labels in batches:
        for k, i in enumerate(indices):
            assert torch.equal(x[k], images[i][1]) and torch.equal(labels[k], images[i][2])
    assert [indices for indices, _, _ in same_size(images, [9, 0, 5], workers, 1)] == [[9], [0], [5]]
    assert not list(same_size(images, [], workers, 1))


@pytest.mark.parametrize("pixels", [1, 3 * 32 * 32, 2**18])
@pytest.mark.parametrize("window", [(1024, 2048), (64, 48)], ids=["whole", "windows"])
def test_an_evaluation_is_that_of_one_image_at_a_time(network, scenes, monkeypatch, pixels: int, window):
    images, decoded = scenes
    monkeypatch.setattr(segmentation, "PIXELS", pixels)
    monkeypatch.setattr(segmentation, "WINDOW", window)
    monkeypatch.setattr(segmentation, "OVERLAP", 16)
    calls = []
    next(network.backbone.children()).register_forward_hook(lambda *_: calls.append(None))
    confusion, losses, imagenet = segmentation.evaluated(network, images, CPU)
    assert sorted(decoded) == list(range(10))
    if window == (1024, 2048):
        assert len(calls) == sum(1 for _ in same_size(images, range(10), 0, pixels))

    expected = torch.zeros(4, 4, dtype=torch.long)
    for i in range(10):  # as it was before there were batches
        _, image, labels = images[i]
        with torch.inference_mode():
            logits = predict(network, image, window, 16)[None]
            answer = network.imagenet_logits(image[None])[0]
        assert float(losses[i]) == pytest.approx(float(segmentation_loss(logits, labels[None])), rel=1e-5)
        torch.testing.assert_close(imagenet[i], answer, rtol=1e-4, atol=1e-4)
        expected += confusion_matrix(logits.argmax(1)[0], labels, 4)
    assert int((confusion - expected).abs().sum()) <= 4  # two pixels at most that are undecided in the last bits
    assert confusion.sum() == sum(h * w for h, w in SIDES)


def test_the_teachers_answers_are_those_of_one_image_at_a_time(network, scenes):
    images, decoded = scenes
    answers = segmentation.imagenet_answers(network, images, 2, CPU)
    assert sorted(decoded) == list(range(10))
    with torch.inference_mode():
        expected = [network.imagenet_logits(images[i][1][None], 2).log_softmax(1) for i in range(10)]
    torch.testing.assert_close(answers, torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_thresholds_and_labels_are_those_of_one_image_at_a_time(network, scenes, alpha: float):
    images, decoded = scenes
    thresholds = self_training.survey(network, images, 4, 0.3, CPU)
    seen = ConfidenceHistograms(4)
    with torch.no_grad():
        for i in range(10):
            seen.add(*network(images[i][1][None])[0].softmax(1).max(1))
    torch.testing.assert_close(thresholds, seen.thresholds(0.3).float(), rtol=1e-5, atol=1e-5)

    labeller = self_training.Labeller(network, thresholds, alpha)
    decoded.clear()
    chosen, quality = self_training.label(labeller, images, 4, CPU)
    assert sorted(decoded) == list(range(10))
    ones = [self_training.label(labeller, replace(images, decode=lambda _, i=i: images.decode(i), names=("one",)), 4, CPU)
            for i in range(10)]  # fmt: skip
    assert chosen == tuple(i for i, (some, _) in enumerate(ones) if some)
    differences = sum(torch.tensor(one["selection"]) for _, one in ones) - torch.tensor(quality["selection"])
    assert int(differences.abs().sum()) <= 4
    assert np.abs(np.sum([one["labelled"] for _, one in ones], 0) - quality["labelled"]).sum() <= 2
    total = sum(one["sure"] * sum(one["labelled"]) for _, one in ones)
    assert quality["sure"] == pytest.approx(total / sum(quality["labelled"]), rel=1e-4)
    assert quality["pseudo"] == []
