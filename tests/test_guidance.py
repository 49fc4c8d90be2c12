"""Proxy guidance in a loop of one's own: against two whole classifiers, wrapped in all the ways a user wraps."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from asg import AsgError
from asg.guidance import TWICE, ProxyGuidance, classifier_name

NETWORKS = {
    "timm:resnet18": ("fc", 64),
    "timm:vit_tiny_patch16_224": ("head", 224),
    "timm:convnext_atto": ("head.fc", 64),
    "timm:test_efficientnet": ("classifier", 64),
    "torchvision:resnet18": ("fc", 64),
    "torchvision:mobilenet_v3_small": ("classifier.3", 64),
    "torchvision:efficientnet_b0": ("classifier.1", 64),
}


def make(name: str) -> nn.Module:
    library, _, model = name.partition(":")
    torch.manual_seed(0)
    made = timm.create_model(model) if library == "timm" else torchvision.models.get_model(model)
    classifier = made.get_submodule(NETWORKS[name][0])
    nn.init.normal_(classifier.weight, std=3 * classifier.in_features**-0.5)  # answers as sure as ImageNet's
    for layer in (m for m in made.modules() if isinstance(m, nn.BatchNorm2d)):
        layer.momentum = 1.0
    with torch.no_grad():  # else features of random weights die out
        made.train()(torch.randn(8, 3, NETWORKS[name][1], NETWORKS[name][1]))
    return made.eval()


def replaced(network: nn.Module, name: str, classes: int = 3) -> nn.Module:
    """The network with a classifier of its own, as a user replaces it."""
    parent, _, leaf = name.rpartition(".")
    holder = network.get_submodule(parent)
    setattr(holder, leaf, nn.Linear(getattr(holder, leaf).in_features, classes))
    return network


def moved(network: nn.Module) -> nn.Module:
    """The network after some training: every weight has changed."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * (parameter.std() if parameter.numel() > 1 else 1))
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_the_term_is_lambda_times_the_divergence_of_two_whole_classifiers(name: str):
    """By hand: the same backbone before and after, each with its ImageNet classifier, and KL written out."""
    path, size = NETWORKS[name]
    network, images = make(name), torch.randn(4, 3, size, size)
    assert classifier_name(network) == path
    before, classifier = copy.deepcopy(network), network.get_submodule(path)
    guide = ProxyGuidance(network, weight=0.3)
    moved(replaced(network, path))
    after = copy.deepcopy(network)
    parent, _, leaf = path.rpartition(".")
    setattr(after.get_submodule(parent), leaf, classifier)
    with torch.no_grad():
        q, p = before(images).double().log_softmax(1), after(images).double().log_softmax(1)
        by_hand = 0.3 * float((q.exp() * (q - p)).sum(1).mean())
    network(images)
    assert guide(images).item() == pytest.approx(by_hand, rel=1e-4) and by_hand > 0
    assert guide.head.weight is not classifier.weight and not any(p.requires_grad for p in guide.parameters())


def test_its_gradient_is_that_of_a_second_pass_and_the_pass_is_not_repeated(monkeypatch):
    network, images = make("timm:resnet18"), torch.randn(2, 3, 64, 64)
    guide = ProxyGuidance(network)
    moved(replaced(network, "fc"))
    passes = []
    network.conv1.register_forward_hook(lambda *given: passes.append(1))
    guide(images).backward()  # it runs the network itself
    alone = [p.grad.clone() for name, p in network.named_parameters() if not name.startswith("fc")]
    network.zero_grad()
    logits = network(images)
    (F.cross_entropy(logits, torch.tensor([0, 1])) * 0 + guide(images)).backward()
    together = [p.grad for name, p in network.named_parameters() if not name.startswith("fc")]
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(alone, together, strict=True))
    assert len(passes) == 2 and max(float(g.abs().max()) for g in together) > 0


