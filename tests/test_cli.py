"""The command line, end to end."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from asg import AsgError, model_files, own, own_recipes, predict, records
from asg.cli import main, parse_settings
from asg.config import make_config
from asg.data import mirrored, read_domains
from asg.data.pixels import read_pixels
from asg.metrics import forward_all
from asg.own import model_of
from asg.recipes import RECIPES
from asg.trainers.classification import make_evaluation
from asg_book.catalogue import get
from asg_book.cli import app, train_missing
from asg_book.profiles import PROFILES

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
    assert "guidance small_proxy (toy) seed 0: accuracy" in first.output
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


def test_reproduce_trains_the_seeds_that_are_asked_for(workplace) -> None:
    arguments = ["reproduce", "--experiment", "oracle", "--profile", "toy", "--jobs", "1", "--seed"]
    assert "0 of 1 runs have a current record; 1 to train" in CliRunner().invoke(app, [*arguments, "0"]).output
    assert [record["seed"] for record in records.of_profile("toy")] == [0]
    refused = CliRunner().invoke(app, [*arguments, "77", "--seed", "78"]).exception
    assert isinstance(refused, AsgError) and "No run has seed 77 or 78: leave out --seed" in str(refused)


def outdate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "hand-tuned", (*RECIPES["hand-tuned"], "numbers change"))


def test_reproduce_removes_nothing(workplace, monkeypatch) -> None:
    """Whatever lies there: outdated records of other experiments and of its own, of settings that nobody declares."""
    for arguments in (["run", "oracle"], ["run", "lambda", "--arm", "0.1", "--seed", "0"]):
        CliRunner().invoke(app, [*arguments, "--profile", "toy"])
    CliRunner().invoke(app, ["run", "oracle", "--profile", "toy", "--set", "size=40"])
    (workplace.results / "toy" / f"{'1' * 12}.jsonl").write_text('{"format": 1, "seed": 0}\n')
    before = {path: path.read_bytes() for path in workplace.results.rglob("*.jsonl")}
    outdate(monkeypatch)
    arguments = ["reproduce", "--experiment", "oracle", "--profile", "toy", "--jobs", "1"]
    assert "0 of 1 runs have a current record; 1 to train" in CliRunner().invoke(app, arguments).output
    after = {path: path.read_bytes() for path in workplace.results.rglob("*.jsonl")}
    assert len(before) == 4 and before.items() <= after.items()


@pytest.mark.parametrize(("answer", "removed"), [("n\n", False), ("y\n", True)])
def test_prune_lists_what_is_outdated_and_asks(workplace, monkeypatch, answer, removed) -> None:
    """Of a file with a current and an outdated record the current one stays."""
    for seed in ("0", "1"):
        CliRunner().invoke(app, ["run", "lambda", "--arm", "0.1", "--seed", seed, "--profile", "toy"])
    (path,) = workplace.results.rglob("*.jsonl")
    arguments = ["prune", "--profile", "toy"]
    assert "Every record in" in CliRunner().invoke(app, arguments).output
    first, second = path.read_text().splitlines(keepends=True)
    path.write_text(text := first + second.replace('"key": "', '"key": "0'))
    (path.parent / "old.jsonl").write_text('{"format": 1, "seed": 7}\n')
    printed = CliRunner().invoke(app, arguments, input=answer).output
    assert f"{path.name}, seed 1: toy" in printed and "old.jsonl, seed 7" in printed and "seed 0" not in printed
    assert "Remove these 2 outdated records?" in printed
    assert path.read_text() == (first if removed else text)
    assert (path.parent / "old.jsonl").exists() != removed


def test_verify_vouches_for_records_and_names_those_it_cannot(workplace, monkeypatch) -> None:
    for arm in ("0", "0.1"):
        CliRunner().invoke(app, ["run", "lambda", "--arm", arm, "--seed", "0", "--profile", "toy"])
    arguments = ["verify", "--profile", "toy", "--jobs", "1"]
    sampled = CliRunner().invoke(app, arguments)
    assert sampled.exit_code == 0 and "today's code vouches for 2 of 2 records" in sampled.output, sampled.output
    path = sorted(workplace.results.rglob("*.jsonl"))[0]
    record = json.loads(path.read_text())
    record["first_losses"][2]["task"] += 0.01
    path.write_text(json.dumps(record) + "\n")
    result = CliRunner().invoke(app, [*arguments, "--all"])
    assert "vouches for 1 of 2 records" in result.output and f"{path.stem} seed 0: step[2].task is" in result.output
    assert isinstance(result.exception, AsgError) and "raise a version in asg/recipes.py" in str(result.exception)
    other = CliRunner().invoke(app, [*arguments, "--experiment", "oracle"])
    assert "vouches for 0 of 0 records" in other.output


def test_verify_leaves_out_what_another_processors_training_precedes(workplace) -> None:
    for arm in ("plain, 0.5", "plain, 1"):
        CliRunner().invoke(app, ["run", "interpolation", "--arm", arm, "--seed", "0", "--profile", "toy"])
    for path in workplace.results.rglob("*.jsonl"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cpu": "another"}) + "\n")
    arguments = ["verify", "--profile", "toy", "--jobs", "1", "--all"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "vouches for 1 of 1 records" in result.output, result.output
    assert "1 more begin where a whole training ended on a processor of another instruction set" in result.output
    for path in workplace.results.rglob("*.jsonl"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 12}) + "\n")
    outdated = CliRunner().invoke(app, arguments).output
    assert "vouches for 0 of 2 records" in outdated and outdated.count("it is outdated") == 2, outdated


def test_reproduce_keeps_a_file_with_a_broken_line(workplace) -> None:
    """The records beside the broken line were computed; whoever owns them is told which line it is."""
    arguments = ["reproduce", "--experiment", "oracle", "--profile", "toy", "--jobs", "1"]
    CliRunner().invoke(app, arguments)
    (file,) = workplace.results.rglob("*.jsonl")
    file.write_text(text := file.read_text() + '{"format": 1, "seed"\n')
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, AsgError) and f"{file}, line 2 is no record" in str(result.exception)
    assert file.read_text() == text


@pytest.mark.slow
def test_stopping_by_hand_says_that_it_goes_on(workplace, spawn) -> None:
    code = (
        "import os, signal, sys; import asg.run; from asg_book import cli\n"
        "asg.run.run = lambda *a: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.argv = ['asg', 'run', 'oracle', '--profile', 'toy']; cli.main()"
    )
    process = spawn(code)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and err == "\nStopped. The same command goes on from the last checkpoint.\n"


def test_experiments_lists_every_arm(workplace) -> None:
    listed = CliRunner().invoke(app, ["experiments", "--profile", "toy"]).output
    assert "small_proxy" in listed and "0/10 runs" in listed
    assert next(line for line in listed.splitlines() if line.startswith("  asg ")).split()[1] == "0/30"


def test_run_trains_an_arm_with_each_repeated_policy_and_says_which(workplace, untrained_policies) -> None:
    printed = CliRunner().invoke(app, ["run", "guidance", "--arm", "asg", "--seed", "0", "--profile", "toy"]).stdout
    began = [line.partition(":")[0] for line in printed.splitlines()]
    assert began == [f"guidance asg (toy) seed 0 policy toy-{name}" for name in ("asg", "asg-1", "asg-2")]
    listed = CliRunner().invoke(app, ["experiments", "--profile", "toy"]).output
    assert next(line for line in listed.splitlines() if line.startswith("  asg ")).split()[1] == "3/30"


def test_reproduce_says_which_policy_is_not_trained(workplace, untrained_policies) -> None:
    (untrained_policies / "toy-looks.safetensors").unlink()
    config = get("rewards").config("toy", "looks", 0)
    assert records.find(config) is None
    with pytest.raises(AsgError, match=r"toy-looks.safetensors is missing: `asg policy train`"):
        train_missing("rewards", "looks", config)


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

    student, config, classes = model_files.load_model(out)
    x = torch.stack([torch.from_numpy(read_pixels(p, config.size).copy()).permute(2, 0, 1) for p in photos])
    with torch.inference_mode():
        plain, mirrored = student(x)[0], student(x.flip(3))[0]
    chosen = (plain.sigmoid() + mirrored.sigmoid()).argmax(1).tolist()
    both = (plain.softmax(1) + mirrored.softmax(1)) / 2
    sure = both[range(len(photos)), chosen].tolist()
    command = [sys.executable, "-m", "asg.cli", "predict", str(out), *map(str, photos)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [r["class"] for r in rows] == [classes[k] for k in chosen]
    assert [float(r["probability"]) for r in rows] == pytest.approx(sure, abs=1e-4)

    state = load_file(out / "model.safetensors")  # plain safetensors, without the package
    assert torch.equal(state["task_head.0.weight"], student.task_head[0].weight)


def divided(out: Path) -> None:
    """Give a saved model a task head on whose answers sigmoid and softmax differ, for the image and its mirror."""
    state = load_file(out / "model.safetensors")
    generator = torch.Generator().manual_seed(4)
    for name in ("task_head.0.weight", "task_head.2.weight"):
        state[name] = torch.randn(state[name].shape, generator=generator)
    save_file(state, out / "model.safetensors")


@pytest.mark.parametrize("batch", [16, 3])
def test_predict_on_the_target_folder_repeats_the_evaluation(workplace, image_folders, monkeypatch, batch) -> None:
    """Class by class and probability by probability what ``final`` holds, also in batches that do not divide."""
    out, target = workplace.data / "model", image_folders.target
    final = model_of(image_folders.source, target, out, TINY, "cpu")["final"]
    monkeypatch.setattr(predict, "evaluation_batch", lambda device: batch)
    _, config, classes = model_files.load_model(out)
    photos = [Path(name) for name in read_domains(config).target.names]
    assert sorted(photos) == sorted(target.rglob("*.png"))
    printed = CliRunner().invoke(app, ["predict", str(out), *map(str, photos)], catch_exceptions=False).stdout
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["image"] for row in rows] == list(map(str, photos))
    assert [classes.index(row["class"]) for row in rows] == final["predicted"]
    assert [float(row["probability"]) for row in rows] == pytest.approx(final["confidence"], abs=1.1e-4)


@pytest.mark.parametrize("mirror", [True, False])
def test_predict_and_the_evaluation_answer_alike_where_their_former_rules_differed(
    workplace, image_folders, monkeypatch, mirror: bool
) -> None:
    """A head on which the mean softmax, or the image alone, would name other classes than the mean sigmoid does."""
    out = workplace.data / "model"
    model_of(image_folders.source, image_folders.target, out, TINY, "cpu")
    divided(out)
    student, config, classes = model_files.load_model(out)
    monkeypatch.setattr(predict, "mirrored", lambda config: mirror)
    domains = replace(read_domains(config), mirror=mirror)
    cpu = torch.device("cpu")
    plain, other = (forward_all(student, domains.target, 64, cpu, mirror=m)[0] for m in (False, True))
    assert not torch.equal(
        (plain.sigmoid() + other.sigmoid()).argmax(1), (plain.softmax(1) + other.softmax(1)).argmax(1)
    )
    assert not torch.equal((plain.sigmoid() + other.sigmoid()).argmax(1), plain.sigmoid().argmax(1))
    expected = make_evaluation(student, domains, config, cpu)(student)
    rows = [one.answers[0] for one in predict.predict(out, [Path(name) for name in domains.target.names])]
    assert [classes.index(name) for name, _ in rows] == expected["predicted"]
    assert [p for _, p in rows] == pytest.approx(expected["confidence"], abs=6e-5)


@pytest.mark.parametrize("data", ["toy", "digits", "folder"])
def test_whether_mirrors_count_is_known_without_the_data(image_folders, data: str) -> None:
    folders = {"source": str(image_folders.source)} if data == "folder" else {}
    config = make_config(PROFILES["toy"], {"data": data, **folders})
    expected = {"toy": True, "digits": False, "folder": None}[data]  # of people's own, held-out images say it
    assert mirrored(config) is read_domains(config).mirror is expected
    assert mirrored(make_config(config.model_dump(), {"mirror": True})) is True


def test_an_unfinished_run_of_other_settings_is_not_continued(workplace, image_folders) -> None:
    source, target = image_folders.source, image_folders.target
    out = workplace.data / "model"
    model_of(source, target, out, TINY, "cpu")
    (out / "checkpoint.pt").write_bytes(b"of another run")
    with pytest.raises(AsgError, match="unfinished run of other settings"):
        model_of(source, target, out, {**TINY, "lr": 0.02}, "cpu")


CLASSIFIERS = own_recipes.RECIPES["classification"]


@pytest.mark.parametrize("recipe", CLASSIFIERS)
def test_every_recipe_trains_on_two_folders(workplace, image_folders, monkeypatch, recipe: str, capsys) -> None:
    out = workplace.data / "model"
    settings = [word for name, value in TINY.items() if name != "guidance" for word in ("--set", f"{name}={value}")]
    folders = ["--source", image_folders.source, "--target", image_folders.target, "--out", out]
    done = CliRunner().invoke(app, ["train", *map(str, folders), "--recipe", recipe, *settings])
    assert done.exit_code == 0, done.output
    written = model_files.load_model(out)[1]
    assert {name: getattr(written, name) for name in CLASSIFIERS[recipe]} == {
        name: getattr(make_config(own_recipes.PROFILES["classification"], CLASSIFIERS[recipe], {"source": "x"}), name)
        for name in CLASSIFIERS[recipe]
    }
    assert not [name for name in load_file(out / "model.safetensors") if name.startswith("contrast.")]
    adapted = workplace.data / "adapted"
    model_files.save_model(*model_files.load_model(out), adapted)  # as self-training does, whose rounds know no penalty
    assert len(list(predict.predict(adapted, sorted(image_folders.target.rglob("*.png"))[:2]))) == 2
    share = "50% of the way from ImageNet's weights" in (out / "report.md").read_text()
    assert share == ("wise-ft" in recipe)


def test_a_model_between_is_half_way_and_reported_last(workplace, image_folders) -> None:
    ends = {}
    for share in (None, 0.5, 0.0):
        out = workplace.data / f"model-{share}"
        result = model_of(image_folders.source, image_folders.target, out, {**TINY, "interpolate": share}, "cpu")
        ends[share] = model_files.load_model(out)[0].state_dict(), result
    name = "backbone.conv_stem.weight"
    line = (ends[None][0][name] + ends[0.0][0][name]) / 2
    torch.testing.assert_close(ends[0.5][0][name], line)
    assert torch.equal(ends[0.5][0]["task_head.2.weight"], ends[None][0]["task_head.2.weight"])
    assert ends[0.0][1]["final"]["agreement"] == 1.0
    assert ends[0.5][1]["evaluations"][:-1] == ends[None][1]["evaluations"]


def test_an_unknown_recipe_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        AsgError, match="There is no recipe 'magic' of classification: choose from guidance, plain, wise-ft"
    ):
        own.recipe("magic")


def test_help_and_the_package_wait_for_nothing_that_takes_seconds():
    """Torch, timm and the like are imported by the command that uses them."""
    code = "import sys, asg, asg_book.cli; print({'torch', 'timm', 'pandas', 'matplotlib', 'sklearn'} & sys.modules.keys())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "set()\n"
