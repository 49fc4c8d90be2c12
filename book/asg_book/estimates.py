"""Numbers of several seeds → means, intervals and differences between arms."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
INTERVALS = ["metric", "row", "mean", "low", "high"]  # columns of what plots.intervals draws
EMPTY = pd.DataFrame(dtype=float)


@dataclass(frozen=True)
class Estimate:
    """Mean, standard deviation and number of values, with a t interval of the mean and the p value of "it is 0".

    ``n`` seeds, each with every one of ``policies`` (one number for each family of repeated policies; none: ()).
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    p: float = math.nan
    policies: tuple[int, ...] = ()

    @property
    def size(self) -> str:
        """The number of values as tables show it: ``5``, or ``5 × 3`` for seeds × policies."""
        return " × ".join(map(str, (self.n, *self.policies)))


def values(records: Sequence[dict], metric: str, which: str = "final") -> pd.DataFrame:
    """``metric`` of an arm's ``final`` or ``best_on_target`` evaluations: a row a policy, a column a seed, NaN: no run.

    A record that does not say which of several repeated policies drove it (``policy``) belongs to the first, 0.
    """
    by_run = {(r.get("policy", 0), r["seed"]): r[which][metric] for r in records if metric in (r[which] or {})}
    return pd.Series(by_run).unstack() if by_run else EMPTY  # (policies, seeds), both sorted


