"""Segmentation sets: what an index gives, and that mirror, scale and crop move image and labels together."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader

from asg.data.images import UNLABELLED, Draws, StepSampler
from asg.data.segmentation import PADDING, Augmentation, SegmentationDomains, SegmentationSet, nearest

HEIGHT, WIDTH = 22, 30  # no pixel of a scaled image lies half-way between two, where nearest is a matter of taste


def coordinates(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel says where it is: red 12 y, green 8 x, blue the index; the label is red over 12."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return np.stack([12 * y, 8 * x, np.full_like(y, index)], 2), y.astype(np.int16)


def noise(index: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(index)
    labels = rng.integers(0, 19, (HEIGHT, WIDTH), dtype=np.int16)
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), labels


def a_set(decode=coordinates, augmentation: Augmentation | None = None, count: int = 5) -> SegmentationSet:
    names = tuple(f"pair {i}" for i in range(count))
    return SegmentationSet(decode, tuple(map(str, range(HEIGHT))), names, "0123456789ab", augmentation)


# --- what an index gives ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [3, (3, 7)], ids=["an index", "a draw of a set that is not augmented"])
def test_a_pair_is_given_whole(key):
    pairs = a_set()
    index, image, labels = pairs[key]
    assert (len(pairs), index) == (5, 3)
    assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), torch.uint8)
    assert (labels.shape, labels.dtype) == ((HEIGHT, WIDTH), torch.int64)
    assert image[:, 5, 11].tolist() == [60, 88, 3] and labels[5, 11] == 5


def test_an_index_of_an_augmented_set_is_whole_too():
    assert torch.equal(a_set(augmentation=Augmentation(crop=8))[3][1], a_set()[3][1])


def test_tensors_do_not_share_memory_with_what_was_decoded():
    decoded = coordinates(0)
    _, image, labels = a_set(lambda _: decoded)[0]
    image.zero_(), labels.zero_()
    assert decoded[0].max() > 0 and decoded[1].max() > 0


def test_domains_have_another_fingerprint_when_a_set_has():
    sets = {name: replace(a_set(), fingerprint=name) for name in ("source", "validation", "target")}
    domains = SegmentationDomains(**sets)
    assert SegmentationDomains(**sets).fingerprint == domains.fingerprint
    others = [replace(domains, **{name: replace(sets[name], fingerprint="other")}).fingerprint for name in sets]
    assert len({domains.fingerprint, *others}) == 4
    augmented = replace(domains, source=replace(sets["source"], augmentation=Augmentation(seed=3)))
    assert augmented.fingerprint == domains.fingerprint, "runs that differ in their seed share their data"


# --- mirror, scale, crop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", range(30))
def test_at_scale_one_a_draw_is_a_window_of_the_image_or_of_its_mirror_image(draw):
    _, image, labels = a_set(augmentation=Augmentation((1.0,), 9))[2, draw]
    y, x = image[0] // 12, image[1] // 8
    assert image.shape == (3, 9, 9) and torch.equal(y.long(), labels)
    assert (y[1:] - y[:-1] == 1).all(), "rows run downwards"
    steps = x[:, 1:].int() - x[:, :-1].int()
    assert (steps == 1).all() or (steps == -1).all()
    assert (image[2] == 2).all()


def scaled(image: np.ndarray, labels: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Computed by torch: bilinear with antialiasing, and nearest."""
    size = (round(scale * HEIGHT), round(scale * WIDTH))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    ids = F.interpolate(torch.from_numpy(labels.copy())[None, None].float(), size, mode="nearest-exact")[0, 0]
    return pixels.numpy(), ids.numpy()


def windows(image: np.ndarray, labels: np.ndarray, crop: int, scales: tuple[float, ...]) -> dict[tuple, tuple]:
    """Every (mirror, scale, top, left) → image and labels in that window."""
    by_window = {}
    for mirror in (False, True):
        for scale in scales:
            pair = (image[:, ::-1], labels[:, ::-1]) if mirror else (image, labels)
            pixels, ids = scaled(*pair, scale)
            for top in range(len(ids) - crop + 1):
                for left in range(len(ids[0]) - crop + 1):
                    window = np.s_[top : top + crop, left : left + crop]
                    by_window[mirror, scale, top, left] = (pixels[window], ids[window])
    return by_window


def test_every_draw_is_one_window_of_the_scaled_pair_and_all_kinds_of_windows_occur():
    augmentation, draws = Augmentation((0.75, 1.0, 1.25), 12, seed=4), 300
    pairs, possible = a_set(noise, augmentation), windows(*noise(1), 12, augmentation.scales)
    drawn = []
    for draw in range(draws):
        _, image, labels = pairs[1, draw]
        fits = [key for key, (_, ids) in possible.items() if np.array_equal(ids, labels.numpy())]
        assert len(fits) == 1, "the labels are noise, so that one window has them"
        assert np.abs(possible[fits[0]][0] - image.permute(1, 2, 0).numpy()).max() <= 1.01  # Pillow rounds twice
        drawn.append(fits[0])
    mirrored, scales = Counter(d[0] for d in drawn), Counter(d[1] for d in drawn)
    assert abs(mirrored[True] - draws / 2) < 4 * (draws / 4) ** 0.5
    assert all(abs(scales[s] - draws / 3) < 4 * (draws * 2 / 9) ** 0.5 for s in augmentation.scales)
    for scale in augmentation.scales:
        lefts = {d[3] for d in drawn if d[1] == scale}
        assert {0, round(scale * WIDTH) - 12} <= lefts, "windows reach both edges"
    tops = {d[2] for d in drawn if d[1] == 0.75}
    assert tops == {0, 1, 2, 3, 4}


