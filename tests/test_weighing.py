"""λ that is set anew in every step: by the balance of gradients against autograd, by the control against its record."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.controllers import make_controller
from asg.controllers.learned import Policy, Spec, save_policy
from asg.data import load_domains
from asg.models import build
from asg.run import run, trained
from asg.trainers import frozen
from asg.trainers.classification import make_objective
from asg.trainers.weighing import balanced_weight
from asg_book.catalogue.scenes import SCENES
from asg_book.profiles import PROFILES

CPU = torch.device("cpu")
BALANCED = {"guidance": 1.0, "weigh": "gradients"}


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def test_the_balance_of_two_linear_losses_is_the_ratio_of_their_slopes():
    features = torch.randn(4, 3, requires_grad=True)
    a, b = torch.randn(4, 3), torch.randn(4, 3)
    task, guidance = (a * features).sum(), (b * features).sum()
    assert float(balanced_weight(task, guidance, features, 100.0)) == pytest.approx(float(a.norm() / b.norm()))
    assert float(balanced_weight(task, guidance, features, 0.01)) == pytest.approx(0.01)
    assert float(balanced_weight(task, 0 * guidance, features, 0.5)) == 0.5  # as at the start
    assert float(balanced_weight(0 * task, 0 * guidance, features, 0.5)) == 0.5
    assert features.grad is None


def test_both_losses_of_a_real_network_pull_equally_at_its_features():
    """Gradients taken by a hook on the backbone's output, of a student that has left its start."""
    config = toy(**{**BALANCED, "guidance": 1e6})
    source, student = load_domains(config).source, build(config, 5)
    teacher = frozen.batch_answers(student, source, CPU)
    with torch.no_grad():
        for parameter in student.backbone.parameters():
            parameter.mul_(1.1)
    indices = torch.arange(8)
    x = torch.stack([source[i][1] for i in range(8)])
    seen: list[torch.Tensor] = []
    student.backbone.register_forward_hook(lambda module, given, output: seen.append(output) or output.retain_grad())
    losses = make_objective(config, teacher)(student, indices, x, source.labels[:8])
    pulls = []
    for loss in (losses["task"], losses["weight"] * losses["guidance"]):
        seen[0].grad = None
        loss.backward(retain_graph=True)
        pulls.append(float(seen[0].grad.norm()))
    assert pulls[0] == pytest.approx(pulls[1], rel=1e-4) and pulls[0] > 0
    total = losses["task"] + losses["weight"] * losses["guidance"]
    assert losses["total"].item() == pytest.approx(total.item())


def test_the_controls_last_ratio_is_of_lambda_and_the_others_of_the_groups():
    groups = {name: [nn.Parameter(torch.zeros(2, 3))] for name in ("stem", "body", "head")}
    control = {"kind": "fixed", "ratios": [0.5, 1.0, 0.25]}
    controller = make_controller(toy(control=control, guidance=0.1, weigh="policy"), groups, 48)
    assert controller.rates(0) == pytest.approx({"stem": 0.005, "body": 0.005, "head": 0.01})
    assert controller.weight(0) == 0.25 and controller.report()["parts"] == ["stem+body", "head", "guidance"]
    plain = make_controller(toy(control=control, guidance=0.1), groups, 48)
    assert plain.weight(0) == 1.0 and plain.report()["parts"] == ["stem", "body", "head"]


@pytest.mark.parametrize("benchmark", [{}, SCENES["toy"]], ids=["images", "scenes"])
def test_a_record_holds_the_mean_of_lambda_that_the_decisions_say(workplace, benchmark):
    control = {"kind": "random", "groups": 3, "shortest": 2}
    record = run(toy(**benchmark, guidance=0.2, weigh="policy", control=control, evaluations=1))
    decided = {0: 1.0} | {d["step"]: d["ratios"][-1] for d in record["decisions"]}
    shares = [decided[max(s for s in decided if s <= step)] for step in range(record["steps"])]
    assert len(set(shares)) > 1
    assert record["final"]["train_weight"] == pytest.approx(0.2 * sum(shares) / len(shares), rel=1e-5)
    assert [losses["weight"] for losses in record["first_losses"]] == pytest.approx([0.2 * s for s in shares[:3]])


@pytest.mark.parametrize("benchmark", [{}, SCENES["toy"]], ids=["images", "scenes"])
def test_a_balanced_run_stays_below_its_most_and_is_repeated_after_a_stop(workplace, benchmark):
    config = toy(**benchmark, guidance=0.05, weigh="gradients", evaluations=4)
    uninterrupted = run(config, fresh=True)
    assert 0 < uninterrupted["final"]["train_weight"] <= 0.05 * (1 + 1e-6)  # of a float

    def stop(evaluation: dict) -> None:
        if evaluation["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, on_evaluation=stop)
    assert run(config)["evaluations"] == uninterrupted["evaluations"]


def test_no_rule_sees_a_photograph(workplace, image_folders):
    """Trained with photographs and without any, the weights are the same bits."""
    policy = Policy(Spec(groups=3), torch.Generator().manual_seed(0))
    path = workplace.data / "p.safetensors"
    save_policy(policy, {"meta": {"student": {"weigh": "policy"}}}, path)
    learned = {"kind": "learned", "policy": str(path), "shortest": 2}
    for rule in (BALANCED, {"guidance": 0.1, "weigh": "policy", "control": learned}):
        networks = []
        for target in (None, str(image_folders.target)):
            config = toy(data="folder", source=str(image_folders.source), target=target, **rule)
            run(config, fresh=True)
            networks.append(trained(config, "cpu").state_dict())
        assert all(torch.equal(networks[0][name], value) for name, value in networks[1].items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"weigh": "gradients"}, "guidance, which is 0"),
        ({"weigh": "policy", "guidance": 0.1}, "a control that decides"),
        ({"weigh": "policy", "guidance": 0.1, "control": {"kind": "auto-rgn"}}, "a control that decides"),
    ],
)
def test_a_weight_that_nothing_can_set_is_refused(overrides: dict, message: str):
    with pytest.raises(AsgError, match=message):
        toy(**overrides)


@pytest.mark.parametrize("weighs", [True, False])
def test_a_policy_trained_for_other_decisions_is_refused(workplace, weighs: bool):
    path = workplace.data / "p.safetensors"
    card = {"meta": {"student": {"weigh": "policy" if weighs else None}}}
    save_policy(Policy(Spec(groups=3), torch.Generator().manual_seed(0)), card, path)
    control = {"kind": "learned", "policy": str(path)}
    with pytest.raises(AsgError, match="leave weigh out" if not weighs else "give weigh = policy"):
        run(toy(control=control, guidance=0.1, **({} if weighs else {"weigh": "policy"})))
