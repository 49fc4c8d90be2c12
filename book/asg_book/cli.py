"""The `asg` command as the book has it: experiments, policies and the book itself beside :mod:`asg.cli`."""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from asg import AsgError, dryrun, records, reinforce
from asg.cli import Device, Settings, app, main, parse_settings
from asg.config import RunConfig
from asg.controllers.learned import save_policy
from asg.controllers.windows import policy_path
from asg.data.images import make_folder
from asg.run import run as run_once
from asg_book import build, pages, plots
from asg_book.experiments import EXPERIMENTS, POLICIES, PROFILES, get, policy_config

Profile = Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")]


def describe(evaluation: dict) -> str:
    """One line about an evaluation, in per cent."""
    return "  ".join(f"{k} {100 * evaluation[k]:.1f}" for k in plots.NAMES if k in plots.SHARES & evaluation.keys())


def label(experiment: str, arm: str, config: RunConfig) -> str:
    """What names one run: experiment, arm, seed, and the policy where one drives it."""
    policy = config.control.policy if config.control else None
    return f"{experiment} {arm} seed {config.seed}{f' policy {policy}' if policy else ''}"


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    arm: Annotated[list[str], typer.Option(help="Arms to run; all if not given.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="Seeds to run; the experiment's if not given.")] = [],  # noqa: B006
    profile: Profile = "mini",
    fresh: Annotated[bool, typer.Option(help="Train again and compare with the kept record.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print settings and estimates; train nothing.")] = False,
    tflops: Annotated[float, typer.Option(help="Throughput that --dry-run assumes, in TFLOP/s.")] = 15.0,
    settings: Settings = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Train arms of an experiment, or print what their records say."""
    declared = get(experiment)
    for name in arm or declared.arms:
        for config in declared.configs(profile, name, seed, parse_settings(settings)):
            if dry_run:
                print(dryrun.report(dryrun.dry_run(config, tflops=tflops)))
                break
            record = run_once(config, fresh, device)
            print(f"{label(experiment, name, config)}: {describe(record['final'])}  (key {record['key']})")
            if fresh and (kept := records.find(config)):
                same = kept["evaluations"] == record["evaluations"]
                print(f"  kept record: {describe(kept['final'])}  identical: {same}")


@app.command()
def reproduce(
    experiment: Annotated[list[str], typer.Option(help="Experiments; all if not given.")] = [],  # noqa: B006
    profile: Profile = "mini",
    only: Annotated[
        str, typer.Option(help="missing: what has no current record. stale: the same, and remove outdated files.")
    ] = "stale",
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = os.cpu_count() or 1,
) -> None:
    """Train whatever has no current record. Stop it at any time; it goes on where it was."""
    if only not in ("missing", "stale"):
        raise AsgError(f"--only {only!r}: choose missing or stale.")
    wanted: dict[str, tuple[str, str, RunConfig]] = {}
    for name in experiment or EXPERIMENTS:
        declared = get(name)
        for arm, config in ((a, config) for a in declared.arms for config in declared.configs(profile, a)):
            wanted.setdefault(f"{config.identity()}-{config.seed}", (name, arm, config))
    if only == "stale":
        for path in sorted((records.results_root() / profile).glob("*.jsonl")):
            if not records.is_current(path):
                print(f"outdated: {path.name} is removed")
                path.unlink()
    todo = sorted((w for w in wanted.values() if pages.recorded(w[2]) is None), key=lambda w: w[2].seed)
    kept = len(wanted) - len(todo)
    print(f"{kept} of {len(wanted)} runs have a current record; {len(todo)} to train, {jobs} at once")
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):  # else glibc gives memory back at every step
        os.environ.setdefault(name, str(2**32))
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=work_for_parent)
    try:
        runs = [pool.submit(train_missing, *one) for one in todo]
        done = [run.result() for run in tqdm(as_completed(runs), total=len(runs), unit="run")]
    finally:
        pool.shutdown(cancel_futures=True)
    if failed := done.count(False):
        raise AsgError(f"{failed} runs failed (why is said above): mend the cause and run `asg reproduce` again.")


def work_for_parent() -> None:
    """Make a worker of ``reproduce`` quiet, and end it with the command that started it; its run can be resumed."""
    os.environ["TQDM_DISABLE"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def follow() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def train_missing(experiment: str, arm: str, config: RunConfig) -> bool:
    """One run of ``reproduce``, in a worker: whether it has its record now."""
    what = label(experiment, arm, config)
    try:
        record = run_once(config)
    except AsgError as error:
        print(f"{what}: error: {error}", file=sys.stderr, flush=True)
        return False
    print(f"{what}: {describe(record['final'])}  (key {record['key']})", flush=True)
    return True


@app.command()
def experiments(profile: Profile = "mini") -> None:
    """List every experiment, its arms, and how many of its runs have a current record."""
    for e in EXPERIMENTS.values():
        print(f"{e.id}: {e.question}")
        for arm, overrides in e.arms.items():
            wanted = e.configs(profile, arm)
            done = sum(pages.recorded(config) is not None for config in wanted)
            print(f"  {arm:28} {done}/{len(wanted)} runs  {dict(overrides)}")


policy = typer.Typer(help="Policies that set the rates: train one, or search rates with the same compute.")
app.add_typer(policy, name="policy")
Declared = Annotated[str, typer.Argument(help=f"One of {', '.join(POLICIES)}.")]
Meta = Annotated[list[str], typer.Option("--set", help="FIELD=VALUE, a MetaConfig field; the value is JSON.")]
Out = Annotated[Path | None, typer.Option(help="File to write; policies/PROFILE-NAME if not given.")]


def describe_episode(point: dict) -> str:
    """One line about an episode."""
    ratios = " ".join(f"{r:.2f}" for r in point["ratios"].values())
    held = "diverged"
    if point["held_task"] is not None:
        held = f"held-out loss {point['held_task']:.3f}  KL {point['held_guidance']:.3f}"
    paid = f"reward {point['reward']:+.3f}  entropy {point['entropy']:.3f}  " if "reward" in point else ""
    return f"episode {point['episode']}: {paid}{held}  ratios {ratios}"


@policy.command(name="train")
def train_policy(
    name: Declared = "asg",
    profile: Profile = "mini",
    settings: Meta = [],  # noqa: B006
    out: Out = None,
    device: Device = None,
) -> None:
    """Train a policy by REINFORCE on synthetic images. Stop it at any time; it goes on after the last episode."""
    meta = policy_config(name, profile, parse_settings(settings))
    with records.meta_folder("policy", meta) as folder:
        trained, at = reinforce.train_policy(meta, folder, device, lambda point: tqdm.write(describe_episode(point)))
        to = out or policy_path(f"{profile}-{name}")
        make_folder(to.parent)
        save_policy(trained, records.card(meta, curve=at.curve, seconds=round(at.seconds)), to)
        (folder / "policy.pt").unlink()
    print(f"The policy is in {to}; {meta.episodes} episodes took {at.seconds / 60:.1f} min.")


@policy.command(name="search")
def search(
    name: Declared = "asg",
    profile: Profile = "mini",
    settings: Meta = [],  # noqa: B006
    out: Out = None,
    device: Device = None,
) -> None:
    """Try random layer-wise rates, as many as the policy has episodes; the best on held-out renders is first."""
    meta = policy_config(name, profile, parse_settings(settings))
    with records.meta_folder("search", meta) as folder:
        trials = reinforce.search_ratios(meta, folder, device, lambda point: tqdm.write(describe_episode(point)))
        to = out or policy_path(f"{profile}-{name}-search", ".json")
        make_folder(to.parent)
        records.write_text(to, json.dumps(records.card(meta, trials=trials), indent=1) + "\n")
        (folder / "search.pt").unlink()
    print(f"The {len(trials)} trials are in {to}; the best: {describe_episode(trials[0])}.")


@app.command(name="book")
def build_book() -> None:
    """Execute the chapters that changed and build the HTML."""
    first = build.build()
    print(f"The book is at {first}\nOpen that file in a browser, or run `python -m http.server -d {build.HTML}`.")


if __name__ == "__main__":
    main()
