"""What the training loop asks of whoever sets the learning rate of each layer group."""

from __future__ import annotations

from torch import Tensor


class Controller:
    """Asked for rates before every step, told the losses after it; it does no I/O.

    A controller without memory overrides :meth:`rates` alone.
    """

    def rates(self, step: int) -> dict[str, float]:
        """Learning rate of each layer group for ``step`` (0, 1, …)."""
        raise NotImplementedError

    def weight(self, step: int) -> float:
        """The share of λ that guidance has in ``step``."""
        return 1.0

    def observe(self, step: int, losses: dict[str, Tensor]) -> None:
        """The losses of ``step``, just taken: detached scalars, averaged over all devices."""

    def state_dict(self) -> dict:
        """What a checkpoint keeps: tensors, numbers, strings, lists and dicts."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` gave."""

    def report(self) -> dict:
        """What a record keeps of the run's decisions."""
        return {}
