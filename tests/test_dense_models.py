"""Segmentation students: against the libraries' own networks, plain sums of convolutions and published counts."""

from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from scipy import stats
from torch import nn
from torchvision.models import VGG, ResNet
from torchvision.models.resnet import Bottleneck

from asg import AsgError, dense_models
from asg.config import make_config
from asg.data import toy
from asg.dense_models import DeepLabV2Head, DeepLabV3Head, DenseStudent, FCNHead, Upscore, build_dense, predict
from asg.models import build, drift, layer_groups
from asg.trainers import loop, segmentation
from asg_book.profiles import PROFILES

NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLASSES = 5


def tiny_vgg(seed: int = 0) -> VGG:
    """torchvision's VGG with five narrow stages of two convolutions, its classifier cut down alike."""
    layers, width = [], 3
    for wider in (4, 4, 5, 6, 6):
        for step in (width, wider):
            layers += [nn.Conv2d(step, wider, 3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2, 2))
        width = wider
    with torch.device("meta"):
        network = VGG(nn.Sequential(*layers), init_weights=False)
    for place, sizes in ((0, (6 * 49, 24)), (3, (24, 20)), (6, (20, 10))):
        network.classifier[place] = nn.Linear(*sizes)
    return drawn(network, seed)


def tiny_resnet(seed: int = 0, **options: object) -> ResNet:
    return drawn(ResNet(Bottleneck, [1, 1, 2, 2], num_classes=10, width_per_group=4, **options), seed)


def tiny_efficientnet(seed: int = 0) -> nn.Module:
    return drawn(timm.create_model("test_efficientnet", num_classes=10), seed)


def drawn(network: nn.Module, seed: int) -> nn.Module:
    """Weights that let a signal through, from a generator of their own; BatchNorm statistics away from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
        affine = parameter.dim() == 1 and name.endswith("weight")
        nn.init.normal_(parameter, float(affine), scale, generator=generator)
    for name, buffer in network.named_buffers():
        if buffer.is_floating_point():
            nn.init.uniform_(buffer, *((0.5, 1.5) if name.endswith("var") else (-0.1, 0.1)), generator=generator)
    return network.eval()


NETWORKS = {
    "FCN-8s": tiny_vgg, "DeepLab": tiny_resnet, "DeepLab-v2": tiny_resnet, "pyramid": tiny_efficientnet,
}  # fmt: skip
KINDS = pytest.mark.parametrize("kind", NETWORKS)
DEEPLABS = pytest.mark.parametrize("kind", ["DeepLab", "DeepLab-v2"])
HEAD = {"DeepLab-v2": "deeplab-v2"}


def student_of(kind: str, seed: int = 0) -> DenseStudent:
    generator = torch.Generator().manual_seed(seed)
    return build_dense(NETWORKS[kind](), NORMALISATION, CLASSES, generator, HEAD.get(kind))


def pixels(height: int = 64, width: int = 96, n: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator, dtype=torch.uint8)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """In double precision, in which students are compared with other arithmetic."""
    return torchvision.transforms.functional.normalize(x.double() / 255, *NORMALISATION)


def with_random_scores(student: DenseStudent) -> DenseStudent:
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in student.task_head.named_parameters():
            if name.startswith(("score", "branches", "classifier")):
                parameter.normal_(0, 1, generator=generator)
    return student


# --- sizes, counts, groups ----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (33, 50), (31, 130), (225, 17)])
def test_logits_have_the_size_of_the_image_odd_or_even(kind: str, size: tuple[int, int]):
    with torch.inference_mode():
        logits, features = with_random_scores(student_of(kind))(pixels(*size))
    assert logits.shape == (2, CLASSES, *size)
    stride = 8 if "DeepLab" in kind else 32
    assert features.shape[2:] == tuple(-(-side // stride) for side in size)
    assert float(logits.std()) > 0


def counts(student: DenseStudent) -> dict[str, int]:
    return {name: sum(p.numel() for p in group) for name, group in layer_groups(student).items()}


def on_meta(name: str, head: str | None = None, classes: int = 19) -> tuple[DenseStudent, nn.Module]:
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
        return build_dense(network, NORMALISATION, classes, torch.Generator(), head), torchvision.models.get_model(name)


def test_fcn_8s_of_vgg_16_has_the_papers_groups_with_the_architectures_counts():
    student, _ = on_meta("vgg16")
    expected, width = {}, 3
    for stage, (depth, wider) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        expected[f"conv{stage}"] = 9 * wider * (width + (depth - 1) * wider) + depth * wider
        width = wider
    expected["fc6-7"] = 512 * 7 * 7 * 4096 + 4096 + 4096 * 4096 + 4096
    assert sum(expected.values()) + 4096 * 1000 + 1000 == 138_357_544  # the published count of VGG-16
    expected["head"] = (4096 + 512 + 256 + 3) * 19 + 19 * 19 * (4 * 4 + 4 * 4 + 16 * 16)
    assert counts(student) == expected
    assert list(counts(student)) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6-7", "head"]
    assert sum(counts(student).values()) == 134_456_985
    assert sum(p.numel() for p in student.kept_head.parameters()) == 123_642_856


@pytest.mark.parametrize(("name", "published"), [("resnet50", 25_557_032), ("resnet101", 44_549_160)])
def test_deeplab_v2_has_the_papers_groups_with_the_libraries_counts(name: str, published: int):
    student, network = on_meta(name, "deeplab-v2")
    groups = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    expected = {group: sum(p.numel() for p in getattr(network, group).parameters()) for group in groups}
    assert sum(expected.values()) == published - 2048 * 1000 - 1000
    assert counts(student) == {**expected, "head": 4 * (2048 * 9 * 19 + 19)}
    assert list(counts(student)) == [*groups, "head"]


@pytest.mark.parametrize(("name", "published"), [("resnet50", 42_004_074), ("resnet101", 60_996_202)])
def test_deeplab_has_the_published_number_of_parameters(name: str, published: int):
    """torchvision's DeepLab-v3 of 21 classes has more: an auxiliary FCN head and one 3 × 3 convolution of 256 channels."""
    student, _ = on_meta(name, classes=21)
    auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    ours = sum(p.numel() for part in (student.backbone, student.task_head) for p in part.parameters())
    assert ours == published - auxiliary - (256 * 256 * 9 + 2 * 256)


