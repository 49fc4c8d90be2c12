"""Self-training: rounds of pseudo-labels on unlabelled target images, each learned together with the labelled source.

CBST and CRST on the shared loop, for any task. A round is a training of its own, from the network of the round
before to the one of the next; a stopped run goes on inside its round (departure 28).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset

from asg import AsgError, processes
from asg.config import RunConfig
from asg.data import read_domains, unlabelled, with_truth
from asg.data.images import UNLABELLED, Draws, StepSampler, make_folder, same_size, total_steps
from asg.dense_losses import segmentation_loss
from asg.pseudo_labels import (
    ConfidenceHistograms,
    hard_labels,
    mrkld,
    selection_matrix,
    self_training_loss,
    soft_labels,
)  # fmt: skip
from asg.recipes import is_dense
from asg.trainers import classification, segmentation
from asg.trainers.conduct import conduct
from asg.trainers.task import Task

# Fields that speak of the training before the rounds alone.
OF_THE_START = ("weigh", "regulariser", "augment", "head_first", "project", "average", "interpolate")


def base_of(config: RunConfig) -> ModuleType:
    """The trainer whose network is adapted."""
    return segmentation if is_dense(config) else classification


@dataclass(frozen=True)
class Labeller:
    """The network of the round before, frozen, and the thresholds ``(C,)`` that it set itself on the whole target."""

    network: nn.Module
    thresholds: Tensor
    alpha: float  # of LRENT; 0: hard labels

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """``(N, C, …)`` of uint8 images ``(N, 3, H, W)``."""
        return self.network(x)[0].float().softmax(1)

    def __call__(self, x: Tensor) -> Tensor:
        """Pseudo-labels of images: hard ``(N, …)`` or soft ``(N, C, …)``, as CRST's equations have it."""
        p = self.probabilities(x)
        return soft_labels(p, self.thresholds, self.alpha) if self.alpha else hard_labels(p, self.thresholds)


@dataclass(frozen=True)
class Union(Dataset):
    """The source, then the ``chosen`` images of the target, none of which has a label (UNLABELLED)."""

    source: Dataset
    target: Dataset
    chosen: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source) + len(self.chosen)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[int, Tensor, Tensor]:
        index, *draw = key if isinstance(key, tuple) else (key,)
        if index < len(self.source):
            return self.source[key]
        target_index = self.chosen[index - len(self.source)]
        return index, *self.target[(target_index, *draw) if draw else target_index][1:]


