"""The embedded benchmark: its index, how its images are composed, and (where the data is) its files."""

import csv
import hashlib
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from asg import AsgError
from asg.config import Rendering
from asg.data import data_root, mini
from asg.data.images import UNLABELLED

DATA = data_root() / "mini"
# In CI the data must be there: the tests run and fail rather than being skipped.
needs_mini = pytest.mark.skipif(
    not DATA.is_dir() and not os.environ.get("CI"),
    reason=f"the benchmark's images are not at {DATA}: run `python data_scripts/mini.py`",
)

# Photographs whose ImageNet class lies outside their class's mapping, with the reason.
EXCEPTIONS: dict[str, str] = {}
COLUMNS = ["domain", "split", "class", "path", "sha256", "imagenet", "credit"]
SPLITS = {"train": "synthetic", "validation": "synthetic", "test": "real"}


def test_the_grounds_of_the_scenes_need_no_download():
    """scikit-image fetches other samples with pooch, which is not among the packages that the book asks for."""
    code = "import sys; sys.modules['pooch'] = None\nfrom asg.data import mini; print(*(s.size for s in mini.scenes()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(310, 427) (165, 427) (512, 512) (512, 512) (512, 512)"


# ---- the index -------------------------------------------------------------------------------------------------------


def test_the_index_has_the_columns_that_are_read():
    with (mini.HERE / "mini_index.csv").open(newline="") as file:
        assert next(csv.reader(file)) == COLUMNS
    assert all(set(row) == set(COLUMNS) and None not in row.values() for row in mini.index())


def test_no_file_is_listed_twice_under_a_path_or_as_a_copy():
    for column in ("path", "sha256"):
        repeated = [value for value, n in Counter(row[column] for row in mini.index()).items() if n > 1]
        assert repeated == []


def test_paths_are_relative_and_hashes_are_sha256():
    for row in mini.index():
        assert not row["path"].startswith("/")
        assert ".." not in row["path"].split("/")
        assert "\\" not in row["path"]
        assert len(bytes.fromhex(row["sha256"])) == 32
        assert row["credit"].strip()


def test_every_split_is_of_one_domain():
    assert {(row["split"], row["domain"]) for row in mini.index()} == set(SPLITS.items())


@pytest.mark.parametrize("split", SPLITS)
def test_every_one_of_the_twelve_classes_is_in_every_split(split: str):
    classes = {row["class"] for row in mini.index() if row["split"] == split}
    assert len(classes) == 12
    assert classes == set(mini.imagenet_classes())


def test_every_class_has_at_least_two_validation_designs_and_five_photographs():
    counts = Counter((row["class"], row["split"]) for row in mini.index())
    assert [c for c in mini.imagenet_classes() if counts[c, "validation"] < 2 or counts[c, "test"] < 5] == []


def test_no_imagenet_class_means_two_classes():
    listed = [i for ids in mini.imagenet_classes().values() for i in ids]
    assert [i for i, n in Counter(listed).items() if n > 1] == []
    assert all(0 <= i < 1000 for i in listed)


def test_every_photographs_imagenet_class_is_one_of_its_classs():
    known = [row for row in mini.index() if row["imagenet"]]
    assert len(known) > 50
    outside = [row["path"] for row in known if int(row["imagenet"]) not in mini.imagenet_classes()[row["class"]]]
    assert outside == list(EXCEPTIONS)


def test_imagenet_classes_are_given_to_photographs_only():
    assert {row["domain"] for row in mini.index() if row["imagenet"]} == {"real"}


@pytest.mark.parametrize(
    ("number", "name"),
    [  # known ImageNet class numbers
        (1, "sea animal"), (9, "bird"), (207, "mammal"), (301, "bug"), (340, "mammal"), (407, "vehicle"),
        (546, "instrument"), (587, "tool"), (805, "ball"), (937, "vegetable"), (948, "fruit"), (985, "flower"),
    ],
)  # fmt: skip
def test_known_imagenet_classes_are_where_they_belong(number: int, name: str):
    assert number in mini.imagenet_classes()[name]  # goldfish, ostrich, golden retriever, ladybug, zebra, ambulance, …


# ---- how images are composed (on drawn designs, so that no data is needed) -------------------------------------------


