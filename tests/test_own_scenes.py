"""Segmentation on own folders: class lists, masks, and the way from folders to masks of photos."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image
from typer.testing import CliRunner

from asg import AsgError, model_files, own, predict_masks
from asg.cli import app
from asg.config import make_config
from asg.data import folder_scenes, mirrored, read_domains, unlabelled
from asg.data.images import UNLABELLED, read_image
from asg.data.masks import COLOUR, list_of_masks, palette, read_list, read_mask
from asg.dense_metrics import confusion_matrix, mean_iou
from asg.own_recipes import PROFILES
from asg.report import pictures, warnings
from asg.trainers import segmentation

TINY = {
    "backbone": "timm:test_efficientnet", "weights": "random", "size": 32, "crop": 32, "steps": 4, "batch": 4,
    "warmup": 2, "evaluations": 1,
}  # fmt: skip
NAMES = ("ground", "disc", "box")


def scene(rng: np.random.Generator, real: bool) -> tuple[np.ndarray, np.ndarray]:
    """A disc on the left and a box on the right, 48 × 40 pixels, and the class of each pixel."""
    y, x = np.mgrid[:40, :48]
    disc = (x - 14) ** 2 + (y - 20) ** 2 < rng.integers(60, 110)
    box = (abs(x - 34) < rng.integers(6, 10)) & (abs(y - 20) < rng.integers(6, 10))
    labels = (disc + 2 * box).astype(np.uint8)
    pixels = np.array([[200, 200, 200], [200, 40, 40], [40, 40, 200]])[labels] - 30 * real
    return (pixels + rng.integers(-20, 21, pixels.shape)).clip(0, 255).astype(np.uint8), labels


def save(folder: Path, count: int, real: bool) -> Path:
    rng = np.random.default_rng(int(real))
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for k in range(count):
        pixels, labels = scene(rng, real)
        Image.fromarray(pixels).save(folder / "images" / f"{k:02}.jpg", quality=95)
        Image.fromarray(labels).save(folder / "masks" / f"{k:02}.png")
    return folder


@pytest.fixture
def scenes(tmp_path: Path) -> SimpleNamespace:
    """20 rendered scenes with a list of classes, and 4 photographed ones."""
    source, target = save(tmp_path / "renders", 20, False), save(tmp_path / "photos", 4, True)
    (source / "classes.txt").write_text("\n".join(NAMES), "utf-8")
    return SimpleNamespace(source=source, target=target)


def load(scenes: SimpleNamespace, **given: Path) -> object:
    return folder_scenes.load(scenes.source, scenes.target, 40, **given)


def test_pairs_are_read_as_they_were_saved(scenes):
    domains = load(scenes)
    assert domains.source.classes == NAMES
    assert [len(s) for s in (domains.source, domains.validation, domains.target)] == [18, 2, 4]
    assert domains.validation.names == ("01.jpg", "11.jpg")
    _, image, labels = domains.target[2]
    assert image.shape == (3, 40, 48) and labels.shape == (40, 48)
    saved = np.asarray(Image.open(scenes.target / "masks" / "02.png"))
    assert np.array_equal(labels, saved)


def test_the_shorter_side_is_resized_and_labels_stay_labels(scenes):
    _, image, labels = folder_scenes.load(scenes.source, None, 32).source[0]
    assert image.shape == (3, 32, 38) and labels.shape == (32, 38)  # ⌊32 · 48 / 40⌋, as torchvision has it
    assert set(labels.unique().tolist()) == {0, 1, 2}


def painted(mask: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    return Image.fromarray(np.array(colours, np.uint8)[mask])


COLOURS = [(0, 0, 0), (255, 0, 0), (0, 0, 142)]


@pytest.mark.parametrize("kind", ["numbers", "sixteen bits", "palette", "palette by colours", "colours", "with alpha"])
def test_every_kind_of_mask_means_the_same(scenes, kind: str):
    expected = [load(scenes).source[k][2] for k in (0, 7)]
    listed = {"ground": 0, "disc": 300, "box": 7} if kind == "sixteen bits" else {n: k for k, n in enumerate(NAMES)}
    if kind in ("colours", "palette by colours", "with alpha"):
        listed = {"ground": "#000000", "disc": "#ff0000", "box": "#00008E"}
    (scenes.source / "classes.txt").unlink()
    (scenes.source / "classes.json").write_text(json.dumps(listed), "utf-8")
    for folder in (scenes.source, scenes.target):
        for path in (folder / "masks").glob("*.png"):
            labels = np.asarray(Image.open(path))
            if kind == "sixteen bits":
                drawn = Image.fromarray(np.array([0, 300, 7], np.uint16)[labels])
            elif kind.startswith("palette"):
                drawn = Image.fromarray(labels, "P")
                drawn.putpalette(np.array(COLOURS, np.uint8).tobytes())
            elif kind == "numbers":
                drawn = Image.fromarray(labels)
            else:
                drawn = painted(labels, COLOURS).convert("RGBA" if kind == "with alpha" else "RGB")
            drawn.save(path)
    domains = load(scenes)
    assert domains.source.classes == NAMES
    assert all(torch.equal(a, domains.source[k][2]) for a, k in zip(expected, (0, 7), strict=True))


def test_without_a_list_the_values_are_the_classes(scenes):
    (scenes.source / "classes.txt").unlink()
    assert load(scenes).source.classes == ("0", "1", "2")
    for path in [*(scenes.source / "masks").glob("*.png"), *(scenes.target / "masks").glob("*.png")]:
        painted(np.asarray(Image.open(path)), COLOURS).save(path)
    assert load(scenes).source.classes == ("#000000", "#00008e", "#ff0000")


def test_unlabelled_values_and_255_are_of_no_class(scenes, tmp_path: Path):
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({"ground": 0, "thing": [1], "unlabelled": [2, 9]}), "utf-8")
    classes = read_list(path)
    assert classes.names == ("ground", "thing")
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", classes).tolist() == [[0, 1], [UNLABELLED, UNLABELLED]]
    assert read_mask(tmp_path / "mask.png", classes).dtype == np.int16


def test_the_targets_own_list_is_read_for_the_target(scenes):
    expected = load(scenes).target[1][2]
    (scenes.target / "classes.json").write_text('{"box": 20, "ground": 10, "disc": 30}', "utf-8")
    for path in (scenes.target / "masks").glob("*.png"):
        Image.fromarray(np.array([10, 30, 20], np.uint8)[np.asarray(Image.open(path))]).save(path)
    assert torch.equal(load(scenes).target[1][2], expected)
    (scenes.target / "classes.json").write_text('{"box": 20, "floor": 10, "disc": 30}', "utf-8")
    with pytest.raises(AsgError, match=r"names the classes floor, which the source lacks \(it has ground, disc, box\)"):
        load(scenes)


def test_a_photo_lying_on_its_side_is_turned_as_its_metadata_say(scenes):
    path = scenes.target / "images" / "00.jpg"
    photo = Image.open(path).transpose(Image.Transpose.ROTATE_90)  # what orientation 6 turns back
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(path, exif=exif)
    assert load(scenes).target[0][1].shape == (3, 40, 48)


def change(scenes: SimpleNamespace, what: str) -> None:
    """Break one thing."""
    images, masks = scenes.source / "images", scenes.source / "masks"
    labels = np.asarray(Image.open(masks / "03.png"))
    {
        "size": lambda: Image.fromarray(labels[:-1]).save(masks / "03.png"),
        "value": lambda: Image.fromarray(np.where(labels == 2, 77, labels).astype(np.uint8)).save(masks / "03.png"),
        "lossy": lambda: (
            Image.fromarray(labels * 100).save(masks / "03.jpg"), (masks / "03.png").unlink()
        ),
        "no mask": lambda: (masks / "03.png").unlink(),
        "no image": lambda: (images / "03.jpg").unlink(),
        "no folder": lambda: masks.rename(scenes.source / "labels"),
        "two": lambda: Image.fromarray(labels).save(images / "03.png"),
        "broken": lambda: (masks / "03.png").write_bytes(b"no image"),
        "colours": lambda: painted(labels, COLOURS).save(masks / "03.png"),
        "absent": lambda: (scenes.source / "classes.txt").write_text("\n".join([*NAMES, "bird"]), "utf-8"),
        "list": lambda: (scenes.source / "classes.txt").write_text("one", "utf-8"),
    }[what]()  # fmt: skip


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("size", r"03\.png is 48 × 39 pixels, and its image .*03\.jpg 48 × 40"),
        (
            "value",
            r"03\.png holds 77, which the class list does not name: it names ground \(0\), disc \(1\), box \(2\)",
        ),
        ("lossy", r"03\.jpg holds .* \(JPEG changes colours: save masks as PNG\)"),
        ("no mask", r"images/03\.jpg \(1 of 20 such files\) has no mask of its name in .*masks: add the mask"),
        ("no image", r"masks/03\.png \(1 of 20 such files\) has no image of its name in .*images: add the image"),
        ("no folder", r"has no masks/: segmentation reads .*images/NAME\.jpg"),
        ("two", r"03\.jpg and .*03\.png have one name: remove one of them"),
        ("broken", r"03\.png cannot be decoded as an image"),
        ("colours", r"03\.png is an image of mode RGB, and a mask holds a number for each pixel"),
        ("absent", r"No mask below .*renders shows bird: .* take the class out"),
        ("list", r"classes\.txt has 1 classes: name two or more"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(scenes, what: str, message: str):
    change(scenes, what)
    with pytest.raises(AsgError, match=message):
        load(scenes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ('["a", "b"]', "is not name → value"),
        ('{"a": 0, "b": "red"}', r"gives 'b' the value 'red': write a whole number from 0 to 65535, or a colour"),
        ('{"a": 0, "b": true}', "gives 'b' the value True"),
        ('{"a": 0, "b": 70000}', "gives 'b' the value 70000"),
        ('{"a": 0, "b": 0}', "has 0 twice"),
        ('{"a": 0, "b": "#ff0000"}', "numbers and colours"),
        ('{"a": 0, "": 1}', "a class without a name"),
        ('{"a": 0, "unlabelled": 1}', "has 1 classes"),
    ],
)
def test_what_is_wrong_with_a_class_list_is_one_sentence(tmp_path: Path, text: str, message: str):
    (path := tmp_path / "classes.json").write_text(text, "utf-8")
    with pytest.raises(AsgError, match=message):
        read_list(path)


def test_binary_masks_of_0_and_255_are_not_taken_for_one_class(tmp_path: Path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(AsgError, match="hold 0, 255 alone, and 255 means unlabelled"):
        list_of_masks([tmp_path / "mask.png"])
    (tmp_path / "classes.json").write_text('{"ground": 0, "thing": 255}', "utf-8")
    assert read_mask(tmp_path / "mask.png", read_list(tmp_path / "classes.json")).tolist() == [[0, 1]]


def test_photographs_given_as_masks_are_refused(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "mask.png")
    with pytest.raises(AsgError, match="more than 256 values"):
        list_of_masks([tmp_path / "mask.png"])


def test_a_colour_is_not_taken_for_a_number(tmp_path: Path):
    (path := tmp_path / "classes.json").write_text('{"a": "#000001", "b": "#000002"}', "utf-8")
    assert read_list(path).meaning == {COLOUR + 1: 0, COLOUR + 2: 1}


def test_crops_are_mirrored_only_if_asked(scenes):
    config = make_config(PROFILES["segmentation"], {"source": str(scenes.source), "guidance": 0.0})
    assert mirrored(config) is False
    drawn = segmentation.crops(config)
    assert not drawn.mirror and segmentation.crops(config.model_copy(update={"mirror": True})).mirror
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None], (64, 64, 3))  # brighter to the right
    for draw in range(8):
        image, _ = drawn.__class__(crop=32, mirror=False)(ramp, np.zeros((64, 64), np.int16), draw, 0)
        assert (np.diff(image[:, :, 0].astype(int), axis=1) >= 0).all()


def test_unlabelled_photos_are_not_their_masks(scenes):
    config = make_config(
        PROFILES["segmentation"], {"source": str(scenes.source), "size": 32, "adapt": {"images": str(scenes.target)}}
    )
    photos = unlabelled(config)
    assert len(photos) == 4 and photos.classes == NAMES
    assert set(photos[0][2].unique().tolist()) == {UNLABELLED}
    assert read_domains(config).target is None


def test_a_target_without_masks_is_answered_and_not_judged(workplace, scenes, tmp_path, caplog):
    shutil.rmtree(scenes.target / "masks")
    out = tmp_path / "model"
    with caplog.at_level(logging.INFO, "asg"):
        result = own.model_of(scenes.source, scenes.target, out, TINY, "cpu", task="segmentation")
    assert (
        f"target {scenes.target / 'images'}: 4 images; without masks/ they have no labels to report on"
        in caplog.messages
    )
    assert 0 <= result["final"]["agreement"] <= 1 and not {"miou", "pixels", "per_class"} & result["final"].keys()
    assert result["best_on_target"] is None
    page = BeautifulSoup((out / "report.html").read_text("utf-8"), "html.parser")
    examples = page.find("h2", string="Examples of the target").find_parent("section")
    assert [len(figure.select("img")) for figure in examples.select("figure")] == [2] * 4  # the photo, and its answers
    assert "under its labels" not in examples.get_text() and "right" not in examples.get_text()
    # photographs alone, without images/, are the same target
    flat = tmp_path / "flat"
    (scenes.target / "images").rename(flat)
    again = own.model_of(scenes.source, flat, tmp_path / "again", TINY, "cpu", task="segmentation")
    assert again["final"]["agreement"] == result["final"]["agreement"]


def test_masks_under_another_name_are_not_taken_for_photos(scenes):
    (scenes.target / "masks").rename(scenes.target / "labels")
    with pytest.raises(AsgError, match="if labels holds masks, call it masks/"):
        folder_scenes.load(scenes.source, scenes.target, 32)


def test_no_two_classes_share_a_colour_and_none_is_dark():
    assert len(np.unique(palette(256), axis=0)) == 256
    assert palette(256).max(1).min() >= 180
    near = palette(20).astype(int)
    assert min(abs(a - b).sum() for k, a in enumerate(near) for b in near[:k]) > 60


def test_labels_are_those_of_all_logits_enlarged_at_once():
    logits = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    at_once = torch.nn.functional.interpolate(logits[None], (40, 30), mode="bilinear")[0].argmax(0)
    assert np.array_equal(predict_masks.labels_of(logits, (40, 30)), at_once)


def asg(*words: object) -> object:
    return CliRunner().invoke(app, [*map(str, words), "--device", "cpu"])


def test_from_folders_to_masks_of_photos(workplace, scenes):
    model, adapted, masks = (workplace.data / name for name in ("model", "adapted", "masks"))
    learning = {**TINY, "steps": 60, "lr": 0.05, "guidance": 0.0}
    settings = [word for name, value in learning.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    folders = ["--source", scenes.source, "--target", scenes.target, "--out", model]
    done = asg("train", "--task", "segmentation", *folders, *settings)
    assert done.exit_code == 0, done.output
    assert "20 images, each with a mask" in done.stderr and "classes: ground, disc, box" in done.stderr
    network, config, classes = model_files.load_model(model)
    assert classes == NAMES and config.data == "folder-scenes"
    result = json.loads((model / "report.json").read_text("utf-8"))
    domains = read_domains(config)
    again = segmentation.make_evaluation(segmentation.build(config, 3), domains, config, torch.device("cpu"))(network)
    assert again["miou"] == result["final"]["miou"]
    broken = scenes.target / "images" / "zz.png"
    broken.write_bytes(b"no image")
    done = asg("predict", model, scenes.target / "images", "--output", masks)
    assert done.exit_code == 1 and "1 of 5 images were not read" in str(done.exception)
    rows = list(csv.DictReader((masks / "masks.csv").read_text("utf-8").splitlines()))
    assert [bool(row["reason"]) for row in rows] == [False] * 4 + [True]
    assert all(abs(sum(float(row[name]) for name in NAMES) - 1) < 1e-3 for row in rows[:4])
    for row in rows[:4]:
        mask, overlay, photo = (read_image(Path(row[name])) for name in ("mask", "overlay", "image"))
        assert mask.size == overlay.size == photo.size == (48, 40) and mask.mode == "P"
    broken.unlink()
    read_again = folder_scenes.classes_of(masks, [], None)
    assert read_again.names == NAMES
    done = asg("adapt", model, "--source", scenes.source, "--target", scenes.target, "--out", adapted,
               "--set", "rounds=1", "--set", "portion=0.5")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert model_files.load_model(adapted)[2] == NAMES


def test_without_photos_and_with_interpolation(workplace, scenes):
    out = workplace.data / "model"
    result = own.model_of(
        scenes.source, None, out, {**TINY, "interpolate": 0.5}, "cpu", task="segmentation", recipe_name="plain"
    )
    assert "miou" not in result["final"] and 0 <= result["final"]["validation"] <= 1
    assert (out / "report.md").exists()


def test_masks_need_a_folder_which_is_not_the_images(workplace, scenes):
    out = workplace.data / "model"
    own.model_of(scenes.source, None, out, TINY, "cpu", task="segmentation")
    done = asg("predict", out, scenes.target / "images")
    assert "give the folder for them, --output FOLDER" in str(done.exception)
    done = asg("predict", out, scenes.target, "--output", scenes.target / "masks of mine")
    assert "whose folders are read as images" in str(done.exception)


def test_a_stopped_run_is_not_continued_on_another_meaning(workplace, scenes):
    out = workplace.data / "model"
    own.model_of(scenes.source, None, out, TINY, "cpu", task="segmentation")
    (out / "checkpoint.pt").write_bytes(b"of a run that was stopped")
    (scenes.source / "classes.txt").write_text("\n".join(["ground", "box", "disc"]), "utf-8")
    with pytest.raises(AsgError, match="unfinished run of other images and classes"):
        own.model_of(scenes.source, None, out, TINY, "cpu", task="segmentation")


def test_the_report_shows_scenes_and_asks_no_other_host(workplace, scenes):
    out = workplace.data / "model"
    result = own.model_of(scenes.source, scenes.target, out, TINY, "cpu", task="segmentation")
    page = BeautifulSoup((out / "report.html").read_text("utf-8"), "html.parser")
    figures = page.select("figure.scene")
    assert len(figures) == 4 and all(len(f.select("img")) == 3 for f in figures)
    assert all(img["src"].startswith("data:image/") for img in page.select("img"))
    names = [item.get_text(strip=True) for item in page.select(".legend li")]
    assert names == list(NAMES)
    assert f"{result['final']['miou']:.1%}" in page.select_one(".answer").get_text()
    assert "mIoU on the target" in (out / "report.md").read_text("utf-8")


def test_a_model_that_answers_one_class_is_warned_of(scenes):
    held = load(scenes).validation
    labels = np.concatenate([held.decode(i)[1].ravel() for i in range(len(held))])
    ground = (labels == 0).mean()
    assert warnings.one_class_miou(held) == pytest.approx(ground / 3)
    confusion = confusion_matrix(torch.zeros(len(labels)).long(), torch.from_numpy(labels.astype(np.int64)), 3)
    assert mean_iou(confusion) == pytest.approx(ground / 3)
    assert "no better than one class everywhere" in warnings.at_chance(ground / 3 - 1e-6, held)
    assert warnings.at_chance(ground / 3 + 0.01, held) is None


def test_labels_are_laid_over_a_photo_but_for_what_has_none():
    photo, two = Image.new("RGB", (2, 1), (100, 100, 100)), np.array([[0, 0, 0], [128, 0, 0]], np.uint8)
    overlay = np.asarray(pictures.laid_over(photo, np.array([[1, UNLABELLED]], np.int16), two)).astype(int)
    assert abs(overlay - [[[116.8, 40, 40], [100, 100, 100]]]).max() <= 1  # 0.4 · photo + 0.6 · colour
