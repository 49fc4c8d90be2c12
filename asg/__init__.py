"""Automated Synthetic-to-Real Generalization (ASG): losses, learned layer-wise rates, trainers."""

__version__ = "0.1.0"


class AsgError(Exception):
    """What the user can mend: one sentence that names the cause and the remedy."""
