"""Ways to train on own folders, by name."""

from asg import AsgError

# What every run on own folders starts from.
PROFILE = {
    "profile": "own", "data": "folder", "size": 128, "backbone": "timm:tf_efficientnet_lite0", "weights": "lite0",
    "steps": 200, "batch": 16, "lr": 0.01, "warmup": 20, "evaluations": 4,
}  # fmt: skip
# Ways to train, by the name that `asg train --recipe` takes; the first one is what it does if none is given.
RECIPES: dict[str, dict] = {
    "guidance": {"guidance": 0.1},
    "plain": {"guidance": 0.0},
    "wise-ft": {"guidance": 0.0, "interpolate": 0.5},
    "guidance+wise-ft": {"guidance": 0.1, "interpolate": 0.5},
    "ema": {"guidance": 0.0, "average": {"kind": "ema", "decay": 0.97}},
    "csg": {
        "guidance": 0.0, "augment": {"kind": "randaugment"},
        "regulariser": {"kind": "csg", "strength": 0.1, "queue": 1024},
    },
}  # fmt: skip


def recipe(name: str | None) -> dict:
    """The settings of a recipe, of the first one if none is named; an unknown name is answered with those there are."""
    if name is None:
        return next(iter(RECIPES.values()))
    if name not in RECIPES:
        raise AsgError(f"There is no recipe {name!r}: choose from {', '.join(RECIPES)}.")
    return RECIPES[name]
