"""Numbers from records against SciPy and against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from asg import AsgError
from asg_book.analysis import (
    best_kept,
    by_seed,
    confusion,
    curves,
    decisions,
    difference,
    differences,
    drifts,
    estimate,
    fates,
    gains,
    labels_per_class,
    meta_curves,
    meta_ratios,
    per_class,
    points,
    reliability,
    rounds,
    slopes,
    summary,
)


def record(seed: int, accuracy: float, **more: object) -> dict:
    start = {"step": 0, "accuracy": 0.1, "kl": 0.0}
    final = {"step": 8, "accuracy": accuracy, "kl": accuracy / 2, **more}
    return {"seed": seed, "evaluations": [start, final], "final": final, "best_on_target": {"accuracy": accuracy + 0.1}}


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_estimate_is_scipys_t_interval(n: int):
    values = np.random.default_rng(n).normal(0.6, 0.05, n).tolist()
    result = estimate(values)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert (result.n, result.mean, result.sd) == pytest.approx((n, np.mean(values), np.std(values, ddof=1)))


def test_estimate_of_five_seeds_by_hand():
    """1 … 5: mean 3, sd √2.5, and t₄ = 2.7764 gives 3 ± 1.9632."""
    result = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (result.mean, result.sd) == pytest.approx((3.0, math.sqrt(2.5)))
    assert (result.low, result.high) == pytest.approx((3 - 1.9632, 3 + 1.9632), abs=1e-4)


def test_estimate_of_equal_values_has_no_width():
    result = estimate([0.5, 0.5, 0.5])
    assert (result.mean, result.sd, result.low, result.high) == (0.5, 0.0, 0.5, 0.5)


def test_estimate_of_one_value_has_a_mean_and_no_interval():
    result = estimate([0.7])
    assert (result.n, result.mean) == (1, 0.7)
    assert all(map(math.isnan, (result.sd, result.low, result.high)))


def test_estimate_of_nothing_is_nan():
    result = estimate([])
    assert result.n == 0
    assert all(map(math.isnan, (result.mean, result.sd, result.low, result.high)))


def test_by_seed_reads_the_chosen_evaluation_and_passes_over_what_was_not_measured():
    records = [record(3, 0.6, imagenet=0.5), record(1, 0.4)]
    assert by_seed(records, "accuracy") == {3: 0.6, 1: 0.4}
    assert by_seed(records, "accuracy", "best_on_target") == pytest.approx({3: 0.7, 1: 0.5})
    assert by_seed(records, "imagenet") == {3: 0.5}


def test_difference_pairs_the_seeds_that_both_have():
    a = [record(2, 0.50), record(0, 0.61), record(1, 0.73), record(9, 0.99)]
    b = [record(1, 0.70), record(0, 0.60), record(2, 0.45), record(8, 0.01)]
    result = difference(a, b, "accuracy")
    pairs = [0.01, 0.03, 0.05]
    interval = stats.ttest_rel([0.61, 0.73, 0.50], [0.60, 0.70, 0.45]).confidence_interval(0.95)
    assert (result.n, result.mean, result.sd) == pytest.approx((3, np.mean(pairs), np.std(pairs, ddof=1)))
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    assert difference(b, a, "accuracy").mean == pytest.approx(-result.mean)


def test_difference_without_a_common_seed_is_empty():
    assert difference([record(0, 0.5)], [record(1, 0.4)], "accuracy").n == 0


def test_differences_have_a_row_for_every_pair_with_common_seeds():
    arms = {"a": [record(0, 0.6), record(1, 0.8)], "b": [record(0, 0.5), record(1, 0.5)], "none": []}
    table = differences(arms, {"first": ("a", "b"), "empty": ("none", "b")}, ["accuracy"])
    found = difference(arms["a"], arms["b"], "accuracy")
    assert table.to_dict("records") == [
        {"metric": "accuracy", "row": "first", "mean": found.mean, "low": found.low, "high": found.high}
    ]


def test_summary_has_a_row_an_arm_and_a_column_a_metric():
    table = summary({"plain": [record(0, 0.4), record(1, 0.6)], "proxy": [record(0, 0.7)]}, ["accuracy", "kl"])
    assert (list(table.index), list(table.columns)) == (["plain", "proxy"], ["accuracy", "kl"])
    assert table.loc["plain", "accuracy"] == estimate([0.4, 0.6])
    assert table.loc["proxy", "kl"].mean == pytest.approx(0.35)


def test_curves_have_a_row_for_every_number_of_every_evaluation():
    table = curves({"plain": [record(0, 0.4), record(1, 0.6)], "proxy": [record(0, 0.7)]}, ["accuracy", "kl", "nope"])
    assert list(table.columns) == ["arm", "seed", "step", "metric", "value"]
    assert len(table) == 3 * 2 * 2  # records × evaluations × measured metrics
    row = table.query("arm == 'plain' and seed == 1 and step == 8 and metric == 'kl'")
    assert row["value"].tolist() == [0.3]
    assert set(table["metric"]) == {"accuracy", "kl"}


def test_drifts_have_a_row_for_every_group_of_every_final_evaluation_in_the_networks_order():
    table = drifts({"plain": [record(s, 0.4, drift={"stem": 0.1 * s, "blocks": 0.2}) for s in (0, 1)]})
    expected = [("plain", 0, "stem", 0.0), ("plain", 0, "blocks", 0.2), ("plain", 1, "stem", 0.1), ("plain", 1, "blocks", 0.2)]  # fmt: skip
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected, columns=["arm", "seed", "group", "drift"]))


def test_per_class_averages_over_seeds():
    arms = {
        "plain": [record(s, 0.4, per_class={"a": 0.2 + 0.2 * s, "b": 1.0}) for s in (0, 1)],
        "proxy": [record(0, 0.4, per_class={"a": 0.5, "b": 0.0})],
    }
    expected = pd.DataFrame({"plain": {"a": 0.3, "b": 1.0}, "proxy": {"a": 0.5, "b": 0.0}})
    pd.testing.assert_frame_equal(per_class(arms), expected)


@pytest.mark.parametrize("table", [lambda: curves({}, ["accuracy"]), lambda: drifts({"plain": []})])
def test_tables_without_records_are_empty_with_their_columns(table):
    assert table().empty
    assert len(table().columns) >= 4


def test_decisions_are_one_row_a_part_and_window():
    made = [{"step": 0, "ratios": [0.1, 1.0]}, {"step": 10, "ratios": [0.2, 0.9]}]
    chosen = record(3, 0.5) | {"parts": ["stem+body", "head"], "decisions": made}
    table = decisions({"asg": [chosen], "small": [record(0, 0.4)]})
    assert table.to_dict("list") == {
        "arm": ["asg"] * 4, "seed": [3] * 4, "step": [0, 0, 10, 10],
        "part": ["stem+body", "head"] * 2, "ratio": [0.1, 1.0, 0.2, 0.9],
    }  # fmt: skip


def test_the_curves_of_a_meta_training_are_moving_means():
    """An episode that diverged has a reward and no held-out losses."""
    point = {"entropy": 2.0, "held_guidance": 0.5}
    curve = [
        {"episode": 0, "reward": 1.0, "held_task": 3.0, "ratios": {"a": 0.0, "b": 1.0}, **point},
        {"episode": 1, "reward": 3.0, "held_task": 1.0, "ratios": {"a": 1.0, "b": 0.0}, **point},
        {
            "episode": 2,
            "reward": -10.0,
            "held_task": None,
            "ratios": {"a": 0.0, "b": 0.0},
            **point,
            "held_guidance": None,
        },
    ]
    table = meta_curves({"p": {"curve": curve}}, window=2)
    assert len(table) == 12 and set(table["policy"]) == {"p"}
    values = {metric: part["value"].tolist() for metric, part in table.groupby("metric")}
    assert values["reward"] == [1.0, 2.0, -3.5]
    assert values["held_task"] == [3.0, 2.0, 1.0]
    assert values["entropy"] == [2.0, 2.0, 2.0]
    ratios = meta_ratios({"curve": curve}, window=2)
    assert ratios[ratios["part"] == "a"]["ratio"].tolist() == [0.0, 0.5, 0.5]
    assert ratios[ratios["part"] == "b"]["ratio"].tolist() == [1.0, 0.5, 0.0]


def test_slopes_are_those_of_scipy_and_of_a_plane_without_noise():
    """One part: scipy's linear regression and its standard error. Several parts and no noise: the plane itself."""
    random = np.random.default_rng(0)
    x, noise = random.random(30), random.normal(size=30)
    one = slopes([{"ratios": {"a": r}, "end": 2 * r + n} for r, n in zip(x, noise, strict=True)], ["end"]).iloc[0]
    known = stats.linregress(x, 2 * x + noise)
    half = stats.t.ppf(0.975, 28) * known.stderr
    assert (one["mean"], one["low"], one["high"]) == pytest.approx(
        (known.slope, known.slope - half, known.slope + half)
    )
    plane = [{"ratios": {"a": a, "b": b}, "end": 1 + 2 * a - 3 * b} for a, b in random.random((10, 2))]
    found = slopes(plane, ["end"])
    assert found["mean"].tolist() == pytest.approx([2, -3]) and found["row"].tolist() == ["a", "b"]
    with pytest.raises(AsgError, match="3 trials are too few for the slopes of 2 parts"):
        slopes(plane[:3], ["end"])


