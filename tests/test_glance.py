"""The page of results: it names what exists, quotes what was verified, and says what the records say."""

from __future__ import annotations

import dataclasses
import math
import shlex

import pytest
import yaml

from asg_book import binding, build, formatting, glance, measures, pages, plots
from asg_book.catalogue import EXPERIMENTS
from asg_book.catalogue.published import CRST_README, CSG_TABLE_1, CSG_TABLE_5
from asg_book.catalogue.synthetic_data import DATA
from asg_book.glance import BEYOND, PAPER, Panel

PANELS = [panel for panels in (PAPER | BEYOND).values() for panel in panels]
BY_TITLE = pytest.mark.parametrize("panel", PANELS, ids=lambda p: f"{p.experiment}, {p.metric}, {p.shows}")
# Read in the published tables (HSE at the powers 0, 1 and 2, then accuracy; mIoU before and after).
TABLE_1 = {
    "vanilla": (0.4245, 1.2500, 1.6028, 49.3), "weight ℓ2": (0.4014, 1.2296, 1.5302, 56.4),
    "SI": (0.3958, 1.2261, 1.5216, 57.6), "feature ℓ2": (0.3337, 1.1910, 1.4449, 57.1),
    "ASG": (0.3251, 1.1840, 1.4229, 61.1),
}  # fmt: skip
TABLE_5 = {
    "segmentation_resnet50": {
        "IBN-Net, before": 22.17, "IBN-Net": 29.64, "DRPC, before": 32.45, "DRPC": 37.42, "vanilla": 25.88, "asg": 29.65,
    },
    "segmentation_resnet101": {"DRPC, before": 33.56, "DRPC": 42.53, "vanilla": 29.63, "asg": 32.79},
}  # fmt: skip
UNVERIFIED = {28.2, 0.8, 58.7, 76.2, 33.1, 60.2, 76.5, 76.7, 77.4, 76.4, 77.9, 78.1, 82, 85}  # never to be shown


def records(metric: str, *values: float) -> list[dict]:
    finals = [{metric: value, "agreement": value / 2} for value in values]
    return [{"seed": seed, "final": final, "best_on_target": final} for seed, final in enumerate(finals)]


def bound(experiment: str, **arms: list[dict]) -> binding.Bound:
    declared = EXPERIMENTS[experiment]
    made = {arm: arms.get(arm, []) for arm in declared.arms}
    return binding.Bound(declared, declared.home, made, {}, declared.seeds_of(declared.home), False, made)


@pytest.fixture
def displayed(monkeypatch) -> list:
    """Everything that is displayed."""
    seen: list = []
    monkeypatch.setattr(pages, "display", seen.append)
    return seen


@BY_TITLE
def test_a_panel_names_what_exists(panel: Panel):
    arms = EXPERIMENTS[panel.experiment].arms.keys()
    named = {*panel.arms, *panel.unverified, *(arm for pair in panel.claims.values() for arm in pair)}
    assert named <= arms
    assert all(a != b for a, b in panel.claims.values())
    assert {arm for pair in panel.claims.values() for arm in pair} <= set(panel.arms or arms)
    assert (build.BOOK / "chapters" / f"{panel.chapter}.ipynb").exists()
    assert panel.metric in measures.NAMES


@BY_TITLE
def test_a_panel_quotes_verified_values_only(panel: Panel):
    assert {p.source for p in panel.published.values()} <= {CSG_TABLE_1, CSG_TABLE_5, CRST_README}
    assert not {p.value for p in panel.published.values()} & UNVERIFIED
    assert not set(panel.published) & set(panel.unverified)
    if panel.metric.startswith("hse"):
        power = int(panel.metric[-1])
        assert {arm: p.value for arm, p in panel.published.items()} == {arm: row[power] for arm, row in TABLE_1.items()}
        assert {p.source for p in panel.published.values()} == {CSG_TABLE_1}
    if panel.experiment in TABLE_5:
        assert {arm: p.value for arm, p in panel.published.items()} == TABLE_5[panel.experiment]
        assert {p.source for p in panel.published.values()} == {CSG_TABLE_5}


def test_values_of_one_metric_are_not_quoted_under_another():
    assert Panel("x", "07_comparison", "comparison").published["ASG"].value == 61.1
    assert Panel("x", "07_comparison", "comparison", "imagenet").published == {}


def test_no_two_claims_of_the_figure_share_a_name():
    names = [name for panels in PAPER.values() for panel in panels if panel.main for name in panel.claims]
    assert len(set(names)) == len(names) > 10
    assert max(map(len, names)) < 28  # more would leave no room for the intervals on a phone


