"""Who sets the learning rate of each layer group: one module a controller, one class for what all answer."""

from __future__ import annotations

from torch import nn

from asg.config import RunConfig
from asg.controllers import hand_tuned
from asg.controllers.base import Controller
from asg.controllers.chance import Fixed, Random
from asg.controllers.gradients import AutoRGN, tensor_groups
from asg.controllers.learned import Learned

KINDS = {"fixed": Fixed, "random": Random, "random once": Random, "learned": Learned, "auto-rgn": AutoRGN}


def rate_groups(
    config: RunConfig, network: nn.Module, groups: dict[str, list[nn.Parameter]]
) -> dict[str, list[nn.Parameter]]:
    """The parameters that share a rate: the layer groups, or where the controller sets a rate a tensor, each alone."""
    alone = config.control is not None and config.control.kind == "auto-rgn"
    return tensor_groups(network, groups) if alone else groups


def make_controller(config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int) -> Controller:
    """The controller of a run over ``images`` training images and the parameters that share a rate, ``groups``."""
    kind = KINDS[config.control.kind] if config.control else hand_tuned.make
    return kind(config, groups, images)
