"""Windows, parts, chance and learned controllers in real runs; policy files, good and bad."""

from __future__ import annotations

import gc
import json
import signal
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from scipy import stats
from torch import nn

from asg import AsgError, episodes, policy_search, records, rewards
from asg.config import MetaConfig, RunConfig, make_config
from asg.controllers import make_controller
from asg.controllers.learned import FORMAT, Policy, Spec, load_policy, save_policy
from asg.controllers.windows import Windowed, next_window, partition
from asg.data import load_domains
from asg.dryrun import dry_run, report
from asg.meta_training import train_policy
from asg.models import layer_groups
from asg.policy_search import search_ratios
from asg.run import run
from asg.trainers.classification import train
from asg.trainers.devices import make_accelerator
from asg.trainers.loop import Training, fit
from asg.trainers.task import Task
from asg_book.policies import EPISODES, POLICIES, policy_config
from asg_book.profiles import PROFILES

POLICIES_HERE = records.REPOSITORY / "policies"
RESNET = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "head")


def policy_file(folder: Path, spec: Spec = Spec(groups=3), seed: int = 0) -> Path:
    """An untrained policy, with heads that are far from even, so that its memory and draws show."""
    policy = Policy(spec, torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for head in policy.heads:
            head.weight.mul_(300)
    path = folder / f"p{spec.groups}.safetensors"
    save_policy(policy, {"made": "by a test"}, path)
    return path


def toy(control: dict, **overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], {"control": control, "guidance": 0.1, **overrides})


def controller_of(control: dict, epoch_images: int, **overrides: object) -> Windowed:
    """A controller of a ResNet's groups, in a run over ``epoch_images`` images."""
    config = make_config(PROFILES["paper"], {"control": control, **overrides})
    groups = {name: [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))] for name in RESNET}
    return make_controller(config, groups, epoch_images)


def decisions(controller: Windowed, start: int = 0) -> list[int]:
    """The steps from which on a decision holds, found by observing every step from ``start`` on."""
    controller.decide = lambda state: list(controller.ratios)
    losses = {"task": torch.zeros(())}
    for step in range(start, controller.total):
        controller.rates(step)
        controller.observe(step, losses)
    return [d["step"] for d in controller.decisions]


# --- windows and parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "current", "former", "following"),
    [("written", 10, 0, 10), ("written", 20, 0, 20), ("written", 2560, 0, 2202), ("written", 0, 4762, 238),
     ("written", 238, 4762, 476), ("divided", 10, 0, 10), ("divided", 400, 4762, 258), ("divided", 0, 100, 10)],
)  # fmt: skip
def test_the_window_rules(rule: str, current: int, former: int, following: int):
    assert next_window(rule, 10, current, former, 4762) == following


def reference_decisions(epoch: int, epochs: int, divided: bool, shortest: int = 10) -> list[int]:
    """Written anew from the facts: two counters, the first window without a decision."""
    starts, former, undecided = [], 0, True
    for _ in range(epochs):
        current = 0
        while current < epoch:
            grown = (current + former) // 20 if divided else current + former // 20
            window = shortest if undecided else min(max(shortest, grown), epoch - current)
            starts += [] if undecided else [former + current]
            undecided = False
            current += window
        former += epoch
    return starts


@pytest.mark.parametrize(("rule", "count"), [("written", 66), ("divided", 167)])
def test_decisions_of_the_papers_visda_run(rule: str, count: int):
    """152,397 renders in batches of 32 for 30 epochs: the reference's numbers, exactly."""
    epoch = 152_397 // 32
    taken = decisions(controller_of({"kind": "fixed", "ratios": [1.0] * 7, "window": rule}, 152_397))
    assert epoch == 4762 and len(taken) == count
    assert taken == reference_decisions(epoch, 30, rule == "divided")
    assert taken[:9] == [10, 20, 40, 80, 160, 320, 640, 1280, 2560] or rule == "divided"
    assert set(range(epoch, 30 * epoch, epoch)) <= set(taken)  # every epoch but the first begins with a decision


