"""Our step beside one as the reference writes it, on ResNet-50 at 224 px, and what each difference brings.

The rival is a plain loop of the same arithmetic: float images from the loader, the default memory layout, the ImageNet
network run on every batch, torch's SGD tensor by tensor. Both start from the same random weights, and their losses are
compared. The other cases take one thing after the other on the way to ours. Writes
results/benchmarks/reference.json, which the status page shows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asg.config import RunConfig
from asg.models import Student, build, layer_groups
from asg.trainers.classification import make_objective
from asg.trainers.frozen import evaluation_batch
from asg.trainers.optimiser import make_optimiser
from asg_book.catalogue import get
from rounds import alternating, keep, medians, ratio

NETWORK = {"backbone": "torchvision:resnet50", "weights": "random", "batch": 8}
CLASSES, RATE, ROUNDS, STEPS = 12, 1e-9, 5, 2  # STEPS of each case in turn, ROUNDS times after one that warms up
CPU = torch.device("cpu")
Step = Callable[[int], float]


def batch_of(config: RunConfig) -> tuple[Tensor, Tensor]:
    """Random images ``uint8 (N, 3, H, W)`` and labels ``(N,)``."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch, 3, config.size, config.size)
    x = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return x, torch.randint(0, CLASSES, (config.batch,), generator=generator)


class Plain(nn.Module):
    """The same network as people write it: the layout is torch's own, and images come as normalised floats."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(student.backbone).to(memory_format=torch.contiguous_format)
        self.kept_head, self.task_head = copy.deepcopy(student.kept_head), copy.deepcopy(student.task_head)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Task logits ``(N, C)`` and ImageNet logits ``(N, K)``."""
        features = self.backbone(x)
        return self.task_head(features), self.kept_head(features)


def as_the_reference(config: RunConfig) -> Step:
    """A step of the plain loop."""
    student = build(config, CLASSES)
    x, labels = batch_of(config)
    x = ((x.float() - student.mean) / student.std).contiguous()
    network, untouched = Plain(student).eval(), Plain(student).eval().requires_grad_(False)
    trained = [parameter for group in layer_groups(student).values() for parameter in group]
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    own = dict(network.named_parameters())
    optimiser = torch.optim.SGD(
        [own[names[id(parameter)]] for parameter in trained],
        lr=RATE, momentum=config.momentum, weight_decay=config.weight_decay, foreach=False,
    )  # fmt: skip

    def step(number: int) -> float:
        logits, imagenet = network(x)
        loss = F.cross_entropy(logits, labels)
        if config.guidance:
            with torch.no_grad():
                old = untouched(x)[1].softmax(1)
            loss = loss + config.guidance * F.kl_div(imagenet.log_softmax(1), old, reduction="batchmean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def ours(config: RunConfig, live: bool = False, layout: torch.memory_format = torch.channels_last) -> Step:
    """A step of the trainer; ``live``: the ImageNet network sees each batch; ``layout``: of weights and maps."""
    student = build(config, CLASSES).to(memory_format=layout)
    if layout is torch.contiguous_format:
        student.features = lambda x: student.backbone(((x.float() - student.mean) / student.std).contiguous())
    untouched = copy.deepcopy(student).requires_grad_(False)
    x, labels = batch_of(config)
    indices = torch.arange(config.batch)

    def answers() -> Tensor:
        with torch.no_grad():
            return untouched.imagenet_logits(x).log_softmax(1)

    known = answers()
    objective = make_objective(config, (lambda i, x: answers() if live else known) if config.guidance else None)
    optimiser = make_optimiser(config, layer_groups(student))
    for group in optimiser.param_groups:
        group["lr"] = RATE

    def step(number: int) -> float:
        total = objective(student, indices, x, labels)["total"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        return float(total.detach())

    return step


def evaluating(config: RunConfig, images: int) -> Step:
    """An evaluation's pass of as many images as it has, answered ``images`` at a time."""
    student = build(config, CLASSES)
    x = torch.cat([batch_of(config)[0]] * (evaluation_batch(CPU) // config.batch))

    @torch.inference_mode()
    def step(number: int) -> float:
        return sum(float(student(part)[0].sum()) for part in x.split(images))

    return step


def main() -> None:
    torch.set_num_threads(2)
    plain, guided = (get("guidance").config("paper", arm, 0, NETWORK) for arm in ("small", "small_proxy"))
    cases = {
        "plain, as the reference writes it": as_the_reference(plain),
        "plain": ours(plain),
        "plain, folded": ours(plain.model_copy(update={"fold": True})),
        "guided, as the reference writes it": as_the_reference(guided),
        "foreach": ours(guided, live=True, layout=torch.contiguous_format),
        "layout": ours(guided, live=True),
        "guided": ours(guided),
        "guided, folded": ours(guided.model_copy(update={"fold": True})),
        "evaluation": evaluating(guided, evaluation_batch(CPU)),
        "evaluation, one by one": evaluating(guided, 1),
    }
    seconds, losses = alternating(cases, ROUNDS, STEPS)
    apart = max(
        abs(a / b - 1)
        for kind, settings in (("plain", ("plain", "plain, folded")), ("guided", ("guided", "guided, folded")))
        for ours_ in settings
        for a, b in zip(losses[ours_], losses[f"{kind}, as the reference writes it"], strict=True)
    )

    faster = {
        "guided: images/s over a step as the reference writes it": ("guided", "guided, as the reference writes it"),
        "plain": ("plain", "plain, as the reference writes it"),
        "of which: one optimiser step for all tensors": ("foreach", "guided, as the reference writes it"),
        "of which: channels-last layout": ("layout", "foreach"),
        "of which: the teacher's answers are kept": ("guided", "layout"),
        "folded BatchNorms beside it, guided": ("guided, folded", "guided"),
        "folded BatchNorms beside it, plain": ("plain, folded", "plain"),
        "evaluation, in batches over one by one": ("evaluation", "evaluation, one by one"),
    }
    print(f"losses of all steps differ by a share of {apart:.1e} at most")
    setting = f"{guided.backbone}, batch {guided.batch}, {guided.size} px, 2 threads, median of {ROUNDS} rounds"
    ratios = {name: ratio(seconds, rival, ours_) for name, (ours_, rival) in faster.items()}
    keep("reference", ratios, setting, apart=apart, seconds=medians(seconds))


if __name__ == "__main__":
    main()
