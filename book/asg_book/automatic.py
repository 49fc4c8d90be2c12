"""Rules that find λ without a photograph, each against the better of λ = 0 and .1, which only photographs tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from asg_book.estimates import Estimate, difference, level
from asg_book.paying import SIGNALS, left_out

Records = Sequence[dict]
WEIGHTS = ("0", "0.03", "0.1", "0.3")  # arms of the experiment "automatic" that are plain training or guidance
GIVEN = ("0", "0.1")  # none, and the paper's; the better of the two is what a rule is measured against


@dataclass(frozen=True)
class Rule:
    """How λ is found: ``choose(arms)`` gives the records that a user of the rule would have, one a seed.

    ``trainings``: how many trainings it takes, the one that is kept among them; ``more``: what else it takes.
    """

    name: str
    choose: Callable[[Mapping[str, Records]], Records]
    trainings: int
    more: str = ""


def lowest(arms: Mapping[str, Records], measure: Callable[[dict], float]) -> Records:
    """Of each seed the run of WEIGHTS with the lowest measure; seeds that lack a run are left out."""
    by_seed = [{record["seed"]: record for record in arms[weight]} for weight in WEIGHTS]
    shared = sorted(set.intersection(*(set(runs) for runs in by_seed)))
    return [min((runs[seed] for runs in by_seed), key=measure) for seed in shared]


def held_out_loss(record: dict) -> float:
    """Task loss on held-out synthetic images, in nats."""
    return record["final"]["validation_loss"]


def looks_loss(record: dict) -> float:
    """The same under changed looks, mean over them."""
    return float(np.mean([look["loss"] for look in record["final"]["looks"].values()]))


RULES = (
    Rule("λ = 0", lambda arms: arms["0"], 1),
    Rule("λ = .1", lambda arms: arms["0.1"], 1),
    Rule("grid, held-out images", lambda arms: lowest(arms, held_out_loss), len(WEIGHTS)),
    Rule("grid, changed looks", lambda arms: lowest(arms, looks_loss), len(WEIGHTS)),
    Rule("balance of gradients", lambda arms: arms["gradients"], 1),
    Rule("an action of the policy", lambda arms: arms["policy"], 1, "a policy"),
)


def predicted_gains(measured: pd.DataFrame, gain: pd.Series) -> pd.Series:
    """Gain of guidance on each benchmark as the others predict it, from their signals alone.

    Of SIGNALS the one whose line predicts the others best, one of them left out in turn
    (:func:`asg_book.paying.left_out`), is fitted to all the others; the signal is chosen anew for every benchmark. NaN
    where the others are fewer than four.

    ``measured``: :func:`asg_book.paying.signals`; ``gain``: mean gain by benchmark.
    """
    predicted = pd.Series(np.nan, measured.index)
    for name in measured.index:
        errors = {}
        for signal in SIGNALS:
            others = measured[signal].drop(name).dropna()
            if len(others) > 3 and not np.isnan(measured.loc[name, signal]):
                errors[signal] = float(np.abs(left_out(others, gain[others.index]) - gain[others.index]).mean())
        if errors:
            best = min(errors, key=errors.get)
            others = measured[best].drop(name).dropna()
            line = np.polyfit(others.astype(float), gain[others.index].astype(float), 1)
            predicted[name] = np.polyval(line, measured.loc[name, best])
    return predicted


def predictor(gain: float) -> Rule:
    """λ = .1 where a positive gain is predicted, else none; its signal may need all three trainings."""
    return Rule("the predictor", lambda arms: arms["0.1" if gain > 0 else "0"], 3)


def better_given(arms: Mapping[str, Records]) -> str:
    """The better of GIVEN on the photographs, by its mean: what no rule may know."""
    return max(GIVEN, key=lambda weight: level(arms[weight], "accuracy").mean)


def distance(rule: Rule, arms: Mapping[str, Records]) -> Estimate:
    """Accuracy on photographs of a rule's runs less that of the better of GIVEN, paired over seeds."""
    return difference(rule.choose(arms), arms[better_given(arms)], "accuracy")


def table(benchmarks: Mapping[str, Mapping[str, Records]], gains: Mapping[str, float]) -> pd.DataFrame:
    """One row a rule: its :func:`distance` on every benchmark, and ``worst``, the lowest of their means.

    ``benchmarks``: name → arms of the experiment "automatic"; ``gains``: what :func:`predicted_gains` says of each.
    """
    rows: dict[str, dict] = {}
    for name, arms in benchmarks.items():
        if not all(arms.get(weight) for weight in GIVEN):
            continue
        for rule in (*RULES, predictor(gains.get(name, np.nan))):
            rows.setdefault(rule.name, {})[name] = distance(rule, arms)
    distances = pd.DataFrame(rows).T
    distances["worst"] = [min((e.mean for e in row if e.n), default=np.nan) for _, row in distances.iterrows()]
    return distances
