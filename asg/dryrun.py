"""What a run would take, said before it starts: no weights are needed, no image is decoded."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from asg import AsgError, records
from asg.config import RunConfig
from asg.controllers import make_controller, rate_groups
from asg.data import data_root, read_domains, street, unlabelled, visda
from asg.data.images import StepSampler, total_steps
from asg.dense_models import DenseStudent
from asg.models import Student, layer_groups
from asg.recipes import is_dense
from asg.trainers import classification, segmentation
from asg.trainers.loop import evaluation_steps
from asg.trainers.regularisers import contrast
from asg.trainers.self_training import base_of, round_config


def _divided(train: int, others: int = 0) -> tuple[int, int]:
    """Training and held-out images: every hundredth of the ``others``, or of the training images if there are none."""
    held_out = len(range(0, others or train, visda.HELD_OUT))
    return train if others else train - held_out, held_out


# (training images, held-out images, photos), photos to adapt to, and classes, by benchmark and list of renders.
# Peng et al. 2017 (VisDA-17); Richter et al. 2016 (GTA5 and its split); of the reference's list only its count is
# known; Cordts et al. 2016 (Cityscapes: reported on val, adapted to train).
RENDERS, PHOTOS, UNLABELLED_PHOTOS, STREET = 24_966, 500, 2_975, len(street.CLASSES)
PUBLISHED = {
    ("visda17", None): ((*_divided(152_397), 55_388), 55_388, len(visda.CLASSES)),
    ("gta5", None): ((*_divided(RENDERS), PHOTOS), UNLABELLED_PHOTOS, STREET),
    ("gta5", street.LIST): ((*_divided(12_403, RENDERS - 12_403), PHOTOS), UNLABELLED_PHOTOS, STREET),
    ("gta5", street.SPLIT): ((*_divided(12_403, 6_382), PHOTOS), UNLABELLED_PHOTOS, STREET),
}
LISTS = {"visda17": "train/image_list.txt", "gta5": "images"}


@dataclass(frozen=True)
class Plan:
    """What :func:`dry_run` found, for :func:`report`; bytes and seconds are estimates."""

    config: RunConfig
    images: tuple[int, int, int]  # training, held-out synthetic, photos
    adapted: int  # photos that self-training labels, 0 without
    classes: int
    counted: str  # where images and classes come from
    groups: dict[str, int]  # trained parameters of each layer group
    parts: list[list[str]]  # the layer groups that share a rate of the policy; none if hand-tuned
    steps: int
    evaluations: int  # with the one before the first step
    memory: dict[str, int]  # bytes
    disk: dict[str, int]  # bytes
    flops: tuple[float, float]  # operations: forward of one image; forward and backward of one step
    tflops: float  # assumed throughput, 10^12 operations per second
    seconds: dict[str, float]


def count(config: RunConfig) -> tuple[tuple[int, int, int], int, int, str]:
    """(training images, held-out images, photos), photos to adapt to, classes, where they come from; decodes nothing.

    Counts are the published ones where the renders, or the list that says which of them train, are not on disk.
    """
    if published := PUBLISHED.get((config.data, config.source_list)):
        root = Path(config.source or data_root() / config.data)
        if not all((root / name).exists() for name in (LISTS[config.data], config.source_list) if name):
            sets, adapted, classes = published
            return sets, adapted if config.adapt else 0, classes, "as published, not on disk"
    d = read_domains(config)
    sets = (len(d.source), len(d.validation), len(d.target) if d.target else 0)
    return sets, len(unlabelled(config)) if config.adapt else 0, len(d.source.classes), "counted in the data"


def measure(student: Student | DenseStudent, config: RunConfig) -> tuple[int, int, int]:
    """(bytes saved for the backward pass, FLOPs of the forward pass, of both) of one float32 batch.

    A saved storage counts once, however many tensors view it; parameters and buffers do not.
    """
    device, n = student.mean.device, config.batch
    own = {t.untyped_storage()._cdata for t in (*student.parameters(), *student.buffers())}
    saved = {}  # keeps the storages alive, so that no identity is used twice

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    side, pieces = config.crop or config.size, (config.chunks or 1) ** 2
    x = torch.zeros(n, 3, side, side, dtype=torch.uint8, device=device)
    outputs = torch.zeros(n * pieces, imagenet_classes(student), device=device)
    teacher = (lambda indices, x: outputs) if config.guidance else None
    penalty = None
    if student.contrast is not None:  # the other penalties cost next to nothing
        penalty = contrast(student, config.regulariser.strength, config.chunks or 1)
    if isinstance(student, DenseStudent):
        labels = torch.zeros(n, side, side, dtype=torch.long, device=device)
        objective = segmentation.make_objective(config, student, teacher, penalty)
    else:
        labels = torch.zeros(n, dtype=torch.long, device=device)
        objective = classification.make_objective(config, teacher, penalty)
    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(note, lambda tensor: tensor):
        loss = objective(student, torch.arange(n, device=device), x, labels)["total"]
        forward = counter.get_total_flops()
        loss.backward()
    return sum(s.nbytes() for key, s in saved.items() if key not in own), forward, counter.get_total_flops()


def imagenet_classes(student: Student | DenseStudent) -> int:
    """Outputs of the kept classifier."""
    return [m for m in student.kept_head.modules() if isinstance(m, torch.nn.Linear)][-1].out_features


def planned(config: RunConfig) -> RunConfig:
    """The settings, with given ratios in place of those of a policy that is yet to be trained."""
    if records.policy_is_there(config):
        return config
    given = {"kind": "fixed", "policy": None, "ratios": (1.0,) * config.control.groups}
    return config.model_copy(update={"control": config.control.model_copy(update=given)})


def dry_run(config: RunConfig, tflops: float = 15.0) -> Plan:
    """What ``config`` would take, at a sustained throughput of ``tflops`` 10^12 operations per second.

    VisDA-17 and GTA5 have their published counts while they are not on disk. Raises :class:`AsgError` for missing
    data, fewer images than a batch, and a size that the backbone does not take.
    """
    if not tflops > 0:
        raise AsgError(f"--tflops {tflops:g}: a throughput is above 0.")
    (train, held_out, photos), adapted, classes, counted = count(config)
    steps = len(StepSampler(train, config.batch, config.seed, 0, total_steps(config, train)))
    task, dense = base_of(config), is_dense(config)
    student = task.build(config.model_copy(update={"weights": "random"}), classes).to("meta")
    shared = rate_groups(planned(config), student, layer_groups(student))
    controller = make_controller(planned(config), shared, train)  # says where a policy does not fit
    groups = {name: sum(p.numel() for p in group) for name, group in layer_groups(student).items()}
    try:
        activations, forward, both = measure(student, config)
    except (AssertionError, RuntimeError) as error:  # timm's and torch's complaints
        raise AsgError(f"{config.backbone} fails at {config.size} px ({error}): change size or backbone.") from None
    weights = sum(t.nbytes for t in (*student.parameters(), *student.buffers()))
    trained = 4 * sum(groups.values()) if steps else 0  # float32
    activations = activations // (1 if config.precision == "no" else 2) if steps else 0
    evaluations, outputs = len(evaluation_steps(steps, config.evaluations)), 4 * imagenet_classes(student)
    changed = bool(config.crop or config.augment)  # other pixels in every step
    taught, seen = train if config.guidance and not changed else 0, held_out + photos
    cache = taught * outputs * (config.chunks or 1) ** 2 // (2 if config.teacher else 1)  # of each device
    asked = bool(config.guidance and changed) + (student.contrast is not None)  # the untouched network, every step
    live = steps * config.batch * asked
    full = math.prod(segmentation.WINDOW) / config.crop**2 if config.data == "gta5" else 1  # of what a step sees
    each = full * (2 * seen if dense else seen + photos)  # kept answers beside the task's, or mirrored photos
    cached, one, second = 0 if dense or config.data == "toy" else train + seen, forward / config.batch, tflops * 1e12
    width, adapting = student.kept_head.in_features if not dense else 0, {}
    energy = photos**2 * width  # operations of half a Gram matrix of features, at the last evaluation
    if adapt := config.adapt:
        # a round: its steps, whose target half is labelled, two passes that label, two evaluations
        learning = round_config(config, 0, steps).steps * (both + forward / 2)
        a_round = learning + 2 * (full * adapted + each) * one + energy
        adapting = {"self-training": adapt.rounds * a_round / second}
    return Plan(
        config, (train, held_out, photos), adapted, classes, counted, groups, getattr(controller, "parts", []),
        steps, evaluations,
        {"weights": weights, "gradients": trained, "momentum": trained, "activations": activations,
         "teacher": cache},
        {"teacher cache": cache, "evaluation cache": seen * outputs,
         "image cache": cached * config.size**2 * 3, "checkpoint": weights + trained},
        (one, float(both)), tflops,
        {"training": steps * both / second, "teacher": (taught + live) * one / second,
         "evaluation": ((full * seen + evaluations * each) * one + energy) / second, **adapting},
    )  # fmt: skip


def _rows(values: dict[str, float], units: tuple[tuple[float, str], ...]) -> list[str]:
    totalled = {**values, "total": sum(values.values())}
    scaled = {name: next((u for u in units if v >= u[0]), units[-1]) for name, v in totalled.items()}
    return [f"  {name:<18}{v / scaled[name][0]:>14,.2f} {scaled[name][1]}" for name, v in totalled.items()]


def report(plan: Plan) -> str:
    """``plan`` as text: every number with its unit, every estimate with what it assumes."""
    c, per_epoch = plan.config, plan.images[0] // plan.config.batch
    rates = {name: c.lr * (1.0 if name == "head" or c.control else c.backbone_factor) for name in plan.groups}
    sizes = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    return "\n".join(
        [
            "resolved configuration",
            *(f"  {name:<18}{'-' if value is None else value}" for name, value in c.model_dump().items()),
            "  {:,} training images, {:,} held out, {:,} photos, ".format(*plan.images)
            + (f"{plan.adapted:,} unlabelled ones to adapt to, " if c.adapt else "")
            + f"{plan.classes} classes ({plan.counted})",
            "\nlayer group             parameters   peak rate (a step; lr x factor)",
            *(f"  {name:<18}{size:>14,}   {rates[name]:g}" for name, size in plan.groups.items()),
            f"  {'total':<18}{sum(plan.groups.values()):>14,}",
            *([] if records.policy_is_there(c) else [f"  {c.control.policy} is yet to be trained (asg policy train)"]),
            *(f"  the policy's rate {k}: {', '.join(part)}" for k, part in enumerate(plan.parts, 1)),
            f"\nlength: {plan.steps:,} steps of {c.batch} images, {plan.steps / per_epoch:.4g} epochs of {per_epoch:,} "
            f"steps, {plan.evaluations} evaluations",
            f"\nmemory of one device (no workspace; activations at batch {c.batch}, {c.crop or c.size} px"
            f"{'' if c.precision == 'no' else f', halved for {c.precision}'})",
            *_rows(plan.memory, sizes),
            "\ndisk (no image cache that leaves under a tenth of the disk)",
            *_rows(plan.disk, sizes),
            f"\ntime, assuming {plan.tflops:g} TFLOP/s sustained and no wait for data "
            "({:.4g} GFLOP forward an image, {:.4g} GFLOP a step)".format(*(f / 1e9 for f in plan.flops)),
            *_rows(plan.seconds, ((3600.0, "h"), (60.0, "min"), (1.0, "s"))),
        ]
    )
