"""Rules that find λ: choices, distances and predictions of known records."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from asg_book import automatic
from asg_book.automatic import RULES, WEIGHTS, distance, lowest, predicted_gains, predictor, table
from asg_book.catalogue import EXPERIMENTS
from asg_book.paying import SIGNALS


def runs(*accuracies: float, losses: tuple[float, ...] = (), looks: tuple[float, ...] = ()) -> list[dict]:
    filled = zip(accuracies, losses or [1.0] * len(accuracies), looks or [1.0] * len(accuracies), strict=True)
    return [
        {"seed": 5 + k, "final": {"accuracy": a, "validation_loss": v, "looks": {"x": {"loss": q}, "y": {"loss": 0.0}}}}
        for k, (a, v, q) in enumerate(filled)
    ]


ARMS = {
    "0": runs(0.70, 0.72, 0.71, losses=(0.1, 0.1, 0.3), looks=(4.0, 1.0, 4.0)),
    "0.03": runs(0.73, 0.74, 0.75, losses=(0.2, 0.2, 0.2), looks=(2.0, 2.0, 2.0)),
    "0.1": runs(0.75, 0.76, 0.78, losses=(0.3, 0.3, 0.1), looks=(3.0, 3.0, 3.0)),
    "0.3": runs(0.74, 0.79, 0.75, losses=(0.4, 0.4, 0.4), looks=(5.0, 5.0, 5.0)),
    "gradients": runs(0.72, 0.75),
    "policy": [],
}


def accuracies(records: list[dict]) -> list[float]:
    return [record["final"]["accuracy"] for record in records]


def test_the_grids_choose_seed_by_seed():
    assert accuracies(lowest(ARMS, automatic.held_out_loss)) == [0.70, 0.72, 0.78]
    assert accuracies(lowest(ARMS, automatic.looks_loss)) == [0.73, 0.72, 0.75]
    short = {**ARMS, "0.3": ARMS["0.3"][:2]}
    assert accuracies(lowest(short, automatic.held_out_loss)) == [0.70, 0.72]


def test_a_rule_is_measured_against_the_better_of_none_and_the_papers_weight():
    assert automatic.better_given(ARMS) == "0.1"
    by_name = {rule.name: distance(rule, ARMS) for rule in RULES}
    assert by_name["λ = .1"].mean == 0 and by_name["an action of the policy"].n == 0
    known = stats.ttest_rel([0.70, 0.72, 0.71], [0.75, 0.76, 0.78])
    low, high = known.confidence_interval()
    none = by_name["λ = 0"]
    assert (none.low, none.high, none.p) == pytest.approx((low, high, known.pvalue))
    assert by_name["balance of gradients"].mean == pytest.approx(-0.02) and by_name["balance of gradients"].n == 2


def test_the_table_has_a_column_a_benchmark_and_the_worst_of_them():
    turned = {**ARMS, "0": ARMS["0.1"], "0.1": ARMS["0"]}
    distances = table({"a": ARMS, "b": turned, "none": {"0": []}}, {"a": 0.02, "b": 0.01})
    assert list(distances.columns) == ["a", "b", "worst"]
    assert distances.loc["the predictor", "a"].mean == 0 and distances.loc["the predictor", "b"].mean < 0  # wrong of b
    assert distances.loc["λ = 0", "worst"] == pytest.approx(distances.loc["λ = 0", "a"].mean)
    assert np.isnan(distances.loc["an action of the policy", "worst"])


def test_a_benchmark_is_predicted_by_the_signal_that_serves_the_others_best():
    """One signal is the gain itself but for the benchmark asked, another is noise, the rest are not measured."""
    names = list("abcdef")
    gain = pd.Series([0.1, 0.05, 0.0, -0.05, -0.1, 0.2], names)
    measured = pd.DataFrame(np.nan, names, list(SIGNALS))
    good, noise = list(SIGNALS)[:2]
    measured[good], measured[noise] = 2 * gain + 1, [1.0, 5.0, 2.0, 4.0, 3.0, 0.0]
    measured.loc["f", good] = 1.0
    assert predicted_gains(measured, gain)["f"] == pytest.approx(0.0, abs=1e-9)
    few = predicted_gains(measured.iloc[:4], gain.iloc[:4])
    assert few.isna().all() and accuracies(predictor(few["a"]).choose(ARMS)) == accuracies(ARMS["0"])


def test_the_arms_are_those_of_the_experiment():
    declared = EXPERIMENTS["automatic"]
    assert set(declared.arms) == {*WEIGHTS, "gradients", "policy"}
    assert len(declared.seeds) == 4 and all(len(seeds) == 5 for seeds in declared.seeds.values())
