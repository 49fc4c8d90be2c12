"""Pseudo-labels against sorting in plain Python, a numerical optimiser, closed forms and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import entropy
from torch.distributions import Categorical, kl_divergence

from asg import AsgError
from asg.data.images import UNLABELLED
from asg.pseudo_labels import (
    ConfidenceHistograms,
    class_thresholds,
    coverage_per_class,
    hard_labels,
    mrkld,
    precision_per_class,
    selection_matrix,
    self_training_loss,
    soft_labels,
)

PORTIONS = [0.0, 0.05, 0.2, 0.25, 0.5, 0.77, 1.0]


def answers(seed: int, *shape: int, scale: float = 2.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Probabilities of a network, classes along axis 1."""
    draws = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return (scale * draws).softmax(1)


def rounded(seed: int, n: int, classes: int) -> torch.Tensor:
    """Rows of twentieths that add up to 1, so that there are many ties and zeros."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.multinomial(20, rng.dirichlet(np.full(classes, 0.5), n)) / 20)


def thresholds_in_plain_python(p: torch.Tensor, portion: float) -> list[float]:
    per_class = []
    for c in range(p.shape[1]):
        mine = sorted((max(row) for row in p.tolist() if row.index(max(row)) == c), reverse=True)
        rank = int(portion * len(mine))
        per_class.append(mine[rank - 1] if rank else 1.0)
    return per_class


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """``(N, C)``, all 0 where there is no label."""
    return (labels[:, None] == torch.arange(classes)).long()


def thresholds(p: torch.Tensor, portion: float) -> torch.Tensor:
    confidence, predicted = p.max(1)
    return class_thresholds(confidence, predicted, p.shape[1], portion)


def histograms(p: torch.Tensor, batches: int = 1) -> ConfidenceHistograms:
    streamed = ConfidenceHistograms(p.shape[1])
    for part in p.chunk(batches):
        streamed.add(*part.max(1))
    return streamed


# --- thresholds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("portion", PORTIONS)
@pytest.mark.parametrize("make", [answers, rounded])
def test_a_threshold_is_the_confidence_at_the_floored_rank(make, portion: float):
    for seed, n in enumerate((1, 7, 40, 101)):
        p = make(seed, n, 5)
        assert thresholds(p, portion).tolist() == thresholds_in_plain_python(p, portion)


def test_a_case_by_hand_with_ties_a_class_too_rare_and_a_class_never_predicted():
    confidence = torch.tensor([0.9, 0.6, 0.8, 0.8, 0.7, 0.95])
    predicted = torch.tensor([0, 0, 0, 0, 0, 1])
    # Class 0: rank ⌊.4 · 5⌋ = 2 of .9 .8 .8 .7 .6. Class 1: ⌊.4 · 1⌋ = 0. Class 2: none.
    per_class = class_thresholds(confidence, predicted, 3, 0.4)
    assert torch.equal(per_class, torch.tensor([0.8, 1.0, 1.0]))
    p = torch.stack((confidence, 1 - confidence, torch.zeros(6)), 1)
    p[5] = p[5, [1, 0, 2]]
    assert hard_labels(p, per_class).tolist() == [
        0,
        UNLABELLED,
        0,
        0,
        UNLABELLED,
        UNLABELLED,
    ]  # both .8: one more than the rank


@pytest.mark.parametrize(
    ("count", "portion", "rank"), [(5, 0.5, 2), (3, 0.5, 1), (5, 0.77, 3), (5, 0.99, 4), (1, 0.99, 0)]
)
def test_a_rank_is_floored_and_not_rounded(count: int, portion: float, rank: int):
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55])[:count]
    expected = float(confidence[rank - 1]) if rank else 1.0
    assert float(class_thresholds(confidence, torch.zeros(count, dtype=torch.long), 1, portion)) == expected
    streamed = ConfidenceHistograms(1)
    streamed.add(confidence, torch.zeros(count, dtype=torch.long))
    assert float(streamed.thresholds(portion)[0]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("make", [answers, rounded])
def test_portion_0_labels_only_certain_answers_and_portion_1_every_one(make):
    p = make(3, 60, 4)
    certain = p.max(1).values == 1
    assert torch.equal(hard_labels(p, thresholds(p, 0.0)) != UNLABELLED, certain)
    assert bool((hard_labels(p, thresholds(p, 1.0)) != UNLABELLED).all())


@pytest.mark.parametrize("portion", [-0.1, 1.01, math.nan])
def test_a_portion_that_is_no_share_is_an_error(portion: float):
    p = answers(0, 4, 3)
    with pytest.raises(AsgError, match="choose a share from 0 to 1"):
        thresholds(p, portion)
    with pytest.raises(AsgError, match="choose a share from 0 to 1"):
        histograms(p).thresholds(portion)


def test_probabilities_that_are_not_numbers_are_an_error():
    p = answers(0, 4, 3).index_fill(0, torch.tensor(2), math.nan)
    with pytest.raises(AsgError, match="training diverged"):
        thresholds(p, 0.5)
    with pytest.raises(AsgError, match="training diverged"):
        histograms(p)


# --- thresholds of a whole set of pixels --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 8.0, 40.0])  # unsure, sure, and mostly above 1 − 2⁻²⁴
def test_streamed_thresholds_are_the_exact_ones_up_to_the_resolution(scale: float, dtype: torch.dtype):
    p = answers(5, 24, 6, 11, 13, scale=scale, dtype=dtype)
    streamed = histograms(p, batches=5)
    pixels = p.movedim(1, -1).flatten(0, -2)  # (N · H · W, C)
    for portion in PORTIONS:
        exact, approximate = thresholds(pixels, portion).double(), streamed.thresholds(portion)
        assert bool((approximate <= exact).all())
        assert bool(((1 - approximate) <= torch.maximum((1 - exact) * 1.0007, (1 - exact) + 2**-24)).all())


def test_streamed_thresholds_are_exact_for_the_surest_values_of_float32():
    """The 512 values below 1 have a bin of their own each, whose lower edge is less than half a step away."""
    confidence = 1 - torch.arange(512, dtype=torch.float32) * 2**-24
    streamed = ConfidenceHistograms(1)
    streamed.add(confidence, torch.zeros(512, dtype=torch.long))
    for rank in range(1, 513):
        assert torch.equal(streamed.thresholds(rank / 512).float(), confidence[rank - 1 : rank])


def test_streamed_thresholds_do_not_depend_on_the_batches():
    p = answers(6, 12, 4, 5, 5)
    assert torch.equal(histograms(p, 1).thresholds(0.3), histograms(p, 12).thresholds(0.3))
    assert int(histograms(p, 7).counts.sum()) == 12 * 5 * 5
    narrow = ConfidenceHistograms(4)
    narrow.add(p.max(1).values, p.argmax(1).to(torch.uint8))
    assert torch.equal(narrow.counts, histograms(p).counts)


def test_streamed_thresholds_select_what_the_exact_ones_do_and_little_more():
    p = answers(7, 40, 3, 16, 16, scale=1.0, dtype=torch.float32)
    exact = hard_labels(p, thresholds(p.movedim(1, -1).flatten(0, -2), 0.2)) != UNLABELLED
    selected = hard_labels(p, histograms(p).thresholds(0.2)) != UNLABELLED
    assert bool(selected[exact].all())
    assert 0 <= int((selected & ~exact).sum()) <= 0.01 * int(exact.sum())


def test_confidences_that_rounding_puts_above_1_count_as_1():
    streamed = ConfidenceHistograms(2)
    streamed.add(torch.tensor([1.0 + 2**-23, 0.5]), torch.tensor([1, 1]))
    assert streamed.thresholds(0.5).tolist() == [1.0, 1.0]
    assert streamed.thresholds(1.0).tolist() == [1.0, 0.5]


# --- hard labels --------------------------------------------------------------------------------------------------


def hard_in_plain_python(p: torch.Tensor, lam: torch.Tensor) -> list[int]:
    labels = []
    for row in p.tolist():
        ratios = [a / b for a, b in zip(row, lam.tolist(), strict=True)]
        labels.append(ratios.index(max(ratios)) if max(ratios) >= 1 else UNLABELLED)
    return labels


@pytest.mark.parametrize("portion", PORTIONS)
@pytest.mark.parametrize("make", [answers, rounded])
def test_hard_labels_are_the_largest_ratio_if_it_reaches_1(make, portion: float):
    p = make(8, 80, 5)
    lam = thresholds(p, portion)
    labels = hard_labels(p, lam)
    assert labels.dtype == torch.long
    assert labels.tolist() == hard_in_plain_python(p, lam)


def test_hard_labels_have_the_least_cost_of_all_one_hot_labels_and_none():
    p = answers(9, 60, 4)
    lam = thresholds(p, 0.3)
    cost = torch.cat((-(p / lam).log(), torch.zeros(60, 1)), 1)  # the last column: not selected
    best = cost.argmin(1)
    known = (cost.sort(1).values[:, 0] - cost.sort(1).values[:, 1]).abs() > 1e-12  # no tie with not selecting
    assert int(known.sum()) > 50
    assert torch.equal(hard_labels(p, lam)[known], best.masked_fill(best == 4, UNLABELLED)[known])


def test_labels_of_pixels_are_those_of_a_list_of_samples():
    p = answers(10, 3, 5, 4, 6, dtype=torch.float32)
    rows = p.movedim(1, -1).flatten(0, -2)  # (N · H · W, C)
    lam = thresholds(rows, 0.4)
    assert torch.equal(hard_labels(p, lam).flatten(), hard_labels(rows, lam))
    soft = soft_labels(p, lam, 0.25)
    assert soft.shape == p.shape
    torch.testing.assert_close(soft.movedim(1, -1).flatten(0, -2), soft_labels(rows, lam, 0.25))


def test_a_label_can_be_another_class_than_the_predicted_one():
    p = torch.tensor([[0.6, 0.35, 0.05]])
    assert hard_labels(p, torch.tensor([0.9, 0.3, 1.0])).tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_class_gets_at_least_its_portion_in_single_precision_too(dtype: torch.dtype):
    """The sample that sets a threshold has the ratio 1 exactly, and is selected; without ties no other of its class is."""
    p = answers(11, 500, 6, dtype=dtype)
    predicted = p.argmax(1)
    for portion in PORTIONS:
        lam = thresholds(p, portion)
        chosen = hard_labels(p, lam) != UNLABELLED
        reach = p.max(1).values >= lam[predicted]
        for c in range(6):
            mine = predicted == c
            assert int((mine & reach).sum()) == int(portion * int(mine.sum()))
            assert bool(chosen[mine & reach].all())


def test_growing_portions_select_nested_sets():
    p = torch.cat((answers(12, 300, 5), rounded(12, 300, 5)))
    for label in (hard_labels, lambda p, lam: soft_labels(p, lam, 0.25).sum(1)):
        counts, before = [], torch.zeros(600, dtype=torch.bool)
        for portion in PORTIONS:
            labels = label(p, thresholds(p, portion))
            chosen = labels != (0 if labels.is_floating_point() else UNLABELLED)
            assert bool(chosen[before].all())
            before = chosen
            counts.append(int(chosen.sum()))
        assert counts == sorted(set(counts))  # each round really selects more
        assert counts[-1] == 600


# --- soft labels --------------------------------------------------------------------------------------------------


def cost(y: np.ndarray, p: np.ndarray, lam: np.ndarray, alpha: float) -> float:
    """The papers' cost of a pseudo-label; entropy() is −Σ y log y in nats, of y divided by its sum."""
    return float(-(y * np.log(p / lam)).sum() - alpha * entropy(y))


