"""Metrics of segmentation against torchmetrics, scikit-learn and a case worked out by hand."""

import math

import pytest
import torch
from sklearn.metrics import jaccard_score
from torchmetrics.classification import MulticlassConfusionMatrix

from asg import AsgError
from asg.data.images import UNLABELLED
from asg.dense_metrics import confusion_matrix, iou_per_class, mean_iou, pixel_accuracy


def pixels(seed: int, classes: int, shape: tuple[int, ...] = (3, 12, 17)) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions that are right about half the time, and int16 labels of which about a fifth are ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    other = torch.randint(0, classes, shape, generator=generator)
    predicted = torch.where(torch.rand(shape, generator=generator) < 0.5, labels, other)
    ignored = torch.rand(shape, generator=generator) < 0.2
    return predicted, labels.masked_fill(ignored, UNLABELLED).to(torch.int16)


@pytest.mark.parametrize("classes", [2, 5, 19, 300])
def test_the_confusion_matrix_is_that_of_torchmetrics(classes: int):
    predicted, labels = pixels(classes, classes)
    reference = MulticlassConfusionMatrix(classes, ignore_index=UNLABELLED)
    ours = confusion_matrix(predicted, labels, classes)
    assert torch.equal(ours, reference(predicted, labels.long()))
    assert ours.sum() == (labels != UNLABELLED).sum()


def test_matrices_of_parts_add_up_to_that_of_the_whole_set_in_integers():
    predicted, labels = pixels(1, 7, (9, 8, 8))
    reference = MulticlassConfusionMatrix(7, ignore_index=UNLABELLED)
    total = torch.zeros(7, 7, dtype=torch.int64)
    for part, truth in zip(predicted.split(2), labels.split(2), strict=True):
        total += confusion_matrix(part, truth, 7)
        reference.update(part, truth.long())
    assert total.dtype == torch.int64
    assert torch.equal(total, confusion_matrix(predicted, labels, 7))
    assert torch.equal(total, reference.compute())


def test_counts_beyond_what_single_precision_can_hold_are_exact():
    """2²⁴ + 1 pixels right and one wrong: in float32 the union would be rounded."""
    count = 2**24 + 1
    matrix = torch.tensor([[count, 1], [0, 0]])
    assert iou_per_class(matrix).tolist() == [count / (count + 1), 0.0]


# Rows are the truth: class 3 is never predicted, class 4 only predicted, class 5 neither.
HAND_LABELS = torch.tensor([[0, 0, 0, 1, 1], [1, 2, 2, 3, 3], [-1, -1, -1, 0, 1]], dtype=torch.int16)
HAND_PREDICTED = torch.tensor([[0, 0, 1, 1, 4], [1, 2, 2, 2, 0], [5, 0, 3, 0, 1]])


def test_a_case_with_ignored_pixels_absent_classes_and_a_class_never_predicted_by_hand():
    matrix = confusion_matrix(HAND_PREDICTED, HAND_LABELS, 6)
    expected = torch.zeros(6, 6, dtype=torch.int64)
    for truth, predicted, count in ((0, 0, 3), (0, 1, 1), (1, 1, 3), (1, 4, 1), (2, 2, 2), (3, 2, 1), (3, 0, 1)):
        expected[truth, predicted] = count
    assert torch.equal(matrix, expected)
    by_hand = torch.tensor([3 / 5, 3 / 5, 2 / 3, 0.0, 0.0, math.nan], dtype=torch.float64)
    torch.testing.assert_close(iou_per_class(matrix), by_hand, equal_nan=True)
    assert mean_iou(matrix) == pytest.approx((3 / 5 + 3 / 5 + 2 / 3 + 0 + 0) / 5)  # over the five that occur
    assert pixel_accuracy(matrix) == pytest.approx(8 / 12)


@pytest.mark.parametrize("seed", range(3))
def test_mean_iou_is_sklearns_macro_jaccard_score_over_the_classes_that_occur(seed: int):
    predicted, labels = pixels(seed, 4)
    predicted, labels = (
        predicted * 2,
        torch.where(labels == UNLABELLED, labels, labels * 2),
    )  # classes 1, 3, 5, 7, 8 do not occur
    known = labels != UNLABELLED
    expected = jaccard_score(labels[known].numpy(), predicted[known].numpy(), labels=[0, 2, 4, 6], average="macro")
    assert mean_iou(confusion_matrix(predicted, labels, 9)) == pytest.approx(expected, rel=1e-12)


def test_a_perfect_prediction_has_an_iou_of_one_and_a_swapped_one_of_zero():
    labels = torch.arange(3).repeat(4)
    perfect, swapped = confusion_matrix(labels, labels, 3), confusion_matrix((labels + 1) % 3, labels, 3)
    assert (mean_iou(perfect), pixel_accuracy(perfect)) == (1.0, 1.0)
    assert (mean_iou(swapped), pixel_accuracy(swapped)) == (0.0, 0.0)


def test_of_300_classes_number_255_counts_like_any_other():
    labels = torch.tensor([255, 255, 299, UNLABELLED, 0], dtype=torch.int16)
    matrix = confusion_matrix(torch.tensor([255, 256, 299, 255, 255]), labels, 300)
    entries = {(255, 255): 1, (255, 256): 1, (299, 299): 1, (0, 255): 1}
    assert {tuple(entry): int(matrix[tuple(entry)]) for entry in matrix.nonzero().tolist()} == entries
    assert float(iou_per_class(matrix)[255]) == pytest.approx(1 / 3)


def test_a_set_without_a_labelled_pixel_has_no_score():
    matrix = confusion_matrix(torch.zeros(2, 4, 4), torch.full((2, 4, 4), UNLABELLED), 3)
    assert int(matrix.sum()) == 0
    assert math.isnan(mean_iou(matrix))
    assert math.isnan(pixel_accuracy(matrix))


@pytest.mark.parametrize(("label", "predicted"), [(30, 0), (255, 0), (-2, 0), (3, 0), (0, 3), (0, -1)])
def test_a_label_or_prediction_outside_the_classes_is_an_error(label: int, predicted: int):
    with pytest.raises(AsgError, match="none of the classes 0 … 2 and its label is not -1: map the labels"):
        confusion_matrix(torch.tensor([0, predicted]), torch.tensor([0, label]), 3)
    assert int(confusion_matrix(torch.tensor([0, 7]), torch.tensor([0, UNLABELLED]), 3).sum()) == 1
