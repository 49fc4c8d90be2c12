"""Other ways to keep ImageNet knowledge."""

from asg_book.catalogue.published import PUBLISHED
from asg_book.experiment import Experiment
from asg_book.profiles import EVERYWHERE, PROFILES, PROXY, SHORT_ON_MINI, SMALL, TRIALS, learned, merged


def early(share: float) -> dict[str, dict]:
    """The overrides, by profile, that stop the training of "comparison" after a share of its length."""
    lengths = {name: {**PROFILES[name], **SHORT_ON_MINI.get(name, {})} for name in PROFILES}
    return {
        name: {unit: round(share * length[unit]) for unit in ("steps", "epochs") if unit in length}
        for name, length in lengths.items()
    }


# Other ways to keep ImageNet knowledge, and the strengths that were tried (the experiment "strength"): on mini these,
# and where the base rate is five times as high a fifth of them, since too strong a penalty for the rate diverges.
PENALTIES = {
    "weights": (10.0, 100.0, 1000.0, 10000.0), "features": (0.0001, 0.001, 0.01, 0.1),
    "ewc": (0.1, 1.0, 10.0, 100.0), "si": (0.1, 1.0, 10.0, 100.0),
}  # fmt: skip
GRADES = ("weakest", "weak", "middle", "strong")


def penalty(kind: str, strength: float) -> dict:
    """The overrides, by profile, that add a penalty to the loss."""
    a_fifth = {"regulariser": {"kind": kind, "strength": strength / 5}}
    return {"regulariser": {"kind": kind, "strength": strength}, **dict.fromkeys(("cartoon", "sketch", "cad"), a_fifth)}


STRENGTHS: dict[str, dict[str, dict]] = {
    kind: {grade: penalty(kind, v) for grade, v in zip(GRADES, tried, strict=True)} for kind, tried in PENALTIES.items()
} | {
    "early": {"whole length": early(1), "three quarters": early(0.75), "half": early(0.5)},
    "proxy": {f"{v:g}": {"guidance": v} for v in (0.1, 0.3, 1.0)},
}
# What selection.best_kept chooses on held-out synthetic images from the records of "strength"; a test compares.
CHOSEN = {
    "mini": {"weights": "strong", "features": "weak", "ewc": "strong", "si": "strong", "early": "three quarters"},
    "cartoon": {"weights": "weakest", "features": "weak", "ewc": "weak", "si": "weak", "early": "whole length"},
}
# Profile → the one whose trials chose for it.
TRIED_ON = {"mini": "mini", **dict.fromkeys(("cartoon", "sketch", "cad"), "cartoon")}


def chosen(kind: str) -> dict:
    """The overrides of a way of keeping knowledge at its chosen strength; where none was chosen, that of mini."""
    tried = STRENGTHS[kind]
    own = {profile: merged(tried[CHOSEN[other][kind]], profile) for profile, other in TRIED_ON.items()}
    return {**tried[CHOSEN["mini"][kind]], **own}


EXPERIMENTS = (
    Experiment(
        "strength",
        "How strong may each way of keeping knowledge be before held-out images suffer?",
        {
            f"{kind}, {name}": {**SMALL, **overrides}
            for kind, tried in STRENGTHS.items()
            for name, overrides in tried.items()
        },
        seeds={"cartoon": TRIALS["cartoon"], "mini": (0,)},
        common=SHORT_ON_MINI,
    ),
    Experiment(
        "comparison",
        "Which way of keeping ImageNet knowledge serves best on photos?",
        {
            "oracle": {"steps": 0},
            "vanilla": {**SMALL},
            "frozen": {"backbone_factor": 0.0},
            "early stopping": {**SMALL, **chosen("early")},
            "weight ℓ2": {**SMALL, **chosen("weights")},
            "EWC": {**SMALL, **chosen("ewc")},
            "SI": {**SMALL, **chosen("si")},
            "feature ℓ2": {**SMALL, **chosen("features")},
            "guidance": {**SMALL, **PROXY},
            "ASG": {**learned("asg"), **PROXY},
        },
        seeds=EVERYWHERE,
        differences=tuple(
            (a, b)
            for b in ("vanilla", "guidance")
            for a in ("frozen", "early stopping", "weight ℓ2", "EWC", "SI", "feature ℓ2", "guidance", "ASG")
            if a != b
        ),
        claims=tuple(("ASG", rival) for rival in ("weight ℓ2", "SI", "feature ℓ2")),
        common=SHORT_ON_MINI,
        published=PUBLISHED,
        # its task head is not trained: what is published is the ImageNet classifier, with its classes mapped
        metric_of={"oracle": {"accuracy": "kept", "product": None, "validation_loss": None}},
        repeated=True,
    ),
)
