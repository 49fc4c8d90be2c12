"""Every arm and policy of the catalogue, whole, on the toy profile: the numbers that they once gave."""

from __future__ import annotations

import pytest

from asg import AsgError, records
from asg.recipes import recipe_of
from asg.trainers.loop import FIRST
from asg_book import golden
from asg_book.catalogue import EXPERIMENTS
from asg_book.policies import POLICIES

GOLDEN = golden.read_golden()


@pytest.mark.slow
def test_every_run_gives_what_it_gave():
    runs = golden.golden_runs()
    faults = golden.compare(golden.read_golden(), runs)
    assert not faults, golden.advice(runs, faults)
    assert runs.keys() == golden.read_golden().keys()  # a run that is gone from the catalogue has no numbers left


def test_every_policy_of_the_catalogue_is_golden():
    names = {name.removeprefix("policy ") for name in GOLDEN if name.startswith("policy ")}
    assert names == set(POLICIES)


def test_a_golden_run_is_what_its_arm_asks_for():
    """It trains where it should, is guided where it should be, decides where somebody decides."""
    for name, run in GOLDEN.items():
        if name.startswith("policy "):
            continue
        experiment, _, arm = name.partition(": ")
        config = golden.golden_config(EXPERIMENTS[experiment], arm)
        assert run.recipe == recipe_of(config), name
        evaluations, last = run.numbers["evaluations"], run.numbers["evaluations"][-1]
        trained = bool(config.steps)
        assert len(run.numbers["first_losses"]) == (FIRST if trained else 0), name
        assert (evaluations[0]["step"], len(evaluations) > 1) == (0, trained), name
        ratios = [dict(zip(range(9), d["ratios"], strict=False)) for d in run.numbers.get("decisions", ())]
        frozen = config.backbone_factor == 0 and not config.control
        assert (max(last["drift"].values()) > 0) == (trained and not frozen), name
        assert bool(ratios) == bool(config.control and not config.adapt), name
        if not config.adapt:
            assert ("train_guidance" in last) == bool(trained and config.guidance), name
        else:
            assert "train_pseudo" in last and [e["round"] for e in evaluations[1:]] == [1, 2, 3], name


def test_numbers_that_are_not_there_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(golden, "FILE", tmp_path / "golden.json")
    with pytest.raises(AsgError, match=r"golden\.json cannot be read .*`asg golden --write` makes it"):
        golden.read_golden()
    run = golden.Golden({"toy": 1}, {"a": 0.5})
    golden.write_golden({"x": run})
    assert golden.read_golden() == {"x": run}
    assert golden.compare({"x": run}, {"x": run}) == {}
    (line,) = golden.compare({"x": run}, {"x": golden.Golden({"toy": 2}, {"a": 0.5})})["x"]
    assert "asg golden --write" in line
    assert "has no golden numbers" in golden.compare({}, {"x": run})["x"][0]
    assert golden.compare({"x": run}, {"x": golden.Golden({"toy": 1}, {"a": 0.51})}) == {"x": ["a is 0.51, was 0.5"]}


def test_only_what_changed_is_written_anew():
    def one(number: float) -> golden.Golden:
        return golden.Golden({"toy": 1}, {"a": number})

    known = {"same": one(0.5), "other": one(0.5), "gone": one(0.5)}
    runs = {"same": one(0.500001), "other": one(0.6), "new": one(0.7)}
    assert golden.renewed(known, runs) == {"same": one(0.5), "other": one(0.6), "new": one(0.7)}


def test_golden_runs_leave_no_trace(monkeypatch):
    """They read and write nothing of this checkout, and give its folders back."""
    monkeypatch.setenv("ASG_RESULTS", "here")
    monkeypatch.delenv("ASG_RUNS", raising=False)
    with golden.empty_workplace():
        assert records.results_root().name == "asg_results" and records.runs_root().name == "asg_runs"
    assert str(records.results_root()) == "here" and records.runs_root() == records.REPOSITORY / "runs"
