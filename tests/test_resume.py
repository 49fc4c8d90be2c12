"""An interrupted run goes on and ends with the numbers of the run that was not interrupted."""

from __future__ import annotations

import signal
from functools import cache

import pytest
import torch

from asg import records
from asg.config import RunConfig, make_config
from asg.data.images import StepSampler
from asg.run import run
from asg.trainers import classification, loop
from asg_book.profiles import PROFILES

CLOCK = ("seconds", "seconds_preparing", "peak_memory_mb", "finished")
PER_EPOCH = 48 // 8  # the toy data and batch
ARMS = {
    "plain": {"guidance": 0.0},
    "guided": {"guidance": 0.1},
    "momentum of torch": {"guidance": 0.1, "sgd": "torch"},
    "moving average": {"average": {"kind": "ema", "decay": 0.5}},
    "mean of the end": {"average": {"kind": "swa", "after": 0.4}},
    "augmented": {"guidance": 0.1, "augment": {"kind": "pasta"}},
    "projected by passes": {"project": {"kind": "tpgm", "iterations": 2}},
    "projected by steps": {"project": {"kind": "ftp"}},
    "contrastive": {"regulariser": {"kind": "csg", "strength": 0.1, "queue": 20}},
    "head first": {"head_first": 0.5},
    "relative gradients": {"control": {"kind": "auto-rgn", "schedule": True}},
}


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def timeless(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in CLOCK}


@cache
def uninterrupted(config: RunConfig) -> dict:
    """The record to compare with; it does not depend on the folders of a test, so several share it."""
    return run(config, fresh=True)


def checkpoint_step(config: RunConfig) -> int:
    path = records.runs_root() / records.run_key(config) / str(config.seed) / "checkpoint.pt"
    return torch.load(path, weights_only=True)["progress"]["step"]


def record_of(steps: list[int]):
    """A callback that notes the step of every evaluation."""
    return lambda evaluation: steps.append(evaluation["step"])


# Runs argv[1] and saves a checkpoint at every look; says so, and where argv[2] > 0 kills itself in that step.
DRIVER = """
import os, signal, sys
from asg.config import RunConfig
from asg.run import run
from asg.trainers import classification, loop

config, last = RunConfig.model_validate_json(sys.argv[1]), int(sys.argv[2])
loop.CHECKPOINT_SECONDS = 0.0
save, make, calls = loop.save_checkpoint, classification.make_objective, []

def saying(path, at, parts):
    save(path, at, parts)
    print(at.step, flush=True)

def killing(*arguments):
    objective = make(*arguments)
    def counted(*batch):
        calls.append(None)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return objective(*batch)
    return counted

loop.save_checkpoint, classification.make_objective = saying, killing
run(config)
print("finished", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["plain", "guided"])
def test_killed_at_any_moment(workplace, spawn, arm):
    """240 steps; the process is killed from outside soon after it has passed step 70, whatever it is doing."""
    config = toy(steps=240, evaluations=8, **ARMS[arm])
    process = spawn(DRIVER, config.to_json(), 0)
    for line in process.stdout:
        if int(line) >= 70:
            break
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL and "finished" not in rest
    stopped = checkpoint_step(config)
    assert 70 <= stopped < 240
    assert not list(workplace.results.rglob("*.jsonl"))

    steps = []
    resumed = run(config, on_evaluation=record_of(steps))
    assert steps == [s for s in range(30, 241, 30) if s > stopped]  # what was evaluated is not evaluated again
    assert timeless(resumed) == timeless(uninterrupted(config))
    assert timeless(records.find(config)) == timeless(resumed)


@pytest.mark.slow
def test_killed_within_an_epoch_between_two_evaluations(workplace, spawn):
    """Killed in step 28: the last checkpoint is of step 20, the third step of an epoch, half way to an evaluation."""
    config = toy(steps=80, evaluations=2, guidance=0.1)
    process = spawn(DRIVER, config.to_json(), 28)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    assert [int(line) for line in out.split()] == [0, 10, 20]
    assert checkpoint_step(config) == 20 and 20 % PER_EPOCH == 2
    steps = []
    resumed = run(config, on_evaluation=record_of(steps))
    assert steps == [40, 80]
    assert timeless(resumed) == timeless(uninterrupted(config))


class Stopped(BaseException):
    """Like an interruption from the keyboard: nothing in the package may swallow it."""


def run_and_stop(config: RunConfig, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Run until the objective is asked for the batch of ``step``, with a checkpoint at every look."""
    make, calls = classification.make_objective, []

    def stopping(*arguments: object):
        objective = make(*arguments)

        def counted(*batch: object) -> dict:
            if len(calls) == step:
                raise Stopped
            calls.append(None)
            return objective(*batch)

        return counted

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(classification, "make_objective", stopping)
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        run(config)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("step", "saved_step"),
    [(0, 0), (9, 0), (10, 10), (16, 15), (24, 20), (29, 20)],
    ids=["first step", "before a look", "at a look", "after an evaluation", "at an epoch", "last step"],
)
def test_stopped(workplace, monkeypatch, arm, step, saved_step):
    """30 steps, evaluations at 15 and 30, looks every 10: wherever it stops, the end is the same."""
    config = toy(steps=30, evaluations=2, **ARMS[arm])
    run_and_stop(config, monkeypatch, step)
    assert checkpoint_step(config) == saved_step
    assert timeless(run(config)) == timeless(uninterrupted(config))


def test_stopped_again_and_again(workplace, monkeypatch):
    """Each attempt gets ten steps further; the losses that an evaluation averages over survive three stops."""
    config = toy(steps=40, evaluations=1, guidance=0.1)
    for saved_step in (10, 20, 30):
        run_and_stop(config, monkeypatch, 10)
        assert checkpoint_step(config) == saved_step
    resumed = run(config)
    expected = uninterrupted(config)
    assert resumed["final"]["train_guidance"] == expected["final"]["train_guidance"]
    assert timeless(resumed) == timeless(expected)


def test_stopped_between_the_last_step_and_the_record(workplace, monkeypatch):
    """The finished training is not repeated."""

    def stop(*arguments: object) -> None:
        raise Stopped

    config = toy(guidance=0.1)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(records, "append", stop)
        run(config)
    assert checkpoint_step(config) == 8
    steps = []
    resumed = run(config, on_evaluation=record_of(steps))
    assert steps == []
    assert timeless(resumed) == timeless(uninterrupted(config))


def test_the_time_of_both_parts_counts(workplace, monkeypatch):
    """Wall time is of the training, not of the last attempt: the first part's seconds are kept."""
    config = toy(steps=20, evaluations=1)
    run_and_stop(config, monkeypatch, 10)
    path = records.runs_root() / records.run_key(config) / "0" / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    saved["progress"]["seconds"] = 1000.0
    torch.save(saved, path)
    assert run(config)["seconds"] >= 1000.0


@pytest.mark.parametrize("images", [48, 50])  # complete epochs, and two images left over in each
@pytest.mark.parametrize("start", [0, 1, 5, 6, 7, 13, 30])
def test_a_sampler_started_late_gives_the_tail(images, start):
    every = list(StepSampler(images, 8, seed=3, start=0, stop=30))
    tail = list(StepSampler(images, 8, seed=3, start=start, stop=30))
    assert len(every) == 30 and tail == every[start:]
    assert len(StepSampler(images, 8, seed=3, start=start, stop=30)) == len(tail)
