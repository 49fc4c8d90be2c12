"""Metrics against scikit-learn and against cases small enough to work out by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import sem
from sklearn.metrics import balanced_accuracy_score, recall_score
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from asg.data.images import UNLABELLED, ImageSet
from asg.metrics import (
    FLOOR,
    accuracy_per_class,
    answers,
    class_map,
    evaluate_photos,
    forward_all,
    hyperspherical_energy,
    linear_cka,
    mean_error,
    mean_per_class,
)

CPU = torch.device("cpu")


def photos(labels: list[int], classes: tuple[str, ...], imagenet: list[int] | None = None, size: int = 4) -> ImageSet:
    """Image i is grey i on its left half and grey 100 + i on its right half."""

    def decode(i: int) -> np.ndarray:
        image = np.full((size, size, 3), i, dtype=np.uint8)
        image[:, size // 2 :] += 100
        return image

    known = None if imagenet is None else torch.tensor(imagenet)
    return ImageSet(decode, torch.tensor(labels), classes, tuple(map(str, range(len(labels)))), "f", known)


@pytest.mark.parametrize("seed", range(5))
def test_mean_per_class_is_sklearns_balanced_accuracy(seed: int):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(6), torch.randint(0, 6, (60,), generator=generator) ** 2 // 6])
    predicted = torch.where(torch.rand(66, generator=generator) < 0.5, labels, labels.flip(0))
    expected = balanced_accuracy_score(labels.numpy(), predicted.numpy())
    assert mean_per_class(predicted, labels, 6) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_mean_per_class_leaves_out_classes_without_images(seed: int):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (40,), generator=generator) * 2  # classes 1, 3, 5, 6 have no image
    predicted = torch.randint(0, 7, (40,), generator=generator)
    expected = recall_score(labels.numpy(), predicted.numpy(), labels=[0, 2, 4], average="macro")
    assert mean_per_class(predicted, labels, 7) == pytest.approx(expected, rel=1e-6)


def test_the_error_of_a_mean_by_hand():
    """1 2 | 6: mean 3, deviations −2 − 1 and 3 of two clusters: √(2 / 1 · ((−3 / 3)² + (3 / 3)²)) = 2."""
    values = torch.tensor([1.0, 6.0, 2.0])
    assert mean_error(values, torch.tensor([7, 3, 7])) == pytest.approx(2.0)
    assert mean_error(values) == pytest.approx(float(values.std()) / 3**0.5)


@pytest.mark.parametrize("seed", range(3))
def test_clusters_of_one_size_are_as_good_as_their_means(seed: int):
    """The standard error of G means of m values each; errors that renders share make it larger than the plain one."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(20, 1, generator=generator)
    values = shared + 0.1 * torch.randn(20, 4, generator=generator)
    cluster, order = torch.arange(20).repeat_interleave(4), torch.randperm(80, generator=generator)
    error = mean_error(values.flatten()[order], cluster[order])
    assert error == pytest.approx(sem(values.mean(1).numpy()), rel=1e-6)
    assert error > 1.7 * mean_error(values.flatten())


def test_one_cluster_has_no_error():
    assert mean_error(torch.tensor([1.0, 2.0]), torch.tensor([4, 4])) is None
    assert mean_error(torch.tensor([1.0])) is None


def test_mean_per_class_weighs_a_rare_class_like_a_common_one():
    labels = torch.tensor([0] * 9 + [1])
    assert mean_per_class(torch.zeros(10, dtype=torch.long), labels, 2) == 0.5


def test_accuracy_per_class_counts_each_class_and_is_nan_without_images():
    result = accuracy_per_class(torch.tensor([0, 1, 1, 3, 0]), torch.tensor([0, 0, 1, 1, 0]), 4)
    torch.testing.assert_close(result, torch.tensor([2 / 3, 1 / 2, math.nan, math.nan]), equal_nan=True)


def test_class_map_marks_exactly_the_listed_pairs():
    result = class_map({"b": [0, 3], "a": [4], "none": []}, ("a", "none", "b"), 6)
    expected = torch.zeros(6, 3)
    for row, column in ((0, 2), (3, 2), (4, 0)):
        expected[row, column] = 1
    assert torch.equal(result, expected)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_forward_all_answers_in_the_order_of_the_images_for_any_batch(batch: int):
    (values,) = forward_all(lambda x: (x[:, 0, 0, 0].float(),), photos([0] * 5, ("a",)), batch, CPU)
    assert values.tolist() == [0, 1, 2, 3, 4]


