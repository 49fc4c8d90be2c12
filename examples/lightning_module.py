"""Proxy guidance and layer-wise rates in Lightning: `lightning.Trainer(max_steps=…).fit(Guided(…), loader)`."""

import lightning
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import asg


class Guided(lightning.LightningModule):
    """A classifier ``network`` of timm with a new ``head``, trained near its ImageNet weights."""

    def __init__(self, network: nn.Module, head: nn.Module, policy: str = "auto-rgn", weight: float = 0.1) -> None:
        super().__init__()
        self.guide, self.network, self.policy = asg.ProxyGuidance(network, weight), network, policy
        network.classifier = head
        self.eval()

    def train(self, mode: bool = True) -> "Guided":
        """BatchNorm keeps its ImageNet statistics, as in the paper."""
        return super().train(False)

    def configure_optimizers(self) -> dict:
        """SGD on the layer groups, and the policy that sets their rates."""
        groups = asg.parameter_groups(self.network, "classifier", alone=self.policy == "auto-rgn")
        optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.rates = asg.LayerwiseRates(optimiser, self.policy, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": self.rates, "interval": "step"}}

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Task loss and guidance of a batch; the policy is told both."""
        images, labels = batch
        task, kl = cross_entropy(self.network(images), labels), self.guide.kl(images)
        self.rates.observe(task=task, guidance=kl)
        self.log_dict({"task": task, "kl": kl}, prog_bar=True)
        return task + self.guide.weight * kl
