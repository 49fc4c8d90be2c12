"""What the repository tells those who take part: its hooks run, its pages name what is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY

HOOKS = [
    hook
    for repository in yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    for hook in repository["hooks"]
]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_a_hook_leaves_what_is_committed_as_it_is(hook: dict, tmp_path: Path):
    program, *options = shlex.split(hook["entry"])
    program = Path(sys.executable).with_name(Path(program).name)  # the same one, wherever the environment is
    chapter, *settings = "book/chapters/00_results.ipynb", "book/chapters/ruff.toml", "pyproject.toml"
    (tmp_path / "book" / "chapters").mkdir(parents=True)
    for package in ("asg", "book/asg_book"):  # imports of our own stand apart
        (tmp_path / package).mkdir()
    for name in (chapter, *settings):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    done = subprocess.run([program, *options, chapter], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / chapter).read_bytes() == (REPOSITORY / chapter).read_bytes()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_are_there(page: str):
    text = (REPOSITORY / page).read_text("utf-8")
    named = {word for word in re.findall(r"`([\w./-]+\.(?:md|py|yml|yaml|ipynb|lock))`", text) if "/" in word}
    assert named and [name for name in sorted(named) if not (REPOSITORY / name).exists()] == []


def test_templates_of_issues_can_be_read():
    for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        template = yaml.safe_load(path.read_text("utf-8"))
        assert {"name", "description", "body"} <= template.keys(), path
