"""The policy and its training: sizes, distributions, returns, exact gradients, and that it learns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from asg.config import MetaConfig, make_config
from asg.controllers.learned import Policy, Spec
from asg.episodes import mean_ratios
from asg.reinforce import Learner, Learning, product_of_means, reinforce_loss, returns
from asg.rewards import REWARDS, Window
from asg_book.policies import policy_config
from asg_book.profiles import PROFILES


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the network --------------------------------------------------------------------------------------------------


def test_the_papers_policy_has_17762_parameters():
    """5 LSTMs of 1 → 20, 7 heads of 101 → 11, and the unused critic of 707 → 1."""
    lstm, head, critic = 4 * 20 * (1 + 20 + 2), 101 * 11 + 11, 707 + 1
    policy = Policy(Spec(), generator())
    assert sum(p.numel() for p in policy.parameters()) == 5 * lstm + 7 * head + critic == 17_762


def test_the_policys_lstms_are_torchs():
    """Each statistic goes through its own cell; several steps of it are torch's LSTM with the same weights."""
    policy = Policy(Spec(statistics=("task", "std"), groups=2), generator(1))
    states, hidden = torch.randn(6, 5, generator=generator(2)), policy.start()
    for state in states:
        outputs, hidden = policy(state, torch.tensor([0.3, 0.8]), hidden)
    memory = []
    for name, column in (("task", 0), ("std", 4)):
        lstm, cell = nn.LSTM(1, 20), policy.cells[f"lstm_{name}"]
        lstm.load_state_dict({f"{key}_l0": value for key, value in cell.state_dict().items()})
        memory.append(lstm(states[:, column].view(6, 1, 1))[0][-1, 0])
    for k, ratio in enumerate((0.3, 0.8)):
        seen = torch.cat([*memory, torch.tensor([ratio])])
        torch.testing.assert_close(outputs[k], policy.heads[k].weight @ seen + policy.heads[k].bias)


def test_the_recurrent_weights_start_orthogonal_and_the_heads_nearly_even():
    policy = Policy(Spec(), generator())
    for cell in policy.cells.values():
        torch.testing.assert_close(cell.weight_hh.T @ cell.weight_hh, torch.eye(20), atol=1e-5, rtol=0)
    outputs, _ = policy(torch.ones(5), torch.ones(7), policy.start())
    torch.testing.assert_close(outputs.softmax(1), torch.full((7, 11), 1 / 11), atol=2e-3, rtol=0)


@pytest.mark.parametrize("actions", [11, 3, 0])
def test_log_probability_and_entropy_are_scipys(actions: int):
    policy = Policy(Spec(actions=actions), generator())
    outputs = torch.randn(7, actions or 2, generator=generator(3))
    chosen = policy.sample(outputs, generator(4))
    if actions:
        shares = np.exp(outputs.numpy()) / np.exp(outputs.numpy()).sum(1, keepdims=True)
        expected = sum(math.log(shares[g, int(a)]) for g, a in enumerate(chosen))
        entropies = [stats.entropy(row) for row in shares]
    else:
        normals = [stats.norm(float(m), math.exp(float(s))) for m, s in outputs]
        expected = sum(n.logpdf(float(a)) for n, a in zip(normals, chosen, strict=True))
        entropies = [float(n.entropy()) for n in normals]
    assert float(policy.log_probability(outputs, chosen)) == pytest.approx(expected, rel=1e-5)
    assert policy.entropy(outputs).tolist() == pytest.approx(entropies, rel=1e-5)


