"""Scenes of several objects: the labels are where the objects are seen, and every scene has its own random stream."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from asg import AsgError
from asg.config import Rendering
from asg.data import data_root, mini, scenes
from asg.data.images import fingerprint_of

SIZE = 64
CLASSES = sorted(mini.imagenet_classes())
# Class of mini → label of the group that it belongs to.
GROUP = {name: label for label, names in enumerate(scenes.GROUPS.values(), 1) for name in names}
LEVELS = {"train": 200, "validation": 150, "test": 100}  # brightness that tells the splits apart
DATA = data_root() / "mini"
needs_mini = pytest.mark.skipif(
    not DATA.is_dir() and not os.environ.get("CI"),
    reason=f"the benchmark's images are not at {DATA}: run `python data_scripts/mini.py`",
)


def colour_of(label: int, level: int = 200) -> tuple[int, int, int]:
    """On a circle, so that no class's colour is a mixture of others and soft edges are not taken for one."""
    return round(120 + 120 * np.cos(label * np.pi / 6)), round(120 + 120 * np.sin(label * np.pi / 6)), level


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A benchmark of two plain shapes of one colour a class and split, in the place of the real files."""
    rows = []
    for split, level in LEVELS.items():
        for label, name in enumerate(CLASSES, 1):
            for copy in range(2):
                path = f"{split}/{name}-{copy}.png"
                (tmp_path / split).mkdir(exist_ok=True)
                image = Image.new("RGBA", (60, 50 - 10 * copy))
                pen = ImageDraw.Draw(image)
                (pen.rectangle if copy else pen.ellipse)((2, 2, 57, 37), fill=(*colour_of(label, level), 255))
                image.save(tmp_path / path)
                rows.append({"domain": "real" if split == "test" else "synthetic", "split": split, "class": name,
                             "path": path, "sha256": fingerprint_of(path) * 4, "imagenet": "", "credit": ""})  # fmt: skip
    monkeypatch.setattr(mini, "index", lambda: tuple(rows))
    return tmp_path


def of_colour(image: np.ndarray, colour: tuple[int, ...]) -> np.ndarray:
    return np.abs(image.astype(int) - colour).max(2) <= 2


# --- labels -------------------------------------------------------------------------------------------------------


def test_every_class_belongs_to_one_of_five_groups_and_the_background_is_first():
    assert scenes.CLASSES == ("background", "animal", "food", "object", "plant", "vehicle")
    assert sorted(name for names in scenes.GROUPS.values() for name in names) == CLASSES


@pytest.mark.parametrize("name", ["source", "validation", "target"])
def test_a_label_is_the_class_whose_colour_the_pixel_has(drawn, name):
    """Objects have one colour a class, the ground is white, so that labels can be read off the image."""
    scene_set = getattr(scenes.load(drawn, SIZE, Rendering(ground="white", backdrop="white")), name)
    level = LEVELS[{"source": "train", "validation": "validation", "target": "test"}[name]]
    explained = 0
    for i in range(25):
        image, labels = scene_set.decode(i)
        assert (image.shape, labels.shape) == ((SIZE, SIZE, 3), (SIZE, SIZE))
        assert (image.dtype, labels.dtype) == (np.uint8, np.int16)
        plain = of_colour(image, (255, 255, 255))
        assert (labels[plain] == 0).all(), "an empty object leaves the ground as it is"
        for label, name in enumerate(CLASSES, 1):
            seen = of_colour(image, colour_of(label, level))
            assert (labels[seen] == GROUP[name]).all()
            explained += seen.sum()
        explained += plain.sum()
    assert explained > 0.85 * 25 * SIZE**2, "all but the edges is one colour"


def test_a_pixel_belongs_to_an_object_where_its_alpha_is_above_one_half():
    """Pasted in white on black, an object's pixels are its alpha."""
    ramp = Image.new("RGBA", (64, 8), "white")
    ramp.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 64).round().astype(np.uint8), (8, 1))))
    for share, position in ((1.0, (0, 0)), (0.5, (0.3, 0.9)), (0.8, (1.0, 0.5))):
        alpha = mini.paste(ramp, Image.new("RGB", (64, 64)), share, position)[..., 0]
        mask = scenes.mask_of(ramp, 64, share, position)
        assert mask.dtype == bool and np.array_equal(mask, alpha > 127.5)
        assert 0.4 < mask.sum() / (64 * share * 8 * share) < 0.6


def test_later_objects_stand_in_front(monkeypatch):
    """Two squares of one size: the second is whole, the first is what it leaves of another such square."""
    monkeypatch.setattr(scenes, "MOST", 2)
    squares = {label: Image.new("RGBA", (40, 40), colour_of(label)) for label in range(1, 13)}
    drawn_labels, overlaps = [], 0

    def draw(label: int) -> Image.Image:
        drawn_labels.append(label)
        return squares[label]

    for seed in range(40):
        drawn_labels.clear()
        ground, rng = Image.new("RGB", (SIZE, SIZE), "white"), np.random.default_rng(seed)
        image, labels = scenes.compose(ground, draw, rng, Rendering(smallest=1.0, largest=1.0))
        below, above = drawn_labels[0], drawn_labels[-1]
        if below == above:
            continue
        assert np.array_equal(labels == above, of_colour(image, colour_of(above)))
        assert np.array_equal(labels == below, of_colour(image, colour_of(below)))
        side = round(0.6 * SIZE)
        assert (labels == above).sum() == side**2
        assert side**2 / 2 <= (labels == below).sum() <= side**2
        overlaps += (labels == below).sum() < side**2
    assert overlaps > 20


