"""Learned rates against hands, chance and searches, and the choices of a policy."""

from asg_book.catalogue.published import PUBLISHED
from asg_book.experiment import Experiment
from asg_book.policies import REPEATS
from asg_book.profiles import (
    FIVE,
    LARGE,
    PROXY,
    RANDOM,
    RANDOM_ONCE,
    SHORT,
    SHORT_ON_MINI,
    SMALL,
    THREE,
    fixed,
    learned,
)

# What a run may have of its own while the policy stays the same: other length, batch, base rate, network.
CHANGES: dict[str, dict] = {
    "half as long": {"steps": 100, "warmup": 10, "toy": {"steps": 4}},
    "Lite1": {"backbone": "timm:tf_efficientnet_lite1", "weights": "lite1"},
}
REWARDED = ("improvement", "looks", "reference")
MAIN = (*REPEATS["asg"], "l2o")
VARIANTS = ("two-rates",)
USES: dict[str, dict] = {
    "likeliest": {**learned("asg", sampled=False), **PROXY},
    "divided windows": {**learned("asg", window="divided"), **PROXY},
    "neither warm-up nor decay": {**learned("asg", schedule=False), **PROXY},
}

EXPERIMENTS = (
    Experiment(
        "policies",
        "Does a learned policy set better rates than chance, a hand, and a search that costs the same?",
        {
            "small_proxy": {**SMALL, **PROXY},
            "large_proxy": {**LARGE, **PROXY},
            "random_proxy": {**RANDOM, **PROXY},
            "random_once_proxy": {**RANDOM_ONCE, **PROXY},
            "search_proxy": {**fixed(policy="asg-search"), **PROXY},
            "asg": {**learned("asg"), **PROXY},
            "small": {**SMALL},
            "large": {**LARGE},
            "random": {**RANDOM},
            "random_once": {**RANDOM_ONCE},
            "search": fixed(policy="l2o-search"),
            "l2o": learned("l2o"),
        },
        seeds=FIVE,
        differences=(
            *(("asg", rival) for rival in ("random_proxy", "random_once_proxy", "search_proxy", "small_proxy")),
            *(("l2o", rival) for rival in ("random", "random_once", "search", "small")),
            ("asg", "l2o"),
        ),
        common=SHORT_ON_MINI,
        published={"small": PUBLISHED["vanilla"], "asg": PUBLISHED["ASG"]},
        repeated=True,
    ),
    Experiment(
        "rewards",
        "What should a policy be paid for?",
        {"asg": {**learned("asg"), **PROXY}} | {name: {**learned(name), **PROXY} for name in REWARDED},
        seeds=THREE,
        differences=tuple((name, "asg") for name in REWARDED),
        common=SHORT,
    ),
    Experiment(
        "policy_design",
        "Does a policy need a rate for every layer group?",
        {"asg": {**learned("asg"), **PROXY}} | {name: {**learned(name), **PROXY} for name in VARIANTS},
        seeds=THREE,
        differences=tuple((name, "asg") for name in VARIANTS),
        common=SHORT,
    ),
    Experiment(
        "policy_use",
        "How should a trained policy be used?",
        {"asg": {**learned("asg"), **PROXY}} | USES,
        seeds=THREE,
        differences=tuple((name, "asg") for name in USES),
        common=SHORT,
    ),
    Experiment(
        "transfer",
        "Is a policy of any use in runs unlike its episodes?",
        {
            f"{change}, {who}": {**setting, **rates, **PROXY}
            for change, setting in CHANGES.items()
            for who, rates in (("asg", learned("asg")), ("random", RANDOM))
        },
        seeds=THREE,
        differences=tuple((f"{change}, asg", f"{change}, random") for change in CHANGES),
        common=SHORT,
    ),
)
