"""Images: cut as the paper cuts them, decoded once, split and labelled as the folders say, drawn once an epoch."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from asg import AsgError
from asg.data import folder, toy
from asg.data.images import ImageSet, StepSampler, materialise, read_image, square

SIZES = [(32, 32), (33, 33), (64, 48), (48, 64), (65, 47), (47, 65), (31, 90), (90, 31), (20, 27), (100, 33), (75, 32)]


def reference(image: Image.Image, size: int) -> np.ndarray:
    """The usual evaluation transform: Resize(size) of the shorter side, CenterCrop(size)."""
    resize = transforms.Resize(size, interpolation=transforms.InterpolationMode.BILINEAR)
    return np.asarray(transforms.Compose([resize, transforms.CenterCrop(size)])(image))


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_square_is_the_usual_transform(width, height, size):
    """Noise, so that a crop or a scale that is off by one pixel is seen: every byte agrees."""
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    cut = square(image, size)
    assert (cut.shape, cut.dtype) == ((size, size, 3), np.uint8)
    assert np.array_equal(cut, reference(image, size))


def test_square_shrinks_by_whole_factors_as_computed_by_hand():
    """Pillow's bilinear filter at half size weighs four neighbours 1 3 3 1 (over 8) in each direction."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    cut = square(Image.fromarray(np.stack([pixels] * 3, 2)), 32)
    weights = np.array([1, 3, 3, 1]) / 8
    inner = np.array(
        [
            [weights @ pixels[2 * i - 1 : 2 * i + 3, 2 * j - 1 : 2 * j + 3] @ weights for j in range(1, 31)]
            for i in range(1, 31)
        ]
    )
    assert np.abs(cut[1:-1, 1:-1, 0] - inner).max() <= 1  # Pillow rounds after each direction


def test_square_keeps_the_centre():
    """A white bar in the middle of a wide image stays in the middle; what is outside the square is gone."""
    pixels = np.zeros((32, 96, 3), np.uint8)
    pixels[:, 47:49] = 255
    pixels[:, :32] = pixels[:, 64:] = (255, 0, 0)
    cut = square(Image.fromarray(pixels), 32)
    assert np.array_equal(cut, pixels[:, 32:64])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK"])
