"""What a dry run promises, against counts made another way."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.data import visda
from asg.dryrun import Plan, count, dry_run, measure, report
from asg.models import build
from asg_book.catalogue import get
from asg_book.profiles import PROFILES

BLOCKS, WIDTHS = (3, 4, 23, 3), (64, 128, 256, 512)  # ResNet-101: He et al. 2016, table 1
TRAIN = 152_397 - math.ceil(152_397 / 100)


@pytest.fixture(scope="module")
def absent(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("no-visda"))


@pytest.fixture(scope="module")
def paper(absent: str) -> Plan:
    return dry_run(get("guidance").config("paper", "small_proxy", 0, {"source": absent}))


@cache
def toy(**overrides: object) -> Plan:
    return dry_run(make_config(PROFILES["toy"], overrides))


def resnet101_groups() -> dict[str, int]:
    """Parameters of each stage, from the widths and kernel sizes alone."""
    groups, inputs = {"conv1": 3 * 64 * 49, "bn1": 2 * 64}, 64
    for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True), 1):
        count = inputs * 4 * width + 2 * 4 * width  # the first block's shortcut and its BatchNorm
        for _ in range(blocks):
            count += inputs * width + 9 * width * width + width * 4 * width + 2 * (width + width + 4 * width)
            inputs = 4 * width
        groups[f"layer{stage}"] = count
    return {**groups, "head": 2048 * 512 + 512 + 512 * 12 + 12}


def resnet101_activations(batch: int, size: int) -> int:
    """Bytes that the backward pass needs: input of every convolution, BatchNorm, ReLU and linear layer.

    ReLUs work in place and their output is the next convolution's input, so each is counted once.
    """
    side = size // 2
    count = 3 * size**2 + 2 * 64 * side**2  # the image; conv1's output before and after bn1 and ReLU
    side //= 2
    count += 64 * side**2 * (1 + 2)  # max pooling: its output, and int64 indices that take two floats each
    for stage, (blocks, width) in enumerate(zip(BLOCKS, WIDTHS, strict=True)):
        outer = side
        side = side // 2 if stage else side
        count += 2 * width * outer**2 + (2 * width + 4 * width) * side**2 + 4 * width * side**2  # the first block
        count += 4 * width * side**2  # its shortcut before BatchNorm
        count += (blocks - 1) * (4 * width + 2 * 4 * width) * side**2
    count += 2048 + 512 + 12 + 1000 + 1000  # both heads, and the teacher's log-probabilities
    return 4 * batch * count


def test_parameters_of_each_group_equal_an_independent_count(paper: Plan) -> None:
    stages: dict[str, int] = {}
    for name, size in paper.groups.items():
        stages[name.split(".")[0]] = stages.get(name.split(".")[0], 0) + size
    assert stages == resnet101_groups()
    frozen = 2048 * 1000 + 1000
    assert sum(stages.values()) - stages["head"] + frozen == 44_549_160  # as torchvision documents ResNet-101
    statistics = 52_672  # BatchNorm's channels; checked through the weights below
    buffers = 2 * 4 * statistics + 8 * 104 + 2 * 4 * 3  # mean, variance; step counters; the image's mean and sd
    assert paper.memory["weights"] == 4 * (sum(stages.values()) + frozen) + buffers
    assert paper.memory["gradients"] == paper.memory["momentum"] == 4 * sum(stages.values())


def test_steps_and_evaluations_of_the_paper_profile(paper: Plan) -> None:
    assert paper.images == (TRAIN, 1524, 55_388) and paper.classes == len(visda.CLASSES) == 12
    assert paper.steps == 30 * (150_873 // 32) == 141_420
    assert paper.evaluations == 31
    assert "as published, not on disk" in report(paper)


def test_flops_agree_with_the_published_count(paper: Plan) -> None:
    one, step = paper.flops
    assert one == pytest.approx(2 * 7.8e9, rel=0.05)  # torchvision: 7.80 G multiply-adds at 224 px
    assert step == pytest.approx(32 * 3 * one, rel=0.01)  # backward: twice the forward, but for the first layer
    assert paper.seconds["training"] == pytest.approx(paper.steps * step / 15e12)
    assert paper.seconds["teacher"] == pytest.approx(TRAIN * one / 15e12)
    looks = 31 * (1524 + 2 * 55_388) + 1524 + 55_388
    energy = 2 * 55_388**2 / 2 * 2048  # half a Gram matrix of ResNet-101's features, at the last evaluation only
    assert paper.seconds["evaluation"] == pytest.approx((looks * one + energy) / 15e12)


def test_activations_of_resnet101_agree_with_a_count_by_hand(paper: Plan) -> None:
    assert paper.memory["activations"] == pytest.approx(resnet101_activations(32, 224), rel=0.01)


def test_disk_of_the_paper_profile(paper: Plan) -> None:
    assert paper.disk["teacher cache"] == paper.memory["teacher"] == TRAIN * 1000 * 2  # float16
    assert paper.disk["image cache"] == (TRAIN + 1524 + 55_388) * 224 * 224 * 3


@pytest.mark.parametrize("guidance", [0.0, 0.1])
def test_activation_bytes_on_meta_equal_those_saved_on_the_cpu(guidance: float) -> None:
    config = make_config(PROFILES["toy"], {"guidance": guidance})
    student, sizes = build(config, 3), {}
    own = {t.data_ptr() for t in student.state_dict().values()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x = torch.zeros(config.batch, 3, config.size, config.size, dtype=torch.uint8)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        logits, imagenet, _ = student(x)
        loss = nn.functional.cross_entropy(logits, torch.zeros(config.batch, dtype=torch.long))
        if guidance:
            old = torch.zeros_like(imagenet)
            loss = loss + guidance * nn.functional.kl_div(
                imagenet.log_softmax(1), old, log_target=True, reduction="batchmean"
            )
    # In eval mode BatchNorm on meta returns the mean and deviation that training would save: two a channel.
    statistics = sum(b.nbytes for name, b in student.named_buffers() if "running" in name)
    assert 0 <= measure(student.to("meta"), config)[0] - sum(sizes.values()) <= statistics < 0.01 * sum(sizes.values())
    del loss  # until here it kept what was saved


def test_mixed_precision_halves_the_activations() -> None:
    assert toy(precision="bf16").memory["activations"] == toy().memory["activations"] // 2
    assert "halved for bf16" in report(toy(precision="bf16"))


def test_only_a_guided_run_needs_a_teacher_cache() -> None:
    plain, guided = toy(), toy(guidance=0.1)
    assert plain.disk["teacher cache"] == 0 and plain.seconds["teacher"] == 0
    assert guided.disk["teacher cache"] == 48 * 1000 * 4 and guided.seconds["teacher"] > 0


def test_the_toy_profile_is_counted_in_its_data() -> None:
    plan = toy()
    assert (plan.images, plan.classes, plan.steps, plan.evaluations) == ((48, 12, 24), 3, 8, 3)
    assert plan.disk["image cache"] == 0  # generated, never kept
    assert "counted in the data" in report(plan)


def test_a_run_without_steps_takes_no_gradients() -> None:
    plan = toy(steps=0)
    assert plan.seconds["training"] == 0 and plan.evaluations == 1
    assert plan.memory["gradients"] == plan.memory["momentum"] == plan.memory["activations"] == 0
    assert "0 steps" in report(plan)


def test_visda_at_hand_is_counted(tmp_path: Path) -> None:
    for split, lines in (("train", 250), ("validation", 7)):
        (tmp_path / split).mkdir()
        (tmp_path / split / "image_list.txt").write_text("".join(f"bus/{i}.png 2\n" for i in range(lines)))
    overrides = {"data": "visda17", "source": str(tmp_path)}
    assert toy(**overrides).images == (247, 3, 7)


def test_the_report_says_every_part_with_its_unit(paper: Plan) -> None:
    text = report(paper)
    for name, size in paper.groups.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {name} ")]
        assert f"{size:,}" in line and line.endswith("0.0001" if name == "head" else "1e-05")
    for part in (*paper.memory, *paper.disk, *paper.seconds, *type(paper.config).model_fields):
        assert f"\n  {part} " in text
    assert "resolved configuration" in text and "assuming 15 TFLOP/s" in text
    assert "141,420 steps of 32 images, 30 epochs of 4,714 steps" in text
    assert " GB" in text and " h" in text and "150,873 training images" in text


def test_throughput_is_an_assumption_that_scales_the_time() -> None:
    config = make_config(PROFILES["toy"])
    slow, fast = dry_run(config, tflops=1.0), dry_run(config, tflops=4.0)
    assert sum(slow.seconds.values()) == pytest.approx(4 * sum(fast.seconds.values()))
    assert "assuming 4 TFLOP/s" in report(fast)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    config = make_config(PROFILES["toy"])
    with pytest.raises(AsgError, match="above 0"):
        dry_run(config, tflops=0.0)
    with pytest.raises(AsgError, match="lower batch"):
        toy(batch=49)
    with pytest.raises(AsgError, match="change size or backbone"):
        toy(backbone="timm:test_vit_relpos")
    with pytest.raises(AsgError, match="does not exist"):
        toy(data="folder", source=str(tmp_path / "nowhere"))


def test_rounds_of_self_training_are_counted() -> None:
    """Two rounds of half the steps; each labels the target twice and evaluates twice, photos with their mirror, energy once."""
    plan = dry_run(make_config(PROFILES["toy"], {"adapt": {"rounds": 2, "length": 0.5}}))
    one, both = plan.flops
    _, held_out, photos = plan.images
    assert plan.adapted == photos == 24 and "24 unlabelled ones to adapt to" in report(plan)
    width = build(plan.config, plan.classes).kept_head.in_features
    a_round = 4 * (both + 8 / 2 * one) + (2 * photos + 2 * (held_out + 2 * photos)) * one + photos**2 * width
    assert plan.seconds["self-training"] == pytest.approx(2 * a_round / 15e12)
    assert "self-training" in report(plan) and "self-training" not in toy().seconds


@pytest.mark.parametrize(
    ("backbone", "trained"),
    [("vgg16", 134_456_985), ("resnet50", 38_995_027), ("resnet101", 57_934_931)],  # counted in test_dense_models
)
def test_a_segmentation_run_at_the_papers_scale(backbone: str, trained: int) -> None:
    """Crops have a live teacher, Cityscapes is answered at full size, GTA5 is counted as published."""
    config = get("segmentation").config("paper", "patches", 0, {"backbone": f"torchvision:{backbone}"})
    plan = dry_run(config)
    held_out = math.ceil((24_966 - 12_403) / 100)  # of the images that the reference's list leaves out
    assert plan.images == (12_403, held_out, 500) and plan.steps == 100_000
    assert "12,403 training images" in report(plan) and "24,966" not in report(plan)
    assert sum(plan.groups.values()) == trained and list(plan.groups)[-1] == "head"
    one, _ = plan.flops
    assert plan.seconds["teacher"] == pytest.approx(100_000 * 6 * one / 15e12)
    assert plan.seconds["evaluation"] == pytest.approx((held_out + 500) * (1 + 2 * 11) * 8 * one / 15e12)
    assert plan.disk["teacher cache"] == plan.disk["image cache"] == 0
    assert "19 classes (as published, not on disk)" in report(plan)
    assert "activations at batch 6, 512 px" in report(plan)


@pytest.mark.parametrize(
    ("experiment", "sgd", "head"),
    [("segmentation", "torch", None), ("segmentation_resnet50", "reference", "deeplab-v3"),
     ("segmentation_resnet101", "reference", "deeplab-v3"), ("adaptation_scenes", "reference", "deeplab-v3")],
)  # fmt: skip
def test_the_papers_settings_of_segmentation(experiment: str, sgd: str, head: str | None) -> None:
    """50 epochs of 2,000 steps of 6 crops, of the listed images; torch's SGD for VGG, the reference's for ResNets."""
    for arm in get(experiment).arms:
        c = get(experiment).config("paper", arm, 0)
        assert (c.steps, c.batch, c.crop, c.source_list) == (50 * 2000, 6, 512, "gta5_train.txt"), arm
        assert (c.lr, c.momentum, c.weight_decay, c.warmup, c.sgd, c.dense_head) == (1e-3, 0.9, 5e-4, 100, sgd, head), (
            arm
        )
        assert c.guidance in (0.0, 75.0) and (c.control or c.backbone_factor == (0.0 if arm == "frozen" else 0.1)), arm


@pytest.mark.parametrize(
    ("listed", "train", "held_out"),
    [("gta5_train.txt", 12_403, 126), ("split.mat", 12_403, 64), (None, 24_966 - 250, 250)],
)
def test_gta5_is_counted_as_published_for_every_list_that_is_known(absent: str, listed: str, train: int, held_out: int):
    config = make_config(PROFILES["toy"], {"data": "gta5", "source": absent, "source_list": listed, "crop": 32})
    assert count(config) == ((train, held_out, 500), 0, 19, "as published, not on disk")


def test_a_list_that_is_neither_known_nor_there_is_a_sentence(absent: str):
    config = make_config(PROFILES["toy"], {"data": "gta5", "source": absent, "source_list": "mine.txt", "crop": 32})
    with pytest.raises(AsgError, match="GTA5 is not at"):
        count(config)


def test_self_training_at_the_papers_scale_labels_cityscapes_train(absent: str) -> None:
    """Three rounds, each with two passes over 2,975 whole photographs beside its two evaluations on 500."""
    plan = dry_run(get("adaptation_scenes").config("paper", "vanilla, CBST", 0, {"source": absent}))
    one, both = plan.flops
    assert (plan.images[2], plan.adapted) == (500, 2_975)
    a_round = 12_500 * (both + 6 / 2 * one) + (2 * 2_975 + 2 * 2 * (126 + 500)) * 8 * one
    assert plan.seconds["self-training"] == pytest.approx(3 * a_round / 15e12)
    assert "500 photos, 2,975 unlabelled ones to adapt to, 19 classes (as published, not on disk)" in report(plan)


def test_csg_counts_its_queue_its_projectors_and_a_live_teacher(absent):
    base = {
        "data": "visda17",
        "source": absent,
        "profile": "paper",
        "backbone": "torchvision:resnet18",
        "epochs": 1,
        "size": 64,
    }
    plain, csg, short = (
        dry_run(RunConfig(**base, regulariser=regulariser))
        for regulariser in (None, {"kind": "csg", "strength": 0.1}, {"kind": "csg", "strength": 0.1, "queue": 1024})
    )
    keys = 2 * 128 * 4  # bytes that one more key of both stages takes
    assert csg.memory["weights"] - short.memory["weights"] == (65_536 - 1024) * keys
    projectors = sum(c * c + c + c * 128 + 128 for c in (256, 512))
    assert (
        short.memory["weights"] - plain.memory["weights"] == 4 * 2 * projectors + 1024 * keys + 8
    )  # with their average
    assert csg.groups["head"] - plain.groups["head"] == projectors
    assert csg.seconds["teacher"] > 0.9 * csg.steps * 32 * plain.flops[0] / 15e12
