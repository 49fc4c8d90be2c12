"""What a trained network still knows of ImageNet: the second column of the paper's tables, where the set is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from asg import processes, records
from asg.config import RunConfig
from asg.data import imagenet
from asg.data.images import make_folder
from asg.metrics import forward_all
from asg.run import trained
from asg.trainers import frozen
from asg.trainers.devices import make_accelerator

SIZE = 224  # pixels of a side, as ImageNet's accuracies are measured


def path_of(config: RunConfig) -> Path:
    """Where the measurement of a run's network is kept."""
    return records.results_root() / "imagenet" / f"{records.run_key(config)}-{config.seed}.json"


def remembered(config: RunConfig, folder: Path, device: str | None = None) -> dict:
    """Top-1 and top-5 accuracy of a run's network, through the kept head, on ImageNet's validation photographs.

    Measured once; read where it was measured on the same photographs. The network is trained where it was not kept.
    """
    photos, path = imagenet.load(folder, SIZE), path_of(config)

    def recorded() -> dict | None:
        record = json.loads(path.read_text("utf-8")) if path.exists() else {}
        return record if record.get("photographs") == photos.fingerprint else None

    if (record := processes.once(recorded)) is not None:
        return record
    network = trained(config, device)
    where = make_accelerator(config, device).device
    measured = {**accuracies(network.to(where).eval(), photos, where), "photographs": photos.fingerprint}

    def keep() -> None:
        make_folder(path.parent)
        records.write_text(path, json.dumps({**measured, **records.provenance()}, indent=1) + "\n")

    processes.once(keep)
    return measured


@torch.inference_mode()
def accuracies(network: nn.Module, photos: imagenet.ImageSet, device: torch.device) -> dict:
    """``top1`` and ``top5``: shares of photographs whose label is the first, or among the first five answers."""
    batch = frozen.evaluation_batch(device)
    (logits,) = forward_all(lambda x: (network.imagenet_logits(x),), photos, batch, device)  # (N, 1000)
    right = logits.topk(5, dim=1).indices == photos.labels[:, None]  # (N, 5)
    return {
        "top1": float(right[:, 0].float().mean()),
        "top5": float(right.any(1).float().mean()),
        "images": len(photos),
    }
