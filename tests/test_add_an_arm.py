"""The page that tells how to add an arm, word by word: its blocks go into a copy of the package, its commands are run."""

from __future__ import annotations

import ast
import json
import re
import shutil
import textwrap
from pathlib import Path

import pytest
from conftest import REPOSITORY

PAGE = REPOSITORY / "book" / "add_an_arm.md"
CATALOGUE, PROFILES = Path("book/asg_book/catalogue/guidance.py"), Path("book/asg_book/profiles.py")
COPIED = ("asg", "book", "tests", "policies", "pyproject.toml")
TEN = "TEN = tuple(range(5, 15))"
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [textwrap.dedent(code) for _, kind, code in BLOCK.findall(PAGE.read_text()) if kind == language]


ARM, DIFFERENCE, EXPERIMENT, CELL = blocks("python")
DRY_RUN, ONE_SEED, REPRODUCE, TESTS, CHAPTER, FOR_ONCE = blocks("bash")


def copy_repository(to: Path) -> Path:
    """The parts of the repository that a page changes and runs, in a folder of their own."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("_build", "__pycache__")
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, to / name, ignore=ignored)
        else:
            shutil.copy(REPOSITORY / name, to / name)
    return to


def edited(source: str) -> str:
    """The catalogue with the page's arm and pair last in the experiment *guidance*, and its experiment before that."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and node.args)
    (guidance,) = (c for c in calls if isinstance(c.args[0], ast.Constant) and c.args[0].value == "guidance")
    pairs = next(keyword.value for keyword in guidance.keywords if keyword.arg == "differences")
    lines = source.splitlines(keepends=True)
    for line, code in (  # from the last to the first, so that no line moves before its turn
        (pairs.elts[-1].end_lineno, DIFFERENCE),
        (guidance.args[2].values[-1].end_lineno, ARM),
        (guidance.lineno - 1, EXPERIMENT),
    ):
        lines.insert(line, code)
    return "".join(lines)


# Runs commands of the `asg` program in turn in one process (a new one would import torch for each), and says how each
# ended; then pytest, papermill and the chapter's cell as the page has them.
DRIVER = """
import json, shlex, sys, warnings
from pathlib import Path
commands, tests, chapter, cell = json.loads(sys.argv[1])

def main():
    from typer.testing import CliRunner
    import asg, asg_book
    from asg_book.cli import app
    for package in (asg, asg_book):
        assert Path(package.__file__).is_relative_to(Path.cwd()), package.__file__
    said = []
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "asg"
        done = CliRunner().invoke(app, [*arguments, "--profile", "toy"], catch_exceptions=False)
        said.append((done.exit_code, done.output))

    import pytest
    name, m, module, *arguments = shlex.split(tests)
    assert (name, m, module) == ("python", "-m", "pytest")
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    said.append((int(pytest.main([*arguments, *quiet])), ""))

    from IPython.core.interactiveshell import InteractiveShell
    from asg_book.build import chapters
    from asg_book.experiment import Experiment
    import nbformat
    (parameters,) = (c.source for c in nbformat.read(chapters()[0], 4).cells if "parameters" in c.metadata.get("tags", []))
    names = {}
    exec(parameters, names)
    names["profile"] = "toy"
    *statements, last = cell.strip().splitlines()
    exec("\\n".join(statements), names)
    table = eval(last, names).data
    Path("said.json").write_text(json.dumps([said, table.astype(str).to_dict("index")]))

    warnings.simplefilter("ignore")  # of papermill and its kernel client
    from papermill.__main__ import papermill
    name, *arguments = shlex.split(chapter)
    assert name == "papermill"
    where = arguments.index("-y") + 1
    arguments[where] = arguments[where].replace("profile: mini", "profile: toy")
    papermill([*arguments, "-k", "python3", "--no-progress-bar"], standalone_mode=False)

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_the_page_does_what_it_says(
    workplace, untrained_policies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spawn
) -> None:
    """On the toy profile: the arm's dry run, its first seed, what is then missing, its test, its chapter; the experiment."""
    copy = copy_repository(tmp_path / "copy")
    catalogue = copy / CATALOGUE
    catalogue.write_text(edited(catalogue.read_text()))
    assert "five on mini if left out" in EXPERIMENT
    profiles = copy / PROFILES
    assert TEN in profiles.read_text()
    profiles.write_text(profiles.read_text().replace(TEN, "TEN = (5,)"))  # for time: what is run is the same
    monkeypatch.chdir(copy)
    monkeypatch.setattr("conftest.PACKAGES", f"{copy}:{copy / 'book'}:{copy / 'tests'}")
    asked = [DRY_RUN, ONE_SEED, f"{REPRODUCE.strip()} --jobs 1", FOR_ONCE, "asg run width --seed 0", "asg experiments"]
    process = spawn(DRIVER, json.dumps([asked, TESTS, CHAPTER, CELL]))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err

    outputs, table = json.loads((copy / "said.json").read_text())
    assert [code for code, _ in outputs] == [0] * len(outputs), out
    dry, one, reproduced, once, width, after, _ = (text for _, text in outputs)
    assert "backbone_factor   0.3" in dry and "guidance          0.1" in dry
    assert one.startswith("guidance medium_proxy (toy) seed 0: accuracy ")
    had, wanted, missing = map(int, re.search(r"(\d+) of (\d+) runs .*; (\d+) to train", reproduced).groups())
    assert had == 1 and missing == wanted - 1
    assert not re.search(r"(large|large_proxy|small|small_proxy|medium_proxy|asg) +0/1 runs", of("guidance", after))
    assert once.startswith("guidance small_proxy (toy) seed 0: accuracy ")
    assert width.splitlines()[0].startswith("width 64 (toy) seed 0: ") and "width 512 (toy) seed 0: " in width
    assert re.findall(r"(\d+) +(\d)/(\d) runs", of("width", after)) == [("64", "1", "3"), ("512", "1", "3")]
    assert list(table) == ["64", "512"] and table["64"]["n"] == "1"
    assert re.search(r"^[1-9]\d* passed, \d+ deselected", out, re.MULTILINE)
    page = (copy / "out.ipynb").read_text()
    assert "medium_proxy − small_proxy" in page and "large_proxy − large" not in page


def of(experiment: str, listed: str) -> str:
    """The lines of one experiment in what ``asg experiments`` lists."""
    return re.search(rf"^{experiment} \(toy\): .*\n((?:  .*\n)+)", listed, re.MULTILINE)[1]
