"""When does guidance pay? The same three trainings on every benchmark, and what could have been known beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import stats

from asg_book.catalogue.synthetic_data import DATA, METHODS
from asg_book.estimates import INTERVALS, difference
from asg_book.selection import mean_final

Records = Sequence[dict]


@dataclass(frozen=True)
class Case:
    """A benchmark, and the experiment that has a frozen backbone, plain training and guided training on it."""

    name: str
    experiment: str
    profile: str
    frozen: str = "frozen"
    plain: str = "small"
    guided: str = "small_proxy"
    metric: str = "accuracy"


CASES = (
    Case("cartoons", "guidance", "cartoon"),
    Case("sketches", "guidance", "sketch"),
    Case("CAD renders", "guidance", "cad"),
    Case("emoji", "guidance", "mini"),
    Case("digits", "digits", "mini"),
    Case("emoji scenes", "segmentation", "mini", plain="vanilla", guided="whole map", metric="miou"),
)
# The same benchmarks with the experiment that asks their synthetic images.
ASKED = tuple(replace(case, experiment="signals") if case.name == "emoji" else case for case in CASES)
# Cartoons with less in them, or other drawings: every point of the study of synthetic data.
VARIANTS = tuple(
    Case(f"{axis}: {point}", f"data_{axis}", "cartoon", *(f"{point}, {method}" for method in METHODS))
    for axis, points in DATA.items()
    for point in points
)


def gains(cases: Mapping[str, tuple[Case, Mapping[str, Records]]]) -> pd.DataFrame:
    """One row a benchmark: ``advantage`` (frozen − plain) and ``gain`` (guided − plain), as estimates.

    Both are on photographs and paired over seeds; a benchmark without runs of all three is left out.
    """
    rows = {}
    for name, (case, arms) in cases.items():
        frozen, plain, guided = (arms.get(arm, ()) for arm in (case.frozen, case.plain, case.guided))
        estimates = {
            "advantage": difference(frozen, plain, case.metric),
            "gain": difference(guided, plain, case.metric),
        }
        if all(e.n for e in estimates.values()):
            rows[name] = estimates
    return pd.DataFrame(rows, ["advantage", "gain"]).T


def over_weights(benchmarks: Mapping[str, Mapping[str, Records]], metric: str = "accuracy") -> pd.DataFrame:
    """Long table of benchmark, λ and the estimate of guided less plain, from arms that are named by their λ."""
    rows = [
        (name, float(weight), difference(arms[weight], arms["0"], metric))
        for name, arms in benchmarks.items()
        for weight in arms
        if weight != "0"
    ]
    return pd.DataFrame([row for row in rows if row[2].n], columns=["benchmark", "λ", "gain"])


def _looks(records: Records) -> float:
    """Accuracy, of scenes mIoU, on held-out images of changed looks, mean over looks and runs."""
    looks = [look for r in records for look in r["final"]["looks"].values()]
    return float(np.mean([look["accuracy"] if "accuracy" in look else look["miou"] for look in looks]))


# Signal → what it is of (records of frozen, plain and guided training). None of them looks at a photograph.
SIGNALS: dict[str, Callable[[Records, Records, Records], float]] = {
    "entropy of the ImageNet answers": lambda frozen, plain, guided: mean_final(plain, "entropy"),
    "what these tell of the class": lambda frozen, plain, guided: mean_final(plain, "information"),
    "accuracy through the class mapping": lambda frozen, plain, guided: mean_final(plain, "mapped"),
    "a head on frozen features, held-out": lambda frozen, plain, guided: mean_final(frozen, "validation"),
    "held-out KL of plain training": lambda frozen, plain, guided: mean_final(plain, "kl"),
    "frozen less plain, held-out": lambda frozen, plain, guided: (
        mean_final(frozen, "validation") - mean_final(plain, "validation")
    ),
    "frozen less plain, changed looks": lambda frozen, plain, guided: _looks(frozen) - _looks(plain),
    "guided less plain, changed looks": lambda frozen, plain, guided: _looks(guided) - _looks(plain),
}


def signals(cases: Mapping[str, tuple[Case, Mapping[str, Records]]]) -> pd.DataFrame:
    """Benchmark (rows) × SIGNALS; NaN where its records do not hold what a signal needs."""
    rows = {}
    for name, (case, arms) in cases.items():
        runs = [arms.get(arm, ()) for arm in (case.frozen, case.plain, case.guided)]
        if not all(runs):
            continue
        rows[name] = {}
        for signal, measure in SIGNALS.items():
            try:
                rows[name][signal] = measure(*runs)
            except KeyError:  # scenes have no label each, a benchmark without class mapping no accuracy through it
                rows[name][signal] = np.nan
    return pd.DataFrame(rows, list(SIGNALS)).T


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    r"""Spearman's :math:`\rho` and its exact two-sided p: the share of orders of ``y`` with :math:`|\rho|` as large.

    NaN with fewer than three pairs or where one side is constant.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return float("nan"), float("nan")
    a, b = stats.rankdata(x), stats.rankdata(y)
    a, b = (a - a.mean()) / np.linalg.norm(a - a.mean()), (b - b.mean()) / np.linalg.norm(b - b.mean())
    every = np.array([a @ b[list(order)] for order in permutations(range(len(b)))])
    rho = float(a @ b)
    return rho, float(np.mean(np.abs(every) >= abs(rho) - 1e-12))


def left_out(x: Sequence[float], y: Sequence[float]) -> np.ndarray:
    """Prediction of each ``y`` from its ``x`` by the least-squares line through all other pairs; at least three."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    others = [np.arange(len(x)) != k for k in range(len(x))]
    return np.array([np.polyval(np.polyfit(x[rest], y[rest], 1), x[k]) for k, rest in enumerate(others)])


def predictive_power(measured: pd.DataFrame, gained: pd.DataFrame) -> pd.DataFrame:
    """One row a signal: how well it tells the gain, over the benchmarks that have both.

    ``ρ`` and ``p``: :func:`rank_correlation`; ``error``: mean absolute error of :func:`left_out`, in points, beside
    ``error without``, that of the mean of the other benchmarks; ``signs``: how often the predicted sign is the right
    one. With fewer than four benchmarks the last three are not defined.
    """
    gain = gained["gain"].map(lambda e: e.mean).astype(float)
    rows = {}
    for signal in measured:
        x = measured[signal].dropna()
        y = gain[gain.index.intersection(x.index)]
        x = x[y.index]
        rho, p = rank_correlation(x, y)
        row = {"benchmarks": len(x), "ρ": rho, "p": p, "error": np.nan, "error without": np.nan, "signs": "—"}
        if len(x) > 3:
            predicted = left_out(x, y)
            without = (y.sum() - y) / (len(y) - 1)
            row |= {
                "error": 100 * float(np.abs(predicted - y).mean()),
                "error without": 100 * float(np.abs(without - y).mean()),
                "signs": f"{int((np.sign(predicted) == np.sign(y)).sum())} of {len(y)}",
            }
        rows[signal] = row
    return pd.DataFrame(rows).T


def interval_rows(gained: pd.DataFrame) -> pd.DataFrame:
    """Both columns of :func:`gains` as the long table of :func:`asg_book.plots.intervals`."""
    rows = [(column, name, e.mean, e.low, e.high) for column in gained for name, e in gained[column].items()]
    return pd.DataFrame(rows, columns=INTERVALS)
