"""What the last evaluation of a run measures, and no other: the energy of the photographs' features, and CKA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from torch.nn.functional import normalize

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.data import load_domains, read_domains
from asg.data.images import make_folder
from asg.models import build
from asg.trainers import classification, self_training
from asg_book.golden import centred
from asg_book.profiles import PROFILES

COSTLY = {"hse0", "hse1", "hse2", "cka"}


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], {"steps": 4, "evaluations": 2, **overrides})


def costly(evaluations: list[dict]) -> list[set[str]]:
    return [COSTLY & evaluation.keys() for evaluation in evaluations]


def test_only_the_last_evaluation_has_them_and_they_are_those_of_the_features(workplace) -> None:
    """Against scipy's distances between the features that the trained network gives the photographs."""
    config = toy()
    result, network = classification.train(config, workplace.runs, "cpu")
    assert [e["step"] for e in result["evaluations"]] == [0, 2, 4]
    assert costly(result["evaluations"]) == [set(), set(), COSTLY]
    photos = read_domains(config).target
    with torch.inference_mode():
        features = network(photos.batch(range(len(photos))))[2]
    far = pdist(normalize(features.double(), dim=1).numpy())
    for power, expected in enumerate(((-2 * np.log(far)).mean(), (1 / far).mean(), (far**-2).mean())):
        assert result["final"][f"hse{power}"] == pytest.approx(expected, rel=1e-5)


def test_the_only_evaluation_of_a_run_without_steps_is_the_last(workplace) -> None:
    result, _ = classification.train(toy(steps=0), workplace.runs, "cpu")
    assert costly(result["evaluations"]) == [COSTLY]
    assert result["final"]["cka"] == pytest.approx(1.0)  # the ImageNet network, compared with itself


@pytest.mark.parametrize("last", [0, 2, 4])
def test_a_resumed_run_measures_them_at_its_end(workplace, last: int) -> None:
    def stop(evaluation: dict) -> None:
        if evaluation["step"] == last:
            raise KeyboardInterrupt

    uninterrupted, _ = classification.train(toy(), make_folder(workplace.runs / "whole"), "cpu")
    stopped = make_folder(workplace.runs / "stopped")
    with pytest.raises(KeyboardInterrupt):
        classification.train(toy(), stopped, "cpu", stop)
    assert (stopped / "checkpoint.pt").exists()
    resumed, _ = classification.train(toy(), stopped, "cpu")
    assert resumed["evaluations"] == uninterrupted["evaluations"] and costly([resumed["final"]]) == [COSTLY]


def test_rounds_of_self_training_measure_them_at_their_ends(workplace) -> None:
    config = toy(adapt={"rounds": 2, "portion": 0.9})
    result, _ = self_training.train(config, workplace.runs, centred(config), "cpu")
    assert costly(result["evaluations"]) == [set(), COSTLY, COSTLY] and result["final"]["round"] == 2


def test_a_single_photograph_has_no_pairs(workplace, image_folders) -> None:
    for path in list(image_folders.target.rglob("*.png"))[1:]:
        path.unlink()
    for folder in image_folders.target.iterdir():
        if not any(folder.iterdir()):
            folder.rmdir()
    config = toy(data="folder", source=str(image_folders.source), target=str(image_folders.target), steps=0)
    result, _ = classification.train(config, workplace.runs, "cpu")
    assert costly([result["final"]]) == [{"cka"}]


def test_an_evaluation_that_is_not_the_last_does_not_compute_them(workplace, monkeypatch) -> None:
    """Its time is the point: 55,388 photographs of VisDA-17 take minutes."""

    def refuse(*_: object) -> None:
        raise AsgError("computed")

    monkeypatch.setattr(classification, "hyperspherical_energy", refuse)
    monkeypatch.setattr(classification, "linear_cka", refuse)
    config, device = toy(), torch.device("cpu")
    domains = load_domains(config)
    student = build(config, len(domains.source.classes))
    evaluate = classification.make_evaluation(student, domains, config, device)
    assert COSTLY & evaluate(student).keys() == set()
    with pytest.raises(AsgError, match="computed"):
        evaluate(student, final=True)