def best_on_the_simplex(p: np.ndarray, lam: np.ndarray, alpha: float) -> np.ndarray:
    optimum = minimize(
        lambda y: -(y * np.log(p / lam)).sum() + alpha * (y * np.log(y)).sum(), np.full(len(p), 1 / len(p)),
        jac=lambda y: -np.log(p / lam) + alpha * (np.log(y) + 1), method="SLSQP", bounds=[(1e-12, 1)] * len(p),
        constraints={"type": "eq", "fun": lambda y: y.sum() - 1, "jac": lambda y: np.ones_like(y)},
        options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    assert optimum.success
    return optimum.x


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("lam", [[0.9, 0.9, 0.9, 0.9], [0.99, 0.6, 0.3, 1.0], [1.0, 1.0, 1.0, 1.0]])
def test_soft_labels_are_the_optimum_of_the_papers_problem(alpha: float, lam: list[float]):
    p = answers(13, 25, 4, scale=2.5)
    labels, selected = soft_labels(p, torch.tensor(lam).double(), alpha).numpy(), 0
    for row, y in zip(p.numpy(), labels, strict=True):
        best = best_on_the_simplex(row, np.array(lam), alpha)
        least = cost(best, row, np.array(lam), alpha)
        if abs(least) < 1e-6:  # α = 1, λ = 1: any probabilities cost exactly 0
            continue
        if least > 0:
            assert y.tolist() == [0.0] * 4
            continue
        selected += 1
        assert cost(y, row, np.array(lam), alpha) == pytest.approx(least, abs=1e-9)
        assert y == pytest.approx(best, abs=2e-5)
    assert selected > 0 or (lam[0] == 1 and alpha <= 1)  # Σ p^(1/α) is then at most 1


def test_the_least_cost_is_the_logarithm_of_the_sum():
    p, lam = answers(14, 1, 5)[0].numpy(), np.array([0.5, 0.6, 0.7, 0.8, 0.2])
    for alpha in (0.25, 1.0):
        least = cost(best_on_the_simplex(p, lam, alpha), p, lam, alpha)
        assert least == pytest.approx(-alpha * math.log(((p / lam) ** (1 / alpha)).sum()), abs=1e-9)


def test_with_alpha_1_and_thresholds_below_1_soft_labels_are_the_probabilities_over_the_thresholds():
    p, lam = answers(15, 20, 4), torch.tensor([0.9, 0.5, 0.7, 0.8], dtype=torch.float64)
    torch.testing.assert_close(soft_labels(p, lam, 1.0), (p / lam) / (p / lam).sum(1, keepdim=True))


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_from_alpha_1_on_every_sample_is_selected(alpha: float):
    p = answers(16, 100, 5)
    torch.testing.assert_close(soft_labels(p, thresholds(p, 0.05), alpha).sum(1), torch.ones(100, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [1e-4, 0.25])
def test_soft_labels_select_what_hard_labels_do(alpha: float, dtype: torch.dtype):
    """Also the sample that sets the threshold, whose other terms vanish beside the 1 in single precision."""
    p = torch.cat((answers(17, 200, 5, dtype=dtype), rounded(17, 200, 5).to(dtype)))
    for portion in PORTIONS:
        lam = thresholds(p, portion)
        hard, soft = hard_labels(p, lam) != UNLABELLED, soft_labels(p, lam, alpha).sum(1) > 0
        assert bool(soft[hard].all())


def test_soft_labels_become_hard_ones_as_alpha_goes_to_0():
    p = answers(18, 200, 5)
    lam = thresholds(p, 0.3)
    hard, soft = hard_labels(p, lam), soft_labels(p, lam, 1e-5)
    expected = one_hot(hard, 5)
    torch.testing.assert_close(soft, expected.double(), atol=1e-6, rtol=0)


def test_soft_labels_are_finite_for_probabilities_0_and_1_and_add_up_to_1_or_0():
    p = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [1e-45, 1 - 1e-7, 0.0], [0.34, 0.33, 0.33]])
    soft = soft_labels(p, torch.tensor([1.0, 0.5, 1e-30]), 0.01)
    assert bool(soft.isfinite().all())
    assert set(soft.sum(1).tolist()) <= {0.0, 1.0}
    assert soft[0].tolist() == [1.0, 0.0, 0.0]
    assert soft_labels(p[:1], torch.tensor([1.0, 0.5, 1.0]), 0.25).tolist() == [[1.0, 0.0, 0.0]]
    assert soft_labels(p[3:], torch.full((3,), 0.9), 0.25).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("alpha", [0.0, -1.0])
