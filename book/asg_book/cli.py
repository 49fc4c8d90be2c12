"""The `asg` command as the book has it: experiments, policies and the book itself beside :mod:`asg.cli`."""

import os
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asg import AsgError
from asg.cli import Device, Settings, Track, app, main, parse_settings
from asg.config import RunConfig
from asg_book import measures
from asg_book.catalogue import EXPERIMENTS, get
from asg_book.engines import Cpus, Gpus, Jobs, On, engine_of
from asg_book.experiment import Experiment
from asg_book.policy_commands import policy
from asg_book.profiles import BOOK, PROFILES

if TYPE_CHECKING:
    from asg_book.pictures import Picture

Profile = Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}; if not given, what the book shows.")]


def describe(evaluation: dict) -> str:
    """One line about an evaluation, in per cent."""
    return "  ".join(
        f"{k} {100 * evaluation[k]:.1f}" for k in measures.NAMES if k in measures.SHARES & evaluation.keys()
    )


def profiles_of(declared: Experiment, profile: str) -> tuple[str, ...]:
    """The profile that was asked for, or every one of the book in which an experiment is run."""
    return (profile,) if profile else tuple(declared.seeds)


def book_profiles(profile: str) -> tuple[str, ...]:
    """The profile that was asked for, or every one of the book."""
    return (profile,) if profile else BOOK


def label(experiment: str, arm: str, config: RunConfig) -> str:
    """What names one run: experiment, arm, profile, seed, and the policy where one drives it."""
    policy = config.control.policy if config.control else None
    return f"{experiment} {arm} ({config.profile}) seed {config.seed}{f' policy {policy}' if policy else ''}"


app.add_typer(policy, name="policy")


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    arm: Annotated[list[str], typer.Option(help="Arms to run; all if not given.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="Seeds to run; the experiment's if not given.")] = [],  # noqa: B006
    profile: Profile = "",
    fresh: Annotated[bool, typer.Option(help="Train again and compare with the kept record.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and estimates; train nothing.")] = False,
    tflops: Annotated[float, typer.Option(help="Throughput that --dry-run assumes, in TFLOP/s.")] = 15.0,
    imagenet: Annotated[
        Path | None, typer.Option(help="ImageNet's validation set: measure what the networks know of it.")
    ] = None,
    settings: Settings = [],  # noqa: B006
    device: Device = None,
    track: Track = None,
) -> None:
    """Train arms of an experiment, or print what their records say."""
    from asg import dryrun, records, remembering, tracking
    from asg.run import run as run_once

    declared = get(experiment)
    for name in arm or declared.arms:
        for config in declared.configs(profile or declared.home, name, seed, parse_settings(settings)):
            if dry_run:
                print(dryrun.report(dryrun.dry_run(config, tflops=tflops)))
                break
            with tracking.shown_as(what := label(experiment, name, config)):
                record = run_once(config, fresh, device)
            print(f"{what}: {describe(record['final'])}  (key {record['key']})")
            if imagenet is not None:
                knows = remembering.remembered(config, imagenet, device)
                shares = f"top-1 {100 * knows['top1']:.1f}  top-5 {100 * knows['top5']:.1f}"
                print(f"  ImageNet: {shares}  of {knows['images']:,}")
            if fresh and (recorded := records.find(config)):
                same = recorded["evaluations"] == record["evaluations"]
                print(f"  kept record: {describe(recorded['final'])}  identical: {same}")


@app.command()
def reproduce(
    experiment: Annotated[list[str], typer.Option(help="Experiments; all if not given.")] = [],  # noqa: B006
    profile: Profile = "",
    seed: Annotated[list[int], typer.Option(help="Seeds; all of each experiment if not given.")] = [],  # noqa: B006
    jobs: Jobs = os.cpu_count() or 1,
    on: On = "local",
    cpus_per_run: Cpus = 1.0,
    gpus_per_run: Gpus = 0.0,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Obtain data that a node lacks by their script (ray).")
    ] = False,
    track: Track = None,
) -> None:
    """Train whatever has no current record, and remove nothing. Stop it at any time; it goes on where it was."""
    from tqdm import tqdm

    from asg import records

    wanted: dict[str, tuple[str, str, RunConfig]] = {}
    waiting: set[str] = set()
    for name in experiment or [name for name, e in EXPERIMENTS.items() if not profile or e.is_run_in(profile)]:
        declared = get(name)
        named = product(profiles_of(declared, profile), declared.arms)
        for name_of_arm, config in ((arm, config) for p, arm in named for config in declared.configs(p, arm)):
            if seed and config.seed not in seed:
                continue
            if records.policy_is_there(config):
                wanted.setdefault(f"{records.run_key(config)}-{config.seed}", (name, name_of_arm, config))
            else:
                waiting.add(config.control.policy)
    if seed and not (wanted or waiting):
        raise AsgError(f"No run has seed {' or '.join(map(str, seed))}: leave out --seed for those of every seed.")
    recorded = records.find_each([config for _, _, config in wanted.values()])
    todo = sorted(
        (w for w, record in zip(wanted.values(), recorded, strict=True) if record is None), key=lambda w: w[2].seed
    )
    engine = engine_of(on, jobs, cpus_per_run, gpus_per_run)
    print(f"{len(wanted) - len(todo)} of {len(wanted)} runs have a current record; {len(todo)} to train")
    failed, working = 0, engine(train_with_data if fetch else train_missing, todo)
    for (*named, config), record in tqdm(working, total=len(todo), unit="run"):
        what = label(*named, config)
        if isinstance(record, AsgError):
            failed += 1
            tqdm.write(f"{what}: error: {record}", file=sys.stderr)
            continue
        if records.find(config) is None:  # of a worker that keeps its records elsewhere
            records.append(config, record)
        tqdm.write(f"{what}: {describe(record['final'])}  (key {record['key']})")
    if waiting:
        print(f"runs of these policies wait until `asg policy` has made them: {', '.join(sorted(waiting))}")
    if failed:
        raise AsgError(f"{failed} runs failed (why is said above): mend the cause and run `asg reproduce` again.")


