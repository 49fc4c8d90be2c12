"""Folded BatchNorms against the same networks without the fold."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from asg import AsgError
from asg.config import make_config
from asg.folding import fold, is_folded
from asg.models import build
from asg.run import run
from asg.trainers import frozen
from asg_book.profiles import PROFILES

NETWORKS = {
    "resnet18": torchvision.models.resnet18,
    "timm's activations within BatchNorms": lambda: timm.create_model("test_efficientnet"),
    "padding that depends on the size": lambda: timm.create_model("tf_efficientnet_lite0"),
    "BatchNorms before convolutions too": lambda: timm.create_model("densenet121"),
    "convolutions with a bias": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Flatten()
    ),
}


def used(network: nn.Module) -> nn.Module:
    """A network whose BatchNorms have something to do, as after training on photographs."""
    generator = torch.Generator().manual_seed(1)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        for tensor, low, high in ((norm.running_mean, -0.2, 0.2), (norm.running_var, 0.5, 2), (norm.weight, 0.5, 2)):
            tensor.data.uniform_(low, high, generator=generator)
        norm.bias.data.uniform_(-0.2, 0.2, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_network_without_the_fold(name: str):
    network = used(NETWORKS[name]())
    folded = copy.deepcopy(network)
    fold(folded, 64)
    assert list(folded.state_dict()) == list(network.state_dict()) and is_folded(folded) and not is_folded(network)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = network.double()(x)  # in float32 a rounding may turn a ReLU on or off
    torch.testing.assert_close(folded.double()(x), expected, rtol=0, atol=1e-9 * float(expected.detach().abs().max()))
    for each in (network, folded):
        each(x).square().mean().backward()
    for (parameter, given), rival in zip(folded.named_parameters(), network.parameters(), strict=True):
        assert float((given.grad - rival.grad).norm()) <= 1e-6 * float(rival.grad.norm()) + 1e-12, parameter


def test_a_copy_has_batchnorms_of_its_own():
    network = used(torchvision.models.resnet18())
    fold(network, 64)
    x = torch.rand(1, 3, 64, 64)
    before, other = network(x), copy.deepcopy(network)
    with torch.no_grad():
        other.bn1.weight.mul_(2)
        assert not torch.allclose(other(x), before) and torch.equal(network(x), before)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(x), before)


class UsedTwice(nn.Module):
    """A network whose convolution is seen beside its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.convolution(x)
        return self.norm(maps) + maps


def broken() -> nn.Module:
    """A network that answers NaN, with the fold and without."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    nn.init.constant_(network[0].weight, float("nan"))
    return network


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (torchvision.models.convnext_tiny(), "ConvNeXt has no BatchNorm after a convolution: leave fold out"),
        (UsedTwice(), "BatchNorms of UsedTwice cannot be folded: leave fold out"),
        (broken(), "BatchNorms of Sequential cannot be folded: leave fold out"),
    ],
    ids=["no BatchNorm", "a convolution that is used twice", "NaN"],
)
def test_what_cannot_be_folded_is_a_sentence(network: nn.Module, message: str):
    with pytest.raises(AsgError, match=message):
        fold(used(network), 64)


@pytest.mark.slow
def test_a_folded_run_is_the_plain_one_up_to_rounding(workplace):
    results = [
        run(make_config(PROFILES["toy"], {"steps": 20, "evaluations": 2, "guidance": 0.1, "fold": fold}), device="cpu")
        for fold in (None, True)
    ]
    for plain, folded in zip(*(record["first_losses"] for record in results), strict=True):
        assert folded == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert results[0]["final"]["kl"] == pytest.approx(results[1]["final"]["kl"], rel=1e-2)


def test_what_is_kept_of_a_folded_network_is_not_taken_for_the_other():
    plain, folded = (build(make_config(PROFILES["toy"], {"steps": 1, "fold": folding}), 3) for folding in (None, True))
    assert frozen.fingerprint(plain) != frozen.fingerprint(folded)