def test_soft_labels_without_a_positive_weight_are_an_error(alpha: float):
    with pytest.raises(AsgError, match="above 0, or use hard labels"):
        soft_labels(answers(0, 4, 3), torch.ones(3), alpha)


# --- losses -------------------------------------------------------------------------------------------------------


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 4), (2, 4, 3, 5)])
def test_the_loss_of_hard_and_soft_labels_is_the_plain_loop_over_what_is_selected(shape: tuple[int, ...]):
    x, p = logits(19, *shape), answers(20, *shape)
    rows, given = x.movedim(1, -1).flatten(0, -2), p.movedim(1, -1).flatten(0, -2)  # (samples or pixels, C)
    lam = thresholds(given, 0.4)
    for targets, weights in (
        (hard_labels(p, lam), one_hot(hard_labels(given, lam), 4)),
        (soft_labels(p, lam, 0.25), soft_labels(given, lam, 0.25)),
    ):
        total, count = 0.0, 0
        for row, w in zip(rows.tolist(), weights.tolist(), strict=True):
            normaliser = math.log(sum(math.exp(v) for v in row))
            total += sum(a * (normaliser - v) for a, v in zip(w, row, strict=True))
            count += any(w)
        assert 0 < count < len(rows)
        assert float(self_training_loss(x, targets)) == pytest.approx(total / count, rel=1e-12)


