"""BatchNorms that keep their statistics, folded into the convolutions before them: no pass over a map of their own."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from asg import AsgError

TOLERANCE = 1e-3  # of the largest feature: what a fold may change by rounding, layer after layer


class Folded(nn.Module):
    r"""A convolution whose weights and bias are those of itself and the BatchNorm after it.

    .. math:: W' = W \frac{\gamma}{\sqrt{v + \varepsilon}}, \qquad
              b' = \beta + (b - m) \frac{\gamma}{\sqrt{v + \varepsilon}}

    with the BatchNorm's kept mean :math:`m` and variance :math:`v`. :math:`W`, :math:`\gamma` and :math:`\beta` stay
    the parameters that are trained, under their names, and get the gradients that they have without the fold.
    """

    batchnorm: tuple[nn.BatchNorm2d]  # in a tuple: it stays a part of the network, not of the convolution

    def scale(self) -> Tensor:
        """The factor ``(C,)`` of each output channel."""
        (norm,) = self.batchnorm
        return norm.weight * torch.rsqrt(norm.running_var + norm.eps)

    @property
    def weight(self) -> Tensor:
        """``(C, D, h, w)``, with what the BatchNorm multiplies by."""
        return self._parameters["weight"] * self.scale()[:, None, None, None]

    @property
    def bias(self) -> Tensor:
        """``(C,)``, with what the BatchNorm adds."""
        (norm,), own = self.batchnorm, self._parameters["bias"]
        centre = norm.running_mean if own is None else norm.running_mean - own
        return norm.bias - centre * self.scale()


class Through(nn.Module):
    """A BatchNorm whose convolution does its work; what timm has put into it beside, an activation, stays."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` through what follows the normalisation in the same module."""
        return self.act(self.drop(x)) if hasattr(self, "act") else x


@cache
def with_first(first: type, kind: type) -> type:
    """A class that is ``kind`` and finds what ``first`` defines before it."""
    return type(f"{first.__name__}{kind.__name__}", (first, kind), {})


def is_folded(network: nn.Module) -> bool:
    """Whether :func:`fold` has changed a network."""
    return any(isinstance(module, Folded) for module in network.modules())


@torch.no_grad()
def fold(network: nn.Module, size: int) -> None:
    """Fold every BatchNorm that is given a convolution's output into it, in place; parameters keep their names.

    For networks that stay in eval mode. Raises :class:`AsgError` where there is none, and where the network then no
    longer gives the same on an image of ``size`` pixels: where a convolution's output goes elsewhere too.
    """
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    produced, pairs = {}, []
    network.eval()

    def leave(module: nn.Module, given: tuple, output: Tensor) -> None:
        produced[id(output)] = module, output  # the tensor is kept, so that no other one gets its identity

    def enter(module: nn.Module, given: tuple) -> None:
        if id(given[0]) in produced:
            pairs.append((produced[id(given[0])][0], module))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(leave))
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats and module.affine:
            hooks.append(module.register_forward_pre_hook(enter))
    before = network(image)
    for hook in hooks:
        hook.remove()
    if not pairs:
        raise AsgError(f"{type(network).__name__} has no BatchNorm after a convolution: leave fold out.")
    for convolution, norm in pairs:
        convolution.__class__ = with_first(Folded, type(convolution))
        norm.__class__ = with_first(Through, type(norm))
        convolution.batchnorm = (norm,)
    if not (network(image) - before).abs().max() <= TOLERANCE * before.abs().max():  # of NaN neither is known
        raise AsgError(f"The BatchNorms of {type(network).__name__} cannot be folded: leave fold out.")
