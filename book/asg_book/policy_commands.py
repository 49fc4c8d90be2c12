"""The command asg policy: policies that set the rates are trained, or rates searched with the same compute."""

import json
from pathlib import Path
from typing import Annotated

import typer

from asg import AsgError, places
from asg.cli import Device, parse_settings
from asg.config import MetaConfig
from asg_book.engines import Cpus, Gpus, Jobs, On, engine_of, players_of
from asg_book.policies import EPISODES, POLICIES, policy_config

Benchmark = Annotated[str, typer.Option(help=f"One of {', '.join(EPISODES)}.")]

policy = typer.Typer(help="Policies that set the rates: train one, or search rates with the same compute.")
Declared = Annotated[str, typer.Argument(help=f"One of {', '.join(POLICIES)}.")]
Meta = Annotated[list[str], typer.Option("--set", help="FIELD=VALUE, a MetaConfig field; the value is JSON.")]
Out = Annotated[Path | None, typer.Option(help="File to write; policies/PROFILE-NAME if not given.")]
Own = Annotated[Path | None, typer.Option(help="Your own renders, a sub-folder a class, in place of a benchmark's.")]


def meta_of(name: str, profile: str, settings: list[str], source: Path | None, out: Path | None) -> MetaConfig:
    """The meta-training that a command asks for; policies/ is no place for own renders, nor in an installed package."""
    if out is None and (source is not None or not places.is_checkout()):
        raise AsgError("The policy needs a place: give --out FILE.")
    return policy_config(name, profile, parse_settings(settings), source)


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
    profile: Benchmark = "cartoon",
    settings: Meta = [],  # noqa: B006
    source: Own = None,
    out: Out = None,
    device: Device = None,
    on: On = "local",
    cpus_per_run: Cpus = 1.0,
    gpus_per_run: Gpus = 0.0,
) -> None:
    """Train a policy by REINFORCE on synthetic images. Stop it at any time; it goes on after the last episode.

    With --set parallel=N on Ray an update averages over N episodes, each in a worker of its own.
    """
    from tqdm import tqdm

    from asg import meta_training, records
    from asg.controllers.learned import save_policy
    from asg.controllers.windows import policy_path
    from asg.data.images import make_folder

    meta = meta_of(name, profile, settings, source, out)
    with records.meta_folder("policy", meta) as folder:
        with players_of(on, meta, folder, device, cpus_per_run, gpus_per_run) as play_round:
            trained, progress = meta_training.train_policy(
                meta, folder, device, lambda point: tqdm.write(describe_episode(point)), play_round
            )
        to = out or policy_path(f"{profile}-{name}")
        make_folder(to.parent)
        save_policy(trained, records.card(meta, curve=progress.curve, seconds=round(progress.seconds)), to)
        (folder / "policy.pt").unlink()
    print(f"The policy is in {to}; {meta.episodes} episodes took {progress.seconds / 60:.1f} min.")


@policy.command(name="search")
def search(
    name: Declared = "asg",
    profile: Benchmark = "cartoon",
    settings: Meta = [],  # noqa: B006
    source: Own = None,
    out: Out = None,
    device: Device = None,
    jobs: Jobs = 1,
    on: On = "local",
    cpus_per_run: Cpus = 1.0,
    gpus_per_run: Gpus = 0.0,
) -> None:
    """Try random layer-wise rates, as many as the policy has episodes; the best on held-out renders is first."""
    from tqdm import tqdm

    from asg import policy_search, records
    from asg.controllers.windows import policy_path
    from asg.data.images import make_folder

    meta = meta_of(name, profile, settings, source, out)
    with records.meta_folder("search", meta) as folder:
        engine = engine_of(on, jobs, cpus_per_run, gpus_per_run)
        trials = policy_search.search_ratios(
            meta, folder, device, lambda point: tqdm.write(describe_episode(point)), engine
        )
        to = out or policy_path(f"{profile}-{name}-search", ".json")
        make_folder(to.parent)
        records.write_text(to, json.dumps(records.card(meta, trials=trials), indent=1) + "\n")
        (folder / "search.pt").unlink()
    print(f"The {len(trials)} trials are in {to}; the best: {describe_episode(trials[0])}.")
