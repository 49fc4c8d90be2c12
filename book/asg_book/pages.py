"""What a chapter shows: its experiment bound to its parameters, tables, findings, provenance."""

import hashlib
import json
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from IPython import get_ipython
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from asg import AsgError, records
from asg.config import RunConfig
from asg.run import run
from asg_book import analysis, plots
from asg_book.build import STAGED
from asg_book.experiments import EXPERIMENTS, Experiment, get
from asg_book.glance import Panel

COLUMNS = {"accuracy": "task head", "kept": "kept head", "product": "both heads"}
COLUMNS |= {"miou": "mIoU", "pixels": "pixels right"}
COLUMNS |= {"agreement": "agreement", "imagenet": "ImageNet"}
NATS = {"validation_loss": "held-out loss", "kl": "held-out KL"}
COLUMNS |= {**NATS, "validation": "held-out"}
COLUMNS |= {"hse0": "HSE 0", "hse1": "HSE 1", "hse2": "HSE 2", "cka": "CKA", "ece": "ECE"}
DIGITS = {"hse0": 3, "hse1": 3, "hse2": 3, "cka": 3}  # of shares 1, of all others 2
PARAMETERS = {"profile": str, "seeds": (list, tuple), "arms": (list, tuple), "overrides": dict, "fresh": bool}


def check_parameters(given: Mapping) -> None:
    """Every chapter's flat parameters: an unknown name or a wrong type is an error that names it.

    papermill itself only warns of an unknown name, and its ``-p`` passes words as text.
    """
    for name, value in given.items():
        if name not in PARAMETERS:
            raise AsgError(f"There is no parameter {name!r}: a chapter has {', '.join(PARAMETERS)}.")
        if not isinstance(value, PARAMETERS[name]):
            wanted = getattr(PARAMETERS[name], "__name__", "list")
            raise AsgError(
                f"The parameter {name!r} must be a {wanted}, got {value!r}: `papermill -y` keeps types, `-p` may not."
            )


def injected(notebook_globals: Mapping) -> None:
    """Refuse a parameter that papermill injected under a name that the chapter does not have.

    papermill puts its parameters into a cell of their own, whatever they are called; a name in it
    that no chapter knows is a slip of the pen.
    """
    for cell in (cell for cell in notebook_globals.get("In", []) if cell.startswith("# Parameters")):
        names = {line.partition(" = ")[0] for line in cell.splitlines() if " = " in line and line[0].isalpha()}
        if unknown := sorted(names - PARAMETERS.keys()):
            raise AsgError(f"There is no parameter {unknown[0]!r}: a chapter has {', '.join(PARAMETERS)}.")


@dataclass(frozen=True)
class Bound:
    """An experiment with a chapter's parameters: its records, and what a page shows of them."""

    experiment: Experiment
    profile: str
    arms: Mapping[str, list[dict]]
    configs: Mapping[str, RunConfig]
    seeds: tuple[int, ...]
    fresh: bool

    def table(self, metrics: Sequence[str]) -> Styler:
        """One row an arm: mean ± standard deviation over n seeds (shares in per cent), beside the published value."""
        summary = analysis.summary(self.arms, metrics)
        rows = {}
        for arm, found in self.arms.items():
            best = analysis.estimate(list(analysis.by_seed(found, self.experiment.metric, "best_on_target").values()))
            published = self.experiment.published.get(arm)
            first, *others = [(COLUMNS[m], show(summary.loc[arm, m], m)) for m in metrics]
            oracle = show(best, self.experiment.metric)
            quoted = {"oracle selection": oracle, "published": f"{published.value:.1f}" if published else "—"}
            rows[arm] = {"n": len(found) or "—", **dict([first]), **quoted, **dict(others)}
        return styled(pd.DataFrame(rows).T)

    def differences(self, metrics: Sequence[str]) -> Styler:
        """One row a declared difference: its mean and 95 % interval, paired over seeds (of shares in points)."""
        rows = {}
        for a, b in self.experiment.differences:
            if a in self.arms and b in self.arms:
                found = {m: analysis.difference(self.arms[a], self.arms[b], m) for m in metrics}
                rows[f"{a} − {b}"] = {COLUMNS[m]: show_interval(e, m) for m, e in found.items()}
        return styled(pd.DataFrame(rows).T)

    def pairs(self) -> dict[str, tuple[str, str]]:
        """The declared differences that are bound, each named by what tells its two arms apart."""
        pairs = [(a, b) for a, b in self.experiment.differences if a in self.arms and b in self.arms]
        one_rival = len({b.rpartition(", ")[2] for _, b in pairs}) == 1
        return {a.rpartition(", ")[0] or a if one_rival else f"{a} − {b}": (a, b) for a, b in pairs}

    def contrasts(self, metrics: Sequence[str]) -> pd.DataFrame:
        """The declared differences as a long table for :func:`asg_book.plots.intervals`."""
        return analysis.differences(self.arms, self.pairs(), metrics)

    def intervals(self, metrics: Sequence[str]) -> Figure:
        """The declared differences as points with intervals."""
        rivals = {b.rpartition(", ")[2] for _, b in self.pairs().values()}
        label = f"difference from {rivals.pop()}" if len(rivals) == 1 else "difference"
        return figure(plots.intervals(self.contrasts(metrics), label))

    def findings(self, metrics: Sequence[str]) -> Markdown:
        """What the records say about each declared difference, one line a metric, and no more than they say."""
        lines = []
        for a, b in self.experiment.differences:
            for metric in metrics if a in self.arms and b in self.arms else ():
                e = analysis.difference(self.arms[a], self.arms[b], metric)
                verdict = "no difference is shown" if e.low <= 0 <= e.high else "higher" if e.low > 0 else "lower"
                unit = " points" if metric in plots.SHARES else " nats" if metric in NATS else ""
                said = f"{show_interval(e, metric)}{unit}: **{verdict}**" if e.n > 1 else "too few for an interval"
                lines.append(f"- {a} against {b}, {plots.NAMES[metric]}, {e.n} paired seeds: {said}.")
        return Markdown("\n".join(lines) or "None of the declared differences is bound.")

    def provenance(self) -> Markdown:
        """Where the numbers come from, and the command that makes them again."""
        found = [r for rows in self.arms.values() for r in rows]
        command = f"asg reproduce --experiment {self.experiment.id} --profile {self.profile}"
        if not found:
            return Markdown(f"No records yet. `{command}` makes them.")
        keys = ", ".join(f"{arm} {rows[0]['key']}" for arm, rows in self.arms.items() if rows)
        commits = ", ".join(sorted({str(r["commit"]) for r in found}))
        missing = [arm for arm, rows in self.arms.items() if len(rows) < len(self.seeds)]
        gaps = f" Missing: {', '.join(missing)}." if missing else ""
        kind = "trained in this chapter" if self.fresh else f"made by `{command}`"
        return Markdown(
            f"<small>Profile {self.profile}; seeds {', '.join(map(str, self.seeds))}; last iterate; mean ± standard "
            f"deviation, 95 % t intervals of paired differences; {kind} at commit {commits}; keys: {keys}."
            f"{gaps}</small>"
        )


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