@pytest.mark.parametrize(("name", "blocks"), [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))])
def test_deeplab_trains_the_papers_groups_less_the_affine_parameters_of_the_blocks(name: str, blocks: tuple):
    student, network = on_meta(name)
    expected = {"conv1": 3 * 64 * 49, "bn1": 2 * 64}
    for stage, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), 1):
        every = sum(p.numel() for p in getattr(network, f"layer{stage}").parameters())
        expected[f"layer{stage}"] = every - count * 2 * (width + width + 4 * width) - 2 * 4 * width  # + the shortcut's
    head = 2048 * 256 * (1 + 3 * 9 + 1) + 5 * 256 * 256 + 6 * 2 * 256 + 256 * 19 + 19
    assert counts(student) == {**expected, "head": head}
    assert list(counts(student)) == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "head"]


def test_the_pyramid_has_the_classification_students_groups():
    classifier = build(make_config(PROFILES["mini"], {"weights": "random", "size": 32}), 12)
    student = build_dense(timm.create_model("tf_efficientnet_lite0"), NORMALISATION, 12, torch.Generator())
    expected = {name: sum(p.numel() for p in group) for name, group in layer_groups(classifier).items()}
    assert list(counts(student)) == list(expected)
    assert counts(student) == {**expected, "head": 128 * (1280 + 112 + 40 + 3) + 4 * (9 * 128 * 128 + 128) + 12 * 129}
    assert student.taps == ("bn2", "blocks.4", "blocks.2")


@KINDS
def test_the_groups_hold_every_trained_parameter_once_and_end_in_the_layer_the_policy_watches(kind: str):
    student = student_of(kind)
    groups = layer_groups(student)
    grouped = [p for group in groups.values() for p in group]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in student.parameters() if p.requires_grad}
    assert list(groups)[-1] == "head"
    last = next(p for p in reversed(groups["head"]) if p.dim() > 1)
    shapes = {
        "FCN-8s": (CLASSES, CLASSES, 16, 16), "DeepLab": (CLASSES, 256, 1, 1), "DeepLab-v2": (CLASSES, 2048, 3, 3),
        "pyramid": (CLASSES, 128, 1, 1),
    }  # fmt: skip
    assert last.shape == shapes[kind]


