"""Golden runs: every arm and every policy of the catalogue on the toy profile, whole, with the numbers it once gave.

Their numbers stand in ``tests/golden.json``. Where one changes beyond rounding, the code no longer does what the
versions of its parts say (:mod:`asg.recipes`): mend it, or raise the version and write the numbers anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from tqdm import tqdm

from asg import AsgError, meta_training, policy_search, records
from asg.config import RunConfig
from asg.controllers.learned import save_policy
from asg.controllers.windows import policy_path
from asg.data import read_domains
from asg.data.images import make_folder
from asg.recipes import RECIPES, recipe_of, version
from asg.replay import deviations
from asg.trainers import self_training
from asg.trainers.self_training import base_of
from asg_book.catalogue import EXPERIMENTS
from asg_book.experiment import Experiment
from asg_book.policies import POLICIES, SEARCHES, policy_config
from asg_book.profiles import PROFILES, policy_name

FILE = records.REPOSITORY / "tests" / "golden.json"
NUMBERS = ("evaluations", "first_losses", "decisions")  # of a record; the rest says when and where it was made
DIGITS = 7  # of every number, significant


@dataclass(frozen=True)
class Golden:
    """What one run gave: the versions of the parts that made it, and its numbers."""

    recipe: dict[str, int]
    numbers: dict


def rounded(value: object) -> object:
    """Nested dicts and lists with every float at ``DIGITS`` significant digits."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


@contextmanager
def empty_workplace() -> Iterator[None]:
    """Data, results, runs and policies of this process in an empty folder, so that nothing is read that was kept."""
    names = [f"ASG_{what}" for what in ("DATA", "RESULTS", "RUNS", "POLICIES")]
    before = {name: os.environ.get(name) for name in (*names, "ACCELERATE_USE_CPU")}
    with TemporaryDirectory() as folder:
        os.environ.update({name: str(Path(folder) / name.lower()) for name in names}, ACCELERATE_USE_CPU="true")
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                os.environ.update({} if value is None else {name: value})


def make_policies(names: Sequence[str]) -> dict[str, Golden]:
    """Train toy policies, and search rates beside SEARCHES, where the runs of this process look for them."""
    made = {}
    for name in tqdm(names, desc="policies", unit="policy", leave=False):
        meta, path = policy_config(name, "toy"), policy_path(policy_name("toy", name))
        make_folder(path.parent)
        with TemporaryDirectory() as folder:
            policy, progress = meta_training.train_policy(meta, Path(folder), "cpu")
            save_policy(policy, records.card(meta, curve=progress.curve), path)
            numbers = {"curve": progress.curve}
            if name in SEARCHES:
                numbers["trials"] = policy_search.search_ratios(meta, Path(folder), "cpu")
                search = policy_path(policy_name("toy", f"{name}-search"), ".json")
                search.write_text(json.dumps({"trials": numbers["trials"]}), "utf-8")
        made[f"policy {name}"] = Golden(records.meta_recipe(meta), rounded(numbers))
    return made


def golden_config(experiment: Experiment, arm: str) -> RunConfig:
    """The toy run of an arm, without files of others.

    It has several windows where somebody decides, and rounds of several steps with most images where it trains itself.

    The toy images are drawn without a rendering, and an arm with another network has the toy one, so that arms which
    differ in these alone are one run: through many random layers the last bits of another processor grow too large.
    """
    toy = PROFILES["toy"]
    overrides = {"rendering": {}, "backbone": toy["backbone"], "weights": toy["weights"]}
    if (adapt := experiment.arms[arm].get("adapt")) is not None:
        overrides["adapt"] = {**adapt, "portion": 0.8, "length": 0.5}
    elif "control" in experiment.arms[arm]:
        overrides["steps"] = 24
    return experiment.config("toy", arm, 0, overrides)


def centred(config: RunConfig) -> nn.Module:
    """A start of self-training that tells the target's images apart without being trained: a random head, centred.

    A toy training does not: it gives all images one class, which rounds refuse.
    """
    target, generator = read_domains(config).target, torch.Generator().manual_seed(0)
    network = base_of(config).build(config, len(target.classes))
    biases = [p for p in network.task_head.parameters() if p.shape == (len(target.classes),)]
    with torch.no_grad():
        for weight in (p for p in network.task_head.parameters() if p.dim() > 1):
            scale = weight[0].numel() ** -0.5 if weight.dim() == 4 else 1.0  # many convolutions follow one another
            weight.normal_(0, scale, generator=generator)
        logits = torch.cat([network(target[i][1][None])[0] for i in range(len(target))]).movedim(1, 0).flatten(1)
        biases[-1].sub_(logits.mean(1))
    return network


