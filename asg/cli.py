"""The `asg` command."""

import csv
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from asg import AsgError, analysis, book, dryrun, models, plots, records, reinforce
from asg.config import RunConfig, make_config
from asg.controllers.learned import save_policy
from asg.controllers.windows import policy_path
from asg.data.folder import opaque, scan
from asg.data.images import make_folder, read_image, square
from asg.experiments import EXPERIMENTS, POLICIES, PROFILES, get, policy_config
from asg.run import run as run_once
from asg.trainers import self_training
from asg.trainers.classification import train as train_once

app = typer.Typer(
    help="Automated Synthetic-to-Real Generalization: experiments, your own data, and the book.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Profile = Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")]
Settings = Annotated[list[str], typer.Option("--set", help="FIELD=VALUE, a RunConfig field; the value is JSON.")]
Device = Annotated[str | None, typer.Option(help="cpu, or leave it to what the machine has.")]


def parse_settings(settings: list[str]) -> dict:
    """``["lr=0.01", "sgd=torch"]`` → overrides; values are JSON, or text where they are not."""
    overrides = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise AsgError(f"--set {setting!r}: write FIELD=VALUE.")
        try:
            overrides[name] = json.loads(value)
        except json.JSONDecodeError:
            overrides[name] = value
    return overrides


def describe(evaluation: dict) -> str:
    """One line about an evaluation, in per cent."""
    return "  ".join(f"{k} {100 * evaluation[k]:.1f}" for k in plots.NAMES if k in plots.SHARES & evaluation.keys())


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
        for number in seed or declared.seeds:
            config = declared.config(profile, name, number, parse_settings(settings))
            if dry_run:
                print(dryrun.report(dryrun.dry_run(config, tflops=tflops)))
                break
            record = run_once(config, fresh, device)
            print(f"{experiment} {name} seed {number}: {describe(record['final'])}  (key {record['key']})")
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
        for arm, seed in ((arm, seed) for arm in declared.arms for seed in declared.seeds):
            config = declared.config(profile, arm, seed)
            wanted.setdefault(f"{config.identity()}-{seed}", (name, arm, config))
    if only == "stale":
        for path in sorted((records.results_root() / profile).glob("*.jsonl")):
            if not records.is_current(path):
                print(f"outdated: {path.name} is removed")
                path.unlink()
    todo = sorted((w for w in wanted.values() if records.find(w[2]) is None), key=lambda w: w[2].seed)
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
    what = f"{experiment} {arm} seed {config.seed}"
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
            done = sum(records.find(e.config(profile, arm, s)) is not None for s in e.seeds)
            print(f"  {arm:28} {done}/{len(e.seeds)} seeds  {dict(overrides)}")


@app.command()
def train(
    source: Annotated[Path, typer.Option(help="Synthetic images, one sub-folder a class.")],
    target: Annotated[Path | None, typer.Option(help="Real images, one sub-folder a class; only reported on.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the model and its report.")] = Path("model"),
    settings: Settings = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Train on your own renders with proxy guidance, and report on your own photos."""
    model_of(source, target, out, parse_settings(settings), device)
    print(f"\n{(out / 'report.md').read_text()}\nThe model is in {out}: `asg predict {out} IMAGE …` uses it.")


@contextmanager
def own_folder(out: Path, config: RunConfig) -> Iterator[Path]:
    """``out``, held by this process alone, with nothing in it that another configuration began."""
    with records.lock(folder := make_folder(out)):
        kept = folder / "config.json"
        if any(folder.rglob("checkpoint.pt")) and kept.exists() and kept.read_text() != config.to_json():
            raise AsgError(f"{folder} holds an unfinished run of other settings: give another --out, or remove it.")
        records.write_text(kept, config.to_json())
        yield folder


def model_of(source: Path, target: Path | None, out: Path, overrides: dict, device: str | None = None) -> dict:
    """Train on folders (resumed if ``out`` holds a checkpoint), write model and report, return the result."""
    folders = {"source": str(source), "target": str(target) if target else None}
    config = make_config(PROFILES["own"], folders, overrides)
    with own_folder(out, config) as folder:
        result, student = train_once(config, folder, device)
        classes = tuple(sorted(p.name for p in source.iterdir() if p.is_dir() and not p.name.startswith(".")))
        models.save_model(student, config, classes, folder)
        records.write_text(folder / "report.json", json.dumps({**result, **records.provenance()}, indent=1))
        records.write_text(folder / "report.md", analysis.report(result, config))
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


@app.command()
def adapt(
    model: Annotated[Path, typer.Argument(help="Folder that `asg train` wrote.")],
    source: Annotated[Path, typer.Option(help="Synthetic images, one sub-folder a class, as for `asg train`.")],
    target: Annotated[Path, typer.Option(help="Real images without labels, in any sub-folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the adapted model.")] = Path("adapted"),
    settings: Annotated[list[str], typer.Option("--set", help="FIELD=VALUE of the adaptation.")] = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Adapt a model to your own unlabelled photos by self-training."""
    start, config, classes = models.load_model(model)
    if classes != (found := tuple(scan(source, "source"))):
        raise AsgError(f"{source} has the classes {', '.join(found)}, and {model} knows {', '.join(classes)}.")
    how = {"images": str(target), **parse_settings(settings)}
    config = make_config(config.model_dump(), {"source": str(source), "target": None, "adapt": how})
    with own_folder(out, config) as folder:
        result, student = self_training.train(config, folder, start, device)
        models.save_model(student, config.model_copy(update={"adapt": None}), classes, folder)
        for part in folder.glob("round-*"):
            shutil.rmtree(part)
    labelled = result["final"]["labelled"]
    print(f"Adapted in {result['seconds']:.0f} s. Pseudo-labels of the last round:")
    print("\n".join(f"  {name:20} {count}" for name, count in zip(classes, labelled, strict=True)))
    print(f"The model is in {out}: `asg predict {out} IMAGE …` uses it.")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder that `asg train` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
) -> None:
    """Class and probability of each image, as CSV. The image and its mirror are averaged."""
    student, config, classes = models.load_model(model)
    writer = csv.writer(sys.stdout)
    writer.writerow(["image", "class", "probability"])
    for path in images:
        pixels = torch.from_numpy(square(opaque(read_image(path)), config.size).copy())  # (H, W, 3)
        x = pixels.permute(2, 0, 1)[None]  # (1, 3, H, W)
        with torch.inference_mode():
            both = (student(x)[0].softmax(1) + student(x.flip(3))[0].softmax(1))[0] / 2
        writer.writerow([path, classes[int(both.argmax())], f"{float(both.max()):.4f}"])


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
    print(f"The book is at {book.build()}\nOpen that file in a browser, or run `python -m http.server -d {book.HTML}`.")


def stop(*_: object) -> None:
    """End at once, with a sentence (typer would catch the KeyboardInterrupt and say nothing)."""
    sys.exit("\nStopped. The same command goes on from the last checkpoint.")


def main() -> None:
    """Run the command; what the user can mend is one sentence, and a stop can be resumed."""
    signal.signal(signal.SIGINT, stop)
    try:
        app(standalone_mode=True)
    except AsgError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
