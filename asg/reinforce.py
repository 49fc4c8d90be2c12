"""Meta-training: the policy learns by REINFORCE from short trainings on the synthetic side alone."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor, nn
from tqdm import tqdm

from asg import AsgError
from asg.config import MetaConfig, RunConfig
from asg.controllers.base import Controller
from asg.controllers.chance import RATIOS, Fixed
from asg.controllers.learned import Learned, Policy, Spec
from asg.controllers.windows import Windowed, first_window
from asg.data import load_domains
from asg.data.images import ImageSet, make_folder, total_steps
from asg.data.looks import mixed_looks
from asg.losses import proxy_guidance, task_loss
from asg.metrics import forward_all
from asg.models import Student, build, layer_groups
from asg.trainers import frozen
from asg.trainers.checkpoints import load_checkpoint, save_checkpoint
from asg.trainers.classification import make_objective
from asg.trainers.conduct import cpu_threads
from asg.trainers.devices import make_accelerator
from asg.trainers.divergence import Diverged
from asg.trainers.loop import Training, fit
from asg.trainers.task import Task

MOVING = 0.1  # weight of the newest return in the moving averages of the baseline
DIVERGED = -10.0  # reward of the choice after which a run diverged; a blind guess of 12 classes loses 2.5 nats


@dataclass(frozen=True)
class Window:
    """What a reward is made of: mean losses of the window, and losses on held-out renders at its end (nats)."""

    task: float
    guidance: float
    held_task: float = math.nan
    held_guidance: float = math.nan

    def loss(self, weight: float) -> float:
        """Task loss + ``weight`` · divergence from the ImageNet network, in training."""
        return self.task + weight * self.guidance

    def held_out(self, weight: float) -> float:
        """The same on held-out renders."""
        return self.held_task + weight * self.held_guidance


# Name → reward of a window, given the one before and λ; the paper's is unknown (departure 13).
REWARDS: dict[str, Callable[[Window, Window, float], float]] = {
    "loss": lambda now, before, weight: -now.loss(weight),
    "improvement": lambda now, before, weight: before.loss(weight) - now.loss(weight),
    "held-out": lambda now, before, weight: before.held_out(weight) - now.held_out(weight),
    "retention": lambda now, before, weight: before.held_out(1.0) - now.held_out(1.0),
    "looks": lambda now, before, weight: before.held_out(weight) - now.held_out(weight),
}
# Rewards that look at held-out images where a window ends, and how these look then.
HELD_OUT: dict[str, Callable[[ImageSet], ImageSet]] = {
    "held-out": lambda held: held,
    "retention": lambda held: held,
    "looks": mixed_looks,
}


def returns(rewards: Tensor, gamma: float) -> Tensor:
    r"""Discounted returns :math:`R_t = \sum_{k \ge t} \gamma^{k-t} r_k` of rewards ``(T,)``."""
    discounted, after = [], torch.zeros(())
    for reward in rewards.flip(0):
        after = reward + gamma * after
        discounted.append(after)
    return torch.stack(discounted[::-1])


def reinforce_loss(log_probabilities: Tensor, advantages: Tensor, entropies: Tensor, bonus: float = 0.0) -> Tensor:
    r"""What a step of the policy descends.

    .. math:: -\frac1T \sum_t \Big( A_t \sum_g \log\pi_g(a_{tg}) + \beta \sum_g H_{tg} \Big)

    ``log_probabilities`` and ``entropies`` ``(T,)``, summed over the groups; ``advantages``
    ``(T,)``: returns, less a baseline if there is one. Its gradient is an unbiased estimate of
    that of minus the expected return. Source: what the reference's update intends; the bonus is an option.
    """
    return -(advantages.detach() * log_probabilities + bonus * entropies).mean()


def product_of_means(log_probabilities: Tensor, advantages: Tensor, entropies: Tensor, bonus: float = 0.0) -> Tensor:
    r"""The same as the reference's code has it, whose shapes ``(T, 1)`` and ``(T, 1, 1)`` are broadcast (departure 30).

    .. math:: -\bar A \cdot \frac1T \sum_t \sum_g \log\pi_g(a_{tg}) - \frac{\beta}{T} \sum_t \sum_g H_{tg}

    Every choice of an update is credited with the mean of all its returns. Shapes: :func:`reinforce_loss`.
    """
    return -(advantages.detach().mean() * log_probabilities + bonus * entropies).mean()


LOSSES = {"mean of products": reinforce_loss, "product of means": product_of_means}


@dataclass
class Progress:
    """What a checkpoint of the meta-training keeps besides policy and momentum."""

    episode: int = 0
    means: list[float] = field(default_factory=list)  # moving average of the return of each decision of an episode
    square: float = 0.0  # moving average of the squared distance from it
    updates: int = 0
    seconds: float = 0.0
    curve: list[dict] = field(default_factory=list)


class Learner:
    """A policy, how it learns, and what a checkpoint of the meta-training keeps.

    Episodes side by side have a copy each. At an update every one hands its own part to ``gather``, gets the parts of
    all in the order of the episodes, and changes its copy as the others do theirs: the update averages over them.
    """

    def __init__(self, meta: MetaConfig, gather: Callable[[object], list] = lambda part: [part]) -> None:
        spec = Spec(meta.groups, meta.actions, meta.statistics, meta.normalised)
        self.policy = Policy(spec, torch.Generator().manual_seed(meta.seed))
        trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimiser, self.progress = torch.optim.SGD(trained, meta.lr, meta.momentum), Progress()
        self.gather = gather

    def state(self) -> dict:
        """All of it, for another copy."""
        return {
            "policy": self.policy.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }

    def load(self, state: dict) -> None:
        """Go on from a :meth:`state`, or from a checkpoint."""
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])

    def compare(self, returned: Tensor, first: int) -> Tensor:
        """Returns ``(T,)`` against those that the same decisions of former episodes brought, in units of their spread.

        A decision's place in the episode matters: losses fall by themselves. The first return at a
        place has nothing to compare with and counts 0. ``first``: the place of the first of them.
        """
        parts = self.gather((first, returned))
        end = max(place + len(values) for place, values in parts)
        brought = torch.full((len(parts), end), math.nan)  # (episodes, places)
        for row, (place, values) in zip(brought, parts, strict=True):
            row[place : place + len(values)] = values
        self.progress.means += brought[:, len(self.progress.means) :].nanmean(0).tolist()
        usual = torch.tensor(self.progress.means[:end])
        distance = brought - usual
        share = max(MOVING, 1 / (self.progress.updates + 1))  # a plain mean at first
        self.progress.square += share * (float((distance[~distance.isnan()] ** 2).mean()) - self.progress.square)
        moved = usual + MOVING * distance.nanmean(0).nan_to_num()  # a place without any stays
        self.progress.means[:end] = moved.tolist()
        return (returned - usual[first : first + len(returned)]) / max(self.progress.square, 1e-8) ** 0.5

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser along the mean gradient of the episodes' losses."""
        self.optimiser.zero_grad()
        loss.backward()
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        for parameter, gradients in zip(
            trained, zip(*self.gather([p.grad for p in trained]), strict=True), strict=True
        ):
            parameter.grad = torch.stack(gradients).mean(0)
        self.optimiser.step()
        self.progress.updates += 1


