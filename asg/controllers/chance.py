"""The policies that a learned one has to beat: random ratios, and ratios that someone gives."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from asg import AsgError
from asg.config import Control, RunConfig
from asg.controllers.windows import Windowed, policy_path

RATIOS = tuple(k / 10 for k in range(11))  # the reference's actions


class Random(Windowed):
    """Each part's ratio drawn evenly from {0, .1, …, 1}: at every window, or ``random once`` for the whole run."""

    def __init__(self, config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int) -> None:
        super().__init__(config, groups, images, config.control.groups)
        self.generator = torch.Generator().manual_seed(config.seed)

    def decide(self, state: Tensor) -> list[float]:
        """A new draw, or the first one again."""
        if self.control.kind == "random once" and self.decisions:
            return self.ratios
        drawn = torch.randint(len(RATIOS), (len(self.ratios),), generator=self.generator)
        return [RATIOS[k] for k in drawn.tolist()]

    def state_dict(self) -> dict:
        """Also the generator's state."""
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Go on with the same draws."""
        self.generator.set_state(state["generator"].cpu())
        super().load_state_dict({k: v for k, v in state.items() if k != "generator"})


def control_path(control: Control) -> Path:
    """The file that a control names: of a policy, or of a search."""
    return policy_path(control.policy, ".json" if control.kind == "fixed" else ".safetensors")


def given_ratios(control: Control) -> tuple[float, ...]:
    """The ratios of a ``fixed`` control: its own, or the best trial of the search that it names."""
    if control.ratios is not None:
        return control.ratios
    path = control_path(control)
    try:
        return tuple(json.loads(path.read_text("utf-8"))["trials"][0]["ratios"].values())
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise AsgError(f"{path} holds no search ({error}): `asg policy search` makes it.") from None


class Fixed(Windowed):
    """One ratio a part from the first step on: ``control.ratios``, or the best of a search, ``control.policy``."""

    def __init__(self, config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int) -> None:
        self.given = given_ratios(config.control)
        super().__init__(config, groups, images, len(self.given))
        self.ratios = list(self.given)

    def decide(self, state: Tensor) -> list[float]:
        """What was given."""
        return list(self.given)
