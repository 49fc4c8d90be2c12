"""What a training step costs: guided over plain (with and without the teacher cache), channels-last over default.

All ratios are measured in one run, in alternating rounds (:mod:`rounds`).
Writes results/benchmarks/step.json, which the status page shows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from asg.config import Control, RunConfig
from asg.controllers.hand_tuned import HandTuned
from asg.controllers.learned import Learned, Policy, Spec
from asg.data import load_domains
from asg.data.images import Domains
from asg.losses import proxy_guidance, task_loss
from asg.models import build, layer_groups
from asg.trainers import frozen as untouched
from asg.trainers.classification import make_objective
from asg.trainers.optimiser import make_optimiser
from asg_book.catalogue import get
from rounds import alternating, keep, medians, ratio

ROUNDS, STEPS = 8, 4  # STEPS of each kind in turn, ROUNDS times; the median round counts


def make_step(
    config: RunConfig,
    domains: Domains,
    teacher: untouched.Outputs,
    cached: bool = True,
    channels_last: bool = True,
    policy: Policy | None = None,
) -> Callable[[int], None]:
    """A training step by its number; the teacher's answers are looked up (``cached``) or made in the step."""
    student = build(config, len(domains.source.classes))
    frozen = build(config, len(domains.source.classes)).requires_grad_(False)
    if not channels_last:
        student = student.to(memory_format=torch.contiguous_format)
        student.features = lambda x: student.backbone(((x.float() - student.mean) / student.std).contiguous())
    optimiser = make_optimiser(config, layer_groups(student))
    groups = layer_groups(student)
    if policy is None:
        controller = HandTuned(tuple(groups), 1e-5, 0.1, 1000, 1)
    else:
        control = Control(kind="learned", groups=policy.spec.groups)
        small = config.model_copy(update={"control": control, "lr": 1e-5})
        controller = Learned(small, groups, len(domains.source), policy)
    looked_up = make_objective(config, teacher if config.guidance else None)

    def step(number: int) -> None:
        indices = torch.arange(number * config.batch, (number + 1) * config.batch) % len(domains.source)
        x, labels = domains.source.batch(indices), domains.source.labels[indices]
        for group, rate in zip(optimiser.param_groups, controller.rates(number).values(), strict=True):
            group["lr"] = rate
        if cached:
            losses = looked_up(student, indices, x, labels)
            loss = losses["total"]
        else:
            logits, imagenet, _ = student(x)
            with torch.inference_mode():
                old = frozen.imagenet_logits(x).log_softmax(1)
            loss = task_loss(logits, labels) + config.guidance * proxy_guidance(imagenet, old.clone())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if cached:
            controller.observe(number, {name: value.detach() for name, value in losses.items()})

    return step


def main() -> None:
    plain = get("guidance").config("mini", "small", 0, {"batch": 32})
    guided = get("guidance").config("mini", "small_proxy", 0, {"batch": 32})
    domains = load_domains(plain)
    device = torch.device("cpu")
    torch.set_num_threads(guided.threads)  # those of the runs, so that their file of outputs serves
    teacher = untouched.batch_answers(build(guided, 12), domains.source, device)
    torch.set_num_threads(2)

    kinds = {
        "plain": make_step(plain, domains, teacher),
        "guided, cached teacher": make_step(guided, domains, teacher),
        "guided, learned policy": make_step(
            guided, domains, teacher, policy=Policy(Spec(), torch.Generator().manual_seed(0))
        ),
        "guided, live teacher": make_step(guided, domains, teacher, cached=False),
        "plain, default layout": make_step(plain, domains, teacher, channels_last=False),
    }
    seconds, _ = alternating(kinds, ROUNDS, STEPS)
    pairs = {
        "guided / plain, cached teacher": ("guided, cached teacher", "plain"),
        "guided / plain, live teacher": ("guided, live teacher", "plain"),
        "learned policy / hand-tuned": ("guided, learned policy", "guided, cached teacher"),
        "channels-last / default layout": ("plain", "plain, default layout"),
    }
    setting = f"{plain.backbone}, batch {plain.batch}, {plain.size} px, 2 CPU threads, medians of {ROUNDS} rounds"
    ratios = {name: ratio(seconds, *pair) for name, pair in pairs.items()}
    keep("step", ratios, setting, seconds_per_step=medians(seconds))


if __name__ == "__main__":
    main()
