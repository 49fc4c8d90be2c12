"""SGD over layer groups, in torch's variant and the reference's."""

from __future__ import annotations

import torch
from torch import nn

from asg.config import RunConfig


class ReferenceSGD(torch.optim.Optimizer):
    r"""SGD whose learning rate enters the momentum buffer.

    .. math:: v \leftarrow \rho v + \eta (g + \omega\theta), \qquad \theta \leftarrow \theta - v

    torch's SGD keeps the rate out of the buffer, so that a change of rate takes effect at once;
    here it takes effect over about :math:`1/(1-\rho)` steps. At a constant rate the two agree.
    Source: the behaviour of the reference code.
    """

    def __init__(self, params: list, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            velocity = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in parameters]
            torch._foreach_mul_(velocity, group["momentum"])
            torch._foreach_add_(velocity, [p.grad for p in parameters], alpha=group["lr"])
            torch._foreach_add_(velocity, parameters, alpha=group["lr"] * group["weight_decay"])
            torch._foreach_sub_(parameters, velocity)


def make_optimiser(config: RunConfig, groups: dict[str, list[nn.Parameter]]) -> torch.optim.Optimizer:
    """SGD with one parameter group a layer group, in the variant that ``config.sgd`` names."""
    parameters = [{"params": group, "name": name} for name, group in groups.items()]
    kind = {"reference": ReferenceSGD, "torch": torch.optim.SGD}[config.sgd]
    return kind(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
