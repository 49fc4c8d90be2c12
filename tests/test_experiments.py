"""The catalogue: every arm is valid, every published number has its source, a wrong name is answered with the right ones."""

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy

from asg import AsgError
from asg.data import load_domains, subset
from asg.models import build
from asg.run import run
from asg.trainers.classification import make_evaluation, train
from asg_book.catalogue import EXPERIMENTS, get
from asg_book.catalogue.rivals import CHOSEN
from asg_book.experiment import Experiment
from asg_book.policies import REPEATS, policy_config
from asg_book.profiles import BOOK, PROFILES, learned, policy_name

ARMS = [(e.id, arm) for e in EXPERIMENTS.values() for arm in e.arms]
# Read in Chen et al. 2021 (CSG), table 1: the only numbers that may be printed for VisDA-17.
CSG_TABLE_5 = {25.88, 29.65, 29.63, 32.79}  # table 5, its ASG columns
CRST = {33.35, 46.47, 46.51, 47.39}
CSG_TABLE_1 = {49.3, 53.3, 56.4, 57.6, 57.1, 61.1, 64.05}


def test_self_training_starts_where_its_training_ends(workplace):
    """On digits, whose classes a short training tells apart; the record begins with that training's own end."""
    overrides = {"data": "digits", "evaluations": 1, "steps": 60, "lr": 0.03, "adapt": {"portion": 0.8, "rounds": 1}}
    config = get("adaptation").config("toy", "vanilla, CBST", 0, overrides)
    start = run(config.model_copy(update={"adapt": None}), device="cpu")["final"]
    record = run(config, device="cpu")
    assert record["evaluations"][0]["per_class"] == start["per_class"]
    assert [e["step"] for e in record["evaluations"]] == [0, 30]


def test_the_oracle_is_the_untrained_networks_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "data"))
    result, _ = train(get("oracle").config("toy", "imagenet", 0), tmp_path, device="cpu")
    assert (result["steps"], len(result["evaluations"])) == (0, 1)
    final = result["final"]
    assert (final["step"], final["agreement"], final["kl"]) == (0, 1.0, pytest.approx(0.0, abs=1e-6))
    assert set(final["drift"].values()) == {0.0}
    assert result["best_on_target"] == final


def test_without_photos_there_is_no_best_on_them(tmp_path, monkeypatch, image_folders):
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "data"))
    overrides = {"data": "folder", "source": str(image_folders.source), "batch": 4, "steps": 2, "evaluations": 2}
    result, _ = train(get("guidance").config("toy", "small", 0, overrides), tmp_path, device="cpu")
    assert result["best_on_target"] is None and len(result["evaluations"]) == 3


def test_the_held_out_error_is_that_of_designs_and_absent_for_one_image(tmp_path, monkeypatch):
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "data"))
    config, cpu = get("guidance").config("toy", "small", 0), torch.device("cpu")
    domains = load_domains(config)
    student = build(config, len(domains.source.classes))
    held = dataclasses.replace(domains.validation, cluster=torch.arange(len(domains.validation)) // 4)
    with torch.inference_mode():
        losses = cross_entropy(student(held.batch(range(len(held))))[0], held.labels, reduction="none")
    evaluate = make_evaluation(student, dataclasses.replace(domains, validation=held), config, cpu)
    by_design = losses.view(-1, 4).mean(1)  # (designs,)
    assert evaluate(student)["validation_loss_error"] == pytest.approx(float(by_design.std() / 3**0.5), rel=1e-4)
    alone = make_evaluation(student, dataclasses.replace(domains, validation=subset(held, [0])), config, cpu)
    assert "validation_loss_error" not in alone(student) and alone(student)["validation_loss"] > 0


def test_another_number_of_threads_is_another_file_of_teacher_outputs(tmp_path, monkeypatch):
    """Their last bits differ, so that runs of different thread counts must not meet in one file."""
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "data"))
    for threads in (1, 2):
        config = get("guidance").config("toy", "small_proxy", 0, {"steps": 0, "threads": threads})
        (tmp_path / str(threads)).mkdir()
        train(config, tmp_path / str(threads), device="cpu")
    names = sorted(p.stem.rpartition("-")[2] for p in (tmp_path / "data" / "cache" / "teacher").iterdir())
    assert names == ["cpu1"] * 3 + ["cpu2"] * 3


def test_arms_start_from_the_same_network(tmp_path, monkeypatch, untrained_policies):
    """At step 0 nothing but the rates and λ tells the arms of one experiment and seed apart."""
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "data"))
    experiment, starts = get("guidance"), []
    for arm in experiment.arms:
        (tmp_path / arm).mkdir()
        config = experiment.config("toy", arm, 3, {"steps": 0})
        starts.append(train(config, tmp_path / arm, device="cpu")[0]["final"])
    assert len(starts) >= 6
    assert all(start == starts[0] for start in starts)


