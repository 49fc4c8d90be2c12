"""Every way to keep ImageNet knowledge takes two steps on every family of networks, with random weights."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from asg.config import RunConfig, make_config
from asg.controllers.learned import Policy, Spec, save_policy
from asg.data import toy
from asg.models import build, layer_groups
from asg.run import run, trained
from asg.trainers import regularisers
from asg_book.profiles import PROFILES

FAMILIES = {  # name, input size, parameters that a policy would set the rates of: groups
    "timm:vit_tiny_patch16_224": 224,
    "timm:convnext_atto": 64,
    "torchvision:resnet18": 64,
}
METHODS: dict[str, dict] = {
    "plain": {},
    "guidance": {"guidance": 0.1},
    "weights": {"regulariser": {"kind": "weights", "strength": 1.0}},
    "features": {"regulariser": {"kind": "features", "strength": 0.01}},
    "EWC": {"regulariser": {"kind": "ewc", "strength": 1.0}},
    "SI": {"regulariser": {"kind": "si", "strength": 1.0}},
    "CSG": {"regulariser": {"kind": "csg", "strength": 0.1, "queue": 32}, "augment": {"kind": "randaugment"}},
    "PASTA": {"augment": {"kind": "pasta"}, "guidance": 0.1},
    "random rates": {"control": {"kind": "random", "groups": 3, "shortest": 1}},
    "learned rates": {"control": {"kind": "learned", "shortest": 1}, "guidance": 0.1},
    "balanced": {"guidance": 1.0, "weigh": "gradients"},
    "Auto-RGN": {"control": {"kind": "auto-rgn"}},
    "TPGM": {"project": {"kind": "tpgm", "iterations": 1}},
    "FTP": {"project": {"kind": "ftp"}},
    "LP-FT": {"head_first": 0.5},
    "EMA": {"average": {"kind": "ema"}},
    "SWA": {"average": {"kind": "swa"}},
    "WiSE-FT": {"interpolate": 0.5},
}


@cache
def random_policy(path: str) -> str:
    save_policy(Policy(Spec(groups=3), torch.Generator().manual_seed(0)), {}, path)
    return str(path)


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the toy images, and importances from a few of them: what is tested is that every part fits."""
    whole = toy.image_set
    monkeypatch.setattr(toy, "image_set", lambda count, *rest: whole(count // 4, *rest))
    for name in ("FISHER_IMAGES", "PATH_IMAGES", "PATH_STEPS"):
        monkeypatch.setattr(regularisers, name, 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("backbone", FAMILIES)
def test_two_steps(workplace, few_images, backbone: str, method: str):
    size = {"size": FAMILIES[backbone], "steps": 2, "warmup": 1, "batch": 4, "evaluations": 1, "lr": 1e-4}
    overrides = dict(METHODS[method])
    if "control" in overrides and overrides["control"]["kind"] == "learned":
        overrides["control"] = {**overrides["control"], "policy": random_policy(workplace.data / "policy.safetensors")}
    config: RunConfig = make_config(PROFILES["toy"], {"backbone": backbone, **size, **overrides})
    final = run(config)["final"]
    assert final["step"] == 2
    start, end = build(config, 3), trained(config, "cpu")
    for group, before in layer_groups(start).items():
        after = layer_groups(end)[group]
        moved = any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert moved or group != "head", group
    assert any(final["drift"].values())
