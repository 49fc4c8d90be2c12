"""REINFORCE: what a policy descends, and the policy at work that is paid and learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from asg.config import MetaConfig, RunConfig
from asg.controllers.learned import Learned, Policy, Spec
from asg.episodes import Probe, episode_seed
from asg.rewards import HELD_OUT, REWARDS, Window

MOVING = 0.1  # weight of the newest return in the moving averages of the baseline
DIVERGED = -10.0  # reward of the choice after which a run diverged; a blind guess of 12 classes loses 2.5 nats


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
        self.generator = torch.Generator().manual_seed(episode_seed(meta, number))
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
