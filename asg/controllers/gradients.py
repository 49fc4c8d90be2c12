"""Auto-RGN: the rate of every tensor follows its relative gradient norm (surgical fine-tuning, Lee et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asg.config import RunConfig
from asg.controllers.base import Controller
from asg.controllers.hand_tuned import schedule
from asg.data.images import total_steps

BATCHES = 5  # at the start of each epoch, over which relative norms are averaged
NORMALISATION = "normalisation"  # the group of all tensors of BatchNorm layers, which do not move


def tensor_groups(network: nn.Module, groups: dict[str, list[nn.Parameter]]) -> dict[str, list[nn.Parameter]]:
    """The trained tensors of ``groups`` one by one, by their names; those of BatchNorm layers together, last."""
    trained = {id(p) for group in groups.values() for p in group}
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
    normalising = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    named = [(name, p) for name, p in network.named_parameters() if id(p) in trained]
    single = {name: [p] for name, p in named if id(p) not in normalising}
    together = [p for _, p in named if id(p) in normalising]
    return {**single, **({NORMALISATION: together} if together else {})}


def relative_norms(parameters: list[nn.Parameter]) -> Tensor:
    r""":math:`\|\nabla\theta_i\| / \|\theta_i\|` of each tensor, ``(P,)``; infinite for a tensor of zeros."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    norms = (torch.stack(torch._foreach_norm(tensors)) for tensors in (gradients, [p.detach() for p in parameters]))
    above, below = norms
    return torch.where(below > 0, above / below, torch.inf)


class AutoRGN(Controller):
    r"""Rate of tensor i: :math:`\eta\, R_i / \max_j R_j`, with the relative norm :math:`R` of the last measurement.

    Measured over the first :data:`BATCHES` steps of every epoch, on the gradients that these steps take (departure 37);
    before the first measurement every tensor has the full rate. Tensors of zeros, whose relative norm is infinite,
    keep it and count for no maximum; BatchNorm does not move. ``schedule`` as for the other controllers.
    """

    def __init__(self, config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int) -> None:
        self.config, self.control = config, config.control
        self.parameters = {name: group[0] for name, group in groups.items() if name != NORMALISATION}
        self.total = total_steps(config, images)
        self.epoch = max(BATCHES, self.control.epoch or images // config.batch)
        self.sums = torch.zeros(len(self.parameters), device=next(iter(self.parameters.values())).device)
        self.ratios = {name: float(name != NORMALISATION) for name in groups}
        self.decisions: list[dict] = []

    def rates(self, step: int) -> dict[str, float]:
        """The rates in force at ``step``."""
        factor = schedule(step, self.total, self.config.warmup) if self.control.schedule else 1.0
        return {name: self.config.lr * factor * ratio for name, ratio in self.ratios.items()}

    def observe(self, step: int, losses: dict[str, Tensor]) -> None:
        """Add the gradients of ``step`` to a measurement that is under way; the last of it sets the ratios."""
        batch = step % self.epoch
        if batch >= BATCHES:
            return
        self.sums = self.sums + relative_norms(list(self.parameters.values()))
        if batch == BATCHES - 1:
            mean = self.sums / BATCHES
            relative = (mean / mean[mean.isfinite()].max()).where(mean.isfinite(), torch.ones_like(mean))
            if bool(relative.isfinite().all()):  # else the loop is about to say that the run diverged
                self.ratios |= dict(zip(self.parameters, relative.tolist(), strict=True))
            self.decisions.append({"step": step + 1, "ratios": [round(self.ratios[n], 4) for n in self.parameters]})
            self.sums = torch.zeros_like(self.sums)

    def state_dict(self) -> dict:
        """The measurement so far and the decisions."""
        return {name: getattr(self, name) for name in ("sums", "ratios", "decisions")}

    def load_state_dict(self, state: dict) -> None:
        """Go on within the measurement."""
        self.ratios, self.decisions = state["ratios"], state["decisions"]
        self.sums = state["sums"].to(self.sums.device)

    def report(self) -> dict:
        """The tensors, and every decision with its step."""
        return {"parts": list(self.parameters), "decisions": self.decisions}
