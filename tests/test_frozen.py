"""The answers of a backbone that has not moved: heads on features that are computed once and kept."""

from __future__ import annotations

import pytest
import torch

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.data import cache_root, load_domains
from asg.data.images import make_folder
from asg.losses import proxy_guidance
from asg.metrics import forward_all
from asg.models import Student, build
from asg.trainers import classification, frozen, segmentation
from asg_book.profiles import PROFILES

CPU = torch.device("cpu")


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], {"steps": 4, "evaluations": 2, **overrides})


@pytest.mark.parametrize("mirror", [False, True])
def test_heads_on_kept_features_answer_as_the_whole_network(workplace, mirror: bool) -> None:
    photos, student = load_domains(toy()).target, build(toy(), 3)
    for given, expected in zip(
        frozen.outputs(student, photos, CPU, mirror), forward_all(student, photos, 5, CPU, mirror), strict=True
    ):
        torch.testing.assert_close(given, expected)


@pytest.mark.parametrize(("factor", "evaluations"), [(0.0, 0), (0.1, 2)])
def test_photographs_pass_a_backbone_again_only_once_it_has_moved(workplace, monkeypatch, factor, evaluations) -> None:
    """Each evaluation after the first step then answers photographs and their mirror images anew."""
    config, passes = toy(backbone_factor=factor), []
    photos = load_domains(config).target

    def counted(network, images, *arguments, **named):
        if isinstance(network, Student) and images.fingerprint == photos.fingerprint:
            passes.append(named.get("mirror", False))
        return forward_all(network, images, *arguments, **named)

    monkeypatch.setattr(classification, "forward_all", counted)
    classification.train(config, workplace.runs, "cpu")
    assert passes == [False, True] * evaluations


def test_a_head_learns_the_same_on_known_features(workplace) -> None:
    source, student = load_domains(toy()).source, build(toy(), 3)
    indices, x = torch.arange(5), source.batch(range(5))
    known = frozen.features(student, source, CPU)
    results = []
    for features in (None, known):
        loss = classification.make_objective(toy(), None, None, features)(student, indices, x, source.labels[:5])
        head = list(student.task_head.parameters())
        results.append((loss["total"], *torch.autograd.grad(loss["total"], head)))
    torch.testing.assert_close(*results)


def test_a_backbone_that_does_not_move_is_not_run_while_the_head_learns(workplace, monkeypatch) -> None:
    config, passes, features = toy(backbone_factor=0.0), [], Student.features
    classification.train(config, make_folder(workplace.runs / "first"), "cpu")  # keeps the features
    monkeypatch.setattr(Student, "features", lambda self, x: passes.append(len(x)) or features(self, x))
    classification.train(config, make_folder(workplace.runs / "second"), "cpu")
    assert passes == []
    result, _ = classification.train(toy(backbone_factor=0.1), make_folder(workplace.runs / "other"), "cpu")
    assert len(passes) > result["steps"]


def test_rounded_answers_take_half_the_disk_and_are_off_by_a_share_of_a_2048th(workplace) -> None:
    source, student = load_domains(toy()).source, build(toy(), 3)
    indices, x = torch.arange(8), source.batch(range(8))
    exact = frozen.batch_answers(student, source, CPU)(indices, x)
    rounded = frozen.batch_answers(student, source, CPU, "fp16")(indices, x)
    assert rounded.dtype == torch.float32 and 0 < (rounded / exact - 1).abs().max() <= 2**-11
    small, large = sorted(path.stat().st_size for path in (cache_root() / "teacher").iterdir())
    assert (small, large) == (2 * exact[0].numel() * len(source) + 80, 4 * exact[0].numel() * len(source) + 80)
    logits = torch.randn(8, exact.shape[1], generator=torch.Generator().manual_seed(0))
    # d KL = Σ p δ (1 + log p - log q) to first order, with |δ| <= |log p| / 2048
    p, log_q = exact.exp(), logits.log_softmax(1)
    bound = float((p * exact.abs() * (1 + exact - log_q).abs()).sum(1).mean()) / 2048
    assert float(proxy_guidance(logits, rounded)) == pytest.approx(float(proxy_guidance(logits, exact)), abs=bound)


def test_scenes_have_no_rounded_answers(workplace) -> None:
    config = make_config(PROFILES["toy"], {"data": "toy-scenes", "steps": 1, "guidance": 0.1, "teacher": "fp16"})
    with pytest.raises(AsgError, match="teacher = fp16 is of classification alone: leave it out"):
        segmentation.train(config, workplace.runs, "cpu")
