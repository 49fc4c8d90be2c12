"""Weights kept within a learned distance of ImageNet's, tensor by tensor: TPGM and FTP (Tian et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from asg.config import Project, RunConfig
from asg.data.images import StepSampler, total_steps
from asg.dense_losses import segmentation_loss
from asg.models import Student, layer_groups

SMALLEST = 1e-8  # radius


def length(moved: Tensor, norm: str) -> Tensor:
    """How far a tensor has moved, in a shape that divides it: ``l2`` of the whole, ``mars`` the ℓ1 of each row.

    A row is what belongs to one output channel; of a vector, each entry.
    """
    if norm == "l2":
        return moved.norm()
    return moved.flatten(1).abs().sum(1).view(-1, *[1] * (moved.dim() - 1)) if moved.dim() > 1 else moved.abs()


def projected(start: Tensor, moved: Tensor, radius: Tensor, norm: str) -> Tensor:
    r"""Back to the ball: :math:`\theta_0 + \min(1, \gamma / \|\delta\|)\,\delta` of ``moved`` :math:`\delta`."""
    return start + (radius / length(moved, norm).clamp_min(SMALLEST)).clamp_max(1.0) * moved


class Projection:
    """Projects the backbone's tensors after a step; ``radii`` ``(P,)`` are learned by Adam. The head is free."""

    def __init__(self, project: Project, student: Student) -> None:
        self.project, self.student = project, student
        backbone = {id(p) for name, group in layer_groups(student).items() if name != "head" for p in group}
        self.parameters = {name: p for name, p in student.named_parameters() if id(p) in backbone}
        self.start = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.radii = nn.Parameter(next(iter(self.start.values())).new_zeros(len(self.start)))
        self.adam = torch.optim.Adam([self.radii], lr=project.rate)
        self.begun = False

    def moved(self) -> dict[str, Tensor]:
        """How each tensor differs from its start."""
        return {name: p.detach() - self.start[name] for name, p in self.parameters.items()}

    def farthest(self, moved: dict[str, Tensor]) -> Tensor:
        """The length of each tensor's movement, ``(P,)``; by rows, of the row that has moved farthest."""
        return torch.stack([length(one, self.project.norm).max() for one in moved.values()])

    def places(self, moved: dict[str, Tensor], radii: Tensor) -> dict[str, Tensor]:
        """Every tensor projected with its radius."""
        return {
            name: projected(self.start[name], one, radius, self.project.norm)
            for (name, one), radius in zip(moved.items(), radii, strict=True)
        }

    @torch.no_grad()
    def apply(self, moved: dict[str, Tensor]) -> None:
        """Move every tensor to its projection."""
        for name, place in self.places(moved, self.radii).items():
            self.parameters[name].copy_(place)

    def learn(self, gradient: Tensor, largest: Tensor) -> None:
        """One step of Adam along ``gradient`` ``(P,)``; radii stay in [1e-8, ``largest``]."""
        self.radii.grad = gradient
        self.adam.step()
        with torch.no_grad():
            self.radii.clamp_(torch.tensor(SMALLEST, device=largest.device), largest)

    def step(self, step: int) -> None:
        """Called after every step of the optimiser, with the gradients that it took."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """Radii and Adam's moments."""
        return {"radii": self.radii.detach(), "adam": self.adam.state_dict(), "begun": self.begun}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` gave."""
        with torch.no_grad():
            self.radii.copy_(state["radii"])
        self.adam.load_state_dict(state["adam"])
        self.begun = state["begun"]


class TPGM(Projection):
    """Trainable projected gradient method: radii from held-out batches, at the end of every pass and of the training.

    They start at half the smallest movement; in each of ``iterations`` Adam descends the task loss of the *projected*
    network on a batch of held-out **synthetic** images. Then the network is projected (departure 39).
    """

    def __init__(self, config: RunConfig, student: Student, images: Dataset, held_out: Dataset) -> None:
        super().__init__(config.project, student)
        self.total, self.every = total_steps(config, len(images)), max(1, len(images) // config.batch)
        self.held_out, self.batch, self.seed = held_out, min(config.batch, len(held_out)), config.seed

    def batches(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """``iterations`` batches of held-out images and labels, other ones after every pass."""
        first = (step // self.every) * self.project.iterations
        order = StepSampler(len(self.held_out), self.batch, self.seed, first, first + self.project.iterations)
        for indices in order:
            _, x, labels = zip(*(self.held_out[i] for i in indices), strict=True)
            device = self.radii.device
            yield torch.stack(x).to(device), torch.stack([torch.as_tensor(one) for one in labels]).to(device)

    def step(self, step: int) -> None:
        """Learn and project where a pass or the training has ended."""
        if (step + 1) % self.every and step + 1 != self.total:
            return
        moved = self.moved()
        largest = self.farthest(moved)
        if not bool((largest > 0).all()):
            return  # nothing has moved: a backbone at rest
        with torch.no_grad():
            self.radii.copy_(torch.full_like(largest, float(largest.min()) / 2))
        self.adam = torch.optim.Adam([self.radii], lr=self.project.rate)
        for x, labels in self.batches(step):
            logits = functional_call(self.student, self.places(moved, self.radii), (x,))[0]
            (gradient,) = torch.autograd.grad(segmentation_loss(logits, labels), self.radii)
            self.learn(gradient, largest.max())
        self.apply(moved)


class FTP(Projection):
    r"""Fast trainable projection: radii from the gradients of the training itself, in every step.

    The gradient of the loss in a radius is that in the weights, which lie where the last projection put them, along
    the direction in which they were held back:

    .. math:: \partial_\gamma L = \sum_i \partial_{\theta_i} L\; \delta_i / \|\delta\|

    over the tensor, or over the rows, that the projection shortened. The first step is free and gives the first radii
    (departure 39).
    """

    def __init__(self, config: RunConfig, student: Student, images: Dataset, held_out: Dataset) -> None:
        super().__init__(config.project, student)
        self.held_back = {name: torch.zeros_like(one) for name, one in self.start.items()}  # δ / ‖δ‖, where shortened

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Learn from the gradients of this step, then project what it has moved."""
        moved = self.moved()
        if not self.begun:
            self.radii.copy_(self.farthest(moved).clamp_min(SMALLEST))
            self.begun = True
            return
        slopes = [(p.grad * self.held_back[name]).sum() for name, p in self.parameters.items()]
        self.learn(torch.stack(slopes), torch.full((), torch.inf, device=self.radii.device))
        for (name, one), radius in zip(moved.items(), self.radii, strict=True):
            far = length(one, self.project.norm)
            self.held_back[name] = torch.where(far > radius, one / far.clamp_min(SMALLEST), torch.zeros_like(one))
        self.apply(moved)

    def state_dict(self) -> dict:
        """Also the directions in which weights were held back."""
        return {**super().state_dict(), "held_back": self.held_back}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` gave."""
        super().load_state_dict(state)
        self.held_back = {name: one.to(self.radii.device) for name, one in state["held_back"].items()}


KINDS: dict[str, Callable[[RunConfig, Student, Dataset, Dataset], Projection]] = {"tpgm": TPGM, "ftp": FTP}


def make_projection(config: RunConfig, student: Student, images: Dataset, held_out: Dataset) -> Projection | None:
    """The projection that ``config.project`` names, or None; ``student`` must still be at its start."""
    return KINDS[config.project.kind](config, student, images, held_out) if config.project else None
