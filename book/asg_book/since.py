"""What the chapter "Since then" shows: what methods cost, how far interpolation should go, which rule finds λ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from asg import records
from asg_book import automatic
from asg_book.binding import Bound
from asg_book.catalogue import get
from asg_book.catalogue.successors import SHARES
from asg_book.estimates import difference, level
from asg_book.formatting import TITLES, captioned, show, show_interval
from asg_book.paying import CASES
from asg_book.selection import best_kept

Benchmarks = Mapping[str, Mapping[str, Sequence[dict]]]  # name → arm → records
STARTS = ("plain", "guided")  # of which the experiment "interpolation" has an arm a share: "START, SHARE"


def costs(tried: Mapping[str, int]) -> Styler | Markdown:
    """:func:`cost_table` of what ``benchmarks/methods.py`` measured, or the command where it has not been run."""
    path = records.results_root() / "costs.json"
    if not path.exists():
        return Markdown("Not measured yet: `python benchmarks/methods.py` does it.")
    return cost_table(json.loads(path.read_text("utf-8")), tried)


def cost_table(measured: Mapping, tried: Mapping[str, int]) -> Styler:
    """One row a method: images forwards and backwards as shares of the steps' images, and seconds over plain training.

    ``once``: images seen before the first step; ``tried``: method → trainings by which its strength was chosen.
    """
    plain = next(iter(measured["costs"].values()))["seconds"]
    rows = {
        method: {
            "forward": f"{cost['forward']:.2f}", "backward": f"{cost['backward']:.2f}", "once": f"{cost['once']:,}",
            "seconds / plain": f"{cost['seconds'] / plain:.2f}", "trials": str(tried.get(method, "—")),
        }
        for method, cost in measured["costs"].items()
    }  # fmt: skip
    again = f"the first row once more, at the end: {measured['again'] / plain:.2f}"
    return captioned(pd.DataFrame(rows).T, f"{measured['setting']}; {measured['date']}; {again}")


def shares_of(bound: Bound, start: str) -> dict[float, Sequence[dict]]:
    """Share of the way to the trained weights → records, of a start whose every share has been run."""
    shares = {share: bound.arms.get(f"{start}, {share:g}", ()) for share in SHARES}
    return shares if all(shares.values()) else {}


def curves(bounds: Mapping[str, Bound], metrics: Sequence[str]) -> pd.DataFrame:
    """Long table: benchmark, start, share, metric, :class:`~asg_book.estimates.Estimate`."""
    rows = [
        (name, start, share, metric, level(runs, metric))
        for name, bound in bounds.items()
        for start in STARTS
        for share, runs in shares_of(bound, start).items()
        for metric in metrics
    ]
    return pd.DataFrame(rows, columns=["benchmark", "start", "share", "metric", "estimate"])


def chosen_share(shares: Mapping[float, Sequence[dict]]) -> float:
    """What the rule of all strengths chooses on held-out synthetic images (:func:`asg_book.selection.best_kept`)."""
    return list(shares)[best_kept(list(shares.values()))]


def oracle_share(shares: Mapping[float, Sequence[dict]]) -> float:
    """What the photographs would choose."""
    return max(shares, key=lambda share: level(shares[share], "accuracy").mean)


def share_table(bounds: Mapping[str, Bound]) -> Styler:
    """Accuracy on photographs at ImageNet's weights, half way, at the trained ones, and where α is chosen."""
    rows = {}
    for name, bound in bounds.items():
        for start in STARTS:
            if not (shares := shares_of(bound, start)):
                continue
            accuracy = {share: show(level(runs, "accuracy"), "accuracy") for share, runs in shares.items()}
            chosen, oracle = chosen_share(shares), oracle_share(shares)
            rows[f"{name}, {start}"] = {
                "α = 0": accuracy[0.0], "α = .5": accuracy[0.5], "α = 1": accuracy[1.0],
                "chosen on held-out images": f"{accuracy[chosen]} at {chosen:g}",
                "oracle": f"{accuracy[oracle]} at {oracle:g}",
            }  # fmt: skip
    return captioned(pd.DataFrame(rows).T, "oracle: chosen on the photographs, which nobody may")


def lowest_gains(benchmarks: Benchmarks) -> dict[str, float]:
    """Recipe → the lowest over benchmarks of its mean accuracy less plain training's; those run on every one."""
    gains = {
        recipe: [difference(arms.get(recipe, ()), arms.get("plain", ()), "accuracy") for arms in benchmarks.values()]
        for recipe in get("recipes").arms
        if recipe != "plain"
    }
    return {recipe: min(e.mean for e in each) for recipe, each in gains.items() if all(e.n for e in each)}


def recommended(gains: Mapping[str, float]) -> str:
    """The recipe whose lowest gain is highest, or ``plain`` where none gains everywhere: what `asg train` begins with.

    ``gains``: :func:`lowest_gains`, since nobody knows beforehand which of the benchmarks own images are like.
    """
    gains = {"plain": 0.0, **gains}
    return max(gains, key=gains.get)


def recommendation(benchmarks: Benchmarks) -> Markdown:
    """One sentence: which recipe, and why, of the records."""
    gains = lowest_gains(benchmarks)
    recipe = recommended(gains)
    if len(gains) < len(get("recipes").arms) - 1:
        return Markdown("Not every recipe has been run on every benchmark yet: `asg reproduce --experiment recipes`.")
    if recipe == "plain":
        return Markdown("**Begin with `asg train --recipe plain`**: no recipe gains on every one of these benchmarks.")
    least = f"{100 * gains[recipe]:.1f} points over plain training or more"
    return Markdown(
        f"**Begin with `asg train --recipe {recipe}`**: it gains {least} on every one of {', '.join(benchmarks)}, "
        "and of no other recipe is the least gain higher."
    )


def predicted(measured: pd.DataFrame, gained: pd.DataFrame) -> dict[str, float]:
    """Title of a benchmark → :func:`asg_book.automatic.predicted_gains`, of the tables of asg_book.paying."""
    gain = gained["gain"].map(lambda e: e.mean).astype(float)
    expected = automatic.predicted_gains(measured.loc[measured.index.intersection(gain.index)], gain)
    whole = (case for case in CASES if case.experiment == "guidance" and case.name in expected.index)
    return {TITLES[case.profile]: expected[case.name] for case in whole}


def automatic_table(benchmarks: Benchmarks, gains: Mapping[str, float]) -> Styler:
    """:func:`asg_book.automatic.table` in points, with what each rule takes besides one training."""
    distances = automatic.table(benchmarks, gains)
    shown = distances.map(lambda e: "—" if isinstance(e, float) else show_interval(e, "accuracy"))
    shown["worst"] = [f"{100 * worst:+.1f}" if worst == worst else "—" for worst in distances["worst"]]
    rules = (*automatic.RULES, automatic.predictor(np.nan))
    costs = {rule.name: f"{rule.trainings} and {rule.more}" if rule.more else f"{rule.trainings}" for rule in rules}
    shown["trainings"] = [costs[name] for name in distances.index]
    best = {name: automatic.better_given(arms) for name, arms in benchmarks.items() if arms.get("0") and arms["0.1"]}
    return captioned(shown, "less the better of λ = 0 and .1: " + "; ".join(f"{n}, {w}" for n, w in best.items()))
