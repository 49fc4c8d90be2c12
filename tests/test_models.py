"""Backbones, heads, layer groups: against the libraries' own networks and counts from the architecture."""

import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from scipy import stats
from torch import nn

from asg import AsgError, models
from asg.config import RunConfig, make_config
from asg.model_files import load_model, save_model
from asg.models import build, create, drift, layer_groups, load_weights, split_classifier
from asg.trainers.frozen import fingerprint
from asg.trainers.optimiser import make_optimiser
from asg_book.profiles import PROFILES

TOY = make_config(PROFILES["toy"])
FAMILIES = {  # backbone → (pixels, width of the pooled features)
    "timm:test_vit": (160, 64),
    "timm:test_convnext": (64, 64),
    "timm:test_resnet": (64, 96),
    "timm:test_efficientnet": (64, 256),
    "torchvision:mobilenet_v3_small": (64, 1024),
    "torchvision:vgg11": (64, 4096),
    "torchvision:resnet18": (64, 512),
}


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def pixels(size: int = 32, n: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def bottleneck_resnet(blocks: tuple[int, int, int, int]) -> dict[str, int]:
    """Parameters of each part of a ResNet of bottleneck blocks (He et al. 2016), counted from the architecture."""
    counts, width = {"conv1": 7 * 7 * 3 * 64, "bn1": 2 * 64}, 64
    for layer, depth in enumerate(blocks, 1):
        inner = 64 * 2 ** (layer - 1)
        counts[f"layer{layer}"] = 0
        for block in range(depth):
            counts[f"layer{layer}"] += width * inner + 9 * inner * inner + inner * 4 * inner  # 1×1, 3×3, 1×1
            counts[f"layer{layer}"] += 2 * (inner + inner + 4 * inner)  # BatchNorm
            if block == 0:
                counts[f"layer{layer}"] += width * 4 * inner + 2 * 4 * inner  # shortcut
            width = 4 * inner
    return counts


@pytest.mark.parametrize(
    ("name", "blocks", "published"), [("resnet50", (3, 4, 6, 3), 25_557_032), ("resnet101", (3, 4, 23, 3), 44_549_160)]
)
def test_resnets_have_the_papers_groups_with_the_architectures_counts(monkeypatch, name, blocks, published):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    monkeypatch.setattr(models, "create", lambda *a, **k: (network, models.IMAGENET))
    groups = layer_groups(build(toy(backbone=f"torchvision:{name}", weights="pretrained", head_width=512), 12))
    counts = {group: sum(p.numel() for p in parameters) for group, parameters in groups.items()}
    expected = bottleneck_resnet(blocks)
    assert sum(expected.values()) + 2048 * 1000 + 1000 == published  # our count is the published one
    assert counts == {**expected, "head": 2048 * 512 + 512 + 512 * 12 + 12}
    assert list(counts) == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "head"]


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_small_resnets_have_the_papers_groups_too(monkeypatch, name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    monkeypatch.setattr(models, "create", lambda *a, **k: (network, models.IMAGENET))
    groups = layer_groups(build(toy(weights="pretrained"), 12))
    assert list(groups) == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "head"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_its_imagenet_logits_and_gets_a_task_head(monkeypatch, name):
    """The split network with its kept head answers as the library's own network does before the split."""
    size, width = FAMILIES[name]
    network, normalisation = create(name, pretrained=False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():  # the libraries' own random weights let no signal through
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0, (2 / parameter[0].numel()) ** 0.5, generator=generator)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in normalisation)
    x = pixels(size)
    with torch.no_grad():
        expected = network.eval()((x / 255 - mean) / std)
        monkeypatch.setattr(models, "create", lambda *a, **k: (network, normalisation))
        student = build(toy(backbone=name, weights="pretrained"), 3)
        task, imagenet, features = student(x)
        torch.testing.assert_close(features, student.features(x))
        torch.testing.assert_close(imagenet, student.imagenet_logits(x))
        torch.testing.assert_close(task, student.task_head(features))
    assert features.shape == (2, width) == (2, student.kept_head.in_features)
    assert task.shape == (2, 3)
    assert imagenet.shape == expected.shape == (2, 1000)
    assert float((expected[0] - expected[1]).abs().max()) > 0.01 * float(expected.abs().max())  # it looks at its input
    torch.testing.assert_close(imagenet, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))

    groups = layer_groups(student)
    assert list(groups)[-1] == "head"
    assert len(groups) >= 3  # so that layer-wise rates mean something
    grouped = [p for group in groups.values() for p in group]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in student.parameters() if p.requires_grad}


