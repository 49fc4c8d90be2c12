"""What the synthetic images say beforehand, against closed forms and an independent implementation."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, mutual_info_score

from asg import signals
from asg.config import make_config
from asg.data.images import ImageSet
from asg.data.looks import LOOKS
from asg.run import run
from asg_book.profiles import PROFILES


def certain(answers: torch.Tensor, classes: int) -> torch.Tensor:
    """Log-probabilities of a network that has no doubt (and no logarithm of zero)."""
    return torch.nn.functional.one_hot(answers, classes).double().clamp(min=1e-30).log()


def test_entropy_of_known_answers():
    even, sure = torch.full((3, 8), 1 / 8).log(), certain(torch.tensor([0, 1, 2]), 8)
    assert signals.answers_entropy(even) == pytest.approx(math.log(8))
    assert signals.answers_entropy(sure) == pytest.approx(0, abs=1e-9)
    assert signals.answers_entropy(torch.cat([even, sure])) == pytest.approx(math.log(8) / 2)


def test_information_of_certain_answers_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (300,), generator=generator)
    answers = (labels + torch.randint(2, (300,), generator=generator)) % 7
    entropy = mutual_info_score(labels, labels)
    expected = mutual_info_score(labels, answers) / entropy
    assert signals.shared_information(certain(answers, 7), labels) == pytest.approx(expected, rel=1e-6)


def test_information_is_0_of_equal_answers_and_1_of_telling_ones():
    labels = torch.tensor([3, 3, 5, 5, 9, 9])  # classes 0 to 2 have no image
    equal = torch.tensor([[0.2, 0.3, 0.5]]).log().expand(6, 3)
    assert signals.shared_information(equal, labels) == pytest.approx(0, abs=1e-6)
    telling = certain(torch.tensor([0, 1, 2, 2, 3, 4]), 5)
    assert signals.shared_information(telling, labels) == pytest.approx(1)


def test_mapped_accuracy_is_that_of_the_classes_that_have_an_imagenet_class():
    mapping = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]])  # the third class has none
    p = torch.tensor([[0.3, 0.3, 0.4, 0], [0.1, 0.1, 0.8, 0], [0, 0, 0.3, 0.7], [1, 0, 0, 0], [1, 0, 0, 0]]) + 1e-9
    labels = torch.tensor([0, 0, 1, 1, 2])
    predicted = [0, 1, 1, 0]  # of the first four; two of ImageNet's classes together outweigh the third
    expected = balanced_accuracy_score(labels[:4], predicted)
    assert signals.mapped_accuracy(p.log(), labels, mapping) == pytest.approx(expected)
    assert math.isnan(signals.mapped_accuracy(p.log()[4:], labels[4:], mapping))


def test_looks_are_measured_on_images_that_have_them():
    """A network that answers by colour is lost without it."""
    colours = torch.eye(3) * 255
    pictures = [colours[k].expand(48, 48, 3).to(torch.uint8).numpy() for k in (0, 1, 2, 0)]
    held = ImageSet(pictures.__getitem__, torch.tensor([0, 1, 2, 0]), ("r", "g", "b"), ("",) * 4, "colours")

    def network(x: torch.Tensor) -> tuple[torch.Tensor]:
        return (x.float().mean((2, 3)),)  # (N, 3)

    measures = signals.under_looks(network, held, 2, torch.device("cpu"))
    assert measures.keys() == LOOKS.keys()
    assert measures["blurred"]["accuracy"] == 1 and measures["posterised"]["accuracy"] == 1
    assert measures["grey"]["accuracy"] == pytest.approx(1 / 3)
    assert measures["edges"]["accuracy"] == pytest.approx(1 / 3)
    assert measures["grey"]["loss"] == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    ("overrides", "new"),
    [({}, {"entropy", "information", "mapped", "looks"}), ({"data": "toy-scenes", "batch": 4}, {"entropy", "looks"})],
    ids=["images", "scenes"],
)
def test_a_run_that_is_asked_records_them_and_no_other(workplace, overrides: dict, new: set[str]):
    plain, asked = (run(make_config(PROFILES["toy"], overrides, {"signals": wanted})) for wanted in (None, True))
    assert asked["final"].keys() - plain["final"].keys() == new
    assert {name: value for name, value in asked["final"].items() if name not in new} == plain["final"]
    assert all(not new & evaluation.keys() for evaluation in asked["evaluations"][:-1])
    assert asked["final"]["looks"].keys() == LOOKS.keys()