def design(colour: tuple[int, int, int], width: int = 60, height: int = 40) -> Image.Image:
    """An ellipse cut in two colours (so that a mirror shows) on a transparent margin."""
    image = Image.new("RGBA", (100, 100))
    pen = ImageDraw.Draw(image)
    pen.ellipse((10, 10, 10 + width, 10 + height), fill=(*colour, 255))
    pen.rectangle((10, 10 + height // 2, 10 + width // 4, 12 + height // 2), fill=(0, 0, 0, 255))
    return image


@pytest.fixture
def drawn(tmp_path, monkeypatch) -> list[dict]:
    """A small index in place of the real one: two designs and one photograph of each of two classes, and their files."""
    rows, classes = [], {"ball": [805], "bird": [9]}
    for k, (split, name, copy) in enumerate(
        [(s, c, i) for s in SPLITS for c in classes for i in range(2 if s == "train" else 1)]
    ):
        path = tmp_path / f"{split}-{name}-{copy}.png"
        design((200, 20 * k, 255 - 20 * k), 50 + 3 * k).save(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        imagenet = str(classes[name][0]) if split == "test" and name == "ball" else ""
        rows.append(dict(zip(COLUMNS, (SPLITS[split], split, name, path.name, digest, imagenet, "drawn"), strict=True)))
    monkeypatch.setattr(mini, "index", lambda: tuple(rows))
    monkeypatch.setattr(mini, "imagenet_classes", lambda: classes)
    return rows


HOW = Rendering(per_design=3, per_held_out=2)


def images(loaded) -> dict[tuple[str, str, int], np.ndarray]:
    """Every image of a benchmark by split, file and copy."""
    result = {}
    for split, image_set in (("train", loaded.source), ("validation", loaded.validation), ("test", loaded.target)):
        copies = Counter()
        for i, name in enumerate(image_set.names):
            result[split, name, copies[name]] = image_set.decode(i)
            copies[name] += 1
    return result


def test_each_design_gives_its_number_of_images_with_its_label(drawn, tmp_path):
    loaded = mini.load(tmp_path, 32, HOW)
    assert [len(loaded.source), len(loaded.validation), len(loaded.target)] == [4 * 3, 2 * 2, 2]
    for image_set in (loaded.source, loaded.validation, loaded.target):
        assert image_set.classes == ("ball", "bird")
        for name, label in zip(image_set.names, image_set.labels.tolist(), strict=True):
            assert image_set.classes[label] in name
        for i in range(len(image_set)):
            assert image_set.decode(i).shape == (32, 32, 3)
            assert image_set.decode(i).dtype == np.uint8
    assert loaded.target.imagenet.tolist() == [805, UNLABELLED]
    assert loaded.source.imagenet.eq(UNLABELLED).all()
    assert loaded.imagenet_classes == {"ball": [805], "bird": [9]}


def test_renders_of_one_design_are_one_cluster(drawn, tmp_path):
    loaded = mini.load(tmp_path, 32, HOW)
    for image_set in (loaded.source, loaded.validation, loaded.target):
        pairs = set(zip(image_set.names, image_set.cluster.tolist(), strict=True))
        assert len(pairs) == len(set(image_set.names)) == len(image_set.cluster.unique())


def test_validation_images_are_of_designs_that_training_never_shows(drawn, tmp_path):
    loaded = mini.load(tmp_path, 32, HOW)
    assert not set(loaded.source.names) & set(loaded.validation.names)


def test_images_are_the_same_every_time_and_in_any_order(drawn, tmp_path):
    first, second = mini.load(tmp_path, 32, HOW).source, mini.load(tmp_path, 32, HOW).source
    forwards = [first.decode(i) for i in range(len(first))]
    backwards = [second.decode(i) for i in reversed(range(len(second)))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))


@pytest.mark.parametrize("change", ["reversed", "fewer", "more copies"])
def test_an_image_does_not_depend_on_which_others_there_are(drawn, tmp_path, monkeypatch, change):
    before = images(mini.load(tmp_path, 32, HOW))
    rows, rendering = list(drawn), HOW
    if change == "reversed":
        rows = rows[::-1]
    elif change == "fewer":
        rows = [row for row in rows if row["path"] != "train-ball-0.png"]
    else:
        rendering = HOW.model_copy(update={"per_design": 5, "per_held_out": 3})
    monkeypatch.setattr(mini, "index", lambda: tuple(rows))
    after = images(mini.load(tmp_path, 32, rendering))
    shared = before.keys() & after.keys()
    assert len(shared) == len(before) - (3 if change == "fewer" else 0)
    assert all(np.array_equal(before[key], after[key]) for key in shared)


def test_images_differ_between_copies_designs_and_seeds(drawn, tmp_path):
    seeds = [images(mini.load(tmp_path, 32, HOW.model_copy(update={"seed": s}))) for s in (1, 2)]
    flat = [image.tobytes() for one in seeds for (split, *_), image in one.items() if split != "test"]
    assert len(set(flat)) == len(flat) == 2 * (12 + 4)


@pytest.mark.parametrize(
    "update",
    [{"seed": 9}, {"angle": 5.0}, {"smallest": 0.2}, {"largest": 0.6}, {"ground": "patches"}, {"backdrop": "white"}, {"photo": 0.5}],
)  # fmt: skip
def test_every_choice_of_the_rendering_changes_images_and_fingerprint(drawn, tmp_path, update):
    one, two = mini.load(tmp_path, 32, HOW), mini.load(tmp_path, 32, HOW.model_copy(update=update))
    a, b = images(one), images(two)
    assert any(not np.array_equal(a[key], b[key]) for key in a)
    assert one.fingerprint != two.fingerprint


def test_the_fingerprint_follows_size_and_labels(drawn, tmp_path, monkeypatch):
    before = mini.load(tmp_path, 32, HOW).fingerprint
    assert mini.load(tmp_path, 32, HOW).fingerprint == before
    assert mini.load(tmp_path, 64, HOW).fingerprint != before
    relabelled = [dict(row) for row in drawn]
    relabelled[0]["class"] = "bird"
    monkeypatch.setattr(mini, "index", lambda: tuple(relabelled))
    assert mini.load(tmp_path, 32, HOW).fingerprint != before


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the true pixels (right and bottom exclusive)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize(
    ("position", "box"),
    [((0.5, 0.5), (25, 38, 75, 63)), ((0.0, 0.0), (0, 0, 50, 25)), ((1.0, 1.0), (50, 75, 100, 100))],
)
def test_paste_scales_the_longer_side_and_places_it(position, box):
    cutout = Image.new("RGBA", (20, 10), (255, 0, 0, 255))
    left, top, right, bottom = bounds(mini.paste(cutout, Image.new("RGB", (100, 100)), 0.5, position)[..., 0] > 128)
    assert (right - left, bottom - top) == (50, 25)
    assert (left, top) == pytest.approx(box[:2], abs=1)


def test_paste_shows_the_background_through_transparent_pixels():
    cutout = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    cutout.paste((255, 0, 0, 255), (0, 0, 5, 10))
    pixels = mini.paste(cutout, Image.new("RGB", (10, 10), (0, 0, 255)), 1.0, (0.0, 0.0))
    assert pixels[5, 0].tolist() == [255, 0, 0]
    assert pixels[5, 9].tolist() == [0, 0, 255]


def test_a_cut_out_is_cropped_to_its_mask(tmp_path):
    design((255, 0, 0), 60, 40).save(tmp_path / "d.png")
    cutout = mini.cut_out(tmp_path / "d.png")
    assert (cutout.mode, cutout.size) == ("RGBA", (61, 41))


def test_a_photograph_stands_in_the_middle_at_its_share_of_white():
    cutout = design((200, 0, 0), 60, 30).crop((10, 10, 71, 41))
    rng = np.random.default_rng(0)
    pixels = mini.compose(cutout, 100, rng, Rendering(backdrop="white", photo=0.8))
    left, top, right, bottom = bounds((pixels < 200).any(2))
    assert (right - left, bottom - top) == pytest.approx((80, 80 * 31 / 61), abs=2)
    assert (left + right, top + bottom) == pytest.approx((100, 100), abs=2)
    assert pixels[0, 0].tolist() == [255, 255, 255]


def test_a_photograph_in_a_scene_keeps_its_place_and_covers_the_scene():
    cutout = Image.new("RGBA", (60, 30), (255, 0, 255, 255))
    rendering = Rendering(backdrop="scenes", photo=0.8)
    pixels = [mini.compose(cutout, 100, np.random.default_rng(s), rendering) for s in range(8)]
    for image in pixels:
        assert bounds((image == (255, 0, 255)).all(2)) == (10, 30, 90, 70)
    assert len({image[:25].tobytes() for image in pixels}) == 8  # eight backgrounds
    assert all(image[:25].std() > 3 for image in pixels)  # none of them plain


def test_scenes_are_five_colour_photographs_large_enough_to_crop():
    scenes = mini.scenes()
    assert [scene.mode for scene in scenes] == ["RGB"] * 5
    assert all(min(scene.size) > mini.SMALLEST_CROP for scene in scenes)


def test_renders_stay_within_the_range_of_sizes_and_greys():
    rendering = Rendering(smallest=0.4, largest=0.6, angle=0.0, ground="grey")
    square, heights, greys = Image.new("RGBA", (50, 50), (255, 0, 0, 255)), [], []
    for seed in range(40):
        pixels = mini.render(square, 100, np.random.default_rng(seed), rendering)
        red = (pixels[..., 0] > 200) & (pixels[..., 1] < 40)
        left, top, right, bottom = bounds(red)
        assert abs((right - left) - (bottom - top)) <= 1
        heights.append(bottom - top)
        ground = pixels[~red & (np.ptp(pixels, axis=2) == 0)]
        greys.append(int(np.median(ground)))
    assert 39 <= min(heights) <= 44
    assert 56 <= max(heights) <= 61
    assert mini.DARKEST <= min(greys) <= mini.DARKEST + 25
    assert 230 <= max(greys) <= 255


def test_renders_turn_and_mirror_the_design():
    rendering = Rendering(smallest=0.9, largest=0.9, angle=30.0, ground="grey")
    bar = Image.new("RGBA", (80, 8), (255, 0, 0, 255))
    bar.paste((0, 0, 255, 255), (60, 0, 80, 8))  # the right quarter is blue
    angles, mirrored = [], []
    for seed in range(40):
        pixels = mini.render(bar, 100, np.random.default_rng(seed), rendering).astype(int)
        blue = np.argwhere((pixels[..., 2] - pixels[..., 0] > 100) & (pixels[..., 1] < 100)).mean(0)
        red = np.argwhere((pixels[..., 0] - pixels[..., 2] > 100) & (pixels[..., 1] < 100)).mean(0)
        dy, dx = blue - red
        mirrored.append(dx < 0)
        angles.append(np.degrees(np.arctan2(dy, abs(dx))))
    assert 20 < max(map(abs, angles)) <= 31
    assert min(angles) < -10
    assert max(angles) > 10
    assert 8 <= sum(mirrored) <= 32  # a fair coin leaves this range once in 30,000 times


def test_a_missing_file_is_named_with_the_remedy(drawn, tmp_path):
    (tmp_path / "test-bird-0.png").unlink()
    photos = mini.load(tmp_path, 32, HOW).target
    with pytest.raises(AsgError, match=r"test-bird-0\.png is missing: run `python data_scripts/mini\.py`"):
        photos.batch(range(len(photos)))


def test_missing_and_altered_files_are_named_and_no_others(drawn, tmp_path):
    assert mini.missing_or_altered(tmp_path) == []
    removed, altered = tmp_path / "train-ball-1.png", tmp_path / "test-ball-0.png"
    removed.unlink()
    content = bytearray(altered.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    assert sorted(mini.missing_or_altered(tmp_path)) == [f"altered: {altered}", f"missing: {removed}"]


# ---- the files themselves --------------------------------------------------------------------------------------------


@needs_mini
def test_every_file_is_there_as_indexed():
    assert mini.missing_or_altered(DATA) == []


@needs_mini
def test_a_removed_and_an_altered_copy_of_real_files_are_named(tmp_path, monkeypatch):
    rows = [next(row for row in mini.index() if row["split"] == split) for split in SPLITS]
    for row in rows:
        (tmp_path / row["path"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / row["path"]).write_bytes((DATA / row["path"]).read_bytes())
    monkeypatch.setattr(mini, "index", lambda: tuple(rows))
    assert mini.missing_or_altered(tmp_path) == []
    with (tmp_path / rows[0]["path"]).open("ab") as file:
        file.write(b"\0")
    (tmp_path / rows[2]["path"]).unlink()
    assert mini.missing_or_altered(tmp_path) == [
        f"altered: {tmp_path / rows[0]['path']}",
        f"missing: {tmp_path / rows[2]['path']}",
    ]


@needs_mini
def test_every_file_is_an_object_with_a_mask():
    for row in mini.index():
        with Image.open(DATA / row["path"]) as image:
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        assert alpha.max() == 255, row["path"]
        assert 0.02 < (alpha > 127).mean() <= 1, row["path"]


@needs_mini
def test_the_benchmark_loads_with_the_indexed_counts():
    loaded = mini.load(DATA, 32)
    rendering, counts = Rendering(), Counter(row["split"] for row in mini.index())
    assert len(loaded.source) == counts["train"] * rendering.per_design
    assert len(loaded.validation) == counts["validation"] * rendering.per_held_out
    assert len(loaded.target) == counts["test"]
    assert (loaded.target.imagenet != UNLABELLED).sum() == sum(bool(row["imagenet"]) for row in mini.index())
    batch = loaded.target.batch([0, len(loaded.target) - 1])
    assert (batch.shape, batch.dtype) == ((2, 3, 32, 32), torch.uint8)