def test_actions_are_drawn_with_the_policys_probabilities():
    """A chi-squared test of 20,000 draws for each group; at this seed it must not reject at 0.1 %."""
    policy = Policy(Spec(groups=3, actions=4), generator())
    outputs = torch.tensor([[0.0, 1.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    draw = generator(5)
    counts = torch.stack([policy.sample(outputs, draw) for _ in range(20_000)])  # (N, 3)
    for group, shares in enumerate(outputs.double().softmax(1).numpy()):
        seen = torch.bincount(counts[:, group], minlength=4).numpy()
        assert stats.chisquare(seen, 20_000 * shares).pvalue > 1e-3


def test_without_a_generator_the_likeliest_is_chosen():
    policy = Policy(Spec(groups=2, actions=3), generator())
    assert policy.sample(torch.tensor([[0.0, 2.0, 1.0], [5.0, 0.0, 0.0]]), None).tolist() == [1, 0]
    assert policy.ratios(torch.tensor([1, 0])) == [0.5, 0.0]
    continuous = Policy(Spec(groups=2, actions=0), generator())
    outputs = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    assert continuous.ratios(continuous.sample(outputs, None)) == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


def test_the_normalised_state_is_free_of_sizes():
    policy = Policy(Spec(normalised=True), generator())
    blind = torch.tensor([math.log(12), 0.7, 0.5, 0.0, 1 / math.sqrt(512)])
    torch.testing.assert_close(policy.scale(blind, (12, 512)), torch.tensor([1.0, 0.7, 0.5, 0.0, 1.0]))


# --- returns and gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_returns_are_the_discounted_sums(gamma: float):
    rewards = [1.0, -2.0, 0.5, 3.0]
    expected = [sum(gamma ** (k - t) * rewards[k] for k in range(t, 4)) for t in range(4)]
    assert returns(torch.tensor(rewards), gamma).tolist() == pytest.approx(expected)


def two_steps(parameters: Tensor) -> tuple[Callable[[tuple[int, int]], Tensor], Callable]:
    """A problem of two choices among three, the second one's probabilities depending on the first.

    Gives log-probabilities ``(2,)`` and rewards ``(2,)`` of a pair of choices.
    """
    first, second = parameters[:3], parameters[3:].view(3, 3)
    reward = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, -1.0], [0.5, 0.5, 4.0]])

    def log_probabilities(pair: tuple[int, int]) -> Tensor:
        return torch.stack([first.log_softmax(0)[pair[0]], second[pair[0]].log_softmax(0)[pair[1]]])

    return log_probabilities, lambda pair: torch.tensor([float(pair[0]), float(reward[pair])])


@pytest.mark.parametrize("baseline", [0.0, 1.3])
def test_the_gradient_is_that_of_the_expected_return(baseline: float):
    """Enumerated over all nine outcomes, not sampled: equal up to rounding, with or without a baseline."""
    parameters = torch.randn(12, generator=generator(7), dtype=torch.float64).requires_grad_()
    log_probabilities, rewards = two_steps(parameters)
    pairs = [(a, b) for a in range(3) for b in range(3)]
    shares = [log_probabilities(p).sum().exp() for p in pairs]
    exact = torch.autograd.grad(sum(s * rewards(p).sum() for s, p in zip(shares, pairs, strict=True)), parameters)[0]
    estimate = torch.zeros_like(exact)
    for pair, share in zip(pairs, shares, strict=True):
        advantages = returns(rewards(pair), 1.0).double() - baseline
        loss = reinforce_loss(log_probabilities(pair), advantages, torch.zeros(2))
        # the loss is a mean over two choices, the return a sum: hence the 2
        estimate -= 2 * share.detach() * torch.autograd.grad(loss, parameters, retain_graph=True)[0]
    torch.testing.assert_close(estimate, exact, rtol=1e-6, atol=1e-8)


def test_the_sampled_gradient_approaches_the_exact_one():
    """N samples leave an error of sd/√N a component; with N = 4,000, five such errors are allowed."""
    parameters = torch.randn(12, generator=generator(8)).requires_grad_()
    log_probabilities, rewards = two_steps(parameters)
    pairs = [(a, b) for a in range(3) for b in range(3)]
    shares = torch.stack([log_probabilities(p).sum().exp() for p in pairs])
    value = sum(s * rewards(p).sum() for s, p in zip(shares, pairs, strict=True))
    exact = torch.autograd.grad(value, parameters, retain_graph=True)[0]
    each = torch.stack([
        -2 * torch.autograd.grad(
            reinforce_loss(log_probabilities(p), returns(rewards(p), 1.0), torch.zeros(2)), parameters, retain_graph=True
        )[0]
        for p in pairs
    ])  # (9, 12)  # fmt: skip
    drawn = torch.multinomial(shares.detach(), 4_000, replacement=True, generator=generator(9))
    samples = each[drawn]  # (N, 12)
    error = samples.std(0) / math.sqrt(4_000)
    assert ((samples.mean(0) - exact).abs() <= 5 * error + 1e-6).all()