def test_an_epoch_of_given_length_ends_windows():
    """The paper's segmentation: epochs of 2,000 steps, whatever the number of images, and windows of 20 at least."""
    control = {"kind": "fixed", "ratios": [1.0] * 7, "epoch": 2000, "shortest": 20}
    taken = decisions(controller_of(control, 12_403, batch=6, steps=6000))
    assert taken == reference_decisions(2000, 3, divided=False, shortest=20)
    assert {2000, 4000} <= set(taken) and taken[:4] == [20, 40, 80, 160]


@pytest.mark.parametrize("start", [0, 5, 13, 4761])
def test_a_run_decides_wherever_it_starts(start: int):
    taken = decisions(controller_of({"kind": "fixed", "ratios": [1.0] * 7}, 152_397, epochs=2), start)
    assert taken[0] == start + 10 and len(taken) > 3


def test_a_first_window_of_any_run_has_every_ratio_at_one_but_for_given_ratios():
    at_first = {kind: controller_of(control, 640).ratios for kind, control in {
        "random": {"kind": "random"}, "random once": {"kind": "random once"},
        "fixed": {"kind": "fixed", "ratios": [0.3] * 7}}.items()}  # fmt: skip
    assert at_first == {"random": [1.0] * 7, "random once": [1.0] * 7, "fixed": [0.3] * 7}


def test_windows_never_shrink_below_the_shortest_but_for_an_epochs_end():
    control = {"kind": "fixed", "ratios": [1.0] * 7}
    taken = decisions(controller_of(control, 2052, batch=16, steps=400))
    lengths = [b - a for a, b in pairwise(taken)]
    ends = {b for b in taken if b % (2052 // 16) == 0}
    assert all(length >= 10 or b in ends for length, b in zip(lengths, taken[1:], strict=True))


def test_a_resnet_in_seven_parts_is_the_papers():
    assert partition(RESNET, 7) == [[name] for name in RESNET]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7, 12])
def test_parts_are_consecutive_whole_and_nearly_even(parts: int):
    groups = [*(f"g{k}" for k in range(11)), "head"]
    partitioned = partition(groups, parts)
    assert [name for part in partitioned for name in part] == groups and len(partitioned) == parts
    if parts > 1:
        sizes = [len(part) for part in partitioned[:-1]]
        assert partitioned[-1] == ["head"] and max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


# --- in real runs -------------------------------------------------------------------------------------------------


def test_random_draws_a_new_ratio_at_every_window_and_random_once_never(workplace):
    anew = run(toy({"kind": "random", "groups": 3, "shortest": 2}))["decisions"]
    once = run(toy({"kind": "random once", "groups": 3, "shortest": 2}))["decisions"]
    assert [d["step"] for d in anew] == [d["step"] for d in once] == [2, 4, 6]
    assert len({tuple(d["ratios"]) for d in anew}) > 1 and len({tuple(d["ratios"]) for d in once}) == 1
    assert anew[0] == once[0]


