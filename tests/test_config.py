"""Settings: what identifies a run, what is refused and how the refusal reads."""

import json
import math

import pytest
from pydantic import ValidationError

from asg import AsgError
from asg.config import PLACES, Adaptation, Control, Rendering, RunConfig, make_config
from asg.data.images import total_steps

BASE = {"profile": "toy", "data": "toy", "steps": 8}
CONFIG = RunConfig(**BASE)

# One other value for every field but the seed: a new field must be added here.
OTHER = {
    "profile": {"profile": "own"},
    "data": {"data": "mini"},
    "source": {"source": "renders"},
    "sources": {"data": "folder", "sources": {"renders": 1, "more": 3}},
    "source_list": {"data": "gta5", "source_list": "gta5_train.txt"},
    "class_list": {"data": "folder-scenes", "source": "renders", "class_list": "classes.json"},
    "target": {"target": "photos"},
    "rendering": {"rendering": {"angle": 10.0}},
    "synthetic": {"synthetic": {"look": "grey"}},
    "mirror": {"mirror": False},
    "size": {"size": 96},
    "backbone": {"backbone": "timm:test_resnet"},
    "weights": {"weights": "random"},
    "head_width": {"head_width": 16},
    "steps": {"steps": 9},
    "epochs": {"epochs": 2},
    "batch": {"batch": 4},
    "lr": {"lr": 2e-4},
    "backbone_factor": {"backbone_factor": 1.0},
    "guidance": {"guidance": 0.1},
    "weigh": {"guidance": 0.1, "weigh": "gradients"},
    "teacher": {"teacher": "fp16"},
    "fold": {"fold": True},
    "regulariser": {"regulariser": {"kind": "ewc", "strength": 2.0}},
    "chunks": {"chunks": 8},
    "cap": {"cap": 9.0},
    "dense_head": {"dense_head": "deeplab-v2"},
    "crop": {"crop": 512},
    "warmup": {"warmup": 50},
    "momentum": {"momentum": 0.5},
    "control": {"control": {"kind": "random"}},
    "augment": {"augment": {"kind": "pasta"}},
    "project": {"project": {"kind": "ftp"}},
    "head_first": {"head_first": 0.5},
    "average": {"average": {"kind": "swa"}},
    "interpolate": {"interpolate": 0.5},
    "adapt": {"adapt": {"rounds": 2}},
    "weight_decay": {"weight_decay": 0.0},
    "sgd": {"sgd": "torch"},
    "precision": {"precision": "bf16"},
    "compile": {"compile": True},
    "threads": {"threads": 1},
    "workers": {"workers": 1},
    "evaluations": {"evaluations": 5},
    "signals": {"signals": True},
}
INSTEAD = {"sources": {"source": "renders"}}  # what stands where the field does not
OTHER_RENDERING = {
    "seed": 7,
    "per_design": 3,
    "per_held_out": 3,
    "smallest": 0.4,
    "largest": 0.8,
    "angle": 10.0,
    "ground": "patches",
    "backdrop": "white",
    "photo": 0.5,
    "style": "flat",
    "pose": "fixed",
    "designs": 4,
    "detail": 16,
}


OTHER_CONTROL = {
    "kind": "random once",
    "policy": "mini-asg",
    "ratios": [0.5, 1.0],
    "groups": 3,
    "window": "divided",
    "shortest": 2,
    "epoch": 100,
    "sampled": False,
    "schedule": True,
}
OTHER_ADAPTATION = {
    "mrkld": 0.1,
    "lrent": 0.25,
    "rounds": 2,
    "portion": 0.5,
    "growth": 0.0,
    "length": 1.0,
    "rate": 1.0,
    "backbone_factor": 1.0,
    "half": True,
    "images": "photos",
}


@pytest.mark.parametrize(
    "override",
    [
        {},
        {"epochs": 3},
        {"control": {"kind": "fixed", "ratios": [0.0, 1.0]}},
        {"data": "folder", "source": "Ordner/größer", "target": "x"},
        {"rendering": {"seed": 5}},
    ],
)
def test_json_round_trip_gives_an_equal_configuration(override: dict):
    config = make_config(BASE, override)
    again = RunConfig(**json.loads(config.to_json()))
    assert again == config
    assert again.to_json() == config.to_json()
    assert again.identity() == config.identity()


def test_identity_does_not_depend_on_the_seed():
    assert make_config(BASE, {"seed": 4}).identity() == CONFIG.identity()
    assert make_config(BASE, {"seed": 4}) != CONFIG


def test_every_field_but_the_seed_is_tried_below():
    assert OTHER.keys() == RunConfig.model_fields.keys() - {"seed"}
    assert OTHER_RENDERING.keys() == Rendering.model_fields.keys()
    assert OTHER_CONTROL.keys() == Control.model_fields.keys()
    assert OTHER_ADAPTATION.keys() == Adaptation.model_fields.keys()


@pytest.mark.parametrize("name", OTHER)
def test_identity_depends_on_every_field_but_those_that_say_where_data_lie(name: str):
    rest = {field: value for field, value in OTHER[name].items() if field != name}
    before, changed = make_config(BASE, rest, INSTEAD.get(name, {})), make_config(BASE, OTHER[name])
    assert getattr(changed, name) != getattr(before, name)
    assert (changed.identity() == before.identity()) == (name in PLACES)