@KINDS
def test_drift_of_the_classification_package_applies(kind: str):
    student = student_of(kind)
    start = {k: [p.detach().clone() for p in v] for k, v in layer_groups(student).items() if k != "head"}
    assert drift(student, start) == dict.fromkeys(start, 0.0)
    name = next(iter(start))
    with torch.no_grad():
        for parameter in layer_groups(student)[name]:
            parameter.mul_(1.25)
    assert drift(student, start) == pytest.approx({**dict.fromkeys(start, 0.0), name: 0.25}, rel=1e-5)


# --- what is kept of ImageNet -------------------------------------------------------------------------------------


@KINDS
def test_imagenet_logits_are_the_librarys_own(kind: str):
    network = tiny_resnet(replace_stride_with_dilation=[False, True, True]) if "DeepLab" in kind else NETWORKS[kind]()
    network, student, x = network.double(), student_of(kind).double(), pixels()
    x[1, :, 20:] //= 3
    with torch.inference_mode():
        expected = network(normalised(x))
        torch.testing.assert_close(student.imagenet_logits(x), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(student.kept_logits(student(x)[1]), expected, rtol=1e-5, atol=1e-5)
        assert student.imagenet_logits(x, chunks=2).shape == (2 * 4, 10)
    assert float((expected[0] - expected[1]).abs().max()) > 0.01 * float(expected.abs().max())  # it looks at its input


def test_dilation_is_torchvisions():
    x, expected = normalised(pixels()), tiny_resnet(replace_stride_with_dilation=[False, True, True]).double()
    expected.avgpool = expected.fc = nn.Identity()
    with torch.inference_mode():
        features = student_of("DeepLab").double()(pixels())[1]
        torch.testing.assert_close(features.flatten(1), expected(x), rtol=1e-5, atol=1e-5)
    assert features.shape == (2, 2048, 8, 12)


@KINDS
def test_the_teacher_stays_as_the_network_was_and_holds_only_the_imagenet_network(kind: str):
    student, x = student_of(kind), pixels()
    teacher = student.teacher()
    before = student.imagenet_logits(x, 2).detach()
    with torch.no_grad():
        for parameter in student.backbone.parameters():
            parameter.mul_(1.2)
    assert torch.equal(teacher.imagenet_logits(x, 2), before)
    assert not torch.equal(student.imagenet_logits(x, 2), before)
    assert teacher.kept_head is student.kept_head
    assert sum(p.numel() for p in teacher.parameters()) == sum(p.numel() for p in NETWORKS[kind]().parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert any(p.requires_grad for p in student.parameters())


def test_imagenet_logits_run_no_stage_that_the_imagenet_network_does_not_have():
    student = student_of("FCN-8s")
    with torch.inference_mode():
        expected = student.imagenet_logits(pixels())
        student.backbone.get_submodule("fc6-7").register_forward_pre_hook(lambda *_: pytest.fail("fc6-7 ran"))
        assert torch.equal(student.imagenet_logits(pixels()), expected)


@KINDS
def test_the_guidances_gradient_passes_through_the_frozen_head_into_the_backbone(kind: str):
    student = student_of(kind)
    student.kept_logits(student(pixels())[1]).square().mean().backward()
    assert all(p.grad is None for p in (*student.kept_head.parameters(), *student.task_head.parameters()))
    reached = {name for name, group in layer_groups(student).items() if any(p.grad is not None for p in group)}
    assert reached == set(layer_groups(student)) - {"head", "fc6-7"}  # the kept head has its own fc6 and fc7


@KINDS
@pytest.mark.parametrize("mode", [True, False])
def test_the_task_head_alone_follows_the_mode(kind: str, mode: bool):
    student = student_of(kind)
    assert not any(module.training for module in student.modules())
    assert student.train(mode) is student
    head = {id(module) for module in student.task_head.modules()}
    assert all(module.training == (mode and id(module) in head) for module in student.modules())
    assert not any(module.training for module in student.eval().modules())


@KINDS
def test_what_a_student_trains_is_its_groups_and_a_new_heads_statistics(kind: str):
    student = with_random_scores(student_of(kind)).train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    logits, features = student(pixels())
    (logits.square().mean() + student.kept_logits(features).square().mean()).backward()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad / parameter.grad.norm())
    changed = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    grouped = {id(p) for group in layer_groups(student).values() for p in group}
    statistics = {f"task_head.{name}" for name, _ in student.task_head.named_buffers()}
    assert len(statistics) == (6 * 3 + 1 if kind == "DeepLab" else 0)  # of six BatchNorms; the masks that were drawn
    assert changed == {name for name, p in student.named_parameters() if id(p) in grouped} | statistics
    affine = {name for name in before if name.startswith("backbone.layer") and ("bn" in name or "downsample.1" in name)}
    assert bool(affine & changed) == (kind == "DeepLab-v2"), "CSG freezes those of the residual blocks"


def test_pixels_are_normalised_as_the_network_was_trained():
    seen, student = [], student_of("FCN-8s")
    student.backbone.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    student(pixels())
    torch.testing.assert_close(seen[0], normalised(pixels()).float())


# --- heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 8])
def test_an_upscore_layer_starts_as_bilinear_interpolation_up_to_the_border(factor: int):
    x = torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Upscore(4, factor)(x), expected)


