"""The policy's rival of equal cost: ratios drawn once an episode, the best of them kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tqdm import tqdm

from asg import AsgError
from asg.config import MetaConfig, RunConfig
from asg.controllers.chance import RATIOS, Fixed
from asg.data.images import make_folder
from asg.episodes import Episodes, episode_seed, mean_ratios
from asg.reinforce import Progress
from asg.trainers.checkpoints import load_checkpoint, save_checkpoint
from asg.trainers.conduct import cpu_threads

Trials = Callable[[Callable, list[tuple]], Iterable[tuple[tuple, dict]]]  # calls and their arguments → each result


def search_ratios(
    meta: MetaConfig,
    folder: Path,
    device: str | None = None,
    on_episode: Callable[[dict], None] = lambda point: None,
    share_out: Trials | None = None,
) -> list[dict]:
    """The honest rival: as many episodes as the policy has, each with ratios drawn once and kept.

    The trials, best first: those with the lowest task loss + λ · divergence from the ImageNet network
    on held-out renders at the end of the episode. Resumed after the last finished trial. ``share_out`` has
    :func:`trial` called for each of them elsewhere; if it is not given, one follows another here.
    """
    progress, path = Progress(), make_folder(folder) / "search.pt"
    if path.exists():
        progress = Progress(**load_checkpoint(path, torch.device("cpu"))["progress"])
    done = {point["episode"] for point in progress.curve}
    missing = [(meta, folder, device, number) for number in range(meta.episodes) if number not in done]
    share_out = share_out or (lambda call, given: ((one, call(*one)) for one in given))
    for _, point in tqdm(share_out(trial, missing), initial=len(done), total=meta.episodes, unit="episode"):
        if isinstance(point, AsgError):
            raise point
        progress.curve.append(point)
        progress.episode += 1
        save_checkpoint(path, progress, {})
        on_episode(point)
    weight = meta.student.guidance
    finished = sorted((t for t in progress.curve if t["held_task"] is not None), key=lambda trial: trial["episode"])
    return sorted(finished, key=lambda trial: trial["held_task"] + weight * trial["held_guidance"])


def trial(meta: MetaConfig, folder: Path, device: str | None, number: int) -> dict:
    """One episode of a search, with ratios of its own."""
    with cpu_threads(meta.student.threads):
        episodes = episodes_of_search(meta.student, folder, device)
        seed = episode_seed(meta, number)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(RATIOS), (meta.groups,), generator=generator).tolist()
        fixed_ratios = {"kind": "fixed", "ratios": tuple(RATIOS[k] for k in drawn)}
        control = meta.student.control.model_copy(update=fixed_ratios)
        controller, end = episodes.run(
            seed,
            lambda config, groups, probe: Fixed(
                config.model_copy(update={"control": control}), groups, len(episodes.domains.source)
            ),
        )
    return {"episode": number, "ratios": mean_ratios(controller), **end}


_prepared: dict[tuple[str, Path], Episodes] = {}  # of the search that this process works for, and no other


def episodes_of_search(student: RunConfig, folder: Path, device: str | None) -> Episodes:
    """The episodes that this process plays, prepared once, in a folder of its own."""
    key = student.to_json(), folder / f"process-{os.getpid()}"
    if key not in _prepared:
        _prepared.clear()
        _prepared[key] = Episodes(student, key[1], device)
    return _prepared[key]
