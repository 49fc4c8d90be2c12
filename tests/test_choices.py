"""What the catalogue has chosen is what the stated rules choose, from the committed records, on synthetic images."""

from __future__ import annotations

import json
from functools import cache

import pytest

from asg import records
from asg.config import RunConfig
from asg.own_recipes import RECIPES
from asg_book import paying, since
from asg_book.catalogue import get, successors
from asg_book.catalogue.rivals import CHOSEN, STRENGTHS
from asg_book.catalogue.scenes import TRIED_RATES, TRIED_WEIGHTS
from asg_book.catalogue.settings import TRIED_LARGE, TRIED_SMALL, TRIED_STEPS
from asg_book.profiles import PROFILES, TRIALS
from asg_book.selection import as_good, best_kept, shortest


@cache
def committed(experiment: str, profile: str) -> dict[str, list[dict]]:
    """Arm → committed records of an experiment, whichever code made them: choices rest on what is committed."""
    declared = get(experiment)
    files = sorted((records.REPOSITORY / "results" / profile).glob("*.jsonl"))
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    made = {(RunConfig(**r["config"]).identity(), r["seed"]): r for r in rows}
    return {
        arm: [
            made[key]
            for seed in declared.seeds_of(profile)
            if (key := (declared.config(profile, arm, seed).identity(), seed)) in made
        ]
        for arm in declared.arms
    }


TRIED = [profile for profile in TRIALS if any(committed("trials", profile).values())]  # its trials have been made


@pytest.mark.parametrize("profile", TRIED)
def test_length_and_base_rate_are_what_the_rule_chooses_from_the_trials(profile: str):
    made = committed("trials", profile)
    trials = {(steps, rate): made[f"{rate:g}, {steps} steps"] for steps in TRIED_STEPS for rate in TRIED_SMALL}
    assert shortest(trials) == (PROFILES[profile]["steps"], PROFILES[profile]["lr"])


@pytest.mark.parametrize("profile", TRIED)
def test_the_large_rate_is_what_the_rule_chooses_from_its_trials(profile: str):
    made, steps = committed("trials_large", profile), PROFILES[profile]["steps"]
    trials = {(steps, rate): made[f"{rate:g}"] for rate in TRIED_LARGE}
    assert shortest(trials) == (steps, get("guidance").config(profile, "large", 0).lr)


@pytest.mark.parametrize(("profile", "kind"), [(profile, kind) for profile, kinds in CHOSEN.items() for kind in kinds])
def test_a_rivals_strength_is_what_the_rule_chooses_from_the_committed_records(profile: str, kind: str):
    trials = [committed("strength", profile)[f"{kind}, {name}"] for name in STRENGTHS[kind]]
    assert list(STRENGTHS[kind])[best_kept(trials)] == CHOSEN[profile][kind]


def test_no_signal_holds_as_the_book_says():
    """Chapter "When does guidance pay?": neither told from chance nor nearer than the mean of the other benchmarks."""
    made = {
        asked: {case.name: (case, committed(case.experiment, case.profile)) for case in declared}
        for asked, declared in ((False, paying.CASES), (True, paying.ASKED))
    }
    table = paying.predictive_power(paying.signals(made[True]), paying.gains(made[False]))
    assert table["benchmarks"].max() == len(paying.CASES)
    assert (table["p"].astype(float) > 0.05).all()
    predicted = table.dropna(subset=["error"])
    assert (predicted["error"].astype(float) > predicted["error without"].astype(float)).all()


def since_trials(method: str) -> list[list[dict]]:
    return [committed("since_trials", "cartoon")[f"{method}, {strength}"] for strength in successors.TRIED[method]]


@pytest.mark.parametrize("method", [method for method in successors.TRIED if all(since_trials(method))])
def test_a_successors_strength_is_what_the_rule_chooses_from_the_committed_records(method: str):
    assert list(successors.TRIED[method])[best_kept(since_trials(method))] == successors.CHOSEN[method]


def test_asg_train_begins_with_the_recipe_that_the_committed_records_recommend():
    declared = get("recipes")
    benchmarks = {profile: committed("recipes", profile) for profile in declared.seeds}
    if any(len(r) < len(declared.seeds[profile]) for profile, arms in benchmarks.items() for r in arms.values()):
        pytest.skip("not all recipes have been run on every benchmark")
    assert next(iter(RECIPES["classification"])) == since.recommended(since.lowest_gains(benchmarks))


def segmentation_trials(kind: str, tried: tuple[float, ...]) -> list[list[dict]]:
    return [committed("segmentation_trials", "mini")[f"{kind}, {value:g}"] for value in tried]


def test_the_base_rate_of_the_scenes_is_the_largest_that_is_as_good_as_the_best():
    good = as_good(segmentation_trials("rate", TRIED_RATES))
    assert get("segmentation").config("mini", "vanilla", 0).lr == max(TRIED_RATES[k] for k in good)


@pytest.mark.parametrize("form", ["whole map", "patches"])
def test_the_weight_of_dense_guidance_is_what_the_rule_chooses_from_the_committed_records(form: str):
    config = get("segmentation").config("mini", form, 0)
    assert config.guidance == TRIED_WEIGHTS[best_kept(segmentation_trials(form, TRIED_WEIGHTS))]
    trial = get("segmentation_trials").config("mini", f"{form}, {config.guidance:g}", 0)
    assert trial.identity() == config.identity()