class Learning(Learned):
    """A policy at work that is paid for every window and updated every few decisions; ``number``: the episode's."""

    def __init__(
        self,
        meta: MetaConfig,
        config: RunConfig,
        groups: dict[str, list[nn.Parameter]],
        images: int,
        learner: Learner,
        probe: Probe,
        number: int,
    ) -> None:
        super().__init__(config, groups, images, learner.policy)
        self.generator = torch.Generator().manual_seed(meta.seed * 1_000_003 + number)
        self.meta, self.learner, self.probe = meta, learner, probe
        self.before: Window | None = None
        self.pending: list[tuple[Tensor, Tensor]] = []  # log-probability and entropy of choices not yet learned from
        self.rewards: list[float] = []  # of all of them, or all but the last
        self.all_rewards: list[float] = []
        self.entropies: list[float] = []

    def decide(self, state: Tensor) -> list[float]:
        """Take the reward of the last choice, learn if it is time, choose again."""
        held = self.probe() if self.meta.reward in HELD_OUT else {}
        if self.before is None:  # the first window, which nobody chose, is what the first choice is measured from
            self.before = Window(float(state[0]), float(state[1]), **held)
        else:
            self.take(state, held)
        outputs = self.head_outputs(state)
        actions = self.policy.sample(outputs.detach(), self.generator)
        entropy = self.policy.entropy(outputs)
        self.pending.append((self.policy.log_probability(outputs, actions), entropy.sum()))
        self.entropies.append(float(entropy.detach().mean()))
        return self.policy.ratios(actions)

    def take(self, state: Tensor, held: dict[str, float]) -> None:
        """Reward the last choice with what the window brought, in training and on held-out renders."""
        now = Window(float(state[0]), float(state[1]), **held)
        reward = REWARDS[self.meta.reward](now, self.before, self.config.guidance)
        self.before = now
        self.pay(reward if math.isfinite(reward) else DIVERGED)

    def pay(self, reward: float) -> None:
        """Note a reward; after ``decisions`` of them update the policy."""
        self.rewards.append(reward)
        self.all_rewards.append(reward)
        if len(self.rewards) == self.meta.decisions:
            self.update()

    def update(self) -> None:
        """One step of REINFORCE on the choices that have their reward; the memory goes on without its graph."""
        advantages = returns(torch.tensor(self.rewards), self.meta.gamma)
        if self.meta.baseline:
            advantages = self.learner.compare(advantages, len(self.all_rewards) - len(advantages))
        log_probabilities, entropies = (torch.stack(column) for column in zip(*self.pending, strict=True))
        self.learner.descend(LOSSES[self.meta.loss](log_probabilities, advantages, entropies, self.meta.entropy))
        self.pending, self.rewards = [], []
        self.hidden = [(h.detach(), c.detach()) for h, c in self.hidden]

    def finish(self, diverged: bool) -> None:
        """The end of an episode: pay the last choice, learn from what is left."""
        if self.pending and diverged:
            self.pay(DIVERGED)
        elif self.pending and self.count:
            self.take(self.state(), self.probe.last)
        if self.rewards:
            self.update()


