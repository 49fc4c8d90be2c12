"""Exported models against the model: other images and batches than the check's, and without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asg import AsgError, dense_models, export
from asg.config import make_config
from asg.model_files import load_model, save_model
from asg.models import build
from asg_book.profiles import PROFILES

CLASSES = ("a cup", "Tür", "x")
# With neither this package nor its commands: what a program of someone else's does.
ELSEWHERE = """
import json, sys
sys.modules["asg"] = None
import torch
images = torch.load(sys.argv[2], weights_only=True)
kind, path = sys.argv[1], sys.argv[3]
if kind == "torch":
    extra = {"asg.json": ""}
    answers = torch.export.load(path, extra_files=extra).module()(images)
    about = json.loads(extra["asg.json"])
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answers = tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))
    about = json.loads(session.get_modelmeta().custom_metadata_map["asg"])
torch.save({"answers": answers, "classes": about["classes"]}, sys.argv[4])
"""


def saved(folder: Path, mirror: bool, backbone: str = PROFILES["toy"]["backbone"]) -> Path:
    config = make_config(PROFILES["toy"], {"mirror": mirror, "backbone": backbone})
    student = build(config, len(CLASSES))
    with torch.no_grad():
        student.task_head[2].weight.mul_(20)  # so that answers differ
    save_model(student, config, CLASSES, folder)
    return folder


def expected(model: Path, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rule of `asg predict`, written out."""
    student, config, _ = load_model(model)
    with torch.inference_mode():
        sides = [student(x)[0] for x in ((images, images.flip(3)) if config.mirror else (images,))]
    return torch.stack([s.sigmoid() for s in sides]).mean(0), torch.stack([s.softmax(1) for s in sides]).mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_it_answers_as_the_model_without_this_package(tmp_path: Path, kind: str, mirror: bool):
    model = saved(tmp_path / "model", mirror)
    path, beside = export.export(model, kind)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    torch.save(images, tmp_path / "images.pt")
    given = [kind, tmp_path / "images.pt", path, tmp_path / "answers.pt"]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, given)], check=True, timeout=200)
    made = torch.load(tmp_path / "answers.pt", weights_only=True)
    for ours, theirs in zip(expected(model, images), made["answers"], strict=True):
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    assert float(made["answers"][1].std(0).max()) > 1e-3  # it looks at its input
    assert made["classes"] == list(CLASSES) == json.loads(beside.read_text("utf-8"))["classes"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_segmentation_model_answers_at_every_pixel(tmp_path: Path, kind: str):
    config = make_config(PROFILES["toy"], {"data": "folder-scenes", "source": "renders"})
    student = dense_models.build(config, len(CLASSES))
    save_model(student, config, CLASSES, tmp_path)
    path, beside = export.export(tmp_path, kind)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.save(images, tmp_path / "images.pt")
    given = [kind, tmp_path / "images.pt", path, tmp_path / "answers.pt"]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *map(str, given)], check=True, timeout=200)
    scores, probabilities = torch.load(tmp_path / "answers.pt", weights_only=True)["answers"]
    with torch.inference_mode():
        logits = student(images)[0]  # (2, C, 32, 32)
    torch.testing.assert_close(scores, logits.sigmoid(), atol=1e-4, rtol=0)
    torch.testing.assert_close(probabilities, logits.softmax(1), atol=1e-4, rtol=0)
    assert "(N, C, 32, 32)" in json.loads(beside.read_text("utf-8"))["output"]
    with pytest.raises(AsgError, match="A segmentation model is no network of timm"):
        export.export(tmp_path, "timm")


@pytest.mark.slow
def test_timm_takes_the_backbone_and_torch_the_head(tmp_path: Path):
    import timm

    model = saved(tmp_path / "model", mirror=False)
    path, head, beside = export.export(model, "timm", tmp_path / "elsewhere" / "mine.safetensors")
    about = json.loads(beside.read_text("utf-8"))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    student, _, _ = load_model(model)
    network = timm.create_model("test_efficientnet", num_classes=0, checkpoint_path=str(path)).eval()
    layers = torch.nn.Sequential(torch.nn.Linear(256, student.task_head[0].out_features), torch.nn.ReLU())
    layers.append(torch.nn.Linear(student.task_head[0].out_features, len(CLASSES)))
    layers.load_state_dict(load_file(head))
    mean, std = (torch.tensor(about[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = layers(network((images / 255 - mean) / std))
        torch.testing.assert_close(logits, student(images)[0], atol=1e-4, rtol=0)
    assert about["head"] == head.name and "num_classes=0" in about["use"]


def test_a_network_that_is_not_timms_is_no_timm_checkpoint(tmp_path: Path):
    model = saved(tmp_path / "model", False, "torchvision:resnet18")
    with pytest.raises(AsgError, match=r"torchvision:resnet18 is no network of timm: choose onnx or torch"):
        export.export(model, "timm")


def test_what_answers_otherwise_is_removed(tmp_path: Path):
    path = tmp_path / "exported.onnx"
    path.touch()
    with pytest.raises(AsgError, match=r"exported\.onnx would answer up to 0\.01 otherwise than the model"):
        export.check(path, (torch.zeros(2),), (torch.tensor([0.0, 0.01]),))
    assert not path.exists()
    with pytest.raises(AsgError, match="would answer up to nan"):
        export.check(path, (torch.zeros(2),), (torch.full((2,), torch.nan),))


@pytest.mark.slow
def test_every_export_has_a_description_of_its_own_and_the_model_stays(tmp_path: Path):
    model = saved(tmp_path / "model", False)
    before = {path: path.read_bytes() for path in model.iterdir()}
    beside = [export.export(model, kind)[-1] for kind in ("torch", "timm")]
    uses = [json.loads(path.read_text("utf-8"))["use"] for path in beside]
    assert "torch.export.load('exported.pt2')" in uses[0] and "checkpoint_path='exported.safetensors'" in uses[1]
    assert export.export(model, "torch", model / "model.pt2")[-1].name == "model.pt2.json"
    with pytest.raises(AsgError, match=r"model\.safetensors is a file of the model itself: give another --out"):
        export.export(model, "timm", tmp_path / "model" / ".." / "model" / "model.safetensors")
    for kind, ending in export.ENDINGS.items():
        for name in ("model.json", "model"):
            with pytest.raises(AsgError, match=rf"{name} does not end in \{ending}: give another --out"):
                export.export(model, kind, model / name)
    assert {path: path.read_bytes() for path in before} == before


def test_a_full_disk_leaves_no_export(tmp_path: Path, monkeypatch):
    model = saved(tmp_path / "model", False)

    def full(path: Path, tensors: dict) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write_tensors", full)
    with pytest.raises(
        AsgError, match=r"exported\.safetensors cannot be written \(No space left on device\): free some"
    ):
        export.export(model, "timm")
    assert not list(model.glob("exported*"))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(AsgError, match=r"pip install \"asg-book\[export\]\""):
        export.export(saved(tmp_path / "model", False), "onnx")
