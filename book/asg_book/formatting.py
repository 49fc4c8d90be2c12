"""Numbers as a page shows them: in tables, in sentences, with their units and verdicts."""

import hashlib
from collections.abc import Mapping

import pandas as pd
from pandas.io.formats.style import Styler

from asg_book import estimates, measures

COLUMNS = {"accuracy": "task head", "kept": "kept head", "product": "both heads"}
COLUMNS |= {"miou": "mIoU", "pixels": "pixels right"}
COLUMNS |= {"agreement": "agreement", "imagenet": "ImageNet"}
NATS = {"validation_loss": "held-out loss", "kl": "held-out KL"}
COLUMNS |= {**NATS, "validation": "held-out"}
COLUMNS |= {"hse0": "HSE 0", "hse1": "HSE 1", "hse2": "HSE 2", "cka": "CKA", "ece": "ECE"}
TITLES = {"cartoon": "cartoons → photos", "sketch": "sketches → photos", "cad": "CAD renders → photos"}
TITLES |= {"mini": "emoji → photos"}
DIGITS = {"hse0": 3, "hse1": 3, "hse2": 3, "cka": 3}  # of shares 1, of all others 2
MARKS = {True: "●", False: "○"}  # whether a difference is shown by the corrected test


def judged(row: Mapping) -> str:
    """One :meth:`Bound.verdicts` row in a few words: interval and verdict."""
    e, metric = row["estimate"], row["metric"]
    if e.n < 2:
        return "has too few seeds for an interval"
    none = "not shown once corrected" if e.low * e.high > 0 else "no difference is shown"
    return f"{show_with_unit(e, metric)}, {'**' + direction(e) + '**' if row['decided'] else none}"


def in_words(row: Mapping) -> str:
    """One :meth:`Bound.verdicts` row in words: number of runs, interval, verdict, and the p value that decides it."""
    e, metric = row["estimate"], row["metric"]
    paired = " × ".join([f"{e.n} paired seeds", *(f"{count} policies" for count in e.policies)])
    if e.n < 2:
        return f"{paired}: too few for an interval"
    verdict = direction(e) if row["decided"] else "no difference is shown"
    return f"{paired}: {show_with_unit(e, metric)}: **{verdict}** (corrected p {show_p(row['adjusted'])})"


def direction(e: estimates.Estimate) -> str:
    """Which way a difference goes that is shown."""
    return "higher" if e.mean > 0 else "lower"


def show_p(p: float) -> str:
    """``.031``, of small ones ``< .001``."""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def scale(metric: str) -> tuple[int, int]:
    """What a metric is multiplied with before it is shown, and its digits."""
    return (100, 1) if metric in measures.SHARES else (1, DIGITS.get(metric, 2))


def show(e: estimates.Estimate, metric: str) -> str:
    """``mean ± sd``, of a share in per cent; one value has no sd, none is a dash."""
    factor, digits = scale(metric)
    spread = f" ± {factor * e.sd:.{digits}f}" if e.n > 1 else ""
    return "—" if e.n == 0 else f"{factor * e.mean:.{digits}f}{spread}"


def show_interval(e: estimates.Estimate, metric: str) -> str:
    """``mean [low, high]``, of a share in points."""
    factor, digits = scale(metric)
    mean, low, high = (f"{factor * value:+.{digits}f}" for value in (e.mean, e.low, e.high))
    return "—" if e.n < 2 else f"{mean} [{low}, {high}]"


def show_with_unit(e: estimates.Estimate, metric: str) -> str:
    """:func:`show_interval` in a sentence."""
    unit = " points" if metric in measures.SHARES else " nats" if metric in NATS else ""
    return show_interval(e, metric) + unit


def styled(table: pd.DataFrame) -> Styler:
    """A table that is the same from build to build."""
    digest = hashlib.sha256(table.to_csv().encode()).hexdigest()[:8]
    return table.style.set_uuid(digest).set_table_attributes('class="dataframe"')


def captioned(table: pd.DataFrame, caption: str) -> Styler:
    """:func:`styled`, under a caption if there is one."""
    return styled(table).set_caption(caption) if caption else styled(table)


def shares(table: pd.DataFrame) -> Styler:
    """A table of shares, in per cent; a dash where there is none (NaN)."""
    return styled(table.map(lambda share: "—" if share != share else f"{100 * share:.1f} %"))
