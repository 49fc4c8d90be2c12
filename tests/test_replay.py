"""A record's first steps are repeated with today's code: what it can vouch for, what it cannot, and why."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from asg import records, replay
from asg.config import RunConfig, make_config
from asg.recipes import RECIPES
from asg.run import run
from asg_book import golden
from asg_book.catalogue import get
from asg_book.cli import sample
from asg_book.golden import centred
from asg_book.profiles import PROFILES

REPOSITORY = Path(__file__).parents[1]
CONFIGS = {
    "plain": {}, "guided": {"guidance": 0.1}, "torch's SGD": {"sgd": "torch"},
    "weights": {"regulariser": {"kind": "weights", "strength": 1.0}},
    "random rates": {"control": {"kind": "random", "groups": 3, "shortest": 1}},
    "scenes": {"data": "toy-scenes", "batch": 4, "guidance": 0.1}, "no step": {"steps": 0},
}  # fmt: skip


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


@pytest.mark.parametrize("name", CONFIGS)
def test_todays_code_vouches_for_what_it_has_made(workplace, name):
    record = run(toy(**CONFIGS[name]), device="cpu")
    assert len(record["first_losses"]) == (0 if name == "no step" else 3)
    again = json.loads(records.records_path(toy(**CONFIGS[name])).read_text())
    assert replay.verify(again, "cpu") == []


def test_the_first_losses_are_those_of_the_first_steps(workplace):
    record = run(toy(steps=3, evaluations=3, guidance=0.1), device="cpu")
    means = [
        {k.removeprefix("train_"): v for k, v in e.items() if k.startswith("train_")} for e in record["evaluations"][1:]
    ]
    assert record["first_losses"] == means


def test_a_resumed_run_keeps_its_first_losses(workplace):
    config = toy(steps=20, evaluations=4)

    def stop(evaluation: dict) -> None:
        if evaluation["step"] == 5:
            raise KeyboardInterrupt

    uninterrupted = run(config, fresh=True, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        run(config, device="cpu", on_evaluation=stop)
    assert run(config, device="cpu")["first_losses"] == uninterrupted["first_losses"]


def test_a_self_training_is_repeated_from_its_start(workplace, monkeypatch):
    """The first steps of the first round, from the network of the training before it."""
    config = get("adaptation").config("toy", "vanilla, CBST", 0, {"evaluations": 1})
    config = config.model_copy(update={"adapt": config.adapt.model_copy(update={"portion": 0.8})})
    monkeypatch.setattr("asg.run.trained", lambda start, device: centred(start))
    record = run(config, device="cpu")
    assert len(record["first_losses"]) == 3 and record["first_losses"][0].keys() == {"total", "task", "pseudo"}
    assert replay.verify(record, "cpu") == []


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda r: r["first_losses"][1].update(task=9.0), r"step\[1\]\.task is 1\.\d+, was 9\.0"),
        (lambda r: r["first_losses"].pop(), "step is .*, was"),
        (lambda r: r["evaluations"][0].update(validation_loss=1.0), r"validation_loss is 1\.\d+, was 1\.0"),
        (lambda r: r["evaluations"][0].update(accuracy=1.0), r"accuracy is 0\.\d+, was 1\.0"),
        (lambda r: r["evaluations"][0].update(gone=1.0), "gone is gone"),
        (lambda r: r["evaluations"][0]["drift"].update(conv_stem=0.5), r"drift\.conv_stem is 0\.0, was 0\.5"),
    ],
)
def test_what_is_otherwise_is_named(workplace, spoil, line):
    record = run(toy(), device="cpu")
    spoil(record)
    (only,) = replay.verify(record, "cpu")
    assert re.search(line, only)


def test_renders_made_under_another_instruction_set_may_differ_by_more(workplace, monkeypatch):
    record = run(toy(), device="cpu")
    record["first_losses"][2]["task"] *= 1.001
    monkeypatch.setitem(replay.RENDERED, "toy", 2e-3)
    assert len(replay.verify(record, "cpu")) == 1  # here it was made, to the last bit
    record["cpu"] = "another"
    assert replay.verify(record, "cpu") == []
    monkeypatch.delitem(replay.RENDERED, "toy")
    assert len(replay.verify(record, "cpu")) == 1


@pytest.mark.parametrize(
    ("change", "cpu", "device", "elsewhere"),
    [
        ({}, "another", "cpu", False), ({"interpolate": 0.5}, "another", "cpu", True),
        ({"interpolate": 0.0}, "another", "cpu", True), ({"interpolate": 0.5}, None, "cpu", False),
        ({"interpolate": 0.5}, "another", "cuda", False), ({"adapt": {"kind": "cbst"}}, "another", "cpu", True),
    ],
)  # fmt: skip
def test_what_begins_where_another_processors_training_has_ended(change, cpu, device, elsewhere):
    processor = records.provenance()["cpu"]
    record = {"config": {"adapt": None, "interpolate": None, **change}, "cpu": cpu or processor, "device": device}
    assert replay.begins_elsewhere(record) is elsewhere


def test_an_outdated_record_is_not_repeated(workplace, monkeypatch):
    record = run(toy(), device="cpu")
    monkeypatch.setitem(RECIPES, "hand-tuned", (*RECIPES["hand-tuned"], "numbers change"))
    (line,) = replay.verify(record, "cpu")
    assert line.startswith("it is outdated") and "'hand-tuned': 1" in line and "'hand-tuned': 2" in line


@pytest.mark.parametrize(
    ("expected", "given", "lines"),
    [
        ({"a": 1.0}, {"a": 1.00009, "b": 2}, 0), ({"a": 1.0}, {"a": 1.00011}, 1), ({"a": [1, 2]}, {"a": [1, 2]}, 0),
        ({"a": [1, 2]}, {"a": [1]}, 1), ({"a": {"b": 0.0}}, {"a": {"b": 1e-7}}, 0), ({"a": None}, {"a": 1.0}, 1),
        ({"a": "x"}, {"a": "y"}, 1), ({"a": 1.0}, {}, 1), ({"a": [0.0, 1.0, 2.0]}, {"a": [1.0, 1.0, 1.0]}, 2),
    ],
)  # fmt: skip
def test_deviations(expected, given, lines):
    assert len(replay.deviations(expected, given)) == lines


# --- code that is edited ------------------------------------------------------------------------------------------

CHECK = """
import json, sys
from asg import AsgError, records, replay
from asg_book import golden
from asg_book.cli import sample

