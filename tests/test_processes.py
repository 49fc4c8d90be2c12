"""Several processes on one run: the numbers of one process, and no wait, error or print that goes astray.

Processes of the CPU stand in for GPUs: torch's launcher starts them, as a user would.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PACKAGES
from typer.main import get_command
from typer.testing import CliRunner

from asg import AsgError, processes
from asg.cli import TOGETHER
from asg.config import RunConfig, make_config
from asg.controllers.learned import Policy, Spec, save_policy
from asg.run import network_path, run
from asg.trainers import self_training
from asg.trainers.devices import make_accelerator
from asg_book.catalogue import get
from asg_book.cli import app
from asg_book.golden import centred
from asg_book.profiles import PROFILES

# The result of every configuration of argv[1], a JSON list of (way, configuration), goes to argv[2], by process.
# The main process takes longer for the first teacher's outputs than the others may wait for a message of the group.
DRIVER = """
import json, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from asg.config import RunConfig
from asg.trainers import frozen
from test_processes import result

dist.init_process_group("gloo", timeout=timedelta(seconds=10))
forward_all, pauses = frozen.forward_all, [11]

def slow(*arguments):
    time.sleep(pauses.pop() if pauses else 0)
    return forward_all(*arguments)

frozen.forward_all = slow
asked = json.loads(Path(sys.argv[1]).read_text())
results = [result(way, RunConfig.model_validate(fields), Path(sys.argv[2])) for way, fields in asked]
Path(sys.argv[2], f"{dist.get_rank()}.json").write_text(json.dumps(results))
dist.destroy_process_group()
"""


def result(way: str, config: RunConfig, folder: Path) -> dict:
    """What a run ends with, by ``run``, or by the rounds of self-training alone from a centred start."""
    if way == "run":
        return run(config)
    return self_training.train(config, folder / config.identity(), centred(config))[0]


def launch(arguments: list[str]) -> subprocess.CompletedProcess:
    """``torchrun`` on a free port; its output, and the processes' own, as text."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{PACKAGES}{os.pathsep}{Path(__file__).parent}",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=240, env=environment, check=False
    )


def together(arms: list[tuple[str, RunConfig]], folder: Path) -> list[list[dict]]:
    """The :func:`result` of each arm, one list a process."""
    script, asked = folder / "driver.py", folder / "configs.json"
    script.write_text(DRIVER)
    asked.write_text(json.dumps([(way, config.model_dump()) for way, config in arms]))
    done = launch([str(script), str(asked), str(folder)])
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], {"evaluations": 4, **overrides})


@pytest.fixture
def arms(tmp_path: Path) -> dict[str, tuple[str, RunConfig]]:
    """Name → (way, configuration) of one run of each kind, evaluated at every second step."""
    policy = tmp_path / "policy.safetensors"
    save_policy(Policy(Spec(groups=3), torch.Generator().manual_seed(0)), {}, policy)
    scenes = {"data": "toy-scenes", "batch": 4, "guidance": 1.0, "chunks": 2}
    adapt = {"rounds": 1, "length": 0.2, "rate": 1.0, "portion": 0.5, "growth": 0.3, "mrkld": 0.1}
    rounds = {**adapt, "rounds": 2, "length": 0.5, "rate": 0.3}
    control = {"kind": "learned", "policy": str(policy), "shortest": 2, "schedule": True}
    return {
        "plain": ("run", toy()),
        "guided": ("run", toy(guidance=0.1)),
        "penalised": ("run", toy(regulariser={"kind": "ewc", "strength": 1.0})),
        "learned": ("run", toy(guidance=0.1, control=control)),
        "augmented": ("run", toy(guidance=0.1, augment={"kind": "pasta"})),
        "contrastive": ("run", toy(regulariser={"kind": "csg", "strength": 0.1, "queue": 20})),
        "averaged": ("run", toy(average={"kind": "ema", "decay": 0.5})),
        "relative gradients": ("run", toy(control={"kind": "auto-rgn"})),
        "projected by passes": ("run", toy(project={"kind": "tpgm", "iterations": 2})),
        "projected by steps": ("run", toy(project={"kind": "ftp"})),
        "scenes": ("run", toy(**scenes, cap=0.002)),
        "crops": ("run", toy(**scenes, crop=48)),
        "adapted": ("run", toy(steps=40, warmup=4, adapt=adapt)),
        "rounds": ("rounds alone", toy(adapt=rounds)),
        "soft rounds": ("rounds alone", toy(adapt={**rounds, "lrent": 0.25})),
        "rounds on scenes": ("rounds alone", toy(data="toy-scenes", batch=4, adapt=rounds)),
    }


def curve(record: dict) -> list[dict[str, float]]:
    """Losses of every evaluation: those of the steps before it, and those on held-out images."""
    return [
        {name: value for name, value in evaluation.items() if name.startswith("train_") or name in LOSSES}
        for evaluation in record["evaluations"]
    ]


LOSSES = ("validation_loss", "validation_loss_error", "kl")
CLOCK = ("seconds", "seconds_preparing", "peak_memory_mb")


def timeless(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in CLOCK}