def trial(*losses: float, kl: float = 0.0, error: float = 0.1) -> list[dict]:
    return [{"final": {"validation_loss": loss, "validation_loss_error": error, "kl": kl}} for loss in losses]


@pytest.mark.parametrize(
    ("losses", "divergences", "chosen"),
    [
        ([1.0, 1.05, 1.2, 2.0], [3, 2, 1, 0], 1),  # 1.2 is over 1.0 + .1
        ([1.0, 1.05, 1.09, 1.05], [3, 1, 2, 4], 1),  # stronger penalties that keep less are not taken
        ([1.0, 2.0, 2.0, 2.0], [3, 0, 0, 0], 0),
        ([1.3, 1.2, 1.1, 1.0], [0, 0, 0, 5], 2),
    ],
)
def test_of_what_is_within_one_standard_error_the_least_divergent_is_chosen(
    losses: list[float], divergences: list[float], chosen: int
):
    assert best_kept([trial(loss, kl=kl) for loss, kl in zip(losses, divergences, strict=True)]) == chosen


def test_the_rule_uses_the_means_over_seeds_and_the_error_of_the_best():
    assert best_kept([trial(1.2, 1.0, error=0.01, kl=2), trial(1.1, 1.12, error=9.0, kl=1)]) == 1
    assert best_kept([trial(1.2, 1.0, error=0.001, kl=2), trial(1.1, 1.12, error=9.0, kl=1)]) == 0
    apart = [trial(1.0, kl=0) + trial(1.0, kl=4), trial(1.0, kl=1) + trial(1.0, kl=1)]
    assert best_kept(apart) == 1