def test_fixed_ratios_of_one_are_the_constant_large_rate(workplace):
    """The same as hand-tuned training whose schedule is held at 1."""
    fixed = run(toy({"kind": "fixed", "ratios": [1.0, 1.0, 1.0]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asg.controllers.hand_tuned.schedule", lambda *_: 1.0)
        hand = run(make_config(PROFILES["toy"], {"guidance": 0.1, "backbone_factor": 1.0}))
    assert [e["train_task"] for e in fixed["evaluations"][1:]] == [e["train_task"] for e in hand["evaluations"][1:]]


def test_the_schedule_multiplies_the_ratios():
    control = {"kind": "fixed", "ratios": [0.5, 1.0], "schedule": True}
    config = toy(control, lr=0.02, warmup=4)
    groups = {name: [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))] for name in ("stem", "head")}
    controller = make_controller(config, groups, 48)
    rates = [controller.rates(step) for step in range(8)]
    assert rates[0] == pytest.approx({"stem": 0.02 * 0.5 * 0.01, "head": 0.02 * 0.01})
    assert rates[4]["head"] == pytest.approx(0.02 * (1 - 4 / 8) ** 0.9)
    assert all(r["stem"] == pytest.approx(r["head"] / 2) for r in rates)


def test_the_state_is_the_mean_over_the_window():
    """Task loss, KL, progress, mean and standard deviation of the last layer, by hand, from the first window on."""
    config = toy({"kind": "random", "groups": 1, "shortest": 4}, steps=20)
    groups = {"head": [nn.Parameter(torch.arange(6.0).view(2, 3)), nn.Parameter(torch.zeros(2))]}
    controller = make_controller(config, groups, 8 * 100)
    seen = []
    controller.decide = lambda state: seen.append(state.tolist()) or [1.0]
    for step in range(9):
        controller.rates(step)
        with torch.no_grad():
            groups["head"][0].add_(1.0)
        controller.observe(step, {"task": torch.tensor(float(step)), "guidance": torch.tensor(2.0 * step)})
    std = float(torch.arange(6.0).std())
    assert seen[0] == pytest.approx([1.5, 3.0, 1.5 / 20, 2.5 + 2.5, std])  # of steps 0 to 3
    assert seen[1] == pytest.approx([5.5, 11.0, 5.5 / 20, 2.5 + 6.5, std])  # of steps 4 to 7
    assert len(seen) == 2


@pytest.mark.parametrize("sampled", [True, False])
def test_a_run_under_a_policy_resumes_to_the_same_record(workplace, sampled):
    """Stopped between two decisions and within a window: memory, draws and ratios go on."""
    policy = str(policy_file(workplace.data))
    config = toy({"kind": "learned", "policy": policy, "shortest": 3, "sampled": sampled}, steps=20, evaluations=5)
    uninterrupted = run(config, fresh=True)

    def stop(evaluation: dict) -> None:
        if evaluation["step"] in (8, 12):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(config, on_evaluation=stop)
    resumed = run(config)
    assert resumed["evaluations"] == uninterrupted["evaluations"] and resumed["decisions"] == uninterrupted["decisions"]
    assert len({tuple(d["ratios"]) for d in uninterrupted["decisions"]}) > (1 if sampled else 0)


def test_another_policy_in_the_same_file_is_another_key(workplace):
    path = policy_file(workplace.data)
    config = toy({"kind": "learned", "policy": str(path)})
    before = records.run_key(config)
    policy, card = load_policy(path)
    save_policy(policy, {**card, "seconds": 5}, path)
    assert records.run_key(config) == before  # the card does not count
    policy_file(workplace.data, seed=1)
    assert records.run_key(config) != before


@pytest.mark.slow
def test_one_policy_file_drives_resnet101_for_two_steps(workplace, image_folders):
    """The paper's network and its seven groups; random weights without BatchNorm statistics bear no real rate."""
    path = policy_file(workplace.data, Spec())
    control = {"kind": "learned", "policy": str(path), "shortest": 1}
    overrides = {"data": "folder", "source": str(image_folders.source), "backbone": "torchvision:resnet101", "size": 64}
    config = toy(control, **overrides, steps=2, batch=2, evaluations=1, lr=1e-10)
    result, student = train(config, workplace.runs, device="cpu")
    assert tuple(layer_groups(student)) == RESNET and result["parts"] == list(RESNET)
    assert [d["step"] for d in result["decisions"]] == [1]


def test_another_task_takes_the_controller_as_it_is(workplace):
    """Dense prediction on the shared loop: a label for every pixel, a head that ends in a convolution without bias."""
    config = toy({"kind": "learned", "policy": str(policy_file(workplace.data)), "shortest": 3}, steps=8)
    images = load_domains(config).source
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 5, 1, bias=False))
    groups = {name: list(m.parameters()) for name, m in zip(("stem", "body", "head"), network, strict=True)}

    def objective(
        network: nn.Module, indices: torch.Tensor, x: torch.Tensor, labels: torch.Tensor, share: float
    ) -> dict:
        logits = network(x.float() / 255)  # (N, 5, H, W)
        loss = nn.functional.cross_entropy(logits, labels[:, None, None].expand(-1, *x.shape[2:]) % 5)
        return {"total": loss, "task": loss}

    controller = make_controller(config, groups, len(images))
    task = Task(network, groups, images, objective, lambda now: {})
    done = fit(Training(config, task, controller, workplace.runs, make_accelerator(config, "cpu")))
    assert done.step == 8 and [d["step"] for d in controller.decisions] == [3, 6]
    assert controller.state()[4] == pytest.approx(network[2].weight.std().item(), rel=0.05)


