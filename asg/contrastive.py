"""CSG's loss: the trained network's features against the ImageNet network's, image by image (Chen et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate.utils import gather
from torch import Tensor, nn

from asg import AsgError

TEMPERATURE, MOMENTUM, WIDTH, QUEUE = 0.07, 0.999, 128, 65_536


def attention_pool(maps: Tensor) -> Tensor:
    r"""Features ``(N, D)`` of maps ``(N, D, H, W)``: a mean weighted by the likeness of each place to the mean.

    .. math:: \sum_{ij} a_{ij} v_{ij}, \qquad a_{ij} = \frac{\langle v_{ij}, \bar v\rangle}
              {\sum_{kl}\langle v_{kl}, \bar v\rangle}
    """
    places = maps.flatten(2)  # (N, D, H · W)
    likeness = torch.einsum("ndp,nd->np", places, places.mean(2))  # its sum is H · W · ‖mean‖², never negative
    weights = likeness / likeness.sum(1, keepdim=True).clamp_min(1e-12)
    return torch.einsum("ndp,np->nd", places, weights)


def pooled_pieces(maps: Tensor, chunks: int) -> Tensor:
    """:func:`attention_pool` of ``chunks × chunks`` pieces of each map, row by row, ``(N · chunks², D)``."""
    if min(maps.shape[-2:]) < chunks:
        raise AsgError(
            f"A map of {maps.shape[-2]} × {maps.shape[-1]} cannot be cut into {chunks} × {chunks} pieces: lower "
            "chunks, or raise the size of the images."
        )
    rows = maps.tensor_split(chunks, 2)
    pieces = [attention_pool(piece) for row in rows for piece in row.tensor_split(chunks, 3)]
    return torch.stack(pieces, 1).flatten(0, 1)  # (N, chunks², D) → (N · chunks², D)


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    r"""Mean over images of :math:`-\log\frac{e^{q\cdot k^+/\tau}}{e^{q\cdot k^+/\tau} + \sum_j e^{q\cdot k_j/\tau}}`.

    ``queries`` and ``keys`` ``(N, 128)``, pair by pair, and the negatives ``queue`` ``(K, 128)``; all of unit length.
    """
    positive = (queries * keys).sum(1, keepdim=True)  # (N, 1)
    logits = torch.cat([positive, queries @ queue.T], 1) / temperature  # (N, 1 + K)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def projector(width: int, generator: torch.Generator) -> nn.Sequential:
    """C → C → 128 with a ReLU between, as torch draws linear layers, from ``generator``."""
    made = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, WIDTH))
    for layer in (made[0], made[2]):
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5, generator=generator)
    return made


class Contrast(nn.Module):
    """What CSG adds to a network: for each stage a trained projector, its moving average, a queue (departure 40).

    ``stages``: name → channels of the maps that are compared. The trained network's maps give queries, through the
    trained projectors; the ImageNet network's give keys, through their moving averages. ``queue`` keys of each stage
    are kept, the latest of all devices; they begin as random directions.
    """

    def __init__(self, stages: dict[str, int], queue: int, generator: torch.Generator) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.projectors = nn.ModuleList(projector(width, generator) for width in stages.values())
        self.averaged = copy.deepcopy(self.projectors).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(len(stages), queue, WIDTH, generator=generator), dim=2))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    def queries(self, maps: Sequence[Tensor], chunks: int = 1) -> list[Tensor]:
        """Unit vectors ``(N · chunks², 128)`` of each stage's map ``(N, D, H, W)``, cut into ``chunks × chunks``."""
        return _directions(self.projectors, maps, chunks)

    @torch.no_grad()
    def keys(self, maps: Sequence[Tensor], chunks: int = 1) -> list[Tensor]:
        """The same of the ImageNet network's maps, after a step of the moving average."""
        mine, theirs = list(self.averaged.parameters()), list(self.projectors.parameters())
        torch._foreach_lerp_(mine, [p.detach() for p in theirs], 1 - MOMENTUM)
        return _directions(self.averaged, maps, chunks)

    def loss(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """:func:`info_nce` summed over stages; the keys, of all devices in their order, then replace the oldest."""
        queue = self.queue.clone()  # autograd needs the negatives as they are now
        total = sum(info_nce(q, k, negatives) for q, k, negatives in zip(queries, keys, queue, strict=True))
        self.enqueue(keys)
        return total

    @torch.no_grad()
    def enqueue(self, keys: Sequence[Tensor]) -> None:
        """Replace the oldest keys of each stage by ``keys``, in turn; of more than fit the last ones stay."""
        new = gather(torch.stack([k.detach() for k in keys], 1)).transpose(0, 1)  # (stages, N of all devices, 128)
        size = self.queue.shape[1]
        places = (self.next + torch.arange(new.shape[1], device=new.device)) % size
        self.queue[:, places[-size:]] = new[:, -size:]
        self.next.copy_((self.next + new.shape[1]) % size)


def _directions(projectors: nn.ModuleList, maps: Sequence[Tensor], chunks: int) -> list[Tensor]:
    pooled = (pooled_pieces(one, chunks) for one in maps)
    return [F.normalize(project(x), dim=1) for project, x in zip(projectors, pooled, strict=True)]


def compared_stages(backbone: nn.Module, name: str) -> dict[str, int]:
    """Two modules of a backbone whose maps are compared, and their channels: what has stride 16, and the last (32).

    A ResNet's layer3 and layer4, and what corresponds to them in networks of timm; of a transformer, whose tokens
    all have one stride, the block after two thirds and the last one.
    """
    if info := getattr(backbone, "feature_info", None):
        known = [(one["module"], one["num_chs"]) for one in info]
        if len({one["reduction"] for one in info}) == 1:
            known = [known[round(len(known) * 2 / 3) - 1], known[-1]]
        return dict(known[-2:])
    if hasattr(backbone, "layer3") and hasattr(backbone, "layer4"):
        widths = {}
        for name in ("layer3", "layer4"):
            convolutions = [m for m in getattr(backbone, name).modules() if isinstance(m, nn.Conv2d)]
            widths[name] = max(one.out_channels for one in convolutions)
        return widths
    raise AsgError(
        f"CSG compares maps of two stages, and those of {name} are not named: choose a ResNet, or a network of timm."
    )


class Taps:
    """The outputs of named modules during a forward pass, as maps ``(N, D, H, W)``; for use in ``with``."""

    def __init__(self, backbone: nn.Module, stages: Sequence[str]) -> None:
        self.backbone, self.stages = backbone, stages
        self.outputs: dict[str, Tensor] = {}

    def __enter__(self) -> Taps:
        def keep(name: str):
            return lambda module, inputs, output: self.outputs.update({name: output})

        self.hooks = [self.backbone.get_submodule(s).register_forward_hook(keep(s)) for s in self.stages]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def maps(self) -> list[Tensor]:
        """What was seen, in the order of the stages; tokens ``(N, T, D)``, without a class's, as ``(N, D, T, 1)``."""
        prefix = getattr(self.backbone, "num_prefix_tokens", 0)
        seen = (self.outputs[name] for name in self.stages)
        return [x[:, prefix:].transpose(1, 2)[..., None] if x.dim() == 3 else x for x in seen]
