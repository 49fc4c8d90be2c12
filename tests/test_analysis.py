"""Numbers from records against SciPy and against numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from asg import AsgError
from asg_book.analysis import (
    confusion,
    curves,
    decisions,
    drifts,
    gains,
    labels_per_class,
    meta_curves,
    meta_ratios,
    per_class,
    points,
    pseudo_label_outcomes,
    reliability,
    rounds,
    slopes,
)
from asg_book.estimates import (
    complete,
    corrected,
    crossed,
    difference,
    differences,
    estimate,
    holm,
    level,
    summary,
    values,
)
from asg_book.selection import best_kept, shortest


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
    assert result.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


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


def test_values_are_those_of_the_chosen_evaluation_and_pass_over_what_was_not_measured():
    records = [record(3, 0.6, imagenet=0.5), record(1, 0.4)]
    assert values(records, "accuracy").to_dict("index") == {0: {1: 0.4, 3: 0.6}}
    assert values(records, "accuracy", "best_on_target").to_dict("index")[0] == pytest.approx({3: 0.7, 1: 0.5})
    assert values(records, "imagenet").to_dict("index") == {0: {3: 0.5}}
    assert values([], "accuracy").empty and values(records, "nope").empty


def driven(policy: int, seed: int, accuracy: float, family: str = "asg") -> dict:
    return record(seed, accuracy) | {"policy": policy, "repeats": family}


def test_values_of_repeated_policies_are_a_table():
    table = values([driven(1, 0, 0.3), driven(0, 0, 0.1), driven(0, 4, 0.2)], "accuracy")
    assert table.index.tolist() == [0, 1] and table.columns.tolist() == [0, 4]
    assert table.loc[0].tolist() == [0.1, 0.2] and math.isnan(table.loc[1, 4])


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([], ([0, 1, 2], [0, 1, 2, 3, 4])),
        ([(2, 4)], ([0, 1, 2], [0, 1, 2, 3])),  # 12 runs stay; without the policy it would be 10
        ([(1, s) for s in range(5)], ([0, 2], [0, 1, 2, 3, 4])),
        ([(1, s) for s in range(4)], ([0, 2], [0, 1, 2, 3, 4])),
    ],
)
def test_the_complete_part_leaves_out_the_policy_or_the_seed_that_lacks_most(missing, expected):
    table = pd.DataFrame(np.arange(15.0).reshape(3, 5))
    for policy, seed in missing:
        table.loc[policy, seed] = math.nan
    part = complete(table)
    assert (part.index.tolist(), part.columns.tolist()) == expected
    assert part.equals(table.loc[expected[0], expected[1]])


def test_two_policies_and_two_seeds_by_hand():
    """[[1, 3], [2, 8]]: the sums are in the comments."""
    # grand mean 3.5; policies 2 and 5, seeds 1.5 and 5.5; residuals ±1
    # M_P = 2 (1.5² + 1.5²) = 9, M_S = 2 (2² + 2²) = 16, M_R = 4 · 1 = 4; V = (9 + 16 − 4) / 4 = 5.25
    # ν = 5.25² / (2.25² + 4² + 1²) = 27.5625 / 22.0625
    estimated = crossed([pd.DataFrame([[1.0, 3.0], [2.0, 8.0]])])
    freedom = 27.5625 / 22.0625
    half = stats.t.ppf(0.975, freedom) * math.sqrt(5.25)
    assert (estimated.n, estimated.policies, estimated.size) == (2, (2,), "2 × 2")
    assert (estimated.mean, estimated.low, estimated.high) == pytest.approx((3.5, 3.5 - half, 3.5 + half))
    assert estimated.p == pytest.approx(2 * stats.t.sf(3.5 / math.sqrt(5.25), freedom))
    assert estimated.sd == pytest.approx(np.std([1, 3, 2, 8], ddof=1))


def test_the_mean_squares_are_those_of_a_least_squares_fit():
    """An independent way to the sums of squares: nested linear models, fitted by numpy."""
    d = np.random.default_rng(3).normal(size=(3, 5)) + np.array([[0.0], [2.0], [5.0]]) + np.arange(5)
    y, (policy, seed) = d.ravel(), np.indices(d.shape).reshape(2, -1)
    dummies = {"p": (policy[:, None] == np.arange(1, 3)), "s": (seed[:, None] == np.arange(1, 5))}

    def rest(*terms: str) -> float:
        x = np.column_stack([np.ones(15), *(dummies[t] for t in terms)]).astype(float)
        return float(np.square(y - x @ np.linalg.lstsq(x, y, rcond=None)[0]).sum())

    squares = {"p": rest("s") - rest("p", "s"), "s": rest("p") - rest("p", "s"), "r": rest("p", "s")}
    freedom = {"p": 2, "s": 4, "r": 8}
    terms = {k: squares[k] / freedom[k] / 15 for k in squares}
    variance = terms["p"] + terms["s"] - terms["r"]
    assert variance > max(terms.values())  # the floor does not act here
    nu = variance**2 / sum(terms[k] ** 2 / freedom[k] for k in terms)
    estimated = crossed([pd.DataFrame(d)])
    assert estimated.high - estimated.mean == pytest.approx(stats.t.ppf(0.975, nu) * math.sqrt(variance))


def test_where_the_residual_is_large_the_larger_term_stands_in():
    """Equal policy means, equal seed means: M_P = M_S = 0 < M_R, and the interval has no negative variance."""
    d = pd.DataFrame([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) + np.array([0.0, 0.0, 0.3])
    estimated = crossed([d])
    seeds = d.mean().to_numpy()
    assert estimated.high - estimated.mean == pytest.approx(stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / math.sqrt(3))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("policies", [0.0, 0.3, 1.0, 5.0])  # standard deviations, those of seeds and residual are 1
def test_intervals_of_repeated_policies_cover_the_truth(policies: float, seeds: int):
    rng, runs, covered = np.random.default_rng(7), 1500, 0
    for _ in range(runs):
        d = policies * rng.normal(size=(3, 1)) + rng.normal(size=(1, seeds)) + rng.normal(size=(3, seeds))
        estimated = crossed([d])
        covered += estimated.low <= 0 <= estimated.high
    assert 0.93 <= covered / runs <= 0.99


def test_the_spread_of_two_different_policies_is_in_their_difference():
    """Coverage where both arms have three policies of their own; a t interval over seeds alone covers far less."""
    rng, runs, covered, naive = np.random.default_rng(8), 1500, 0, 0
    for _ in range(runs):
        d = rng.normal(size=(2, 3, 1)) + 0.3 * rng.normal(size=(2, 1, 5)) + 0.3 * rng.normal(size=(2, 3, 5))
        estimated, alone = crossed([d[0], -d[1]]), estimate(d[0].mean(0) - d[1].mean(0))
        covered += estimated.low <= 0 <= estimated.high
        naive += alone.low <= 0 <= alone.high
    arms = [
        [driven(p, s, table[p, s], name) for p in range(3) for s in range(5)]
        for name, table in zip("ab", d, strict=True)
    ]
    assert difference(*arms, "accuracy") == estimated and estimated.size == "5 × 3 × 3"
    assert 0.93 <= covered / runs <= 0.99 and naive / runs < 0.6


def test_one_policy_is_the_paired_t_interval():
    a = [driven(0, s, v) for s, v in enumerate([0.61, 0.73, 0.50])]
    b = [record(s, v) for s, v in enumerate([0.60, 0.70, 0.45])]
    estimated, known = difference(a, b, "accuracy"), stats.ttest_rel([0.61, 0.73, 0.50], [0.60, 0.70, 0.45])
    interval = known.confidence_interval(0.95)
    assert (estimated.low, estimated.high, estimated.p) == pytest.approx((interval.low, interval.high, known.pvalue))
    assert estimated.size == "3" and level(a, "accuracy") == estimate([0.61, 0.73, 0.50])


def test_an_arm_without_a_policy_is_subtracted_from_every_policy():
    rng = np.random.default_rng(5)
    d, plain = rng.normal(size=(3, 4)), rng.normal(size=4)
    a = [driven(p, s, d[p, s]) for p in range(3) for s in range(4)]
    b = [record(s, plain[s]) for s in (3, 2, 1, 0)]
    estimated, known = difference(a, b, "accuracy"), crossed([pd.DataFrame(d - plain)])
    assert (estimated.mean, estimated.low, estimated.high, estimated.size) == pytest.approx(
        (known.mean, known.low, known.high, "4 × 3")
    )
    turned = difference(b, a, "accuracy")
    assert (turned.low, turned.high) == pytest.approx((-known.high, -known.low))


def test_arms_of_the_same_policies_are_paired_policy_by_policy():
    """The policies' own spread, which both share, cancels; policies that one arm lacks are left out."""
    rng = np.random.default_rng(6)
    spread, gain = 10 * rng.normal(size=(3, 1)), 0.1 + 0.01 * rng.normal(size=(3, 4))
    a = [driven(p, s, (spread + gain)[p, s]) for p in range(3) for s in range(4)]
    b = [driven(p, s, spread[p, 0]) for p in range(2) for s in range(4)]
    estimated, known = difference(a, b, "accuracy"), crossed([pd.DataFrame(gain[:2])])
    assert (estimated.low, estimated.high) == pytest.approx((known.low, known.high)) and estimated.size == "4 × 2"


