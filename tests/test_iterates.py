"""Averages over iterates, interpolation back to ImageNet, and the head first: each against its closed form."""

from __future__ import annotations

import pytest
import torch

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.controllers.hand_tuned import make, schedule
from asg.models import build
from asg.run import run, trained
from asg.trainers import classification
from asg.trainers.interpolation import interpolate
from asg_book.profiles import PROFILES


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def iterates(config: RunConfig, folder) -> list[dict[str, torch.Tensor]]:
    """The weights after every step, from trainings that are ended there."""
    trajectory = []
    for step in range(1, config.steps + 1):
        (folder / str(step)).mkdir()
        _, network = classification.train(config, folder / str(step), "cpu", stop=step)
        trajectory.append(weights(network))
    return trajectory


@pytest.mark.parametrize(("kind", "given"), [("ema", {"decay": 0.7}), ("swa", {"after": 0.5}), ("swa", {"after": 0.0})])
def test_an_average_is_that_of_the_iterates(workplace, tmp_path, kind, given):
    config = toy(guidance=0.1)
    steps = iterates(config, tmp_path)
    (tmp_path / "averaged").mkdir()
    averaged = config.model_copy(
        update={"average": make_config(PROFILES["toy"], {"average": {"kind": kind, **given}}).average}
    )
    result, network = classification.train(averaged, tmp_path / "averaged", "cpu")
    for name, value in weights(network).items():
        if kind == "ema":
            expected = steps[0][name].double()
            for later in steps[1:]:
                expected = 0.7 * expected + 0.3 * later[name].double()
        else:
            expected = torch.stack([s[name].double() for s in steps[round(8 * given["after"]) :]]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    photos = classification.load_domains(config).target
    with torch.inference_mode():  # what was evaluated is the average
        answers = network(photos.batch(range(len(photos))))[0].softmax(1)
        answers = answers.log() + network(photos.batch(range(len(photos))).flip(3))[0].log_softmax(1)
    assert answers.argmax(1).tolist() == result["final"]["predicted"]


def test_before_an_average_has_begun_the_iterate_is_evaluated(workplace, tmp_path):
    for name in ("plain", "averaged"):
        (tmp_path / name).mkdir()
    average = {"kind": "swa", "after": 0.75}
    plain, _ = classification.train(toy(evaluations=4), tmp_path / "plain", "cpu")
    late, _ = classification.train(toy(evaluations=4, average=average), tmp_path / "averaged", "cpu")
    shared = [{k: v for k, v in e.items() if k != "hse0"} for e in plain["evaluations"][:4]]
    assert [{k: v for k, v in e.items() if k != "hse0"} for e in late["evaluations"][:4]] == shared
    assert late["final"]["validation_loss"] != plain["final"]["validation_loss"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_interpolation_is_the_straight_line_and_exact_at_its_ends(share: float):
    start, network, end = (build(toy(seed=seed), 3) for seed in (0, 0, 1))
    interpolate(network, end, share)
    before, after = weights(start), weights(end)
    for name, value in weights(network).items():
        if name.startswith("task_head"):
            assert torch.equal(value, after[name])
        elif share in (0.0, 1.0):
            assert torch.equal(value, (before, after)[int(share)][name])
        else:
            line = (1 - share) * before[name].double() + share * after[name].double()
            torch.testing.assert_close(value.double(), line, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("data", [{}, {"data": "toy-scenes", "batch": 4}], ids=["images", "scenes"])
def test_interpolated_runs_end_where_training_and_imagenet_are(workplace, data):
    plain = run(toy(**data))["final"]
    full, none = (run(toy(**data, interpolate=share))["final"] for share in (1.0, 0.0))
    assert {k: v for k, v in full.items() if not k.startswith("train_")} == {
        k: v for k, v in plain.items() if not k.startswith("train_")
    }
    assert none["agreement"] == 1.0 and none["kl"] == 0.0 and not any(none["drift"].values())
    between = run(toy(**data, interpolate=0.5))["final"]
    for group, moved in plain["drift"].items():
        assert between["drift"][group] == pytest.approx(moved / 2, rel=1e-2)


def test_self_training_starts_from_the_interpolated_network(workplace):
    adapt = {"rounds": 1, "length": 0.2, "rate": 1.0, "portion": 0.5}
    config = toy(steps=40, warmup=4, interpolate=0.5, adapt=adapt)
    start = run(config.model_copy(update={"adapt": None}))
    assert run(config)["evaluations"][0]["accuracy"] == start["final"]["accuracy"]


def test_the_head_is_trained_first_and_then_everything_at_the_small_rate():
    config = toy(steps=100, warmup=10, head_first=0.4, lr=0.5, backbone_factor=0.1)
    rates = make(config, {"stem": [], "blocks": [], "head": []}, images=48)
    for step in range(40):
        assert rates.rates(step) == {"stem": 0.0, "blocks": 0.0, "head": pytest.approx(0.5 * schedule(step, 40, 4))}
    for step in range(40, 100):
        assert rates.rates(step) == dict.fromkeys(
            ("stem", "blocks", "head"), pytest.approx(0.05 * schedule(step - 40, 60, 6))
        )


def test_the_backbone_rests_while_the_head_is_trained(workplace, tmp_path):
    config, start = toy(head_first=0.5), weights(build(toy(), 3))
    half = iterates(config, tmp_path)[3]
    moved = {name for name, value in half.items() if not torch.equal(value, start[name])}
    assert moved and all(name.startswith("task_head") for name in moved)
    end = weights(trained(config, "cpu"))
    assert not torch.equal(end["backbone.conv_stem.weight"], start["backbone.conv_stem.weight"])


def test_a_policy_and_the_head_first_exclude_each_other():
    with pytest.raises(AsgError, match="leave control or head_first out"):
        toy(head_first=0.5, control={"kind": "random"})
