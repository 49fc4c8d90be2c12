"""Self-training: who labels what, what a batch holds, and a run that is stopped anywhere goes on to the same result."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from asg import AsgError
from asg.cli import adapt
from asg.config import RunConfig, make_config
from asg.data import load_domains, read_domains, unlabelled, with_truth
from asg.data.images import UNLABELLED, Domains, Draws, ImageSet, StepSampler
from asg.model_files import load_model
from asg.own import model_of
from asg.pseudo_labels import class_thresholds, hard_labels, mrkld, soft_labels
from asg.trainers import self_training
from asg.trainers.self_training import Halves, Labeller, Union, label, make_objective, survey
from asg.trainers.task import Task
from asg_book.golden import centred
from asg_book.profiles import PROFILES

ADAPT = {"rounds": 2, "length": 0.5, "rate": 1.0, "portion": 0.5, "growth": 0.5}
HOW = {"CBST": {}, "MRKLD": {"mrkld": 0.1}, "LRENT": {"lrent": 0.25}, "both": {"mrkld": 0.1, "lrent": 0.25}}
DATA = {"images": {"data": "toy"}, "scenes": {"data": "toy-scenes", "batch": 4, "lr": 0.001}}


def adapting(data: str = "images", **settings: object) -> RunConfig:
    return make_config(PROFILES["toy"], DATA[data], {"adapt": {**ADAPT, **settings}})


class Table(nn.Module):
    """A network that answers logits by the first pixel of an image."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.logits[x[:, 0, 0, 0].long()],)


@pytest.fixture
def answers() -> torch.Tensor:
    return 2 * torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target(answers) -> list:
    return [(i, torch.full((3, 2, 2), i, dtype=torch.uint8), torch.tensor(i % 3)) for i in range(len(answers))]


@pytest.mark.parametrize("kind", [StepSampler, Draws])
def test_a_batch_is_half_source_and_half_target(kind):
    batches = list(Halves(kind, kind, 9, 15, 6, 3, 0, 9))
    pairs = [[key if isinstance(key, tuple) else (key, None) for key in batch] for batch in batches]
    assert all(sorted(i >= 9 for i, _ in batch) == [False] * 3 + [True] * 3 for batch in pairs)
    assert all((i >= 9) == bool(k % 2) for batch in pairs for k, (i, _) in enumerate(batch))  # in turn
    assert {i for batch in pairs for i, _ in batch} == set(range(15))
    if kind is Draws:
        assert all(draw == step for step, batch in enumerate(pairs) for _, draw in batch)


def test_a_batch_has_no_more_target_images_than_are_chosen():
    assert all(
        len(batch) == 4 and sum(i >= 5 for i in batch) == 1
        for batch in Halves(StepSampler, StepSampler, 5, 6, 4, 0, 0, 7)
    )


def test_batches_go_on_where_they_stopped():
    assert (
        list(Halves(StepSampler, StepSampler, 10, 16, 6, 3, 4, 9))
        == list(Halves(StepSampler, StepSampler, 10, 16, 6, 3, 0, 9))[4:]
    )


def test_the_union_has_the_targets_images_without_their_labels(workplace):
    domains, config = load_domains(make_config(PROFILES["toy"])), adapting()
    union = Union(domains.source, unlabelled(config), (4, 1))
    assert len(union) == len(domains.source) + 2
    assert union[3][0] == 3 and torch.equal(union[3][1], domains.source[3][1]) and union[3][2] == domains.source[3][2]
    index, image, hidden = union[len(domains.source) + 1]
    assert index == len(domains.source) + 1 and torch.equal(image, domains.target[1][1])
    assert int(hidden) == UNLABELLED


