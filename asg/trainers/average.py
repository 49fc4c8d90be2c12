"""Averages over the iterates of a training, which are evaluated in place of the last one."""

from __future__ import annotations

import math

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asg.config import RunConfig


class Average:
    r"""The average of a network's weights that ``config.average`` names; None of them: the network itself.

    ``ema``: :math:`\bar\theta \leftarrow d\,\bar\theta + (1 - d)\,\theta` after every step, from the first iterate on;
    ``swa`` (Izmailov et al. 2018): the mean of the iterates after a share of the ``total`` steps (departure 35).
    """

    def __init__(self, config: RunConfig, network: nn.Module, total: int) -> None:
        self.bare, self.model, self.since = network, None, 0
        if config.average is None:
            return
        if config.average.kind == "ema":
            self.model = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.average.decay))
        else:
            self.model, self.since = AveragedModel(network), math.floor(total * config.average.after)

    @property
    def network(self) -> nn.Module:
        """What is evaluated, and what a run ends with."""
        return self.model.module if self.model is not None and self.model.n_averaged else self.bare

    def update(self, step: int) -> None:
        """Called after every step."""
        if self.model is not None and step >= self.since:
            self.model.update_parameters(self.bare)

    def settle(self) -> None:
        """Give the network the averaged weights, at the end."""
        if self.network is not self.bare:
            self.bare.load_state_dict(self.network.state_dict())
