"""A chapter's experiment bound to its parameters: its records, and the tables and sentences made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from asg import AsgError, records
from asg.config import RunConfig
from asg_book import estimates, measures, plots
from asg_book.catalogue import get
from asg_book.experiment import Experiment
from asg_book.figures import figure
from asg_book.formatting import COLUMNS, MARKS, captioned, in_words, judged, show, show_interval
from asg_book.profiles import policy_name

PARAMETERS = {"profile": str, "seeds": (list, tuple), "arms": (list, tuple), "overrides": dict, "fresh": bool}


def check_parameters(
    profile: str, seeds: Sequence[int], arms: Sequence[str], overrides: Mapping, fresh: bool, cells: Sequence[str] = ()
) -> None:
    """Every chapter's flat parameters: a wrong type, or a name that papermill injected and no chapter has, is an error.

    papermill itself only warns of an unknown name, and its ``-p`` passes words as text. It injects a cell that begins
    with a comment; ``cells`` are the sources of those run so far, in a notebook its own.
    """
    for (name, kind), value in zip(PARAMETERS.items(), (profile, seeds, arms, overrides, fresh), strict=True):
        if not isinstance(value, kind):
            wanted = getattr(kind, "__name__", "list")
            raise AsgError(
                f"The parameter {name!r} must be a {wanted}, got {value!r}: `papermill -y` keeps types, `-p` may not."
            )
    shell = get_ipython()
    for cell in cells or (shell.user_ns.get("In", []) if shell else []):
        names = {line.partition(" = ")[0] for line in cell.splitlines() if " = " in line and line[0].isalpha()}
        if cell.startswith("# Parameters") and (unknown := sorted(names - PARAMETERS.keys())):
            raise AsgError(f"There is no parameter {unknown[0]!r}: a chapter has {', '.join(PARAMETERS)}.")


@dataclass(frozen=True)
class Bound:
    """An experiment with a chapter's parameters: its records, and what a page shows of them.

    ``recorded``: records of every arm, also of those that the page does not show; the corrected verdict on a
    difference is then the same on every page.
    """

    experiment: Experiment
    profile: str
    arms: Mapping[str, list[dict]]
    configs: Mapping[str, RunConfig]
    seeds: tuple[int, ...]
    fresh: bool
    recorded: Mapping[str, list[dict]]
    missing: tuple[str, ...] = ()  # arms that lack runs

    def cell(self, arm: str, metric: str, which: str = "final") -> str:
        """What a table shows of an arm: ``mean ± sd``; marked where the arm has another metric in its place."""
        other = self.experiment.metric_of.get(arm, {}).get(metric, metric)
        if other is None:
            return "—"
        text = show(estimates.level(self.arms.get(arm, ()), other, which), other)
        return text if other == metric or text == "—" else f"{text} †"

    def size(self, arm: str, metric: str) -> str:
        """How many values an arm has: seeds, or seeds × policies; a dash for none."""
        other = self.experiment.metric_of.get(arm, {}).get(metric) or metric
        estimate = estimates.level(self.arms.get(arm, ()), other)
        return estimate.size if estimate.n else "—"

    def legend(self, metrics: Sequence[str]) -> str:
        """What the dagger means in a table of these metrics; nothing where there is none."""
        bound = ((arm, self.experiment.metric_of.get(arm, {}).get(m), m) for arm in self.arms for m in metrics)
        others = {f"† {arm}: {COLUMNS[other]}, in place of {COLUMNS[m]}" for arm, other, m in bound if other}
        return "; ".join(sorted(others))

    def table(self, metrics: Sequence[str]) -> Styler:
        """One row an arm: mean ± standard deviation over n runs (shares in per cent), and what is published."""
        rows, main, published = {}, self.experiment.metric, self.experiment.published
        for arm in self.arms:
            first, *others = [(COLUMNS[m], self.cell(arm, m)) for m in metrics]
            beside = {"oracle selection": self.cell(arm, main, "best_on_target")}
            if published.keys() & self.arms.keys():
                beside["published"] = f"{published[arm].value:.1f}" if arm in published else "—"
            rows[arm] = {"n": self.size(arm, metrics[0]), **dict([first]), **beside, **dict(others)}
        return captioned(pd.DataFrame(rows).T, self.legend([*metrics, main]))

    def verdicts(self, metrics: Sequence[str]) -> pd.DataFrame:
        """Every difference of the experiment's family that has a value, with its corrected verdict (departure 12).

        Long table of :func:`asg_book.estimates.corrected`, whose rows are pairs of arms.
        """
        family = self.experiment.family
        table = estimates.differences(self.recorded, {pair: pair for pair in family}, metrics)
        return estimates.corrected(table, len(family))

    def between(self, pairs: Mapping[str, tuple[str, str]], metrics: Sequence[str]) -> pd.DataFrame:
        """The :meth:`verdicts` on named pairs of the family whose arms are bound, in the order of ``pairs``."""
        table = self.verdicts(metrics)
        by_pair = {(row["metric"], row["row"]): row for row in table.to_dict("records")}
        bound = {name: pair for name, pair in pairs.items() if {*pair} <= self.arms.keys()}
        rows = [
            by_pair[m, pair] | {"row": name} for m in metrics for name, pair in bound.items() if (m, pair) in by_pair
        ]
        return pd.DataFrame(rows, columns=table.columns)

    def differences(self, metrics: Sequence[str]) -> Styler:
        """One row a declared difference: its mean and 95 % interval, paired (of shares in points), and its verdict."""
        pairs = {f"{a} − {b}": (a, b) for a, b in self.pairs().values()}
        table = pd.DataFrame("—", list(pairs), [COLUMNS[m] for m in metrics])
        for row in self.between(pairs, metrics).to_dict("records"):
            mark = f" {MARKS[row['decided']]}" if row["estimate"].n > 1 else ""
            table.loc[row["row"], COLUMNS[row["metric"]]] = show_interval(row["estimate"], row["metric"]) + mark
        return captioned(table, "● a difference by the corrected test, ○ none shown")

    def pairs(self) -> dict[str, tuple[str, str]]:
        """The declared differences that are bound, each named by what tells its two arms apart."""
        pairs = [(a, b) for a, b in self.experiment.differences if a in self.arms and b in self.arms]
        one_rival = len({b.rpartition(", ")[2] for _, b in pairs}) == 1
        return {a.rpartition(", ")[0] or a if one_rival else f"{a} − {b}": (a, b) for a, b in pairs}

    def contrasts(self, metrics: Sequence[str]) -> pd.DataFrame:
        """The declared differences as a long table for :func:`asg_book.plots.intervals`."""
        return self.between(self.pairs(), metrics)

    def intervals(self, metrics: Sequence[str]) -> Figure:
        """The declared differences as points with intervals."""
        rivals = {b.rpartition(", ")[2] for _, b in self.pairs().values()}
        label = f"difference from {rivals.pop()}" if len(rivals) == 1 else "difference"
        return figure(plots.intervals(self.contrasts(metrics), label))

    def findings(self, metrics: Sequence[str], pairs: Sequence[tuple[str, str]] | None = None) -> Markdown:
        """What the records say about differences of the family (none given: the declared ones), and no more than that.

        One line a difference and metric. The word follows the test that is corrected over the family.
        """
        wanted = self.experiment.differences if pairs is None else pairs
        verdicts = self.between({f"{a} against {b}": (a, b) for a, b in wanted}, metrics)
        lines = {name: [] for name in verdicts["row"]}
        for row in verdicts.to_dict("records"):
            lines[row["row"]].append(f"- {row['row']}, {measures.NAMES[row['metric']]}, {in_words(row)}.")
        text = "\n".join(line for name in lines for line in lines[name])
        return Markdown(text or self.none_yet(f"None of these differences of {self.experiment.id} has records."))

    def answer(self, named: Mapping[str, tuple[str, str]], metric: str = "accuracy") -> Markdown:
        """A chapter's answer in one sentence: named differences of the family, each with its corrected verdict.

        Raises :class:`AsgError` for a pair that the family does not have, whose verdict would be corrected over none.
        """
        if unknown := [pair for pair in named.values() if pair not in self.experiment.family]:
            raise AsgError(f"{self.experiment.id} compares no {' with '.join(unknown[0])}: add it to its claims.")
        parts = [f"{row['row']} {judged(row)}" for row in self.between(named, [metric]).to_dict("records")]
        sentence = f"**In short** ({measures.NAMES[metric]}): {'; '.join(parts)}."
        return Markdown(sentence if parts else self.none_yet("The answer of this chapter has no records."))

    def none_yet(self, fact: str) -> str:
        """A fact about missing records, and the command that makes them."""
        return f"{fact} `{self.command}` makes them."

    @property
    def command(self) -> str:
        """The command that makes the records."""
        return f"asg reproduce --experiment {self.experiment.id} --profile {self.profile}"

    def provenance(self) -> Markdown:
        """Where the numbers come from, and the command that makes them again."""
        runs = [r for rows in self.arms.values() for r in rows]
        if not runs:
            return Markdown(self.none_yet("No records yet."))
        keys = ", ".join(f"{arm} {rows[0]['key']}" for arm, rows in self.arms.items() if rows)
        commits = ", ".join(sorted({str(r["commit"]) for r in runs}))
        gaps = f" Runs are missing: {', '.join(self.missing)}." if self.missing else ""
        kind = "trained in this chapter" if self.fresh else f"made by `{self.command}`"
        return Markdown(
            f"<small>Profile {self.profile}; seeds {', '.join(map(str, self.seeds))}; last iterate; mean ± standard "
            f"deviation, 95 % t intervals of paired differences, verdicts corrected over {len(self.experiment.family)} "
            f"differences a metric; {kind} at commit {commits}; keys: {keys}.{gaps}</small>"
        )


def bind(
    experiment: str,
    profile: str = "",
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    overrides: Mapping | None = None,
    fresh: bool = False,
) -> Bound:
    """The records of an experiment for a chapter's parameters; ``fresh`` trains them here and now.

    An empty ``profile`` is the experiment's home; empty ``seeds`` and ``arms`` mean all. Raises :class:`AsgError` that
    names an unknown arm, a parameter of the wrong type, and a parameter that no chapter has.
    """
    return bind_each([experiment], profile, seeds, arms, overrides, fresh)[0]


def bind_each(
    experiments: Sequence[str],
    profile: str = "",
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    overrides: Mapping | None = None,
    fresh: bool = False,
) -> list[Bound]:
    """:func:`bind` for a chapter of several experiments: ``arms`` may be of any of them."""
    check_parameters(profile, seeds, arms, overrides or {}, fresh)
    all_declared = [get(name) for name in experiments]
    for arm in arms:
        if not any(arm in declared.arms for declared in all_declared):
            there_are = ", ".join(name for declared in all_declared for name in declared.arms)
            raise AsgError(
                f"The experiment {' or '.join(map(repr, experiments))} has no arm {arm!r}: choose from {there_are}."
            )
    return [_bind(declared, profile, seeds, arms, overrides, fresh) for declared in all_declared]


def each_profile(
    experiment: str,
    profile: str = "",
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    overrides: Mapping | None = None,
    fresh: bool = False,
) -> dict[str, Bound]:
    """:func:`bind` in every profile that an experiment is run in, or in the one that is asked for; profile → bound."""
    chosen = [profile] if profile else list(get(experiment).seeds)
    return {one: bind(experiment, one, seeds, arms, overrides, fresh) for one in chosen}


def train(config: RunConfig) -> dict:
    """What a run trained here and now gives; the records stay as they are."""
    from asg.run import run  # takes seconds to import, and most chapters only read

    return run(config, fresh=True)


def _bind(
    declared: Experiment,
    profile: str,
    seeds: Sequence[int],
    arms: Sequence[str],
    overrides: Mapping | None,
    fresh: bool,
) -> Bound:
    profile = profile or declared.home
    chosen, recorded, configs, missing = tuple(seeds) or declared.seeds_of(profile), {}, {}, []
    for arm in declared.arms:
        selected = not arms or arm in arms
        runs = declared.configs(profile, arm, chosen, overrides)
        if selected:
            configs[arm] = runs[0]
        made = [train(c) if selected else None for c in runs] if fresh else records.find_each(runs)
        recorded[arm] = [labelled(declared, arm, c, r) for c, r in zip(runs, made, strict=True) if r is not None]
        missing += [arm] if selected and len(recorded[arm]) < len(runs) else []
    return Bound(
        declared, profile, {arm: recorded[arm] for arm in configs}, configs, chosen, fresh, recorded, tuple(missing)
    )


def labelled(declared: Experiment, arm: str, config: RunConfig, record: dict) -> dict:
    """A record, saying which of an arm's repeated policies drove it: ``repeats``, ``policy`` (its number)."""
    files = [policy_name(config.profile, name) for name in declared.repeats(arm)]
    if not files or config.control.policy not in files:  # a control of the chapter's overrides
        return record
    return record | {"repeats": files[0], "policy": files.index(config.control.policy)}