@pytest.mark.parametrize("portion", [0.0, 0.34, 0.5, 1.0])
def test_the_survey_finds_the_thresholds_of_the_whole_set(answers, target, portion: float):
    thresholds = survey(Table(answers), target, 3, portion, torch.device("cpu"))
    exact = class_thresholds(*answers.softmax(1).max(1), 3, portion)
    assert thresholds.tolist() == pytest.approx(exact.tolist(), abs=1e-3)
    assert (thresholds <= exact + 1e-6).all()


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_the_labels_are_those_of_the_papers_equations(answers, target, alpha: float):
    thresholds = class_thresholds(*answers.softmax(1).max(1), 3, 0.5)
    labeller = Labeller(Table(answers), thresholds, alpha)
    x = torch.stack([image for _, image, _ in target])
    p = answers.softmax(1)
    assert torch.equal(labeller(x), soft_labels(p, thresholds, alpha) if alpha else hard_labels(p, thresholds))
    chosen, quality = label(labeller, target, 3, torch.device("cpu"))
    soft = labeller(x)
    hard = soft.argmax(1).where(soft.sum(1) > 0, UNLABELLED) if alpha else soft
    assert chosen == tuple(i for i in range(12) if hard[i] != UNLABELLED)
    matrix = torch.tensor(quality["selection"])
    assert quality["labelled"] == [int((hard == c).sum()) for c in range(3)]
    assert quality["pseudo"] == hard.tolist()
    assert matrix.sum() == 12 and matrix[:, -1].sum() == 12 - len(chosen)
    assert matrix[:, :-1].diagonal().sum() == sum(int(hard[i]) == i % 3 for i in chosen)
    assert quality["sure"] == pytest.approx(float(p.max(1).values[list(chosen)].mean()))


@pytest.mark.parametrize("method", HOW)
def test_the_objective_is_source_plus_pseudo_labels_plus_regulariser(answers, method: str):
    alpha, beta = HOW[method].get("lrent", 0.0), HOW[method].get("mrkld", 0.0)
    thresholds = torch.tensor([0.5, 0.9, 0.6])
    student, labeller = Table(answers * 0.5), Labeller(Table(answers), thresholds, alpha)
    x = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 2, 2)
    indices, labels = torch.tensor([0, 20, 1, 21, 2, 22, 3, 23]), torch.tensor([0, -1, 1, -1, 2, -1, 0, -1])
    losses = make_objective(20, labeller, beta)(student, indices, x, labels)
    total, losses = losses["total"], {name: value.detach() for name, value in losses.items()}
    source = torch.tensor([0, 2, 4, 6])
    logits, p = answers * 0.5, answers.softmax(1)
    assert float(losses["task"]) == pytest.approx(float(F.cross_entropy(logits[source], labels[source])), abs=1e-6)
    terms, selected = [], []
    for i in (1, 3, 5, 7):  # −Σ ŷ log p of each selected one, by hand
        y = soft_labels(p[i : i + 1], thresholds, alpha)[0] if alpha else torch.zeros(3)
        if not alpha and (k := int(hard_labels(p[i : i + 1], thresholds)[0])) != UNLABELLED:
            y[k] = 1
        if y.sum() > 0:
            terms.append(-(y * logits[i].log_softmax(0)).sum())
            selected.append(i)
    assert len(terms) > 0
    assert float(losses["pseudo"]) == pytest.approx(float(sum(terms) / len(terms)), abs=1e-6)
    if beta:
        expected = mrkld(logits[selected], torch.ones(len(selected), dtype=torch.bool), beta)
        assert float(losses["mrkld"]) == pytest.approx(float(expected), abs=1e-6)
    assert float(losses["total"]) == pytest.approx(sum(float(v) for k, v in losses.items() if k != "total"), abs=1e-6)
    total.backward()
    assert labeller.network.logits.grad is None or not labeller.network.logits.grad.any()


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("method", HOW)
def test_rounds_label_more_and_more_and_end_elsewhere(workplace, tmp_path, data: str, method: str):
    config = adapting(data, **HOW[method])
    start = centred(config)
    result, network = self_training.train(config, tmp_path, start, "cpu")
    assert [e["step"] for e in result["evaluations"]] == [0, 4, 8]
    assert [e["round"] for e in result["evaluations"]] == [1, 1, 2]
    assert [e["portion"] for e in result["evaluations"]] == [0.5, 0.5, 1.0]
    assert not torch.equal(
        *(n.task_head.state_dict()[k] for n in (start, network) for k in list(n.task_head.state_dict())[-1:])
    )
    matrix = torch.tensor(result["final"]["selection"])
    assert matrix[:, -1].sum() == 0  # portion 1: everything has a label
    assert result["final"] == result["evaluations"][-1]


