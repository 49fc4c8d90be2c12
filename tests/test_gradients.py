"""Auto-RGN's rates: on tensors of known gradients, and in a training against the gradients that it takes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asg.config import RunConfig, make_config
from asg.controllers.gradients import BATCHES, NORMALISATION, AutoRGN, relative_norms, tensor_groups
from asg.controllers.hand_tuned import schedule
from asg.models import build, layer_groups
from asg.run import run
from asg_book.profiles import PROFILES


def toy(**overrides: object) -> RunConfig:
    control = {"kind": "auto-rgn", **overrides.pop("control", {})}
    return make_config(PROFILES["toy"], {"control": control, **overrides})


def parameter(values: list[float], gradient: list[float] | None) -> nn.Parameter:
    made = nn.Parameter(torch.tensor(values))
    made.grad = None if gradient is None else torch.tensor(gradient)
    return made


def test_relative_norms_are_the_gradients_norm_over_the_tensors():
    given = [
        parameter([3.0, 4.0], [1.0, 0.0]),
        parameter([2.0], [-3.0]),
        parameter([1.0], None),
        parameter([0.0], [1.0]),
    ]
    assert relative_norms(given).tolist() == pytest.approx([0.2, 1.5, 0.0, torch.inf])


def test_rates_follow_the_mean_over_five_batches_and_rest_until_the_next_epoch():
    """A twelve-step epoch: relative norms k and 4 in steps k = 1 … 5, then others, that count for the next one alone."""
    big, small, zeros = parameter([2.0], None), parameter([1.0], None), parameter([0.0], None)
    groups = {"big": [big], "small": [small], "zeros": [zeros], NORMALISATION: [parameter([1.0], [9.0])]}
    controller = AutoRGN(toy(steps=24, control={"epoch": 12}), groups, images=0)
    full = {"big": 0.01, "small": 0.01, "zeros": 0.01, NORMALISATION: 0.0}
    for step in range(24):
        if step < BATCHES:
            assert controller.rates(step) == full
        big.grad, small.grad = torch.tensor([2.0 * (step % 12 + 1)]), torch.tensor([4.0 if step < 12 else 12.0])
        zeros.grad = torch.tensor([1.0])
        controller.observe(step, {})
        if step >= BATCHES:
            expected = {"big": 0.0075, "small": 0.01} if step < 12 + BATCHES - 1 else {"big": 0.0025, "small": 0.01}
            assert controller.rates(step + 1) == pytest.approx({**full, **expected})
    assert [d["step"] for d in controller.report()["decisions"]] == [5, 17]


def test_every_tensor_but_batchnorms_has_a_rate_of_its_own():
    student = build(toy(), 3)
    layers, groups = layer_groups(student), tensor_groups(student, layer_groups(student))
    assert {id(p) for group in groups.values() for p in group} == {id(p) for group in layers.values() for p in group}
    names = dict(student.named_parameters())
    single = {name: group for name, group in groups.items() if name != NORMALISATION}
    assert all(group == [names[name]] for name, group in single.items())
    assert "backbone.conv_stem.weight" in single and "task_head.2.bias" in single
    assert not any(".bn" in name for name in single) and len(groups[NORMALISATION]) > 2


def test_with_the_schedule_rates_are_multiplied_by_it():
    groups = {"weight": [parameter([1.0], [1.0])]}
    plain, scheduled = (AutoRGN(toy(steps=10, warmup=4, control={"schedule": s}), groups, 80) for s in (False, True))
    for step in range(10):
        assert plain.rates(step) == {"weight": 0.01}
        assert scheduled.rates(step) == {"weight": pytest.approx(0.01 * schedule(step, 10, 4))}


def test_a_run_reports_a_rate_for_each_tensor_and_leaves_batchnorm_alone(workplace):
    record = run(toy(steps=12, warmup=2, lr=0.1, guidance=0.1))
    (first, second), parts = record["decisions"], record["parts"]
    assert (first["step"], second["step"]) == (5, 11)  # 48 images in batches of 8: epochs of 6 steps
    for decision in (first, second):
        assert len(decision["ratios"]) == len(parts) and max(decision["ratios"]) == 1.0
        assert all(0 <= ratio <= 1 for ratio in decision["ratios"])
