"""A result is trained once, kept whole, found again, and known to be stale when what made it has changed."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from asg import records
from asg.config import Adaptation, Control, Regulariser, RunConfig, make_config
from asg.data import SEGMENTATION
from asg.run import run
from asg_book.experiments import PROFILES

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
    assert (record["index"], record["recipe"]) == (records.index_hash(config), records.recipe_hash("toy"))
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


def test_a_finished_run_leaves_no_checkpoint(workplace):
    run(toy())
    assert [p.name for p in workplace.runs.rglob("*") if p.is_file() and p.name != "lock"] == []


def test_fresh_trains_again_and_leaves_the_records_alone(workplace, monkeypatch):
    kept = run(toy())
    before = records.records_path(toy()).read_bytes()
    steps = []
    fresh = run(toy(), fresh=True, on_evaluation=lambda e: steps.append(e["step"]))
    assert steps == [0, 4, 8]
    assert timeless(fresh) == timeless(kept)
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

def slow(path):  # time for the other to come in between, if it may
    found = read(path)
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


@pytest.mark.parametrize("field", sorted(RunConfig.model_fields.keys() - {"seed"}))
def test_the_identity_changes_with_every_other_field(field):
    config = toy()
    value, annotation = getattr(config, field), str(RunConfig.model_fields[field].annotation)
    if isinstance(value, BaseModel):
        name, inner = next(iter(dict(value).items()))
        other = value.model_copy(update={name: inner + 1})
    elif "Control" in annotation:
        other = Control(kind="random")
    elif "Adaptation" in annotation:
        other = Adaptation()
    elif "Regulariser" in annotation:
        other = Regulariser(kind="ewc", strength=1.0)
    elif value is None:
        other = 5 if "int" in annotation else 5.0 if "float" in annotation else "changed"
    else:
        other = value + 1 if isinstance(value, int | float) else f"{value} changed"
    assert config.model_copy(update={field: other}).identity() != config.identity()


def test_the_key_changes_with_configuration_index_and_recipe(workplace, monkeypatch):
    keys = {records.run_key(toy()), records.run_key(toy(lr=0.02))}
    with monkeypatch.context() as patch:
        patch.setattr(records, "index_hash", lambda config: "other")
        keys.add(records.run_key(toy()))
    with monkeypatch.context() as patch:
        patch.setattr(records, "recipe_hash", lambda *_: "other")
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
    key, index, recipe = records.run_key(config), records.index_hash(config), records.recipe_hash("folder")

    def meanwhile(evaluation: dict) -> None:
        shutil.copy(image_folders.source / "cup" / "00.png", image_folders.source / "cup" / "more.png")
        monkeypatch.setattr(records, "recipe_hash", lambda *_: "edited")

    record = run(config, on_evaluation=meanwhile)
    assert (record["key"], record["index"], record["recipe"]) == (key, index, recipe)
    assert [p.stem for p in workplace.results.rglob("*.jsonl")] == [key]
    assert records.find(config) is None  # it is not what a run would give now


# --- the recipe ---------------------------------------------------------------------------------------------------


PACKAGE = REPOSITORY / "asg"
READERS = {data: {PACKAGE / path for path in paths} for data, paths in records.READERS.items()}


def shared_files() -> list[Path]:
    """The code that is part of the recipe of every benchmark."""
    return [PACKAGE / part for part in records.RECIPE]


RECIPE_FILES = sorted({*shared_files()}.union(*READERS.values()))


def hashes(package: Path = PACKAGE) -> dict[str, str]:
    """The recipe hash of every benchmark."""
    return {data: records.recipe_hash(data, package=package) for data in READERS}


def edited(folder: Path, edit: Callable[[str], str], files: list[Path]) -> dict[str, str]:
    """:func:`hashes` of a copy of the package under ``folder`` with ``edit`` done to ``files``, each of which it changes."""
    copy = Path(shutil.copytree(PACKAGE, folder / "asg", ignore=shutil.ignore_patterns("__pycache__")))
    for file in files:
        before = file.read_text()
        after = edit(before)
        assert after != before, f"the edit changes nothing in {file.name}"
        (copy / file.relative_to(PACKAGE)).write_text(after)
    return hashes(copy)


class _Reworded(ast.NodeTransformer):
    """Gives every module, class and function another docstring."""

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            has = ast.get_docstring(node) is not None
            node.body = [ast.Expr(ast.Constant("Other words.")), *(node.body[1:] if has else node.body)]
        return self.generic_visit(node)


def with_comments(text: str) -> str:
    """A comment and two blank lines before every top-level statement."""
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        lines[first - 1 : first - 1] = ["", "", "# a comment"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "edit",
    [
        with_comments,
        lambda text: ast.unparse(_Reworded().visit(ast.parse(text))),
        lambda text: ast.unparse(ast.parse(text)) + "\n\n\n",  # another layout, no comments
        lambda text: text.replace("\n\n", "\n\n\n") + "\n",
    ],
    ids=["comments", "docstrings", "layout", "blank lines"],
)
def test_wording_and_layout_do_not_outdate_results(tmp_path, edit):
    files = [f for f in RECIPE_FILES if len(ast.parse(f.read_text()).body) > 1]
    assert len(files) >= 10
    assert edited(tmp_path, edit, files) == hashes()


def test_the_text_of_a_syntax_tree_is_the_same_on_every_python():
    """Fields that only some versions have are empty here, and empty fields are left out."""
    source = '"""Doc."""\ndef f(x=1):\n    """Doc."""\n    return f"{x:.1f}"  # why\n'
    value = "FormattedValue(value=Name(id='x', ctx=Load()), conversion=-1, format_spec=JoinedStr(values=[Constant(value='.1f')]))"
    expected = (
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x')], defaults=[Constant(value=1)]), "
        f"body=[Return(value=JoinedStr(values=[{value}]))])])"
    )
    assert records._bare(ast.parse(source)) == expected


class _OneMore(ast.NodeTransformer):
    """Adds one to the first number."""

    done = False

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if not self.done and type(node.value) in (int, float):
            self.done = True
            return ast.Constant(node.value + 1)
        return node


def one_more(text: str) -> str:
    return ast.unparse(_OneMore().visit(ast.parse(text)))


def has_number(file: Path) -> bool:
    return any(
        isinstance(n, ast.Constant) and type(n.value) in (int, float) for n in ast.walk(ast.parse(file.read_text()))
    )


@pytest.mark.parametrize("name", [str(f.relative_to(PACKAGE)) for f in RECIPE_FILES if has_number(f)])
def test_a_changed_constant_outdates_results(tmp_path, name):
    """Of every benchmark; in a reader, of that benchmark alone."""
    before, after = hashes(), edited(tmp_path, one_more, [PACKAGE / name])
    concerned = {data for data, paths in READERS.items() if PACKAGE / name in paths} or set(READERS)
    assert {data for data in READERS if after[data] != before[data]} == concerned


def test_code_off_the_training_path_does_not_outdate_results(tmp_path):
    files = [PACKAGE / "own.py", PACKAGE / "run.py"]
    assert edited(tmp_path, lambda text: text + "\nMORE = 1\n", files) == hashes()


def imported(file: Path) -> set[Path]:
    """The package's files that ``file`` imports from."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "asg":
            base = PACKAGE.joinpath(*node.module.split(".")[1:])
            for path in (base, *(base / alias.name for alias in node.names)):
                found |= {f for f in (path.with_suffix(".py"), path / "__init__.py") if f.exists()}
    return found - {PACKAGE / "__init__.py"}


