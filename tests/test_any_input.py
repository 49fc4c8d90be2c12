"""What people bring, drawn at random: whatever it is, it is read as it is meant or refused in one sentence."""

from __future__ import annotations

import csv
import io
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from asg import AsgError, own, own_recipes, predict, predict_masks, report
from asg.cli import parse_settings
from asg.config import RunConfig, make_config
from asg.data import folder
from asg.data.images import UNLABELLED, Domains, Draws, ImageSet, StepSampler
from asg.data.masks import read_list, read_mask
from asg.data.pixels import read_photo, read_pixels, upright_size
from asg.data.scanner import class_folders, images_below, name_of
from asg.report import warnings
from asg.trainers.self_training import Halves, round_config

ONE_SENTENCE = 1000  # letters, the longest that is still read
settings.register_profile(
    "the same every time",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile("the same every time")

# Letters that a file name can have; a byte that is no UTF-8 is a surrogate, as Python reads it.
LETTER = st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)) | st.integers(0x80, 0xFF).map(
    lambda byte: bytes([byte]).decode("utf-8", "surrogateescape")
)
NAME = st.text(LETTER, min_size=1, max_size=30).filter(
    lambda name: len(os.fsencode(name)) <= 200 and not name.startswith(".") and name.lower() not in ("thumbs.db",)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 70_000) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@contextmanager
