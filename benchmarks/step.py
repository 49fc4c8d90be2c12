"""What a training step costs: guided over plain (with and without the teacher cache), channels-last over default.

All ratios are measured in one run, in alternating rounds, so that a machine that slows down slows all alike.
Writes results/benchmarks/step.json, which the status page shows.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch
from tqdm import tqdm

from asg import records
from asg.config import Control
from asg.controllers.hand_tuned import HandTuned
from asg.controllers.learned import Learned, Policy, Spec
from asg.data import load_domains
from asg.losses import proxy_guidance, task_loss
from asg.models import build, layer_groups
from asg.trainers import frozen as untouched
from asg.trainers.classification import make_objective
from asg.trainers.loop import make_optimiser
from asg_book.experiments import get

ROUNDS, STEPS = 8, 4  # STEPS of each kind in turn, ROUNDS times; the median round counts


def main() -> None:
    plain = get("guidance").config("mini", "small", 0, {"batch": 32})
    guided = get("guidance").config("mini", "small_proxy", 0, {"batch": 32})
    domains = load_domains(plain)
    device = torch.device("cpu")
    torch.set_num_threads(guided.threads)  # those of the runs, so that their file of outputs serves
    teacher = untouched.batch_answers(build(guided, 12), domains.source, device)
    torch.set_num_threads(2)

    def stepper(
        config, cached: bool = True, channels_last: bool = True, policy: Policy | None = None
    ) -> Callable[[int], None]:
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

    kinds = {
        "plain": stepper(plain),
        "guided, cached teacher": stepper(guided),
        "guided, learned policy": stepper(guided, policy=Policy(Spec(), torch.Generator().manual_seed(0))),
        "guided, live teacher": stepper(guided, cached=False),
        "plain, default layout": stepper(plain, channels_last=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in tqdm(range(ROUNDS + 1), unit="round"):
        for name, step in kinds.items():
            began = time.perf_counter()
            for k in range(STEPS):
                step(turn * STEPS + k)
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - began) / STEPS)
    median = {name: statistics.median(values) for name, values in seconds.items()}

    def paired(name: str, rival: str) -> float:  # of the same round, so that a slow minute of the machine cancels
        return statistics.median(a / b for a, b in zip(seconds[name], seconds[rival], strict=True))

    ratios = {
        "guided / plain, cached teacher": paired("guided, cached teacher", "plain"),
        "guided / plain, live teacher": paired("guided, live teacher", "plain"),
        "learned policy / hand-tuned": paired("guided, learned policy", "guided, cached teacher"),
        "channels-last / default layout": paired("plain", "plain, default layout"),
    }
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    print(f"plain step: {median['plain']:.2f} s (batch {plain.batch}, {plain.size} px, 2 threads)")
    result = {
        "ratios": ratios,
        "seconds_per_step": median,
        "setting": f"{plain.backbone}, batch {plain.batch}, {plain.size} px, 2 CPU threads, medians of {ROUNDS} rounds",
        "date": datetime.now(UTC).date().isoformat(),
        **records.provenance(),
    }
    records.write_text(records.results_root() / "benchmarks" / "step.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