def reached(start: Path, leave_out: set[Path]) -> set[Path]:
    """``start`` and all that it imports, directly or not, but for ``leave_out``."""
    seen, todo = {start}, [start]
    while todo:
        new = imported(todo.pop()) - seen - leave_out
        seen |= new
        todo += new
    return seen


@pytest.mark.parametrize("data", READERS)
def test_the_recipe_leaves_out_nothing_that_the_training_imports(data):
    others = set().union(*READERS.values()) - READERS[data]
    task = "segmentation" if data in SEGMENTATION else "classification"
    values = PACKAGE / "config.py"
    dispatch = {PACKAGE / "controllers" / "__init__.py", PACKAGE / "data" / "__init__.py"}  # they only say who is asked
    path = reached(PACKAGE / "trainers" / f"{task}.py", others | {values, *dispatch})
    for reader in READERS[data]:
        path |= reached(reader, others | {values, *dispatch})
        assert not imported(reader) & others  # a reader that borrows from another would be outdated with it
    path |= reached(PACKAGE / "controllers" / "hand_tuned.py", {values})
    assert READERS[data] <= path and len(path) > 10
    assert path <= {*shared_files(), *READERS[data]}


# --- the committed records ----------------------------------------------------------------------------------------


def faults(root: Path) -> list[str]:
    """One line for each fault of the records under ``root``: stale, misplaced, doubled, unreadable."""
    found = []
    for path in sorted(root.glob("*/*.jsonl")):
        where, seeds = path.relative_to(root), []
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                record = strict(line)
                config = RunConfig(**record["config"])
            except ValueError as error:
                found.append(f"{where}, line {number}: {str(error).splitlines()[0]}")
                continue
            # Data that this machine may lack (VisDA-17, own folders) are taken at the record's word.
            here = config.data in ("toy", "mini", "digits")
            with pytest.MonkeyPatch.context() as patch:
                if not here:
                    patch.setattr(records, "index_hash", lambda _, kept=record["index"]: kept)
                current = records.run_key(config)
            if record["format"] != records.FORMAT:
                found.append(f"{where}, line {number}: format {record['format']}, now {records.FORMAT}")
            if record["key"] != current:
                found.append(f"{where}, line {number}: stale (made as {record['key']}, now {current})")
            if (path.parent.name, path.stem) != (config.profile, record["key"]):
                found.append(f"{where}, line {number}: belongs in {config.profile}/{record['key']}.jsonl")
            if record["seed"] != config.seed:
                found.append(f"{where}, line {number}: seed {record['seed']}, its configuration has {config.seed}")
            seeds.append(record["seed"])
        if len(seeds) != len(set(seeds)):
            found.append(f"{where}: a seed stands twice in {seeds}")
    return found