def styled(table: pd.DataFrame) -> Styler:
    """A table that is the same from build to build."""
    digest = hashlib.sha256(table.to_csv().encode()).hexdigest()[:8]
    return table.style.set_uuid(digest).set_table_attributes('class="dataframe"')


def shares(table: pd.DataFrame) -> Styler:
    """A table of shares, in per cent; a dash where there is none (NaN)."""
    return styled(table.map(lambda share: "—" if share != share else f"{100 * share:.1f} %"))


def bind(
    experiment: str,
    profile: str = "mini",
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    overrides: Mapping | None = None,
    fresh: bool = False,
) -> Bound:
    """The records of an experiment for a chapter's parameters; ``fresh`` trains them here and now.

    Empty ``seeds`` and ``arms`` mean all. Raises :class:`AsgError` that names an unknown arm, a
    parameter of the wrong type, and a parameter that no chapter has.
    """
    return bind_each([experiment], profile, seeds, arms, overrides, fresh)[0]


def bind_each(
    experiments: Sequence[str],
    profile: str = "mini",
    seeds: Sequence[int] = (),
    arms: Sequence[str] = (),
    overrides: Mapping | None = None,
    fresh: bool = False,
) -> list[Bound]:
    """:func:`bind` for a chapter of several experiments: ``arms`` may be of any of them."""
    values = (profile, seeds, arms, overrides or {}, fresh)
    check_parameters(dict(zip(PARAMETERS, values, strict=True)))
    if shell := get_ipython():  # outside a notebook nothing is injected
        injected(shell.user_ns)
    all_declared = [get(name) for name in experiments]
    for arm in arms:
        if not any(arm in declared.arms for declared in all_declared):
            there_are = ", ".join(name for declared in all_declared for name in declared.arms)
            raise AsgError(
                f"The experiment {' or '.join(map(repr, experiments))} has no arm {arm!r}: choose from {there_are}."
            )
    return [_bind(declared, profile, seeds, arms, overrides, fresh) for declared in all_declared]


def _bind(
    declared: Experiment,
    profile: str,
    seeds: Sequence[int],
    arms: Sequence[str],
    overrides: Mapping | None,
    fresh: bool,
) -> Bound:
    chosen = tuple(seeds) or declared.seeds
    found, configs = {}, {}
    for arm in (arm for arm in declared.arms if not arms or arm in arms):
        runs = [declared.config(profile, arm, seed, overrides) for seed in chosen]
        configs[arm] = runs[0]
        made = [run(c, fresh=True) if fresh else records.find(c) for c in runs]
        found[arm] = [r for r in made if r is not None]
    return Bound(declared, profile, found, configs, chosen, fresh)


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


