"""The loops in examples/: each takes the trainer's own steps, on drawn shapes with random weights."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from asg.config import make_config
from asg.controllers.learned import Policy, Spec, save_policy
from asg.data import read_domains
from asg.data.images import StepSampler
from asg.models import build, imagenet_network
from asg.run import run
from asg_book.profiles import PROFILES

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS, BATCH, WEIGHT = 10, 4, 0.5
SETTINGS = {
    "steps": STEPS, "batch": BATCH, "lr": 0.01, "warmup": 1, "sgd": "torch", "guidance": WEIGHT, "evaluations": STEPS,
    "head_width": 16,
}  # fmt: skip
CONTROL = {"schedule": True, "epoch": STEPS}
Losses = list[tuple[float, float]]


class Prepared(Dataset):
    """Images ``(3, H, W)`` as the network takes them, and labels, in the order of the trainer's batches."""

    def __init__(self, named: bool) -> None:
        config = make_config(PROFILES["toy"], SETTINGS)
        source, (mean, std) = read_domains(config).source, imagenet_network(config)[1]
        order = [i for batch in StepSampler(len(source), BATCH, config.seed, 0, STEPS) for i in batch]
        mean, std = (torch.tensor(v).view(3, 1, 1) * 255 for v in (mean, std))
        self.images = [((source[i][1].float() - mean) / std, int(source.labels[i])) for i in order]
        self.named = named

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, k: int) -> tuple[Tensor, int] | dict:
        image, label = self.images[k]
        return {"pixel_values": image, "labels": label} if self.named else (image, label)


def parts() -> tuple[nn.Module, nn.Module]:
    """The ImageNet network of the toy profile, and the head that its student starts from."""
    config = make_config(PROFILES["toy"], SETTINGS)
    network = imagenet_network(config)[0].to(memory_format=torch.channels_last)
    return network, copy.deepcopy(build(config, 3).task_head)


def plain(policy: str) -> Losses:
    """The plain loop."""
    import plain_loop

    return [(t, g) for t, g in plain_loop.train(*parts(), DataLoader(Prepared(False), BATCH), policy, WEIGHT)]


def in_lightning(policy: str, folder: Path) -> Losses:
    """Lightning's Trainer."""
    import lightning

    from lightning_module import Guided

    seen: Losses = []

    class Listener(lightning.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append(tuple(float(trainer.callback_metrics[name]) for name in ("task", "kl")))

    trainer = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=[Listener()],
    )  # fmt: skip
    trainer.fit(Guided(*parts(), policy, WEIGHT), DataLoader(Prepared(False), BATCH))
    return seen


def in_trainer(policy: str, folder: Path) -> Losses:
    """Hugging Face's Trainer."""
    from transformers import TrainingArguments

    from hf_trainer import guided_trainer

    args = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=BATCH, use_cpu=True, report_to=[],
        save_strategy="no", logging_strategy="no", max_grad_norm=0.0, train_sampling_strategy="sequential",
        disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = guided_trainer(*parts(), Prepared(True), args, policy, WEIGHT)
    seen: Losses = []
    observe = trainer.model.rates.observe

    def listen(task: Tensor, guidance: Tensor) -> None:
        seen.append((float(task.detach()), float(guidance.detach())))
        observe(task=task, guidance=guidance)

    trainer.model.rates.observe = listen
    trainer.train()
    return seen


LOOPS = {"plain_loop": lambda policy, folder: plain(policy), "lightning_module": in_lightning, "hf_trainer": in_trainer}


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["hand-tuned", "auto-rgn", "learned"])
@pytest.mark.parametrize("loop", LOOPS)
def test_a_loop_takes_the_trainers_steps(workplace, tmp_path: Path, monkeypatch, loop: str, policy: str):
    """Task loss and guidance of every one of ten steps, against a run of the trainer that is evaluated after each."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    made, path = Policy(Spec(groups=3), torch.Generator().manual_seed(1)), tmp_path / "three.safetensors"
    with torch.no_grad():
        for head in made.heads:
            head.weight.mul_(300)
    save_policy(made, {}, path)
    control = {
        "hand-tuned": {"backbone_factor": 1.0},
        "auto-rgn": {"control": {"kind": "auto-rgn", **CONTROL}},
        "learned": {"control": {"kind": "learned", "policy": str(path), **CONTROL}},
    }[policy]
    record = run(make_config(PROFILES["toy"], SETTINGS, control), device="cpu")
    expected = [(e["train_task"], e["train_guidance"]) for e in record["evaluations"][1:]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the frameworks' own, of this tiny training
        seen = LOOPS[loop](str(path) if policy == "learned" else policy, tmp_path)
    assert len(seen) == len(expected) == STEPS
    for step, (ours, theirs) in enumerate(zip(seen, expected, strict=True)):
        assert ours == pytest.approx(theirs, abs=1e-6), step
    assert expected[-1][1] > 10 * expected[1][1] > 0  # the network has moved, and is held


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path):
    assert path.stem in LOOPS and len(path.read_text("utf-8").splitlines()) < 40
