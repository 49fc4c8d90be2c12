"""Who sets the weight of guidance, λ: the configuration, the controller, or the balance of gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from asg import processes
from asg.config import RunConfig


def balanced_weight(task: Tensor, guidance: Tensor, features: Tensor, most: float) -> Tensor:
    r"""λ at which both losses pull equally at the features, at most ``most``: a scalar without gradient.

    .. math:: \min\Big(\frac{\|\partial L_\mathrm{task} / \partial f\|}{\|\partial\,\mathrm{KL} / \partial f\|},\
              \lambda_\mathrm{most}\Big)

    Both losses are scalar functions of ``features`` (N, D), or maps (N, D, H, W), which the norms run over; of
    several processes together. ``most`` where the divergence has no gradient yet, as at the start. Source: the balance
    of gradient norms at a shared representation (departure 41).
    """
    pulls = [torch.autograd.grad(loss, features, retain_graph=True)[0].float() for loss in (task, guidance)]
    squares = processes.mean(torch.stack([pull.square().sum() for pull in pulls]))  # (2,)
    return (squares[0] / squares[1]).sqrt().nan_to_num(most).clamp(max=most)


def weigh(config: RunConfig, share: float, task: Tensor, guidance: Tensor, features: Tensor) -> float | Tensor:
    """λ of one step: ``share``, which the controller gives, of ``config.guidance``; or the balance, at most that."""
    if config.weigh == "gradients":
        return balanced_weight(task, guidance, features, share * config.guidance)
    return share * config.guidance
