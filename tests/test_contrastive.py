"""CSG's loss against brute force: pooling, InfoNCE, the queue's order, the moving average, and whole runs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from asg import AsgError
from asg.config import RunConfig, make_config
from asg.contrastive import MOMENTUM, TEMPERATURE, Contrast, attention_pool, compared_stages, info_nce, pooled_pieces
from asg.models import build, layer_groups
from asg.run import run, trained
from asg.trainers import segmentation
from asg.trainers.devices import make_accelerator
from asg.trainers.regularisers import make_penalty
from asg_book.profiles import PROFILES

CPU = torch.device("cpu")
CSG = {"kind": "csg", "strength": 0.1, "queue": 20}


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(random(*shape, seed=seed), dim=-1)


def test_attention_pooling_by_hand():
    """Two places, (1, 0) and (1, 2): the mean is (1, 1), their likenesses 1 and 3, the weights ¼ and ¾."""
    maps = torch.tensor([[[[1.0, 1.0]], [[0.0, 2.0]]]])  # (1, 2, 1, 2)
    torch.testing.assert_close(attention_pool(maps), torch.tensor([[1.0, 1.5]]))


def test_attention_pooling_place_by_place():
    maps = random(3, 5, 4, 6)
    for image, pooled in zip(maps, attention_pool(maps), strict=True):
        places = [image[:, i, j] for i in range(4) for j in range(6)]
        mean = sum(places) / 24
        weights = [float(v @ mean) for v in places]
        expected = sum(w * v for w, v in zip(weights, places, strict=True)) / sum(weights)
        torch.testing.assert_close(pooled, expected)


def test_pooling_of_equal_places_is_their_value_and_of_nothing_nothing():
    torch.testing.assert_close(attention_pool(torch.ones(2, 3, 4, 4) * 7), torch.full((2, 3), 7.0))
    assert torch.equal(attention_pool(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3))


def test_pieces_are_pooled_image_by_image_and_row_by_row():
    maps = random(2, 3, 5, 7)
    pieces = pooled_pieces(maps, 2)  # rows of 3 and 2 cells, columns of 4 and 3
    expected = [
        attention_pool(maps[n : n + 1, :, rows, columns])[0]
        for n in range(2)
        for rows in (slice(0, 3), slice(3, 5))
        for columns in (slice(0, 4), slice(4, 7))
    ]
    torch.testing.assert_close(pieces, torch.stack(expected))
    torch.testing.assert_close(pooled_pieces(maps, 1), attention_pool(maps))
    with pytest.raises(AsgError, match="5 × 7 cannot be cut into 6 × 6 pieces"):
        pooled_pieces(maps, 6)


def test_info_nce_by_brute_force():
    queries, keys, queue = directions(4, 8), directions(4, 8, seed=1), directions(11, 8, seed=2)
    losses = []
    for q, k in zip(queries, keys, strict=True):
        right = math.exp(float(q @ k) / TEMPERATURE)
        wrong = sum(math.exp(float(q @ other) / TEMPERATURE) for other in queue)
        losses.append(-math.log(right / (right + wrong)))
    assert info_nce(queries, keys, queue).item() == pytest.approx(sum(losses) / 4, rel=1e-10)


def a_contrast(queue: int) -> Contrast:
    return Contrast({"a": 6, "b": 4}, queue, torch.Generator().manual_seed(0))


def test_the_queue_holds_the_latest_keys_in_turn():
    contrast, expected = a_contrast(5), None
    expected = [list(one) for one in contrast.queue]
    place = 0
    for k, size in enumerate((2, 2, 3, 7, 1)):
        keys = [directions(size, 128, seed=10 * k + s).float() for s in range(2)]
        contrast.enqueue(keys)
        for n in range(size):
            for stage in range(2):
                expected[stage][place] = keys[stage][n]
            place = (place + 1) % 5
        assert torch.equal(contrast.queue, torch.stack([torch.stack(one) for one in expected])), k
    assert int(contrast.next) == place


def test_the_loss_compares_with_the_keys_before_this_batch_and_sums_over_stages():
    contrast = a_contrast(5)
    before = contrast.queue.clone()
    queries, keys = ([directions(3, 128, seed=s).float() for s in seeds] for seeds in ((1, 2), (3, 4)))
    expected = sum(info_nce(q, k, negatives) for q, k, negatives in zip(queries, keys, before, strict=True))
    assert contrast.loss(queries, keys).item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.equal(contrast.queue[0, :3], keys[0]) and torch.equal(contrast.queue[1, 3:], before[1, 3:])


def test_the_moving_average_follows_the_projectors():
    contrast, maps = a_contrast(5), [random(2, c, 3, 3).float() for c in (6, 4)]
    assert all(torch.equal(a, b) for a, b in zip(contrast.queries(maps), contrast.keys(maps), strict=True))
    old = [p.detach().double().clone() for p in contrast.averaged.parameters()]
    with torch.no_grad():
        for p in contrast.projectors.parameters():
            p.add_(1.0)
    contrast.keys(maps)
    for before, now, theirs in zip(old, contrast.averaged.parameters(), contrast.projectors.parameters(), strict=True):
        expected = MOMENTUM * before + (1 - MOMENTUM) * theirs.detach().double()
        torch.testing.assert_close(now.double(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [
        ("timm:resnet18", {"layer3": 256, "layer4": 512}),
        ("torchvision:resnet18", {"layer3": 256, "layer4": 512}),
        ("torchvision:resnet50", {"layer3": 1024, "layer4": 2048}),
        ("timm:tf_efficientnet_lite0", {"blocks.4": 112, "blocks.6": 320}),
        ("timm:convnext_atto", {"stages.2": 160, "stages.3": 320}),
        ("timm:vit_tiny_patch16_224", {"blocks.7": 192, "blocks.11": 192}),
    ],
)
def test_the_stages_that_are_compared(backbone: str, stages: dict[str, int]):
    student = build(toy(backbone=backbone, size=224, regulariser=CSG), 3)
    assert compared_stages(student.backbone, backbone) == stages
    x = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    features, maps = student.features_and_maps(x, student.contrast.stages)
    assert [m.shape[1] for m in maps] == list(stages.values()) and all(m.dim() == 4 for m in maps)
    assert torch.equal(features, student.features(x))
    with torch.no_grad():
        assert [tuple(q.shape) for q in student(x, contrast=True)[3]] == [(2, 128), (2, 128)]


def test_networks_without_named_stages_are_named():
    with pytest.raises(AsgError, match="torchvision:convnext_tiny are not named: choose a ResNet"):
        build(toy(backbone="torchvision:convnext_tiny", regulariser=CSG), 3)


def test_projectors_have_the_heads_rate_and_leave_the_head_as_it_is_drawn():
    plain, student = build(toy(), 3), build(toy(regulariser=CSG), 3)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in plain.state_dict().items())
    head = layer_groups(student)["head"]
    assert {id(p) for p in student.contrast.projectors.parameters()} < {id(p) for p in head}
    assert head[-1] is student.task_head[2].bias
    grouped = {id(p) for group in layer_groups(student).values() for p in group}
    assert not grouped & {id(p) for p in student.contrast.averaged.parameters()}


def test_the_penalty_is_the_loss_of_both_networks_maps(workplace):
    config = toy(regulariser=CSG)
    student, untouched = build(config, 3), build(config, 3)
    penalty = make_penalty(config, student, None, CPU)
    with torch.no_grad():
        for p in student.backbone.parameters():
            p.mul_(1.05)
    x = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    stages = student.contrast.stages
    queries = student.contrast.queries(student.features_and_maps(x, stages)[1])
    keys = untouched.contrast.keys(untouched.features_and_maps(x, stages)[1])
    expected = 0.1 * sum(info_nce(q, k, n) for q, k, n in zip(queries, keys, untouched.contrast.queue, strict=True))
    value = penalty(torch.arange(5), x, student(x, contrast=True)[3])
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    moved = {name for name, p in student.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert any(n.startswith("backbone.") for n in moved) and any(n.startswith("contrast.projectors") for n in moved)
    assert not any(n.startswith(("contrast.averaged", "task_head", "kept_head")) for n in moved)


@pytest.mark.parametrize(
    "overrides", [{}, {"guidance": 0.1}, {"augment": {"kind": "randaugment"}}, {"backbone_factor": 0.0}]
)
def test_runs_and_their_networks(workplace, overrides):
    config = toy(regulariser=CSG, **overrides)
    record = run(config)
    assert record["final"]["step"] == 8 and "penalty" in record["first_losses"][0]
    network = trained(config, "cpu")
    assert int(network.contrast.next) == 8 * 8 % 20


def test_self_training_and_interpolation_go_on_without_the_queue(workplace):
    adapt = {"rounds": 1, "length": 0.2, "rate": 1.0, "portion": 0.5}
    config = toy(steps=40, warmup=4, regulariser=CSG)
    start = run(config)
    rounds = config.model_copy(update={"adapt": toy(adapt=adapt).adapt})
    assert run(rounds)["evaluations"][0]["accuracy"] == start["final"]["accuracy"]
    assert trained(rounds, "cpu").contrast is None
    interpolated = run(toy(steps=40, warmup=4, regulariser=CSG, interpolate=1.0))
    assert interpolated["final"]["predicted"] == start["final"]["predicted"]


@pytest.mark.parametrize("chunks", [None, 2])
def test_scenes_are_compared_piece_by_piece(workplace, chunks):
    config = toy(data="toy-scenes", batch=4, size=64, regulariser=CSG, chunks=chunks)
    task = segmentation.prepare(config, make_accelerator(config, "cpu"))
    x = torch.stack([task.images[k, 0][1] for k in range(4)])
    _, _, queries = task.network(x, contrast=chunks or 1)
    assert [tuple(q.shape) for q in queries] == [(4 * (chunks or 1) ** 2, 128)] * 2
    record = run(config)
    assert record["final"]["step"] == 8 and record["first_losses"][0]["penalty"] > 0


def test_scenes_can_be_held_to_imagenets_weights_and_to_no_features(workplace):
    scenes = {"data": "toy-scenes", "batch": 4}
    free, held = (
        run(toy(**scenes, **overrides)) for overrides in ({}, {"regulariser": {"kind": "weights", "strength": 100.0}})
    )
    assert sum(held["final"]["drift"].values()) < sum(free["final"]["drift"].values())
    with pytest.raises(AsgError, match="The penalty features is not of scenes: choose weights or csg"):
        run(toy(**scenes, regulariser={"kind": "features", "strength": 1.0}))
