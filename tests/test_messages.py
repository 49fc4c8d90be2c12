"""What commands tell beside their results, and how much of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from asg import cli, messages, records
from asg.run import training
from asg_book.catalogue import get
from asg_book.cli import app

RUN = ["run", "guidance", "--arm", "small_proxy", "--seed", "0", "--profile", "toy", "--device", "cpu"]
SHORT = ["--set", "steps=20", "--set", "evaluations=2"]
GOES_ON = "goes on after step 10 of 20"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """The environment and the logger as they were, after each test."""
    monkeypatch.setenv("TQDM_DISABLE", "0")
    logger = logging.getLogger("asg")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def streams_of(*words: str) -> tuple[str, str]:
    """What a command writes to the standard output and error streams."""
    done = CliRunner().invoke(app, [*words, *RUN, *SHORT], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


def test_verbose_tells_of_every_evaluation_and_changes_no_result(workplace):
    result, evaluations = streams_of("--verbose")
    for step in (0, 10, 20):
        assert sum(f"step {step}: " in line and "validation" in line for line in evaluations.splitlines()) == 1
    assert "step 20: checkpoint in " in evaluations
    assert "computing teacher of the ImageNet network" in evaluations
    again = streams_of()
    assert again[0] == result and "step 10: " not in again[1]


def test_a_run_that_goes_on_says_so_and_quiet_tells_nothing_but_the_result(workplace):
    (config,) = get("guidance").configs("toy", "small_proxy", [0], {"steps": 20, "evaluations": 2})

    def stopped_half_way() -> None:
        with records.run_folder(config) as folder:
            training(config, folder, "cpu", stop=10)

    stopped_half_way()
    result, messages_told = streams_of()
    assert GOES_ON in messages_told
    records.records_path(config).unlink()
    stopped_half_way()
    command = [sys.executable, "-m", "asg_book.cli", *RUN, *SHORT, "--quiet"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert (quiet.stdout, quiet.stderr) == (result, "")


def test_levels_may_stand_anywhere_and_one_at_a_time(monkeypatch):
    assert messages.with_level_first(["train", "--source", "a", "--quiet"]) == ["--quiet", "train", "--source", "a"]
    monkeypatch.setattr(sys, "argv", ["asg", *RUN, "--quiet", "--verbose"])
    with pytest.raises(SystemExit, match="error: --quiet and --verbose ask for opposite things"):
        cli.main()


def test_of_several_processes_the_main_one_alone_tells(monkeypatch):
    logger = logging.getLogger("asg")
    messages.listen(logging.WARNING)
    assert os.environ["TQDM_DISABLE"] == "1"
    assert logger.isEnabledFor(logging.WARNING) and not logger.isEnabledFor(logging.INFO)
    monkeypatch.setenv("RANK", "1")
    messages.listen()
    assert not logger.isEnabledFor(logging.CRITICAL)