# --- meta-training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", rewards.REWARDS)
def test_meta_training_resumes_to_the_same_policy(workplace, reward):
    meta = policy_config("asg", "toy", {"reward": reward, "episodes": 3})
    uninterrupted, progress = train_policy(meta, workplace.runs / "whole", "cpu")

    def stop(point: dict) -> None:
        if point["episode"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_policy(meta, workplace.runs / "parts", "cpu", stop)
    resumed, again = train_policy(meta, workplace.runs / "parts", "cpu")
    assert again.curve == progress.curve and len(progress.curve) == 3
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    untrained = Policy(uninterrupted.spec, torch.Generator().manual_seed(meta.seed))
    assert not torch.equal(uninterrupted.heads[0].weight, untrained.heads[0].weight)
    assert torch.equal(uninterrupted.critic.weight, untrained.critic.weight)


def test_an_episodes_network_is_let_go(workplace, monkeypatch):
    """Hundreds of episodes must not fill the memory: after each, what the former ones trained is gone."""
    made, alive, build = [], [], episodes.build

    def noted(*given: object) -> nn.Module:
        student = build(*given)
        made.append(weakref.ref(student))
        return student

    def count(point: dict) -> None:
        gc.collect()
        alive.append(sum(student() is not None for student in made))

    monkeypatch.setattr(episodes, "build", noted)
    train_policy(policy_config("asg", "toy", {"episodes": 4}), workplace.runs, "cpu", count)
    assert len(made) == 5 and max(alive) <= 1  # one more was built for the teacher's outputs


def test_meta_training_never_sees_a_photograph(workplace, monkeypatch):
    seen, real = [], episodes.forward_all
    monkeypatch.setattr(episodes, "forward_all", lambda net, images, *a: seen.append(images) or real(net, images, *a))

    train_policy(policy_config("asg", "toy", {"episodes": 1}), workplace.runs, "cpu")
    assert seen and all(images.names[0].startswith("toy-2-") for images in seen)  # the held-out renders


def test_an_episode_that_diverges_is_paid_the_worst_and_the_training_goes_on(workplace):
    meta = policy_config("asg", "toy", {"episodes": 2, "reward": "loss"})
    meta = meta.model_copy(update={"student": meta.student.model_copy(update={"lr": 1e30})})
    _, progress = train_policy(meta, workplace.runs, "cpu")
    assert [p["held_task"] for p in progress.curve] == [None, None]
    assert [p["reward"] for p in progress.curve] == [None, None]  # at once, in the first window, which nobody chose


def test_the_search_is_sorted_by_the_held_out_loss_and_resumes(workplace):
    meta = policy_config("asg", "toy", {"episodes": 4})
    trials = search_ratios(meta, workplace.runs / "whole", "cpu")
    losses = [t["held_task"] + meta.student.guidance * t["held_guidance"] for t in trials]
    assert losses == sorted(losses) and {t["episode"] for t in trials} == {0, 1, 2, 3}

    def stop(point: dict) -> None:
        if point["episode"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_ratios(meta, workplace.runs / "parts", "cpu", stop)
    assert search_ratios(meta, workplace.runs / "parts", "cpu") == trials
    path = workplace.data / "search.json"
    path.write_text(json.dumps({"trials": trials}))
    record = run(toy({"kind": "fixed", "policy": str(path)}))
    assert dict(zip(record["parts"], record["decisions"][0]["ratios"], strict=True)) == trials[0]["ratios"]


def test_a_trial_of_the_search_has_the_warm_up_and_decay_of_the_policys_episodes(workplace, monkeypatch):
    meta, seen = policy_config("asg", "toy", {"episodes": 2}), []

    class Seen(policy_search.Fixed):
        def __init__(self, config: RunConfig, *rest: object) -> None:
            seen.append(config.control)
            super().__init__(config, *rest)

    monkeypatch.setattr(policy_search, "Fixed", Seen)
    search_ratios(meta, workplace.runs, "cpu")
    assert len(seen) == 2 and meta.student.control.schedule
    assert all(c.model_copy(update={"kind": "learned", "ratios": None}) == meta.student.control for c in seen)


# --- policy files -------------------------------------------------------------------------------------------------


def test_a_saved_policy_is_the_same_policy(tmp_path):
    policy = Policy(Spec(groups=2, actions=3, statistics=("task", "mean")), torch.Generator().manual_seed(4))
    save_policy(policy, {"curve": [1, 2]}, tmp_path / "p.safetensors")
    again, card = load_policy(tmp_path / "p.safetensors")
    assert again.spec == policy.spec and card == {"curve": [1, 2]}
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in policy.state_dict().items())


@pytest.mark.parametrize("path", sorted(POLICIES_HERE.glob("*.safetensors")), ids=lambda p: p.stem)
def test_a_kept_policy_says_how_it_was_trained_and_was_paid_better_in_the_end(path):
    """Each file in policies/ is a declared policy with its whole curve; its last 30 episodes beat its first 30."""
    policy, card = load_policy(path)
    profile, _, name = path.stem.partition("-")
    declared = policy_config(name, profile)
    assert MetaConfig(**card["meta"]) == declared
    assert policy.spec == Spec(declared.groups, declared.actions, declared.statistics, declared.normalised)
    rewards = [point["reward"] for point in card["curve"]]
    assert len(rewards) == declared.episodes
    if declared.baseline:  # without one nothing is promised
        assert stats.ttest_ind(rewards[-30:], rewards[:30], alternative="greater").pvalue < 0.05


@pytest.mark.parametrize("path", sorted(POLICIES_HERE.glob("*-search.json")), ids=lambda p: p.stem)
def test_a_kept_search_cost_what_its_policy_cost(path):
    """It is of the policy's own episodes, as many of them, and the best trial on held-out renders is the first."""
    profile, _, name = path.stem.removesuffix("-search").partition("-")
    search, declared = json.loads(path.read_text()), policy_config(name, profile)
    assert MetaConfig(**search["meta"]) == declared
    assert sorted(t["episode"] for t in search["trials"]) == list(range(declared.episodes))
    losses = [t["held_task"] + declared.student.guidance * t["held_guidance"] for t in search["trials"]]
    assert losses == sorted(losses)


def test_every_policy_of_the_catalogue_is_valid():
    for profile in EPISODES:
        for name in POLICIES:
            assert policy_config(name, profile).student.control.kind == "learned"


def test_a_policy_that_is_missing(workplace):
    with pytest.raises(AsgError, match=r"nowhere\.safetensors is missing: `asg policy train` makes one"):
        run(toy({"kind": "learned", "policy": "nowhere"}))


def test_a_control_without_its_policy(workplace):
    with pytest.raises(AsgError, match="needs its policy"):
        run(toy({"kind": "learned"}))
    with pytest.raises(AsgError, match="needs its policy"):
        run(toy({"kind": "fixed"}))


def test_a_policy_of_more_groups_than_the_backbone_has(workplace):
    path = policy_file(workplace.data, Spec(groups=40))
    with pytest.raises(AsgError, match=r"sets 40 rates and this backbone has \d+ layer groups .*fewer groups"):
        run(toy({"kind": "learned", "policy": str(path)}))


def test_a_truncated_policy(workplace):
    path = policy_file(workplace.data)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(AsgError, match=r"cannot be read .*train it again"):
        run(toy({"kind": "learned", "policy": str(path)}))


@pytest.mark.parametrize("metadata", [None, {"format": "asg policy 0"}])
def test_a_policy_of_another_version(workplace, metadata):
    path = workplace.data / "old.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(AsgError, match=f"this version reads {FORMAT}: train it again"):
        run(toy({"kind": "learned", "policy": str(path)}))


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"reward": "money"}, "reward"),
        ({"gamma": 2.0}, "gamma"),
        ({"episodes": 0}, "episodes"),
        ({"metalr": 1}, "metalr"),
    ],
)
def test_a_wrong_setting_of_the_meta_training_is_named(overrides, named):
    with pytest.raises(AsgError, match=f"These settings are not valid — {named}: .*Fields: "):
        policy_config("asg", "toy", overrides)


