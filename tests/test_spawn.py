"""Every data set can be sent to a process that begins afresh, as loaders on macOS and Windows and Ray do."""

from __future__ import annotations

import hashlib
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from asg import AsgError
from asg.benchmarks import BENCHMARKS
from asg.config import Augment, make_config
from asg.data import READERS, data_root, folder_scenes, read_domains, sets_of, unlabelled, visda
from asg.data.augment import make_change
from asg.data.images import Stored, materialise, subset
from asg.data.looks import mixed_looks, with_detail, with_look
from asg.data.segmentation import Augmentation
from asg_book.profiles import PROFILES


def same(one: object, other: object) -> bool:
    """Whether two decoded images, or images with labels, are equal."""
    both = [part if isinstance(part, tuple) else (part,) for part in (one, other)]
    return all(np.array_equal(a, b) for a, b in zip(*both, strict=True))


def assert_travels(images) -> None:
    """A copy of the set gives the same images, and is small: no decoded image goes with it."""
    images.decode(0)  # what is remembered stays here
    sent = pickle.dumps(images)
    assert len(sent) < 5_000_000
    assert same(pickle.loads(sent).decode(len(images) - 1), images.decode(len(images) - 1))


def is_present(reader: str) -> bool:
    try:
        [images.decode(0) for images in sets_of(read_domains(make_config(PROFILES["toy"], {"data": reader}))).values()]
    except AsgError:  # of files that are missing; another error is one of the reader
        return False
    return True


@pytest.mark.parametrize("reader", ["toy", "toy-scenes", "mini", "scenes", "digits", "cad", "pacs-cartoon"])
def test_the_sets_of_a_benchmark_travel(reader: str):
    if not is_present(reader):
        pytest.skip(f"{reader} is not in {data_root()}")
    for images in sets_of(read_domains(make_config(PROFILES["toy"], {"data": reader}))).values():
        assert_travels(images)


def test_no_reader_is_forgotten():
    tested = {"toy", "toy-scenes", "mini", "scenes", "digits", "cad", "pacs-cartoon", "pacs-sketch"}
    assert tested | {"visda17", "gta5", "folder", "folder-scenes"} == READERS.keys()  # the last four: their own tests
    assert READERS.keys() == BENCHMARKS.keys()


def test_what_is_made_of_a_set_travels(workplace):
    config = make_config(PROFILES["toy"], {"adapt": {"half": True}})
    source = read_domains(config).source
    scenes = read_domains(make_config(PROFILES["toy"], {"data": "toy-scenes", "adapt": {}}))
    for images in (
        subset(source, [3, 1, 2]), with_look(source, "edges"), with_look(scenes.source, "blurred"), mixed_looks(source),
        with_detail(source, 8), unlabelled(config), unlabelled(make_config(PROFILES["toy"], {"data": "toy-scenes", "adapt": {}})),
        replace(source, augmentation=make_change(Augment(kind="pasta"), 0)),
        replace(source, augmentation=make_change(Augment(kind="randaugment"), 0)),
        replace(scenes.source, augmentation=Augmentation(crop=16)),
    ):  # fmt: skip
        assert_travels(images)
        copy = pickle.loads(pickle.dumps(images))
        assert torch.equal(copy[(2, 5)][1], images[(2, 5)][1])


def test_own_folders_and_stored_images_travel(workplace, image_folders, tmp_path):
    for images in sets_of(
        read_domains(
            make_config(
                PROFILES["toy"],
                {"data": "folder", "source": str(image_folders.source), "target": str(image_folders.target)},
            )
        )
    ).values():
        assert_travels(images)
    stored = materialise(images, images.decode(0).shape[0], tmp_path, "images")
    assert isinstance(stored.decode, Stored) and len(pickle.dumps(stored.decode)) < 500
    assert_travels(stored)
    for part in ("images", "masks"):
        (tmp_path / "scenes" / part).mkdir(parents=True)
    for k in range(4):
        Image.new("RGB", (20, 16), (40 * k, 0, 0)).save(tmp_path / "scenes" / "images" / f"{k}.png")
        Image.fromarray(np.arange(320, dtype=np.uint8).reshape(16, 20) % 2).save(
            tmp_path / "scenes" / "masks" / f"{k}.png"
        )
    for images in sets_of(folder_scenes.load(tmp_path / "scenes", None, 16)).values():
        assert_travels(images)


RENDERS = 152_397  # of VisDA-17


@pytest.mark.slow
def test_a_worker_that_begins_afresh_holds_the_names_of_visda_and_little_more(tmp_path):
    """The images of two batches by a loader whose worker is spawned, and the memory that it has of its own."""
    first = 64
    lines = [
        f"{visda.CLASSES[k % 12]}/src_1_0269_{hashlib.md5(str(k).encode()).hexdigest()}__{k}_1_1.png {k % 12}"
        for k in range(RENDERS)
    ]
    for split, count in (("train", RENDERS), ("validation", 2)):
        (tmp_path / split).mkdir()
        (tmp_path / split / "image_list.txt").write_text("\n".join(lines[:count]))
    for line in lines[: first + 1]:
        path = tmp_path / "train" / line.split(" ")[0]
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (len(line) % 255, 10, 10)).save(path)
    source = visda.load(tmp_path, 32).source
    assert len(source) == RENDERS - -(-RENDERS // visda.HELD_OUT)
    loader = DataLoader(
        source, batch_size=8, num_workers=1, multiprocessing_context="spawn", sampler=range(16), persistent_workers=True
    )
    seen = [images for _, images, _ in loader]
    assert [tuple(images.shape) for images in seen] == [(8, 3, 32, 32)] * 2
    (worker,) = loader._iterator._workers
    status = Path(f"/proc/{worker.pid}/status").read_text()
    own, mapped = (int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1024 for name in ("RssAnon", "RssFile"))
    assert own < 500, f"{own:.0f} MB of its own, {mapped:.0f} MB of libraries, which workers share"
