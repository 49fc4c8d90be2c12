"""A result is trained once, kept whole, found again, and known to be stale when what made it has changed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from asg import records
from asg.config import Regulariser, RunConfig, make_config
from asg.controllers.learned import Policy, Spec, save_policy
from asg.data import visda
from asg.models import build
from asg.recipes import RECIPES, recipe_of
from asg.run import run
from asg_book.profiles import PROFILES

REPOSITORY = Path(__file__).parents[1]
HASH = re.compile(r"[0-9a-f]{12}")
CLOCK = ("seconds", "seconds_preparing", "peak_memory_mb", "finished")  # all that may differ between repetitions


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def fail(*arguments: object, **named: object) -> None:
    raise AssertionError("this must not be reached")


def timeless(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in CLOCK}


def strict(text: str) -> dict:
    """JSON as the standard has it: NaN and Infinity are errors."""

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=constant)


# --- one run, one line --------------------------------------------------------------------------------------------


def test_one_line_a_seed(workplace):
    returned = [run(toy(seed=seed)) for seed in (2, 0, 1)]
    files = list(workplace.results.rglob("*.jsonl"))
    assert files == [records.records_path(toy())]
    assert files[0].parent == workplace.results / "toy" and HASH.fullmatch(files[0].stem)
    text = files[0].read_text()
    assert text.endswith("\n") and text.count("\n") == 3
    lines = [strict(line) for line in text.splitlines()]
    assert [line["seed"] for line in lines] == [0, 1, 2]
    assert lines == sorted(returned, key=lambda r: r["seed"])  # what a run returns is what it wrote


def test_a_record_says_what_made_it(workplace):
    config = toy(seed=3, guidance=0.1)
    record = run(config)
    assert record["key"] == records.records_path(config).stem == records.run_key(config)
    assert (record["index"], record["recipe"]) == (records.index_hash(config), recipe_of(config))
    assert len(record["first_losses"]) == 3 and record["first_losses"][0].keys() == {"total", "task", "guidance"}
    assert (record["format"], record["seed"], record["steps"]) == (records.FORMAT, 3, 8)
    assert [e["step"] for e in record["evaluations"]] == [0, 4, 8]
    assert record["final"] == record["evaluations"][-1]
    assert record["best_on_target"] in record["evaluations"][1:]
    assert record["best_on_target"]["accuracy"] == max(e["accuracy"] for e in record["evaluations"][1:])
    assert record["versions"].keys() >= {"python", "torch", "torchvision", "timm", "accelerate", "numpy", "pillow"}


@pytest.mark.parametrize(
    "overrides", [{}, {"lr": 1, "backbone_factor": 0}, {"seed": 7, "weights": "random", "sgd": "torch"}]
)
def test_a_record_rebuilds_its_configuration(workplace, overrides):
    """Through JSON, integers given for floats included: the same configuration, the same key."""
    config = toy(**overrides)
    record = {
        "format": records.FORMAT,
        "key": records.run_key(config),
        "seed": config.seed,
        "config": config.model_dump(),
    }
    records.append(config, record)
    again = RunConfig(**records.find(config)["config"])
    assert again == config
    assert (again.identity(), records.run_key(again)) == (config.identity(), records.run_key(config))


def test_a_finished_run_is_not_trained_again(workplace, monkeypatch):
    first = run(toy())
    before = records.records_path(toy()).read_bytes()
    monkeypatch.setattr("asg.trainers.classification.train", fail)
    assert run(toy()) == first
    assert records.records_path(toy()).read_bytes() == before
    with pytest.raises(AssertionError, match="must not be reached"):
        run(toy(seed=1))


def test_a_finished_run_leaves_its_network_and_no_checkpoint(workplace):
    run(toy())
    left = [p for p in workplace.runs.rglob("*") if p.is_file() and p.name != "lock"]
    assert left == [workplace.runs / "models" / f"{records.run_key(toy())}-0.safetensors"]


def test_fresh_trains_again_and_leaves_the_records_alone(workplace, monkeypatch):
    recorded = run(toy())
    before = records.records_path(toy()).read_bytes()
    steps = []
    fresh = run(toy(), fresh=True, on_evaluation=lambda e: steps.append(e["step"]))
    assert steps == [0, 4, 8]
    assert timeless(fresh) == timeless(recorded)
    assert records.records_path(toy()).read_bytes() == before
    run(toy(seed=1), fresh=True)
    assert records.records_path(toy()).read_bytes() == before


def test_fresh_does_not_go_on_from_a_checkpoint(workplace):
    def stop(evaluation: dict) -> None:
        if evaluation["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(toy(), on_evaluation=stop)
    assert list(workplace.runs.rglob("checkpoint.pt"))
    steps = []
    run(toy(), fresh=True, on_evaluation=lambda e: steps.append(e["step"]))
    assert steps == [0, 4, 8]
    run(toy(), on_evaluation=lambda e: steps.append(e["step"]))
    assert steps == [0, 4, 8, 8]  # and the unfinished run goes on where it was


@pytest.mark.parametrize("guidance", [0.0, 0.1])
def test_two_runs_of_one_configuration_agree_bit_for_bit(workplace, guidance):
    config = toy(guidance=guidance, steps=20)
    first, second = run(config, fresh=True), run(config, fresh=True)
    assert first["evaluations"] == second["evaluations"]
    assert timeless(first) == timeless(second)
    assert json.dumps(first["evaluations"]) == json.dumps(second["evaluations"])
    other = run(config.model_copy(update={"seed": 1}), fresh=True)
    assert other["final"]["train_task"] != first["final"]["train_task"]


def test_the_trained_rates_matter(workplace):
    """The comparison above would be idle if every run gave the same numbers."""
    assert run(toy())["final"]["validation_loss"] != run(toy(lr=0.02))["final"]["validation_loss"]


# --- several writers ----------------------------------------------------------------------------------------------

APPEND = """
import pathlib, sys, time
from asg import records
from asg.config import RunConfig
config = RunConfig.model_validate_json(sys.argv[1])
key, read = records.run_key(config), records.read