def test_every_committed_record_is_current():
    found = faults(REPOSITORY / "results")
    assert not found, "run `asg reproduce --only stale`:\n" + "\n".join(found)


def spoil(**changes: object) -> Callable[[list[dict]], list[dict]]:
    return lambda rows: [*rows[:-1], {**rows[-1], **changes}]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows, None),
        (lambda rows: [*rows, rows[0]], "a seed stands twice"),
        (spoil(key="0" * 12), "stale"),
        (spoil(format=0), "format 0"),
        (spoil(seed=9), "seed 9"),
        (spoil(config={**PROFILES["toy"], "seed": 1, "lr": 0.5}), "stale"),
        (spoil(config={**PROFILES["toy"], "seed": 1, "gone": 1}), "1 validation error"),
        (spoil(final={"kl": float("nan")}), "NaN is not JSON"),
        (spoil(config={**PROFILES["toy"], "profile": "mini", "seed": 1}), "belongs in mini/"),
    ],
)
def test_the_check_of_the_committed_records_finds(workplace, monkeypatch, change, fault):
    monkeypatch.setattr(records, "recipe_hash", lambda *_: "recipe")
    for seed in (0, 1):
        config = toy(seed=seed)
        record = {"format": records.FORMAT, "key": records.run_key(config), "seed": seed, "config": config.model_dump()}
        records.append(config, {**record, "index": records.index_hash(config)})
    path = records.records_path(toy())
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = faults(workplace.results)
    assert (found == []) if fault is None else any(fault in f for f in found), found


def test_the_check_of_the_committed_records_sees_edited_code(workplace, monkeypatch):
    run(toy())
    assert faults(workplace.results) == []
    monkeypatch.setattr(records, "recipe_hash", lambda *_: "edited")
    assert len(faults(workplace.results)) == 1