@pytest.mark.parametrize("name", OTHER_RENDERING)
def test_identity_depends_on_every_field_of_the_rendering(name: str):
    changed = make_config(BASE, {"rendering": {name: OTHER_RENDERING[name]}})
    assert getattr(changed.rendering, name) != getattr(CONFIG.rendering, name)
    assert changed.identity() != CONFIG.identity()


# A policy counts by what it is, not by its name; a folder likewise.
@pytest.mark.parametrize("name", sorted(OTHER_CONTROL.keys() - {"policy"}))
def test_identity_depends_on_every_field_of_the_control(name: str):
    plain = {"kind": "random"}
    changed = make_config(BASE, {"control": {**plain, name: OTHER_CONTROL[name]}})
    assert changed.identity() != make_config(BASE, {"control": plain}).identity()


@pytest.mark.parametrize("name", sorted(OTHER_ADAPTATION.keys() - {"images"}))
def test_identity_depends_on_every_field_of_the_adaptation(name: str):
    changed = make_config(BASE, {"adapt": {name: OTHER_ADAPTATION[name]}})
    assert changed.identity() != make_config(BASE, {"adapt": {}}).identity()


def test_identity_does_not_depend_on_how_a_number_is_written_or_fields_are_ordered():
    assert RunConfig(**BASE, backbone_factor=1).identity() == RunConfig(**BASE, backbone_factor=1.0).identity()
    assert RunConfig(**dict(reversed(BASE.items()))).identity() == CONFIG.identity()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("profile", "big"),
        ("data", "imagenet"),
        ("source", 3),
        ("target", 3),
        ("rendering", {"ground": "lava"}),
        ("size", 31),
        ("backbone", 50),
        ("weights", None),
        ("head_width", 0),
        ("steps", -1),
        ("steps", True),
        ("epochs", 0),
        ("batch", 0),
        ("batch", "8"),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", "0.1"),
        ("backbone_factor", -0.1),
        ("guidance", -1.0),
        ("warmup", 0),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("sgd", "adam"),
        ("precision", "fp8"),
        ("threads", -1),
        ("workers", -1),
        ("evaluations", 0),
        ("seed", -1),
        ("seed", 0.5),
        ("learning_rate", 0.1),
    ],
)
def test_a_wrong_field_is_named_with_what_was_given(name: str, value: object):
    with pytest.raises(AsgError) as caught:
        make_config(BASE, {name: value})
    sentence = str(caught.value)
    assert f"— {name}" in sentence
    assert repr(value if name != "rendering" else "lava") in sentence


@pytest.mark.parametrize("name", ["lr", "backbone_factor", "guidance", "weight_decay"])
def test_an_infinite_number_is_refused(name: str):
    with pytest.raises(AsgError, match=name):
        make_config(BASE, {name: math.inf})


def test_a_least_size_above_the_greatest_is_refused():
    with pytest.raises(AsgError, match="smallest"):
        make_config(BASE, {"rendering": {"smallest": 0.9, "largest": 0.4}})


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(AsgError) as caught:
        make_config(BASE, {"batch": 0, "momentum": 2.0, "nope": 1, "rendering": {"angle": 200.0}})
    assert all(f"{name}: " in str(caught.value) for name in ("batch", "momentum", "nope", "rendering.angle"))


@pytest.mark.parametrize("length", [{}, {"steps": 3, "epochs": 2}])
def test_steps_and_epochs_exclude_each_other_and_one_is_needed(length: dict):
    with pytest.raises(AsgError, match="exactly one of steps and epochs"):
        make_config({"profile": "toy", "data": "toy"}, length)


def test_a_new_length_replaces_the_other_kind():
    epochs = make_config(BASE, {"epochs": 3})
    assert (epochs.steps, epochs.epochs) == (None, 3)
    steps = make_config(BASE, {"epochs": 3}, {"steps": 0})
    assert (steps.steps, steps.epochs) == (0, None)


def test_later_overrides_win_and_the_base_is_left_alone():
    base = dict(BASE)
    assert make_config(base, {"lr": 0.1}, {"lr": 0.2}).lr == 0.2
    assert base == BASE


def test_folder_data_needs_a_source():
    with pytest.raises(AsgError, match="source"):
        make_config(BASE, {"data": "folder"})


@pytest.mark.parametrize(
    ("length", "images", "batch", "expected"),
    [
        ({"steps": 7}, 100, 32, 7),
        ({"steps": 0}, 100, 32, 0),
        ({"epochs": 3}, 100, 32, 9),  # the last four images of an epoch are dropped
        ({"epochs": 30}, 152_397, 32, 142_860),  # VisDA-17: 30 · ⌊152,397 / 32⌋
        ({"epochs": 2}, 10, 32, 2),
    ],
)
def test_total_steps(length: dict, images: int, batch: int, expected: int):
    assert total_steps(make_config(BASE, length, {"batch": batch}), images) == expected


def test_defaults_are_the_papers_visda_settings():
    config = make_config({"profile": "paper", "data": "visda17", "epochs": 30})
    assert (config.backbone, config.size, config.batch, config.head_width) == ("torchvision:resnet101", 224, 32, 512)
    assert (config.lr, config.backbone_factor, config.warmup) == (1e-4, 0.1, 100)
    assert (config.momentum, config.weight_decay, config.sgd) == (0.9, 5e-4, "reference")


def test_every_field_has_a_description():
    fields = {**RunConfig.model_fields, **Rendering.model_fields}
    assert [name for name, field in fields.items() if not (field.description or "").endswith(".")] == []


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError):
        CONFIG.lr = 1.0
    with pytest.raises(ValidationError):
        CONFIG.rendering.angle = 1.0
