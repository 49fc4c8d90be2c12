"""Which parameters share a learning rate: the layer groups of a network, input to output."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from asg import AsgError
from asg.controllers.gradients import tensor_groups
from asg.guidance import classifier_name

LARGE = 4 / 5  # of a network's parameters, which a group should not hold


def backbone_groups(backbone: nn.Module, outside: Collection[nn.Parameter] = ()) -> dict[str, list[nn.Parameter]]:
    """Trained parameters of ``backbone`` by layer group, in the order of the network, but for those ``outside``.

    A group is a child of the backbone; in place of one that holds over :data:`LARGE` of the parameters in several parts
    of its own stand these parts, and so on. ResNets get the paper's groups: conv1, bn1, layer1 … layer4 (departure
    10). Frozen parameters belong to no group, and a group of nothing else does not exist.
    """
    left_out = {id(p) for p in outside}

    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters() if id(p) not in left_out)

    most = LARGE * size(backbone)
    split = {n for n, m in backbone.named_modules() if size(m) > most and sum(map(bool, map(size, m.children()))) > 1}
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        if id(parameter) in left_out or not parameter.requires_grad:
            continue
        parts = name.split(".")
        depth = next(d for d in range(1, len(parts) + 1) if d >= len(parts) - 1 or ".".join(parts[:d]) not in split)
        groups.setdefault(".".join(parts[:depth]), []).append(parameter)
    return groups


def parameter_groups(network: nn.Module, head: str | None = None, alone: bool = False) -> list[dict]:
    """Groups for any torch optimiser, each ``{"name": …, "params": […]}``: :func:`backbone_groups`, then ``head``.

    ``network``: any, with the classifier that is trained in its place. ``head``: the name of that module in
    ``network`` (None: the linear layer that the network ends in). ``alone``: each tensor is a group of its own, and
    those of BatchNorm layers are one together, as ``"auto-rgn"`` of :class:`~asg.rates.LayerwiseRates` needs it.

    Raises :class:`AsgError` where there is no such head.
    """
    name = head or classifier_name(network)
    if name not in dict(network.named_modules()):
        top = ", ".join(child for child, _ in network.named_children())
        raise AsgError(f"{type(network).__name__} has no part {name!r}: give the name of its new head, as in {top}.")
    new = [p for p in network.get_submodule(name).parameters() if p.requires_grad]
    groups = {**backbone_groups(network, new), "head": new}
    if alone:
        groups = tensor_groups(network, groups)
    return [{"name": group, "params": parameters} for group, parameters in groups.items()]