def test_the_entropy_bonus_pushes_towards_even_choices():
    outputs = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
    policy = Policy(Spec(groups=1, actions=3), generator())
    loss = reinforce_loss(torch.zeros(1), torch.zeros(1), policy.entropy(outputs).sum().view(1), bonus=0.5)
    (gradient,) = torch.autograd.grad(loss, outputs)
    assert gradient[0, 0] > 0 > gradient[0, 1]
    assert loss.item() == pytest.approx(-0.5 * stats.entropy(outputs.softmax(1)[0].detach().numpy()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"), [("loss", -1.05), ("improvement", 1.05), ("held-out", 2.46), ("retention", 4.8)]
)
def test_rewards(name: str, expected: float):
    before, now = Window(2.0, 1.0, 3.0, 3.0), Window(1.0, 0.5, 0.8, 0.4)
    assert REWARDS[name](now, before, 0.1) == pytest.approx(expected)


def test_the_product_of_means_is_what_the_reference_broadcasts():
    """Shapes (T, 1) and (T, 1, 1): every return meets every log-probability, and the mean is over all pairs."""
    log_probabilities, advantages = torch.randn(5, generator=generator(1)), torch.randn(5, generator=generator(2))
    broadcast = -(advantages[:, None] * log_probabilities[:, None, None]).mean()
    torch.testing.assert_close(product_of_means(log_probabilities, advantages, torch.zeros(5)), broadcast)
    assert not torch.allclose(reinforce_loss(log_probabilities, advantages, torch.zeros(5)), broadcast)
    one = log_probabilities[:1], advantages[:1], torch.ones(1)
    torch.testing.assert_close(product_of_means(*one, 0.3), reinforce_loss(*one, 0.3))


# --- it learns ----------------------------------------------------------------------------------------------------

TOY = make_config(
    PROFILES["toy"], {"steps": 30, "guidance": 0.1, "lr": 1.0, "control": {"kind": "learned", "shortest": 3}}
)
GROUPS = ("one", "two", "head")


def episode(meta: MetaConfig, learner: Learner, cost: Callable, sampled: int | None) -> float:
    """Drive :class:`Learning` as the training loop does; the mean of ``cost(rates)`` over the steps.

    With ``sampled`` the policy only acts, on that seed.
    """
    groups = {name: [nn.Parameter(torch.zeros(2, 4)), nn.Parameter(torch.zeros(2))] for name in GROUPS}
    controller = Learning(meta, TOY, groups, 48, learner, SimpleNamespace(last={}), learner.progress.episode)
    if sampled is not None:
        controller.generator = generator(sampled)
        controller.update = lambda: controller.rewards.clear() or controller.pending.clear()
    costs, task = [], cost()
    for step in range(30):
        costs.append(task(controller.rates(step)))
        controller.observe(step, {"task": torch.tensor(costs[-1])})
    controller.finish(diverged=False)
    learner.progress.episode += 1
    return statistics.fmean(costs)


def gain(meta: MetaConfig, cost: Callable, repetitions: int = 40) -> tuple[float, float]:
    """95 % interval of what the trained policy saves against the untrained, which is the random one."""
    learner, untrained = Learner(meta), Learner(meta)
    for _ in range(meta.episodes):
        episode(meta, learner, cost, None)
    saved = [episode(meta, untrained, cost, seed) - episode(meta, learner, cost, seed) for seed in range(repetitions)]
    return stats.t.interval(0.95, repetitions - 1, statistics.fmean(saved), stats.sem(saved))


META = policy_config("asg", "toy", {"episodes": 150, "lr": 0.02, "reward": "loss"})


@pytest.mark.slow
def test_on_a_bandit_the_trained_policy_beats_the_random_one():
    """Each window costs the distance of the three ratios from 0, .5 and 1."""

    def cost() -> Callable[[dict], float]:
        return lambda rates: abs(rates["one"]) + abs(rates["two"] - 0.5) + abs(rates["head"] - 1.0)

    low, _ = gain(META, cost)
    assert low > 0.2  # a random policy costs 1.27 on average


@pytest.mark.slow
def test_on_a_quadratic_the_trained_policy_beats_the_random_one():
    r"""Gradient descent on :math:`\frac12\sum_g h_g x_g^2`: h = 1.9 diverges above a ratio of about 1, h = .05 crawls."""
    curvature = {"one": 1.9, "two": 0.5, "head": 0.05}

    def cost() -> Callable[[dict], float]:
        x = dict.fromkeys(GROUPS, 1.0)

        def step(rates: dict[str, float]) -> float:
            for name in GROUPS:
                x[name] -= rates[name] * curvature[name] * x[name]
            return sum(0.5 * curvature[name] * x[name] ** 2 for name in GROUPS)

        return step

    low, _ = gain(META, cost)
    assert low > 0


def test_an_episode_that_diverged_before_its_first_decision_has_no_ratios():
    decisions = [{"step": 2, "ratios": [0.5, 1.0]}, {"step": 4, "ratios": [0.0, 0.5]}]
    for made, expected in (([], {}), (decisions, {"stem": 0.25, "head": 0.75})):
        controller = SimpleNamespace(report=lambda made=made: {"parts": ["stem", "head"], "decisions": made})
        assert mean_ratios(controller) == expected
