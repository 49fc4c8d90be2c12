"""The tables of "Since then", of known records."""

from __future__ import annotations

import pytest
from matplotlib import pyplot as plt

from asg_book import plots, since
from asg_book.binding import Bound, bind
from asg_book.catalogue import EXPERIMENTS
from asg_book.catalogue.successors import SHARES


def bound(**starts: dict[float, tuple[float, float, float]]) -> Bound:
    """Share → (accuracy, held-out loss, held-out KL) of one start, over two seeds that lie .02 apart in accuracy."""
    arms = {
        f"{start}, {share:g}": [
            {
                "seed": seed,
                "final": {
                    "accuracy": a + 0.02 * seed, "validation": a, "kl": kl, "validation_loss": loss,
                    "validation_loss_error": 0.1,
                },
            }
            for seed in (0, 1)
        ]
        for start, shares in starts.items()
        for share, (a, loss, kl) in shares.items()
    }  # fmt: skip
    return Bound(EXPERIMENTS["interpolation"], "cartoon", arms, {}, (0, 1), False, arms)


# Photographs are best at .3; held-out loss is lowest at 1, and as good from .8 on.
PLAIN = {share: (0.8 - abs(share - 0.3), max(1.05 - 0.5 * share, 0.6), share) for share in SHARES}


def test_shares_are_chosen_on_held_out_images_and_the_oracle_on_photographs():
    shares = since.shares_of(bound(plain=PLAIN), "plain")
    assert list(shares) == list(SHARES)
    assert since.chosen_share(shares) == 0.8 and since.oracle_share(shares) == 0.3
    assert since.shares_of(bound(plain={1.0: PLAIN[1.0]}), "plain") == {}  # not all are there
    table = since.share_table({"cartoons": bound(plain=PLAIN)}).data
    assert list(table.index) == ["cartoons, plain"]
    assert table.iloc[0]["oracle"] == "81.0 ± 1.4 at 0.3"
    assert table.iloc[0]["chosen on held-out images"] == "31.0 ± 1.4 at 0.8"


def test_the_figure_has_a_panel_a_benchmark_and_metric_with_the_means_of_the_records():
    table = since.curves({"a": bound(plain=PLAIN, guided=PLAIN), "b": bound(plain=PLAIN)}, ["accuracy", "validation"])
    figure = plots.interpolation(table)
    axes = figure.axes
    assert len(axes) == 4 and [axis.get_title() for axis in axes[:2]] == ["a", "b"]
    assert [len(axis.lines) for axis in axes] == [2, 1, 2, 1]
    line = axes[0].lines[0]
    assert line.get_xdata().tolist() == list(SHARES)
    assert line.get_ydata().tolist() == pytest.approx([100 * (0.81 - abs(share - 0.3)) for share in SHARES])
    plt.close(figure)


def test_costs_are_over_the_first_method_and_say_what_was_measured():
    cost = {"forward": 1.0, "backward": 1.0, "once": 0, "seconds": 0.5}
    measured = {
        "costs": {"vanilla": cost, "CSG": {**cost, "forward": 2.0, "seconds": 0.75, "once": 2109}},
        "again": 0.55, "setting": "lite0", "date": "2026-11-27",
    }  # fmt: skip
    table = since.cost_table(measured, {"CSG": 3})
    assert table.data.loc["CSG"].tolist() == ["2.00", "1.00", "2,109", "1.50", "3"]
    assert table.data.loc["vanilla", "trials"] == "—" and "at the end: 1.10" in table.caption


def test_costs_that_were_not_measured_name_the_command(workplace):
    assert "python benchmarks/methods.py" in since.costs({}).data


def test_the_rules_table_reads_the_experiments_records(workplace):
    """Without any record it has no column of a benchmark, and no error."""
    arms = bind("automatic", "cartoon").arms
    assert since.automatic_table({"cartoons": arms}, {}).data.shape[0] == 0


def recipes(**levels: float) -> dict[str, list[dict]]:
    """Recipe → mean accuracy on photographs over two seeds, as the experiment "recipes" has it."""
    return {
        name.replace("_", "-"): [{"seed": seed, "final": {"accuracy": mean + 0.01 * seed}} for seed in (0, 1)]
        for name, mean in levels.items()
    }


def test_the_recipe_that_is_recommended_gains_most_where_it_gains_least():
    others = dict.fromkeys(("csg", "guidance+wise_ft", "ema"), 0.6)
    benchmarks = {
        "drawings": recipes(plain=0.7, guidance=0.9, wise_ft=0.8, **others),
        "sketches": recipes(plain=0.7, guidance=0.5, wise_ft=0.75, **others),
    }
    assert since.lowest_gains(benchmarks)["guidance"] == pytest.approx(-0.2)
    assert since.lowest_gains(benchmarks)["wise-ft"] == pytest.approx(0.05)
    assert since.recommended(since.lowest_gains(benchmarks)) == "wise-ft"
    sentence = since.recommendation(benchmarks).data
    assert "--recipe wise-ft" in sentence and "5.0 points" in sentence


def test_plain_training_is_recommended_where_no_recipe_gains_everywhere():
    others = dict.fromkeys(("csg", "guidance+wise_ft", "ema", "wise_ft"), 0.6)
    benchmarks = {
        "drawings": recipes(plain=0.7, guidance=0.9, **others), "sketches": recipes(plain=0.7, guidance=0.5, **others)
    }  # fmt: skip
    assert (
        since.recommended(since.lowest_gains(benchmarks)) == "plain"
        and "--recipe plain" in since.recommendation(benchmarks).data
    )


def test_nothing_is_recommended_before_every_recipe_was_run_on_every_benchmark():
    benchmarks = {"drawings": recipes(plain=0.7, guidance=0.9, ema=0.8), "sketches": recipes(plain=0.7, guidance=0.8)}
    assert since.lowest_gains(benchmarks).keys() == {"guidance"}
    assert "asg reproduce --experiment recipes" in since.recommendation(benchmarks).data


# Recipe → the arm of "since" that it is.
SAME = {
    "guidance": "guidance", "plain": "vanilla", "wise-ft": "WiSE-FT", "guidance+wise-ft": "WiSE-FT, guided",
    "ema": "EMA", "csg": "CSG",
}  # fmt: skip


def test_recipes_are_arms_of_the_table_at_their_chosen_strength():
    assert SAME.keys() == EXPERIMENTS["recipes"].arms.keys()
    for recipe, arm in SAME.items():
        run = EXPERIMENTS["recipes"].config("cartoon", recipe, 5)
        assert run.identity() == EXPERIMENTS["since"].config("cartoon", arm, 5).identity(), recipe