def test_holm_of_a_textbook_case_by_hand():
    """.01, .02, .03, .005 of four: × 4 .02, × 3 .03, × 2 .04, × 1 .03, and none below the one before it."""
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.01, math.nan]) == [0.02, 1.0] and holm([]) == []
    assert holm([0.01], size=5) == [0.05] and holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_holm_is_the_closed_test_of_bonferroni(m: int):
    """A hypothesis falls when every set that holds it falls by Bonferroni: its p is the largest over these sets."""
    rng = np.random.default_rng(m)
    for _ in range(50):
        p = rng.random(m) ** 3
        sets = [[k for k in range(m) if bits >> k & 1] for bits in range(1, 2**m)]
        closed = [max(min(1.0, len(s) * min(p[s])) for s in sets if k in s) for k in range(m)]
        assert holm(p.tolist()) == pytest.approx(closed)


def test_holm_keeps_the_chance_of_any_false_difference():
    """Twelve differences that are none, all from the same five seeds: some verdict is wrong in at most 5 % of tables."""
    rng, runs, wrong, alone = np.random.default_rng(9), 300, 0, 0
    for _ in range(runs):
        arms = rng.normal(size=(13, 5))  # the last is the rival of all others
        table = pd.DataFrame({"metric": "accuracy", "p": [estimate(arm - arms[-1]).p for arm in arms[:-1]]})
        wrong += corrected(table)["decided"].any()
        alone += (table["p"] < 0.05).any()
    assert wrong / runs <= 0.08 and alone / runs > 0.2