class Halves(BatchSampler):
    """Batches that are half source, half target (fewer where fewer are chosen), in turn; resumes like StepSampler.

    ``ours`` and ``theirs`` draw the two parts.
    """

    drop_last = False

    def __init__(
        self,
        ours: Callable[..., BatchSampler],
        theirs: type[StepSampler],
        source: int,
        images: int,
        batch: int,
        seed: int,
        start: int,
        stop: int,
    ) -> None:
        share = min(batch // 2, images - source)
        self.batch_size, self.source = batch, source
        self.parts = ours(source, batch - share, seed, start, stop), theirs(images - source, share, seed, start, stop)

    def __len__(self) -> int:
        return len(self.parts[0])

    def __iter__(self) -> Iterator[list]:
        for ours, theirs in zip(*self.parts, strict=True):
            moved = [(key[0] + self.source, key[1]) if isinstance(key, tuple) else key + self.source for key in theirs]
            mixed = [one for pair in zip(ours, moved, strict=False) for one in pair]  # so that devices share both
            yield mixed + ours[len(moved) :]


@torch.no_grad()
def survey(
    network: nn.Module, target: Dataset, classes: int, portion: float, device: torch.device, workers: int = 0
) -> Tensor:
    """Class-balanced thresholds ``(C,)`` of a network over all pixels of a target set, in bounded memory.

    Several processes share the images out and add up their histograms.
    """
    seen = ConfidenceHistograms(classes)
    mine = range(processes.index(), len(target), processes.count())
    for _, x, _ in same_size(target, mine, workers, segmentation.PIXELS):
        seen.add(*network(x.to(device))[0].float().softmax(1).max(1))
    seen.counts = sum(processes.gathered(seen.counts))
    return seen.thresholds(portion).float().to(device)


def label(
    labeller: Labeller, target: Dataset, classes: int, device: torch.device, workers: int = 0
) -> tuple[tuple[int, ...], dict]:
    """The images that get a pseudo-label somewhere, and the quality of the labels.

    ``labelled`` counts the pseudo-labels of each class, ``sure`` is their mean confidence, ``selection`` the
    :func:`~asg.pseudo_labels.selection_matrix` over the set, which alone the truth enters and which is left out where
    no label of the set is known, and ``pseudo`` the label of each image (UNLABELLED: none), where an image has one.
    Several processes share the images out, and each gets the whole result.
    """
    images: dict[int, tuple[list[int], float, int | None]] = {}  # label counts, sum of confidences, label
    matrix = torch.zeros(classes, classes + 1, dtype=torch.long)
    mine = range(processes.index(), len(target), processes.count())
    for indices, x, truth in same_size(target, mine, workers, segmentation.PIXELS):
        p = labeller.probabilities(x.to(device))
        if labeller.alpha:
            soft = soft_labels(p, labeller.thresholds, labeller.alpha)
            labels = soft.argmax(1).where(soft.sum(1) > 0, UNLABELLED)
        else:
            labels = hard_labels(p, labeller.thresholds)
        selected = labels != UNLABELLED
        for k, index in enumerate(indices):
            counts = labels[k][selected[k]].bincount(minlength=classes).tolist()
            sure = float(p[k].max(0).values[selected[k]].sum())
            images[index] = counts, sure, int(labels[k]) if labels.dim() == 1 else None
        matrix += selection_matrix(labels.cpu(), truth, classes)
    parts = processes.gathered((matrix, images))
    everything = {index: one for _, part in parts for index, one in part.items()}
    counts, sure, pseudo = zip(*(everything[i] for i in range(len(target))), strict=True)
    labelled, matrix = torch.tensor(counts), sum(part for part, _ in parts)  # (N, C), (C, C + 1)
    quality = {
        "labelled": labelled.sum(0).tolist(),
        "sure": sum(sure) / max(1, int(labelled.sum())),
        "pseudo": [one for one in pseudo if one is not None],
        **({"selection": matrix.tolist()} if bool(matrix.any()) else {}),
    }
    return tuple(labelled.sum(1).nonzero()[:, 0].tolist()), quality


def make_objective(source: int, labeller: Labeller, alpha: float) -> Callable[..., dict[str, Tensor]]:
    r"""``L = L_task(source) + L_self(target) + MRKLD``, each a mean over its own samples or pixels; no guidance."""

    def objective(
        network: nn.Module, indices: Tensor, x: Tensor, labels: Tensor, share: float = 1.0
    ) -> dict[str, Tensor]:
        logits, theirs = network(x)[0], indices >= source
        targets = labeller(x[theirs])
        selected = targets.sum(1) > 0 if targets.is_floating_point() else targets != UNLABELLED
        counts = torch.stack(((labels[~theirs] != UNLABELLED).sum(), selected.sum()))
        labelled, pseudo = processes.share(counts)  # a process may have more of them than another
        losses = {
            "task": segmentation_loss(logits[~theirs], labels[~theirs]) * labelled,
            "pseudo": self_training_loss(logits[theirs], targets) * pseudo,
        }
        if alpha:
            losses["mrkld"] = mrkld(logits[theirs], selected, alpha) * pseudo
        return {"total": sum(losses.values()), **losses}

    return objective


def round_config(config: RunConfig, number: int, steps: int) -> RunConfig:
    """One round after a training of ``steps``: hand-tuned rates, no guidance, an order of images of its own.

    Its batches, half of either side, hold two images at least.
    """
    adapt = config.adapt
    batch = max(2, config.batch)  # an image of either side
    length = {
        "batch": batch,
        "steps": max(1, round(adapt.length * steps)),
        "warmup": max(1, round(adapt.length * config.warmup)),
    }
    rates = {"lr": adapt.rate * config.lr, "backbone_factor": adapt.backbone_factor, "control": None}
    rest = {"epochs": None, "evaluations": 1, "guidance": 0.0, **dict.fromkeys(OF_THE_START)}
    return config.model_copy(update={**length, **rates, **rest, "seed": config.seed + 1000 * (number + 1)})


def prepare(config: RunConfig, accelerator: Accelerator, number: int, before: dict[str, Tensor]) -> Task:
    """A round: the task's own network and evaluation, with the weights ``before`` and pseudo-labels from them."""
    task, device, adapt = base_of(config).prepare(config, accelerator), accelerator.device, config.adapt
    task.network.load_state_dict(before)
    target, classes = unlabelled(config), len(task.images.classes)
    if not len(target):
        raise AsgError("There are no images to adapt to: the target is empty.")
    former = copy.deepcopy(task.network).requires_grad_(False)
    portion = min(1.0, adapt.portion + number * adapt.growth)
    labeller = Labeller(former, survey(former, target, classes, portion, device, config.workers), adapt.lrent)
    chosen, quality = label(labeller, with_truth(config), classes, device, config.workers)
    if not chosen:
        raise AsgError(
            f"No image is sure enough to be a pseudo-label in round {number + 1}: raise portion ({portion:g})."
        )
    present = [name for name, count in zip(task.images.classes, quality["labelled"], strict=True) if count]
    if len(present) == 1:
        raise AsgError(
            f"Every pseudo-label of round {number + 1} is {present[0]!r}: the network does not tell the target's "
            "images apart, so train it better first, or give images of more classes."
        )
    if config.crop:
        target = replace(target, augmentation=segmentation.crops(config))
    report = {"round": number + 1, "portion": portion, "thresholds": labeller.thresholds.tolist(), **quality}
    return replace(
        task,
        images=Union(task.images, target, chosen),
        objective=make_objective(len(task.images), labeller, adapt.mrkld),
        evaluate=lambda now: {**task.evaluate(now), **report},
        final=task.final and (lambda now: {**task.final(now), **report}),
        batches=partial(Halves, task.batches, Draws if is_dense(config) else StepSampler, len(task.images)),
        bulky=(),
    )


def train(
    config: RunConfig,
    folder: Path,
    start: nn.Module,
    device: str | None = None,
    on_evaluation: Callable[[dict], None] = lambda evaluation: None,
    stop: int | None = None,
) -> tuple[dict, nn.Module]:
    """Adapt ``start`` to the target of ``config`` round by round, each an :func:`asg.trainers.conduct.conduct`.

    ``folder`` keeps the checkpoint of every round, so that a stopped run goes on inside its round. The result is that
    of the last round, with the evaluations of all: the first is the start's, before any adaptation. Its first losses
    are those of the first round, after ``stop`` steps of which it ends, if that is given.
    """
    begun = {name: value for name, value in start.state_dict().items() if not name.startswith("contrast.")}
    state, evaluations, first_losses, seconds = begun, [], [], 0.0
    trained = total_steps(config, len(read_domains(config).source))
    for number in range(config.adapt.rounds):
        part, one = make_folder(folder / f"round-{number + 1}"), round_config(config, number, trained)
        prepare_round = partial(prepare, number=number, before=state)
        known = evaluations[-1] if evaluations else None  # the end of a round is the start of the next one
        result, network = conduct(one, part, device, prepare_round, on_evaluation, stop, known)
        first_losses = first_losses or result["first_losses"]
        state = {name: value.cpu() for name, value in network.state_dict().items()}
        seconds += result["seconds"]
        done = result["evaluations"] if number == 0 else result["evaluations"][1:]
        evaluations += [{**e, "step": e["step"] + number * one.steps} for e in done]
        if stop is not None:
            break
    combined = {"evaluations": evaluations, "final": evaluations[-1], "first_losses": first_losses}
    return {**result, **combined, "seconds": round(seconds, 1)}, network
