"""Records → tables of what figures show: curves, decisions, classes, pseudo-labels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats

from asg import AsgError
from asg.data.images import UNLABELLED
from asg.pseudo_labels import coverage_per_class, precision_per_class
from asg_book.estimates import CONFIDENCE, INTERVALS, estimate


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