@app.command()
def runs() -> None:
    """List the runs of this machine that are in progress, stopped or failed, and how many networks are kept."""
    from asg import progress

    states = progress.states()
    for one in states:
        print(one)
    if not states:
        print("No run is in progress, stopped or failed.")
    print(f"{progress.kept_networks()} finished runs have kept their network; `asg experiments` counts the records.")


@app.command()
def prune(
    profile: Profile = "", yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False
) -> None:
    """List the records that today's settings, data, policies or recipes would not make, and ask to remove them."""
    from asg import records

    files = [file for one in book_profiles(profile) for file in records.outdated(one)]
    rows = [(path, record) for path, _, old in files for record in old]
    for path, record in rows:
        config = record.get("config", {})
        print(f"{path.name}, seed {record.get('seed')}: {config.get('data')}, made {record.get('finished')}")
    if not rows:
        print(f"Every record in {records.results_root() / profile} is current.")
    elif yes or typer.confirm(f"Remove these {len(rows)} outdated records?"):
        for path, current, _ in files:
            records.write_rows(path, current)
        print(f"{len(rows)} records removed.")


@app.command()
def verify(
    experiment: Annotated[list[str], typer.Option(help="Experiments; a sample of all if not given.")] = [],  # noqa: B006
    every: Annotated[bool, typer.Option("--all", help="Every record.")] = False,
    profile: Profile = "",
    jobs: Jobs = os.cpu_count() or 1,
    on: On = "local",
    cpus_per_run: Cpus = 1.0,
    gpus_per_run: Gpus = 0.0,
) -> None:
    """Repeat the first steps of records with today's code, and say which it can no longer vouch for.

    A self-training or interpolation is left out where its start was trained on a processor of another instruction set.
    """
    from tqdm import tqdm

    from asg import records, replay

    began, recorded = time.monotonic(), [r for one in book_profiles(profile) for r in records.of_profile(one)]
    # what can be judged comes first
    chosen = recorded if every else sample(sorted(recorded, key=replay.begins_elsewhere))
    if experiment:
        declared = [
            config
            for declared in map(get, experiment)
            for one, arm in product(profiles_of(declared, profile), declared.arms)
            for config in declared.configs(one, arm)
        ]
        ours = {(records.run_key(config), config.seed) for config in declared if records.policy_is_there(config)}
        chosen = [record for record in recorded if (record["key"], record["seed"]) in ours]
    judged = [r for r in chosen if not (replay.begins_elsewhere(r) and records.is_current(r))]  # outdated: always said
    working = engine_of(on, jobs, cpus_per_run, gpus_per_run)(verify_record, [(record,) for record in judged])
    results = [
        (r, [str(x)] if isinstance(x, AsgError) else x) for (r,), x in tqdm(working, total=len(judged), unit="run")
    ]
    faults = [(record, lines) for record, lines in results if lines]
    for record, lines in faults:
        print(
            f"{record['key']} seed {record['seed']}: {lines[0]}"
            + (f" (and {len(lines) - 1} more)" if lines[1:] else "")
        )
    seconds = time.monotonic() - began
    print(f"today's code vouches for {len(judged) - len(faults)} of {len(judged)} records ({seconds:.0f} s)")
    if len(chosen) > len(judged):
        print(
            f"{len(chosen) - len(judged)} more begin where a whole training ended on a processor of another "
            "instruction set: only such a one repeats them"
        )
    if faults:
        raise AsgError(
            f"{len(faults)} records are not what today's code makes: mend it, or raise a version in asg/recipes.py."
        )


