"""The learned policy: training statistics → a distribution over rate ratios for each layer group."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from asg import AsgError
from asg.config import STATISTICS, RunConfig
from asg.controllers.windows import Windowed, policy_path
from asg.tensors import write_tensors

FORMAT = "asg policy 1"  # raise when the network or its input changes meaning
HIDDEN = 20


@dataclass(frozen=True)
class Spec:
    """Shape of a policy; the defaults are the reference's."""

    groups: int = 7
    actions: int = 11  # ratios 0 … 1, evenly spaced; 0: a continuous ratio
    statistics: tuple[str, ...] = STATISTICS
    normalised: bool = False


class Policy(nn.Module):
    """One LSTM a statistic (input 1, hidden 20), one linear head a layer group over its ratios.

    The heads see all hidden states and their own group's ratio: ``Linear(20 · statistics + 1 →
    actions)``. The reference's critic is kept, unused as there, so that the sizes agree: 17,762
    parameters for 7 groups. Recurrent and head weights start orthogonal (heads with gain .01); without a
    ``generator`` nothing is initialised, since weights are loaded.
    """

    def __init__(self, spec: Spec, generator: torch.Generator | None) -> None:
        super().__init__()
        self.spec = spec
        width = HIDDEN * len(spec.statistics) + 1
        outputs = spec.actions or 2  # continuous: mean and log standard deviation of the ratio's logit
        self.cells = nn.ModuleDict({f"lstm_{name}": nn.LSTMCell(1, HIDDEN) for name in spec.statistics})
        self.heads = nn.ModuleList(nn.Linear(width, outputs) for _ in range(spec.groups))
        self.critic = nn.Linear(width * spec.groups, 1).requires_grad_(False)
        for name, parameter in self.named_parameters() if generator else ():
            if parameter.dim() > 1:
                gain = 0.01 if name.startswith("heads") else 1.0
                nn.init.orthogonal_(parameter, gain, generator=generator)
            else:
                nn.init.zeros_(parameter)

    def start(self) -> list[tuple[Tensor, Tensor]]:
        """Hidden states at the start of a run, ``(1, 20)`` each."""
        return [(torch.zeros(1, HIDDEN), torch.zeros(1, HIDDEN)) for _ in self.cells]

    def scale(self, state: Tensor, last_shape: tuple[int, int]) -> Tensor:
        r"""The statistics as the network sees them: as they are, or for the normalised variant free of sizes.

        Task loss over :math:`\ln C` (1 is a blind guess), weights' mean and deviation times
        :math:`\sqrt{D}`, for a last layer ``(C, D)``.
        """
        if not self.spec.normalised:
            return state
        classes, width = last_shape
        root = math.sqrt(width)
        return state * torch.tensor([1 / math.log(classes), 1.0, 1.0, root, root])

    def forward(
        self, state: Tensor, ratios: Tensor, hidden: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """State ``(5,)`` and current ratios ``(G,)`` → head outputs ``(G, actions)`` and the next hidden states."""
        chosen = state[[STATISTICS.index(name) for name in self.spec.statistics]]
        following = [cell(x.view(1, 1), h) for cell, x, h in zip(self.cells.values(), chosen, hidden, strict=True)]
        memory = torch.cat([h[0] for h, _ in following])  # (20 · statistics,)
        outputs = [head(torch.cat([memory, r.view(1)])) for head, r in zip(self.heads, ratios, strict=True)]
        return torch.stack(outputs), following

    def sample(self, outputs: Tensor, generator: torch.Generator | None) -> Tensor:
        """An action of each group ``(G,)``, drawn; without a generator the likeliest."""
        if self.spec.actions:
            if generator is None:
                return outputs.argmax(1)
            return torch.multinomial(outputs.softmax(1), 1, generator=generator)[:, 0]
        mean, log_deviation = outputs.unbind(1)
        if generator is None:
            return mean
        return mean + log_deviation.exp() * torch.randn(len(mean), generator=generator)

    def ratios(self, actions: Tensor) -> list[float]:
        """The rate ratio in [0, 1] that each action ``(G,)`` means."""
        if self.spec.actions:
            return (actions / (self.spec.actions - 1)).tolist()
        return actions.sigmoid().tolist()

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density, if continuous) of all groups' actions together; a scalar."""
        if self.spec.actions:
            return outputs.log_softmax(1).gather(1, actions[:, None]).sum()
        return torch.distributions.Normal(outputs[:, 0], outputs[:, 1].exp()).log_prob(actions).sum()

    def entropy(self, outputs: Tensor) -> Tensor:
        """Entropy of each group's choice in nats, ``(G,)``."""
        if self.spec.actions:
            return torch.distributions.Categorical(logits=outputs).entropy()
        return torch.distributions.Normal(outputs[:, 0], outputs[:, 1].exp()).entropy()


