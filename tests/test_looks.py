"""Synthetic images with less in them: what is left, what stays, and that nothing kept of the whole ones is served."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from asg import AsgError
from asg.config import Synthetic, make_config
from asg.data import load_domains, read_domains
from asg.data.images import ImageSet
from asg.data.looks import LOOKS, fewer, mixed_looks, with_detail, with_look
from asg.data.segmentation import SegmentationSet
from asg.recipes import recipe_of
from asg_book.profiles import PROFILES


def images(*pictures: np.ndarray) -> ImageSet:
    return ImageSet(pictures.__getitem__, torch.zeros(len(pictures), dtype=torch.long), ("a",), ("x",), "f")


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)


def test_grey_is_the_luma_of_bt_601(noise: np.ndarray):
    seen = with_look(images(noise), "grey").decode(0).astype(float)
    assert np.abs(seen - (noise @ np.array([0.299, 0.587, 0.114]))[..., None]).max() <= 1


def test_a_scene_keeps_its_labels_under_a_look(noise: np.ndarray):
    labels = np.arange(48 * 48, dtype=np.int16).reshape(48, 48)
    scenes = SegmentationSet(lambda i: (noise, labels), ("a",), ("x",), "f")
    image, unchanged = with_look(scenes, "grey").decode(0)
    np.testing.assert_array_equal(image, with_look(images(noise), "grey").decode(0))
    assert unchanged is labels and with_look(scenes, "grey").fingerprint != scenes.fingerprint


def test_posterised_keeps_two_levels_a_channel(noise: np.ndarray):
    seen = with_look(images(noise), "posterised").decode(0)
    np.testing.assert_array_equal(seen, np.where(noise < 128, 0, 128))


def test_blur_spreads_a_point_by_the_side_over_48():
    point = np.zeros((96, 96, 3), dtype=np.uint8)
    point[48, 48] = 255
    point[40:57, 40:57] = 255  # a patch: a single point would be lost in rounding
    seen = with_look(images(point), "blurred").decode(0)[..., 0].astype(float)
    row = seen.sum(0)
    mean = (row * np.arange(96)).sum() / row.sum()
    variance = (row * (np.arange(96) - mean) ** 2).sum() / row.sum()
    assert variance == pytest.approx((17**2 - 1) / 12 + (96 / 48) ** 2, rel=0.05)  # variances add up


def test_edges_are_dark_on_white_and_plain_areas_empty():
    half = np.zeros((48, 48, 3), dtype=np.uint8)
    half[:, 24:] = 200
    seen = with_look(images(half), "edges").decode(0)
    inside = seen[1:-1, 1:-1, 0]
    assert (inside[:, 22:24] < 255).any() and (inside[:, :20] == 255).all() and (inside[:, 28:] == 255).all()


def test_detail_is_what_so_many_pixels_can_show(noise: np.ndarray):
    seen = with_detail(images(noise), 8).decode(0)
    assert seen.shape == noise.shape
    spectrum = np.abs(np.fft.fft2(seen[..., 0] - seen[..., 0].mean()))
    assert spectrum[8:41, 8:41].max() < 0.1 * spectrum.max()  # little above the frequencies of 8 pixels a side


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_pixels_and_their_fingerprint_alone(noise: np.ndarray, look: str):
    original = images(noise)
    seen = with_look(original, look)
    assert seen.decode(0).shape == noise.shape and seen.decode(0).dtype == np.uint8
    assert not np.array_equal(seen.decode(0), noise)
    assert seen.fingerprint != original.fingerprint and seen.labels is original.labels and seen.names == original.names


def test_mixed_looks_take_turns(noise: np.ndarray):
    original = images(*[noise] * 7)
    seen = [mixed_looks(original).decode(i) for i in range(7)]
    expected = [noise, *(with_look(original, look).decode(0) for look in LOOKS)]
    for i, picture in enumerate(seen):
        np.testing.assert_array_equal(picture, expected[i % len(expected)])


def test_fewer_images_are_evenly_spaced_and_small_classes_whole():
    labels = torch.tensor([0] * 6 + [1] * 2 + [2] * 9)
    assert fewer(labels, 3) == [0, 2, 4, 6, 7, 8, 11, 14]
    assert fewer(labels, 100) == list(range(17))


def test_a_run_reads_what_it_asked_for_and_the_photographs_stay():
    config = make_config(PROFILES["toy"])
    less = make_config(PROFILES["toy"], {"synthetic": {"per_class": 3, "look": "grey", "detail": 8}})
    original, domains = load_domains(config), load_domains(less)
    assert torch.bincount(domains.source.labels).tolist() == [3] * len(domains.source.classes)
    assert len(domains.validation) == len(original.validation)
    grey = domains.validation.batch([0])
    assert (grey[:, 0] == grey[:, 1]).all() and not torch.equal(grey, original.validation.batch([0]))
    assert torch.equal(domains.target.batch([0]), original.target.batch([0]))
    assert domains.target.fingerprint == original.target.fingerprint
    assert {domains.source.fingerprint, domains.validation.fingerprint}.isdisjoint(
        {original.source.fingerprint, original.validation.fingerprint}
    )
    assert recipe_of(less) == recipe_of(config) | {"looks": 1} and less.identity() != config.identity()


def test_a_configuration_without_it_is_the_one_it_was():
    assert make_config(PROFILES["toy"]).identity() == make_config(PROFILES["toy"], {"synthetic": None}).identity()
    assert Synthetic() == Synthetic(per_class=None, look=None, detail=None)


def test_scenes_refuse_it():
    with pytest.raises(AsgError, match="leave it out for scenes"):
        read_domains(make_config(PROFILES["toy"], {"data": "toy-scenes", "synthetic": {"look": "grey"}}))