@pytest.mark.slow
def test_two_processes_end_with_the_numbers_of_one(workplace, tmp_path, arms, monkeypatch):
    pair = together(list(arms.values()), tmp_path)
    monkeypatch.setenv("ASG_RESULTS", str(tmp_path / "alone"))
    monkeypatch.setenv("ASG_RUNS", str(tmp_path / "alone"))
    for k, (arm, (way, config)) in enumerate(arms.items()):
        first, second = (process[k] for process in pair)
        assert timeless(first) == timeless(second), arm
        alone = result(way, config, tmp_path / "alone")
        assert (first["processes"], alone["processes"]) == (2, 1)
        assert len(curve(first)) > 1 and all("kl" in losses for losses in curve(first))
        for ours, theirs in zip(curve(first), curve(alone), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4, rel=0), arm  # sums in another order: golden runs' tolerance
        assert first.get("decisions") == alone.get("decisions")
        for name in ("validation", "agreement", "predicted", "per_class", "labelled", "pseudo", "thresholds"):
            assert first["final"].get(name) == pytest.approx(alone["final"].get(name), abs=1e-5), (arm, name)


# A run of argv[1]; what happens on the way stands in argv[2], Python of its own.
STAGED = """
import os, sys
from asg import AsgError, cli
from asg.config import RunConfig
from asg.run import run
from asg.trainers import classification

config, rank = RunConfig.model_validate_json(sys.argv[1]), int(os.environ["RANK"])
exec(sys.argv[2])
cli.app = lambda words: print("accuracy", run(config)["final"]["accuracy"])
cli.main()
"""
NO_IMAGE = """
from asg.data import toy
draw = toy.draw
def failing(*a):
    if rank == 0:
        raise AsgError("the first image is broken: replace it.")
    return draw(*a)
toy.draw = failing
"""
ALONE = """
cli.GRACE = 2.0
make = classification.make_objective
def making(*a):
    if rank == 1:
        raise AsgError("this process has no memory: buy some.")
    return make(*a)
classification.make_objective = making
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", [NO_IMAGE, ALONE], ids=["main", "other"])
def test_an_error_of_one_process_ends_all_and_is_said_once(workplace, tmp_path, stage: str):
    sentence = re.search(r'AsgError\("(.*)"\)', stage)[1]
    script = tmp_path / "staged.py"
    script.write_text(STAGED)
    done = launch([str(script), toy().to_json(), stage])
    assert done.returncode != 0 and "accuracy" not in done.stdout
    assert done.stderr.count(f"error: {sentence}") == 1, done.stderr
    assert not list(workplace.results.rglob("*.jsonl"))


@pytest.mark.slow
def test_the_command_locks_writes_and_prints_once(workplace):
    """The run of two processes is the record and the network that one process finds."""
    arguments = ["run", "guidance", "--arm", "small_proxy", "--seed", "0", "--profile", "toy"]
    done = launch(["-m", "asg_book.cli", *arguments])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("guidance small_proxy (toy) seed 0: accuracy") == len(done.stdout.splitlines()) == 1
    (file,) = workplace.results.rglob("*.jsonl")
    assert len(file.read_text().splitlines()) == 1
    again = CliRunner().invoke(app, arguments)
    assert again.stdout == done.stdout
    assert network_path(get("guidance").config("toy", "small_proxy", 0)).exists()
    assert len(list((workplace.data / "cache" / "images").iterdir())) == 3  # nothing is left half written


def environment(monkeypatch: pytest.MonkeyPatch, processes: int, cards: int = 0) -> None:
    """As if a launcher had started ``processes`` on a machine with so many GPUs."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)


def test_a_batch_that_does_not_divide_is_a_sentence(monkeypatch):
    environment(monkeypatch, 3)
    with pytest.raises(AsgError, match="A batch of 8 cannot be split over 3 processes: choose a batch that"):
        make_accelerator(toy(), "cpu")


@pytest.mark.parametrize("command", sorted(get_command(app).commands.keys() - set(TOGETHER)))
def test_a_command_of_one_process_says_so_under_a_launcher(monkeypatch, command: str):
    environment(monkeypatch, 2)
    done = CliRunner().invoke(app, [command])
    assert str(done.exception) == f"`asg {command}` is the work of one process: start it without a launcher."


@pytest.mark.parametrize("device", ["banana", "cuda:7", "cuda", "cuda:", "mps:1", "CPU", ""])
def test_a_device_that_is_not_there_is_a_sentence_with_those_that_are(workplace, monkeypatch, device: str):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    environment(monkeypatch, 1)
    with pytest.raises(AsgError, match=f"There is no device {device!r} here: choose from cpu, or give none"):
        run(toy(), device=device)
    environment(monkeypatch, 1, cards=2)
    for other in ("cuda:2", "banana"):
        with pytest.raises(AsgError, match=rf"no device {other!r} here: choose from cpu, cuda, cuda:0, cuda:1, or"):
            make_accelerator(toy(), other)


def test_a_device_that_is_there_is_taken(monkeypatch):
    """Also where the environment asks for another; the card itself is not touched before something is put on it."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("accelerate.state.check_cuda_p2p_ib_support", lambda: True)
    environment(monkeypatch, 1, cards=2)
    for device in ("cuda:1", "cuda:0", "cuda", "cpu"):
        assert str(make_accelerator(toy(), device).device) == device
    assert make_accelerator(toy(), None).device.type == "cpu"


def test_each_of_several_processes_has_a_device_of_its_own(monkeypatch):
    environment(monkeypatch, 2, cards=2)
    assert (processes.device_kind("cuda"), processes.device_kind("cpu")) == ("cuda", "cpu")
    with pytest.raises(AsgError, match="2 processes cannot share cuda:1: start one process, or"):
        processes.device_kind("cuda:1")
    environment(monkeypatch, 4, cards=2)
    with pytest.raises(AsgError, match="4 processes were started on a machine with 2 GPUs: start at most 2, or give"):
        processes.device_kind("cuda")
