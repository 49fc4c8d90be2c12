"""ImageNet's validation set: read in two layouts, and what a network still knows of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from asg import AsgError, remembering
from asg.config import make_config
from asg.data import data_root, imagenet
from asg.models import build
from asg_book.catalogue import get
from asg_book.cli import app
from asg_book.profiles import PROFILES

SAMPLE = Path(__file__).parents[2] / "shared" / "imagenet_sample"


def photos_with_labels(folder: Path, count: int = 6) -> Path:
    folder.mkdir()
    for k in range(count):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 60 + k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.JPEG", quality=95)
    rows = "".join(f"{k}.JPEG,{100 * k}\n" for k in range(count))
    (folder / "labels.csv").write_text(f"file,label\n{rows}")
    return folder


def test_both_layouts_give_the_same_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "EACH", 2)
    for k in range(imagenet.CLASSES):
        (folder := tmp_path / "val" / f"n{k:08}").mkdir(parents=True)
        for name in ("b", "a"):
            (folder / f"{name}.JPEG").write_bytes(b"")
    images = imagenet.load(tmp_path / "val", 224)
    assert len(images) == 2000 and images.names[:3] == ("n00000000/a.JPEG", "n00000000/b.JPEG", "n00000001/a.JPEG")
    assert images.labels.tolist() == [k for k in range(1000) for _ in range(2)]
    listed = imagenet.load(photos_with_labels(tmp_path / "few"), 32)
    assert listed.labels.tolist() == [0, 100, 200, 300, 400, 500]


def test_the_centre_of_the_resized_photograph_is_seen(tmp_path):
    images = imagenet.load(photos_with_labels(tmp_path / "few"), 28)
    with Image.open(tmp_path / "few" / "1.JPEG") as image:  # 61 × 40: the shorter side to 32, the longer to 48
        expected = np.asarray(image.resize((48, 32), Image.BILINEAR))[2:30, 10:38]
    assert np.array_equal(images.decode(1), expected)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "labels.csv").unlink(), r"is not at .* \(0 class folders of 1,000\): unpack the set with"),
        (lambda f: (f / "3.JPEG").unlink(), "line 5: no such file"),
        (
            lambda f: (f / "labels.csv").write_text("file,label\n0.JPEG,1000\n"),
            "line 2: no such file, or no label from 0",
        ),
        (lambda f: (f / "labels.csv").write_text("file,label\n"), "names no file"),
        (lambda f: (f / "labels.csv").write_text("name\n0.JPEG\n"), "line 2: no such file"),
    ],
)
def test_a_wrong_layout_is_a_sentence(tmp_path, break_it, message):
    break_it(photos_with_labels(tmp_path / "few"))
    with pytest.raises(AsgError, match=message):
        imagenet.load(tmp_path / "few", 32)


def test_a_folder_with_too_few_is_named(tmp_path):
    for k in range(imagenet.CLASSES):
        (tmp_path / f"n{k:08}").mkdir()
    with pytest.raises(AsgError, match=r"1000 folders of .* have not 50 photographs .first n00000000"):
        imagenet.load(tmp_path, 32)


def test_a_run_is_measured_once_and_the_answers_are_its_networks(workplace, tmp_path):
    folder = photos_with_labels(tmp_path / "few")
    arguments = [
        "run",
        "guidance",
        "--arm",
        "small_proxy",
        "--seed",
        "0",
        "--profile",
        "toy",
        "--imagenet",
        str(folder),
    ]
    printed = CliRunner().invoke(app, arguments).stdout
    assert "  ImageNet: top-1 " in printed and printed.rstrip().endswith("of 6")
    config = get("guidance").config("toy", "small_proxy", 0)
    remembered = json.loads(remembering.path_of(config).read_text())
    photos = imagenet.load(folder, remembering.SIZE)
    network = remembering.trained(config).eval()
    with torch.inference_mode():
        logits = network.imagenet_logits(photos.batch(range(6)))
    first = [int(logits[k].argmax()) == 100 * k for k in range(6)]
    five = [100 * k in logits[k].argsort(descending=True)[:5].tolist() for k in range(6)]
    assert (remembered["top1"], remembered["top5"]) == pytest.approx((sum(first) / 6, sum(five) / 6))
    before = remembering.path_of(config).stat().st_mtime_ns
    assert CliRunner().invoke(app, arguments).stdout == printed
    assert remembering.path_of(config).stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_pretrained_network_knows_what_is_published():
    """EfficientNet-Lite0's published top-1 is 75 % of all; of these 300 it knows 86 % and 96 %, at this size."""
    if not SAMPLE.exists() or not (data_root() / "mini").exists():
        pytest.skip("300 photographs of ImageNet, which may not be passed on, and the weights are not both at hand")
    lite = {"backbone": "timm:tf_efficientnet_lite0", "weights": "lite0"}
    student = build(make_config(PROFILES["toy"], lite), 3).eval()
    knows = remembering.accuracies(student, imagenet.load(SAMPLE, 224), torch.device("cpu"))
    assert knows["top1"] == pytest.approx(0.86, abs=0.03) and knows["top5"] == pytest.approx(0.96, abs=0.02)
