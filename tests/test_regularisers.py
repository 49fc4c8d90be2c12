"""Penalties against closed forms: distances, Fisher information, path integrals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asg.config import make_config
from asg.data import load_domains
from asg.models import build
from asg.trainers import frozen, regularisers
from asg.trainers.regularisers import backbone, fisher, make_penalty, of_mean_one, path_importance, path_integral
from asg_book.profiles import PROFILES

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def softmax_regression(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4, generator=generator(seed), requires_grad=True), torch.randn(
        5, 4, generator=generator(seed + 1)
    )


def test_the_fisher_of_one_draw_is_the_squared_gradient_of_its_logarithm():
    """Softmax regression: the gradient of log p(y) by the weights is (onehot(y) − p) ⊗ x."""
    weight, x = softmax_regression(0)
    (estimated,) = fisher([weight], [lambda i=i: weight @ x[i] for i in range(5)], generator(7))
    draws, expected = generator(7), torch.zeros(3, 4)
    for row in x:
        p = (weight @ row).softmax(0).detach()
        y = torch.multinomial(p, 1, generator=draws)
        expected += ((nn.functional.one_hot(y[0], 3) - p)[:, None] * row).square() / 5
    torch.testing.assert_close(estimated, expected)


def test_the_fisher_approaches_its_expectation():
    """E over the labels: p(1 − p) ⊗ x². With 20,000 draws of one image the standard error is under .01 of x²."""
    weight, x = softmax_regression(2)
    (estimated,) = fisher([weight], [lambda: weight @ x[0]] * 20_000, generator())
    p = (weight @ x[0]).softmax(0).detach()
    torch.testing.assert_close(
        estimated, (p * (1 - p))[:, None] * x[0].square(), atol=0.03 * float(x[0].square().max()), rtol=0
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_on_a_quadratic_the_path_integral_is_half_the_curvature_times_the_squared_displacement(seed: int):
    r"""½ Σ h θ² from its minimum: ω = ½ h Δ² and Ω = h / 2 whatever the path, though no gradient is seen at its start."""
    draws = generator(seed)
    h, theta = torch.rand(6, generator=draws) + 0.1, torch.zeros(6, requires_grad=True)

    def wander() -> None:
        with torch.no_grad():
            theta.add_(torch.randn(6, generator=draws))

    (omega,), (moved,) = path_integral([theta], lambda: (h * theta.square()).sum() / 2, wander, 9)
    torch.testing.assert_close(omega, h * moved.square() / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path_importance([omega], [moved], 0.0)[0], h / 2, rtol=1e-4, atol=1e-5)


def test_the_path_integral_adds_up_to_the_change_of_the_loss():
    """Of a loss that is not quadratic, in small steps."""
    theta = torch.tensor([0.3, -1.0], requires_grad=True)

    def loss() -> torch.Tensor:
        return theta.cos().sum() + theta.prod().exp()

    def move() -> None:
        with torch.no_grad():
            theta.add_(torch.tensor([0.01, 0.02]))

    before = loss().item()
    (omega,), _ = path_integral([theta], loss, move, 100)
    assert float(omega.sum()) == pytest.approx(loss().item() - before, rel=1e-3)


def test_a_weight_that_lowered_the_old_loss_has_no_importance_and_damping_bounds_it():
    omega, moved = torch.tensor([-1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 2.0])
    (importance,) = path_importance([omega], [moved], 0.3)  # ξ = .3 · mean of 1, 0, 4 = .5
    torch.testing.assert_close(importance, torch.tensor([0.0, 2.0, 1 / 4.5]))


def test_importances_of_mean_one_keep_their_ratios():
    a, b = of_mean_one([torch.tensor([1.0, 3.0]), torch.tensor([[8.0]])])
    torch.testing.assert_close(torch.cat([a, b.flatten()]), torch.tensor([0.25, 0.75, 2.0]))


def test_no_importance_is_above_the_cap():
    (importance,) = of_mean_one([torch.cat([torch.zeros(9999), torch.ones(1)])])
    assert float(importance.max()) == regularisers.CAP < 10_000


def toy(kind: str, strength: float = 0.5):
    return make_config(PROFILES["toy"], {"regulariser": {"kind": kind, "strength": strength}})


@pytest.mark.parametrize("kind", ["weights", "features", "ewc", "si"])
def test_a_penalty_is_zero_at_the_start_and_its_strength_multiplies_it(workplace, kind: str):
    config = toy(kind)
    images = load_domains(config).source
    student = build(config, 3)
    penalties = [make_penalty(c, student, images, CPU) for c in (config, toy(kind, 1.5))]
    indices = torch.arange(8)
    x = images.batch(indices)
    before = penalties[0](indices, x, student(x)[2])
    assert before.item() == pytest.approx(0.0, abs=1e-9)
    with torch.no_grad():
        for p in backbone(student):
            p.mul_(1.1)
        for p in student.task_head.parameters():
            p.mul_(3.0)  # the head may move for nothing
    one, three = (penalty(indices, x, student(x)[2]) for penalty in penalties)
    assert one.item() > 0 and three.item() == pytest.approx(3 * one.item(), rel=1e-5)
    one.backward()
    assert all(p.grad is None for p in student.task_head.parameters())


@pytest.mark.parametrize("kind", ["weights", "ewc", "si"])
def test_the_gradient_is_strength_times_importance_times_the_displacement(workplace, kind: str):
    config = toy(kind)
    images = load_domains(config).source
    student = build(config, 3)
    weights, start = backbone(student), [p.detach().clone() for p in backbone(student)]
    importance = regularisers.IMPORTANCES[kind](config, student, images, CPU) or [torch.ones_like(p) for p in start]
    assert all(bool((i >= 0).all() and (i <= regularisers.CAP).all()) for i in importance)
    penalty = make_penalty(config, student, images, CPU)
    with torch.no_grad():
        for k, p in enumerate(weights):
            p.add_(0.01 * (k + 1))
    penalty(torch.arange(2), torch.zeros(2, 3, 8, 8), torch.zeros(2, 1)).backward()
    for p, q, i in zip(weights, start, importance, strict=True):
        torch.testing.assert_close(p.grad, 0.5 * i * (p.detach() - q), rtol=1e-4, atol=1e-7)


def test_importances_are_computed_once(workplace, monkeypatch):
    config = toy("ewc")
    images, student = load_domains(config).source, build(config, 3)
    first = regularisers.IMPORTANCES["ewc"](config, student, images, CPU)
    monkeypatch.setattr(regularisers, "fisher", None)
    for a, b in zip(first, regularisers.IMPORTANCES["ewc"](config, student, images, CPU), strict=True):
        assert torch.equal(a, b)


def test_without_a_regulariser_there_is_no_penalty(workplace):
    config = make_config(PROFILES["toy"])
    assert make_penalty(config, build(config, 3), load_domains(config).source, CPU) is None


def test_frozen_features_are_the_networks_at_its_start(workplace):
    config = make_config(PROFILES["toy"])
    images, student = load_domains(config).source, build(config, 3)
    with torch.inference_mode():
        expected = student.features(images.batch(range(len(images))))
    for _ in range(2):  # computed, then read
        torch.testing.assert_close(frozen.features(student, images, CPU), expected)