def test_confusion_counts_the_photographs_of_a_class():
    records = [{"final": {"predicted": p}} for p in ([0, 1, 1, 0], [0, 0, 1, 2])]
    table = confusion(records, [0, 0, 1, 1], ["a", "b", "c"])
    assert table.index.tolist() == ["a", "b"] and table.columns.tolist() == ["a", "b", "c"]
    assert table.to_numpy().tolist() == [[0.75, 0.25, 0.0], [0.25, 0.5, 0.25]]


def test_reliability_has_bins_of_equal_number_in_the_order_of_confidence():
    record = {"seed": 3, "final": {"confidence": [0.9, 0.2, 0.8, 0.4], "predicted": [0, 0, 1, 1]}}
    table = reliability({"arm": [record]}, [0, 1, 1, 1], bins=2)
    assert table["confidence"].tolist() == pytest.approx([0.3, 0.85])
    assert table["right"].tolist() == [0.5, 1.0] and table["photos"].tolist() == [2, 2]


def test_points_take_axis_point_and_method_apart():
    table = points({"scene": {"fixed, white, plain": [record(1, 0.4)]}}, ["accuracy"])
    assert table.iloc[0].to_dict() == {
        "axis": "scene", "point": "fixed, white", "arm": "plain", "seed": 1, "metric": "accuracy", "value": 0.4,
    }  # fmt: skip