def test_forward_all_mirrors_left_and_right_only():
    def corners(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, 0, 0, 0], x[:, 1, -1, 0]  # top left, bottom left

    for mirror, expected in ((False, [0, 1, 2]), (True, [100, 101, 102])):
        top, bottom = forward_all(corners, photos([0] * 3, ("a",)), 2, CPU, mirror=mirror)
        assert top.tolist() == bottom.tolist() == expected
    tall = ImageSet(
        lambda i: np.arange(4, dtype=np.uint8).reshape(4, 1, 1).repeat(4, 1).repeat(3, 2),
        torch.zeros(1, dtype=torch.long),
        ("a",),
        ("0",),
        "f",
    )
    (column,) = forward_all(lambda x: (x[:, 0, :, 0],), tall, 1, CPU, mirror=True)
    assert column.tolist() == [[0, 1, 2, 3]]  # not upside down


def test_forward_all_answers_in_float32_without_gradient():
    weight = torch.ones(1, requires_grad=True)
    (values,) = forward_all(lambda x: ((x[:, 0, 0, 0] * weight).half(),), photos([0] * 2, ("a",)), 2, CPU)
    assert values.dtype == torch.float32
    assert not values.requires_grad


def test_accuracy_is_the_argmax_of_the_mean_sigmoid_of_image_and_mirror():
    plain = torch.tensor(
        [
            [0.0, 2.0],  # mean sigmoids .75, .806 → 1; mean logits 10, 1.5 → 0; mirror alone → 0
            [0.0, 1.0],  # mean sigmoids .741, .5 → 0; image alone → 1
            [-2.0, -5.0],  # mean sigmoids .310, .315 → 1; mean softmax .67, .33 → 0
        ]
    )
    mirrored = torch.tensor([[20.0, 1.0], [4.0, -1.0], [0.0, 0.5]])
    assert mirrored[0].argmax() == 0
    assert (plain + mirrored).argmax(1)[0] == 0
    assert plain[1].argmax() == 1
    assert (plain.softmax(1) + mirrored.softmax(1)).argmax(1)[2] == 0
    imagenet = torch.zeros(3, 4)
    numbers = evaluate_photos((plain, imagenet), (mirrored, imagenet), photos([1, 0, 1], ("a", "b")), imagenet, None)
    assert numbers["accuracy"] == 1.0
    assert numbers["per_class"] == {"a": 1.0, "b": 1.0}


def test_the_class_is_the_argmax_of_the_mean_sigmoid_and_its_confidence_the_mean_softmax():
    """The sigmoids name class 1, the softmaxes class 0: the confidence is that of the class that is named."""
    plain, mirrored = torch.tensor([[-2.0, -5.0]]), torch.tensor([[0.0, 0.5]])
    predicted, confidence = answers(plain, mirrored)
    expected = (1 / (1 + math.exp(3)) + 1 / (1 + math.exp(-0.5))) / 2
    assert predicted.tolist() == [1] and confidence.tolist() == pytest.approx([expected], rel=1e-6)
    assert expected < 0.5


def test_accuracy_is_the_mean_over_classes_and_overall_the_share_of_photos():
    logits = torch.tensor([[3.0, 0, 0], [3, 0, 0], [3, 0, 0], [0, 3, 0]])
    imagenet = torch.zeros(4, 4)
    numbers = evaluate_photos(
        (logits, imagenet), (logits, imagenet), photos([0, 0, 1, 1], ("a", "b", "c")), imagenet, None
    )
    assert numbers["accuracy"] == pytest.approx((1 + 1 / 2) / 2)  # c has no photo
    assert numbers["overall"] == pytest.approx(3 / 4)
    assert numbers["per_class"] == {"a": 1.0, "b": 0.5}


def probabilities(*rows: list[float]) -> torch.Tensor:
    """Logits whose softmax is each row; shifted row by row, which must not matter."""
    logits = torch.tensor(rows, dtype=torch.float32).log()
    return logits + torch.arange(len(rows)).unsqueeze(1)


