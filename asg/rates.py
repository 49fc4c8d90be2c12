"""Learned, random or gradient-based layer-wise rates for anyone's own training loop: a torch scheduler."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from asg import AsgError, places
from asg.config import make_config
from asg.controllers import make_controller
from asg.controllers.gradients import NORMALISATION
from asg.controllers.windows import policy_path

KINDS = ("hand-tuned", "random", "random once", "auto-rgn")  # any other name is a learned policy's


class LayerwiseRates(LRScheduler):
    r"""Rate of each parameter group: its own rate :math:`\eta_g` times a ratio that a policy sets, window by window.

    .. math:: \eta_g(t) = \eta_g \cdot s(t) \cdot a_g(t), \quad a_g(t) \in [0, 1]

    with the hand-tuned warm-up and decay :math:`s` (:func:`asg.controllers.hand_tuned.schedule`; left out where
    ``schedule`` is false, as in the paper's classification, departure 18). The groups of the optimiser are layer groups
    from input to output, the new head last, all at the head's rate: :func:`~asg.grouping.parameter_groups` makes them
    of any network::

        optimiser = torch.optim.SGD(asg.parameter_groups(network), lr=0.01, momentum=0.9)
        rates = asg.LayerwiseRates(optimiser, "cartoon-asg", total_steps=len(loader) * epochs)
        ...
        task, guidance = cross_entropy(network(images), labels), guide(images)
        (task + guidance).backward()
        optimiser.step()
        rates.step(task=task, guidance=guidance / guide.weight)

    ``policy``: a learned policy's name in ``policies/`` or its file, or one of :data:`KINDS`. A learned one looks at
    both losses, averaged over a window (task loss in nats, and the KL without λ); where the loop gives them elsewhere
    than it steps, :meth:`observe` takes them, once a batch or several times. ``"auto-rgn"`` looks at gradients: step
    after the optimiser and before they are set to zero.

    ``total_steps``: of the training. ``steps_per_epoch``: of one pass over the images, which ends windows (None: all).
    ``warmup``: steps (None: a tenth of all). ``shortest``: steps of the shortest window (paper: 10). ``seed``: of what
    is drawn. Processes that train together average the losses, so that they agree.

    Raises :class:`AsgError` for an unknown policy, for groups that do not suit it, for a step without what the policy
    looks at, and for one past the last.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        policy: str,
        total_steps: int,
        *,
        steps_per_epoch: int | None = None,
        warmup: int | None = None,
        schedule: bool = True,
        shortest: int = 10,
        sampled: bool = True,
        seed: int = 0,
    ) -> None:
        learned = policy not in KINDS
        if learned and not policy_path(policy).exists():
            available = sorted(path.stem for path in places.policies().glob("*.safetensors"))
            raise AsgError(
                f"There is no policy {policy!r}: choose from {', '.join((*KINDS, *available))}, or give a file."
            )
        groups = {group.get("name", str(k)): group["params"] for k, group in enumerate(optimizer.param_groups)}
        if policy == "auto-rgn":
            if any(len(group) > 1 for name, group in groups.items() if name != NORMALISATION):
                raise AsgError(
                    "Auto-RGN sets a rate a tensor: give the optimiser parameter_groups(network, alone=True)."
                )
        else:  # the last group is the one whose weights the policy looks at
            groups = {**dict(list(groups.items())[:-1]), "head": list(groups.values())[-1]}
        control = {"kind": "learned", "policy": policy} if learned else {"kind": policy, "groups": len(groups)}
        settings = {
            "schedule": schedule,
            "shortest": shortest,
            "sampled": sampled,
            "epoch": steps_per_epoch or total_steps,
        }
        config = make_config(
            {"profile": "own", "data": "toy", "lr": 1.0, "backbone_factor": 1.0},
            {"steps": total_steps, "warmup": warmup or max(1, total_steps // 10), "seed": seed},
            {} if policy == "hand-tuned" else {"control": {**control, **settings}},
        )
        self.policy, self.learned, self.total_steps = policy, learned, total_steps
        self.controller = make_controller(config, groups, images=0)
        self.groups = tuple(groups)
        self.seen: dict[str, list[Tensor]] = {"task": [], "guidance": []}
        super().__init__(optimizer)

    def observe(self, task: Tensor | float, guidance: Tensor | float = 0.0) -> None:
        """Losses of the step that is under way: task loss and KL in nats, scalars; several of them are averaged."""
        self.seen["task"].append(torch.as_tensor(task).detach().float())
        self.seen["guidance"].append(torch.as_tensor(guidance).detach().float())

    def step(self, *, task: Tensor | float | None = None, guidance: Tensor | float = 0.0) -> None:
        """After a step of the optimiser: look at it, and set the rates of the next one."""
        if task is not None:
            self.observe(task, guidance)
        if self.last_epoch >= self.total_steps:
            raise AsgError(
                f"These rates were made for {self.total_steps} steps and asked for one more: give the number of steps "
                "of the whole training as total_steps."
            )
        if self.last_epoch >= 0:  # else torch sets the first rates
            self.controller.observe(self.last_epoch, self._losses())
        super().step()

    def _losses(self) -> dict[str, Tensor]:
        """The mean of what was seen since the last step, over all processes."""
        if self.policy == "auto-rgn" and all(p.grad is None for g in self.optimizer.param_groups for p in g["params"]):
            raise AsgError("Auto-RGN looks at gradients and there are none: step before they are set to zero.")
        if self.learned and not self.seen["task"]:
            raise AsgError(f"{self.policy} looks at the losses: give them, rates.step(task=…, guidance=…).")
        device = self.optimizer.param_groups[-1]["params"][-1].device
        means = torch.zeros(len(self.seen), device=device)
        for k, values in enumerate(self.seen.values()):
            if values:
                means[k] = torch.stack([value.to(device) for value in values]).mean()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(means)
            means = means / dist.get_world_size()
        self.seen = {name: [] for name in self.seen}
        return dict(zip(self.seen, means, strict=True))

    def get_lr(self) -> list[float]:
        """Rate of each group at the current step."""
        ratios = self.controller.rates(max(0, self.last_epoch))
        return [base * ratios[name] for base, name in zip(self.base_lrs, self.groups, strict=True)]

    def state_dict(self) -> dict:
        """Where the training is: steps, rates, the window so far and the decisions."""
        own = {"last_epoch": self.last_epoch, "base_lrs": self.base_lrs, "_last_lr": self._last_lr}
        return {**own, "controller": self.controller.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from what :meth:`state_dict` gave."""
        state = dict(state_dict)
        self.controller.load_state_dict(state.pop("controller"))
        self.__dict__.update(state)

    def report(self) -> dict:
        """The parts that have a ratio of their own, and every decision with its step."""
        return self.controller.report()