def test_pixels_are_normalised_as_the_network_was_trained():
    seen = []
    student = build(toy(backbone="torchvision:mobilenet_v3_small"), 3)
    student.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    student(pixels())
    expected = torchvision.transforms.functional.normalize(
        pixels() / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(seen[0], expected)


@pytest.fixture
def lite0(tmp_path, monkeypatch) -> RunConfig:
    """The mini profile's network, with random numbers where the data script puts the ImageNet weights."""
    (tmp_path / "mini").mkdir()
    generator = torch.Generator().manual_seed(0)
    state = {
        key: value if key.endswith(("running_mean", "running_var", "tracked")) else value + 0.1 * torch.rand(value.shape, generator=generator)
        for key, value in timm.create_model("tf_efficientnet_lite0").state_dict().items()
    }  # fmt: skip
    save_file(state, tmp_path / "mini" / "efficientnet_lite0.safetensors")
    monkeypatch.setenv("ASG_DATA", str(tmp_path))
    return make_config(PROFILES["mini"], {"size": 32})


def test_lite0_pixels_are_x_less_127_over_128(lite0):
    seen = []
    student = build(lite0, 12)
    student.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    student(pixels())
    torch.testing.assert_close(seen[0], (pixels().float() - 127) / 128)


def test_lite0_weights_are_the_files(lite0, tmp_path):
    network = timm.create_model("tf_efficientnet_lite0").eval()
    load_weights(network, tmp_path / "mini" / "efficientnet_lite0.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(
            build(lite0, 12).imagenet_logits(pixels()), network((pixels().float() - 127) / 128), rtol=1e-4, atol=1e-4
        )


def test_teacher_outputs_are_kept_under_weights_and_normalisation(lite0, tmp_path):
    """The same weights behind another normalisation are another teacher."""
    path = tmp_path / "mini" / "efficientnet_lite0.safetensors"
    named, by_path = build(lite0, 12), build(lite0.model_copy(update={"weights": str(path)}), 12)
    assert not torch.equal(named.mean, by_path.mean)
    assert fingerprint(named) != fingerprint(by_path)
    assert fingerprint(named) == fingerprint(build(lite0.model_copy(update={"seed": 1, "lr": 0.5}), 12))
    with torch.no_grad():
        next(iter(by_path.backbone.parameters())).add_(1e-3)
    assert fingerprint(by_path) != fingerprint(build(lite0.model_copy(update={"weights": str(path)}), 12))


def test_a_saved_lite0_model_keeps_its_normalisation_without_the_weights_file(lite0, tmp_path, monkeypatch):
    student = build(lite0, 12)
    save_model(student, lite0, tuple("abcdefghijkl"), tmp_path / "saved")
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "elsewhere"))
    again, config, _ = load_model(tmp_path / "saved")
    assert config == lite0
    with torch.inference_mode():
        for ours, theirs in zip(student(pixels()), again(pixels()), strict=True):
            assert torch.equal(ours, theirs)


def test_a_student_stays_in_eval_mode():
    student = build(toy(), 3)
    assert not any(module.training for module in student.modules())
    assert student.train() is student
    assert not any(module.training for module in student.train(True).modules())