def policy_for(config: RunConfig) -> Policy:
    """The policy that a run names; one that decides about λ where the run does not ask it to, or not, is refused."""
    policy, card = load_policy(policy_path(config.control.policy))
    weighs = card.get("meta", {}).get("student", {}).get("weigh") == "policy"
    if weighs != (config.weigh == "policy"):
        raise AsgError(
            f"The policy {config.control.policy} was trained {'to set' if weighs else 'without setting'} λ: "
            f"{'give weigh = policy' if weighs else 'leave weigh out'}, or choose another policy."
        )
    return policy


class Learned(Windowed):
    """A :class:`Policy` at work: sampled as in the reference, or the likeliest ratio (``sampled`` false)."""

    def __init__(
        self, config: RunConfig, groups: dict[str, list[nn.Parameter]], images: int, policy: Policy | None = None
    ) -> None:
        self.policy = policy or policy_for(config)
        super().__init__(config, groups, images, self.policy.spec.groups)
        self.hidden = self.policy.start()
        self.generator = torch.Generator().manual_seed(config.seed) if config.control.sampled else None

    def head_outputs(self, state: Tensor) -> Tensor:
        """Head outputs ``(G, actions)`` for ``state``; the hidden states move on."""
        seen = self.policy.scale(state, tuple(self.last.flatten(1).shape))  # of a convolution: (C, D · k · k)
        outputs, self.hidden = self.policy(seen, torch.tensor(self.ratios), self.hidden)
        return outputs

    @torch.no_grad()
    def decide(self, state: Tensor) -> list[float]:
        """The policy's choice."""
        return self.policy.ratios(self.policy.sample(self.head_outputs(state), self.generator))

    def state_dict(self) -> dict:
        """Also the policy's memory and the generator's state."""
        own = {"hidden": self.hidden, "generator": self.generator.get_state() if self.generator else None}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: dict) -> None:
        """Go on with the same memory and the same draws."""
        state = dict(state)
        self.hidden = [(h.cpu(), c.cpu()) for h, c in state.pop("hidden")]
        if (drawn := state.pop("generator")) is not None:
            self.generator.set_state(drawn.cpu())
        super().load_state_dict(state)


def save_policy(policy: Policy, card: dict, path: Path) -> None:
    """Write the policy with its card (how it was trained, on what, its curve), at once or not at all."""
    metadata = {"format": FORMAT, "spec": json.dumps(asdict(policy.spec)), "card": json.dumps(card)}
    try:
        write_tensors(path, policy.state_dict(), metadata)
    except OSError as error:
        raise AsgError(f"The policy cannot be written to {path} ({error}): choose another place.") from None


def load_policy(path: Path) -> tuple[Policy, dict]:
    """A policy and its card; a file that is missing, broken, of another version or no policy is named."""
    if not path.exists():
        raise AsgError(f"The policy {path} is missing: `asg policy train` makes one.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:  # safetensors raises its own kind for a broken file
        raise AsgError(f"The policy {path} cannot be read ({error}): train it again with `asg policy train`.") from None
    if metadata.get("format") != FORMAT:
        raise AsgError(
            f"{path} is {metadata.get('format', 'no policy of this project')}, this version reads {FORMAT}: "
            "train it again with `asg policy train`."
        )
    spec = json.loads(metadata["spec"])
    with torch.device("meta"):  # no memory and no random numbers for weights that the file replaces
        policy = Policy(Spec(**{**spec, "statistics": tuple(spec["statistics"])}), None)
    policy.load_state_dict(tensors, assign=True)
    return policy.eval(), json.loads(metadata["card"])
