"""A look inside: models are trained once, subsets keep their order, Grad-CAM is its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from asg.config import make_config
from asg.data import load_domains, read_domains, subset
from asg.models import build
from asg.run import run, trained
from asg.trainers import classification
from asg_book import inspection
from asg_book.catalogue import get
from asg_book.profiles import PROFILES


def test_a_subset_keeps_its_clusters(workplace):
    images = replace(load_domains(get("guidance").config("toy", "small", 0)).source, cluster=torch.arange(48) // 2)
    assert subset(images, [5, 0, 7]).cluster.tolist() == [2, 0, 3]


def test_a_subset_keeps_order_labels_and_names(workplace):
    images = load_domains(make_config(PROFILES["toy"])).target
    some = subset(images, [5, 0, 7])
    assert some.names == tuple(images.names[i] for i in (5, 0, 7))
    assert some.labels.tolist() == [int(images.labels[i]) for i in (5, 0, 7)]
    assert all(np.array_equal(some.decode(k), images.decode(i)) for k, i in enumerate((5, 0, 7)))
    assert some.fingerprint != images.fingerprint


def test_a_model_is_trained_once_and_answers_as_its_record_says(workplace, monkeypatch):
    config = make_config(PROFILES["toy"], {"guidance": 0.1})
    first = trained(config)
    with monkeypatch.context() as patch:
        patch.setattr(classification, "train", None)
        again = trained(config)
    photos = load_domains(config).target
    for a, b in zip(inspection.view(first, photos), inspection.view(again, photos), strict=True):
        assert torch.equal(a, b)
    both = (inspection.view(again, images)[0].sigmoid() for images in (photos, mirrored(photos)))
    assert (sum(both) / 2).argmax(1).tolist() == run(config)["final"]["predicted"]


def mirrored(images):
    return replace(images, decode=lambda i: images.decode(i)[:, ::-1].copy())


def test_label_maps_are_the_segmentation_networks_answers(workplace):
    config = get("segmentation").config("toy", "whole map", 0)
    photos = read_domains(config).target
    maps = inspection.label_maps(trained(config), photos, range(len(photos)))
    right = np.mean([m == photos.decode(i)[1] for i, m in enumerate(maps)])
    assert right == pytest.approx(run(config)["final"]["pixels"], abs=1e-6)


@pytest.mark.parametrize("head", ["task_head", "kept_head"])
def test_grad_cam_is_the_positive_part_of_the_weighted_activations(workplace, head: str):
    config = make_config(PROFILES["toy"])
    student = build(config, 3)
    images = subset(load_domains(config).target, [0, 1])
    layer = "blocks.2"
    maps = inspection.grad_cam(student, images, layer, head, [1, 2])
    activations = []
    student.backbone.get_submodule(layer).register_forward_hook(lambda module, given, out: activations.append(out))
    answers = getattr(student, head)(student.features(images.batch([0, 1])))
    (gradient,) = torch.autograd.grad(answers[0, 1] + answers[1, 2], activations)
    coarse = (gradient.mean((2, 3), keepdim=True) * activations[0]).sum(1).relu().detach()  # (2, h, w)
    assert maps.shape == coarse.shape and maps.min() >= 0 and maps.max() <= 1
    for heat_map, expected in zip(maps, coarse, strict=True):
        np.testing.assert_allclose(heat_map, expected / expected.max().clamp_min(1e-9), atol=1e-4)