def test_one_hot_soft_labels_give_the_loss_of_hard_ones():
    x, hard = logits(21, 6, 3), torch.tensor([0, 2, UNLABELLED, 1, UNLABELLED, 0])
    soft = one_hot(hard, 3).double()
    torch.testing.assert_close(self_training_loss(x, soft), self_training_loss(x, hard))


def test_the_loss_has_the_gradient_answer_less_label_over_the_number_selected():
    x, p = logits(22, 8, 4).requires_grad_(), answers(23, 8, 4)
    soft = soft_labels(p, thresholds(p, 0.5), 0.25)
    chosen = soft.sum(1, keepdim=True)  # 1 or 0
    self_training_loss(x, soft).backward()
    assert 0 < float(chosen.sum()) < 8
    torch.testing.assert_close(x.grad, (x.detach().softmax(1) - soft) * chosen / chosen.sum())


@pytest.mark.parametrize("shape", [(7, 5), (2, 5, 3, 2)])
def test_the_model_regulariser_is_the_kl_from_uniform_and_log_c(shape: tuple[int, ...]):
    x = logits(24, *shape)
    rows = x.movedim(1, -1)  # (N, ..., C)
    selected = torch.rand(rows.shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.6
    assert 0 < int(selected.sum()) < selected.numel()
    divergence = kl_divergence(Categorical(logits=torch.zeros(5).double()), Categorical(logits=rows[selected]))
    torch.testing.assert_close(mrkld(x, selected, 0.1), 0.1 * (divergence.mean() + math.log(5)))
    assert float(mrkld(0 * x, selected, 0.1)) == pytest.approx(0.1 * math.log(5))


def test_the_model_regulariser_has_the_gradient_answer_less_uniform():
    x, selected = logits(25, 6, 4).requires_grad_(), torch.tensor([True, False, True, True, False, True])
    mrkld(x, selected, 0.5).backward()
    torch.testing.assert_close(x.grad, 0.5 / 4 * (x.detach().softmax(1) - 1 / 4) * selected[:, None])


def test_the_losses_have_the_gradients_of_finite_differences():
    x, p = logits(26, 2, 3, 2, 2).requires_grad_(), answers(27, 2, 3, 2, 2)
    lam = torch.full((3,), 0.8).double()
    hard = hard_labels(p, lam)
    assert 0 < int((hard != UNLABELLED).sum()) < 8
    assert torch.autograd.gradcheck(lambda x: self_training_loss(x, hard) + mrkld(x, hard != UNLABELLED, 0.1), x)
    assert torch.autograd.gradcheck(lambda x: self_training_loss(x, soft_labels(p, lam, 0.25)), x)


def test_with_nothing_selected_the_losses_and_their_gradients_are_0():
    x = logits(28, 2, 3, 2, 2).requires_grad_()
    none = torch.full((2, 2, 2), UNLABELLED)
    loss = self_training_loss(x, none) + self_training_loss(x, torch.zeros_like(x)) + mrkld(x, none != UNLABELLED, 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert bool((x.grad == 0).all())


# --- diagnostics --------------------------------------------------------------------------------------------------


def test_precision_and_coverage_by_hand():
    truth = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 3, UNLABELLED, UNLABELLED]], dtype=torch.int16)
    labels = torch.tensor([[0, 1, UNLABELLED, 1, 1], [UNLABELLED, 0, UNLABELLED, 2, UNLABELLED]])
    matrix = selection_matrix(labels, truth, 4)
    assert matrix.tolist() == [[1, 1, 0, 0, 1], [1, 2, 0, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    expected = torch.tensor([1 / 2, 2 / 3, math.nan, math.nan], dtype=torch.float64)
    torch.testing.assert_close(precision_per_class(matrix), expected, equal_nan=True)
    expected = torch.tensor([2 / 3, 3 / 4, math.nan, 0.0], dtype=torch.float64)
    torch.testing.assert_close(coverage_per_class(matrix), expected, equal_nan=True)


def test_precision_and_coverage_are_the_shares_counted_class_by_class():
    generator = torch.Generator().manual_seed(2)
    p, truth = answers(29, 400, 6), torch.randint(0, 6, (400,), generator=generator)
    labels = hard_labels(p, thresholds(p, 0.3))
    matrix = sum(selection_matrix(*part, 6) for part in zip(labels.split(64), truth.split(64), strict=True))
    assert torch.equal(matrix, selection_matrix(labels, truth, 6))
    for c in range(6):
        assert float(precision_per_class(matrix)[c]) == float((truth[labels == c] == c).double().mean())
        assert float(coverage_per_class(matrix)[c]) == float((labels[truth == c] != UNLABELLED).double().mean())


def test_of_300_classes_number_255_is_selected_learned_and_counted_like_any_other():
    p = torch.full((4, 300), 1e-4, dtype=torch.float64)
    p[torch.arange(4), [255, 255, 299, 255]] = torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    lam = thresholds(p, 0.75)
    assert lam[[255, 299, 0]].tolist() == [0.8, 1.0, 1.0]  # ranks ⌊.75 · 3⌋ = 2 and ⌊.75 · 1⌋ = 0
    labels = hard_labels(p, lam)
    assert labels.tolist() == [255, 255, UNLABELLED, UNLABELLED]
    matrix = selection_matrix(labels, torch.tensor([255, 7, 299, UNLABELLED]), 300)
    assert {tuple(entry): int(matrix[tuple(entry)]) for entry in matrix.nonzero().tolist()} == {
        (255, 255): 1, (7, 255): 1, (299, 300): 1,
    }  # fmt: skip
    x = torch.zeros(4, 300, dtype=torch.float64, requires_grad=True)
    loss = self_training_loss(x, labels) + mrkld(x, labels != UNLABELLED, 0.1)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.1 * math.log(300))
    assert x.grad[:, 255].tolist() == pytest.approx([(1 / 300 - 1) / 2] * 2 + [0.0] * 2)  # MRKLD's is 0 at the uniform


def test_a_truth_outside_the_classes_is_an_error_whether_selected_or_not():
    for label in (0, UNLABELLED):
        with pytest.raises(AsgError, match="map the labels"):
            selection_matrix(torch.tensor([label]), torch.tensor([3]), 3)
