"""Where things are kept: beside the code in a checkout, in the user's cache folder where the package was installed."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

CHECKOUT = Path(__file__).parents[1]


def is_checkout() -> bool:
    """Whether this package runs from the repository, not from where pip has put it."""
    return (CHECKOUT / "pyproject.toml").is_file()


def place(name: str) -> Path:
    """``$ASG_NAME``, else ``name/`` of the repository, or of the user's cache folder where there is no repository."""
    if given := os.environ.get(f"ASG_{name.upper()}"):
        return Path(given)
    return (CHECKOUT if is_checkout() else user_cache_path("asg")) / name


def policies() -> Path:
    """The folder of the policies that come with the code: ``$ASG_POLICIES``, else the repository's or the package's."""
    if is_checkout() or os.environ.get("ASG_POLICIES"):
        return place("policies")
    return Path(__file__).parent / "policies"
