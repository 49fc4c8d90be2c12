"""Proxy guidance and layer-wise rates in a plain PyTorch loop: python examples/plain_loop.py RENDERS"""

import sys

import timm
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import asg


def train(network: nn.Module, head: nn.Module, loader: DataLoader, policy: str = "auto-rgn", weight: float = 0.1):
    """One pass over the batches of ``loader``; ``network``: of timm, with its ImageNet weights. Yields the losses."""
    guide = asg.ProxyGuidance(network, weight)  # before the first step
    network.classifier = head
    groups = asg.parameter_groups(network, "classifier", alone=policy == "auto-rgn")
    optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9, weight_decay=5e-4)
    rates = asg.LayerwiseRates(optimiser, policy, total_steps=len(loader))
    network.eval()  # BatchNorm keeps its ImageNet statistics, as in the paper
    for images, labels in loader:
        task, kl = cross_entropy(network(images), labels), guide.kl(images)
        optimiser.zero_grad()
        (task + weight * kl).backward()
        optimiser.step()
        rates.step(task=task, guidance=kl)
        yield task.item(), kl.item()


if __name__ == "__main__":
    network = timm.create_model("tf_efficientnet_lite0", pretrained=True)
    images = ImageFolder(sys.argv[1], timm.data.create_transform(**timm.data.resolve_model_data_config(network)))
    head = nn.Linear(network.num_features, len(images.classes))
    for task, kl in train(network, head, DataLoader(images, batch_size=16, shuffle=True)):
        print(f"task {task:.3f}, KL {kl:.4f}")
