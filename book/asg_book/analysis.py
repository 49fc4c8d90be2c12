"""Records → numbers: means, intervals, differences, curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats

from asg import AsgError
from asg.data.images import UNLABELLED
from asg.pseudo_labels import coverage_per_class, precision_per_class

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


def curves(arms: Mapping[str, Sequence[dict]], metrics: Sequence[str]) -> pd.DataFrame:
    """Long table of every evaluation: arm, seed, step, metric, value."""
    rows = [
        (arm, record["seed"], e["step"], metric, e[metric])
        for arm, records in arms.items()
        for record in records
        for e in record["evaluations"]
        for metric in metrics
        if metric in e
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "metric", "value"])


def drifts(arms: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """Long table of the final drift: arm, seed, layer group, relative distance."""
    rows = [
        (arm, record["seed"], group, value)
        for arm, records in arms.items()
        for record in records
        for group, value in record["final"]["drift"].items()
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "group", "drift"])


def decisions(arms: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """Long table of the ratios that policies chose: arm, seed, step, part, ratio; hand-tuned arms have none."""
    rows = [
        (arm, record["seed"], decision["step"], part, ratio)
        for arm, records in arms.items()
        for record in records
        for decision in record.get("decisions", ())
        for part, ratio in zip(record["parts"], decision["ratios"], strict=True)
    ]
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "part", "ratio"])


def meta_curves(policies: Mapping[str, dict], window: int = 10) -> pd.DataFrame:
    """Long table of meta-trainings from the cards of policies: policy, episode, metric, value.

    Each value is the mean of the last ``window`` episodes; those that diverged count for the reward only.
    """
    smoothed = []
    for name, card in policies.items():
        curve = pd.DataFrame(card["curve"]).set_index("episode")
        smooth = curve[["reward", "entropy", "held_task", "held_guidance"]].astype(float).rolling(window, 1).mean()
        smoothed.append(smooth.melt(var_name="metric", ignore_index=False).reset_index().assign(policy=name))
    columns = ["policy", "episode", "metric", "value"]
    return pd.concat(smoothed, ignore_index=True)[columns] if smoothed else pd.DataFrame(columns=columns)


def meta_ratios(card: dict | None, window: int = 10) -> pd.DataFrame:
    """Long table of the mean ratio of each part in each episode of a meta-training, smoothed: episode, part, ratio.

    Empty without a card.
    """
    if card is None:
        return pd.DataFrame(columns=["episode", "part", "ratio"])
    ratios = pd.DataFrame([point["ratios"] for point in card["curve"]]).rolling(window, 1).mean()
    return ratios.rename_axis("episode").reset_index().melt("episode", var_name="part", value_name="ratio")


def slopes(trials: Sequence[dict], outcomes: Sequence[str]) -> pd.DataFrame:
    r"""What each part's ratio does to the end of an episode: ordinary least squares over the trials of a search.

    Long table: metric (the outcome), row (the part), mean (the slope :math:`\hat\beta`), low and high
    (:math:`\hat\beta \pm t_{n-p-1}\, s \sqrt{(X^\top X)^{-1}_{kk}}` at 95 %), for one unit of the ratio;
    n trials, p parts and a constant. Empty without trials.
    """
    if not trials:
        return pd.DataFrame(columns=INTERVALS)
    parts = list(trials[0]["ratios"])
    x = np.array([[1.0, *trial["ratios"].values()] for trial in trials])  # (n, p + 1)
    freedom = len(x) - x.shape[1]
    if freedom < 1:
        raise AsgError(f"{len(trials)} trials are too few for the slopes of {len(parts)} parts: search for longer.")
    inverse, estimates = np.linalg.inv(x.T @ x), []
    for outcome in outcomes:
        y = np.array([trial[outcome] for trial in trials])
        beta = inverse @ x.T @ y
        error = np.sqrt(np.square(y - x @ beta).sum() / freedom * np.diag(inverse))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
        rows = zip(parts, beta[1:], (beta - half)[1:], (beta + half)[1:], strict=True)
        estimates += [(outcome, *row) for row in rows]
    return pd.DataFrame(estimates, columns=INTERVALS)


def as_good(trials: Sequence[Sequence[dict]]) -> list[int]:
    r"""Which of several settings are as good as the best, from their trials, on held-out synthetic images alone.

    Those whose mean loss there is at most :math:`\min_k \bar L_k` plus that one's standard error over the designs
    (:func:`asg.metrics.mean_error`). Raises :class:`AsgError` where that error is not defined.
    """
    if any("validation_loss_error" not in r["final"] for records in trials for r in records):
        raise AsgError(
            "Records of these trials have no standard error of the held-out loss, which one held-out design alone "
            "does not give: hold out more designs and run them again."
        )
    losses = [mean_final(records, "validation_loss") for records in trials]
    best = int(np.argmin(losses))
    allowed = losses[best] + mean_final(trials[best], "validation_loss_error")
    return [k for k, loss in enumerate(losses) if loss <= allowed]


def best_kept(trials: Sequence[Sequence[dict]]) -> int:
    """Which of several strengths is chosen from its trials (departure 22).

    Of those that are :func:`as_good`, the one whose divergence from the ImageNet network is smallest on held-out
    synthetic images.
    """
    return min(as_good(trials), key=lambda k: mean_final(trials[k], "kl"))


def shortest(trials: Mapping[tuple[int, float], Sequence[dict]]) -> tuple[int, float]:
    """Length and base rate of plain training, from its trials: (steps, rate) → records (departure 22).

    Of those that are :func:`as_good`, the fewest steps, and then the lowest loss on held-out synthetic images.
    """
    tried = list(trials)
    good = [tried[k] for k in as_good(list(trials.values()))]
    return min(good, key=lambda trial: (trial[0], mean_final(trials[trial], "validation_loss")))


def mean_final(records: Sequence[dict], metric: str) -> float:
    """Mean over runs of a metric of the last evaluation."""
    return float(np.mean([record["final"][metric] for record in records]))


def confusion(records: Sequence[dict], labels: Sequence[int], classes: Sequence[str]) -> pd.DataFrame:
    """Share of the photographs of each class (rows) that are taken for each class (columns), mean over seeds."""
    counts = np.zeros((len(classes), len(classes)))
    for record in records:
        np.add.at(counts, (np.asarray(labels), np.asarray(record["final"]["predicted"])), 1)
    present = counts.sum(1) > 0
    shares = counts[present] / counts[present].sum(1, keepdims=True)
    return pd.DataFrame(shares, [c for c, occurs in zip(classes, present, strict=True) if occurs], list(classes))


def reliability(arms: Mapping[str, Sequence[dict]], labels: Sequence[int], bins: int = 5) -> pd.DataFrame:
    """Long table: arm, seed, mean confidence of a bin, share that is right, number of photographs.

    Each seed's photographs are sorted by confidence into ``bins`` of (nearly) equal number.
    """
    rows = []
    for arm, records in arms.items():
        for record in records:
            confidence, right = (
                np.asarray(record["final"]["confidence"]),
                np.equal(record["final"]["predicted"], labels),
            )
            for bin_, part in enumerate(np.array_split(np.argsort(confidence, kind="stable"), bins)):
                rows.append((arm, record["seed"], bin_, confidence[part].mean(), right[part].mean(), len(part)))
    return pd.DataFrame(rows, columns=["arm", "seed", "bin", "confidence", "right", "photos"])


def points(bounds: Mapping[str, Mapping[str, Sequence[dict]]], metrics: Sequence[str]) -> pd.DataFrame:
    """Long table of studies, axis by axis, whose arms are named ``POINT, METHOD``.

    Columns: axis, point, arm (the method), seed, metric, value.
    """
    rows = [
        (axis, *arm.rsplit(", ", 1), record["seed"], metric, record["final"][metric])
        for axis, arms in bounds.items()
        for arm, records in arms.items()
        for record in records
        for metric in metrics
    ]
    return pd.DataFrame(rows, columns=["axis", "point", "arm", "seed", "metric", "value"])


def per_class(arms: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """Mean final accuracy of each class (rows) under each arm (columns)."""
    means = {arm: pd.DataFrame([r["final"]["per_class"] for r in records]).mean() for arm, records in arms.items()}
    return pd.DataFrame(means)


def gains(arms: Mapping[str, Sequence[dict]], metrics: Sequence[str]) -> pd.DataFrame:
    """What (self-)training changed: last evaluation − first, one difference a seed, for ``plots.intervals``.

    Arms that have a single evaluation, or none, are left out.
    """
    rows = []
    for metric in metrics:
        for arm, records in arms.items():
            e = estimate(
                [r["final"][metric] - r["evaluations"][0][metric] for r in records if len(r["evaluations"]) > 1]
            )
            rows += [(metric, arm, e.mean, e.low, e.high)] if e.n else []
    return pd.DataFrame(rows, columns=INTERVALS)


def rounds(arms: Mapping[str, Sequence[dict]], metrics: Sequence[str]) -> pd.DataFrame:
    """Long table of self-training by rounds: arm, seed, step (the round, 0 before the first), metric, value.

    ``metrics`` of the evaluations, and what the pseudo-labels of a round were worth, each over the whole target:
    *precision*, the share that is right; *coverage*, the share of the target that was labelled; *excess*, their mean
    confidence less their precision.
    """
    rows = []
    for arm, records in arms.items():
        for record in (r for r in records if "selection" in r["final"]):
            for number, e in enumerate(record["evaluations"]):
                matrix = np.asarray(e["selection"])  # (C, C + 1): truth × label, the last column unlabelled
                right, labelled = np.trace(matrix), matrix[:, :-1].sum()
                quality = {
                    "precision": right / labelled, "coverage": labelled / matrix.sum(),
                    "excess": e["sure"] - right / labelled,
                }  # fmt: skip
                measured = {m: e[m] for m in metrics} | (quality if number else {})
                rows += [(arm, record["seed"], number, metric, value) for metric, value in measured.items()]
    return pd.DataFrame(rows, columns=["arm", "seed", "step", "metric", "value"])


def labels_per_class(records: Sequence[dict], classes: Sequence[str]) -> pd.DataFrame:
    """Precision and coverage of the pseudo-labels of each class (rows) in the first and the last round, over all seeds.

    A class that got no label has no precision (NaN). Runs on a target of unknown labels do not count.
    """
    columns, records = {}, [r for r in records if "selection" in r["final"]]
    for name, number in (("first round", 1), ("last round", -1)) if records else ():
        matrix = torch.tensor([r["evaluations"][number]["selection"] for r in records]).sum(0)  # (C, C + 1)
        columns[f"precision, {name}"] = precision_per_class(matrix).numpy()
        columns[f"coverage, {name}"] = coverage_per_class(matrix).numpy()
    return pd.DataFrame(columns, list(classes))


def pseudo_label_outcomes(arms: Mapping[str, Sequence[dict]], labels: Sequence[int]) -> pd.DataFrame:
    """What became of the first round's pseudo-labels, as shares of images in three parts (rows: arm, then part).

    Right labels, wrong labels, and images without one: what share of the target each part is, what share of it the
    adapted network answers as the label said, and what share it answers rightly, before self-training and after.
    Over all seeds together.
    """
    truth, rows = np.asarray(labels), {}
    for arm, records in arms.items():
        for part in ("right label", "wrong label", "no label") if records else ():
            counts = np.zeros(4)
            for record in records:
                first = np.asarray(record["evaluations"][1]["pseudo"])
                before, after = (np.asarray(record["evaluations"][k]["predicted"]) for k in (0, -1))
                kind = np.where(first == UNLABELLED, "no label", np.where(first == truth, "right label", "wrong label"))
                mask = kind == part
                counts += [mask.sum(), (after == first)[mask].sum(), (before == truth)[mask].sum(),
                           (after == truth)[mask].sum()]  # fmt: skip
            as_labelled, *right = counts[1:] / max(1.0, counts[0])
            share = counts[0] / (len(truth) * len(records))
            rows[arm, part] = [share, math.nan if part == "no label" else as_labelled, *right]
    return pd.DataFrame(rows, ["of the photos", "answered as labelled", "right before", "right after"]).T
