"""Obtain and verify CamVid (Brostow et al. 2008): 701 photographs of streets and their label maps, no account needed.

``python data_scripts/camvid.py`` downloads 701_StillsRaw_full.zip and LabeledApproved_full.zip (0.6 GB) from an
author's page, continuing an interrupted download, then extracts them into folders of these names and verifies.
``--from DIR`` takes the archives, or extracted folders (linked, not copied), from DIR. ``--check`` only verifies.
Archives are told apart from changed ones as :mod:`gta5` does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from archives import (
    arguments,
    by_any_means,
    download,
    extract_zips,
    lacking,
    link,
    names_in,
    pair_faults,
    require,
    run,
    unpack,
)
from asg.data import street

PAIRS = 701  # as published
SITE = "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData"
STILLS, LABELS = "701_StillsRaw_full", "LabeledApproved_full"
PLACES = {STILLS: "files", LABELS: "data"}  # folder of the site that holds the archive


def obtain(root: Path, source: Path | None = None, site: str = SITE) -> None:
    """Make ``root/701_StillsRaw_full`` and ``root/LabeledApproved_full`` where they are not."""
    todo = link(root, source, list(PLACES))
    absent = lacking({f"{folder}.zip": f"{site}/{PLACES[folder]}/{folder}.zip" for folder in todo}, root, source)
    for name, url in absent.items():
        download(url, root / name, f"{by_any_means(absent)} and pass the folder that holds them: --from DIR.")
    for folder in todo:
        archive = (source or root) / f"{folder}.zip"
        unpack([archive], root, partial(extract_zips, [archive], root / folder, r"(?:.*/)?(\w+\.png)"))


def verify(root: Path, count: int = PAIRS) -> None:
    """Raise with every fault, unless ``root`` holds as many pairs as were published and a sample can be read."""
    images, labels = names_in(root / STILLS, "*.png", ".png"), names_in(root / LABELS, "*.png", "_L.png")
    faults = pair_faults(root / STILLS, images, labels, count, lambda: [street.camvid(root)])
    require("CamVid", "camvid", root, faults, list(PLACES))


def main(argv: Sequence[str] | None = None, count: int = PAIRS) -> int:
    """Command line; the exit code is 1 after a fault, whose sentence goes to the standard error."""
    args = arguments("the CamVid segmentation data", "camvid").parse_args(argv)

    def work() -> str:
        if not args.check:
            obtain(args.to, args.source)
        verify(args.to, count)
        return f"CamVid at {args.to} is complete: {count:,} pairs."

    return run(args.to, work)


if __name__ == "__main__":
    sys.exit(main())
