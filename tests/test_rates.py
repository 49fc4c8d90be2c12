"""Layer-wise rates in a loop of one's own: against the trainer's run, the controllers, and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import asg
from asg import AsgError, LayerwiseRates, ProxyGuidance, parameter_groups
from asg.config import make_config
from asg.controllers.hand_tuned import schedule
from asg.controllers.learned import Policy, Spec, load_policy, save_policy
from asg.data import read_domains
from asg.data.images import StepSampler
from asg.models import build, layer_groups
from asg.run import run
from asg.trainers.optimiser import ReferenceSGD
from asg_book.profiles import PROFILES


def two_layers(lr: float = 0.5) -> tuple[nn.Module, torch.optim.SGD]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    return network, torch.optim.SGD(parameter_groups(network), lr=lr)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Two groups, and choices that depend on what it sees."""
    made = Policy(Spec(groups=2), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for head in made.heads:
            head.weight.mul_(300)
    path = tmp_path / "own.safetensors"
    save_policy(made, {}, path)
    return path


def walk(rates: LayerwiseRates, optimiser: torch.optim.Optimizer, steps: range) -> list[list[float]]:
    """The rates in force in each step, with losses that change."""
    seen = []
    for step in steps:
        seen.append([group["lr"] for group in optimiser.param_groups])
        optimiser.step()
        rates.step(task=2.0 / (step + 1), guidance=0.1 * step)
    return seen


def test_the_hand_tuned_rates_are_the_schedule():
    _, optimiser = two_layers()
    optimiser.param_groups[0]["lr"] = 0.05
    rates = LayerwiseRates(optimiser, "hand-tuned", total_steps=12, warmup=4)
    expected = [[0.05 * schedule(step, 12, 4), 0.5 * schedule(step, 12, 4)] for step in range(12)]
    for step, seen in enumerate(walk(rates, optimiser, range(12))):
        assert seen == pytest.approx(expected[step]), step
        assert rates.last_epoch == 12
    assert rates.get_last_lr() == [group["lr"] for group in optimiser.param_groups]


def test_a_policy_sees_the_mean_of_each_window_and_its_ratios_hold_for_the_next(policy: Path):
    """By hand: windows of 4, of an epoch of 9: 4, then 4, then the 1 that is left of the epoch, then 4 again."""
    network, optimiser = two_layers()
    rates = LayerwiseRates(
        optimiser, str(policy), 14, steps_per_epoch=9, shortest=4, schedule=False, sampled=False
    )  # fmt: skip
    seen = walk(rates, optimiser, range(14))
    judge, _ = load_policy(policy)
    last, hidden, ratios, expected = network[2].weight, judge.start(), [1.0, 1.0], [[0.5, 0.5]] * 4
    std, mean = torch.std_mean(last.detach())
    for start, stop, following in ((0, 4, 4), (4, 8, 1), (8, 9, 4), (9, 13, 1)):
        steps = torch.arange(start, stop).float()
        state = torch.stack([(2 / (steps + 1)).mean(), (0.1 * steps).mean(), (steps / 14).mean(), mean, std])
        with torch.no_grad():
            outputs, hidden = judge(state, torch.tensor(ratios), hidden)
        ratios = (outputs.argmax(1) / 10).tolist()
        expected += [[0.5 * ratio for ratio in ratios]] * following
    assert [d["step"] for d in rates.report()["decisions"]] == [4, 8, 9, 13]
    assert len({tuple(row) for row in expected}) > 2  # else nothing is compared
    for step, (ours, theirs) in enumerate(zip(seen, expected, strict=True)):
        assert ours == pytest.approx(theirs), step


def test_losses_may_be_given_elsewhere_and_in_pieces(policy: Path):
    (_, first), (_, second) = two_layers(), two_layers()
    at_once = LayerwiseRates(first, str(policy), 40)
    pieces = LayerwiseRates(second, str(policy), 40)
    for step in range(40):
        first.step(), second.step()
        at_once.step(task=2.0 / (step + 1), guidance=0.1 * step)
        for share in (0.5, 1.5):
            pieces.observe(task=share * 2.0 / (step + 1), guidance=torch.tensor(share * 0.1 * step))
        pieces.step()
        assert at_once.get_last_lr() == pieces.get_last_lr(), step


@pytest.mark.parametrize("kind", ["hand-tuned", "random", "random once", "learned"])
def test_a_stopped_training_goes_on_within_its_window(policy: Path, kind: str):
    name = str(policy) if kind == "learned" else kind
    (_, uninterrupted), (_, stopped), (_, resumed) = two_layers(), two_layers(), two_layers()
    expected = walk(LayerwiseRates(uninterrupted, name, 40, shortest=6), uninterrupted, range(40))
    before = LayerwiseRates(stopped, name, 40, shortest=6)
    seen = walk(before, stopped, range(17))
    torch.save({"optimiser": stopped.state_dict(), "rates": before.state_dict()}, path := policy.parent / "saved.pt")
    saved = torch.load(path, weights_only=True)
    after = LayerwiseRates(resumed, name, 40, shortest=6)
    resumed.load_state_dict(saved["optimiser"])
    after.load_state_dict(saved["rates"])
    assert seen + walk(after, resumed, range(17, 40)) == expected


def test_auto_rgn_follows_the_relative_gradients_of_each_tensor():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    optimiser = torch.optim.SGD(parameter_groups(network, alone=True), lr=0.1)
    names = [group["name"] for group in optimiser.param_groups]
    assert names == ["0.weight", "0.bias", "2.weight", "2.bias", "normalisation"]
    rates = LayerwiseRates(optimiser, "auto-rgn", 20, schedule=False)
    for step in range(5):
        assert rates.get_last_lr() == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.0]), step
        for factor, group in zip((1, 2, 3, 4, 9), optimiser.param_groups, strict=True):
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, float(factor))
        optimiser.step()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(1.0)
        rates.step()
    assert rates.get_last_lr() == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.0])


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "convnext_tiny", "swin_t", "densenet121"])
def test_any_network_has_groups_that_share_out_its_trained_parameters(name: str):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    next(network.parameters()).requires_grad_(False)
    groups = parameter_groups(network)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in network.parameters() if p.requires_grad)
    assert groups[-1]["name"] == "head" and len(groups) >= 6
    most = max(sum(p.numel() for p in group["params"]) for group in groups[:-1])
    assert most < 0.8 * sum(p.numel() for p in network.parameters())