def test_a_step_trains_affine_parameters_and_leaves_statistics_and_the_kept_head():
    student = build(toy(), 3)
    student.train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    optimiser = make_optimiser(toy(), layer_groups(student))
    task, imagenet, _ = student(pixels(n=4))
    (task.square().mean() + imagenet.square().mean()).backward()
    optimiser.step()
    changed = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    norms = [n for n, m in student.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 5
    assert {f"{n}.{part}" for n in norms for part in ("weight", "bias")} <= changed
    assert changed == {name for name, p in student.named_parameters() if p.requires_grad}
    assert not any(key.startswith("kept_head") or "running" in key or "tracked" in key for key in changed)


def test_the_guidances_gradient_passes_through_the_frozen_head_into_the_backbone():
    student = build(toy(), 3)
    student.imagenet_logits(pixels()).square().mean().backward()
    assert all(p.grad is None for p in student.kept_head.parameters())
    assert all(p.grad is None for p in student.task_head.parameters())
    assert all(float(p.grad.abs().max()) > 0 for p in student.backbone.parameters() if p.dim() > 1)


def test_dropout_before_the_classifier_is_off():
    student = build(toy(backbone="torchvision:mobilenet_v3_small"), 3).train()
    assert any(isinstance(m, nn.Dropout) and m.p > 0 for m in student.modules())
    assert torch.equal(student(pixels(64))[0], student(pixels(64))[0])


def task_head(**overrides: object) -> dict[str, torch.Tensor]:
    return build(toy(**overrides), 3).task_head.state_dict()


def test_the_task_heads_start_depends_on_the_seed_only():
    torch.manual_seed(1)
    first = task_head(seed=5)
    torch.manual_seed(2)
    second = task_head(seed=5, lr=0.5, guidance=0.3, steps=99, backbone_factor=1.0)
    other = task_head(seed=6)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first)


