"""Records → numbers: means, intervals, differences, curves."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from asg import AsgError
from asg.config import RunConfig
from asg.data.images import ImageSet, fingerprint_of
from asg.metrics import forward_all
from asg.models import build

CONFIDENCE = 0.95
INTERVALS = ["metric", "row", "mean", "low", "high"]  # columns of what plots.intervals draws


@dataclass(frozen=True)
class Estimate:
    """Mean, standard deviation and number of values, with a t interval of the mean."""

    n: int
    mean: float
    sd: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    r"""Mean :math:`\bar x`, sample sd :math:`s`, and :math:`\bar x \pm t_{n-1}\, s / \sqrt n` at 95 %.

    With fewer than two values sd and interval are NaN.
    """
    n, mean = len(values), float(np.mean(values)) if values else math.nan
    if n < 2:
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    sd = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half)


def by_seed(records: Sequence[dict], metric: str, which: str = "final") -> dict[int, float]:
    """Seed → ``metric`` of the ``final`` or ``best_on_target`` evaluation."""
    return {r["seed"]: r[which][metric] for r in records if metric in (r[which] or {})}


def difference(records_a: Sequence[dict], records_b: Sequence[dict], metric: str) -> Estimate:
    """Estimate of a − b, paired over the seeds that both have (departure 12)."""
    a, b = by_seed(records_a, metric), by_seed(records_b, metric)
    return estimate([a[s] - b[s] for s in sorted(a.keys() & b.keys())])


def differences(
    arms: Mapping[str, Sequence[dict]], pairs: Mapping[str, tuple[str, str]], metrics: Sequence[str]
) -> pd.DataFrame:
    """Long table of each named pair's :func:`difference`: metric, row (the pair's name), mean, low, high."""
    rows = [
        (metric, name, found.mean, found.low, found.high)
        for metric in metrics
        for name, (a, b) in pairs.items()
        if (found := difference(arms[a], arms[b], metric)).n
    ]
    return pd.DataFrame(rows, columns=INTERVALS)


def summary(arms: Mapping[str, Sequence[dict]], metrics: Sequence[str]) -> pd.DataFrame:
    """One row an arm, one :class:`Estimate` a metric."""
    columns = {m: {arm: estimate(list(by_seed(rs, m).values())) for arm, rs in arms.items()} for m in metrics}
    return pd.DataFrame(columns)


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
    found = []
    for name, card in policies.items():
        curve = pd.DataFrame(card["curve"]).set_index("episode")
        smooth = curve[["reward", "entropy", "held_task", "held_guidance"]].astype(float).rolling(window, 1).mean()
        found.append(smooth.melt(var_name="metric", ignore_index=False).reset_index().assign(policy=name))
    return pd.concat(found, ignore_index=True)[["policy", "episode", "metric", "value"]]


def meta_ratios(card: dict, window: int = 10) -> pd.DataFrame:
    """Long table of the mean ratio of each part in each episode of a meta-training, smoothed: episode, part, ratio."""
    ratios = pd.DataFrame([point["ratios"] for point in card["curve"]]).rolling(window, 1).mean()
    return ratios.rename_axis("episode").reset_index().melt("episode", var_name="part", value_name="ratio")


def slopes(trials: Sequence[dict], outcomes: Sequence[str]) -> pd.DataFrame:
    r"""What each part's ratio does to the end of an episode: ordinary least squares over the trials of a search.

    Long table: metric (the outcome), row (the part), mean (the slope :math:`\hat\beta`), low and high
    (:math:`\hat\beta \pm t_{n-p-1}\, s \sqrt{(X^\top X)^{-1}_{kk}}` at 95 %), for one unit of the ratio;
    n trials, p parts and a constant.
    """
    parts = list(trials[0]["ratios"])
    x = np.array([[1.0, *trial["ratios"].values()] for trial in trials])  # (n, p + 1)
    freedom = len(x) - x.shape[1]
    if freedom < 1:
        raise AsgError(f"{len(trials)} trials are too few for the slopes of {len(parts)} parts: search for longer.")
    inverse, found = np.linalg.inv(x.T @ x), []
    for outcome in outcomes:
        y = np.array([trial[outcome] for trial in trials])
        beta = inverse @ x.T @ y
        error = np.sqrt(np.square(y - x @ beta).sum() / freedom * np.diag(inverse))
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
        rows = zip(parts, beta[1:], (beta - half)[1:], (beta + half)[1:], strict=True)
        found += [(outcome, *row) for row in rows]
    return pd.DataFrame(found, columns=INTERVALS)


def per_class(arms: Mapping[str, Sequence[dict]]) -> pd.DataFrame:
    """Mean final accuracy of each class (rows) under each arm (columns)."""
    means = {arm: pd.DataFrame([r["final"]["per_class"] for r in records]).mean() for arm, records in arms.items()}
    return pd.DataFrame(means)


def report(result: dict, config: RunConfig) -> str:
    """A page about one run on own folders, as Markdown: what was trained, what it reaches, what it keeps."""
    first, final = result["evaluations"][0], result["final"]
    names = {
        "validation": "accuracy on held-out source images",
        "accuracy": "accuracy on the target (mean per class)",
        "agreement": "agreement with the ImageNet network on the target",
        "kl": "divergence from the ImageNet network (nats)",
    }
    lines = [
        f"# ASG report\n\n{config.backbone}, {config.size} px, {result['steps']} steps of {config.batch}, "
        f"λ = {config.guidance:g}, seed {config.seed}; {result['seconds']:.0f} s on {result['device']}. "
        "Result: the last iterate.\n\n| | before | after |\n|---|---|---|",
        *(f"| {text} | {first[k]:.3f} | {final[k]:.3f} |" for k, text in names.items() if k in final),
    ]
    if "per_class" in final:
        rows = (f"| {c} | {a:.3f} |" for c, a in final["per_class"].items())
        lines += ["\n| target class | accuracy |\n|---|---|", *rows]
    return "\n".join(lines) + "\n"


def subset(images: ImageSet, indices: Sequence[int]) -> ImageSet:
    """The images ``indices`` of a set, in that order."""
    chosen = list(indices)
    return replace(
        images,
        decode=lambda i: images.decode(chosen[i]),
        labels=images.labels[chosen],
        names=tuple(images.names[i] for i in chosen),
        imagenet=None if images.imagenet is None else images.imagenet[chosen],
        fingerprint=fingerprint_of(images.fingerprint, chosen),
    )


def imagenet_view(config: RunConfig, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """What the untouched ImageNet network sees: features ``(N, D)`` and top-1 ImageNet classes ``(N,)``."""
    student = build(config, len(images.classes))

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        features = student.features(x)  # (N, D)
        return features, student.kept_head(features)

    features, logits = forward_all(network, images, 64, torch.device("cpu"))
    return features.numpy(), logits.argmax(1).numpy()