def test_each_metric_is_corrected_alone_and_what_is_missing_counts():
    table = pd.DataFrame({"metric": ["a", "b", "a"], "row": [0, 0, 1], "p": [0.01, 0.04, math.nan]})
    assert corrected(table)["adjusted"].tolist() == pytest.approx([0.02, 0.04, 1.0])
    assert corrected(table)["decided"].tolist() == [True, True, False]
    assert corrected(table, 6)["adjusted"].tolist() == pytest.approx([0.06, 0.24, 1.0])
    assert corrected(table[:0]).empty


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
    estimated = difference(arms["a"], arms["b"], "accuracy")
    assert table.to_dict("records") == [
        {"metric": "accuracy", "row": "first", "mean": estimated.mean, "low": estimated.low, "high": estimated.high,
         "p": estimated.p, "estimate": estimated}
    ]  # fmt: skip


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
    table = slopes(plane, ["end"])
    assert table["mean"].tolist() == pytest.approx([2, -3]) and table["row"].tolist() == ["a", "b"]
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


def test_of_trials_that_are_as_good_the_shortest_and_then_the_best_is_chosen():
    losses = {(100, 0.1): 1.3, (200, 0.1): 1.05, (200, 0.2): 1.09, (200, 0.4): 1.2, (400, 0.4): 1.0}
    assert shortest({key: trial(loss) for key, loss in losses.items()}) == (200, 0.1)


def test_the_rule_uses_the_means_over_seeds_and_the_error_of_the_best():
    assert best_kept([trial(1.2, 1.0, error=0.01, kl=2), trial(1.1, 1.12, error=9.0, kl=1)]) == 1
    assert best_kept([trial(1.2, 1.0, error=0.001, kl=2), trial(1.1, 1.12, error=9.0, kl=1)]) == 0
    apart = [trial(1.0, kl=0) + trial(1.0, kl=4), trial(1.0, kl=1) + trial(1.0, kl=1)]
    assert best_kept(apart) == 1


def test_trials_without_a_standard_error_are_a_sentence():
    with pytest.raises(AsgError, match=r"no standard error of the held-out loss.*hold out more designs"):
        best_kept([trial(1.0), [{"final": {"validation_loss": 1.0, "kl": 0.0}}]])


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


def test_pseudo_label_outcomes_follow_the_labels_of_the_first_round_to_the_end():
    start = {"predicted": [0, 0, 1, 1]}
    first = {"predicted": [0, 0, 1, 1], "pseudo": [0, 1, -1, 1]}
    end = {"predicted": [0, 1, 0, 0], "pseudo": [0, 1, 1, 1]}
    table = pseudo_label_outcomes({"arm": [adapted(0, start, first, end)], "none": []}, [0, 0, 0, 1])
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
