"""Meta-training: the policy learns by REINFORCE from short trainings on the synthetic side alone."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from asg.trainers.classification import make_objective
from asg.trainers.loop import Diverged, fit, load_checkpoint, make_accelerator, save_checkpoint
from asg.trainers.task import cpu_threads

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
    found, after = [], torch.zeros(())
    for reward in rewards.flip(0):
        after = reward + gamma * after
        found.append(after)
    return torch.stack(found[::-1])


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


class Learning(Learned):
    """A policy at work that is paid for every window and updated every few decisions."""

    def __init__(
        self,
        meta: MetaConfig,
        config: RunConfig,
        groups: dict[str, list[nn.Parameter]],
        images: int,
        policy: Policy,
        optimiser: torch.optim.Optimizer,
        at: Progress,
        probe: Probe,
    ) -> None:
        super().__init__(config, groups, images, policy)
        self.generator = torch.Generator().manual_seed(meta.seed * 1_000_003 + at.episode)
        self.meta, self.optimiser, self.at, self.probe = meta, optimiser, at, probe
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
        outputs = self.look(state)
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
            advantages = self.compare(advantages)
        log_probabilities, entropies = (torch.stack(column) for column in zip(*self.pending, strict=True))
        loss = LOSSES[self.meta.loss](log_probabilities, advantages, entropies, self.meta.entropy)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.at.updates += 1
        self.pending, self.rewards = [], []
        self.hidden = [(h.detach(), c.detach()) for h, c in self.hidden]

    def compare(self, found: Tensor) -> Tensor:
        """Returns ``(T,)`` against those that the same decisions of former episodes brought, in units of their spread.

        A decision's place in the episode matters: losses fall by themselves. The first return at a
        place has nothing to compare with and counts 0.
        """
        first = len(self.all_rewards) - len(found)
        self.at.means += found[len(self.at.means) - first :].tolist()
        usual = torch.tensor(self.at.means[first : first + len(found)])
        distance = found - usual
        share = max(MOVING, 1 / (self.at.updates + 1))  # a plain mean at first
        self.at.square += share * (float((distance**2).mean()) - self.at.square)
        self.at.means[first : first + len(found)] = (usual + MOVING * distance).tolist()
        return distance / max(self.at.square, 1e-8) ** 0.5

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
            self.teacher = frozen.batch_answers(first, self.domains.source, self.device)

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
            fit(
                config, student, groups, self.domains.source, make_objective(config, self.teacher),
                lambda now: probe(), controller, make_folder(self.folder), self.accelerator,
            )  # fmt: skip
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
    found = controller.report()
    if not found["decisions"]:
        return {}
    columns = zip(*(decision["ratios"] for decision in found["decisions"]), strict=True)
    return {part: round(fmean(column), 4) for part, column in zip(found["parts"], columns, strict=True)}


def train_policy(
    meta: MetaConfig, folder: Path, device: str | None = None, on_episode: Callable[[dict], None] = lambda point: None
) -> tuple[Policy, Progress]:
    """Train a policy in ``folder``, going on after the last finished episode if it holds a checkpoint.

    Only synthetic images are seen: training renders by the student, held-out renders by the
    rewards that ask for them. A point of the curve: mean reward, entropy and ratios of an episode,
    and how it ended. Raises :class:`AsgError` when the policy's weights are no longer finite.
    """
    spec = Spec(meta.groups, meta.actions, meta.statistics, meta.normalised)
    policy = Policy(spec, torch.Generator().manual_seed(meta.seed))
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimiser, at = torch.optim.SGD(trained, meta.lr, meta.momentum), Progress()
    path = make_folder(folder) / "policy.pt"
    if path.exists():
        saved = load_checkpoint(path, torch.device("cpu"))
        policy.load_state_dict(saved["policy"])
        optimiser.load_state_dict(saved["optimiser"])
        at = Progress(**saved["progress"])
    began = time.monotonic() - at.seconds
    with cpu_threads(meta.student.threads):
        episodes = Episodes(meta.student, folder, device, HELD_OUT.get(meta.reward, HELD_OUT["held-out"]))
        images = len(episodes.domains.source)
        for episode in tqdm(range(at.episode, meta.episodes), initial=at.episode, total=meta.episodes, unit="episode"):
            at.episode = episode
            controller, end = episodes.run(
                meta.seed * 1_000_003 + episode,
                lambda config, groups, probe: Learning(meta, config, groups, images, policy, optimiser, at, probe),
            )
            controller.finish(diverged=end["held_task"] is None)
            if not all(bool(p.isfinite().all()) for p in policy.parameters()):
                raise AsgError(f"The policy diverged in episode {episode}: lower the meta rate ({meta.lr:g}).")
            at.curve.append({
                "episode": episode, "reward": mean(controller.all_rewards), "entropy": mean(controller.entropies),
                "ratios": mean_ratios(controller), **end,
            })  # fmt: skip
            at.episode, at.seconds = episode + 1, time.monotonic() - began
            save_checkpoint(path, at, {"policy": policy, "optimiser": optimiser})
            on_episode(at.curve[-1])
    return policy, at


def search_ratios(
    meta: MetaConfig, folder: Path, device: str | None = None, on_episode: Callable[[dict], None] = lambda point: None
) -> list[dict]:
    """The honest rival: as many episodes as the policy has, each with ratios drawn once and kept.

    The trials, best first: those with the lowest task loss + λ · divergence from the ImageNet network
    on held-out renders at the end of the episode. Resumed like :func:`train_policy`.
    """
    at, path = Progress(), make_folder(folder) / "search.pt"
    if path.exists():
        at = Progress(**load_checkpoint(path, torch.device("cpu"))["progress"])
    with cpu_threads(meta.student.threads):
        episodes = Episodes(meta.student, folder, device)
        for episode in tqdm(range(at.episode, meta.episodes), initial=at.episode, total=meta.episodes, unit="episode"):
            generator = torch.Generator().manual_seed(meta.seed * 1_000_003 + episode)
            drawn = torch.randint(len(RATIOS), (meta.groups,), generator=generator).tolist()
            kept = {"kind": "fixed", "ratios": tuple(RATIOS[k] for k in drawn)}
            control = meta.student.control.model_copy(update=kept)
            controller, end = episodes.run(
                meta.seed * 1_000_003 + episode,
                lambda config, groups, probe, control=control: Fixed(
                    config.model_copy(update={"control": control}), groups, len(episodes.domains.source)
                ),
            )
            at.curve.append({"episode": episode, "ratios": mean_ratios(controller), **end})
            at.episode = episode + 1
            save_checkpoint(path, at, {})
            on_episode(at.curve[-1])
    weight = meta.student.guidance
    finished = [trial for trial in at.curve if trial["held_task"] is not None]
    return sorted(finished, key=lambda trial: trial["held_task"] + weight * trial["held_guidance"])