def test_agreement_imagenet_kept_and_product_on_a_case_worked_out_by_hand():
    # ImageNet classes 0 and 1 mean a, 2 means b, 3 means nothing; c is meant by none.
    names = ("a", "b", "c")
    mapping = class_map({"a": [0, 1], "b": [2], "c": []}, names, 4)
    plain = probabilities(
        [0.30, 0.30, 0.35, 0.05],  # top-1 is 2 (b), summed over classes a wins
        [0.05, 0.05, 0.20, 0.70],  # top-1 is unmapped; b is ahead of a
        [0.30, 0.05, 0.05, 0.60],  # with the mirror a .45, b .15; the mirror alone says a too
        [0.10, 0.10, 0.30, 0.50],  # the image says b, the mirror a, their mean a
        [0.35, 0.25, 0.10, 0.30],  # the image says a, the mirror b, their mean a
    )
    mirrored = probabilities(
        [0.30, 0.30, 0.35, 0.05],
        [0.05, 0.05, 0.20, 0.70],
        [0.50, 0.05, 0.25, 0.20],
        [0.40, 0.40, 0.10, 0.10],
        [0.10, 0.10, 0.30, 0.50],
    )
    reference = probabilities(
        [0.1, 0.1, 0.7, 0.1],  # 2: agrees
        [0.1, 0.1, 0.7, 0.1],  # 2: differs from 3
        [0.1, 0.1, 0.1, 0.7],  # 3: agrees
        [0.1, 0.1, 0.1, 0.7],  # 3: agrees
        [0.1, 0.7, 0.1, 0.1],  # 1: differs from 0, though both mean a
    )
    # The task head's softmax, so that the product can be read off below.
    task = probabilities([0.3, 0.5, 0.2], [0.90, 0.05, 0.05], [0.0005, 0.0005, 0.999], *[[0.4, 0.4, 0.2]] * 2)
    images = photos([0, 1, 2, 0, 0], names, imagenet=[2, UNLABELLED, 0, UNLABELLED, UNLABELLED])
    numbers = evaluate_photos((task, plain), (task, mirrored), images, reference, mapping)
    assert numbers["agreement"] == pytest.approx(3 / 5)
    assert numbers["imagenet"] == pytest.approx(1 / 2)  # of the two with an ImageNet class: 2 = 2, 3 ≠ 0
    # kept: a, b, a, a, a; of the photos a, b, c, a, a: recall 1 (a), 1 (b), 0 (c).
    assert numbers["kept"] == pytest.approx(2 / 3)
    # product, photo by photo (FLOOR = .001 is what c gets):
    #   .3·.6 = .18 beats .5·.35 → a;  .9·.1 = .09 beats .05·.2 → a (wrong);
    #   .999·.001 = .001 beats .0005·.45 → c;  .4·.5 beats .4·.2 → a;  .4·.4 beats .4·.2 → a.
    assert pytest.approx(0.001) == FLOOR
    assert numbers["product"] == pytest.approx((1 + 0 + 1) / 3)


def test_numbers_that_need_a_mapping_or_imagenet_labels_are_left_out_without_them():
    logits, imagenet = torch.eye(2), torch.eye(2)
    without = evaluate_photos((logits, imagenet), (logits, imagenet), photos([0, 1], ("a", "b")), imagenet, None)
    always = {"accuracy", "overall", "per_class", "agreement", "predicted", "confidence", "ece"}
    assert without.keys() == always
    unlabelled = photos([0, 1], ("a", "b"), imagenet=[UNLABELLED] * 2)
    numbers = evaluate_photos((logits, imagenet), (logits, imagenet), unlabelled, imagenet, torch.eye(2))
    assert numbers.keys() == always | {"kept", "product"}
    assert numbers["kept"] == numbers["product"] == 1.0


# --- calibration, energy, likeness --------------------------------------------------------------------------------


def test_predictions_their_confidence_and_its_error_on_a_case_worked_out_by_hand():
    """Two heads' worth of logits that give .9, .9, .8 and .6; the second is wrong: bins hold .4 · 2, .2 · 1, .4 · 1."""
    logits = probabilities([0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.6, 0.4])
    imagenet = torch.zeros(4, 3)
    numbers = evaluate_photos((logits, imagenet), (logits, imagenet), photos([0, 1, 1, 0], ("a", "b")), imagenet, None)
    assert numbers["predicted"] == [0, 0, 1, 0]
    assert numbers["confidence"] == [0.9, 0.9, 0.8, 0.6]
    assert numbers["ece"] == pytest.approx((0.4 * 2 + 0.2 + 0.4) / 4, abs=1e-6)


