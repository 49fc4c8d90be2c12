"""What chapters show besides: several profiles side by side, figures, results at a glance."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from IPython.display import Markdown, display
from pandas.io.formats.style import Styler

from asg_book import estimates
from asg_book.binding import Bound, bind
from asg_book.catalogue import get
from asg_book.formatting import MARKS, TITLES, captioned, show_interval, styled
from asg_book.glance import Panel
from asg_book.paying import Case, rank_correlation


def side_by_side(
    bounds: Mapping[str, Bound], arms: Mapping[str, str], pairs: Mapping[str, tuple[str, str]], metric: str
) -> Styler:
    """One row an arm (name → arm) and a difference (name → pair of arms), one column a profile, and what is published.

    Levels are mean ± standard deviation, differences have 95 % intervals and the mark of the corrected test (MARKS).
    The last row counts the seeds of the arms.
    """
    columns = {}
    for profile, bound in bounds.items():
        column = {name: bound.cell(arm, metric) if arm in bound.arms else "—" for name, arm in arms.items()}
        by_row = {row["row"]: row for row in bound.between(pairs, [metric]).to_dict("records")}
        for name in pairs:
            row = by_row.get(name)
            decided = row is not None and row["estimate"].n > 1
            column[name] = f"{show_interval(row['estimate'], metric)} {MARKS[row['decided']]}" if decided else "—"
            column[name] = column[name].replace(" [", "\n[")  # the table is narrow enough for a page with two margins
        sizes = [len(estimates.values(bound.arms.get(arm, ()), metric).columns) for arm in arms.values()]
        column["seeds"] = f"{max(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
        columns[TITLES.get(profile, profile)] = column
    if quoted := next(iter(bounds.values())).experiment.published:
        columns["published, VisDA-17"] = {
            **{name: f"{quoted[arm].value:.1f}" if arm in quoted else "—" for name, arm in arms.items()},
            **dict.fromkeys((*pairs, "seeds"), "—"),
        }
    return styled(pd.DataFrame(columns))


def cases(
    declared: Sequence[Case],
    profile: str = "",
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    overrides: Mapping | None = None,
    fresh: bool = False,
) -> dict[str, tuple[Case, Mapping[str, list[dict]]]]:
    """Name → case with the records of its three arms (those of ``arms``), in its own profile or the one asked for."""
    by_name = {}
    for case in declared:
        three = [arm for arm in (case.frozen, case.plain, case.guided) if not arms or arm in arms]
        bound = bind(case.experiment, profile or case.profile, seeds, three, overrides, fresh)
        by_name[case.name] = (case, bound.arms)
    return by_name


def paying_answer(gained: pd.DataFrame) -> Markdown:
    """In one sentence how the gain of guidance goes with what a frozen backbone has over plain training.

    :func:`asg_book.paying.rank_correlation` over the benchmarks, and the two ends. ``gained``:
    :func:`asg_book.paying.gains`; of fewer than three benchmarks nothing is said.
    """
    if len(gained) < 3:
        return Markdown("The answer of this chapter needs records of three benchmarks.")
    means = gained.map(lambda e: e.mean).astype(float)
    rho, p = rank_correlation(means["advantage"], means["gain"])
    ends = [means["advantage"].idxmin(), means["advantage"].idxmax()]
    least, most = (
        f"{100 * means.loc[name, 'gain']:+.1f} points on {name} (frozen less plain: "
        f"{100 * means.loc[name, 'advantage']:+.1f})"
        for name in ends
    )
    verdict = "shown" if p < 1 - estimates.CONFIDENCE else "not shown by so few"
    return Markdown(
        f"**In short** (photos, {len(gained)} benchmarks): guidance gains from {least} to {most} over plain training. "
        f"That it gains more where a frozen backbone has more over plain training is {verdict} (rank correlation "
        f"{rho:+.2f}, exact p {p:.3f})."
    )


def paying_table(gained: pd.DataFrame) -> Styler:
    """:func:`asg_book.paying.gains` in points, with the number of seeds and 95 % intervals."""
    rows = {
        name: {
            "n": row["gain"].size,
            "frozen − plain": show_interval(row["advantage"], "accuracy"),
            "guided − plain": show_interval(row["gain"], "accuracy"),
        }
        for name, row in gained.iterrows()
    }
    return styled(pd.DataFrame(rows).T)


def signals_table(measured: pd.DataFrame) -> Styler:
    """:func:`asg_book.paying.signals`, one row a signal; a dash where one is not measured."""
    return styled(measured.T.map(lambda value: "—" if value != value else f"{value:.2f}"))


def predictive_power_table(measures: pd.DataFrame) -> Styler:
    """:func:`asg_book.paying.predictive_power`; a dash where something is not defined."""
    digits = {"ρ": 2, "p": 3, "error": 1, "error without": 1}
    formatted = measures.copy()
    for column, places in digits.items():
        formatted[column] = [f"{v:+.{places}f}" if column == "ρ" else f"{v:.{places}f}" for v in measures[column]]
    return styled(formatted.replace({"nan": "—", "+nan": "—"}))


def report(model: Path) -> Markdown:
    """The report of a model that was trained on own folders, without its title."""
    return Markdown((model / "report.md").read_text("utf-8", "replace").partition("\n")[2])


def published(experiments: Sequence[str]) -> Styler:
    """Published values of experiments that have no records yet, one column an experiment; the source is said below."""
    columns = {name: {arm: f"{p.value:g}" for arm, p in get(name).published.items()} for name in experiments}
    sources = sorted({p.source for name in experiments for p in get(name).published.values()})
    return styled(pd.DataFrame(columns)).set_caption("; ".join(sources))


def at_a_glance(panels: Sequence[Panel], bounds: Mapping[str, Bound]) -> None:
    """Show each panel: its arms beside published values, a link to the chapter, what the records say of its claims."""
    for panel in panels:
        bound, quoted, rows = bounds[panel.experiment], panel.published, {}
        arms = [arm for arm in panel.arms or bound.experiment.arms if arm in bound.arms]
        for arm in [*arms, *(name for name in quoted if name not in bound.experiment.arms)]:
            none = "not verified" if arm in panel.unverified else "—"
            value = f"{quoted[arm].value:g}" if arm in quoted else none
            rows[arm] = {
                "n": bound.size(arm, panel.metric), bound.profile: bound.cell(arm, panel.metric), "published": value,
            }  # fmt: skip
        link = f'<a href="{panel.chapter}.html">{panel.chapter[3:].replace("_", " ")}</a>'
        legend = bound.legend([panel.metric]) if any("†" in row[bound.profile] for row in rows.values()) else ""
        display(captioned(pd.DataFrame(rows).T, " · ".join(filter(None, (panel.shows, legend, link)))))
        if not any(bound.arms.values()):
            display(bound.provenance())
        elif panel.claims:
            display(bound.findings([panel.metric], tuple(panel.claims.values())))


def claims(items: Mapping[str, Sequence[Panel]], bounds: Mapping[str, Bound]) -> pd.DataFrame:
    """What is claimed in the metric that an experiment is judged by, and its price or gain in agreement.

    A long table for :func:`asg_book.plots.intervals`, without differences that have too few seeds for an interval;
    verdicts are corrected within each experiment.
    """
    metrics = ["accuracy", "miou", "agreement"]
    panels = [panel for panels in items.values() for panel in panels if panel.main and panel.claims]
    tables = [bounds[panel.experiment].between(panel.claims, metrics) for panel in panels]
    rows = [row for m in metrics for table in tables for row in table[table["metric"] == m].to_dict("records")]
    return pd.DataFrame(rows, columns=tables[0].columns).dropna().reset_index(drop=True)


def at_scale(items: Mapping[str, Sequence[Panel]]) -> Markdown:
    """The command that runs the first arm of each experiment at the paper's scale."""
    arms = {p.experiment: next(iter(get(p.experiment).arms)) for panels in items.values() for p in panels}
    commands = (f"asg run {name} --profile paper --arm {shlex.quote(arm)} --seed 0" for name, arm in arms.items())
    return Markdown("\n".join(f"- `{command}`" for command in commands))