def test_beyond_a_small_image_labels_are_ignored_and_pixels_grey():
    pairs = a_set(augmentation=Augmentation((0.75,), 24))
    for draw in range(10):
        _, image, labels = pairs[0, draw]
        assert image.shape == (3, 24, 24)
        assert (labels[:16, :22] < HEIGHT).all(), "0.75 · 22 × 0.75 · 30 pixels are the image"
        assert (labels[16:] == UNLABELLED).all() and (labels[:, 22:] == UNLABELLED).all()
        assert (image[:, 16:] == PADDING).all() and (image[:, :, 22:] == PADDING).all()


def test_one_side_may_be_smaller_than_the_crop():
    _, image, labels = a_set(augmentation=Augmentation((1.0,), 24))[0, 0]
    assert (labels[HEIGHT:] == UNLABELLED).all() and torch.equal(labels[:HEIGHT], (image[0, :HEIGHT] // 12).long())


def test_labels_of_300_classes_are_mirrored_scaled_cropped_and_padded_as_they_are():
    """The same draws of the same map, whose labels are higher by 250: each is higher by 250, what lies beyond is not."""
    high = lambda i: (noise(i)[0], noise(i)[1] + np.int16(250))  # noqa: E731
    augmentation = Augmentation((0.75, 1.0, 1.25), 30)
    for draw in range(10):
        below, above = (a_set(decode, augmentation)[1, draw][2] for decode in (noise, high))
        assert torch.equal(above, torch.where(below == UNLABELLED, UNLABELLED, below + 250))
        assert {255, UNLABELLED} <= set(above.unique().tolist())


def test_labels_of_another_size_are_the_nearest_of_any_sign():
    labels = np.array([[UNLABELLED, 255], [299, 0]], np.int16)
    larger = nearest(labels, (6, 4))
    assert larger.dtype == np.int16 and np.array_equal(larger, labels.repeat(2, 0).repeat(3, 1))
    assert np.array_equal(nearest(larger, (2, 2)), labels)


def test_a_draw_depends_on_seed_draw_and_index_alone():
    augmentation = Augmentation((0.75, 1.0, 1.25), 12, seed=1)
    alike = lambda _: noise(0)  # noqa: E731
    pairs = a_set(alike, augmentation)
    first = [[pairs[i, draw][1] for draw in range(8)] for i in range(5)]
    again = a_set(alike, augmentation)
    for i in reversed(range(5)):
        for draw in reversed(range(8)):
            assert torch.equal(again[i, draw][1], first[i][draw])
    other = a_set(alike, replace(augmentation, seed=2))
    assert any(not torch.equal(first[0][d], first[1][d]) for d in range(8)), "indices"
    assert any(not torch.equal(first[0][0], first[0][d]) for d in range(1, 8)), "draws"
    assert any(not torch.equal(first[0][d], other[0, d][1]) for d in range(8)), "seeds"


def test_the_papers_settings_are_the_defaults():
    assert (Augmentation().scales, Augmentation().crop) == ((0.75, 1.0, 1.25), 512)


# --- draws of a run -----------------------------------------------------------------------------------------------


def test_a_batch_has_the_usual_images_each_with_its_step():
    batches = list(Draws(10, 3, 5, 0, 8))
    assert len(batches) == len(Draws(10, 3, 5, 0, 8)) == 8
    assert [[index for index, _ in batch] for batch in batches] == list(StepSampler(10, 3, 5, 0, 8))
    assert [[draw for _, draw in batch] for batch in batches] == [[step] * 3 for step in range(8)]


def test_a_resumed_run_sees_the_same_crops():
    pairs = a_set(noise, Augmentation(crop=12, seed=9), count=10)
    uninterrupted = list(DataLoader(pairs, batch_sampler=Draws(10, 3, 5, 0, 8)))
    resumed = list(DataLoader(pairs, batch_sampler=Draws(10, 3, 5, 5, 8)))
    assert len(resumed) == 3
    for (i, x, y), (j, u, v) in zip(uninterrupted[5:], resumed, strict=True):
        assert torch.equal(i, j) and torch.equal(x, u) and torch.equal(y, v)
    assert (x.shape, y.shape, y.dtype) == ((3, 3, 12, 12), (3, 12, 12), torch.int64)


def test_batches_can_be_split_over_devices():
    shards = [
        list(BatchSamplerShard(Draws(10, 4, 5, 0, 3), num_processes=2, process_index=i, split_batches=True))
        for i in range(2)
    ]
    assert [a + b for a, b in zip(*shards, strict=True)] == list(Draws(10, 4, 5, 0, 3))
