"""A set of labelled images: decoded once, kept as bytes, read in any order."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader, Dataset, Subset
from tqdm import tqdm

from asg import AsgError, processes
from asg.config import RunConfig

Images = TypeVar("Images", bound=Dataset)  # a set of images: with a class each, or a class a pixel
UNLABELLED = -1  # of images and pixels that have no class, or none that trains and counts: no class has this index


@dataclass(frozen=True)
class ImageSet(Dataset):
    """Images that a function decodes by index, with their labels; both can be sent to another process.

    ``decode(i)`` gives uint8 ``(H, W, 3)``; ``labels`` is ``(N,)`` over ``classes``; ``imagenet``
    is ``(N,)`` with the ImageNet class of each image or ``UNLABELLED``; ``names`` say which file an
    image came from; ``cluster`` is ``(N,)`` with the number of the design (model, font) that an image
    shows, None where each shows its own; ``repeats`` is ``(N,)`` with how often a pass over the set sees each image,
    None: once; ``fingerprint`` changes whenever a pixel or label could; the augmentation,
    which the configuration describes, is not part of it.
    """

    decode: Callable[[int], np.ndarray]
    labels: torch.Tensor
    classes: tuple[str, ...]
    names: tuple[str, ...]
    fingerprint: str
    imagenet: torch.Tensor | None = None
    cluster: torch.Tensor | None = None
    repeats: torch.Tensor | None = None
    augmentation: Callable[[np.ndarray, int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Index, image uint8 ``(3, H, W)``, label; at ``(index, draw)`` augmented, if there is an augmentation."""
        index, draw = key if isinstance(key, tuple) else (key, None)
        image = self.decode(index)
        if draw is not None and self.augmentation is not None:
            image = self.augmentation(image, draw, index)
        return index, torch.from_numpy(np.array(image)).permute(2, 0, 1), self.labels[index]  # (H, W, 3) → (3, H, W)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Images ``indices`` as uint8 ``(len(indices), 3, H, W)``."""
        stacked = np.stack([self.decode(int(i)) for i in indices])  # (N, H, W, 3)
        return torch.from_numpy(stacked).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Domains:
    """One benchmark: train on ``source``, choose on ``validation`` (synthetic too), report on ``target``.

    ``imagenet_classes`` maps each class to the ImageNet classes that mean it; None where no such
    mapping is known. ``mirror``: a mirror image has the same class, so that evaluations average both; None: not known,
    so that held-out images say it.
    """

    source: ImageSet
    validation: ImageSet
    target: ImageSet | None
    imagenet_classes: dict[str, list[int]] | None = None
    mirror: bool | None = True

    @property
    def fingerprint(self) -> str:
        """Changes whenever one of its sets or the class mapping does."""
        sets = [s.fingerprint for s in (self.source, self.validation, self.target) if s is not None]
        return fingerprint_of(sets, self.imagenet_classes)


def subset(images: Images, indices: Sequence[int]) -> Images:
    """The images ``indices`` of a set, in that order."""
    chosen = list(indices)
    parts = {"names": tuple(images.names[i] for i in chosen), "decode": partial(decode_chosen, images.decode, chosen)}
    parts |= {
        name: value[chosen]
        for name in ("labels", "imagenet", "cluster", "repeats")
        if (value := getattr(images, name, None)) is not None
    }
    return replace(images, **parts, fingerprint=fingerprint_of(images.fingerprint, chosen))


def decode_chosen(decode: Callable, chosen: Sequence[int], i: int) -> object:
    """What ``decode`` gives for the ``i``-th of those that are chosen."""
    return decode(chosen[i])


class Remembered:
    """A function of one argument whose values stay in memory; a copy in another process begins without them."""

    def __init__(self, function: Callable) -> None:
        self.function, self.values = function, {}

    def __call__(self, argument: object) -> object:
        """The value, computed once."""
        if argument not in self.values:
            self.values[argument] = self.function(argument)
        return self.values[argument]

    def __reduce__(self) -> tuple:
        return Remembered, (self.function,)


class Stored:
    """The images ``(N, H, W, 3)`` of a memory map, which each process opens for itself."""

    def __init__(self, path: Path) -> None:
        self.path, self.images = path, np.load(path, mmap_mode="r")

    def __call__(self, i: int) -> np.ndarray:
        """Image ``i``."""
        return self.images[i]

    def __reduce__(self) -> tuple:
        return Stored, (self.path,)


def read_image(path: Path) -> Image.Image:
    """Decode one file; a file that is no image, or a truncated one, is named in the error."""
    with opened(path) as image:
        image.load()
        return image


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file of which only the header is read so far; whatever cannot be read of it names the file."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise AsgError(f"The image {path} is missing: restore it, or give the right path.") from None
    except Exception as error:  # Pillow and its plug-ins raise a dozen kinds for a broken file
        raise AsgError(f"{path} cannot be decoded as an image ({error}): replace it or take it out.") from None