def test_any_mode_becomes_rgb(tmp_path, mode):
    grey = np.full((40, 50, 3), 255, np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.tiff")
    cut = square(read_image(tmp_path / "a.tiff"), 32)
    assert cut.shape == (32, 32, 3) and cut.min() >= 254


# --- memory map ---------------------------------------------------------------------------------------------------


def files(root: Path) -> list[str]:
    return sorted(p.name for p in root.rglob("*") if p.is_file())


@pytest.fixture
def photos(image_folders) -> ImageSet:
    return folder.load(image_folders.source, image_folders.target, 32).target


def test_the_memory_map_holds_the_decoded_pixels(tmp_path, photos):
    photos = replace(photos, cluster=torch.arange(len(photos)))
    mapped = materialise(photos, 32, tmp_path / "cache", "photos")
    assert files(tmp_path / "cache") == [f"{photos.fingerprint}-32.npy"]
    for i in range(len(photos)):
        with Image.open(photos.names[i]) as image:
            assert np.array_equal(mapped.decode(i), square(image, 32))
    assert torch.equal(mapped.batch(range(8)), photos.batch(range(8)))
    assert mapped.batch([7, 0]).shape == (2, 3, 32, 32)
    index, pixels, label = mapped[5]
    assert index == 5 and label == photos.labels[5]
    assert torch.equal(pixels, torch.from_numpy(np.array(photos.decode(5))).permute(2, 0, 1))
    same = ("labels", "classes", "names", "fingerprint", "imagenet", "cluster")
    assert all(getattr(mapped, name) is getattr(photos, name) for name in same)


def test_decoded_once(tmp_path, photos):
    def fail(index: int) -> np.ndarray:
        raise AssertionError("decoded again")

    first = materialise(photos, 32, tmp_path / "cache", "photos")
    second = materialise(replace(photos, decode=fail), 32, tmp_path / "cache", "photos")
    assert torch.equal(first.batch(range(8)), second.batch(range(8)))


def test_sizes_do_not_share_a_file(tmp_path):
    for size in (32, 40):
        assert materialise(toy.load(size).target, size, tmp_path, "toy").decode(0).shape == (size, size, 3)
    assert len(files(tmp_path)) == 2


@pytest.mark.parametrize(
    "raised", [KeyboardInterrupt(), AsgError("This image is broken: replace it."), OSError(5, "I/O error")]
)
def test_an_interrupted_pass_leaves_nothing(tmp_path, photos, raised):
    seen = []

    def decode(index: int) -> np.ndarray:
        if index == 5:
            seen.extend(files(tmp_path / "cache"))
            raise raised
        return photos.decode(index)

    with pytest.raises(AsgError if isinstance(raised, OSError) else type(raised)):
        materialise(replace(photos, decode=decode), 32, tmp_path / "cache", "photos")
    assert len(seen) == 1 and not seen[0].endswith(".npy")  # half-way there is a file, under another name
    assert files(tmp_path / "cache") == []
    assert torch.equal(materialise(photos, 32, tmp_path / "cache", "photos").batch([5]), photos.batch([5]))


def test_a_pass_interrupted_at_the_very_end_leaves_nothing(tmp_path, monkeypatch, photos):
    """All images are decoded; only the move into place, which is one operation, makes them the cache."""

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        materialise(photos, 32, tmp_path / "cache", "photos")
    assert files(tmp_path / "cache") == []


@pytest.mark.parametrize(("spare", "cached"), [(0, True), (-1, False)])
def test_a_tenth_of_the_disk_stays_free(tmp_path, monkeypatch, capsys, photos, spare, cached):
    """On a disk of 1 MB with room for the images and a tenth they are kept; with a byte less they are not."""
    total, need = 1_000_000, len(photos) * 32 * 32 * 3
    free = total // 10 + need + spare
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(total, total - free, free))
    got = materialise(photos, 32, tmp_path / "cache", "photos")
    assert torch.equal(got.batch(range(8)), photos.batch(range(8)))
    assert len(files(tmp_path / "cache")) == cached
    output = capsys.readouterr().out
    assert (output == "") if cached else ("photos: " in output and "on the fly" in output)


# --- folders ------------------------------------------------------------------------------------------------------


def test_the_split_of_a_folder(image_folders):
    """Of twelve images a class the second and the twelfth are held out; nothing is lost or used twice."""
    domains = folder.load(image_folders.source, image_folders.target, 32)
    every = sorted(str(p) for p in image_folders.source.rglob("*.png"))
    assert domains.validation.names == tuple(p for p in every if re.search(r"/(01|11)\.png$", p))
    assert sorted(domains.source.names + domains.validation.names) == every
    assert domains.target.names == tuple(sorted(str(p) for p in image_folders.target.rglob("*.png")))
    assert (len(domains.source), len(domains.validation), len(domains.target)) == (30, 6, 8)
    assert domains.imagenet_classes is None and domains.source.imagenet is None


def test_labels_follow_the_folders(image_folders):
    """Also in the target, which has no boats: a cup is class 2 in both."""
    domains = folder.load(image_folders.source, image_folders.target, 32)
    for images in (domains.source, domains.validation, domains.target):
        assert images.classes == ("apple", "boat", "cup")
        assert [images.classes[y] for y in images.labels] == [Path(n).parent.name for n in images.names]
    assert set(domains.target.labels.tolist()) == {0, 2}
    strongest = domains.source.batch(range(30)).float().mean((2, 3)).argmax(1)  # apples are red, boats blue, cups green
    assert torch.equal(strongest, torch.tensor([0, 2, 1])[domains.source.labels])


def test_hidden_files_and_folders_are_passed_over(image_folders):
    before = folder.load(image_folders.source, image_folders.target, 32)
    (image_folders.source / ".cache").mkdir()
    (image_folders.source / "cup" / ".DS_Store").touch()
    assert folder.load(image_folders.source, image_folders.target, 32).fingerprint == before.fingerprint


def test_without_a_target(image_folders):
    domains = folder.load(image_folders.source, None, 32)
    assert domains.target is None
    assert domains.source.fingerprint == folder.load(image_folders.source, image_folders.target, 32).source.fingerprint


