"""Policies: what the episodes of a meta-training are, and every policy that a table of the book uses."""

from collections.abc import Mapping
from pathlib import Path

from asg import AsgError, own_recipes
from asg.config import MetaConfig, make_config, validated
from asg_book.profiles import PROFILES, PROXY

# What an episode of the meta-training changes of a profile: shorter, smaller, synthetic images only (departure 15).
EPISODES: dict[str, dict] = {
    "toy": {"steps": 12, "evaluations": 1, "control": {"kind": "learned", "shortest": 3, "schedule": True}},
    "mini": {
        "size": 64, "steps": 30, "batch": 8, "warmup": 24, "lr": 0.002, "evaluations": 1,
        "control": {"kind": "learned", "schedule": True},
    },
    # at the base rate of the runs
    "cartoon": {
        "size": 64, "steps": 30, "batch": 8, "warmup": 24, "evaluations": 1,
        "control": {"kind": "learned", "schedule": True}, "signals": None,
    },
    "paper": {"steps": 2000, "evaluations": 1, "control": {"kind": "learned"}},
}  # fmt: skip
LENGTH = {
    "toy": {"episodes": 3, "groups": 3},
    "mini": {"episodes": 200},
    "cartoon": {"episodes": 200},
    "paper": {"episodes": 500},
}
OURS = {"reward": "held-out", "baseline": True, "gamma": 0.9, "lr": 0.03}
ASG = {**OURS, "student": PROXY}
# Every policy that a table of the book uses; "student" overrides the episode's run.
POLICIES: dict[str, dict] = {
    "asg": ASG,  # with proxy guidance
    "asg-1": {**ASG, "seed": 1},
    "asg-2": {**ASG, "seed": 2},
    "l2o": OURS,  # without
    # other rewards; "reference" has the settings of the reference and the simplest reward
    "improvement": {**ASG, "reward": "improvement"},
    "looks": {**ASG, "reward": "looks"},
    "reference": {"student": PROXY, "loss": "product of means"},
    # other choices
    "two-rates": {**ASG, "groups": 2},
    # one more ratio, of λ; paid for held-out images as they are and in other styles
    "weighing": {**ASG, "reward": "looks", "groups": 8, "student": {**PROXY, "weigh": "policy"}},
}
# Policies that differ in nothing but the seed of their meta-training; arms name the first (departure 12).
REPEATS = {"asg": ("asg", "asg-1", "asg-2")}
SEARCHES = ("asg", "l2o")  # policies beside which a search of the same cost stands


def policy_config(name: str, profile: str, overrides: Mapping | None = None, source: Path | None = None) -> MetaConfig:
    """The meta-training of a declared policy: profile, episode, policy and ``overrides`` in turn.

    ``student`` holds overrides of the episode's run. With a ``source``, the class folders of someone's own renders,
    the episodes of the profile are on these. Raises :class:`AsgError` that names what is wrong.
    """
    if profile not in EPISODES:
        raise AsgError(f"The profile {profile!r} has no episodes: choose from {', '.join(EPISODES)}.")
    if name not in POLICIES:
        raise AsgError(f"There is no policy {name!r}: choose from {', '.join(POLICIES)}.")
    declared, more = POLICIES[name], overrides or {}
    base = PROFILES[profile] if source is None else {**own_recipes.PROFILES["classification"], "source": str(source)}
    student = make_config(base, EPISODES[profile], declared.get("student", {}), more.get("student", {}))
    return validated(MetaConfig, {**LENGTH[profile], **declared, **more, "student": student})
