"""Ways to train on own folders, by task and name."""

from asg import AsgError

LITE = {"profile": "own", "backbone": "timm:tf_efficientnet_lite0", "weights": "lite0"}
# What every run of a task on own folders starts from.
PROFILES: dict[str, dict] = {
    "classification": {
        **LITE, "data": "folder", "size": 128, "steps": 200, "batch": 16, "lr": 0.01, "warmup": 20, "evaluations": 4,
    },
    "segmentation": {
        **LITE, "data": "folder-scenes", "size": 256, "crop": 224, "steps": 250, "batch": 8, "lr": 0.02, "warmup": 25,
        "evaluations": 2,
    },
}  # fmt: skip
# Ways to train, by the name that `asg train --recipe` takes; the first one is what it does if none is given. The weight
# of guidance and the rate in segmentation are those that mini's held-out scenes chose (the chapter "Segmentation").
RECIPES: dict[str, dict[str, dict]] = {
    "classification": {
        "guidance": {"guidance": 0.1},
        "plain": {"guidance": 0.0},
        "wise-ft": {"guidance": 0.0, "interpolate": 0.5},
        "guidance+wise-ft": {"guidance": 0.1, "interpolate": 0.5},
        "ema": {"guidance": 0.0, "average": {"kind": "ema", "decay": 0.97}},
        "csg": {
            "guidance": 0.0, "augment": {"kind": "randaugment"},
            "regulariser": {"kind": "csg", "strength": 0.1, "queue": 1024},
        },
    },
    "segmentation": {
        "guidance": {"guidance": 0.03},
        "guidance in pieces": {"guidance": 0.03, "chunks": 2},
        "plain": {"guidance": 0.0},
        "wise-ft": {"guidance": 0.0, "interpolate": 0.5},
        "ema": {"guidance": 0.0, "average": {"kind": "ema", "decay": 0.97}},
    },
}  # fmt: skip


def recipe(name: str | None, task: str = "classification") -> dict:
    """The settings of a task's recipe, of its first if none is named; an unknown name is answered with the known."""
    recipes = RECIPES[task]
    if name is None:
        return next(iter(recipes.values()))
    if name not in recipes:
        raise AsgError(f"There is no recipe {name!r} of {task}: choose from {', '.join(recipes)}.")
    return recipes[name]
