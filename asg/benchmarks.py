"""What is known of each benchmark before a file of it is read; how it is read: :data:`asg.data.READERS`."""

from __future__ import annotations

from dataclasses import dataclass

FIRST = ("as first recorded",)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    ``versions``: why each version of its reader came, the first one first (:mod:`asg.recipes`); ``dense``: whether
    every pixel has a label; ``mirror``: whether a mirror image is of the same class, None where held-out images say it
    (departure 42); ``scripts``: those of ``data_scripts/`` that obtain it, in order (with the weights of the book's
    networks, which come with mini's).
    """

    versions: tuple[str, ...] = FIRST
    dense: bool = False
    mirror: bool | None = True
    scripts: tuple[str, ...] = ()


BENCHMARKS: dict[str, Benchmark] = {
    "toy": Benchmark(),
    "mini": Benchmark(scripts=("mini",)),
    "digits": Benchmark(mirror=False),
    "visda17": Benchmark(scripts=("visda17",)),
    "cad": Benchmark(scripts=("mini", "cad")),
    "pacs-cartoon": Benchmark(scripts=("mini", "pacs")),
    "pacs-sketch": Benchmark(scripts=("mini", "pacs")),
    "folder": Benchmark(
        (*FIRST, "pixel types by their range, sub-folders are read and held out as designs"), mirror=None
    ),
    "folder-scenes": Benchmark(dense=True, mirror=False),
    "toy-scenes": Benchmark(dense=True),
    "scenes": Benchmark((*FIRST, "classes in five groups"), dense=True, scripts=("mini",)),
    "gta5": Benchmark((*FIRST, "the paper's list of images"), dense=True, scripts=("gta5", "cityscapes")),
}