def test_a_head_of_several_layers_is_named_and_the_groups_go_down_as_far_as_they_must():
    inner = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    network = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": inner, "norm": nn.LayerNorm(3)}), "top": nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2))})  # fmt: skip
    groups = parameter_groups(network, head="top")
    assert [g["name"] for g in groups] == ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2", "encoder.norm", "head"]  # fmt: skip
    assert len(groups[-1]["params"]) == 4
    with pytest.raises(AsgError, match=r"no part 'tip'.*encoder, top"):
        parameter_groups(network, head="tip")


@pytest.mark.parametrize("control", [{"kind": "learned"}, {"kind": "auto-rgn"}, None], ids=str)
def test_a_plain_loop_takes_the_steps_of_the_trainers_run(workplace, tmp_path: Path, control: dict | None):
    """Losses of the first steps and every decision, of a guided training in torch alone and of `asg run`."""
    toy, lr = PROFILES["toy"], PROFILES["toy"]["lr"]
    if learned := control == {"kind": "learned"}:
        made = Policy(Spec(groups=3), torch.Generator().manual_seed(1))
        save_policy(made, {}, tmp_path / "three.safetensors")
        control = {**control, "policy": str(tmp_path / "three.safetensors")}
    overrides = {"control": {**control, "schedule": True, "shortest": 3}} if control else {"backbone_factor": 1.0}
    config = make_config(toy, {"guidance": 0.1, "steps": 12, "warmup": 2, **overrides})
    record = run(config)

    student, source = build(config, 3), read_domains(config).source
    network = nn.Sequential(student.backbone, student.task_head)
    normalised = [(source[k][1][None].float() - student.mean) / student.std for k in range(len(source))]
    guide = ProxyGuidance(student.backbone, weight=0.1, head=student.kept_head)
    groups = parameter_groups(network, head="1", alone=bool(control) and not learned)
    optimiser = ReferenceSGD(groups, lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
    name = control["policy"] if learned else control["kind"] if control else "hand-tuned"
    rates = LayerwiseRates(
        optimiser, name, 12, steps_per_epoch=max(1, len(source) // config.batch), warmup=2, shortest=3
    )  # fmt: skip
    losses = []
    for indices in StepSampler(len(source), config.batch, config.seed, 0, 12):
        x, labels = torch.cat([normalised[i] for i in indices]), source.labels[indices]
        x = x.contiguous(memory_format=torch.channels_last)
        task, guidance = F.cross_entropy(network(x), labels), guide(x)
        optimiser.zero_grad()
        (task + guidance).backward()
        optimiser.step()
        rates.step(task=task, guidance=guidance / guide.weight)
        losses.append((float(task.detach()), float(guidance.detach() / guide.weight)))
    for ours, theirs in zip(losses, record["first_losses"], strict=False):
        assert ours == pytest.approx((theirs["task"], theirs["guidance"]), abs=1e-6)
    assert sum(task for task, _ in losses) / 12 == pytest.approx(_mean_of(record, "train_task"), abs=1e-5)
    if control:
        assert [d["step"] for d in rates.report()["decisions"]] == [d["step"] for d in record["decisions"]]
        if learned:
            assert rates.report()["decisions"] == record["decisions"]


def _mean_of(record: dict, name: str) -> float:
    """A mean training loss over all steps, from those between evaluations."""
    steps = [e["step"] for e in record["evaluations"]]
    parts = [(b - a, e[name]) for a, b, e in zip(steps, steps[1:], record["evaluations"][1:], strict=False)]
    return sum(n * value for n, value in parts) / sum(n for n, _ in parts)


def test_what_is_wrong_is_said(policy: Path):
    network, optimiser = two_layers()
    with pytest.raises(AsgError, match=r"no policy 'cartoon-agc'.*hand-tuned.*auto-rgn.*cartoon-asg"):
        LayerwiseRates(optimiser, "cartoon-agc", 10)
    with pytest.raises(AsgError, match="sets 7 rates and this backbone has 2"):
        LayerwiseRates(optimiser, "cartoon-asg", 10)
    with pytest.raises(AsgError, match="alone=True"):
        LayerwiseRates(optimiser, "auto-rgn", 10)
    rates = LayerwiseRates(optimiser, str(policy), 2)
    optimiser.step()
    with pytest.raises(AsgError, match=r"looks at the losses: give them"):
        rates.step()
    for _ in range(2):
        optimiser.step()
        rates.step(task=1.0)
    with pytest.raises(AsgError, match="made for 2 steps and asked for one more"):
        rates.step(task=1.0)
    alone = torch.optim.SGD(parameter_groups(network, alone=True), lr=0.1)
    with pytest.raises(AsgError, match="there are none: step before they are set to zero"):
        LayerwiseRates(alone, "auto-rgn", 10).step()


def test_the_public_names_are_there():
    assert asg.LayerwiseRates is LayerwiseRates and layer_groups(build(make_config(PROFILES["toy"]), 3))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        asg.nothing  # noqa: B018