def _repaint(path: Path) -> None:
    """Another pixel in a file of the same length, a moment later."""
    changed = bytearray(path.read_bytes())
    changed[-20] ^= 1
    status = path.stat()
    path.write_bytes(changed)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


CHANGES = {
    "repainted": _repaint,
    "removed": Path.unlink,
    "renamed": lambda path: path.rename(path.with_name("99.png")),
    "added": lambda path: shutil.copy(path, path.with_name("98.png")),
    "of another class": lambda path: path.rename(path.parents[1] / "boat" / "97.png"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("where", ["source", "target"])
def test_the_fingerprint_changes_with_a_file(image_folders, change, where):
    (image_folders.target / "boat").mkdir()
    shutil.copy(image_folders.source / "boat" / "00.png", image_folders.target / "boat")

    def fingerprints() -> tuple[str, str]:
        domains = folder.load(image_folders.source, image_folders.target, 32)
        return domains.fingerprint, getattr(domains, where).fingerprint

    before = fingerprints()
    assert fingerprints() == before
    CHANGES[change](getattr(image_folders, where) / "cup" / "02.png")
    assert all(new != old for new, old in zip(fingerprints(), before, strict=True))


def test_the_fingerprint_changes_with_the_size(image_folders):
    assert len({folder.load(image_folders.source, None, size).fingerprint for size in (32, 33, 64)}) == 3


def test_a_changed_file_is_decoded_again(tmp_path, image_folders):
    """The memory map of the former file is not taken for the new one."""
    old = materialise(folder.load(image_folders.source, None, 32).source, 32, tmp_path, "source")
    path = Path(old.names[0])
    Image.new("RGB", (32, 32), (1, 2, 3)).save(path)
    new = materialise(folder.load(image_folders.source, None, 32).source, 32, tmp_path, "source")
    assert new.names[0] == str(path)
    assert (new.decode(0) == (1, 2, 3)).all() and not np.array_equal(old.decode(0), new.decode(0))
    assert np.array_equal(old.decode(1), new.decode(1))


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "batch"), [(48, 8), (50, 8), (8, 8), (7, 1), (15, 8)])
def test_an_epoch_sees_each_image_at_most_once(images, batch):
    """⌊N / B⌋ full batches an epoch; only the images of the dropped, incomplete one are not seen."""
    per_epoch = images // batch
    batches = list(StepSampler(images, batch, seed=0, start=0, stop=3 * per_epoch))
    assert len(batches) == 3 * per_epoch and {len(b) for b in batches} == {batch}
    epochs = [list(chain(*batches[e * per_epoch : (e + 1) * per_epoch])) for e in range(3)]
    for epoch in epochs:
        counts = Counter(epoch)
        assert set(counts.values()) == {1} and set(counts) <= set(range(images))
        assert images - len(counts) == images % batch


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed: int, epoch: int) -> list[int]:
        return list(chain(*StepSampler(48, 8, seed, 6 * epoch, 6 * epoch + 6)))

    orders = {(seed, epoch): order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len({tuple(o) for o in orders.values()}) == 9
    assert all(order(*key) == o for key, o in orders.items())


def test_every_image_comes_first_equally_often():
    """600 epochs of 6 images: each opens an epoch 100 times, within four standard deviations (√(600 · 5) / 6 ≈ 9.1)."""
    first = Counter(
        next(iter(StepSampler(6, 6, seed, epoch, epoch + 1)))[0] for seed in range(20) for epoch in range(30)
    )
    assert set(first) == set(range(6)) and all(abs(n - 100) < 37 for n in first.values())


def test_too_few_images_for_a_batch():
    with pytest.raises(AsgError, match=r"A batch of 8 .* there are 7: lower batch\."):
        StepSampler(7, 8, seed=0, start=0, stop=1)


def test_an_image_beside_the_class_folders_is_named(image_folders):
    Image.new("RGB", (8, 8)).save(image_folders.source / "lost.png")
    with pytest.raises(AsgError, match="lies beside the class folders"):
        folder.load(image_folders.source, None, 32)
