"""The hand-tuned schedule at points known from its formula."""

from itertools import pairwise

import pytest

from asg.controllers.hand_tuned import HandTuned, schedule


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.01),  # where the warm-up starts
        (10, (0.01 + 0.99 / 100) * 0.99**0.9),
        (50, (0.01 + 0.99 / 4) * 0.95**0.9),
        (99, (0.01 + 0.99 * 0.9801) * 0.901**0.9),
        (100, 0.9**0.9),  # where it ends
        (500, 0.5**0.9),
        (799, 0.201**0.9),
        (800, 0.2**0.9),  # the floor
        (801, 0.2**0.9),
        (999, 0.2**0.9),
    ],
)
def test_schedule_has_the_references_values_for_1000_steps(step: int, factor: float):
    assert schedule(step, total=1000, warmup=100) == pytest.approx(factor, rel=1e-12)


def test_schedule_rises_in_the_warm_up_falls_after_it_and_rests_at_the_floor():
    values = [schedule(t, 1000, 100) for t in range(1000)]
    steps = [b - a for a, b in pairwise(values)]
    assert all(s > 0 for s in steps[:98])
    assert all(s < 0 for s in steps[100:799])
    assert all(s == 0 for s in steps[800:])
    assert max(values) < 1


def test_schedule_warms_up_over_the_given_number_of_steps():
    assert schedule(20, 10**9, 40) == pytest.approx(0.01 + 0.99 / 4, rel=1e-6)
    assert schedule(40, 10**9, 40) == pytest.approx(1.0, rel=1e-6)
    assert schedule(41, 10**9, 40) == pytest.approx(1.0, rel=1e-6)  # it does not overshoot


@pytest.mark.parametrize("factor", [0.0, 0.1, 1.0])
def test_hand_tuned_gives_every_backbone_group_the_same_share_of_the_heads_rate(factor: float):
    groups = ("conv1", "layer1", "head")
    controller = HandTuned(groups, lr=0.02, backbone_factor=factor, total=200, warmup=10)
    for step in (0, 5, 10, 100, 199):
        rates = controller.rates(step)
        assert tuple(rates) == groups
        assert rates["head"] == pytest.approx(0.02 * schedule(step, 200, 10))
        assert rates["conv1"] == rates["layer1"] == pytest.approx(factor * rates["head"])