def golden_run(config: RunConfig) -> Golden:
    """One toy run, whole; a self-training from the :func:`centred` start."""
    with TemporaryDirectory() as folder:
        if config.adapt:
            result, _ = self_training.train(config, Path(folder), centred(config), "cpu")
        else:
            result, _ = base_of(config).train(config, Path(folder), "cpu")
    return Golden(recipe_of(config), rounded({name: result[name] for name in NUMBERS if name in result}))


def golden_runs(experiments: Sequence[str] = (), policies: Sequence[str] = tuple(POLICIES)) -> dict[str, Golden]:
    """``policy NAME`` and ``EXPERIMENT: ARM`` → its toy run of the first seed; arms that are one run are run once.

    ``experiments``: all if not given; ``policies``: at least those that their arms name.
    """
    with empty_workplace():
        runs, by_key = make_policies(policies), {}
        chosen = [EXPERIMENTS[name] for name in experiments or EXPERIMENTS]
        arms = [(experiment, arm) for experiment in chosen for arm in experiment.arms]
        for experiment, arm in tqdm(arms, desc="arms", unit="arm", leave=False):
            config = golden_config(experiment, arm)
            if (key := records.run_key(config)) not in by_key:
                by_key[key] = golden_run(config)
            runs[f"{experiment.id}: {arm}"] = by_key[key]
    return runs


def read_golden() -> dict[str, Golden]:
    """The committed numbers."""
    try:
        return {name: Golden(**fields) for name, fields in json.loads(FILE.read_text("utf-8")).items()}
    except (OSError, ValueError, TypeError) as error:
        raise AsgError(f"{FILE} cannot be read ({error}): `asg golden --write` makes it.") from None


def write_golden(runs: Mapping[str, Golden]) -> None:
    """Replace the committed numbers, a run a line."""
    lines = (f"{json.dumps(name)}: {json.dumps(vars(golden))}" for name, golden in sorted(runs.items()))
    records.write_text(FILE, "{\n" + ",\n".join(lines) + "\n}\n")


def compare(expected: Mapping[str, Golden], given: Mapping[str, Golden]) -> dict[str, list[str]]:
    """Run → why it is not golden, for those of ``given`` that are not; a run that is not in ``expected`` is named."""
    faults = {}
    for name, golden in given.items():
        if name not in expected:
            faults[name] = ["it has no golden numbers: `asg golden --write`"]
        elif expected[name].recipe != golden.recipe:
            faults[name] = [f"its numbers are of {expected[name].recipe}, now {golden.recipe}: `asg golden --write`"]
        elif lines := deviations(expected[name].numbers, golden.numbers):
            faults[name] = lines
    return faults


def renewed(known: Mapping[str, Golden], runs: Mapping[str, Golden]) -> dict[str, Golden]:
    """What to write of ``runs``: numbers that a run still gives stay as they were, to the last digit."""
    faults = compare(known, runs)
    return {name: run if name in faults else known[name] for name, run in runs.items()}


def suspects(given: Mapping[str, Golden], failed: Sequence[str], known: Mapping[str, Golden]) -> list[str]:
    """The parts to look at: as few as explain all failures, of those whose every run failed.

    Of two that explain as much it is the one that makes fewer of all ``known`` runs.
    """
    of_part = {part: {name for name, golden in given.items() if part in golden.recipe} for part in RECIPES}
    guilty = {part: runs for part, runs in of_part.items() if runs and runs <= set(failed)}
    chosen, left = [], set(failed)
    while left and guilty:
        part = max(guilty, key=lambda part: (len(guilty[part] & left), -sum(part in g.recipe for g in known.values())))
        if not guilty[part] & left:
            break
        chosen.append(part)
        left -= guilty.pop(part)
    return chosen or sorted(set.intersection(*(set(given[name].recipe) for name in failed)))


def advice(given: Mapping[str, Golden], faults: Mapping[str, list[str]]) -> str:
    """What to do about faults, with the first line of each."""
    parts = ", ".join(f"{part} (now {version(part)})" for part in suspects(given, list(faults), read_golden()))
    lines = [
        f"  {name}: {messages[0]}" + (f" (and {len(messages) - 1} more)" if messages[1:] else "")
        for name, messages in faults.items()
    ]
    return "\n".join([
        f"{len(faults)} of {len(given)} golden runs give other numbers than they gave:", *lines,
        f"Mend the code; or, if the numbers are meant to change, raise {parts} in asg/recipes.py by a line that says "
        "why, and run `asg golden --write`.",
    ])  # fmt: skip