def test_every_experiment_that_the_paper_calls_for_is_shown():
    wanted = {"oracle", "guidance", "comparison", "policies", "rewards", "policy_design", "segmentation", *TABLE_5}
    wanted |= {"adaptation", "adaptation_half", "adaptation_scenes"}
    wanted |= {f"data_{axis}" for axis in DATA} | {"digits"}
    assert set(glance.SHOWN) == wanted


@BY_TITLE
def test_without_records_there_are_dashes_and_a_link_and_no_error(panel: Panel, displayed: list):
    pages.at_a_glance([panel], {panel.experiment: bound(panel.experiment)})
    table = displayed[0].data
    home = EXPERIMENTS[panel.experiment].home
    assert set(table["n"]) == set(table[home]) == {"—"}
    declared, quoted = EXPERIMENTS[panel.experiment].arms, panel.published
    assert list(table.index) == [*(panel.arms or declared), *(name for name in quoted if name not in declared)]
    for row, value in table["published"].items():
        verified = f"{quoted[row].value:g}" if row in quoted else "—"
        assert value == ("not verified" if row in panel.unverified else verified)
    assert f'<a href="{panel.chapter}.html">' in displayed[0].to_html()
    (notice,) = displayed[1:]
    assert (
        notice.data == f"No records yet. `asg reproduce --experiment {panel.experiment} --profile {home}` makes them."
    )


def test_a_table_and_its_findings_say_what_the_records_say(displayed: list):
    panel = Panel("x", "03_proxy_guidance", "guidance", claims={"small": ("small_proxy", "small")})
    made = bound("guidance", small=records("accuracy", 0.5, 0.6), small_proxy=records("accuracy", 0.6, 0.7001))
    pages.at_a_glance([panel], {"guidance": made})
    table, findings = displayed
    assert table.data.loc["small"].to_dict() == {"n": "2", "cartoon": "55.0 ± 7.1", "published": "49.3"}
    line = "small_proxy against small, photos, task head, 2 paired seeds: +10.0 [+9.9, +10.1] points: **higher**"
    assert line in findings.data and findings.data.count("\n") == 0
    # t₁ = .10005 / .00005, whose p value is (2 / π) · arctan(1 / t), times the differences of the family
    p = 2 / math.pi * math.atan(0.00005 / 0.10005)
    assert f"(corrected p {formatting.show_p(len(EXPERIMENTS['guidance'].family) * p)})" in findings.data


def test_words_and_marks_follow_the_corrected_verdict():
    """The interval of one difference of a family is clear of zero and its corrected p is not below .05."""
    small, better = (0.50, 0.50, 0.50, 0.50, 0.50), (0.53, 0.51, 0.52, 0.50, 0.53)
    made = bound("guidance", small=records("accuracy", *small), small_proxy=records("accuracy", *better))
    row = made.contrasts(["accuracy"]).iloc[0]
    assert row["low"] > 0 and row["p"] < 0.05 < row["adjusted"] == pytest.approx(
        len(EXPERIMENTS["guidance"].family) * row["p"]
    )
    assert "**no difference is shown**" in made.findings(["accuracy"]).data
    assert made.differences(["accuracy"]).data.loc["small_proxy − small", "task head"].endswith("] ○")
    claimed = pages.claims(
        {"x": [Panel("x", "y", "guidance", claims={"c": ("small_proxy", "small")})]}, {"guidance": made}
    )
    drawn = plots.intervals(claimed, "difference")
    (open_one,) = [line for line in drawn.axes[0].lines if len(line.get_xdata()) == 1 and line.get_marker() == "o"]
    assert open_one.get_markerfacecolor() == "white"
    lines = plots.intervals(claimed.assign(decided=True), "difference").axes[0].lines
    assert [line.get_markerfacecolor() for line in lines if line.get_marker() == "o" and len(line.get_xdata())] == [
        plots.COLOURS[0]
    ]


def test_a_page_of_few_arms_has_the_verdicts_of_the_whole_family():
    arms = {
        "small": (0.5, 0.5, 0.5),
        "small_proxy": (0.6, 0.7, 0.65),
        "large": (0.1, 0.2, 0.1),
        "large_proxy": (0.9, 0.8, 0.8),
    }
    every = bound("guidance", **{arm: records("accuracy", *made) for arm, made in arms.items()})
    fewer = {arm: every.arms[arm] for arm in ("small", "small_proxy")}
    few = dataclasses.replace(every, arms=fewer)
    pair = {"x": ("small_proxy", "small")}
    assert few.between(pair, ["accuracy"]).equals(every.between(pair, ["accuracy"]))
    assert len(few.contrasts(["accuracy"])) == 1 and len(every.contrasts(["accuracy"])) == 3