def slow(path, *formats):  # time for the other to come in between, if it may
    found = read(path, *formats)
    time.sleep(0.05)
    return found

records.read = slow
print("ready", flush=True)
sys.stdin.readline()
for seed in range(int(sys.argv[2]), 12, 2):
    record = {"format": records.FORMAT, "key": key, "seed": seed}
    records.append(config.model_copy(update={"seed": seed}), record)
"""


@pytest.mark.slow
def test_two_processes_append_at_once(workplace, spawn):
    """Six records each, in turns: all are there."""
    writers = [spawn(APPEND, toy().to_json(), first) for first in (0, 1)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, err = writer.communicate(timeout=120)
        assert writer.returncode == 0, err
    assert [r["seed"] for r in records.read(records.records_path(toy()))] == list(range(12))


def test_a_record_of_the_same_seed_is_replaced(workplace):
    record = {"format": records.FORMAT, "key": records.run_key(toy()), "seed": 0}
    records.append(toy(), {**record, "n": 1})
    records.append(toy(seed=1), {**record, "seed": 1, "n": 2})
    records.append(toy(), {**record, "n": 3})
    assert [(r["seed"], r["n"]) for r in records.read(records.records_path(toy()))] == [(0, 3), (1, 2)]


# --- keys ---------------------------------------------------------------------------------------------------------


def test_the_key_is_the_same_for_every_seed(workplace):
    assert records.run_key(toy()) == records.run_key(toy(seed=5))
    assert HASH.fullmatch(records.run_key(toy()))


def test_the_key_changes_with_configuration_index_and_recipe(workplace, monkeypatch):
    keys = {records.run_key(toy()), records.run_key(toy(lr=0.02))}
    with monkeypatch.context() as patch:
        patch.setattr(records, "index_hash", lambda config: "other")
        keys.add(records.run_key(toy()))
    with monkeypatch.context() as patch:
        raised(patch, "classification")
        keys.add(records.run_key(toy()))
    assert len(keys) == 4


def test_the_key_changes_with_the_files_of_a_folder(workplace, image_folders):
    config = toy(data="folder", source=str(image_folders.source), target=str(image_folders.target))
    before = records.run_key(config)
    assert records.run_key(config) == before
    shutil.copy(image_folders.target / "cup" / "00.png", image_folders.target / "cup" / "more.png")
    assert records.run_key(config) != before


def test_a_record_tells_what_was_trained_not_what_lies_there_at_the_end(workplace, image_folders, monkeypatch):
    """While the run trains, an image is added and the code is edited."""
    config = toy(data="folder", source=str(image_folders.source), steps=4, batch=4)
    key, index, recipe = records.run_key(config), records.index_hash(config), recipe_of(config)

    def meanwhile(evaluation: dict) -> None:
        shutil.copy(image_folders.source / "cup" / "00.png", image_folders.source / "cup" / "more.png")
        if evaluation["step"] == 0:
            raised(monkeypatch, "classification")

    record = run(config, on_evaluation=meanwhile)
    assert (record["key"], record["index"], record["recipe"]) == (key, index, recipe)
    assert [p.stem for p in workplace.results.rglob("*.jsonl")] == [key]
    assert records.find(config) is None  # it is not what a run would give now


# --- the recipe ---------------------------------------------------------------------------------------------------


def raised(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setitem(RECIPES, part, (*RECIPES[part], "numbers change"))


@pytest.mark.parametrize("part", RECIPES)
def test_a_raised_version_outdates_what_the_part_makes_and_nothing_else(workplace, monkeypatch, part):
    configs = {
        "plain": toy(), "guided": toy(guidance=0.1), "random": toy(control={"kind": "random"}),
        "ewc": toy(regulariser={"kind": "ewc", "strength": 1.0}), "scenes": toy(data="toy-scenes", guidance=0.1),
        "adapted": toy(adapt={}), "digits": toy(data="digits"),
    }  # fmt: skip
    before = {name: records.run_key(config) for name, config in configs.items()}
    raised(monkeypatch, part)
    changed = {name for name, config in configs.items() if records.run_key(config) != before[name]}
    assert changed == {name for name, config in configs.items() if part in recipe_of(config)}


def test_every_setting_has_its_parts():
    """A reader, a regulariser or a trainer without a version would be an error in the middle of a table."""
    kinds = {value for field in ("kind",) for value in get_args(Regulariser.model_fields[field].annotation)}
    readers = set(get_args(RunConfig.model_fields["data"].annotation))
    assert kinds | readers | {"self-training", "meta-training"} <= RECIPES.keys()
    assert set(recipe_of(toy(guidance=0.1))) == {"classification", "toy", "hand-tuned", "teacher"}
    parts = recipe_of(toy(data="toy-scenes", guidance=0.1, control={"kind": "random"}, adapt={}))
    assert set(parts) == {"segmentation", "toy-scenes", "windows", "dense", "self-training"}


def test_decoded_images_and_teachers_of_an_earlier_version_are_not_served(workplace, monkeypatch):
    """A reader whose pixels change, a teacher that is computed otherwise: their caches have other names."""
    run(toy(guidance=0.1), fresh=True)
    images, teacher = (set((workplace.data / "cache" / what).iterdir()) for what in ("images", "teacher"))
    raised(monkeypatch, "teacher")
    run(toy(guidance=0.1), fresh=True)
    assert set((workplace.data / "cache" / "images").iterdir()) == images
    assert len(set((workplace.data / "cache" / "teacher").iterdir())) == 2 * len(teacher)
    raised(monkeypatch, "toy")
    run(toy(), fresh=True)
    assert len(set((workplace.data / "cache" / "images").iterdir())) == 2 * len(images) == 6


def test_the_importance_of_weights_of_an_earlier_version_is_not_served(workplace, monkeypatch):
    config = toy(regulariser={"kind": "si", "strength": 1.0})
    run(config, fresh=True)
    raised(monkeypatch, "si")
    run(config, fresh=True)
    assert len(list((workplace.data / "cache" / "si").iterdir())) == 2


# --- where data lie -----------------------------------------------------------------------------------------------


def test_the_key_does_not_depend_on_where_data_weights_and_policies_lie(workplace, image_folders, tmp_path):
    elsewhere = Path(shutil.copytree(image_folders.source, tmp_path / "elsewhere"))
    torch.save(build(toy(), 3).state_dict(), tmp_path / "one.pth")
    shutil.copy(tmp_path / "one.pth", tmp_path / "two.pth")
    for name in ("one", "two"):
        policy = Policy(Spec(groups=3), torch.Generator().manual_seed(0))
        save_policy(policy, {"name": name}, tmp_path / f"{name}.safetensors")

    def key(source: Path, name: str, workers: int) -> str:
        control = {"kind": "learned", "policy": str(tmp_path / f"{name}.safetensors")}
        places = {"source": str(source), "workers": workers, "weights": str(tmp_path / f"{name}.pth")}
        return records.run_key(toy(data="folder", control=control, **places))

    assert key(image_folders.source, "one", 0) == key(elsewhere, "two", 4)
    (elsewhere / "cup" / "00.png").write_bytes((elsewhere / "boat" / "00.png").read_bytes())
    assert key(image_folders.source, "one", 0) != key(elsewhere, "two", 4)


def test_the_key_of_visda_does_not_depend_on_its_folder(workplace, tmp_path):
    for root in ("here", "there"):
        for split in ("train", "validation"):
            (tmp_path / root / split).mkdir(parents=True)
            lines = [f"{name}/{i}.png {label}" for label, name in enumerate(visda.CLASSES) for i in range(2)]
            (tmp_path / root / split / "image_list.txt").write_text("\n".join(lines))
    keys = {records.run_key(toy(data="visda17", source=str(tmp_path / root))) for root in ("here", "there")}
    assert len(keys) == 1


# --- the committed records ----------------------------------------------------------------------------------------


def faults(root: Path) -> list[str]:
    """One line for each fault of the records under ``root``: outdated, misplaced, doubled, unreadable."""
    lines = []
    for path in sorted(root.glob("*/*.jsonl")):
        where, seeds = path.relative_to(root), []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                record = strict(line)
                config = RunConfig(**record["config"])
            except ValueError as error:
                lines.append(f"{where}, line {number}: {str(error).splitlines()[0]}")
                continue
            if not records.is_current(record):
                lines.append(f"{where}, line {number}: outdated (made by {record.get('recipe')})")
            if (path.parent.name, path.stem) != (config.profile, record["key"]):
                lines.append(f"{where}, line {number}: belongs in {config.profile}/{record['key']}.jsonl")
            if record["seed"] != config.seed:
                lines.append(f"{where}, line {number}: seed {record['seed']}, its configuration has {config.seed}")
            seeds.append(record["seed"])
        if len(seeds) != len(set(seeds)):
            lines.append(f"{where}: a seed stands twice in {seeds}")
    return lines


def test_every_committed_record_is_current():
    lines = faults(REPOSITORY / "results")
    assert not lines, "run `asg reproduce`, and `asg prune`:\n" + "\n".join(lines)


def spoil(**changes: object) -> Callable[[list[dict]], list[dict]]:
    return lambda rows: [*rows[:-1], {**rows[-1], **changes}]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows, None),
        (lambda rows: [*rows, rows[0]], "a seed stands twice"),
        (spoil(key="0" * 12), "outdated"),
        (spoil(format=1), "outdated"),
        (spoil(seed=9), "seed 9"),
        (spoil(config={**PROFILES["toy"], "seed": 1, "lr": 0.5}), "outdated"),
        (spoil(config={**PROFILES["toy"], "seed": 1, "gone": 1}), "1 validation error"),
        (spoil(final={"kl": float("nan")}), "NaN is not JSON"),
        (spoil(config={**PROFILES["toy"], "profile": "mini", "seed": 1}), "belongs in mini/"),
    ],
)
def test_the_check_of_the_committed_records_finds(workplace, change, fault):
    for seed in (0, 1):
        config = toy(seed=seed)
        record = {"format": records.FORMAT, "key": records.run_key(config), "seed": seed, "config": config.model_dump()}
        records.append(config, {**record, "index": records.index_hash(config)})
    path = records.records_path(toy())
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    messages = faults(workplace.results)
    assert (messages == []) if fault is None else any(fault in f for f in messages), messages


def test_the_check_of_the_committed_records_sees_a_raised_version(workplace, monkeypatch):
    run(toy())
    assert faults(workplace.results) == []
    raised(monkeypatch, "hand-tuned")
    assert len(faults(workplace.results)) == 1