def test_the_first_evaluation_is_the_starts(workplace, tmp_path):
    config = adapting()
    result, network = self_training.train(config, tmp_path / "a", centred(config), "cpu")
    (tmp_path / "b").mkdir()
    again, _ = self_training.train(config, tmp_path / "b", network, "cpu")
    assert again["evaluations"][0]["accuracy"] == result["final"]["accuracy"]


def test_the_truth_of_the_target_trains_nothing(workplace, tmp_path, monkeypatch):
    config = adapting()
    _, network = self_training.train(config, tmp_path / "a", centred(config), "cpu")
    target = with_truth(config)
    wrong = replace(target, labels=target.labels.flip(0))
    monkeypatch.setattr(self_training, "with_truth", lambda config: wrong)
    _, other = self_training.train(config, tmp_path / "b", centred(config), "cpu")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


class Lookup(nn.Module):
    """A network of 300 classes that answers a row of logits by the pixel (n // 2, n % 2, real or not) of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(4 * torch.eye(300).repeat(2, 1))  # (600, 300): renders, then photographs

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.logits[(x[:, :, 0, 0].long() * torch.tensor([2, 1, 300])).sum(1)],)


def numbered(real: int, labels: torch.Tensor) -> ImageSet:
    names = tuple(map(str, range(300)))
    return ImageSet(lambda i: np.full((2, 2, 3), (i // 2, i % 2, real), np.uint8), labels, names, names, "300")


def test_of_300_classes_number_255_is_selected_learned_and_counted(tmp_path, monkeypatch):
    """Each photograph has a row of logits of its own, so that nothing but its pseudo-label can move it."""
    source, target = numbered(0, torch.arange(300)), numbered(1, torch.arange(300))
    hidden = replace(target, labels=torch.full((300,), UNLABELLED))
    monkeypatch.setattr(self_training, "unlabelled", lambda config: hidden)
    monkeypatch.setattr(self_training, "with_truth", lambda config: target)
    monkeypatch.setattr(self_training, "read_domains", lambda config: Domains(source, source, target))
    learner = SimpleNamespace()
    learner.prepare = lambda config, accelerator: Task(
        network := Lookup(), {"head": list(network.parameters())}, source, None, lambda now: {}, source, "accuracy"
    )
    monkeypatch.setattr(self_training, "base_of", lambda config: learner)
    adapt = {**ADAPT, "rounds": 1, "portion": 1.0, "length": 1.0}
    config = make_config(PROFILES["toy"], {"steps": 60, "batch": 20, "lr": 1.0, "weight_decay": 0.0, "adapt": adapt})
    result, network = self_training.train(config, tmp_path, Lookup(), "cpu")
    final = result["final"]
    assert final["pseudo"] == list(range(300)) and final["labelled"] == [1] * 300
    assert torch.equal(torch.tensor(final["selection"])[:, :300], torch.eye(300, dtype=torch.long))
    before, after = (n.logits.detach()[300:].softmax(1).diagonal() for n in (Lookup(), network))
    assert bool((after > before).all())


class Stopped(Exception):
    pass


@pytest.mark.parametrize("step", [2, 4, 5, 8], ids=["inside round 1", "after it", "inside round 2", "at the end"])
def test_a_stopped_run_goes_on_to_the_same_result(workplace, tmp_path, monkeypatch, step: int):
    """Stopped after ``step``, with a checkpoint at every look."""
    monkeypatch.setattr("asg.trainers.loop.CHECK", 1)
    monkeypatch.setattr("asg.trainers.loop.CHECKPOINT_SECONDS", -1.0)
    config = adapting(**HOW["both"])
    uninterrupted, network = self_training.train(config, tmp_path / "a", centred(config), "cpu")
    honest, steps = self_training.make_objective, [0]

    def failing(*arguments: object):
        objective = honest(*arguments)

        def stop(*batch: object) -> dict:
            if steps[0] == step:
                raise Stopped
            steps[0] += 1
            return objective(*batch)

        return stop

    def end(evaluation: dict) -> None:
        if step == 8 and steps[0] == 8:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(self_training, "make_objective", failing)
        with pytest.raises(Stopped):
            self_training.train(config, tmp_path / "b", centred(config), "cpu", end)
    again, other = self_training.train(config, tmp_path / "b", centred(config), "cpu")
    assert again["evaluations"] == uninterrupted["evaluations"]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("data", DATA)
def test_what_is_adapted_to_has_no_label(workplace, data: str):
    hidden, known = unlabelled(adapting(data)), with_truth(adapting(data))
    for i in range(3):
        (_, image, labels), (_, same, truth) = hidden[i], known[i]
        assert torch.equal(image, same) and bool((labels == UNLABELLED).all()) and labels.shape == truth.shape
        assert bool((truth != UNLABELLED).any())


@pytest.mark.parametrize("data", DATA)
def test_half_of_the_target_is_adapted_to_and_the_other_reported_on(workplace, data: str):
    target, half = read_domains(adapting(data)).target, adapting(data, half=True)
    ours, theirs = unlabelled(half).names, read_domains(half).target.names
    assert not set(ours) & set(theirs) and set(ours) | set(theirs) == set(target.names)
    assert abs(len(ours) - len(theirs)) <= 1
    reported = read_domains(half).target
    index = target.names.index(reported.names[1])
    assert all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(reported[1][1:], target[index][1:], strict=True)
    )
    assert unlabelled(half).fingerprint != reported.fingerprint != target.fingerprint


def test_nothing_sure_enough_is_a_sentence(workplace, tmp_path):
    config = adapting(portion=0.0, growth=0.0)
    with pytest.raises(AsgError, match=r"No image is sure enough to be a pseudo-label in round 1: raise portion \(0\)"):
        self_training.train(config, tmp_path, centred(config), "cpu")


def test_pseudo_labels_of_one_class_alone_are_a_sentence(workplace, tmp_path):
    config = adapting()
    start = centred(config)
    with torch.no_grad():
        start.task_head[-1].bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    name = read_domains(config).source.classes[0]
    with pytest.raises(AsgError, match=f"Every pseudo-label of round 1 is {name!r}"):
        self_training.train(config, tmp_path, start, "cpu")


def test_the_start_is_left_as_it_was(workplace, tmp_path):
    config = adapting()
    start = centred(config)
    before = copy.deepcopy(start.state_dict())
    self_training.train(config, tmp_path, start, "cpu")
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items())


@pytest.fixture
def own(workplace, image_folders, tmp_path):
    """A model of `asg train` on the folders, and photos without labels."""
    names = ("size", "backbone", "weights", "head_width", "batch", "lr", "warmup")
    small = {**{name: PROFILES["toy"][name] for name in names}, "steps": 40, "guidance": 0.0, "backbone_factor": 1.0}
    model_of(image_folders.source, None, tmp_path / "model", small, "cpu")
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, path in enumerate(sorted(image_folders.target.rglob("*.png"))):
        path.rename(photos / f"{i}.png")
    return image_folders.source, photos, tmp_path / "model", tmp_path / "adapted"


def adapt_own(source, photos, model, out, *settings: str) -> None:
    adapt(model, [str(source)], photos, out, [f"{k}={v}" for k, v in ADAPT.items()] + list(settings), "cpu")


def test_a_model_of_own_folders_is_adapted_to_unlabelled_photos(own, capsys):
    adapt_own(*own)
    out = capsys.readouterr().out
    assert re.search(r"apple +\d+\n +boat +\d+\n +cup +\d+\nThe model is in", out)
    student, config, classes = load_model(own[3])
    assert (config.adapt, classes) == (None, ("apple", "boat", "cup"))
    before, _, _ = load_model(own[2])
    assert not torch.equal(student.task_head[2].weight, before.task_head[2].weight)
    assert sorted(p.name for p in own[3].iterdir() if p.is_dir()) == []


def test_photos_that_are_missing_and_another_models_classes_are_a_sentence(own, tmp_path):
    source, photos, model, out = own
    (tmp_path / "none").mkdir()
    with pytest.raises(AsgError, match="holds 0 images"):
        adapt_own(source, tmp_path / "none", model, out)
    with pytest.raises(AsgError, match="does not exist"):
        adapt_own(source, tmp_path / "nowhere", model, out)
    (source / "cup").rename(source / "mug")
    with pytest.raises(AsgError, match=r"has the classes apple, boat, mug, and .* knows apple, boat, cup"):
        adapt_own(source, photos, model, out)
    with pytest.raises(AsgError, match="pace"):
        (source / "mug").rename(source / "cup")
        adapt_own(source, photos, model, out, "pace=3")
