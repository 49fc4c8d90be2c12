"""Obtain and verify Cityscapes (Cordts et al. 2016): 2,975 training and 500 validation images with fine labels.

Cityscapes is given to registered users only. ``python data_scripts/cityscapes.py`` lets the official downloader,
csDownload of ``pip install cityscapesscripts``, ask for the account, fetch leftImg8bit_trainvaltest.zip (11 GB)
and gtFine_trainvaltest.zip (241 MB) and check their MD5, then extracts the two splits and verifies. ``--from DIR``
takes the archives, or extracted folders leftImg8bit/ and gtFine/ (linked, not copied), from DIR. ``--check`` only
verifies. Archives are told apart from changed ones as :mod:`gta5` does.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from archives import arguments, extract_zips, link, names_in, pair_faults, require, run, unpack
from asg import AsgError
from asg.data import street
from asg.data.images import make_folder

COUNTS = {"train": 2_975, "val": 500}  # pairs, as published
SUFFIXES = {"leftImg8bit": "_leftImg8bit.png", "gtFine": "_gtFine_labelIds.png"}
PAGE = "https://www.cityscapes-dataset.com/downloads/"
CLIENT = "csDownload"


def obtain(root: Path, source: Path | None = None) -> None:
    """Make ``root/leftImg8bit`` and ``root/gtFine`` where they are not."""
    todo = {folder: f"{folder}_trainvaltest.zip" for folder in link(root, source, list(SUFFIXES))}
    base = source or root
    absent = [name for name in todo.values() if not (base / name).exists()]
    by_hand = f"log in at {PAGE}, download {' and '.join(absent)} into {base} and run again."
    if absent and source is not None:
        raise AsgError(f"{source} lacks {', '.join(absent)}: {by_hand}")
    if absent and shutil.which(CLIENT) is None:
        raise AsgError(
            f"Cityscapes needs an account and {CLIENT} is not on this machine: `pip install cityscapesscripts` and run "
            f"again, or {by_hand}"
        )
    if absent:
        fetch(absent, root, by_hand)
    for folder, name in todo.items():
        pattern = rf"(?:.*/)?{folder}/((?:{'|'.join(COUNTS)})/\w+/\w+{SUFFIXES[folder]})"
        unpack([base / name], root, partial(extract_zips, [base / name], root / folder, pattern))


def fetch(names: Sequence[str], root: Path, by_hand: str) -> None:
    """Let the official downloader, which asks for the account, fetch packages; whole ones only come into ``root``."""
    downloads = make_folder(root / "downloads")
    print(f"{CLIENT} fetches {' and '.join(names)} and asks for your Cityscapes account", flush=True)
    done = subprocess.run((CLIENT, "--resume", "--destination_path", str(downloads), *names), check=False)
    lost = [name for name in names if not (downloads / name).exists()]
    if done.returncode or lost:
        raise AsgError(f"{CLIENT} failed (see above): run again to continue (remove {downloads} first if it says "
                       f"416), or {by_hand}")  # fmt: skip
    for name in names:
        (downloads / name).replace(root / name)
    downloads.rmdir()


def faults_of(root: Path, split: str, count: int) -> list[str]:
    """How one split differs from the published one."""
    images, labels = (names_in(root / kind / split, f"*/*{suffix}", suffix) for kind, suffix in SUFFIXES.items())
    return pair_faults(root / "leftImg8bit" / split, images, labels, count, lambda: [street.cityscapes(root, split)])


def verify(root: Path, counts: Mapping[str, int] = COUNTS) -> None:
    """Raise with every fault, unless ``root`` holds the published pairs of both splits and a sample can be read."""
    faults = [fault for split, count in counts.items() for fault in faults_of(root, split, count)]
    require("Cityscapes", "cityscapes", root, faults, list(SUFFIXES))


def main(argv: Sequence[str] | None = None, counts: Mapping[str, int] = COUNTS) -> int:
    """Command line; the exit code is 1 after a fault, whose sentence goes to the standard error."""
    args = arguments("the Cityscapes segmentation data", "cityscapes").parse_args(argv)

    def work() -> str:
        if not args.check:
            obtain(args.to, args.source)
        verify(args.to, counts)
        return f"Cityscapes at {args.to} is complete: {', '.join(f'{s} {n:,} pairs' for s, n in counts.items())}."

    return run(args.to, work)


if __name__ == "__main__":
    sys.exit(main())