def square(image: Image.Image, size: int) -> np.ndarray:
    """The paper's input: the shorter side resized to ``size``, then the centre ``size × size``; ``(H, W, 3)``."""
    image = image.convert("RGB")
    sides = shorter_side(image.size, size)
    image = image.resize(sides, Image.BILINEAR)
    left, top = (round((side - size) / 2) for side in sides)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def shorter_side(sides: tuple[int, int], size: int) -> tuple[int, int]:
    """Width and height with the shorter one at ``size``, rounded as torchvision's Resize rounds."""
    short = min(sides)
    return tuple(size if side == short else int(size * side / short) for side in sides)


def materialise(images: ImageSet, size: int, cache: Path, what: str) -> ImageSet:
    """Decode every image once into a memory map under ``cache`` and read from there.

    The file is named by the set's fingerprint and moved into place when complete, so that an
    interrupted pass leaves nothing half-written. Where it would not leave a tenth of the disk
    free, images are decoded on the fly, which gives the same pixels at more time, and it says so.
    Of several processes the main one decodes, and the others wait.
    """
    path = cache / f"{images.fingerprint}-{size}.npy"

    def fits() -> bool:
        """Whether the file is there, written now if it was not."""
        if path.exists():
            return True
        need = len(images) * size * size * 3
        make_folder(cache)
        disk = shutil.disk_usage(cache)
        if disk.free - need < disk.total / 10:
            tqdm.write(f"{what}: {need / 1e9:.0f} GB of decoded images do not fit; decoding on the fly.")
            return False
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            store = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=(len(images), size, size, 3))
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here; in a sparse memory map it is SIGBUS
                with partial.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
            for i in tqdm(range(len(images)), desc=f"decoding {what}", unit="image", leave=False):
                store[i] = images.decode(i)
            store.flush()
            partial.replace(path)
        except OSError as error:
            raise AsgError(f"Decoded images cannot be kept in {cache} ({error}): free some space.") from None
        finally:
            partial.unlink(missing_ok=True)
        return True

    if not processes.once(fits):
        return images
    processes.visible(path)
    return replace(images, decode=Stored(path))


def same_size(
    images: Dataset, indices: Sequence[int], workers: int, pixels: int
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """The images ``indices`` in order, each decoded once, in batches for a network without gradient.

    A batch has neighbours of one size: as many as have ``pixels`` pixels together, at least one. Yields indices,
    images uint8 ``(N, 3, H, W)`` and labels ``(N, …)``. ``workers`` processes decode ahead.
    """
    held: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def stacked() -> tuple[list[int], torch.Tensor, torch.Tensor]:
        numbers, pictures, labels = zip(*held, strict=True)
        return list(numbers), torch.stack(pictures), torch.stack([torch.as_tensor(one) for one in labels])

    loader = DataLoader(Subset(images, indices), batch_size=None, num_workers=workers)
    for index, (_, image, label) in zip(indices, loader, strict=True):
        if held and (image.shape != held[0][1].shape or (len(held) + 1) * image[0].numel() > pixels):
            yield stacked()
            held.clear()
        held.append((index, image, label))
    if held:
        yield stacked()


def make_folder(folder: Path) -> Path:
    """Create ``folder``; an unwritable place is named in the error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AsgError(
            f"Cannot write into {folder} ({error.strerror}): choose another folder or make it writable."
        ) from None
    return folder


def total_steps(config: RunConfig, images: int) -> int:
    """Steps of a run: ``steps``, or ``epochs · ⌊images / batch⌋`` (incomplete batches are dropped)."""
    return config.steps if config.steps is not None else config.epochs * max(1, images // config.batch)


class StepSampler(BatchSampler):
    """Batches of step ``start`` to ``stop``: epoch e is a permutation drawn from (seed, e).

    A resumed run starts at its step and sees exactly the batches that the uninterrupted one saw.
    The last, incomplete batch of an epoch is dropped (departure 2).
    """

    drop_last = False

    def __init__(self, images: int, batch: int, seed: int, start: int, stop: int) -> None:
        if images < batch:
            raise AsgError(f"A batch of {batch} needs as many images, and there are {images}: lower batch.")
        self.images, self.batch_size, self.seed, self.start, self.stop = images, batch, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch, epoch, order = self.images // self.batch_size, -1, []
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.images, generator=generator).tolist()
            first = (step % per_epoch) * self.batch_size
            yield order[first : first + self.batch_size]


class Draws(StepSampler):
    """The batches of :class:`StepSampler` as pairs (index, step).

    An image is augmented by its step, so that a resumed run sees the images of the uninterrupted one.
    """

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step, batch in enumerate(super().__iter__(), self.start):
            yield [(index, step) for index in batch]


class Repeated(BatchSampler):
    """Batches of ``kind`` in which each image comes as often in a pass as ``repeats`` ``(N,)`` says."""

    drop_last = False

    def __init__(
        self, kind: type[StepSampler], repeats: torch.Tensor, images: int, batch: int, seed: int, start: int, stop: int
    ) -> None:
        self.image = torch.arange(images).repeat_interleave(repeats).tolist()
        self.places, self.batch_size = kind(len(self.image), batch, seed, start, stop), batch

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[list]:
        for batch in self.places:
            yield [(self.image[key[0]], key[1]) if isinstance(key, tuple) else self.image[key] for key in batch]


def fingerprint_of(*parts: object) -> str:
    """Hash (12 hex digits) of the ``repr`` of ``parts``."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
