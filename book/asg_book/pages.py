"""What a chapter shows: its experiment bound to its parameters, tables, findings, provenance."""

import hashlib
import html
import io
import json
import shlex
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from asg import AsgError, records
from asg.config import RunConfig
from asg.controllers.learned import load_policy
from asg.controllers.windows import policy_path
from asg.data import data_root
from asg_book import analysis, plots
from asg_book.build import STAGED
from asg_book.experiments import EXPERIMENTS, Experiment, get, policy_name
from asg_book.glance import Panel
from asg_book.paying import Case

COLUMNS = {"accuracy": "task head", "kept": "kept head", "product": "both heads"}
COLUMNS |= {"miou": "mIoU", "pixels": "pixels right"}
COLUMNS |= {"agreement": "agreement", "imagenet": "ImageNet"}
NATS = {"validation_loss": "held-out loss", "kl": "held-out KL"}
COLUMNS |= {**NATS, "validation": "held-out"}
COLUMNS |= {"hse0": "HSE 0", "hse1": "HSE 1", "hse2": "HSE 2", "cka": "CKA", "ece": "ECE"}
TITLES = {"cartoon": "cartoons → photos", "sketch": "sketches → photos", "cad": "CAD renders → photos"}
TITLES |= {"mini": "emoji → photos"}
DIGITS = {"hse0": 3, "hse1": 3, "hse2": 3, "cka": 3}  # of shares 1, of all others 2
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


