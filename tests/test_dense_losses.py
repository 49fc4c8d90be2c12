"""Losses of segmentation against plain loops, closed forms and finite differences."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from asg.data.images import UNLABELLED
from asg.dense_losses import capped_weight, cut, segmentation_loss
from asg.dense_models import DenseStudent, FCNHead
from asg.losses import proxy_guidance


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_labels(classes: int, seed: int = 1) -> torch.Tensor:
    """int16 labels of two images of 5 × 6, a third of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (2, 5, 6), generator=generator, dtype=torch.int16)
    return labels.masked_fill(torch.rand(2, 5, 6, generator=generator) < 1 / 3, UNLABELLED)


# --- segmentation loss --------------------------------------------------------------------------------------------


def test_segmentation_loss_is_the_loop_over_labelled_pixels():
    logits, labels = 3 * random(2, 4, 5, 6), some_labels(4)
    terms = []
    for n in range(2):
        for i in range(5):
            for j in range(6):
                if (label := int(labels[n, i, j])) != UNLABELLED:
                    scores = logits[n, :, i, j].tolist()
                    terms.append(math.log(sum(math.exp(s) for s in scores)) - scores[label])
    assert 0 < len(terms) < 60
    assert float(segmentation_loss(logits, labels)) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_segmentation_loss_weighs_every_labelled_pixel_alike_whatever_its_image():
    """One image has a single labelled pixel, the other all 30: the mean is over 31 pixels, not over two images."""
    labels = torch.zeros(2, 5, 6, dtype=torch.long)
    labels[0] = UNLABELLED
    labels[0, 2, 3] = 1
    logits = torch.zeros(2, 2, 5, 6)
    logits[:, 0] = 10.0  # loss 10 + log(1 + e⁻¹⁰) on class 1, log(1 + e⁻¹⁰) on class 0
    assert float(segmentation_loss(logits, labels)) == pytest.approx(10 / 31 + math.log1p(math.exp(-10)), rel=1e-5)


def test_segmentation_loss_of_equal_logits_is_log_of_the_number_of_classes():
    assert float(segmentation_loss(torch.zeros(2, 19, 5, 6), some_labels(19))) == pytest.approx(math.log(19))


def test_segmentation_loss_of_a_batch_without_labels_is_zero_with_zero_gradient():
    logits = random(2, 4, 5, 6).requires_grad_()
    loss = segmentation_loss(logits, torch.full((2, 5, 6), UNLABELLED))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_segmentation_loss_has_the_gradient_of_finite_differences_and_none_at_ignored_pixels():
    logits, labels = random(2, 3, 5, 6).requires_grad_(), some_labels(3)
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels), logits)
    segmentation_loss(logits, labels).backward()
    assert torch.equal(logits.grad.abs().sum(1) == 0, labels == UNLABELLED)


def test_of_300_classes_number_255_is_learned_like_any_other():
    """At equal logits the loss is log 300, and its gradient 1/300 less the label, over the two labelled pixels."""
    logits = torch.zeros(1, 300, 1, 3, requires_grad=True)
    loss = segmentation_loss(logits, torch.tensor([[[255, UNLABELLED, 299]]], dtype=torch.int16))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(300))
    expected = torch.full((300, 3), 1 / 600)
    expected[255, 0] -= 1 / 2
    expected[299, 2] -= 1 / 2
    expected[:, 1] = 0
    torch.testing.assert_close(logits.grad[0, :, 0], expected)