def test_the_task_heads_start_does_not_depend_on_the_backbones_weights(tmp_path):
    network, _ = create(TOY.backbone, pretrained=False)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    first, second = task_head(seed=5), task_head(seed=5, weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_random_weights_depend_on_the_seed_only():
    for backbone in ("torchvision:resnet18", "timm:test_vit", TOY.backbone):
        torch.manual_seed(1)
        first = build(toy(backbone=backbone), 3).state_dict()
        torch.manual_seed(2)
        second = build(toy(backbone=backbone), 3).state_dict()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []
        other = build(toy(backbone=backbone, seed=1), 3).state_dict()
        assert any(not torch.equal(first[key], other[key]) for key in first if key.startswith("backbone"))


def test_the_task_head_starts_like_torchs_linear_layers():
    ours = build(toy(head_width=128), 64).task_head
    for layer in (ours[0], ours[2]):
        bound = layer.in_features**-0.5
        torchs = nn.Linear(layer.in_features, layer.out_features)
        for mine, theirs in ((layer.weight, torchs.weight), (layer.bias, torchs.bias)):
            assert float(theirs.detach().abs().max()) <= bound  # torch's default is this range
            assert float(mine.detach().abs().max()) <= bound
        weights = layer.weight.detach().flatten().numpy()
        assert stats.kstest(weights, "uniform", args=(-bound, 2 * bound)).pvalue > 0.01


def test_a_saved_model_gives_bit_identical_logits(tmp_path):
    student = build(toy(seed=3), 3)
    with torch.no_grad():
        for parameter in layer_groups(student)["head"]:
            parameter.mul_(1.5)
    save_model(student, toy(seed=3), ("a", "b", "c"), tmp_path / "new" / "folder")
    again, config, classes = load_model(tmp_path / "new" / "folder")
    assert (config, classes) == (toy(seed=3), ("a", "b", "c"))
    with torch.inference_mode():
        for ours, theirs in zip(student(pixels()), again(pixels()), strict=True):
            assert torch.equal(ours, theirs)


def test_weights_from_a_pth_and_a_safetensors_file_are_the_same(tmp_path):
    network, _ = create(TOY.backbone, pretrained=False)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    a, b = (build(toy(weights=str(tmp_path / f"w.{kind}")), 3).state_dict() for kind in ("safetensors", "pth"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(a["kept_head.weight"], network.classifier.weight)


@pytest.mark.parametrize("backbone", ["timm:nope", "torchvision:nope"])
@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_an_unknown_backbone_is_named(backbone, weights):
    with pytest.raises(AsgError, match="no backbone 'nope' in " + backbone.partition(":")[0]):
        build(toy(backbone=backbone, weights=weights), 3)


@pytest.mark.parametrize("backbone", ["resnet101", "keras:resnet101"])
def test_an_unknown_library_is_named(backbone):
    with pytest.raises(AsgError, match=f"'{backbone}' names no library: write timm:NAME or torchvision:NAME"):
        build(toy(backbone=backbone), 3)


def test_a_network_without_a_linear_classifier_is_named():
    with pytest.raises(AsgError, match="SqueezeNet ends in no linear classifier"):
        build(toy(backbone="torchvision:squeezenet1_1"), 3)
    with pytest.raises(AsgError, match="Sequential ends in no linear classifier"):
        split_classifier(nn.Sequential(nn.Conv2d(3, 8, 1)))


def test_a_network_with_two_classifiers_is_named():
    with pytest.raises(AsgError, match="deit_tiny_distilled_patch16_224"):
        build(toy(backbone="timm:deit_tiny_distilled_patch16_224", size=224), 3)


def write(kind: str, path: Path) -> None:
    if kind == "junk":
        path.write_bytes(b"not a state dict")
    elif kind == "other network":
        torch.save(timm.create_model("test_resnet").state_dict(), path)
    elif kind == "nested":
        torch.save({"state_dict": timm.create_model("test_efficientnet").state_dict()}, path)
    elif kind == "other size":
        torch.save(timm.create_model("test_efficientnet", num_classes=7).state_dict(), path)
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "list":
        torch.save([torch.zeros(3)], path)


@pytest.mark.parametrize("kind", ["missing", "junk", "other network", "nested", "other size", "tensor", "list"])
def test_weights_that_do_not_fit_are_named(tmp_path, kind):
    path = tmp_path / "weights.pth"
    write(kind, path)
    with pytest.raises(AsgError) as caught:
        build(toy(weights=str(path)), 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"config": {"nope": 1}, "classes": ["a"]}'])
def test_a_folder_without_a_saved_model_is_named(tmp_path, text):
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(AsgError) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_saved_model_without_its_weights_is_named(tmp_path):
    save_model(build(toy(), 3), toy(), ("a", "b", "c"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(AsgError, match=r"model\.safetensors is missing"):
        load_model(tmp_path)


def test_a_saved_model_says_what_it_is_in_json(tmp_path):
    save_model(build(toy(), 3), toy(), ("a", "b", "c"), tmp_path)
    described = json.loads((tmp_path / "model.json").read_text())
    assert RunConfig(**described["config"]) == toy()
    assert (described["classes"], described["imagenet"]) == (["a", "b", "c"], 1000)


def snapshot(student: models.Student) -> dict[str, list[torch.Tensor]]:
    return {k: [p.detach().clone() for p in v] for k, v in layer_groups(student).items() if k != "head"}


def test_drift_is_zero_at_the_start():
    student = build(toy(), 3)
    start = snapshot(student)
    assert drift(student, start) == dict.fromkeys(start, 0.0)


def test_drift_is_the_relative_distance_of_each_group_alone():
    student = build(toy(), 3)
    start, groups = snapshot(student), layer_groups(student)
    with torch.no_grad():
        for parameter in groups["blocks.1"]:
            parameter.mul_(1.25)  # distance ¼ of the norm
        for parameter in groups["conv_head"]:
            parameter.neg_()  # distance twice the norm
        groups["head"][0].add_(1)
    expected = {**dict.fromkeys(start, 0.0), "blocks.1": 0.25, "conv_head": 2.0}
    assert drift(student, start) == pytest.approx(expected, rel=1e-6)