def somewhere() -> Iterator[Path]:
    """A folder of one example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def read_or_refused(*named: object) -> Iterator[None]:
    """Nothing is raised within but a sentence, which names what it is about."""
    try:
        yield
    except AsgError as error:
        assert len(str(error)) < ONE_SENTENCE and "\n" not in str(error)
        assert all(str(name) in str(error) for name in named), error


def draw_image(mode: str, seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    rng = np.random.default_rng(seed)
    shape = size[::-1] if mode in ("L", "P") else (*size[::-1], 3)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8), "P" if mode == "P" else None)


@given(
    st.sampled_from([(np.uint8, 255, "png"), (np.uint16, 65_535, "png"), (np.uint16, 65_535, "tif")]),
    st.integers(0, 2**32 - 1),
)
def test_whole_numbers_are_read_by_the_range_of_their_type(kind: tuple, seed: int):
    dtype, most, ending = kind
    values = np.random.default_rng(seed).integers(0, most + 1, (32, 32)).astype(dtype)
    with somewhere() as root:
        Image.fromarray(values).save(path := root / f"a.{ending}")
        grey = np.rint(values.astype(np.float64) * 255 / most).astype(np.uint8)
        assert np.array_equal(read_pixels(path, 32), np.stack([grey] * 3, 2))


@given(st.floats(width=32), st.floats(width=32))
def test_floating_point_images_are_read_as_a_known_range_or_refused(low: float, high: float):
    values = np.full((32, 32), low, np.float32)
    values[0, 0] = high
    with somewhere() as root:
        Image.fromarray(values).save(path := root / "a.tif")
        with read_or_refused(path):
            pixels = read_pixels(path, 32)
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255
            most = 1 if values.max() <= 1 else 255
            assert np.array_equal(pixels[..., 0], np.rint(values.astype(np.float64) * 255 / most).astype(np.uint8))


@given(st.binary(max_size=64), st.sampled_from(["jpg", "png", "webp"]))
def test_metadata_of_any_bytes_turn_an_image_at_most(block: bytes, ending: str):
    image = draw_image("RGB", 0, (32, 32))
    with somewhere() as root:
        options = {"quality": 100} if ending in ("jpg", "webp") else {}
        image.save(clean := root / f"clean.{ending}", **options)
        image.save(path := root / f"a.{ending}", exif=b"Exif\0\0" + block, **options)
        expected, pixels = read_pixels(clean, 32), read_pixels(path, 32)
        turned = [np.rot90(side, k) for side in (expected, expected[:, ::-1]) for k in range(4)]
        assert any(np.array_equal(pixels, one) for one in turned)
        assert upright_size(path) == read_photo(path).size


@given(st.integers(0, 8), st.sampled_from(["jpg", "png", "tif", "webp"]))
def test_a_size_is_that_of_the_upright_image_for_every_orientation(orientation: int, ending: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with somewhere() as root:
        draw_image("RGB", 1).save(path := root / f"a.{ending}", exif=exif)
        assert upright_size(path) == read_photo(path).size == ((16, 20) if orientation >= 5 else (20, 16))


@given(st.data(), st.sampled_from(["jpg", "png", "tif", "gif", "bmp", "webp"]))
def test_a_damaged_file_is_an_image_or_named(data: st.DataObject, ending: str):
    with somewhere() as root:
        draw_image("L" if ending == "gif" else "RGB", 2).save(path := root / f"a.{ending}")
        held = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, len(held) - 1))
        if data.draw(st.booleans()):
            del held[where:]
        else:
            held[where] ^= data.draw(st.integers(1, 255))
        path.write_bytes(held)
        with read_or_refused(path):
            assert read_pixels(path, 32).shape == (32, 32, 3)


def tree(names: list[str], root: Path) -> Path:
    """Class folders of these names, with two images each."""
    for k, name in enumerate(names):
        (root / "images" / name).mkdir(parents=True)
        for j in range(2):
            draw_image("RGB", 10 * k + j, (8, 8)).save(root / "images" / name / f"{j}.png")
    return root / "images"


@settings(max_examples=6)  # figures take a second
@given(st.lists(NAME, min_size=2, max_size=4, unique_by=lambda name: name.casefold()))
def test_any_class_name_is_read_kept_and_shown(names: list[str]):
    with somewhere() as root:
        classes = class_folders(source := tree(names, root), "source")
        assert set(classes) == {name_of(Path(name)) for name in names}
        domains = folder.load(source, source, 32)
        assert domains.source.classes == tuple(sorted(classes, key=lambda n: os.fsencode(n)))
        described = json.loads(json.dumps({"classes": domains.source.classes}))
        assert tuple(described["classes"]) == domains.source.classes
        page = BeautifulSoup(page_of(domains), "html.parser")
        cells = [cell.get_text() for cell in page.select("table th.name[scope=row]")]
        assert sorted(cells) == sorted(map(as_html_reads, classes))


def as_html_reads(name: str) -> str:
    """What a browser shows of a name: bytes that are no UTF-8 as escapes, control characters as HTML has them."""
    return BeautifulSoup(f"<p>{report.Markup.escape(report.readable(name))}</p>", "html.parser").p.get_text()


def page_of(domains: Domains) -> str:
    """The report of a made-up result on these images."""
    target = domains.target
    numbers = {"step": 0, "validation": 0.5, "validation_loss": 1.0, "kl": 0.0, "drift": {"stem": 0.0}}
    numbers |= {"accuracy": 1.0, "overall": 1.0, "agreement": 1.0, "per_class": dict.fromkeys(target.classes, 1.0)}
    final = {**numbers, "step": 1, "predicted": target.labels.tolist(), "confidence": [0.9] * len(target)}
    result = {"evaluations": [numbers, final], "final": final, "steps": 1, "seconds": 1.0, "device": "cpu"}
    config = make_config(own_recipes.PROFILES["classification"], {"source": "renders", "target": "photos"})
    made_by = {"versions": {"python": "3"}, "platform": "Linux", "cpu": "DEFAULT", "commit": None}
    rows = (
        report.markdown(result, config, domains).partition("| target class | accuracy |\n|---|---|\n")[2].splitlines()
    )
    assert sum(row.startswith("| ") and row.endswith(" | 1.000 |") for row in rows) == len(target.classes)
    return report.page(result, config, domains, made_by)


@given(st.lists(st.tuples(NAME, st.text(max_size=20)), max_size=6))
def test_answers_are_read_back_from_csv_and_json(rows: list[tuple[str, str]]):
    text = "".join(predict.csv_line(list(row)) for row in rows)
    assert [tuple(row) for row in csv.reader(io.StringIO(text, newline=""))] == rows
    assert json.loads("".join(predict.json_list({"image": a, "why": b} for a, b in rows))) == [
        {"image": a, "why": b} for a, b in rows
    ]


@given(NAME)
def test_any_name_is_one_cell_of_a_table(name: str):
    assert len(f"| {report.table_cell(name)} | 1 |".splitlines()) == 1


@given(st.lists(st.sampled_from(["a", "b", "a-2", "a-3"]), max_size=12))
def test_no_two_masks_share_a_name(stems: list[str]):
    taken: set[str] = set()
    names = [predict_masks.unused(stem, taken) for stem in stems]
    assert len(set(names)) == len(names) == len(taken)


ENTRY = st.sampled_from(["image", "text", "hidden", "folder", "link", "dangling", "circle"])


@given(st.lists(ENTRY, max_size=8), st.lists(ENTRY, max_size=4))
def test_every_file_is_an_image_or_left_out_with_a_reason(kinds: list[str], inner: list[str]):
    with somewhere() as root:
        expected = {"images": 0, "left out": 0}
        (root / "elsewhere").mkdir()
        draw_image("RGB", 0, (8, 8)).save(root / "elsewhere" / "linked.png")

        def fill(where: Path, entries: list[str], deeper: list[str]) -> None:
            where.mkdir()
            for k, kind in enumerate(entries):
                path = where / f"{k}"
                expected["images"] += kind in ("image", "link")
                expected["left out"] += kind not in ("image", "link", "folder")
                if kind == "folder":
                    fill(path, deeper, [])
                elif kind in ("image", "hidden"):
                    draw_image("RGB", k, (8, 8)).save(where / f"{'.' * (kind == 'hidden')}{k}.png")
                elif kind == "text":
                    path.with_suffix(".txt").write_text("no image")
                else:
                    goal = {"link": root / "elsewhere", "dangling": root / "nothing", "circle": where}[kind]
                    path.symlink_to(goal)

        fill(root / "images", kinds, inner)
        below = images_below(root / "images")
        assert (len(below.images), len(below.left_out)) == (expected["images"], expected["left out"])
        assert f"{len(below.images):,} images" in str(below)


@given(st.lists(st.text(max_size=20), max_size=4))
def test_settings_are_understood_or_refused(words: list[str]):
    with read_or_refused():
        overrides = parse_settings(words)
        assert set(overrides) == {word.partition("=")[0] for word in words}


@given(st.sampled_from(sorted(RunConfig.model_fields)), JSON)
def test_any_value_of_any_field_is_taken_or_refused_by_its_name(field: str, value: object):
    with read_or_refused():
        config = make_config(own_recipes.PROFILES["classification"], {"source": "renders", field: value})
        assert RunConfig(**json.loads(config.to_json())) == config


@given(st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), st.dictionaries(st.sampled_from("abc"), JSON))
def test_what_differs_between_a_stopped_run_and_this_one_is_named(before: dict, now: dict):
    names = own.differing(json.dumps(before), json.dumps(now))
    assert names == [
        name for name, value in json.loads(json.dumps(now)).items()
        if json.dumps(json.loads(json.dumps(before)).get(name)) != json.dumps(value)
    ]  # fmt: skip


@given(JSON | st.dictionaries(st.sampled_from(["a", "b", "unlabelled"]), st.integers(0, 4) | st.just("#00ff00")))
def test_any_json_is_a_class_list_or_refused(content: object):
    with somewhere() as root:
        (path := root / "classes.json").write_text(json.dumps(content), "utf-8")
        with read_or_refused(path):
            classes = read_list(path)
            assert len(classes.names) >= 2 and set(classes.meaning.values()) <= {UNLABELLED, *range(len(classes.names))}


@given(st.binary(max_size=60))
def test_any_bytes_are_a_class_list_or_refused(content: bytes):
    with somewhere() as root:
        (path := root / "classes.txt").write_bytes(content)
        with read_or_refused(path):
            read = read_list(path)
            lines = dict.fromkeys(line.strip() for line in content.decode("utf-8").rstrip().splitlines())
            assert read.names == tuple(name for name in lines if name != "unlabelled")


@given(st.lists(st.integers(0, 255), min_size=1, max_size=6), st.lists(st.integers(0, 255), min_size=2, unique=True))
def test_every_value_of_a_mask_means_what_the_list_says(held: list[int], listed: list[int]):
    with somewhere() as root:
        (path := root / "classes.json").write_text(json.dumps({f"c{k}": v for k, v in enumerate(listed)}), "utf-8")
        Image.fromarray(np.array([held], np.uint8)).save(mask := root / "mask.png")
        with read_or_refused(mask):
            labels = read_mask(mask, read_list(path))
            assert labels[0].tolist() == [listed.index(v) if v in listed else UNLABELLED for v in held]
            assert all(v in listed or v == 255 for v in held)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 300), st.integers(0, 3))
def test_a_round_of_self_training_has_both_sides_in_every_batch(batch: int, photos: int, steps: int, number: int):
    config = make_config(own_recipes.PROFILES["classification"], {"source": "x", "batch": batch, "adapt": {}})
    one = round_config(config, number, steps)
    assert one.batch >= 2 and one.steps >= 1 and one.warmup >= 1
    source = 50
    batches = list(Halves(StepSampler, StepSampler, source, source + photos, one.batch, 0, 0, 3))
    assert all(len(b) == one.batch and any(i < source for i in b) and any(i >= source for i in b) for b in batches)


@given(
    st.integers(1, 30),
    st.integers(1, 10),
    st.integers(0, 20),
    st.integers(1, 20),
    st.sampled_from([StepSampler, Draws]),
)
def test_a_run_that_is_taken_up_again_sees_the_batches_of_the_whole_one(
    images: int, batch: int, start: int, more: int, sampler: type[StepSampler]
):
    with read_or_refused():
        uninterrupted = list(sampler(images, batch, 3, 0, start + more))
        assert uninterrupted[start:] == list(sampler(images, batch, 3, start, start + more))
        assert all(len(b) == batch == len(set(b)) for b in uninterrupted)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1))
def test_whether_a_model_guesses_can_be_asked_of_any_held_out_images(labels: list[int], accuracy: float):
    held = ImageSet(lambda i: None, torch.tensor(labels), tuple("abcde"), tuple(map(str, labels)), "by hand")
    guessing = warnings.is_guessing(accuracy, held)
    assert not (guessing and accuracy == 1.0)
    assert accuracy > 0.2 or guessing or len(labels) < 10 or len(set(labels)) < 5


@given(st.integers(1, 400), st.data())
def test_an_interval_holds_its_share(images: int, data: st.DataObject):
    right = data.draw(st.integers(0, images))
    low, high = warnings.wilson(right, images)
    assert 0 <= low <= right / images <= high <= 1


@pytest.mark.parametrize("name", ["banana", "cuda:99", "cuda:x", "cpu:-1", "CPU", "mps:7", " cpu", "gpu", "", "0"])
def test_a_device_is_used_or_refused(name: str):
    config = make_config(own_recipes.PROFILES["classification"], {"source": "x"})
    with pytest.raises(AsgError) as caught:
        own.make_accelerator(config, name)
    assert repr(name) in str(caught.value) or name in str(caught.value)


def test_a_jpeg_block_of_a_wrong_length_is_no_reason_to_refuse(tmp_path: Path):
    draw_image("RGB", 3, (32, 32)).save(path := tmp_path / "a.jpg")
    held = path.read_bytes()
    block = b"\xff\xe1" + struct.pack(">H", 20) + b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12"
    path.write_bytes(held[:2] + block + held[2:])
    with read_or_refused(path):
        assert read_pixels(path, 32).shape == (32, 32, 3)