def test_an_upscore_layer_starts_from_the_kernel_of_the_published_fcn():
    """For factor 2 the row (1, 3, 3, 1) / 4 in both directions, for each class by itself."""
    weight = Upscore(3, 2).weight.detach()
    row = torch.tensor([1.0, 3, 3, 1]) / 4
    for i in range(3):
        for j in range(3):
            expected = torch.outer(row, row) if i == j else torch.zeros(4, 4)
            torch.testing.assert_close(weight[i, j], expected)


def test_scores_that_start_at_zero_give_uniform_logits_and_can_learn():
    student = student_of("FCN-8s")
    logits, _ = student(pixels())
    assert torch.equal(logits, torch.zeros_like(logits))
    F.cross_entropy(logits, torch.zeros(2, 64, 96, dtype=torch.long)).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in student.task_head.score.parameters())


def fcn_sum(maps: list[torch.Tensor], scales: tuple, head: FCNHead, size: tuple[int, int]) -> torch.Tensor:
    """Scores of stride 32, 16, 8 by matrix product, added up with torch's interpolation."""
    total = 0.0
    for x, scale, score, factor, target in zip(maps, scales, head.score, (2, 2, 8), [maps[1].shape[-2:], maps[2].shape[-2:], size], strict=True):  # fmt: skip
        scores = torch.einsum("ndhw,cd->nchw", x * scale, score.weight[:, :, 0, 0]) + score.bias[:, None, None]
        total = F.interpolate(total + scores, scale_factor=factor, mode="bilinear")[..., : target[0], : target[1]]
    return total


@pytest.mark.parametrize("size", [(64, 96), (75, 113)])
def test_fcn_8s_is_the_scaled_sum_of_scores_of_fc7_pool4_and_pool3(size: tuple[int, int]):
    student, network = with_random_scores(student_of("FCN-8s")).double(), tiny_vgg().double()
    with torch.inference_mode():
        x, pools = normalised(pixels(*size)), []
        for layer in network.features:
            x = F.max_pool2d(x, 2, ceil_mode=True) if isinstance(layer, nn.MaxPool2d) else layer(x)
            if isinstance(layer, nn.MaxPool2d):
                pools.append(x)
        fc6, fc7 = network.classifier[0], network.classifier[3]
        hidden = F.conv2d(pools[4], fc6.weight.view(24, 6, 7, 7), fc6.bias, padding=3).relu()
        hidden = F.conv2d(hidden, fc7.weight.view(20, 24, 1, 1), fc7.bias).relu()
        expected = fcn_sum([hidden, pools[3], pools[2]], (1, 0.01, 0.0001), student.task_head, size)
        logits, features = student(pixels(*size))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features, pools[4], rtol=1e-5, atol=1e-5)


def test_fc6_and_fc7_start_as_the_classifiers_layers_where_no_padding_is_seen():
    """In the middle of a 7 × 7 map the convolutions see what the linear layers see of a 224-pixel image."""
    student, network, x = student_of("FCN-8s").double(), tiny_vgg().double(), pixels(224, 224)
    with torch.inference_mode():
        middle = student.maps(x)["fc6-7"][:, :, 3, 3]
        expected = network.classifier[:5](torch.flatten(network.avgpool(network.features(normalised(x))), 1))
    torch.testing.assert_close(middle, expected, rtol=1e-5, atol=1e-5)
    assert float(expected.std()) > 0


