"""The built wheel in an empty folder, far from the repository: it trains, answers, adapts and exports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from PIL import Image, ImageDraw

from asg.data import data_root

WEIGHTS = data_root() / "mini" / "efficientnet_lite0.safetensors"
QUICK = [*(f"--set={s}" for s in ("steps=16", "warmup=2", "batch=8", "size=64", "evaluations=1")), "--device", "cpu"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as pip unpacks it; what it needs is taken from this environment."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    names = subprocess.run(["git", "-C", REPOSITORY, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)  # fmt: skip
    for name in names.stdout.splitlines():
        if name.startswith(("asg/", "book/asg_book/", "policies/", "pyproject", "README", "LICENSE")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True, timeout=300)
    return folder / "site"


@pytest.fixture
def asg(installed: Path, tmp_path: Path):
    """The installed command in an empty home and folder."""
    home = tmp_path / "home"
    mini = home / ".cache" / "asg" / "data" / "mini"
    mini.mkdir(parents=True)
    if WEIGHTS.exists():  # else they are fetched, as at a user's first training
        shutil.copy(WEIGHTS, mini)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ASG_", "XDG_", "PYTHON"))}
    env = {
        **environment,
        "HOME": str(home),
        "PYTHONPATH": str(installed),
        "TQDM_DISABLE": "1",
        "ACCELERATE_USE_CPU": "true",
    }

    def run(*words: object, fails: bool = False) -> subprocess.CompletedProcess:
        command = [sys.executable, "-P", "-m", "asg_book.cli", *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert bool(done.returncode) == fails, done.stderr
        return done

    return run


def shapes(folder: Path, count: int) -> Path:
    for kind in ("disc", "box"):
        for k in range(count):
            image = Image.new("RGB", (40, 40), (20 * k % 255, 90, 160))
            draw = ImageDraw.Draw(image)
            (draw.ellipse if kind == "disc" else draw.rectangle)((5 + k, 5, 25 + k, 30), fill=(250, 10 * k, 30))
            (folder / kind).mkdir(parents=True, exist_ok=True)
            image.save(folder / kind / f"{k}.png")
    return folder


@pytest.mark.slow
def test_a_wheel_trains_answers_adapts_and_writes_nothing_beside_its_code(installed: Path, asg, tmp_path: Path):
    before = sorted(p for p in installed.rglob("*") if "__pycache__" not in p.parts)
    renders, photos = shapes(tmp_path / "renders", 8), shapes(tmp_path / "photos", 4)
    made = asg("train", "--source", renders, "--target", photos, "--out", "model", *QUICK)
    assert "# ASG report" in made.stdout and "The model is in model" in made.stdout
    assert asg("predict", "model", photos).stdout.count("\n") == 9
    adapted = asg(
        "adapt",
        "model",
        "--source",
        renders,
        "--target",
        photos,
        "--out",
        "adapted",
        "--set=rounds=1",
        "--set=portion=0.5",
    )
    assert "Adapted in" in adapted.stdout
    assert "exported.pt2" in asg("export", "model", "--format", "torch").stdout
    assert sorted(p for p in installed.rglob("*") if "__pycache__" not in p.parts) == before
    assert {p.name for p in tmp_path.iterdir()} == {"home", "renders", "photos", "model", "adapted"}
    assert (tmp_path / "home" / ".cache" / "asg" / "data").is_dir()


@pytest.mark.slow
def test_learned_rates_come_with_the_wheel_and_the_book_does_not(installed: Path, asg, tmp_path: Path):
    renders = shapes(tmp_path / "renders", 8)
    learned = '--set=control={"kind": "learned", "policy": "cartoon-asg", "shortest": 1}'
    asg("train", "--source", renders, "--out", "model", *QUICK, learned)
    assert (installed / "asg" / "py.typed").exists()
    error = asg("book", fails=True).stderr
    assert "`asg book` needs the repository" in error and "Traceback" not in error


def test_the_wheel_holds_what_it_needs(installed: Path):
    names = {str(p.relative_to(installed)) for p in installed.rglob("*") if p.is_file()}
    needed = {"asg/py.typed", "asg/report/page.html.jinja", "asg/policies/cartoon-asg.safetensors", "asg/data/mini_classes.json", "asg/data/cad_index.csv"}  # fmt: skip
    assert needed <= names and not any(name.startswith("tests") for name in names)
    with zipfile.ZipFile(next(installed.parent.glob("*.whl"))) as wheel:
        assert sum(info.file_size for info in wheel.infolist()) < 20e6