def test_other_images_than_the_last_are_run_again_and_said_once():
    network, images = make("timm:test_efficientnet"), torch.randn(2, 3, 64, 64)
    guide = ProxyGuidance(network)
    moved(network)
    network(images)
    right = guide(images).item()
    network(torch.randn(2, 3, 64, 64))
    with pytest.warns(UserWarning, match=TWICE[:40]):
        assert guide(images).item() == pytest.approx(right, rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert guide(images).item() == pytest.approx(right, rel=1e-5)


def test_a_classifier_that_was_replaced_may_still_be_called_on_other_features():
    network, images = make("timm:test_efficientnet"), torch.randn(2, 3, 64, 64)
    former, guide = network.classifier, ProxyGuidance(network)
    moved(replaced(network, "classifier"))
    guide.attach()
    network(images)
    right = guide(images).item()
    network(images)
    former(torch.randn(2, former.in_features))
    assert guide(images).item() == pytest.approx(right, rel=1e-5)


def test_remembered_answers_are_looked_up_by_number():
    network, images = make("timm:test_efficientnet"), torch.randn(6, 3, 64, 64)
    guide = ProxyGuidance(network)
    with pytest.raises(AsgError, match=r"guide\.remember"):
        guide(images[:2], torch.tensor([0, 1]))
    guide.remember(images.split(4))
    moved(network)
    batch, indices = images[[5, 2]], torch.tensor([5, 2])
    network(batch)
    live = guide(batch).item()
    network(batch)
    calls = []
    guide.teacher.register_forward_hook(lambda *given: calls.append(1))
    assert guide(batch, indices).item() == pytest.approx(live, rel=1e-4) and not calls
    with pytest.raises(AsgError, match="no images"):
        guide.remember([])


def test_the_state_dict_guides_a_taken_up_training_by_the_same_network():
    network, images = make("timm:test_efficientnet"), torch.randn(2, 3, 64, 64)
    guide = ProxyGuidance(network)
    moved(network)
    network(images)
    expected = guide(images).item()
    buffer = io.BytesIO()
    torch.save({"network": network.state_dict(), "guide": guide.state_dict()}, buffer)
    state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    network = make("timm:test_efficientnet")
    network.load_state_dict(state["network"])
    again = ProxyGuidance(network)  # of weights that have moved: wrong until its state is there
    again.load_state_dict(state["guide"])
    network(images)
    assert again(images).item() == pytest.approx(expected, rel=1e-5)


def test_the_callers_network_stays_as_it_is_and_can_be_copied_and_saved():
    network = make("timm:test_efficientnet")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    guide, images = ProxyGuidance(network), torch.randn(2, 3, 64, 64)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.requires_grad for p in network.parameters())
    network(images)  # the tap holds tensors of a graph now, which neither copy nor file may need
    copied = copy.deepcopy(network)
    torch.save(network, io.BytesIO())
    assert guide.train().training is False
    copied(images)
    guide(images).backward()


def test_dense_features_are_averaged_over_pieces():
    """The paper's dense form: a backbone that gives maps, the ImageNet classifier on each of 2 × 2 pieces."""
    network = make("torchvision:resnet18")
    backbone, head = nn.Sequential(*list(network.children())[:-2]), network.fc
    guide, images = ProxyGuidance(backbone, head=head, chunks=2, weight=1.0), torch.randn(2, 3, 128, 128)
    before = copy.deepcopy(backbone)
    moved(backbone)
    maps = backbone(images)  # (2, 512, 4, 4)
    divergence = guide(images)
    with torch.no_grad():
        logits = [
            [head(m[:, :, r : r + 2, c : c + 2].mean((2, 3))) for r in (0, 2) for c in (0, 2)]
            for m in (before(images), maps)
        ]
        q, p = (torch.stack(four).softmax(2) for four in logits)
    assert divergence.item() == pytest.approx(float((q * (q / p).log()).sum(2).mean()), rel=1e-4)


def test_a_backbone_that_gives_its_maps_by_name():
    model = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=4).eval()
    guide, images = ProxyGuidance(model.backbone, head=nn.Linear(2048, 10)), torch.randn(1, 3, 64, 64)
    assert guide(images).item() == pytest.approx(0, abs=1e-5)
    moved(model.backbone)
    model(images)
    assert guide(images).item() > 0


def test_autocast_and_compile_give_the_same_term():
    network, images = make("timm:test_efficientnet"), torch.randn(2, 3, 64, 64)
    guide = ProxyGuidance(network)
    moved(replaced(network, "classifier"))
    guide.attach()
    network(images)
    plain = guide(images).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(images)
        assert guide(images).item() == pytest.approx(plain, rel=0.1)
    compiled = torch.compile(network, backend="aot_eager")
    for _ in range(2):
        compiled(images)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the compiled pass is the one that counts
            term = guide(images)
        assert term.item() == pytest.approx(plain, rel=1e-4)
    term.backward()
    assert network.conv_stem.weight.grad.abs().max() > 0


def test_a_network_that_ends_in_no_classifier_is_refused():
    with pytest.raises(AsgError, match="ends in no linear classifier"):
        ProxyGuidance(timm.create_model("test_efficientnet", num_classes=0))


def test_wrapped_for_several_devices_the_pass_of_the_inner_network_counts(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        network, images = make("timm:test_efficientnet"), torch.randn(2, 3, 64, 64)
        guide = ProxyGuidance(network)
        moved(replaced(network, "classifier"))
        guide.attach()
        wrapped = nn.parallel.DistributedDataParallel(network)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (wrapped(images).mean() + guide(images)).backward()
        assert network.conv_stem.weight.grad.abs().max() > 0
    finally:
        torch.distributed.destroy_process_group()