def trials(bound: Bound) -> pd.DataFrame:
    """Plain training in each setting, in per cent: what the ImageNet network knew, what training reached and kept."""
    rows = {}
    for arm, record in ((arm, found[0]) for arm, found in bound.arms.items() if found):
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
        tried = {arm: found for arm, found in bound.arms.items() if arm.startswith(f"{kind}, ") and found}
        chosen = analysis.best_kept(list(tried.values())) if tried else None
        for k, (arm, found) in enumerate(tried.items()):
            final = pd.DataFrame([record["final"] for record in found])
            loss, error = final["validation_loss"].mean(), final["validation_loss_error"].mean()
            rows[kind, arm.removeprefix(f"{kind}, ")] = {
                "held-out loss": f"{loss:.2f} ± {error:.2f}", "held-out KL": f"{final['kl'].mean():.2f}",
                "held-out accuracy": f"{100 * final['validation'].mean():.1f}", "chosen": "✓" if k == chosen else "",
            }  # fmt: skip
    return styled(pd.DataFrame(rows).T)


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
    found = {name: {arm: f"{p.value:g}" for arm, p in get(name).published.items()} for name in experiments}
    sources = sorted({p.source for name in experiments for p in get(name).published.values()})
    return styled(pd.DataFrame(found)).set_caption("; ".join(sources))


def at_a_glance(panels: Sequence[Panel], bounds: Mapping[str, Bound]) -> None:
    """Show each panel: its arms beside published values, a link to the chapter, what the records say of its claims."""
    for panel in panels:
        bound, quoted, rows = bounds[panel.experiment], panel.published, {}
        arms = [arm for arm in panel.arms or bound.experiment.arms if arm in bound.arms]
        for arm in [*arms, *(name for name in quoted if name not in bound.experiment.arms)]:
            found = analysis.estimate(list(analysis.by_seed(bound.arms.get(arm, ()), panel.metric).values()))
            none = "not verified" if arm in panel.unverified else "—"
            value = f"{quoted[arm].value:g}" if arm in quoted else none
            rows[arm] = {"n": found.n or "—", bound.profile: show(found, panel.metric), "published": value}
        link = f'<a href="{panel.chapter}.html">{panel.chapter[3:].replace("_", " ")}</a>'
        display(styled(pd.DataFrame(rows).T).set_caption(f"{panel.shows} · {link}"))
        if panel.claims:
            claimed = replace(bound.experiment, differences=tuple(panel.claims.values()))
            display(replace(bound, experiment=claimed).findings([panel.metric]))


def claims(items: Mapping[str, Sequence[Panel]], bounds: Mapping[str, Bound]) -> pd.DataFrame:
    """What is claimed in the metric that an experiment is judged by, and its price or gain in agreement.

    A long table for :func:`asg_book.plots.intervals`, without differences that have too few seeds for an interval.
    """
    arms = defaultdict(list, {(name, arm): found for name, b in bounds.items() for arm, found in b.arms.items()})
    pairs = {
        claim: ((panel.experiment, a), (panel.experiment, b))
        for panels in items.values()
        for panel in panels
        for claim, (a, b) in (panel.claims if panel.main else {}).items()
    }
    return analysis.differences(arms, pairs, ["accuracy", "miou", "agreement"]).dropna()


def at_scale(items: Mapping[str, Sequence[Panel]]) -> Markdown:
    """The command that runs the first arm of each experiment at the paper's scale."""
    arms = {p.experiment: next(iter(get(p.experiment).arms)) for panels in items.values() for p in panels}
    commands = (f"asg run {name} --profile paper --arm {shlex.quote(arm)} --seed 0" for name, arm in arms.items())
    return Markdown("\n".join(f"- `{command}`" for command in commands))


def status() -> Styler:
    """Versions and platform that this page was executed with."""
    here = records.provenance()
    return styled(pd.DataFrame({"version": {"platform": here["platform"], "cpu": here["cpu"], **here["versions"]}}))


def chapter_times() -> pd.DataFrame:
    """Seconds that each chapter took when it was last executed; this page itself is still running."""
    stamps = sorted((STAGED / "chapters").glob("*.json"))
    return pd.DataFrame({"seconds": {s.stem: f"{json.loads(s.read_text())['seconds']:.0f}" for s in stamps}})


def run_times(profile: str) -> pd.DataFrame:
    """Number of records, median seconds, greatest memory and hardware of each experiment's runs."""
    rows = {}
    for name in EXPERIMENTS:
        if found := [r for runs in bind(name, profile).arms.values() for r in runs]:
            seconds, memory = pd.Series([r["seconds"] for r in found]).median(), max(r["peak_memory_mb"] for r in found)
            devices = ", ".join(sorted({f"{r['platform']} {r['device']} {r.get('cpu', '')}".strip() for r in found}))
            rows[name] = {"runs": len(found), "median s": f"{seconds:.0f}", "peak MB": memory, "device": devices}
    return pd.DataFrame(rows).T


def benchmarks() -> pd.DataFrame:
    """Ratios that ``benchmarks/step.py`` measured, with their setting."""
    path = records.results_root() / "benchmarks.json"
    if not path.exists():
        raise AsgError(f"{path} is missing: run `python benchmarks/step.py`.")
    measured = json.loads(path.read_text())
    rows = {name: f"{ratio:.2f}" for name, ratio in measured["ratios"].items()}
    return pd.DataFrame({f"ratio ({measured['setting']}; {measured['date']})": rows})