def sample(recorded: list[dict]) -> list[dict]:
    """The first record of each combination of parts: the same ones every time."""
    first = {}
    for record in recorded:
        first.setdefault(tuple(record.get("recipe", ())), record)
    return list(first.values())


def verify_record(record: dict) -> list[str]:
    """:func:`asg.replay.verify` in a worker."""
    from asg import replay

    return replay.verify(record, "cpu" if record["device"] == "cpu" else None)


@app.command(name="golden")
def golden_command(
    experiment: Annotated[list[str], typer.Option(help="Experiments; all if not given.")] = [],  # noqa: B006
    write: Annotated[
        bool, typer.Option("--write", help="Commit to what they give now; numbers that are the same stay as they are.")
    ] = False,
) -> None:
    """Run every arm and policy on the toy profile, and compare with the numbers that they once gave."""
    from asg_book import golden

    if write and experiment:
        raise AsgError("--write replaces the numbers of every run: give it without --experiment.")
    began, runs = time.monotonic(), golden.golden_runs(experiment)
    if write:
        golden.write_golden(golden.renewed(golden.read_golden() if golden.FILE.exists() else {}, runs))
    elif faults := golden.compare(golden.read_golden(), runs):
        raise AsgError(golden.advice(runs, faults))
    print(f"{len(runs)} golden runs {'written' if write else 'give what they gave'} ({time.monotonic() - began:.0f} s)")


def train_missing(experiment: str, arm: str, config: RunConfig) -> dict:
    """One run of ``reproduce``, in a worker: its record."""
    from asg import tracking
    from asg.run import run as run_once

    with tracking.shown_as(label(experiment, arm, config)):
        return run_once(config, wait=True)


def train_with_data(experiment: str, arm: str, config: RunConfig) -> dict:
    """:func:`train_missing` on a node that may lack the data."""
    from asg_book import cluster

    cluster.obtain(config)
    return train_missing(experiment, arm, config)


@app.command()
def experiments(profile: Profile = "") -> None:
    """List every experiment, its arms, and how many of its runs have a current record."""
    from asg import records

    for e in (e for e in EXPERIMENTS.values() if not profile or e.is_run_in(profile)):
        print(f"{e.id} ({', '.join(profiles_of(e, profile))}): {e.question}")
        for arm, overrides in e.arms.items():
            wanted = [config for one in profiles_of(e, profile) for config in e.configs(one, arm)]
            done = sum(record is not None for record in records.find_each(wanted))
            print(f"  {arm:28} {done}/{len(wanted)} runs  {dict(overrides)}")


@app.command()
def figures() -> None:
    """Make what the book's figures show of trained networks, where it is missing: embeddings, heat maps, label maps."""
    from asg_book import pictures

    wanted, made = pictures.wanted(), set()
    for experiment, profile, make in wanted:
        try:
            made.add(path := picture_of(experiment, profile, make))
            print(f"{make.__name__} of {experiment} ({profile}): {path}", flush=True)
        except AsgError as error:
            print(f"{make.__name__} of {experiment} ({profile}): error: {error}", file=sys.stderr, flush=True)
    if failed := len(wanted) - len(made):
        raise AsgError(f"{failed} of {len(wanted)} figures are missing (why is said above).")
    if others := sorted(path.name for path in set(pictures.folder().glob("*.npz")) - made):
        print(f"The book shows no more, or never did: {', '.join(others)}")


def picture_of(experiment: str, profile: str, make: "Callable[..., Picture]") -> Path:
    """The file of a picture of the book, made if it is missing, of networks whose runs have records.

    A network that is not at hand is trained again. Raises :class:`AsgError` where a record or the data are missing.
    """
    from asg import records
    from asg_book import pictures

    configs = pictures.configs_of(experiment, profile)
    picture = make(configs)
    if not picture.path.exists():
        if without := [arm for arm, config in configs.items() if records.find(config) is None]:
            remedy = f"`asg reproduce --experiment {experiment} --profile {profile}` makes them"
            raise AsgError(f"Runs of {', '.join(without)} ({profile}) have no record: {remedy}.")
        print(f"making {make.__name__} of {', '.join(configs)} ({profile}) …", flush=True)
    picture.arrays()
    return picture.path


@app.command(name="book")
def build_book() -> None:
    """Execute the chapters that changed and build the HTML."""
    from asg_book import build

    first = build.build()
    print(f"The book is at {first}\nOpen that file in a browser, or run `python -m http.server -d {build.HTML}`.")


if __name__ == "__main__":
    main()
