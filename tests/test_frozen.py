"""The answers of a backbone that has not moved: heads on features that are computed once and kept."""

from __future__ import annotations

import pytest
import torch

from asg.config import RunConfig, make_config
from asg.data import load_domains
from asg.metrics import forward_all
from asg.models import Student, build
from asg.trainers import classification, frozen
from asg_book.experiments import PROFILES

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
