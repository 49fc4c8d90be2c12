"""The page that tells how to add a benchmark and a rival, word by word: its edits go into a copy, its commands are run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_add_an_arm import copy_repository

PAGE = (REPOSITORY / "book" / "add_a_benchmark.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`((?:asg|book|tests)/[\w/]+\.py)`")
SMALL = ["size=32", 'weights="random"', 'backbone="timm:test_efficientnet"', "head_width=16", "batch=4"]


def edits() -> list[tuple[str, str, str]]:
    """Every block of code with the file that the text before it names last: file, language, text."""
    listed, file = [], None
    for block in BLOCK.finditer(PAGE):
        named = FILE.findall(PAGE[: block.start()])
        file = named[-1] if named else file
        if block[1] != "bash":
            listed.append((file, block[1], block[2]))
    return listed


def apply(folder: Path, file: str, language: str, text: str) -> None:
    """A new module, a test at the end of its file, or the lines of a difference in the place that they name."""
    path = folder / file
    if language == "python":
        path.write_text((path.read_text() + "\n\n" if path.exists() else "") + text)
        return
    lines = text.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    source = path.read_text()
    assert source.count(before) == 1, f"{file} has this {source.count(before)} times:\n{before}"
    path.write_text(source.replace(before, after))


# Runs commands of the `asg` program in turn in one process, then the tests that the page adds to.
DRIVER = """
import json, shlex, sys
from pathlib import Path
commands, more = json.loads(sys.argv[1])

def main():
    from typer.testing import CliRunner
    import asg
    from asg_book.cli import app
    assert Path(asg.__file__).is_relative_to(Path.cwd()), asg.__file__
    said = []
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "asg"
        done = CliRunner().invoke(app, [*arguments, *(part for one in more for part in ("--set", one))])
        said.append((done.exit_code, done.output))
    import pytest
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    chosen = ["tests/test_structure.py", "tests/test_spawn.py", "tests/test_regularisers.py"]
    said.append((int(pytest.main([*chosen, "-k", "structure or forgotten or shrinkage", *quiet])), ""))
    Path("said.json").write_text(json.dumps(said))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_the_page_does_what_it_says(workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spawn) -> None:
    """A benchmark of a few random images and a rival, each trained for a few steps; the structure and its tests hold."""
    rng = np.random.default_rng(0)
    for domain, count in (("quickdraw", 20), ("real", 4)):
        for name in ("apple", "boat", "cup"):
            folder = workplace.data / "domainnet" / domain / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    copy = copy_repository(tmp_path / "copy")
    for file, language, text in edits():
        apply(copy, file, language, text)
    monkeypatch.chdir(copy)
    monkeypatch.setattr("conftest.PACKAGES", f"{copy}:{copy / 'book'}:{copy / 'tests'}")
    first, reproduce, rival = (text.strip() for language, text in BLOCK.findall(PAGE) if language == "bash")
    assert reproduce == "asg reproduce --experiment comparison --profile domainnet"  # hours: not run here
    process = spawn(DRIVER, json.dumps([[first, rival], SMALL]))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    said = json.loads((copy / "said.json").read_text())
    assert [code for code, _ in said] == [0, 0, 0], (said, out)
    assert said[0][1].startswith("comparison guidance (domainnet) seed 5: accuracy ")
    assert said[1][1].startswith("comparison shrinkage (toy) seed 0: accuracy ")
    assert re.search(r"^[1-9]\d* passed", out, re.MULTILINE)