def adapted(seed: int, *evaluations: dict) -> dict:
    return {"seed": seed, "evaluations": list(evaluations), "final": evaluations[-1]}


ROUND = {"accuracy": 0.5, "sure": 0.9, "selection": [[3, 1, 4], [1, 3, 0]]}  # truth a, b × label a, b, none


def test_rounds_say_what_the_labels_of_each_round_were_worth():
    runs = {"arm": [adapted(7, {**ROUND, "accuracy": 0.4}, ROUND)], "no self-training": [record(1, 0.4)]}
    table = rounds(runs, ["accuracy"]).set_index(["step", "metric"])["value"]
    assert table[0, "accuracy"] == 0.4 and table[1, "accuracy"] == 0.5
    assert table[1, "precision"] == 6 / 8 and table[1, "coverage"] == 8 / 12
    assert table[1, "excess"] == pytest.approx(0.9 - 6 / 8) and len(table) == 5  # round 0 has no labels


def test_labels_per_class_add_up_the_seeds():
    last = {**ROUND, "selection": [[8, 0, 0], [0, 0, 4]]}
    table = labels_per_class([adapted(0, ROUND, ROUND, last), adapted(1, ROUND, ROUND, last)], ["a", "b"])
    assert table["precision, first round"].tolist() == [0.75, 0.75]
    assert table["coverage, first round"].tolist() == [0.5, 1.0]
    assert table["precision, last round"]["a"] == 1.0 and np.isnan(table["precision, last round"]["b"])
    assert table["coverage, last round"].tolist() == [1.0, 0.0]
    assert labels_per_class([], ["a"]).empty


def test_fates_follow_the_labels_of_the_first_round_to_the_end():
    start = {"predicted": [0, 0, 1, 1]}
    first = {"predicted": [0, 0, 1, 1], "pseudo": [0, 1, -1, 1]}
    end = {"predicted": [0, 1, 0, 0], "pseudo": [0, 1, 1, 1]}
    table = fates({"arm": [adapted(0, start, first, end)], "none": []}, [0, 0, 0, 1])
    assert table.columns.tolist() == ["of the photos", "answered as labelled", "right before", "right after"]
    assert table.loc[("arm", "right label")].tolist() == [0.5, 0.5, 1.0, 0.5]
    assert table.loc[("arm", "wrong label")].tolist() == [0.25, 1.0, 1.0, 0.0]
    assert table.loc[("arm", "no label")].tolist() == pytest.approx([0.25, math.nan, 0.0, 1.0], nan_ok=True)
    assert len(table) == 3


def test_gains_are_paired_within_each_run():
    runs = [adapted(s, {"accuracy": 0.1 * s}, {"accuracy": 0.1 * s + gain}) for s, gain in enumerate((0.1, 0.3))]
    table = gains({"arm": runs, "one evaluation": [adapted(0, {"accuracy": 0.4})]}, ["accuracy"])
    known = estimate([0.1, 0.3])
    assert table["row"].tolist() == ["arm"]
    assert table.iloc[0][["mean", "low", "high"]].tolist() == pytest.approx([known.mean, known.low, known.high])
