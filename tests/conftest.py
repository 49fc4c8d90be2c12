"""What the tests share: a throw-away place to work, small image folders, a second process, the order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asg.controllers.learned import Policy, Spec, save_policy
from asg_book.policies import EPISODES, POLICIES, SEARCHES, policy_config

REPOSITORY = Path(__file__).parents[1]
PACKAGES = os.pathsep.join((str(REPOSITORY), str(REPOSITORY / "book")))  # asg and asg_book


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first, then `slow`, then `book`; within each the usual order."""
    items.sort(key=lambda item: 2 if item.get_closest_marker("book") else 1 if item.get_closest_marker("slow") else 0)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Workplace:
    data: Path
    results: Path
    runs: Path


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Empty data, results and runs folders, used by this test alone (and by the processes it spawns), on the CPU."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # equal bits are promised there
    place = Workplace(tmp_path / "data", tmp_path / "results", tmp_path / "runs")
    for name, folder in vars(place).items():
        folder.mkdir()
        monkeypatch.setenv(f"ASG_{name.upper()}", str(folder))
    return place


@pytest.fixture
def untrained_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds every declared policy of every profile, untrained, and a search of each main one."""
    folder = tmp_path / "policies"
    folder.mkdir()
    monkeypatch.setenv("ASG_POLICIES", str(folder))
    for profile in EPISODES:
        for name in POLICIES:
            meta = policy_config(name, profile)
            spec = Spec(meta.groups, meta.actions, meta.statistics, meta.normalised)
            policy = Policy(spec, torch.Generator().manual_seed(meta.seed))
            save_policy(policy, {"meta": meta.model_dump()}, folder / f"{profile}-{name}.safetensors")
        for name in SEARCHES:
            trials = [{"ratios": {str(k): k / 10 for k in range(policy_config(name, profile).groups)}}]
            (folder / f"{profile}-{name}-search.json").write_text(json.dumps({"trials": trials}))
    return folder


@dataclass(frozen=True)
class ImageFolders:
    source: Path
    target: Path


@pytest.fixture
def image_folders(tmp_path: Path) -> ImageFolders:
    """PNGs of noise around one colour a class: source/{apple,boat,cup} of 12, target/{apple,cup} of 4.

    Widths and heights differ from file to file: landscape, portrait and square, odd and even.
    """
    colours = {"apple": (200, 40, 40), "boat": (40, 60, 200), "cup": (60, 180, 60)}
    rng = np.random.default_rng(0)
    folders = ImageFolders(tmp_path / "images" / "source", tmp_path / "images" / "target")
    for folder, classes, count in ((folders.source, colours, 12), (folders.target, ("apple", "cup"), 4)):
        for name in classes:
            (folder / name).mkdir(parents=True)
            for i in range(count):
                height, width = 36 + 3 * (i % 4), 36 + 5 * (i % 3)
                noise = rng.integers(-30, 31, (height, width, 3))
                pixels = np.clip(np.array(colours[name]) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folders


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen]]:
    """``spawn(code, *arguments)`` starts Python on ``code`` in a process of its own, ended with the test.

    Warnings are errors there too; its output is text, piped; it sees the test's environment.
    """
    started: list[subprocess.Popen] = []

    def start(code: str, *arguments: object) -> subprocess.Popen:
        environment = {**os.environ, "PYTHONPATH": PACKAGES, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
