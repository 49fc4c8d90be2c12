"""Projections onto balls around the start, and the learning of their radii, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from asg.config import Project, RunConfig, make_config
from asg.data import load_domains
from asg.dense_losses import segmentation_loss
from asg.models import build
from asg.run import run, trained
from asg.trainers.projection import FTP, TPGM, Projection, length, make_projection, projected
from asg_book.profiles import PROFILES


def toy(**overrides: object) -> RunConfig:
    return make_config(PROFILES["toy"], overrides)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5,), (4, 3), (6, 2, 3, 3)])
def test_projection_onto_the_l2_ball_stops_at_its_surface(shape):
    start, moved = random(*shape), random(*shape, seed=1)
    near, far = (projected(start, moved, torch.tensor(r * float(moved.norm())), "l2") for r in (2.0, 0.25))
    torch.testing.assert_close(near, start + moved)
    torch.testing.assert_close(far, start + moved / 4)


def test_projection_by_rows_shortens_only_rows_that_are_too_far():
    start, moved = torch.zeros(3, 2, 1, 2), torch.zeros(3, 2, 1, 2)
    moved[0, 0, 0, 0], moved[1] = 1.0, torch.tensor([[[1.0, -2.0]], [[3.0, 2.0]]])
    assert length(moved, "mars").flatten().tolist() == [1.0, 8.0, 0.0]
    assert length(torch.tensor([-2.0, 3.0]), "mars").tolist() == [2.0, 3.0]
    result = projected(start, moved, torch.tensor(2.0), "mars")
    torch.testing.assert_close(result, torch.stack([moved[0], moved[1] / 4, moved[2]]))


@pytest.mark.parametrize("norm", ["l2", "mars"])
def test_what_has_not_moved_stays_exactly(norm):
    start = random(4, 3)
    assert torch.equal(projected(start, torch.zeros(4, 3), torch.tensor(1e-8), norm), start)


def shifted(project: dict) -> tuple[Projection, nn.Module, RunConfig]:
    """A student whose backbone has moved from its start at random, and its projection."""
    config = toy(project=project)
    student, domains = build(config, 3).double(), load_domains(config)
    made = make_projection(config, student, domains.source, domains.validation)
    with torch.no_grad():
        for k, p in enumerate(made.parameters.values()):
            p.add_(0.05 * random(*p.shape, seed=k))
    return made, student, config


@pytest.mark.parametrize("norm", ["l2", "mars"])
def test_tpgms_gradient_is_that_of_the_projected_networks_loss(workplace, norm, monkeypatch):
    """Its first step of learning, against finite differences in the radius of one tensor."""
    made, student, config = shifted({"kind": "tpgm", "norm": norm, "iterations": 1, "rate": 0.01})
    assert isinstance(made, TPGM) and "task_head.0.weight" not in made.parameters
    seen = {}
    monkeypatch.setattr(made, "learn", lambda gradient, largest: seen.update(gradient=gradient, largest=largest))
    moved, last = made.moved(), config.steps - 1
    (x, labels), *more = list(made.batches(last))
    assert not more
    made.step(last)
    radius = float(made.farthest(moved).min()) / 2
    assert made.radii.tolist() == pytest.approx([radius] * len(made.radii))
    k = int(seen["gradient"].abs().argmax())

    def loss(change: float) -> float:
        radii = torch.full((len(made.radii),), radius, dtype=torch.float64)
        radii[k] += change
        with torch.no_grad():
            for name, place in made.places(moved, radii).items():
                made.parameters[name].copy_(place)
            return segmentation_loss(student(x)[0], labels).item()

    step = 1e-5 * radius
    assert seen["gradient"][k].item() == pytest.approx((loss(step) - loss(-step)) / (2 * step), rel=1e-3)


def test_tpgm_projects_at_the_end_of_every_pass_and_of_the_training(workplace, monkeypatch):
    made, _, config = shifted({"kind": "tpgm", "iterations": 2})
    projections = []
    monkeypatch.setattr(made, "apply", lambda moved: projections.append(moved))
    for step in range(config.steps):
        before = len(projections)
        made.step(step)
        assert (len(projections) > before) == (step in (5, 7))  # 48 images in batches of 8; 8 steps


@pytest.mark.parametrize("norm", ["l2", "mars"])
def test_ftps_gradient_is_that_of_the_loss_in_the_radius(norm):
    """On L(θ) = c · θ, whose gradient c is the same everywhere."""
    project, slope = Project(kind="ftp", norm=norm, rate=0.01), random(4, 3, seed=5)
    weight = nn.Parameter(torch.zeros(4, 3))
    made = FTP.__new__(FTP)
    nothing = {"parameters": {"w": weight}, "start": {"w": torch.zeros(4, 3)}, "held_back": {"w": torch.zeros(4, 3)}}
    made.__dict__.update(project=project, radii=nn.Parameter(torch.zeros(1)), begun=False, **nothing)
    made.adam = torch.optim.Adam([made.radii], lr=project.rate)
    learned = []
    made.learn = lambda gradient, largest: learned.append(gradient.item())
    weight.grad = slope
    with torch.no_grad():
        weight.add_(random(4, 3, seed=6))
    made.step(0)
    first = made.radii.item()
    assert first == pytest.approx(float(length(weight.detach(), norm).max())) and not learned
    with torch.no_grad():
        weight.mul_(3)  # beyond the radius
    beyond = weight.detach().clone()
    made.step(1)
    assert learned == [0.0]  # nothing was held back before
    torch.testing.assert_close(weight.detach(), projected(torch.zeros(4, 3), beyond, torch.tensor(first), norm))
    made.step(2)

    def loss(radius: float) -> float:
        return float((slope * projected(torch.zeros(4, 3), beyond, torch.tensor(radius), norm)).sum())

    assert learned[1] == pytest.approx((loss(first + 1e-2) - loss(first - 1e-2)) / 2e-2, rel=1e-2)


@pytest.mark.parametrize("kind", ["tpgm", "ftp"])
@pytest.mark.parametrize("norm", ["l2", "mars"])
def test_a_projected_run_ends_within_its_radii(workplace, kind, norm):
    free, config = run(toy(lr=0.1)), toy(lr=0.1, project={"kind": kind, "norm": norm, "rate": 1e-6, "iterations": 2})
    bound = run(config)
    assert sum(bound["final"]["drift"].values()) < sum(free["final"]["drift"].values())
    assert trained(config, "cpu").task_head[2].weight.isfinite().all()


def test_scenes_can_be_projected_too(workplace):
    for kind in ("tpgm", "ftp"):
        assert run(toy(data="toy-scenes", batch=4, project={"kind": kind, "iterations": 2}))["final"]["step"] == 8


def test_a_backbone_at_rest_is_left_alone(workplace):
    resting = {"backbone_factor": 0.0, "project": {"kind": "tpgm", "iterations": 1}}
    assert run(toy(**resting))["final"]["agreement"] == 1.0
