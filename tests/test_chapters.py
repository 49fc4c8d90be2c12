"""The notebooks as they are in git, and as papermill runs them."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from conftest import REPOSITORY

from asg import AsgError
from asg.run import run
from asg_book import build, estimates, plots
from asg_book.binding import PARAMETERS, bind, bind_each, check_parameters

CHAPTERS = build.chapters()
GUIDANCE = build.BOOK / "chapters" / "03_proxy_guidance.ipynb"
DRAWING = ("figures.figure(", "figures.pictured(", "figures.live(", ".intervals(")
BY_NAME = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)


@BY_NAME
def test_outputs_are_stripped(chapter: Path) -> None:
    for cell in nbformat.read(chapter, 4).cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


@BY_NAME
def test_at_most_twelve_short_code_cells_that_define_nothing(chapter: Path, tmp_path: Path) -> None:
    """Short as code is elsewhere: a page is narrower, and its lines wrap."""
    copied, ruff = tmp_path / chapter.name, Path(sys.executable).with_name("ruff")
    copied.write_bytes(chapter.read_bytes())
    subprocess.run([ruff, "format", "--quiet", "--config", REPOSITORY / "pyproject.toml", copied], check=True)
    cells = [c.source for c in nbformat.read(copied, 4).cells if c.cell_type == "code"]
    assert len(cells) <= 12 + 2  # bindings and provenance lines beside the twelve
    for source in cells:
        assert len(source.splitlines()) <= 12
        assert not any(isinstance(n, ast.FunctionDef | ast.ClassDef | ast.Lambda) for n in ast.walk(ast.parse(source)))


@BY_NAME
def test_one_parameters_cell_with_the_five_names(chapter: Path) -> None:
    cells = [c for c in nbformat.read(chapter, 4).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    assert [line.split(" = ")[0] for line in cells[0].source.splitlines()] == list(PARAMETERS)


def test_numbers_of_files_are_those_of_the_sidebar() -> None:
    (_, numbered, _) = yaml.safe_load((build.BOOK / "_toc.yml").read_text("utf-8"))["parts"]
    files = [Path(chapter["file"]).name for chapter in numbered["chapters"]]
    assert numbered["numbered"] and [int(name[:2]) for name in files] == list(range(1, len(files) + 1))
    assert {*build.TRAINING} < {*files}


@BY_NAME
def test_code_is_folded_where_it_is_not_what_a_chapter_is_about(chapter: Path) -> None:
    about_code = chapter.stem in ("01_quickstart", "14_bring_your_own", "15_your_own_loop")
    for cell in nbformat.read(chapter, 4).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "code" and "parameters" not in tags:
            assert bool({"hide-input", "hide-cell"} & {*tags}) != about_code


@BY_NAME
def test_every_figure_has_a_description(chapter: Path) -> None:
    for cell in nbformat.read(chapter, 4).cells:
        if cell.cell_type == "code" and any(call in cell.source for call in DRAWING):
            assert len(cell.metadata["mystnb"]["image"]["alt"]) > 40


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(AsgError, match="no parameter 'sedes': a chapter has profile, seeds, arms, overrides, fresh"):
        check_parameters("", [], [], {}, False, ["", "# Parameters\nfresh = True\nsedes = [1]", "sedes = 1"])
    check_parameters("", [], [], {}, False, ["sedes = 1", "# Parameters\nseeds = [\n    1,\n]"])
    with pytest.raises(AsgError, match=r"'fresh' must be a bool, got 'true'"):
        check_parameters("", [], [], {}, "true")
    with pytest.raises(AsgError, match="seed: Input should be a valid integer"):
        bind("guidance", "toy", seeds=["1"])
    with pytest.raises(AsgError, match="no arm 'smal'"):
        bind("guidance", "toy", arms=["smal"])
    with pytest.raises(AsgError, match="'guidance' or 'oracle' has no arm 'smal'"):
        bind_each(["guidance", "oracle"], "toy", arms=["large", "smal"])


def test_a_chapter_of_several_experiments_binds_each_with_its_own_arms(workplace) -> None:
    guidance, oracle = bind_each(["guidance", "oracle"], "toy", arms=["small", "large"])
    assert list(guidance.arms) == ["large", "small"] and list(oracle.arms) == []
    assert guidance.seeds == tuple(range(10)) and oracle.seeds == (0,)


def test_records_say_which_repeated_policy_drove_them_and_what_is_missing(workplace, untrained_policies) -> None:
    declared = bind("guidance", "toy").experiment
    for config in declared.configs("toy", "asg", [0, 1])[:3]:  # both seeds of the first policy, one of the second
        run(config)
    bound = bind("guidance", "toy", seeds=[0, 1], arms=["asg"])
    assert [(r["policy"], r["seed"], r["repeats"]) for r in bound.arms["asg"]] == [
        (0, 0, "toy-asg"), (0, 1, "toy-asg"), (1, 0, "toy-asg"),
    ]  # fmt: skip
    assert bound.size("asg", "accuracy") == "1 × 2" and bound.missing == ("asg",)
    assert "Runs are missing: asg." in bound.provenance().data
    alone = bind("guidance", "toy", [0], ["asg"], {"control": {"kind": "random"}})
    assert alone.missing == ("asg",) and alone.size("asg", "accuracy") == "—"
    (untrained_policies / "toy-asg-1.safetensors").unlink()  # a policy that is not trained has no runs
    assert [r["policy"] for r in bind("guidance", "toy", arms=["asg"]).arms["asg"]] == [0, 0]


def test_differences_are_drawn_when_they_have_records(workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asg_book.binding.figure", lambda drawn: drawn)  # it is looked at here, not shown
    bound = bind("guidance", "toy", arms=["small", "small_proxy"])
    (axis,) = bound.intervals(["accuracy"]).axes
    assert axis.texts[0].get_text() == "no records yet"
    for seed in (0, 1):
        for arm in bound.arms:
            run(bound.experiment.config("toy", arm, seed))
    bound = bind("guidance", "toy", arms=["small", "small_proxy"])
    first, second = bound.intervals(["accuracy", "kl"]).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["small_proxy"]
    known = estimates.difference(bound.arms["small_proxy"], bound.arms["small"], "kl").mean
    assert second.lines[0].get_xdata()[0] == pytest.approx(known)


def test_the_answer_is_the_corrected_verdict_and_never_of_a_pair_outside_the_family(workplace) -> None:
    asked = {"guided less plain": ("small_proxy", "small")}
    bound = bind("guidance", "toy", arms=["small", "small_proxy"])
    assert bound.answer(asked).data.startswith("The answer of this chapter has no records. `asg reproduce")
    (arms,) = asked.values()
    rows = {  # of three seeds, each in its own arm: the difference is 0.1 ± 0.001
        arm: [{"seed": k, "policy": 0, "final": {"accuracy": 0.5 + 0.1 * (arm == arms[0]) + 0.001 * k * (arm == arms[0])}}
              for k in range(3)] for arm in arms
    }  # fmt: skip
    bound = replace(bound, arms=rows, recorded={**bound.recorded, **rows})
    assert bound.answer(asked).data == (
        "**In short** (photos, task head): guided less plain +10.1 [+9.9, +10.3] points, **higher**."
    )
    for arm, values in (("small_proxy", (0.5, 0.6, 0.7)), ("small", (0.5, 0.5, 0.5))):
        bound.recorded[arm] = [r | {"final": {"accuracy": v}} for r, v in zip(rows[arm], values, strict=True)]
    assert bound.answer(asked).data.endswith("+10.0 [-14.8, +34.8] points, no difference is shown.")
    with pytest.raises(AsgError, match="guidance compares no large_proxy with frozen: add it to its claims"):
        bound.answer({"": ("large_proxy", "frozen")})


def run_chapter(parameters: dict, tmp_path: Path) -> nbformat.NotebookNode:
    out = tmp_path / "out.ipynb"
    papermill.execute_notebook(
        GUIDANCE, out, parameters=parameters, kernel_name="python3", cwd=GUIDANCE.parent, progress_bar=False
    )
    return nbformat.read(out, 4)


def text_of(notebook: nbformat.NotebookNode) -> str:
    return json.dumps([c.get("outputs", []) for c in notebook.cells])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of papermill and its kernel client
def test_papermill_trains_only_what_it_was_asked_for(workplace, tmp_path: Path) -> None:
    text = text_of(
        run_chapter({"profile": "toy", "fresh": True, "seeds": [7, 8], "arms": ["small", "small_proxy"]}, tmp_path)
    )
    assert "small_proxy" in text and "large_proxy" not in text
    assert "seeds 7, 8" in text and "trained in this chapter" in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("parameters", "named"), [({"sedes": [7]}, "sedes"), ({"fresh": "true"}, "fresh"), ({"arms": ["smal"]}, "smal")]
)
def test_papermill_refuses_a_wrong_parameter(workplace, tmp_path: Path, parameters: dict, named: str) -> None:
    with pytest.raises(papermill.PapermillExecutionError, match=named):
        run_chapter({"profile": "toy", **parameters}, tmp_path)


def test_every_arm_has_its_mark_in_the_class_bars_however_many_there_are() -> None:
    table = pd.DataFrame({f"arm {k}": [0.1, 0.2] for k in range(9)}, ["cat", "dog"])
    drawn = plots.class_bars(table)
    assert [line.get_label() for line in drawn.axes[0].lines] == list(table)


def test_a_digest_follows_contents_and_names_wherever_the_files_lie(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "results", tmp_path / "b" / "results"
    for folder in (first, second):
        (folder / "mini").mkdir(parents=True)
        (folder / "mini" / "x.jsonl").write_text("{}")
    assert build.digest_of([first]) == build.digest_of([second])
    (second / "mini" / "x.jsonl").rename(second / "mini" / "y.jsonl")
    assert build.digest_of([first]) != build.digest_of([second])
    (first / "mini" / "x.jsonl").rename(first / "mini" / "y.jsonl")
    (first / "mini" / "y.jsonl").write_text("{ }")
    assert build.digest_of([first]) != build.digest_of([second])