MARKS = {True: "●", False: "○"}  # whether a difference is shown by the corrected test


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
        text = show(analysis.level(self.arms.get(arm, ()), other, which), other)
        return text if other == metric or text == "—" else f"{text} †"

    def size(self, arm: str, metric: str) -> str:
        """How many values an arm has: seeds, or seeds × policies; a dash for none."""
        other = self.experiment.metric_of.get(arm, {}).get(metric) or metric
        estimate = analysis.level(self.arms.get(arm, ()), other)
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

        Long table of :func:`asg_book.analysis.corrected`, whose rows are pairs of arms.
        """
        family = self.experiment.family
        estimates = analysis.differences(self.recorded, {pair: pair for pair in family}, metrics)
        return analysis.corrected(estimates, len(family))

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
            lines[row["row"]].append(f"- {row['row']}, {plots.NAMES[row['metric']]}, {in_words(row)}.")
        text = "\n".join(line for name in lines for line in lines[name])
        return Markdown(text or self.none_yet(f"None of these differences of {self.experiment.id} has records."))

    def answer(self, named: Mapping[str, tuple[str, str]], metric: str = "accuracy") -> Markdown:
        """A chapter's answer in one sentence: named differences of the family, each with its corrected verdict.

        Raises :class:`AsgError` for a pair that the family does not have, whose verdict would be corrected over none.
        """
        if unknown := [pair for pair in named.values() if pair not in self.experiment.family]:
            raise AsgError(f"{self.experiment.id} compares no {' with '.join(unknown[0])}: add it to its claims.")
        parts = [f"{row['row']} {judged(row)}" for row in self.between(named, [metric]).to_dict("records")]
        sentence = f"**In short** ({plots.NAMES[metric]}): {'; '.join(parts)}."
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


def direction(e: analysis.Estimate) -> str:
    """Which way a difference goes that is shown."""
    return "higher" if e.mean > 0 else "lower"


def show_p(p: float) -> str:
    """``.031``, of small ones ``< .001``."""
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def scale(metric: str) -> tuple[int, int]:
    """What a metric is multiplied with before it is shown, and its digits."""
    return (100, 1) if metric in plots.SHARES else (1, DIGITS.get(metric, 2))


def show(e: analysis.Estimate, metric: str) -> str:
    """``mean ± sd``, of a share in per cent; one value has no sd, none is a dash."""
    factor, digits = scale(metric)
    spread = f" ± {factor * e.sd:.{digits}f}" if e.n > 1 else ""
    return "—" if e.n == 0 else f"{factor * e.mean:.{digits}f}{spread}"


def show_interval(e: analysis.Estimate, metric: str) -> str:
    """``mean [low, high]``, of a share in points."""
    factor, digits = scale(metric)
    mean, low, high = (f"{factor * value:+.{digits}f}" for value in (e.mean, e.low, e.high))
    return "—" if e.n < 2 else f"{mean} [{low}, {high}]"


def show_with_unit(e: analysis.Estimate, metric: str) -> str:
    """:func:`show_interval` in a sentence."""
    unit = " points" if metric in plots.SHARES else " nats" if metric in NATS else ""
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
        sizes = [len(analysis.values(bound.arms.get(arm, ()), metric).columns) for arm in arms.values()]
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


def live(metrics: Sequence[str] = ("train_task", "validation", "accuracy", "agreement")) -> Callable[[dict], None]:
    """A function for ``on_evaluation`` that redraws the curves of the run in one output."""
    handle, seen = display(Markdown("training …"), display_id=True), []

    def redraw(evaluation: dict) -> None:
        seen.append(evaluation)
        figure = plots.over_training(analysis.curves({"run": [{"seed": 0, "evaluations": seen}]}, metrics), metrics)
        handle.update(figure)
        plots.plt.close(figure)

    return redraw


def figure(drawn: Figure) -> Figure:
    """Show a figure once (a figure that stays open would be shown a second time)."""
    plots.plt.close(drawn)
    return drawn


def inline(drawn: Figure, alt: str) -> HTML:
    """A figure with its alternative text in one piece, for a page that quotes another."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png")
    plots.plt.close(drawn)
    source = f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
    return HTML(f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="{source}">')


def pictured(draw: Callable[..., Figure], *given: object, **named: object) -> Figure | Markdown:
    """:func:`figure` of what ``draw`` gives; where an image that it shows cannot be read, what says how to get it.

    Optional benchmarks may not be passed on, and a page is read without them.
    """
    try:
        return figure(draw(*given, **named))
    except AsgError as error:
        plots.plt.close("all")  # what was begun
        return Markdown(str(error).replace(str(data_root()), "data"))  # a page is read on other machines


def trials(bound: Bound) -> pd.DataFrame:
    """Plain training in each setting, in per cent: what the ImageNet network knew, what training reached and kept."""
    rows = {}
    for arm, record in ((arm, runs[0]) for arm, runs in bound.arms.items() if runs):
        knew, end = record["evaluations"][0]["kept"], record["final"]
        shares = {
            "ImageNet network": knew, "trained, last": end["accuracy"],
            "trained, best": record["best_on_target"]["accuracy"], "left unreached": knew - end["accuracy"],
            "kept head, last": end["kept"], "agreement, last": end["agreement"],
        }  # fmt: skip
        rows[arm] = {name: f"{100 * share:.1f}" for name, share in shares.items()}
        rows[arm]["validation loss"] = f"{end['validation_loss']:.2f}"
    return pd.DataFrame(rows).T


def choices(bound: Bound, kinds: Sequence[str]) -> Styler:
    """The strengths that were tried, weakest first, their loss on held-out renders, and the chosen one of each kind."""
    rows = {}
    for kind in kinds:
        tried = {arm: runs for arm, runs in bound.arms.items() if arm.startswith(f"{kind}, ") and runs}
        chosen = analysis.best_kept(list(tried.values())) if tried else None
        for k, (arm, runs) in enumerate(tried.items()):
            final = pd.DataFrame([record["final"] for record in runs])
            loss, error = final["validation_loss"].mean(), final["validation_loss_error"].mean()
            penalty = bound.configs[arm].regulariser
            rows[kind, arm.removeprefix(f"{kind}, ")] = {
                "strength": f"{penalty.strength:g}" if penalty else "—",
                "held-out loss": f"{loss:.2f} ± {error:.2f}", "held-out KL": f"{final['kl'].mean():.2f}",
                "held-out accuracy": f"{100 * final['validation'].mean():.1f}", "chosen": "✓" if k == chosen else "",
            }  # fmt: skip
    return styled(pd.DataFrame(rows).T)


def tried(bound: Bound) -> Styler:
    """Trials of lengths and base rates of plain training, and which the rule chooses (asg_book.analysis.shortest)."""
    made = {arm: runs for arm, runs in bound.arms.items() if runs}
    keys = {arm: (bound.configs[arm].steps, bound.configs[arm].lr) for arm in made}
    chosen = analysis.shortest({keys[arm]: made[arm] for arm in made}) if made else None
    rows = {}
    for arm, runs in made.items():
        loss, error = (analysis.mean_final(runs, m) for m in ("validation_loss", "validation_loss_error"))
        shares = {"held-out accuracy": "validation", "photos": bound.experiment.metric, "agreement": "agreement"}
        rows[arm] = {
            "held-out loss": f"{loss:.2f} ± {error:.2f}",
            **{name: f"{100 * analysis.mean_final(runs, metric):.1f}" for name, metric in shares.items()},
            "chosen": "✓" if keys[arm] == chosen else "",
        }
    return captioned(pd.DataFrame(rows).T, TITLES.get(bound.profile, bound.profile))


def policy_cards(profile: str, names: Sequence[str]) -> dict[str, dict]:
    """Name → card of the policies that have been trained; which have not is said, with the command that trains them."""
    cards, missing = {}, []
    for name in names:
        path = policy_path(policy_name(profile, name))
        if path.exists():
            cards[name] = load_policy(path)[1]
        else:
            missing.append(f"`asg policy train {name} --profile {profile}`")
    if missing:
        display(Markdown(f"Policies that are not trained yet: {', '.join(missing)}."))
    return cards


def search_trials(profile: str, name: str) -> list[dict]:
    """The trials of a search of rates, best first; none where it has not been made, which is said with the command."""
    path = policy_path(policy_name(profile, f"{name}-search"), ".json")
    if path.exists():
        return json.loads(path.read_text("utf-8"))["trials"]
    display(Markdown(f"No search yet. `asg policy search {name} --profile {profile}` makes it."))
    return []


def cards(made: Mapping[str, dict]) -> Styler:
    """How each policy was trained, and the held-out losses at the end of its last ten episodes, from its card."""
    rows = {}
    for name, card in made.items():
        meta, last = card["meta"], pd.DataFrame(card["curve"][-10:])
        rows[name] = {
            "reward": meta["reward"], "λ": f"{meta['student']['guidance']:g}", "episodes": len(card["curve"]),
            "steps each": meta["student"]["steps"], "γ": f"{meta['gamma']:g}", "meta rate": f"{meta['lr']:g}",
            "baseline": "yes" if meta["baseline"] else "no", "minutes": f"{card['seconds'] / 60:.0f}",
            "end loss": f"{last['held_task'].mean():.2f}", "end KL": f"{last['held_guidance'].mean():.2f}",
        }  # fmt: skip
    return styled(pd.DataFrame(rows).T)


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


def status() -> Styler:
    """Versions and platform that this page was executed with."""
    provenance = records.provenance()
    rows = {"platform": provenance["platform"], "cpu": provenance["cpu"], **provenance["versions"]}
    return styled(pd.DataFrame({"version": rows}))


def chapter_times() -> pd.DataFrame:
    """Seconds that each chapter took when it was last executed; this page itself is still running."""
    stamps = sorted((STAGED / "chapters").glob("*.json"))
    return pd.DataFrame({"seconds": {s.stem: f"{json.loads(s.read_text('utf-8'))['seconds']:.0f}" for s in stamps}})


def run_times(profile: str = "") -> pd.DataFrame:
    """Number of records, median seconds, greatest memory and hardware of each experiment's runs, profile by profile."""
    rows = {}
    for name in (name for name, declared in EXPERIMENTS.items() if not profile or declared.is_run_in(profile)):
        for one, bound in each_profile(name, profile).items():
            if recorded := [r for runs in bound.arms.values() for r in runs]:
                seconds = pd.Series([r["seconds"] for r in recorded]).median()
                devices = ", ".join(
                    sorted({f"{r['platform']} {r['device']} {r.get('cpu', '')}".strip() for r in recorded})
                )
                rows[f"{name}, {one}"] = {
                    "runs": len(recorded), "median s": f"{seconds:.0f}",
                    "peak MB": max(r["peak_memory_mb"] for r in recorded), "device": devices,
                }  # fmt: skip
    return pd.DataFrame(rows).T


def benchmarks(name: str) -> Styler | Markdown:
    """Ratios that ``benchmarks/NAME.py`` measured, with their setting; a sentence where nobody has run it."""
    path = records.results_root() / "benchmarks" / f"{name}.json"
    if not path.exists():
        return Markdown(f"Not measured: `python benchmarks/{name}.py` measures it.")
    measured = json.loads(path.read_text("utf-8"))
    rows = {what: f"{ratio:.2f}" for what, ratio in measured["ratios"].items()}
    return captioned(pd.DataFrame({"ratio": rows}), f"{measured['setting']}; {measured['date']}")


def gpu() -> Styler | Markdown:
    """What ``benchmarks/gpu.py`` measured on a GPU, with its name; a sentence where nobody has run it."""
    path = records.results_root() / "gpu.json"
    if not path.exists():
        return Markdown(
            "Not measured: `python benchmarks/gpu.py` measures it on any machine with a GPU, in ten minutes."
        )
    measured = json.loads(path.read_text("utf-8"))
    rows = {
        name: {"images/s": case["error"]}
        if "error" in case
        else {
            "images/s": f"{case['images_per_second']:.0f}",
            "s a step": f"{case['seconds_per_step']:.3f}",
            "batch": str(case["batch"]),
            "peak MB": str(case["memory_mb"] or ""),
            "planned MB": str(case["planned_mb"]),
            "images/s, evaluated": f"{case['evaluated_per_second']:.0f}",
        }
        for name, case in measured["cases"].items()
    }
    made_with = f"{measured['processes']} process(es), torch {measured['versions']['torch']}"
    caption = f"{measured['device']}, {made_with}, {measured['date']}"
    return styled(pd.DataFrame(rows).T.fillna("").rename_axis(columns=caption))
