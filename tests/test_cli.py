"""The command line, end to end."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from asg import AsgError, models, records
from asg.cli import main, parse_settings
from asg.data.folder import opaque
from asg.data.images import read_image, square
from asg.own import model_of
from asg_book import pages
from asg_book.cli import app, train_missing
from asg_book.experiments import get

TINY = {"size": 32, "backbone": "timm:test_efficientnet", "weights": "random", "head_width": 8, "steps": 6,
        "batch": 4, "warmup": 2, "evaluations": 2, "threads": 1}  # fmt: skip


def test_settings_are_json_or_text() -> None:
    assert parse_settings(["lr=0.01", "sgd=torch", "steps=5", 'rendering={"seed": 1}']) == {
        "lr": 0.01, "sgd": "torch", "steps": 5, "rendering": {"seed": 1},
    }  # fmt: skip
    with pytest.raises(AsgError, match="FIELD=VALUE"):
        parse_settings(["lr"])


def test_run_prints_the_record_and_the_second_time_only_reads_it(workplace) -> None:
    arguments = ["run", "guidance", "--arm", "small_proxy", "--seed", "0", "--profile", "toy"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "guidance small_proxy seed 0: accuracy" in first.output
    began = time.monotonic()
    again = CliRunner().invoke(app, arguments)
    assert first.stdout.splitlines()[-1] == again.stdout.splitlines()[-1]
    assert time.monotonic() - began < 5


def test_fresh_repeats_the_record_bit_for_bit(workplace) -> None:
    arguments = ["run", "guidance", "--arm", "large_proxy", "--seed", "3", "--profile", "toy"]
    CliRunner().invoke(app, arguments)
    fresh = CliRunner().invoke(app, [*arguments, "--fresh"])
    assert "identical: True" in fresh.output


def test_reproduce_trains_what_is_missing_and_then_nothing(workplace) -> None:
    arguments = ["reproduce", "--experiment", "oracle", "--profile", "toy", "--jobs", "1"]
    assert "0 of 1 runs have a current record; 1 to train" in CliRunner().invoke(app, arguments).output
    assert "1 of 1 runs have a current record; 0 to train" in CliRunner().invoke(app, arguments).output


def test_reproduce_removes_what_is_outdated_and_nothing_else(workplace, monkeypatch) -> None:
    """A record of settings that no experiment declares stays as long as its code and data do."""
    CliRunner().invoke(app, ["run", "oracle", "--profile", "toy", "--set", "size=40"])
    (own,) = workplace.results.rglob("*.jsonl")
    (own.parent / f"{'0' * 12}.jsonl").write_text(own.read_text())
    (own.parent / f"{'1' * 12}.jsonl").write_text('{"format": 0}\n')
    arguments = ["reproduce", "--experiment", "oracle", "--profile", "toy", "--jobs", "1"]
    printed = CliRunner().invoke(app, arguments).output
    assert own.exists() and printed.count("outdated") == 2
    assert len(list(workplace.results.rglob("*.jsonl"))) == 2
    monkeypatch.setattr(records, "recipe_hash", lambda *_: "edited")
    assert CliRunner().invoke(app, arguments).output.count("outdated") == 2
    assert not own.exists()


def test_reproduce_keeps_a_file_with_a_broken_line(workplace) -> None:
    """The records beside the broken line were computed; whoever owns them is told which line it is."""
    arguments = ["reproduce", "--experiment", "oracle", "--profile", "toy", "--jobs", "1"]
    CliRunner().invoke(app, arguments)
    (file,) = workplace.results.rglob("*.jsonl")
    file.write_text(whole := file.read_text() + '{"format": 1, "seed"\n')
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, AsgError) and f"{file}, line 2 is no record" in str(result.exception)
    assert file.read_text() == whole


@pytest.mark.slow
def test_stopping_by_hand_says_that_it_goes_on(workplace, spawn) -> None:
    code = (
        "import os, signal, sys; from asg_book import cli\n"
        "cli.run_once = lambda *a: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['asg', 'run', 'oracle', '--profile', 'toy']; cli.main()"
    )
    process = spawn(code)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and err == "\nStopped. The same command goes on from the last checkpoint.\n"


def test_experiments_lists_every_arm(workplace) -> None:
    listed = CliRunner().invoke(app, ["experiments", "--profile", "toy"]).output
    assert "small_proxy" in listed and "0/5 runs" in listed
    assert next(line for line in listed.splitlines() if line.startswith("  asg ")).split()[1] == "0/15"


def test_run_trains_an_arm_with_each_repeated_policy_and_says_which(workplace, untrained_policies) -> None:
    printed = CliRunner().invoke(app, ["run", "guidance", "--arm", "asg", "--seed", "0", "--profile", "toy"]).output
    began = [line.partition(":")[0] for line in printed.splitlines()]
    assert began == [f"guidance asg seed 0 policy mini-{name}" for name in ("asg", "asg-1", "asg-2")]
    listed = CliRunner().invoke(app, ["experiments", "--profile", "toy"]).output
    assert next(line for line in listed.splitlines() if line.startswith("  asg ")).split()[1] == "3/15"


def test_reproduce_says_which_policy_is_not_trained(workplace, untrained_policies, capsys) -> None:
    (untrained_policies / "mini-loss.safetensors").unlink()
    config = get("rewards").config("toy", "loss", 0)
    assert pages.recorded(config) is None and not train_missing("rewards", "loss", config)
    assert "mini-loss.safetensors is missing: `asg policy train` makes one" in capsys.readouterr().err


def test_what_the_user_can_mend_is_one_sentence(monkeypatch: pytest.MonkeyPatch, workplace) -> None:
    monkeypatch.setattr(sys, "argv", ["asg", "run", "guidance", "--arm", "smal", "--profile", "toy"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value).startswith("error: ") and "smal" in str(stopped.value)


def test_a_model_of_own_folders_predicts_the_same_in_a_new_process(workplace, image_folders) -> None:
    source, target = image_folders.source, image_folders.target
    out = workplace.data / "model"
    result = model_of(source, target, out, TINY, "cpu")
    assert result["steps"] == TINY["steps"] and "accuracy" in result["final"]
    assert "held-out source images" in (out / "report.md").read_text()
    photos = sorted(target.rglob("*.png"))[:4]

    student, config, classes = models.load_model(out)
    x = torch.stack(
        [torch.from_numpy(square(opaque(read_image(p)), config.size).copy()).permute(2, 0, 1) for p in photos]
    )
    with torch.inference_mode():
        here = (student(x)[0].softmax(1) + student(x.flip(3))[0].softmax(1)) / 2
    command = [sys.executable, "-m", "asg.cli", "predict", str(out), *map(str, photos)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [r["class"] for r in rows] == [classes[int(i)] for i in here.argmax(1)]
    assert [float(r["probability"]) for r in rows] == pytest.approx(here.max(1).values.tolist(), abs=1e-4)

    state = load_file(out / "model.safetensors")  # plain safetensors, without the package
    assert torch.equal(state["task_head.0.weight"], student.task_head[0].weight)


def test_an_unfinished_run_of_other_settings_is_not_continued(workplace, image_folders) -> None:
    source, target = image_folders.source, image_folders.target
    out = workplace.data / "model"
    model_of(source, target, out, TINY, "cpu")
    (out / "checkpoint.pt").write_bytes(b"of another run")
    with pytest.raises(AsgError, match="unfinished run of other settings"):
        model_of(source, target, out, {**TINY, "lr": 0.02}, "cpu")


def test_predict_names_a_file_that_is_no_image(workplace, image_folders) -> None:
    source = image_folders.source
    model_of(source, None, workplace.data / "model", TINY, "cpu")
    (workplace.data / "note.png").write_text("no image")
    with pytest.raises(AsgError, match=r"note\.png"):
        CliRunner().invoke(
            app, ["predict", str(workplace.data / "model"), str(workplace.data / "note.png")], catch_exceptions=False
        )