class Probe:
    """Losses of a network in training on held-out renders, in nats; the latest are kept in ``last``."""

    def __init__(self, student: Student, held: ImageSet, teacher: Tensor, device: torch.device) -> None:
        self.student, self.held, self.teacher, self.device = student, held, teacher, device
        self.last: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        """Task loss and divergence from the ImageNet network, now."""
        task, imagenet, _ = forward_all(self.student, self.held, frozen.evaluation_batch(self.device), self.device)
        guidance = proxy_guidance(imagenet, self.teacher)
        self.last = {"held_task": float(task_loss(task, self.held.labels)), "held_guidance": float(guidance)}
        return self.last


class Episodes:
    """Short student trainings on the synthetic side; data, teacher's outputs and weights are prepared once.

    Every episode starts at the ImageNet weights with another head and another order of the images. ``looked_at`` makes
    of the held-out images what the probe sees of them (HELD_OUT).
    """

    def __init__(
        self,
        student: RunConfig,
        folder: Path,
        device: str | None,
        looked_at: Callable[[ImageSet], ImageSet] = HELD_OUT["held-out"],
    ) -> None:
        self.student, self.folder = student, make_folder(folder) / "episode"
        self.accelerator = make_accelerator(student, device)
        self.device, self.domains = self.accelerator.device, load_domains(student)
        self.held = looked_at(self.domains.validation)
        first = build(student, len(self.domains.source.classes)).to(self.device)
        self.held_teacher = frozen.log_probabilities(first, self.held, self.device)
        self.teacher = None
        for name in ("augment", "regulariser", "head_first", "project", "average", "interpolate"):
            if getattr(student, name) is not None:
                raise AsgError(f"Episodes know neither {name} nor its like: leave it out of the student's settings.")
        steps = total_steps(student, images := len(self.domains.source))
        if student.control and steps <= (window := first_window(student, images)):
            raise AsgError(
                f"An episode of {steps} steps is over before its first decision, after {window}: give the student more "
                "steps, or its control a lower shortest."
            )
        if student.guidance:
            self.teacher = frozen.batch_answers(first, self.domains.source, self.device, student.teacher)

    def run(self, seed: int, make: Callable[[RunConfig, dict, Probe], Controller]) -> tuple[Controller, dict]:
        """One episode: its controller, made by ``make(config, groups, probe)``, and how it ended.

        The end: what the probe found after the last step (None when the episode diverged).
        """
        config = self.student.model_copy(update={"seed": seed})
        student = build(config, len(self.domains.source.classes)).to(self.device)
        groups, probe = layer_groups(student), Probe(student, self.held, self.held_teacher, self.device)
        controller = make(config, groups, probe)
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            objective = make_objective(config, self.teacher)
            task = Task(student, groups, self.domains.source, objective, lambda now: probe())
            fit(Training(config, task, controller, make_folder(self.folder), self.accelerator))
            end = probe.last
        except Diverged:
            end = {"held_task": None, "held_guidance": None}
        self.accelerator.free_memory()  # else it holds on to the network of every episode
        shutil.rmtree(self.folder, ignore_errors=True)
        return controller, end


def mean(values: list[float]) -> float | None:
    """None of no values: an episode that diverged in its first window, which nobody chose, had no choice to pay."""
    return fmean(values) if values else None


def mean_ratios(controller: Windowed) -> dict[str, float]:
    """Part of the network → mean ratio over the decisions of an episode; nothing where it diverged before the first."""
    report = controller.report()
    if not report["decisions"]:
        return {}
    columns = zip(*(decision["ratios"] for decision in report["decisions"]), strict=True)
    return {part: round(fmean(column), 4) for part, column in zip(report["parts"], columns, strict=True)}


def play(meta: MetaConfig, episodes: Episodes, learner: Learner, number: int) -> dict:
    """One episode, from which ``learner`` learns; its point of the curve."""
    images = len(episodes.domains.source)
    controller, end = episodes.run(
        meta.seed * 1_000_003 + number,
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
        generator = torch.Generator().manual_seed(meta.seed * 1_000_003 + number)
        drawn = torch.randint(len(RATIOS), (meta.groups,), generator=generator).tolist()
        fixed_ratios = {"kind": "fixed", "ratios": tuple(RATIOS[k] for k in drawn)}
        control = meta.student.control.model_copy(update=fixed_ratios)
        controller, end = episodes.run(
            meta.seed * 1_000_003 + number,
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