def test_every_object_is_seen(drawn):
    """Each stands for a hundredth of the image and half of itself, so the labels of its class do too."""
    source, counts = scenes.load(drawn, SIZE).source, Counter()
    for i in range(150):
        _, labels = source.decode(i)
        pixels = np.bincount(labels.ravel(), minlength=6)
        present = np.flatnonzero(pixels[1:])
        assert 1 <= len(present) <= 4
        assert pixels[1:][present].min() >= 0.01 * SIZE**2
        counts[len(present)] += 1
    assert counts[2] and counts[3] and counts[4], "two to four objects, seldom of one class"


def test_an_object_may_be_half_covered_and_no_more():
    white = Image.new("RGBA", (40, 40), "white")
    drawn_labels: list[int] = []
    for seed in range(60):
        drawn_labels.clear()
        image, labels = scenes.compose(
            Image.new("RGB", (SIZE, SIZE)),
            lambda label: drawn_labels.append(label) or white,
            np.random.default_rng(seed),
            Rendering(smallest=1.0, largest=1.0),
        )
        side = round(0.6 * SIZE)
        for label, pixels in zip(*np.unique(labels[labels > 0], return_counts=True), strict=True):
            assert label in drawn_labels and pixels >= side**2 / 2
        assert np.array_equal(labels > 0, image[..., 0] == 255)


def test_groups_are_drawn_before_designs(drawn, monkeypatch):
    """Each group is drawn as often as any other, though one has ten times as many designs."""
    rows = [row for row in mini.index() if row["path"].endswith("-0.png")]
    more = [{**r, "path": "./" * k + r["path"]} for r in rows if r["class"] == "bird" for k in range(1, 10)]
    monkeypatch.setattr(mini, "index", lambda: tuple(rows + more))
    source, times = scenes.load(drawn, SIZE).source, Counter()
    for i in range(300):
        times.update(np.unique(source.decode(i)[1])[1:].tolist())
    mean = sum(times.values()) / 5
    assert set(times) == set(range(1, 6))
    assert max(abs(n - mean) for n in times.values()) < 4 * mean**0.5


def test_an_object_that_cannot_be_seen_is_an_error(drawn):
    source = scenes.load(drawn, SIZE, Rendering(smallest=0.01, largest=0.05)).source
    with pytest.raises(AsgError, match=r"No place shows \w+: change the rendering's smallest and largest"):
        source.decode(0)


# --- streams and identity -----------------------------------------------------------------------------------------


def test_a_scene_depends_on_its_seed_split_and_number_alone(drawn):
    first, second = scenes.load(drawn, SIZE), scenes.load(drawn, SIZE)
    for name in ("source", "validation", "target"):
        forward = [getattr(first, name).decode(i) for i in range(6)]
        for i in reversed(range(6)):
            image, labels = getattr(second, name).decode(i)
            assert np.array_equal(image, forward[i][0]) and np.array_equal(labels, forward[i][1])
        assert not np.array_equal(forward[0][1], forward[1][1])
    other = scenes.load(drawn, SIZE, Rendering(ground="textures", seed=124)).source.decode(0)
    assert not np.array_equal(other[1], first.source.decode(0)[1])
    assert not np.array_equal(first.source.decode(0)[1], first.validation.decode(0)[1])


def test_sizes_of_the_sets_and_what_an_index_gives(drawn):
    domains = scenes.load(drawn, SIZE)
    assert [len(s) for s in (domains.source, domains.validation, domains.target)] == [1000, 100, 150]
    index, image, labels = domains.target[149]
    assert index == 149 and image.shape == (3, SIZE, SIZE) and labels.dtype == torch.int64
    assert len({*domains.source.names, *domains.validation.names, *domains.target.names}) == 1250


def test_the_fingerprint_follows_size_rendering_and_files(drawn, monkeypatch):
    prints = {scenes.load(drawn, SIZE).fingerprint}
    assert scenes.load(drawn, SIZE).fingerprint in prints
    prints |= {scenes.load(drawn, 96).fingerprint, scenes.load(drawn, SIZE, Rendering()).fingerprint}
    changed = tuple({**row, "sha256": "0" * 64} if row["split"] == "test" else row for row in mini.index())
    monkeypatch.setattr(mini, "index", lambda: changed)
    after = scenes.load(drawn, SIZE)
    prints |= {after.fingerprint, after.source.fingerprint, after.validation.fingerprint, after.target.fingerprint}
    assert len(prints) == 7


def test_a_missing_file_is_named(drawn):
    for path in (drawn / "train").iterdir():
        path.unlink()
    with pytest.raises(AsgError, match=r"train/.*\.png is missing: run `python data_scripts/mini\.py`"):
        scenes.load(drawn, SIZE).source.decode(0)


# --- the real files -----------------------------------------------------------------------------------------------


@needs_mini
def test_scenes_of_the_real_files():
    domains = scenes.load(DATA, 128)
    for scene_set in (domains.source, domains.validation, domains.target):
        for i in range(6):
            image, labels = scene_set.decode(i)
            assert image.shape == (128, 128, 3) and 0.4 < (labels == 0).mean() < 0.97
            assert image.std() > 5 and labels.max() <= 5


@needs_mini
def test_the_rendering_reaches_the_designs():
    """As black silhouettes on white, what is labelled is black; of four soft edges each leaves half of the white."""
    source = scenes.load(DATA, 128, Rendering(ground="white", style="silhouette")).source
    for i in range(4):
        image, labels = source.decode(i)
        assert np.median(image[labels > 0]) == 0 and (image[labels == 0] >= 255 // 2**4).all()
