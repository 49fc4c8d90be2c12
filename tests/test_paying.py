"""When guidance pays: numbers of known records, and signals against independent implementations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from asg_book import pages, paying
from asg_book.catalogue import EXPERIMENTS
from asg_book.paying import CASES, SIGNALS, Case


def runs(*accuracies: float, **final: object) -> list[dict]:
    return [{"seed": seed, "final": {"accuracy": value, **final}} for seed, value in enumerate(accuracies)]


ARMS = {"frozen": runs(0.8, 0.8), "small": runs(0.7, 0.74), "small_proxy": runs(0.8, 0.86)}
CASE = Case("x", "guidance", "cartoon")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_names_arms_of_an_experiment_that_is_run_there(case: Case):
    experiment = EXPERIMENTS[case.experiment]
    assert {case.frozen, case.plain, case.guided} <= set(experiment.arms) and case.profile in experiment.seeds
    assert experiment.metric == case.metric


def test_gain_and_advantage_are_paired_differences():
    table = paying.gains({"x": (CASE, ARMS), "none": (CASE, {"small": runs(0.5)})})
    assert list(table.index) == ["x"]
    assert table.loc["x", "advantage"].mean == pytest.approx(0.08)
    known = stats.ttest_rel([0.8, 0.86], [0.7, 0.74])
    low, high = known.confidence_interval()
    gain = table.loc["x", "gain"]
    assert (gain.mean, gain.low, gain.high, gain.p) == pytest.approx((0.11, low, high, known.pvalue))
    long = paying.interval_rows(table)
    assert long["metric"].tolist() == ["advantage", "gain"] and long["mean"].tolist() == pytest.approx([0.08, 0.11])


def test_the_answer_ranks_the_benchmarks_by_what_there_is_to_win():
    def arms(frozen: float, guided: float) -> dict:
        return {"frozen": runs(frozen, frozen), "small": runs(0.5, 0.5), "small_proxy": runs(guided, guided)}

    numbers = {"a": (0.3, 0.42), "b": (0.9, 0.66), "c": (0.6, 0.6), "d": (0.7, 0.55)}
    table = paying.gains({name: (CASE, arms(*pair)) for name, pair in numbers.items()})
    said = pages.paying_answer(table).data
    assert "4 benchmarks" in said and "from -8.0 points on a (frozen less plain: -20.0) to +16.0 points on b" in said
    frozen, guided = zip(*numbers.values(), strict=True)
    rho = stats.spearmanr(frozen, guided).statistic
    every = [abs(stats.spearmanr(frozen, order).statistic) for order in permutations(guided)]  # 24 orders, exactly
    p = sum(one >= abs(rho) - 1e-12 for one in every) / len(every)
    assert f"is not shown by so few (rank correlation {rho:+.2f}, exact p {p:.3f})" in said
    assert "three benchmarks" in pages.paying_answer(table.iloc[:2]).data


def test_gain_over_weights_is_against_none():
    arms = {"0": runs(0.5, 0.6), "0.1": runs(0.7, 0.7), "0.3": []}
    table = paying.over_weights({"x": arms})
    assert table[["benchmark", "λ"]].to_numpy().tolist() == [["x", 0.1]] and table["gain"][0].mean == pytest.approx(
        0.15
    )


def test_signals_are_those_of_the_records_and_nan_where_they_lack():
    def looks(*values: float) -> dict:
        return {"looks": {str(k): {"accuracy": v} for k, v in enumerate(values)}}

    frozen = runs(0.8, validation=0.9, **looks(0.5, 0.7))
    plain = runs(0.7, validation=0.95, kl=3.0, entropy=1.5, information=0.4, mapped=0.3, **looks(0.4, 0.5))
    guided = runs(0.7, **looks(0.6, 0.7))
    rich = {"frozen": frozen, "small": plain, "small_proxy": guided}
    table = paying.signals({"rich": (CASE, rich), "poor": (CASE, ARMS), "none": (CASE, {"small": plain})})
    assert table.index.tolist() == ["rich", "poor"] and table.columns.tolist() == list(SIGNALS)
    assert table.loc["rich"].tolist() == pytest.approx([1.5, 0.4, 0.3, 0.9, 3.0, -0.05, 0.15, 0.2])
    assert table.loc["poor"].isna().all()


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_is_scipys_with_an_exact_p(seed: int):
    x, y = np.random.default_rng(seed).normal(size=(2, 6))
    rho, p = paying.rank_correlation(x, y)
    exact = stats.permutation_test((y,), lambda y: stats.spearmanr(x, y).statistic, permutation_type="pairings")
    assert rho == pytest.approx(stats.spearmanr(x, y).statistic) and p == pytest.approx(exact.pvalue, abs=1e-3)


def test_too_few_pairs_have_no_rank_correlation():
    assert np.isnan(paying.rank_correlation([1, 2], [1, 2])).all()
    assert np.isnan(paying.rank_correlation([1, 1, 1], [1, 2, 3])).all()


def test_what_is_left_out_is_predicted_by_the_others():
    x, y = np.random.default_rng(0).normal(size=(2, 6))
    expected = cross_val_predict(LinearRegression(), x[:, None], y, cv=LeaveOneOut())
    np.testing.assert_allclose(paying.left_out(x, y), expected)


def test_worth_of_a_signal_that_tells_all_and_of_one_with_too_few():
    gained = paying.gains({
        str(k): (CASE, {"frozen": ARMS["frozen"], "small": runs(0.5, 0.5), "small_proxy": runs(*[0.5 + g] * 2)})
        for k, g in enumerate((-0.1, -0.05, 0.02, 0.1))
    })  # fmt: skip
    measured = pd.DataFrame({"all": [1.0, 1.5, 2.2, 3.0], "few": [1.0, np.nan, 2.0, 3.0]}, index=list("0123"))
    table = paying.predictive_power(measured, gained)
    assert table.loc["all", ["benchmarks", "ρ", "error", "signs"]].tolist() == [
        4, pytest.approx(1), pytest.approx(0, abs=1e-9), "4 of 4",
    ]  # fmt: skip
    assert table.loc["all", "p"] == pytest.approx(2 / 24)
    without = np.mean([abs(np.mean([-0.05, 0.02, 0.1]) + 0.1), abs(np.mean([-0.1, 0.02, 0.1]) + 0.05),
                       abs(np.mean([-0.1, -0.05, 0.1]) - 0.02), abs(np.mean([-0.1, -0.05, 0.02]) - 0.1)])  # fmt: skip
    assert table.loc["all", "error without"] == pytest.approx(100 * without)
    assert table.loc["few", "benchmarks"] == 3 and np.isnan(table.loc["few", "error"])