def test_a_head_that_is_right_as_often_as_it_says_has_no_calibration_error():
    logits, imagenet = probabilities(*[[0.75, 0.25]] * 4), torch.zeros(4, 3)
    numbers = evaluate_photos((logits, imagenet), (logits, imagenet), photos([0, 0, 0, 1], ("a", "b")), imagenet, None)
    assert numbers["ece"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("block", [1, 3, 100])
def test_the_energy_of_opposite_points_and_of_an_orthonormal_basis(block: int):
    """All pairs are 2 apart, or √2; the length of a feature does not matter. At power 0 it is log(1/d²)."""
    opposite = hyperspherical_energy(torch.tensor([[3.0, 0, 0], [-0.1, 0, 0]]), CPU, block)
    assert opposite == pytest.approx((-math.log(4), 1 / 2, 1 / 4), rel=1e-6)
    basis = torch.diag(torch.arange(1.0, 8.0))
    assert hyperspherical_energy(basis, CPU, block) == pytest.approx((-math.log(2), 0.5**0.5, 1 / 2), rel=1e-6)


def energies_of_pairs(features: torch.Tensor) -> tuple[float, ...]:
    """From scipy's distances, one pair at a time and in float64."""
    far = np.maximum(pdist(torch.nn.functional.normalize(features.double(), dim=1).numpy()), 1e-3)
    return -2 * np.log(far).mean(), (1 / far).mean(), (far**-2.0).mean()


def crowds() -> dict[str, torch.Tensor]:
    """Features as networks give them, and as collapsed ones do: ``(300, 256)`` each."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 256, generator=generator)
    kinds = torch.randn(12, 256, generator=generator).relu()
    relu, twice = noise.relu(), noise.relu()
    twice[100:150] = twice[:50]
    twice[150:200] = 3 * twice[:50]  # another length, the same direction
    near = noise.relu()
    near[::7] = kinds[0] + noise[::7] * torch.logspace(-6, -2, len(near[::7]))[:, None]  # on both sides of 10⁻³
    return {
        "round about": noise,
        "on one side": relu,
        "in a narrow cone": 1 + relu / 5,
        "duplicates": twice,
        "near pairs": near,
        "tight classes": kinds[torch.arange(300) % 12] + noise / 100,
        "collapsed": kinds[0] + noise / 1000,
        "equal": kinds[:1].repeat(300, 1),
        "in the plane": noise[:, :2].contiguous(),
    }


CROWDS = crowds()


@pytest.mark.parametrize("block", [64, 77, 300, 1000])
@pytest.mark.parametrize("crowd", CROWDS)
def test_the_energies_are_means_over_scipys_distances(crowd: str, block: int):
    expected = energies_of_pairs(CROWDS[crowd])
    assert hyperspherical_energy(CROWDS[crowd], CPU, block) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("crowd", ["near pairs", "tight classes", "collapsed"])
def test_one_gram_matrix_in_float32_would_not_do(crowd: str):
    """Why features are centred and near pairs are computed again: the test above would fail."""
    unit = torch.nn.functional.normalize(CROWDS[crowd], dim=1)
    squared = (2 - 2 * unit @ unit.T).clamp_min(1e-6)[*torch.triu_indices(300, 300, 1)]
    assert abs(float((1 / squared).mean()) / energies_of_pairs(CROWDS[crowd])[2] - 1) > 1e-5


class Watch(TorchDispatchMode):
    """Notes the elements of the largest tensor that an operation makes."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.most = max([self.most, *(t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor))])
        return made


def test_the_energies_take_half_a_gram_matrix_and_bounded_memory():
    """2,000 features in blocks of 100: 210 blocks on and above the diagonal, once for all three powers."""
    features = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    with Watch() as watch, FlopCounterMode(display=False) as counter:
        hyperspherical_energy(features, CPU, block=100)
    assert counter.get_total_flops() == 20 * 21 / 2 * 2 * 100 * 100 * 32
    assert watch.most == 2000 * 32  # the copy of the features; a whole Gram matrix has 4,000,000


def test_a_feature_of_zeros_stays_at_the_origin():
    features = torch.tensor([[0.0, 0], [0, 2], [-5, 0]])  # distances 1, 1 and √2
    assert hyperspherical_energy(features, CPU) == pytest.approx(
        (-math.log(2) / 3, (2 + 0.5**0.5) / 3, (2 + 1 / 2) / 3), rel=1e-6
    )


@pytest.mark.parametrize(("count", "width"), [(50, 8), (8, 50)])
def test_cka_is_one_for_a_rotated_and_scaled_copy_and_that_of_centred_kernels(count: int, width: int):
    generator = torch.Generator().manual_seed(count)
    a = torch.randn(count, width, generator=generator)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    assert linear_cka(a, 3 * a @ rotation + 5) == pytest.approx(1.0, abs=1e-5)
    b = a[:, : width // 2] + torch.randn(count, width // 2, generator=generator)
    centre = np.eye(count) - 1 / count
    k, m = (centre @ (x @ x.T).double().numpy() @ centre for x in (a, b))
    expected = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())  # HSIC's of Kornblith et al.
    assert linear_cka(a, b) == pytest.approx(expected, rel=1e-5)


def test_cka_of_unrelated_directions_is_zero():
    one, other = torch.tensor([[1.0], [-1], [1], [-1]]), torch.tensor([[1.0], [1], [-1], [-1]])
    assert linear_cka(one, other) == pytest.approx(0.0, abs=1e-12)


def test_a_representation_that_tells_no_images_apart_is_like_nothing():
    """What a collapsed network gives; a share that is no number would end its run."""
    assert linear_cka(torch.full((5, 3), 2.0), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))) == 0.0
