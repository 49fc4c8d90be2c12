"""Proxy guidance and layer-wise rates in Hugging Face's Trainer: `guided_trainer(…).train()`."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

import asg


class Classifier(nn.Module):
    """A network of timm, called as Trainer calls it; BatchNorm keeps its ImageNet statistics, as in the paper."""

    def __init__(self, network: nn.Module, head: nn.Module, policy: str, steps: int, weight: float) -> None:
        super().__init__()
        self.guide, self.network = asg.ProxyGuidance(network, weight), network
        network.classifier = head
        self.eval()
        groups = asg.parameter_groups(network, "classifier", alone=policy == "auto-rgn")
        self.optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.rates = asg.LayerwiseRates(self.optimiser, policy, steps)

    def train(self, mode: bool = True) -> "Classifier":
        """Always as in evaluation."""
        return super().train(False)

    def forward(self, pixel_values: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of a batch ``(N, 3, H, W)``; the policy is told its parts."""
        logits = self.network(pixel_values)
        task, kl = cross_entropy(logits, labels), self.guide.kl(pixel_values)
        self.rates.observe(task=task, guidance=kl)
        return {"loss": task + self.guide.weight * kl, "logits": logits}


def guided_trainer(network, head, images: Dataset, args: TrainingArguments, policy="auto-rgn", weight=0.1) -> Trainer:
    """Trainer for ``args.max_steps`` steps on ``images``, of which each is {"pixel_values": …, "labels": …}."""
    model = Classifier(network, head, policy, args.max_steps, weight)
    return Trainer(model, args, train_dataset=images, optimizers=(model.optimiser, model.rates))
