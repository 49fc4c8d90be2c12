"""Meta-training: the policy learns by REINFORCE from short trainings on the synthetic side alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch
from tqdm import tqdm

from asg import AsgError
from asg.config import MetaConfig
from asg.controllers.learned import Policy
from asg.data.images import make_folder
from asg.episodes import Episodes, episode_seed, mean_ratios
from asg.reinforce import Learner, Learning, Progress
from asg.rewards import HELD_OUT
from asg.trainers.checkpoints import load_checkpoint, save_checkpoint
from asg.trainers.conduct import cpu_threads


def mean(values: list[float]) -> float | None:
    """None of no values: an episode that diverged in its first window, which nobody chose, had no choice to pay."""
    return fmean(values) if values else None


def play(meta: MetaConfig, episodes: Episodes, learner: Learner, number: int) -> dict:
    """One episode, from which ``learner`` learns; its point of the curve."""
    images = len(episodes.domains.source)
    controller, end = episodes.run(
        episode_seed(meta, number),
        lambda config, groups, probe: Learning(meta, config, groups, images, learner, probe, number),
    )
    controller.finish(diverged=end["held_task"] is None)
    return {
        "episode": number, "reward": mean(controller.all_rewards), "entropy": mean(controller.entropies),
        "ratios": mean_ratios(controller), **end,
    }  # fmt: skip


def prepared_episodes(meta: MetaConfig, folder: Path, device: str | None) -> Episodes:
    """The episodes of a meta-training, whose probe sees what its reward asks for."""
    return Episodes(meta.student, folder, device, HELD_OUT.get(meta.reward, HELD_OUT["held-out"]))


Round = Callable[[Learner, range], list[dict]]  # episodes by their numbers, which change the learner → their points


def train_policy(
    meta: MetaConfig,
    folder: Path,
    device: str | None = None,
    on_episode: Callable[[dict], None] = lambda point: None,
    play_round: Round | None = None,
) -> tuple[Policy, Progress]:
    """Train a policy in ``folder``, going on after the last finished round if it holds a checkpoint.

    Only synthetic images are seen: training renders by the student, held-out renders by the
    rewards that ask for them. A point of the curve: mean reward, entropy and ratios of an episode,
    and how it ended. A round has ``meta.parallel`` episodes, which ``play_round`` plays; one episode is played
    here if it is not given. Raises :class:`AsgError` when the policy's weights are no longer finite.
    """
    learner, path = Learner(meta), make_folder(folder) / "policy.pt"
    if path.exists():
        learner.load(load_checkpoint(path, torch.device("cpu")))
    began = time.monotonic() - learner.progress.seconds
    with cpu_threads(meta.student.threads):
        if play_round is None:
            if meta.parallel > 1:
                raise AsgError(f"{meta.parallel} episodes side by side are played on Ray: give --on ray.")
            episodes = prepared_episodes(meta, folder, device)

            def play_round(learner: Learner, numbers: range) -> list[dict]:
                return [play(meta, episodes, learner, number) for number in numbers]

        bar = tqdm(initial=learner.progress.episode, total=meta.episodes, unit="episode")
        while (first := learner.progress.episode) < meta.episodes:
            points = play_round(learner, range(first, min(first + meta.parallel, meta.episodes)))
            if not all(bool(p.isfinite().all()) for p in learner.policy.parameters()):
                raise AsgError(f"The policy diverged in episode {first}: lower the meta rate ({meta.lr:g}).")
            learner.progress.curve += points
            learner.progress.episode, learner.progress.seconds = first + len(points), time.monotonic() - began
            save_checkpoint(path, learner.progress, {"policy": learner.policy, "optimiser": learner.optimiser})
            bar.update(len(points))
            for point in points:
                on_episode(point)
        bar.close()
    return learner.policy, learner.progress
