"""The check of a GPU, tried on a CPU; and what it compares: compiled and bf16 steps against plain ones."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from asg.config import make_config
from asg.run import run
from asg_book import status
from asg_book.profiles import PROFILES

spec = importlib.util.spec_from_file_location("gpu", Path(__file__).parents[1] / "benchmarks" / "gpu.py")
gpu = importlib.util.module_from_spec(spec)
sys.modules["gpu"] = gpu
spec.loader.exec_module(gpu)


def measure(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict:
    monkeypatch.setattr(gpu, "POOL", 4)
    given = ["gpu.py", "--device", "cpu", "--steps", "1", "--rounds", "1", "--out", str(out), *arguments]
    monkeypatch.setattr(sys, "argv", given)
    gpu.main()
    return json.loads(out.read_text())


@pytest.mark.slow
def test_every_kind_of_case_is_measured_and_shown(workplace, monkeypatch, capsys):
    out = workplace.results / "gpu.json"
    names = ["plain, fp32", "guided, cached teacher, bf16", "guided, live teacher, bf16"]
    small = ["--set", "backbone=timm:test_efficientnet", "--set", "size=32", "--set", "batch=2"]
    measured = measure(monkeypatch, out, *small, *(part for name in names for part in ("--case", name)))
    assert list(measured["cases"]) == names and measured["device"] == "cpu" and measured["processes"] == 1
    for case in measured["cases"].values():
        assert case["images_per_second"] * case["seconds_per_step"] == pytest.approx(2)
        assert case["evaluated_per_second"] > 0 and case["planned_mb"] > 0 and case["memory_mb"] is None
    assert "plain, fp32" in status.gpu().to_html() and capsys.readouterr().out.startswith("plain, fp32: ")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["FCN-8s, crop 512", "DeepLab-v2, crop 512"])
def test_segmentation_is_measured_with_the_papers_networks(workplace, monkeypatch, case: str):
    small = ["--set", "crop=64", "--set", "batch=1", "--case", case]
    measured = measure(monkeypatch, workplace.results / "gpu.json", *small)
    assert measured["cases"][case]["images_per_second"] > 0


def test_without_a_gpu_or_a_measurement_there_is_a_sentence(workplace, monkeypatch):
    assert "Not measured: `python benchmarks/gpu.py`" in status.gpu().data
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="there is no CUDA device"):
        gpu.main()
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--case", "ResNet"])
    with pytest.raises(SystemExit, match="no case 'ResNet': choose from plain, fp32"):
        gpu.main()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "tolerance"), [({"compile": True}, 1e-5), ({"precision": "bf16"}, 2e-2)], ids=["compiled", "bf16"]
)
def test_faster_steps_have_the_losses_of_plain_ones(workplace, changed: dict, tolerance: float):
    """Of the first steps, in nats; bf16 has eight bits."""
    config = make_config(PROFILES["toy"], {"guidance": 0.1, "steps": 3, "evaluations": 1})
    plain = run(config, device="cpu")["first_losses"]
    faster = run(config.model_copy(update=changed), fresh=True, device="cpu")["first_losses"]
    for ours, theirs in zip(plain, faster, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance), (ours, theirs)