def test_a_window_without_steps_is_refused():
    with pytest.raises(AsgError, match=r"control\.shortest: .*greater than or equal to 1"):
        toy({"kind": "random", "shortest": 0})


def test_an_unknown_policy_is_answered_with_the_known():
    with pytest.raises(AsgError, match="no policy 'agg': choose from asg, asg-1"):
        policy_config("agg", "toy")
    with pytest.raises(AsgError, match="no episodes: choose from toy"):
        policy_config("asg", "own")


def test_the_dry_run_of_the_papers_network_names_the_groups_of_each_rate(workplace):
    path = policy_file(workplace.data, Spec())
    config = make_config(PROFILES["paper"], {"control": {"kind": "learned", "policy": str(path)}})
    plan = dry_run(config)
    assert plan.parts == [[name] for name in RESNET]
    text = report(plan)
    assert "the policy's rate 1: conv1" in text and "the policy's rate 7: head" in text
    assert dry_run(make_config(PROFILES["toy"])).parts == []
    with pytest.raises(AsgError, match="fewer groups"):
        dry_run(toy({"kind": "random", "groups": 50}))


def test_overrides_of_the_student_are_added_to_the_declared_ones():
    meta = policy_config("asg", "toy", {"episodes": 2, "student": {"steps": 7}})
    assert (meta.episodes, meta.student.steps, meta.student.guidance) == (2, 7, 0.1)
    with pytest.raises(AsgError, match="not valid — stepps: "):
        policy_config("asg", "toy", {"student": {"stepps": 7}})