def test_repeated_policies_are_counted_in_tables_and_findings():
    runs = [
        {"seed": s, "policy": p, "repeats": "mini-asg", "final": {"accuracy": 0.5 + 0.01 * p + 0.02 * s}}
        for s in range(3) for p in range(2)
    ]  # fmt: skip
    made = bound(
        "guidance",
        asg=[r | {"best_on_target": r["final"]} for r in runs],
        small_proxy=records("accuracy", 0.4, 0.4, 0.4),
    )
    assert made.size("asg", "accuracy") == "3 × 2" and made.table(["accuracy"]).data.loc["asg", "n"] == "3 × 2"
    assert (
        "asg against small_proxy, photos, task head, 3 paired seeds × 2 policies: +12.5"
        in made.findings(["accuracy"]).data
    )


def test_the_oracle_shows_the_number_that_its_published_neighbour_means():
    final = {"accuracy": 0.08, "kept": 0.515, "product": 0.2, "agreement": 1.0}
    oracle = [{"seed": s, "final": final, "best_on_target": final} for s in range(2)]
    table = bound("comparison", oracle=oracle).table(["accuracy", "product", "agreement"])
    row = table.data.loc["oracle"].to_dict()
    assert row == {
        "n": "2", "task head": "51.5 ± 0.0 †", "oracle selection": "51.5 ± 0.0 †", "published": "53.3",
        "both heads": "—", "agreement": "100.0 ± 0.0",
    }  # fmt: skip
    assert table.caption == "† oracle: kept head, in place of task head"
    assert bound("guidance").table(["accuracy"]).caption is None


@BY_TITLE
def test_every_claim_is_in_the_family_that_verdicts_are_corrected_over(panel: Panel):
    assert set(panel.claims.values()) <= set(EXPERIMENTS[panel.experiment].family)


def test_a_chapters_arms_are_all_that_is_shown(displayed: list):
    made = bound("guidance", small=records("accuracy", 0.5))
    only = dataclasses.replace(made, arms={"small": made.arms["small"]})
    pages.at_a_glance(PAPER["guidance"][1:], {"guidance": only})
    assert all(list(part.data.index) == ["small"] for part in displayed[::2])


def test_the_figures_claims_are_those_with_an_interval():
    bounds = {name: bound(name) for name in glance.SHOWN}
    bounds["guidance"] = bound(
        "guidance", small=records("accuracy", 0.5, 0.6), small_proxy=records("accuracy", 0.6, 0.72),
        large=records("accuracy", 0.4), large_proxy=records("accuracy", 0.5),
    )  # fmt: skip
    bounds["segmentation"] = bound("segmentation", vanilla=records("miou", 0.1, 0.2), asg=records("miou", 0.2, 0.2))
    means = pages.claims(PAPER, bounds).set_index(["row", "metric"])["mean"]
    assert means.to_dict() == pytest.approx(
        {
            ("guidance, small rate", "accuracy"): 0.11,
            ("guidance, small rate", "agreement"): 0.055,
            ("scenes, ASG", "miou"): 0.05,
            ("scenes, ASG", "agreement"): 0.025,
        }
    )
    assert not any(map(math.isnan, means))


def test_every_command_at_the_papers_scale_names_a_run():
    commands = [line.removeprefix("- ").strip("`") for line in pages.at_scale(PAPER).data.splitlines()]
    named = []
    for command in commands:
        asg, run, experiment, profile, name, arm, value, seed, number = shlex.split(command)
        assert (asg, run, profile, arm, seed) == ("asg", "run", "--profile", "--arm", "--seed")
        assert EXPERIMENTS[experiment].config(name, value, int(number)).profile == "paper"
        named.append(experiment)
    assert named == list(dict.fromkeys(panel.experiment for panels in PAPER.values() for panel in panels))


def test_the_table_of_contents_holds_every_notebook_and_begins_with_the_results():
    toc = yaml.safe_load((build.BOOK / "_toc.yml").read_text())
    listed = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert listed[0] == "chapters/00_results"
    assert {f"chapters/{notebook.stem}" for notebook in build.chapters()} <= set(listed)
