"""Who sets the learning rate of each layer group: one module a controller, one class for what all answer."""

from __future__ import annotations

from torch import nn

from asg.config import RunConfig
from asg.controllers import hand_tuned
from asg.controllers.base import Controller
from asg.controllers.chance import Fixed, Random
from asg.controllers.learned import Learned

KINDS = {"fixed": Fixed, "random": Random, "random once": Random, "learned": Learned}


def make_controller(config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int) -> Controller:
    """The controller of a run over ``images`` training images and the layer groups ``groups``."""
    kind = KINDS[config.control.kind] if config.control else hand_tuned.make
    return kind(config, groups, images)