@pytest.mark.parametrize("size", [(64, 96), (75, 113)])
def test_the_pyramids_scores_are_those_of_plain_convolutions_of_three_strides(size: tuple[int, int]):
    """Kirillov et al. 2019, written out: laterals, what comes from above, smoothing, one sum at the finest stride."""
    student, network, x = student_of("pyramid").double(), tiny_efficientnet().double(), pixels(*size)
    head = student.task_head
    with torch.inference_mode():
        maps = [network.forward_features(normalised(x))]
        maps += network.forward_intermediates(normalised(x), indices=[3, 2], intermediates_only=True)[::-1]
        assert [m.shape[-1] for m in maps] == [-(-size[1] // stride) for stride in (32, 16, 8)]
        lateral = [
            F.conv2d(m, block[0].weight, block[0].bias)
            for m, block in zip(maps, list(head.pyramid.inner_blocks)[::-1], strict=True)
        ]
        above = [lateral[0]]
        for finer in lateral[1:]:
            above.append(finer + F.interpolate(above[-1], finer.shape[-2:], mode="nearest"))
        total = sum(
            F.interpolate(F.conv2d(m, block[0].weight, block[0].bias, padding=1), maps[2].shape[-2:], mode="bilinear")
            for m, block in zip(above, list(head.pyramid.layer_blocks)[::-1], strict=True)
        )
        hidden = F.conv2d(total, head.scores[0].weight, head.scores[0].bias, padding=1).clamp(min=0)
        scores = F.conv2d(hidden, head.scores[2].weight, head.scores[2].bias)
        expected = F.interpolate(scores, size, mode="bilinear")
        torch.testing.assert_close(student(x)[0], expected, rtol=1e-5, atol=1e-5)


def test_the_pyramids_start_is_torchs_from_its_generator_only():
    torch.manual_seed(1)
    first = student_of("pyramid", seed=5).task_head.state_dict()
    torch.manual_seed(2)
    again, other = (student_of("pyramid", seed=s).task_head.state_dict() for s in (5, 6))
    for name, value in first.items():
        assert torch.equal(value, again[name]) and not torch.equal(value, other[name])
        if value.dim() > 1:
            bound = value[0].numel() ** -0.5
            assert value.abs().max() <= bound and value.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_deeplab_v2s_head_is_the_sum_of_four_dilated_convolutions_with_corners_aligned():
    """At 8k + 1 pixels every eighth pixel is a cell of the map, the last one too."""
    generator = torch.Generator().manual_seed(0)
    head, x = (
        DeepLabV2Head(3, 4, generator).double(),
        torch.randn(2, 3, 51, 55, generator=generator, dtype=torch.float64),
    )
    with torch.inference_mode():
        expected = torch.zeros(2, 4, 51, 55, dtype=torch.float64)
        for d, branch in zip((6, 12, 18, 24), head.branches, strict=True):
            around = F.pad(x, (d,) * 4)
            for i in range(3):
                for j in range(3):
                    seen = around[:, :, i * d : i * d + 51, j * d : j * d + 55]  # (N, D, h, w)
                    expected += torch.einsum("ndhw,cd->nchw", seen, branch.weight[:, :, i, j])
        logits = head([x], (401, 433))
    torch.testing.assert_close(logits[:, :, ::8, ::8], expected)
    assert logits.shape == (2, 4, 401, 433)


def test_a_cell_of_a_resnets_map_is_centred_on_every_eighth_pixel():
    """Why corners are aligned: the pixels that one cell sees lie evenly around pixel 8i."""
    network = student_of("DeepLab").backbone[:5]  # up to layer1: stride 4, so 4i
    x = torch.randn(1, 3, 65, 65, generator=torch.Generator().manual_seed(0), requires_grad=True)
    network(x)[0, :, 8, 8].abs().sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero()
    assert (seen.min(0).values + seen.max(0).values).tolist() == [2 * 32, 2 * 32]


def dilated(x: torch.Tensor, weight: torch.Tensor, rate: int) -> torch.Tensor:
    """A 3 × 3 convolution of a dilation, added up tap by tap."""
    h, w, around, total = *x.shape[2:], F.pad(x, (rate,) * 4), 0.0
    for i in range(3):
        for j in range(3):
            seen = around[:, :, i * rate : i * rate + h, j * rate : j * rate + w]  # (N, D, h, w)
            total = total + torch.einsum("ndhw,cd->nchw", seen, weight[:, :, i, j])
    return total


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_deeplabs_head_is_the_projected_pyramid_of_five_branches(mode: bool):
    """BatchNorm by its formula: the batch's own mean and variance in train mode, what was learnt in eval mode."""
    generator = torch.Generator().manual_seed(0)
    head = drawn(DeepLabV3Head(3, 4, generator).double(), 1).train(mode)
    head.pyramid.project[3] = nn.Identity()
    x = torch.randn(2, 3, 41, 45, generator=generator, dtype=torch.float64)

    def normal(y: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
        mean, variance = norm.running_mean, norm.running_var
        if mode:
            mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        y = (y - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
        return (y * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()

    def pointwise(y: torch.Tensor, layer: nn.Conv2d) -> torch.Tensor:
        return torch.einsum("ndhw,cd->nchw", y, layer.weight[:, :, 0, 0])

    with torch.inference_mode():
        one, *three, pool = head.pyramid.convs
        branches = [normal(pointwise(x, one[0]), one[1])]
        branches += [normal(dilated(x, c[0].weight, r), c[1]) for c, r in zip(three, (12, 24, 36), strict=True)]
        pooled = normal(pointwise(x.mean((2, 3), keepdim=True), pool[1]), pool[2])
        branches.append(pooled.expand(-1, -1, 41, 45))
        project, norm, *_ = head.pyramid.project
        expected = pointwise(normal(pointwise(torch.cat(branches, 1), project), norm), head.classifier)
        expected += head.classifier.bias[:, None, None]
        logits = head([x], (321, 353))
    assert [b.shape[1] for b in branches] == [256] * 5 and logits.shape == (2, 4, 321, 353)
    torch.testing.assert_close(logits[:, :, ::8, ::8], expected, rtol=1e-9, atol=1e-9)


def test_deeplabs_head_drops_half_while_it_trains_and_answers_alike_afterwards():
    student, x = student_of("DeepLab"), pixels()
    with torch.no_grad():
        first, second = (student.train()(x)[0] for _ in range(2))
        assert not torch.equal(first, second)
        student.eval()
        assert torch.equal(student(x)[0], student(x)[0])
        torch.testing.assert_close(student(x)[0][:1], student(x[:1])[0], rtol=1e-4, atol=1e-5)  # whatever the batch
    seen = []
    student.task_head.pyramid.project[3].register_forward_hook(lambda m, i, o: seen.append((i[0], o)))
    student.train()(x)
    given, left = seen[0]
    torch.rand(7)  # masks do not depend on what else draws numbers
    again = student_of("DeepLab")
    with torch.no_grad():
        assert torch.equal(again.train()(x)[0], first) and torch.equal(again(x)[0], second)
    share = float((left[given > 0] == 0).float().mean())
    assert share == pytest.approx(0.5, abs=0.02) and bool(((left == 0) | torch.isclose(left, 2 * given)).all())


def test_deeplabs_head_does_not_train_on_one_image():
    student = student_of("DeepLab")
    with pytest.raises(AsgError, match="trains on two images a step on each device, or more: raise batch"):
        student.train()(pixels(n=1))
    student.eval()(pixels(n=1))


def test_deeplabs_start_is_torchs_from_its_generator_only():
    torch.manual_seed(1)
    first = student_of("DeepLab", seed=5).task_head.state_dict()
    torch.manual_seed(2)
    second, other = (student_of("DeepLab", seed=s).task_head.state_dict() for s in (5, 6))
    assert all(torch.equal(first[k], second[k]) for k in first)
    convolutions = {k: v for k, v in first.items() if v.dim() == 4} | {"classifier.bias": first["classifier.bias"]}
    assert len(convolutions) == 8 and not any(torch.equal(v, other[k]) for k, v in convolutions.items())
    for key, value in convolutions.items():
        bound = first[key.replace("bias", "weight")][0].numel() ** -0.5
        sample = value.flatten()[:: max(1, value.numel() // 4000)].numpy()
        assert stats.kstest(sample, "uniform", args=(-bound, 2 * bound)).pvalue > 0.01, key
    for key in first.keys() - convolutions.keys():
        assert torch.equal(first[key], torch.full_like(first[key], float(key.endswith(("weight", "var"))))), key


def test_deeplab_v2s_start_depends_on_its_generator_only():
    torch.manual_seed(1)
    first = student_of("DeepLab-v2", seed=5).task_head.state_dict()
    torch.manual_seed(2)
    second, other = (student_of("DeepLab-v2", seed=s).task_head.state_dict() for s in (5, 6))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first if k.endswith("weight"))
    for key, value in first.items():
        if key.endswith("weight"):
            assert stats.kstest(value.flatten()[::50].numpy(), "norm", args=(0, 0.01)).pvalue > 0.01
        else:
            assert torch.equal(value, torch.zeros_like(value))


def test_an_fcns_start_depends_on_nothing():
    torch.manual_seed(1)
    first = student_of("FCN-8s", seed=5).state_dict()
    torch.manual_seed(2)
    second = student_of("FCN-8s", seed=6).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


@KINDS
def test_a_students_state_goes_into_another_one(kind: str):
    student, again = with_random_scores(student_of(kind)), student_of(kind, seed=3)
    again.load_state_dict(student.state_dict())
    with torch.inference_mode():
        for ours, theirs in zip(student(pixels()), again(pixels()), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18"])
def test_a_network_without_a_segmentation_head_is_named(name: str):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    with pytest.raises(AsgError, match=f"no segmentation head for {type(network).__name__}: choose"):
        build_dense(network, NORMALISATION, 19, None)


@pytest.mark.parametrize("kind", ["FCN-8s", "pyramid"])
def test_a_head_of_resnets_on_another_backbone_is_named(kind: str):
    with pytest.raises(AsgError, match=r"The head deeplab-v2 is of ResNets, not of \w+: leave dense_head out"):
        build_dense(NETWORKS[kind](), NORMALISATION, CLASSES, torch.Generator(), "deeplab-v2")


# --- training -----------------------------------------------------------------------------------------------------


@DEEPLABS
def test_a_run_trains_the_heads_statistics_and_evaluates_with_what_they_have_become(
    workplace, tmp_path, monkeypatch, kind: str
):
    """Also after a stop: a run that goes on ends with the same network, statistics included."""
    monkeypatch.setattr(dense_models, "imagenet_network", lambda config: (tiny_resnet(), NORMALISATION))
    monkeypatch.setattr(dense_models, "WIDTH", 8)  # checkpoints are written at every step
    modes = []
    honest = segmentation.make_objective

    def watched(*arguments: object):
        objective = honest(*arguments)
        return lambda network, *batch: modes.append(network.task_head.training) or objective(network, *batch)

    monkeypatch.setattr(segmentation, "make_objective", watched)
    monkeypatch.setattr(loop, "CHECK", 1)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    config = make_config(
        PROFILES["toy"],
        {"data": "toy-scenes", "batch": 4, "lr": 0.001, "steps": 4, "guidance": 0.1, "dense_head": HEAD.get(kind)},
    )
    start = segmentation.build(config, 4).state_dict()
    seen = []

    def stop(evaluation: dict) -> None:
        seen.append(evaluation["step"])
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segmentation.train(config, tmp_path, "cpu", stop)
    result, network = segmentation.train(config, tmp_path, "cpu")
    (tmp_path / "whole").mkdir()
    uninterrupted, _ = segmentation.train(config, tmp_path / "whole", "cpu")
    assert seen == [0, 2] and modes == [True] * 8
    assert not any(module.training for module in network.modules())
    state = network.state_dict()
    assert uninterrupted["evaluations"] == result["evaluations"]
    learnt = [key for key, value in state.items() if "running" in key and not torch.equal(value, start[key])]
    assert len(learnt) == (12 if kind == "DeepLab" else 0) and all(key.startswith("task_head") for key in learnt)
    domains, device = toy.load_scenes(config.size), torch.device("cpu")
    again = segmentation.make_evaluation(segmentation.build(config, 4), domains, config, device)(network)
    assert again == {key: result["final"][key] for key in again}
    assert set(result["final"]["drift"]) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    assert all(value > 0 for value in result["final"]["drift"].values())


# --- prediction of whole images -----------------------------------------------------------------------------------


class Stub(DenseStudent):
    """Answers with the pixels themselves and the number of the call; remembers the sizes and first pixels it saw."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.register_buffer("mean", torch.zeros(1))
        self.sizes: list[tuple[int, int]] = []
        self.first: list[int] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        call = torch.full(x[:, :1].shape, float(len(self.sizes)))
        self.sizes.append(tuple(x.shape[-2:]))
        self.first.append(int(x[0, 0, 0, 0]))
        return torch.cat([x.float(), call], 1), x


@pytest.mark.parametrize("size", [(64, 96), (64, 97), (100, 40), (151, 203), (1, 300)])
@pytest.mark.parametrize("overlap", [0, 1, 17, 63])
def test_windows_cover_every_pixel_and_put_it_where_it_belongs(size: tuple[int, int], overlap: int):
    image, stub = pixels(*size, n=1)[0], Stub()
    logits = predict(stub, image, (64, 96), overlap)
    torch.testing.assert_close(logits[:3], image.float())
    assert set(stub.sizes) == {(min(64, size[0]), min(96, size[1]))}  # all alike, and none larger than the window
    rows, columns = (1 if side <= w else -(-(side - overlap) // (w - overlap)) for side, w in zip(size, (64, 96), strict=True))  # fmt: skip
    assert len(stub.sizes) == rows * columns  # no more than needed


def test_an_image_that_fits_is_answered_in_one_piece():
    student = with_random_scores(student_of("FCN-8s"))
    with torch.inference_mode():
        expected = student(pixels(n=1))[0][0]
    assert torch.equal(predict(student, pixels(n=1)[0], (64, 96), 0), expected)
    assert torch.equal(predict(student, pixels(n=1)[0], (1024, 2048), 500), expected)


def test_logits_are_averaged_where_windows_meet():
    """Width 10 in windows of 6: they begin at 0 and 4, columns 4 and 5 are seen by both."""
    calls = predict(Stub(), pixels(6, 10, n=1)[0], (6, 6), 2)[3]
    assert calls[0].tolist() == [0, 0, 0, 0, 0.5, 0.5, 1, 1, 1, 1]
    assert torch.equal(calls, calls[:1].expand(6, 10))


@pytest.mark.parametrize("overlap", [0, 7, 19])
def test_neighbouring_windows_share_at_least_the_overlap_and_are_spaced_evenly(overlap: int):
    for size in range(20, 150):
        stub = Stub()
        predict(stub, torch.arange(size, dtype=torch.uint8).expand(3, 20, size), (20, 20), overlap)
        steps = [b - a for a, b in pairwise(stub.first)]  # the pixels are their columns
        assert (stub.first[0], stub.first[-1]) == (0, size - 20)
        assert all(0 < step <= 20 - overlap for step in steps)
        assert max(steps, default=0) - min(steps, default=0) <= 1


def test_prediction_leaves_no_graph():
    assert not predict(student_of("FCN-8s"), pixels(n=1)[0], (64, 64), 8).requires_grad


@pytest.mark.parametrize("overlap", [-1, 64, 100])
def test_an_overlap_that_is_no_less_than_a_window_is_named(overlap: int):
    with pytest.raises(AsgError, match=f"Windows of 64 × 96 cannot overlap by {overlap}"):
        predict(Stub(), pixels(n=1)[0], (64, 96), overlap)


MEMORY = """
import resource, sys, torch, torchvision
from asg.dense_models import build_dense, predict
torch.set_num_threads(1)
network = torchvision.models.get_model(sys.argv[1])
student = build_dense(network, ((0.5,) * 3, (0.25,) * 3), 19, torch.Generator().manual_seed(0))
image = torch.randint(0, 256, (3, 1024, 2048), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
logits = predict(student, image, (1024, 2048), 0)
assert logits.shape == (19, 1024, 2048) and bool(logits.isfinite().all())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 2**-10) / 2**30)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet50", "resnet101"])
def test_a_whole_cityscapes_image_takes_less_than_six_gigabytes(spawn, name: str):
    out, errors = spawn(MEMORY, name).communicate(timeout=400)
    assert float(out or "nan") < 6, errors
