"""Losses against torch.distributions, plain loops, scikit-learn and finite differences."""

import doctest
import math

import pytest
import torch
from sklearn.metrics import log_loss
from torch.distributions import Categorical, kl_divergence

from asg import losses
from asg.losses import proxy_guidance, task_loss


def logits(seed: int, n: int = 5, k: int = 7, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, k, generator=generator, dtype=torch.float64)


def double_loop(new: torch.Tensor, old_log_probabilities: torch.Tensor) -> float:
    """KL(old ‖ new) summed over classes, averaged over images, in plain Python."""
    total = 0.0
    for i in range(len(new)):
        normaliser = math.log(sum(math.exp(v) for v in new[i].tolist()))
        for k in range(new.shape[1]):
            log_q = float(old_log_probabilities[i, k])
            total += math.exp(log_q) * (log_q - (float(new[i, k]) - normaliser))
    return total / len(new)


def test_proxy_guidance_is_the_mean_kl_of_torch_distributions():
    new, old = logits(1), logits(2)
    expected = kl_divergence(Categorical(logits=old), Categorical(logits=new)).mean()
    torch.testing.assert_close(proxy_guidance(new, old.log_softmax(1)), expected)


def test_proxy_guidance_is_the_double_loop_over_images_and_classes():
    new, old = logits(3, 4, 6), logits(4, 4, 6).log_softmax(1)
    assert float(proxy_guidance(new, old)) == pytest.approx(double_loop(new, old), rel=1e-12)


def test_proxy_guidance_of_a_uniform_student_is_log_k_less_the_teachers_entropy():
    old = logits(5, 3, 10).log_softmax(1)
    entropy = Categorical(logits=old).entropy().mean()
    torch.testing.assert_close(proxy_guidance(torch.zeros_like(old), old), math.log(10) - entropy)


def test_proxy_guidance_diverges_from_the_teacher_not_towards_it():
    """KL(old ‖ new) with old = (1/2, 1/2) and new = (1/4, 3/4) is ½ log(4/3), and the other way round it is not."""
    old, new = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(proxy_guidance(new, old)) == pytest.approx(0.5 * math.log(4 / 3))
    assert float(proxy_guidance(old, new)) == pytest.approx(0.75 * math.log(3) - math.log(2))


def test_proxy_guidance_is_zero_with_zero_gradient_where_student_and_teacher_agree():
    new = logits(6).requires_grad_()
    loss = proxy_guidance(new, logits(6).log_softmax(1))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    torch.testing.assert_close(new.grad, torch.zeros_like(new.grad), atol=1e-12, rtol=0)


def test_proxy_guidance_ignores_a_shift_of_an_images_logits():
    new, old = logits(7), logits(8).log_softmax(1)
    torch.testing.assert_close(proxy_guidance(new + logits(9, k=1), old), proxy_guidance(new, old))


def test_proxy_guidance_does_not_change_when_the_batch_is_repeated():
    new, old = logits(10), logits(11).log_softmax(1)
    torch.testing.assert_close(proxy_guidance(new.repeat(3, 1), old.repeat(3, 1)), proxy_guidance(new, old))


@pytest.mark.parametrize("seed", range(20))
def test_proxy_guidance_is_never_negative(seed: int):
    scale = 10.0 ** (seed % 4 - 2)  # from nearly equal to far apart
    assert float(proxy_guidance(logits(seed, scale=scale), logits(seed + 100, scale=scale).log_softmax(1))) > 0


def test_proxy_guidance_has_the_gradient_of_finite_differences():
    new, old = logits(12).requires_grad_(), logits(13).log_softmax(1)
    assert torch.autograd.gradcheck(lambda x: proxy_guidance(x, old), new)


def test_proxy_guidance_has_the_gradient_student_less_teacher_over_the_batch_size():
    new, old = logits(14).requires_grad_(), logits(15)
    proxy_guidance(new, old.log_softmax(1)).backward()
    torch.testing.assert_close(new.grad, (new.detach().softmax(1) - old.softmax(1)) / len(new))


def test_proxy_guidance_is_finite_for_a_teacher_that_is_certain():
    old = torch.tensor([[1e4, 0.0, 0.0]]).log_softmax(1)  # probability exactly 1, 0, 0 in float32
    new = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    loss = proxy_guidance(new, old)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(3))
    torch.testing.assert_close(new.grad, torch.tensor([[1 / 3 - 1, 1 / 3, 1 / 3]]))


def test_task_loss_is_sklearns_log_loss():
    scores, labels = logits(16, 9, 4), torch.tensor([0, 1, 2, 3, 3, 2, 1, 0, 0])
    expected = log_loss(labels.numpy(), scores.softmax(1).numpy(), labels=range(4))
    assert float(task_loss(scores, labels)) == pytest.approx(expected, rel=1e-9)


def test_task_loss_of_equal_logits_is_log_of_the_number_of_classes():
    assert float(task_loss(torch.zeros(3, 12), torch.tensor([0, 5, 11]))) == pytest.approx(math.log(12))


def test_task_loss_has_the_gradient_of_finite_differences():
    labels = torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(lambda x: task_loss(x, labels), logits(17).requires_grad_())


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(losses)
    assert result.attempted > 0
    assert result.failed == 0