def family(records: Sequence[dict]) -> str | None:
    """The policy whose repetitions drove these runs; None where no policy is repeated."""
    return next((r["repeats"] for r in records if "repeats" in r), None)


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The part of a table of policies × seeds in which no run is missing.

    As long as one is, the policy or the seed that lacks the greatest share of its runs is left out.
    """
    while table.isna().any(axis=None):
        lacks = [(part.max(), axis, part.idxmax()) for axis in (1, 0) if len(part := table.isna().mean(axis=1 - axis))]
        _, axis, name = max(lacks, key=lambda lack: lack[0])
        table = table.drop(name, axis=axis)
    return table


def crossed(parts: Sequence[np.ndarray | pd.DataFrame]) -> Estimate:
    r"""Estimate of the sum of the means of complete tables, each ``(P, S)``: policies × the same S seeds.

    One table holds the paired differences :math:`d_{ps} = \mu + \alpha_p + \beta_s + \varepsilon_{ps}` of P policies
    and S seeds, random effects of variances :math:`\sigma_P^2, \sigma_S^2, \sigma^2`. The mean of all has the variance
    :math:`\sigma_P^2/P + \sigma_S^2/S + \sigma^2/PS`, and the mean squares of the two-way layout the expectations
    :math:`E\,M_P = S\sigma_P^2 + \sigma^2`, :math:`E\,M_S = P\sigma_S^2 + \sigma^2`, :math:`E\,M_R = \sigma^2`, so that

    .. math:: V = \frac{M_P + M_S - M_R}{PS}, \qquad
              \nu = V^2 \Big/ \sum_{k \in P, S, R} \frac{(M_k / PS)^2}{\nu_k}

    is without bias, with the degrees of freedom of Satterthwaite (1946), :math:`\nu_P = P - 1`, :math:`\nu_S = S - 1`
    and their product for the residual. (Cameron, Gelbach and Miller 2011 cluster two ways by the same sum.) Where V
    falls below the larger of :math:`M_P/PS` and :math:`M_S/PS`, that one and its degrees of freedom stand in: the
    interval is then too wide rather than too narrow. With one policy V is :math:`s^2/S`: the t interval over seeds.
    Of several tables, with policies of their own, the seed term is the variance of their sum seed by seed, over S;
    each adds :math:`(M_P - M_R)/PS`. sd is that of all values together (of one table), or of the seeds' sums.

    With fewer than two seeds sd, interval and p are NaN (departure 12).
    """
    tables = [np.asarray(part, float) for part in parts]
    if not all(table.size for table in tables):
        return Estimate(0, *[math.nan] * 4)
    repeated = [table for table in tables if len(table) > 1]
    seeds, policies = tables[0].shape[1], tuple(map(len, repeated))
    sums = np.sum([table.mean(axis=0) for table in tables], axis=0)  # (S,)
    mean = float(sums.mean())
    if seeds < 2:
        return Estimate(seeds, mean, *[math.nan] * 4, policies)
    positive, negative = [(float(sums.var(ddof=1)) / seeds, seeds - 1)], []  # (mean square / P S, its freedom)
    for table in repeated:
        count, rows = len(table), table.mean(axis=1, keepdims=True)
        residual = table - rows - table.mean(axis=0) + table.mean()
        freedom = (count - 1) * (seeds - 1)
        positive.append((float(rows.var(ddof=1)) / count, count - 1))
        negative.append((float(np.square(residual).sum()) / freedom / table.size, freedom))
    total = sum(v for v, _ in positive) - sum(v for v, _ in negative)
    variance, freedom = max(positive)
    if total > variance:
        variance, freedom = total, total**2 / sum(v**2 / f for v, f in positive + negative)
    error = math.sqrt(variance)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    spread = float(np.std(tables[0] if len(tables) == 1 else sums, ddof=1))
    return Estimate(seeds, mean, spread, mean - half, mean + half, p, policies)


def estimate(numbers: Sequence[float]) -> Estimate:
    r"""Mean :math:`\bar x`, sample sd :math:`s`, and :math:`\bar x \pm t_{n-1}\, s / \sqrt n` at 95 %.

    With fewer than two values sd and interval are NaN.
    """
    return crossed([np.array([numbers])])


def level(records: Sequence[dict], metric: str, which: str = "final") -> Estimate:
    """:func:`crossed` estimate of a metric of one arm, over its seeds and, where they are repeated, its policies."""
    return crossed([complete(values(records, metric, which))])


def difference(records_a: Sequence[dict], records_b: Sequence[dict], metric: str) -> Estimate:
    """:func:`crossed` estimate of a − b, paired over the seeds that both have (departure 12).

    Two arms of the same repeated policy are paired policy by policy too; an arm whose policy is not repeated is
    subtracted from each policy of the other; two different policies add their spreads.
    """
    a, b = values(records_a, metric), values(records_b, metric)
    families = family(records_a), family(records_b)
    seeds = a.columns.intersection(b.columns)
    a, b = a[seeds], b[seeds]
    if families[0] == families[1]:
        parts = [a.sub(b).dropna(how="all")]  # rows that only one has are not paired
    elif None in families:
        one = complete(b if families[1] is None else a).iloc[0] if len(seeds) else EMPTY
        parts = [a - one if families[1] is None else one - b]
    else:
        parts = [a, -b]
    parts = [complete(part) for part in parts]
    common = sorted(set.intersection(*(set(part.columns) for part in parts)))
    return crossed([part[common] for part in parts])


def differences(
    arms: Mapping[str, Sequence[dict]], pairs: Mapping[str, tuple[str, str]], metrics: Sequence[str]
) -> pd.DataFrame:
    """Long table of each named pair's :func:`difference`: INTERVALS (row: the pair's name), p and the estimate."""
    rows = [
        (metric, name, paired.mean, paired.low, paired.high, paired.p, paired)
        for metric in metrics
        for name, (a, b) in pairs.items()
        if (paired := difference(arms[a], arms[b], metric)).n
    ]
    return pd.DataFrame(rows, columns=[*INTERVALS, "p", "estimate"])


def holm(p: Sequence[float], size: int | None = None) -> list[float]:
    r"""p values adjusted by Holm (1979); the k-th smallest of m: :math:`\max_{j \le k} \min(1, (m - j + 1)\, p_{(j)})`.

    Rejecting those below α keeps the chance of any false rejection below α, whatever the dependence. ``size`` m:
    how many tests there are, of which those without a p value (NaN, or not given) count as 1.
    """
    known, adjusted, least = np.nan_to_num(np.asarray(p, float), nan=1.0), np.ones(len(p)), 0.0
    for rank, k in enumerate(np.argsort(known, kind="stable")):
        least = adjusted[k] = min(1.0, max(least, ((size or len(p)) - rank) * known[k]))
    return adjusted.tolist()


def corrected(table: pd.DataFrame, size: int | None = None) -> pd.DataFrame:
    """Differences of one family with ``adjusted`` p (:func:`holm`, each metric alone) and ``decided`` (below 5 %)."""
    within = [pd.Series(holm(p, size), p.index) for _, p in table.groupby("metric")["p"]]
    adjusted = pd.concat(within) if within else table["p"]
    return table.assign(adjusted=adjusted, decided=adjusted < 1 - CONFIDENCE)


def summary(arms: Mapping[str, Sequence[dict]], metrics: Sequence[str]) -> pd.DataFrame:
    """One row an arm, one :func:`level` a metric."""
    return pd.DataFrame({m: {arm: level(records, m) for arm, records in arms.items()} for m in metrics})