def test_sketches_and_renders_have_the_policies_of_cartoons_and_others_their_own():
    assert {policy_name(profile, "asg") for profile in ("cartoon", "sketch", "cad")} == {"cartoon-asg"}
    assert [policy_name(profile, "asg-1") for profile in ("toy", "mini", "paper")] == [
        "toy-asg-1",
        "mini-asg-1",
        "paper-asg-1",
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_arm_is_a_valid_configuration_of_every_profile(profile: str):
    for name, arm in ARMS:
        config = get(name).config(profile, arm, 7)
        assert (config.profile, config.seed) == (profile, 7)
        arm_of = dict(get(name).arms[arm])
        of_profile, *_ = [arm_of.pop(p, {}) for p in (profile, *(PROFILES.keys() - {profile}))]
        for field, value in {**arm_of, **of_profile}.items():
            given = getattr(config, field)
            if isinstance(value, dict):
                value = {**arm_of.get(field, {}), **value}
                if value.get("policy"):
                    value["policy"] = policy_name(profile, value["policy"])
                given = {key: getattr(given, key) for key in value}
            assert given == value, (name, arm, field)


@pytest.mark.parametrize("profile", PROFILES)
def test_an_arms_runs_are_its_seeds_with_each_repeated_policy_of_its_profile(profile: str):
    runs = get("comparison").configs(profile, "ASG", [3, 1])
    expected = [(policy_name(profile, name), seed) for name in ("asg", "asg-1", "asg-2") for seed in (3, 1)]
    assert [(c.control.policy, c.seed) for c in runs] == expected
    assert runs[0] == get("comparison").config(profile, "ASG", 3)
    assert tuple(c.seed for c in get("comparison").configs(profile, "SI")) == get("comparison").seeds_of(profile)


def test_policies_are_repeated_where_the_tables_stay():
    repeated = {e.id for e in EXPERIMENTS.values() if any(e.repeats(arm) for arm in e.arms)}
    resnets = {"segmentation_resnet50", "segmentation_resnet101"}
    others = {"guidance_lite1", "comparison_lite1"}
    assert repeated == {"guidance", "policies", "comparison", "since", "segmentation", *resnets, *others}
    assert get("segmentation").repeats("asg") == REPEATS["asg"]
    assert get("segmentation").repeats("l2o") == get("segmentation").repeats("vanilla") == ()
    assert [c.control.policy for c in get("rewards").configs("mini", "asg", [0])] == ["mini-asg"]
    assert get("policies").config("paper", "search", 0).control.policy == "paper-l2o-search"


@pytest.mark.parametrize(("first", "names"), REPEATS.items())
def test_repeated_policies_differ_in_their_seed_alone(first: str, names: tuple[str, ...]):
    metas = [policy_config(name, "mini") for name in names]
    assert names[0] == first and [meta.seed for meta in metas] == [0, 1, 2]
    assert len({meta.model_copy(update={"seed": 0}).model_dump_json() for meta in metas}) == 1


def test_a_control_of_the_users_own_replaces_every_repeated_policy():
    own = {"control": {"kind": "learned", "policy": "my.safetensors"}}
    (run_of_it,) = get("guidance").configs("mini", "asg", [0], own)
    assert run_of_it.control.policy == "my.safetensors" and not run_of_it.control.schedule


def test_a_profiles_part_of_an_arm_changes_fields_of_its_control():
    arm = {**learned("asg"), "guidance": 0.1, "paper": {"control": {"schedule": False}, "guidance": 0.2}}
    one = Experiment("x", "?", {"a": arm})
    assert (one.config("paper", "a", 0).control.schedule, one.config("mini", "a", 0).control.schedule) == (False, True)
    assert one.config("paper", "a", 0).control.policy == "paper-asg"
    assert (one.config("paper", "a", 0).guidance, one.config("mini", "a", 0).guidance) == (0.2, 0.1)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_arms_of_an_experiment_are_different_runs(name: str):
    home, arms = get(name).home, list(get(name).arms)
    if "early stopping" in arms and CHOSEN[home]["early"] == "whole length":
        arms.remove("early stopping")  # the rule chose to stop nowhere
    configs = [get(name).config(home, arm, 0) for arm in arms]
    assert len({(c.identity(), c.control and c.control.policy) for c in configs}) == len(configs)


def test_the_guidance_arms_differ_in_nothing_but_backbone_rate_and_guidance():
    expected = {
        "frozen": (0.0, 0.0),
        "large": (1.0, 0.0),
        "large_proxy": (1.0, 0.1),
        "small": (0.1, 0.0),
        "small_proxy": (0.1, 0.1),
    }
    hand_tuned = [arm for arm, overrides in get("guidance").arms.items() if "control" not in overrides]
    configs = {arm: get("guidance").config("paper", arm, 0) for arm in hand_tuned}
    assert {arm: (configs[arm].backbone_factor, configs[arm].guidance) for arm in expected} == expected
    rest = {c.model_copy(update={"backbone_factor": 0.0, "guidance": 0.0}).to_json() for c in configs.values()}
    assert len(rest) == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_filed_under_its_id_and_refers_to_its_own_arms(name: str):
    experiment = EXPERIMENTS[name]
    assert experiment.id == name
    assert experiment.question.endswith("?")
    assert all(len(set(seeds)) == len(seeds) > 0 for seeds in experiment.seeds.values())
    assert {arm for pair in experiment.family for arm in pair} <= set(experiment.arms)
    assert all(a != b for a, b in experiment.family)
    assert len({frozenset(pair) for pair in experiment.family}) == len(experiment.family)
    assert set(experiment.metric_of) <= set(experiment.arms)
    assert set(experiment.published) <= set(experiment.arms)


def test_every_published_value_has_a_source_and_stands_in_it():
    published = [p for e in EXPERIMENTS.values() for p in e.published.values()]
    assert len(published) >= 2
    table_1 = "Chen et al. 2021 (CSG), table 1, VisDA-17, ResNet-101"
    table_5 = "Chen et al. 2021 (CSG), table 5, GTA5 → Cityscapes, mIoU"
    readme = "Zou et al. 2019 (CRST), README of their code, GTA5 → Cityscapes, mIoU"
    assert {p.source for p in published} == {table_1, table_5, readme}
    assert {p.value for p in published if p.source == readme} <= CRST
    assert {p.value for p in published if p.source == table_1} <= CSG_TABLE_1
    assert {p.value for p in published if p.source == table_5} <= CSG_TABLE_5
    assert get("oracle").published["imagenet"].value == 53.3
    assert get("guidance").published["small"].value == 49.3


def test_the_paper_profile_has_the_papers_settings():
    c = get("guidance").config("paper", "small_proxy", 0)
    assert (c.data, c.backbone, c.weights, c.size) == ("visda17", "torchvision:resnet101", "pretrained", 224)
    assert (c.batch, c.epochs, c.head_width, c.warmup) == (32, 30, 512, 100)
    assert (c.lr, c.backbone_factor, c.guidance) == (1e-4, 0.1, 0.1)
    assert (c.momentum, c.weight_decay, c.sgd) == (0.9, 5e-4, "reference")


def test_the_papers_policies_decide_as_in_the_paper():
    """No warm-up and no decay in classification; epochs of 2,000 steps and windows of 20 in segmentation, with them."""
    asg, l2o = (get(name).config("paper", arm, 0) for name, arm in (("policies", "asg"), ("segmentation", "l2o")))
    assert (asg.control.schedule, asg.control.shortest, asg.control.epoch, asg.lr) == (False, 10, None, 1e-4)
    assert (l2o.control.schedule, l2o.control.shortest, l2o.control.epoch, l2o.lr) == (True, 20, 2000, 1e-3)
    assert not get("policies").config("paper", "random", 0).control.schedule
    assert get("policies").config("mini", "random", 0).control.schedule
    assert not policy_config("asg", "paper").student.control.schedule


def test_seeds_are_those_of_a_profile_and_elsewhere_as_many_as_at_home():
    one = Experiment("x", "?", {"a": {}}, seeds={"cartoon": (5, 6), "cad": (7,)})
    assert [one.seeds_of(p) for p in ("cartoon", "cad", "toy", "paper")] == [(5, 6), (7,), (0, 1), (0, 1)]
    assert one.home == "cartoon"
    assert [config.seed for config in one.configs("cad", "a")] == [7]
    with pytest.raises(AsgError, match="'x' is not run in the profile 'mini': choose from cartoon, cad, toy, paper"):
        one.configs("mini", "a")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_run_in_profiles_of_the_book(name: str):
    assert EXPERIMENTS[name].seeds.keys() <= set(BOOK)


def test_profiles_are_stamped_with_their_name():
    assert {name: base["profile"] for name, base in PROFILES.items()} == {name: name for name in PROFILES}


def test_an_unknown_experiment_is_named_with_those_there_are():
    with pytest.raises(AsgError) as caught:
        get("tabel1")
    assert "'tabel1'" in str(caught.value)
    assert all(name in str(caught.value) for name in EXPERIMENTS)


def test_an_unknown_arm_is_named_with_those_there_are():
    with pytest.raises(AsgError) as caught:
        get("guidance").config("toy", "smal", 0)
    assert "'smal'" in str(caught.value)
    assert "'guidance'" in str(caught.value)
    assert all(arm in str(caught.value) for arm in get("guidance").arms)


def test_an_unknown_profile_is_named_with_those_there_are():
    with pytest.raises(AsgError) as caught:
        get("guidance").config("huge", "small", 0)
    assert "'huge'" in str(caught.value)
    assert all(profile in str(caught.value) for profile in PROFILES)


def test_overrides_come_after_the_arm_and_are_checked():
    assert get("guidance").config("toy", "small", 0, {"backbone_factor": 0.5}).backbone_factor == 0.5
    with pytest.raises(AsgError, match="batsch"):
        get("guidance").config("toy", "small", 0, {"batsch": 3})


def test_an_experiment_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("guidance").metric = "kept"
