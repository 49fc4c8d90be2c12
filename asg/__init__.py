"""Automated Synthetic-to-Real Generalization (ASG): losses, learned layer-wise rates, trainers."""

from importlib import import_module

__version__ = "0.1.0"

PUBLIC = {"ProxyGuidance": "asg.guidance", "LayerwiseRates": "asg.rates", "parameter_groups": "asg.grouping"}
__all__ = ["AsgError", *PUBLIC]


class AsgError(Exception):
    """What the user can mend: one sentence that names the cause and the remedy."""


def __getattr__(name: str) -> object:
    """The public names, imported when they are asked for: torch takes seconds."""
    if name not in PUBLIC:
        raise AttributeError(f"module 'asg' has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
