"""The reference's SGD against a scalar recursion and against torch's."""

import pytest
import torch
from torch import nn

from asg.config import make_config
from asg.trainers.optimiser import ReferenceSGD, make_optimiser
from asg_book.profiles import PROFILES

CURVATURE = 3.0  # the loss is CURVATURE/2 · θ², the gradient CURVATURE · θ


def trajectory(optimiser: torch.optim.Optimizer, parameter: nn.Parameter, rates: list[float]) -> list[float]:
    path = []
    for rate in rates:
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        (CURVATURE / 2 * parameter**2).sum().backward()
        optimiser.step()
        path.append(parameter.item())
    return path


def scalar(start: float = 2.0) -> nn.Parameter:
    return nn.Parameter(torch.tensor([start], dtype=torch.float64))


def both(rates: list[float]) -> tuple[list[float], list[float]]:
    settings = {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.01}
    ours, theirs = scalar(), scalar()
    return (
        trajectory(ReferenceSGD([ours], **settings), ours, rates),
        trajectory(torch.optim.SGD([theirs], **settings), theirs, rates),
    )


def test_reference_sgd_is_the_scalar_recursion_with_changing_rate_and_weight_decay():
    rates, momentum, decay = [0.1, 0.1, 0.02, 0.0, 0.05, 0.3], 0.8, 0.07
    theta, velocity, expected = 2.0, 0.0, []
    for rate in rates:
        velocity = momentum * velocity + rate * (CURVATURE * theta + decay * theta)
        theta = theta - velocity
        expected.append(theta)
    parameter = scalar()
    path = trajectory(ReferenceSGD([parameter], 1.0, momentum, decay), parameter, rates)
    assert path == pytest.approx(expected, rel=1e-12)


def test_reference_sgd_follows_torchs_sgd_at_a_constant_rate():
    ours, theirs = both([0.05] * 30)
    assert ours == pytest.approx(theirs, rel=1e-9)


def test_reference_sgd_leaves_torchs_sgd_one_step_after_the_rate_changes():
    ours, theirs = both([0.05, 0.05, 0.005, 0.005])
    assert ours[:2] == pytest.approx(theirs[:2], rel=1e-12)
    assert abs(ours[2] - theirs[2]) > 0.1


def test_reference_sgd_still_moves_on_old_velocity_at_rate_zero_and_torchs_does_not():
    ours, theirs = both([0.05, 0.0])
    assert ours[1] - ours[0] == pytest.approx(0.9 * (ours[0] - 2.0))
    assert theirs[1] == theirs[0]


def test_reference_sgd_leaves_frozen_parameters_alone():
    free, frozen, unused = scalar(1.0), scalar(1.0).requires_grad_(False), scalar(1.0)
    optimiser = ReferenceSGD([free, frozen, unused], 0.1, 0.9, 0.5)
    for _ in range(3):
        optimiser.zero_grad()
        (free * frozen).sum().backward()
        optimiser.step()
    assert free.item() != 1.0
    assert frozen.item() == unused.item() == 1.0  # no weight decay either
    assert frozen not in optimiser.state


def test_reference_sgd_uses_each_groups_own_rate():
    a, b = scalar(), scalar()
    optimiser = ReferenceSGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}], 1.0, 0.9, 0.0)
    (CURVATURE / 2 * (a**2 + b**2)).sum().backward()
    optimiser.step()
    assert [a.item(), b.item()] == pytest.approx([2 - 0.1 * 6, 2 - 0.01 * 6])


def test_reference_sgd_goes_on_from_its_state_dict():
    uninterrupted, rates = scalar(), [0.1, 0.05, 0.02, 0.01]
    expected = trajectory(ReferenceSGD([uninterrupted], 1.0, 0.9, 0.01), uninterrupted, rates)
    first = scalar()
    before = ReferenceSGD([first], 1.0, 0.9, 0.01)
    trajectory(before, first, rates[:2])
    second = nn.Parameter(first.detach().clone())
    after = ReferenceSGD([second], 1.0, 0.9, 0.01)
    after.load_state_dict(before.state_dict())
    assert trajectory(after, second, rates[2:]) == expected[2:]


@pytest.mark.parametrize(("name", "kind"), [("reference", ReferenceSGD), ("torch", torch.optim.SGD)])
def test_make_optimiser_gives_the_named_variant_with_the_configured_numbers(name: str, kind: type):
    config = make_config(PROFILES["toy"], {"sgd": name, "momentum": 0.7, "weight_decay": 0.03})
    optimiser = make_optimiser(config, {"backbone": [scalar()], "head": [scalar(), scalar()]})
    assert type(optimiser) is kind
    assert [g["name"] for g in optimiser.param_groups] == ["backbone", "head"]
    assert [len(g["params"]) for g in optimiser.param_groups] == [1, 2]
    assert all((g["momentum"], g["weight_decay"]) == (0.7, 0.03) for g in optimiser.param_groups)
    assert all(not g.get("nesterov") and not g.get("dampening") for g in optimiser.param_groups)
