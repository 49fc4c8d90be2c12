"""A request to end (SIGTERM): a checkpoint at once, an exit code of its own, and the same command goes on."""

from __future__ import annotations

import json
import signal

import pytest
from typer.testing import CliRunner

from asg import records
from asg.config import make_config
from asg.interrupts import EXIT_CODE, requests
from asg.run import run
from asg_book.catalogue import get
from asg_book.cli import app

# `asg run` that is asked to end in the step argv[1] of its training; 0: not.
ASKED = """
import os, signal, sys
from asg.trainers import classification
from asg_book import cli
make, calls, last = classification.make_objective, [], int(sys.argv[1])

def counting(*arguments):
    objective = make(*arguments)
    def counted(*batch):
        calls.append(None)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(*batch)
    return counted

classification.make_objective = counting
sys.argv = ["asg", "run", "guidance", "--arm", "small_proxy", "--seed", "0", "--profile", "toy"]
cli.main()
"""
CLOCK = ("seconds", "seconds_preparing", "peak_memory_mb", "finished", "commit")


def without_clock(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in CLOCK}


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_saves_its_step_and_goes_on_to_the_same_record(
    workplace, tmp_path, monkeypatch, spawn
):
    process = spawn(ASKED, 5)
    _, err = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODE == 143
    assert err == "The training was asked to end: the same command goes on after step 5 of 8.\n"
    assert not list(workplace.results.rglob("*.jsonl")) and list(workplace.runs.rglob("checkpoint.pt"))
    again = spawn(ASKED, 0)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    config = get("guidance").config("toy", "small_proxy", 0)
    resumed = records.find(config)
    monkeypatch.setenv("ASG_RESULTS", str(tmp_path / "whole"))
    monkeypatch.setenv("ASG_RUNS", str(tmp_path / "whole"))
    uninterrupted = run(config, device="cpu")
    assert without_clock(resumed) == without_clock(json.loads(json.dumps(uninterrupted)))


# `asg reproduce` that is asked to end by its first record.
REPRODUCED = """
import os, signal, sys
from asg import records
from asg_book import cli
find = records.find

def asking(config):
    os.kill(os.getpid(), signal.SIGTERM)
    return find(config)

records.find = asking
sys.argv = ["asg", "reproduce", "--experiment", "lambda", "--profile", "toy", "--jobs", "2"]
cli.main()
"""


@pytest.mark.slow
def test_reproduce_that_is_asked_to_end_ends_soon_and_goes_on(workplace, spawn):
    process = spawn(REPRODUCED)
    _, err = process.communicate(timeout=120)
    assert process.returncode == EXIT_CODE, err
    assert err.endswith("Stopped. The same command goes on where it was.\n") and "rror" not in err
    done = sum(len(path.read_text().splitlines()) for path in workplace.results.rglob("*.jsonl"))
    assert 1 <= done < 20
    arguments = ["reproduce", "--experiment", "lambda", "--profile", "toy", "--jobs", "2"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert "20 of 20 runs have a current record; 0 to train" in CliRunner().invoke(app, arguments).output


# `asg` that is asked to end when its command has ended, while Python clears up.
ENDED = """
import atexit, os, signal, sys
from asg import cli
cli.app = lambda *arguments: sys.exit(0)
atexit.register(lambda: os.kill(os.getpid(), getattr(signal, sys.argv[1])))
cli.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_request_after_the_command_says_nothing_and_is_never_lost(spawn, name):
    process = spawn(ENDED, name)
    _, err = process.communicate(timeout=120)
    assert process.returncode == -getattr(signal, name) and err == ""


def test_a_request_is_noted_within_the_block_alone():
    before = signal.getsignal(signal.SIGTERM)
    with requests() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGTERM)
        assert asked()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_step_that_was_the_last_one_is_not_taken_back(workplace, monkeypatch):
    """Asked to end in the last step, a run ends with its record."""
    from asg.trainers import loop

    config = make_config(get("guidance").config("toy", "small", 0).model_dump(), {"steps": 2, "evaluations": 1})
    save = loop.save_checkpoint

    def asking(*given: object) -> None:
        if given[1].step == 2:
            signal.raise_signal(signal.SIGTERM)
        save(*given)

    monkeypatch.setattr(loop, "save_checkpoint", asking)
    assert run(config, device="cpu")["steps"] == 2