for record in records.of_profile("toy"):
    print("record:", replay.verify(record, "cpu"))
runs = golden.golden_runs(["lambda"], [])
faults = golden.compare(golden.read_golden(), runs)
print(golden.advice(runs, faults) if faults else f"{len(runs)} golden")
"""


def checked_with(spawn, folder: Path, monkeypatch: pytest.MonkeyPatch, edits: dict[str, tuple[str, str]]) -> list[str]:
    """What a copy of both packages with ``edits`` says of the records at hand and of its golden runs, line by line."""
    leave_out = shutil.ignore_patterns("__pycache__")
    for part in ("asg", "book/asg_book"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=leave_out)
    (folder / "tests").mkdir()
    shutil.copy(golden.FILE, folder / "tests")
    for name, (before, after) in edits.items():
        text = (folder / name).read_text()
        assert before in text, f"{name} no longer holds {before!r}: edit something else"
        (folder / name).write_text(text.replace(before, after))
    paths = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(folder / 'book')!r}]\n"
    process = spawn(paths + CHECK)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()


@pytest.fixture
def two_records(workplace) -> None:
    for guidance in (0.0, 0.1):
        run(toy(guidance=guidance), device="cpu")


@pytest.mark.slow
def test_a_renamed_variable_outdates_nothing(two_records, spawn, tmp_path, monkeypatch):
    edits = {"asg/trainers/loop.py": ("sums", "totals"), "asg/controllers/hand_tuned.py": ("now", "rate")}
    assert checked_with(spawn, tmp_path, monkeypatch, edits) == ["record: []", "record: []", "4 golden"]


@pytest.mark.slow
def test_a_schedule_that_is_one_step_late_is_found_and_what_to_raise_is_named(
    two_records, spawn, tmp_path, monkeypatch
):
    edits = {"asg/controllers/hand_tuned.py": ("schedule(step, self.total", "schedule(step + 1, self.total")}
    lines = checked_with(spawn, tmp_path, monkeypatch, edits)
    assert all("step[1]" in line for line in lines[:2])  # the first losses are taken before the first update
    assert lines[2] == "4 of 4 golden runs give other numbers than they gave:"
    assert "raise hand-tuned (now 1) in asg/recipes.py" in lines[-1] and "`asg golden --write`" in lines[-1]


def test_the_suspects_are_as_few_as_explain_the_failures():
    given = {name: golden.Golden(dict.fromkeys(parts, 1), {}) for name, parts in {
        "a": ("classification", "toy", "hand-tuned"), "b": ("classification", "toy", "hand-tuned", "teacher"),
        "c": ("classification", "toy", "windows"), "d": ("classification", "toy", "windows", "teacher"),
        "e": ("segmentation", "toy-scenes", "hand-tuned"),
    }.items()}  # fmt: skip
    assert golden.suspects(given, ["a", "b", "e"], given) == ["hand-tuned"]
    assert golden.suspects(given, ["b", "d"], given) == ["teacher"]
    assert golden.suspects(given, ["c", "d"], given) == ["windows"]
    assert set(golden.suspects(given, ["a", "b", "c", "d"], given)) <= {"classification", "toy"}
    assert golden.suspects(given, ["a"], given) == [
        "classification",
        "hand-tuned",
        "toy",
    ]  # nothing explains it: all its parts


# --- the committed records ----------------------------------------------------------------------------------------

SAMPLE = sample(records.of_profile("mini"))


def test_the_sample_has_a_record_of_every_combination_of_parts():
    combinations = {tuple(sorted(record["recipe"])) for record in records.of_profile("mini")}
    assert {tuple(sorted(record["recipe"])) for record in SAMPLE} == combinations and len(combinations) > 5


@pytest.mark.slow
@pytest.mark.parametrize("record", SAMPLE, ids=lambda record: "-".join(record["recipe"]))
def test_todays_code_vouches_for_a_sample_of_the_committed_records(record):
    if replay.begins_elsewhere(record):  # where its start ended, no other processor's training ends
        assert records.is_current(record)
    else:
        assert replay.verify(record, "cpu") == []
