"""Runs that can be watched, and the list of those that are not finished."""

from __future__ import annotations

import os
import signal

import pytest
from typer.testing import CliRunner

from asg import AsgError, progress, records, tracking
from asg.config import make_config
from asg.run import run
from asg_book.cli import app
from asg_book.profiles import PROFILES


def config_of(**overrides: object):
    return make_config(PROFILES["toy"], {"steps": 20, "evaluations": 2, "guidance": 0.1, **overrides})


@pytest.mark.slow
def test_what_tensorboard_shows_is_what_the_record_says(workplace, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("ASG_TRACK", "tensorboard")
    config = config_of()
    record = run(config, device="cpu")
    (folder,) = [path for path in (workplace.runs / "watched").iterdir() if path.is_dir()]
    assert folder.name == f"toy seed 0 {config.identity()}"
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/total", "loss/task", "loss/guidance", "speed/images_per_second", "rate/head"} <= tags
    for name in ("validation", "accuracy", "kl"):
        points = {event.step: event.value for event in events.Scalars(f"evaluation/{name}")}
        assert points == pytest.approx({e["step"]: e[name] for e in record["evaluations"]}, rel=1e-6)
    assert [event.step for event in events.Scalars("rate/head")] == [10, 20]
    assert all(event.value > 0 for event in events.Scalars("speed/images_per_second"))


@pytest.mark.slow
def test_a_run_that_is_watched_is_the_run_that_is_not(workplace, tmp_path, monkeypatch):
    alone = run(config_of(), device="cpu")
    monkeypatch.setenv("ASG_TRACK", "tensorboard")
    monkeypatch.setenv("ASG_RESULTS", str(tmp_path / "again"))
    watched = run(config_of(), device="cpu")
    assert alone["evaluations"] == watched["evaluations"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("paper", "There is no tracker 'paper': choose from tensorboard, wandb, mlflow."), ("wandb", "pip install wandb")],
)
def test_a_tracker_that_is_not_there_is_a_sentence(workplace, monkeypatch, name: str, message: str):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    monkeypatch.setenv("ASG_TRACK", name)
    with pytest.raises(AsgError, match=message):
        run(config_of(), device="cpu")


def test_runs_that_are_not_finished_are_listed_with_their_reason(workplace, monkeypatch):
    listed = CliRunner().invoke(app, ["runs"]).stdout
    assert listed.startswith("No run is in progress, stopped or failed.\n0 finished runs have kept their network")

    def stop(evaluation: dict) -> None:
        if evaluation["step"] == 10:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        run(config_of(), device="cpu", on_evaluation=stop)
    signal.signal(signal.SIGINT, before)
    with pytest.raises(AsgError, match="diverged"):
        run(config_of(lr=1e30), device="cpu")
    with records.run_folder(config_of(seed=5)) as folder:
        progress.write(folder, {"config": {"profile": "toy", "data": "toy", "seed": 5}, "begun": "2026-01-01"})
        running, *others = CliRunner().invoke(app, ["runs"]).stdout.splitlines()
    assert running.startswith("running  toy ") and "seed 5: not yet evaluated" in running
    states = sorted(line.split()[0] for line in others[:-1])
    assert states == ["failed", "stopped"] and others[-1].startswith("0 finished runs")
    assert next("Diverged: The training diverged" in line for line in others if line.startswith("failed"))
    assert next("step 10, begun" in line for line in others if line.startswith("stopped"))
    run(config_of(), device="cpu")  # goes on, and is finished
    listed = CliRunner().invoke(app, ["runs"]).stdout
    assert "seed 0: step 10" not in listed and "1 finished runs" in listed


def test_the_option_reaches_the_runs_of_other_processes(workplace, monkeypatch):
    monkeypatch.setenv("ASG_TRACK", "")  # put back after the test
    done = CliRunner().invoke(app, ["run", "oracle", "--profile", "toy", "--track", "paper"])
    assert str(done.exception).startswith("There is no tracker 'paper'")
    assert os.environ["ASG_TRACK"] == "paper"
