"""The pages that are made of docstrings."""

from __future__ import annotations

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import asg
from asg_book.build import BOOK

PACKAGE = Path(asg.__file__).parent
PAGES = sorted(path.stem for path in BOOK.glob("api*.md"))


def modules() -> list[str]:
    """Every module of the package."""
    paths = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def test_every_module_is_on_one_page():
    listed = [name for page in PAGES for name in re.findall(r"automodule:: (\S+)", (BOOK / f"{page}.md").read_text())]
    assert sorted(listed) == modules()


def test_the_book_has_every_page():
    appendices = yaml.safe_load((BOOK / "_toc.yml").read_text())["parts"][-1]["chapters"]
    assert sorted(page["file"] for page in appendices if page["file"].startswith("api")) == PAGES


@pytest.mark.parametrize(
    "name", [name for name in modules() if ">>>" in Path(import_module(name).__file__).read_text("utf-8")]
)
def test_examples_in_docstrings_hold(name: str):
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0 and result.failed == 0