KILLED = """
import os, signal, sys
from asg import episodes
from asg_book import cli
make, calls = episodes.make_objective, []

def counting(*arguments):
    objective = make(*arguments)
    def counted(*batch):
        calls.append(None)
        if len(calls) == LAST:
            os.kill(os.getpid(), signal.SIGKILL)
        return objective(*batch)
    return counted

LAST = int(sys.argv[1])
episodes.make_objective = counting
sys.argv = ["asg", "policy", "train", "asg", "--profile", "toy", "--device", "cpu"]
cli.main()
"""


@pytest.mark.slow
def test_the_command_killed_in_an_episode_goes_on_to_the_same_policy(workplace, spawn, monkeypatch):
    """Killed in the second of three episodes of twelve steps; the third process is never interrupted."""
    monkeypatch.setenv("ASG_POLICIES", str(workplace.data / "policies"))
    policies = []
    for last in (17, 0, 0):
        process = spawn(KILLED, last)
        out, err = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if last else 0), err
        episodes = [line.split(":")[0] for line in out.splitlines() if line.startswith("episode")]
        assert episodes == {17: ["episode 0"]}.get(last, ["episode 1", "episode 2"] if not policies else episodes)
        if not last:
            assert "toy-asg.safetensors" in out
            policies.append(load_policy(workplace.data / "policies" / "toy-asg.safetensors"))
    (resumed, card), (uninterrupted, other) = policies
    assert all(torch.equal(v, uninterrupted.state_dict()[k]) for k, v in resumed.state_dict().items())
    assert card["curve"] == other["curve"] and len(card["curve"]) == 3