# --- pieces of a map ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("chunks", "side"), [(1, 1), (2, 1), (4, 1), (1, 3), (2, 3)])
def test_pieces_are_blocks_of_the_map_averaged_to_cells_image_by_image_and_row_by_row(chunks: int, side: int):
    maps = random(2, 3, 12, 24)
    height, width = 12 // chunks, 24 // chunks
    expected = []
    for image in maps:
        for row in range(chunks):
            for column in range(chunks):
                piece = image[:, row * height : (row + 1) * height, column * width : (column + 1) * width]
                blocks = piece.reshape(3, side, height // side, side, width // side)  # (D, side, ·, side, ·)
                expected.append(blocks.mean((2, 4)).flatten())  # (D · side²,)
    torch.testing.assert_close(cut(maps, chunks, side), torch.stack(expected))


@pytest.mark.parametrize("side", [1, 7])
def test_one_piece_is_what_the_library_network_gives_its_classifier(side: int):
    maps = random(2, 3, 13, 18)  # not divisible by 7
    pool = nn.AdaptiveAvgPool2d((side, side))  # of torchvision's ResNet and VGG
    torch.testing.assert_close(cut(maps, 1, side), torch.flatten(pool(maps), 1))


def test_guidance_of_pieces_is_the_mean_of_their_divergences():
    weight = random(9, 3, seed=3)
    new, old = random(2, 3, 8, 12), random(2, 3, 8, 12, seed=4)
    total = 0.0
    for n in range(2):
        for i in (0, 4):
            for j in (0, 6):
                p, q = (m[n, :, i : i + 4, j : j + 6].mean((1, 2)) @ weight.T for m in (new, old))
                total += float(kl_divergence(Categorical(logits=q), Categorical(logits=p)))
    guidance = proxy_guidance(cut(new, 2, 1) @ weight.T, (cut(old, 2, 1) @ weight.T).log_softmax(1))
    assert float(guidance) == pytest.approx(total / 8, rel=1e-12)


def test_pieces_and_the_whole_agree_where_a_map_is_the_same_everywhere():
    new, old = (random(2, 3, 1, 1, seed=s).expand(2, 3, 8, 12) for s in (5, 6))
    unchunked = proxy_guidance(cut(new, 1, 1), cut(old, 1, 1).log_softmax(1))
    torch.testing.assert_close(proxy_guidance(cut(new, 4, 1), cut(old, 4, 1).log_softmax(1)), unchunked)


# --- guidance of a network ----------------------------------------------------------------------------------------


def tiny(side: int, seed: int = 0) -> DenseStudent:
    """Three smooth stages of stride 8, 16 and 32 in double precision, with every kind of layer that the students have."""
    generator = torch.Generator().manual_seed(seed)
    stages, width = nn.Sequential(), 3
    for name, (wider, stride) in {"a": (4, 8), "b": (5, 2), "c": (6, 2)}.items():
        stage = nn.Sequential(nn.Conv2d(width, wider, 3, stride, 1), nn.BatchNorm2d(wider), nn.Softplus())
        stages.add_module(name, stage)
        width = wider
    kept_head = nn.Sequential(nn.Linear(6 * side**2, 7), nn.Tanh(), nn.Linear(7, 9))
    head = FCNHead((6, 5, 4), (1.0, 0.01, 0.0001), 3)
    student = DenseStudent(stages, ("c", "b", "a"), "c", kept_head, side, head, ((0.5,) * 3, (0.25,) * 3)).double()
    for parameter in (*stages.parameters(), *kept_head.parameters()):
        nn.init.normal_(parameter, 0.0, 0.5, generator=generator)
    return student


def images(seed: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, 64, 96), generator=generator, dtype=torch.int16)


FORMS = pytest.mark.parametrize(("side", "chunks"), [(1, 1), (7, 1), (1, 2), (2, 2)])


@FORMS
def test_guidance_is_zero_with_zero_gradient_at_the_start_and_positive_after_a_step(side: int, chunks: int):
    student = tiny(side)
    teacher = student.teacher()
    with torch.no_grad():
        old = teacher.imagenet_logits(images(), chunks).log_softmax(1)
    assert old.shape == (2 * chunks**2, 9)

    def guidance() -> torch.Tensor:
        return proxy_guidance(student.kept_logits(student(images())[1], chunks), old)

    loss = guidance()
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert max(float(p.grad.abs().max()) for p in student.backbone.parameters()) < 1e-12
    with torch.no_grad():
        for parameter in student.backbone.parameters():
            parameter.mul_(1.1)
    assert float(guidance().detach()) > 1e-6


@FORMS
def test_guidance_has_the_gradient_of_finite_differences_in_the_weights_of_the_backbone(side: int, chunks: int):
    student, old = tiny(side), tiny(side, seed=1).imagenet_logits(images(), chunks).detach().log_softmax(1)

    def guidance() -> torch.Tensor:
        return proxy_guidance(student.kept_logits(student(images())[1], chunks), old)

    guidance().backward()
    weights = list(student.backbone.parameters())
    direction = [random(*p.shape, seed=k) for k, p in enumerate(weights)]
    slope, ends = sum(float((p.grad * d).sum()) for p, d in zip(weights, direction, strict=True)), []
    step = 1e-6
    with torch.no_grad():
        for move in (step, -2 * step):  # to +step, then to −step
            for parameter, d in zip(weights, direction, strict=True):
                parameter.add_(move * d)
            ends.append(float(guidance()))
    assert abs(slope) > 1e-3
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
    assert all(p.grad is None for p in (*student.kept_head.parameters(), *student.task_head.parameters()))


# --- cap ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl", [0.0, -1e-9, 0.01, 0.12])  # rounding makes a divergence of 0 slightly negative
def test_the_weight_stays_while_the_weighted_guidance_is_at_most_nine(kl: float):
    assert float(capped_weight(75.0, torch.tensor(kl))) == 75.0


@pytest.mark.parametrize("kl", [0.1201, 1.0, 50.0])
def test_above_nine_the_weighted_guidance_is_nine(kl: float):
    weight = capped_weight(75.0, torch.tensor(kl))
    assert float(weight) == pytest.approx(9 / kl)
    assert float(weight * kl) == pytest.approx(9.0)


@pytest.mark.parametrize(("kl", "slope"), [(0.1, 75.0), (3.0, 3.0)])
def test_the_weight_is_a_constant_of_the_gradient(kl: float, slope: float):
    value = torch.tensor(kl, requires_grad=True)
    (capped_weight(75.0, value) * value).backward()
    assert float(value.grad) == pytest.approx(slope)  # not 0, which it would be if 9 / KL were differentiated
