"""Obtain and verify GTA5 (Richter et al. 2016): 24,966 rendered street images and their label maps.

``python data_scripts/gta5.py`` downloads ten archives of images and ten of label maps from the authors' site,
continuing an interrupted download, then extracts them into images/ and labels/ and verifies. ``--from DIR``
takes the published archives, or extracted folders images/ and labels/ (linked, not copied), from DIR. ``--check``
only verifies. Tens of gigabytes are downloaded and as many again extracted; the archives may be removed then.

The paper trains on the 12,403 images that a list of its code names, gta5_train.txt. It is under that code's
non-commercial licence and so not part of this project: ``--list FILE`` copies the one that you obtained, after
checking that it names 12,403 images, each once and all of them here; a list that is there is checked again by
every call. ``--split`` adds the authors' split.mat, whose training part has 12,403 images too. Whether these are
the same ones is not known to us; set source_list = split.mat to train on them.

No published checksums are known to us. The SHA-256 of an archive is printed, recorded in ``SHA256SUMS`` when
it first extracts, and compared whenever an archive of that name is extracted again: this finds a file that
*changed*; that the first one was the publisher's is vouched for by counts, names and sampled pairs only.
"""

from __future__ import annotations

import shutil
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
from asg import AsgError
from asg.data import street

PAIRS = 24_966  # as published
LISTED = 12_403  # images of the reference's list
PARTS = range(1, 11)
SITE = "https://download.visinf.tu-darmstadt.de/data/from_games"
MAPPING = "read_mapping.zip"  # holds split.mat


def obtain(root: Path, source: Path | None = None, split: bool = False, site: str = SITE) -> None:
    """Make ``root/images`` and ``root/labels`` where they are not, and ``split.mat`` if asked for."""
    parts = {kind: [f"{part:02}_{kind}.zip" for part in PARTS] for kind in link(root, source, ("images", "labels"))}
    urls = {name: f"{site}/data/{name}" for names in parts.values() for name in names}
    if split and not (root / street.SPLIT).exists():
        urls[MAPPING] = f"{site}/code/{MAPPING}"
    absent = lacking(urls, root, source)
    for name, url in absent.items():
        download(url, root / name, f"{by_any_means(absent)} and pass the folder that holds them: --from DIR.")
    base = source or root
    for kind, names in parts.items():
        zips = [base / name for name in names]
        unpack(zips, root, partial(extract_zips, zips, root / kind, r"(?:.*/)?(\d{5}\.png)"))
    if MAPPING in urls:
        folder = root / "split"
        unpack([base / MAPPING], root, partial(extract_zips, [base / MAPPING], folder, r"(?:.*/)?(split\.mat)"))
        (folder / street.SPLIT).replace(root / street.SPLIT)
        folder.rmdir()


def check_list(path: Path, root: Path, listed: int = LISTED) -> None:
    """Raise unless the list at ``path`` names ``listed`` images, each once and every one of them in ``root``."""
    names = street.read_list(path, names_in(root / "images", "*.png", ""))
    if len(names) != listed:
        raise AsgError(
            f"{path} names {len(names):,} images and the reference's list {listed:,}: obtain it again. (A run takes "
            "any list as its source_list; only the paper's is checked here.)"
        )


def take_list(given: Path, root: Path) -> None:
    """Copy the list ``given`` to where runs of the paper profile read it."""
    if given.resolve() == (place := root / street.LIST).resolve():
        return
    partial_copy = place.with_suffix(".partial")
    shutil.copyfile(given, partial_copy)
    partial_copy.replace(place)


def verify(root: Path, count: int = PAIRS) -> None:
    """Raise with every fault, unless ``root`` holds as many pairs as were published and a sample can be read."""
    images, labels = (names_in(root / kind, "*.png", ".png") for kind in ("images", "labels"))
    faults = pair_faults(root / "images", images, labels, count, lambda: street.gta5(root))
    require("GTA5", "gta5", root, faults, ("images", "labels"))


def main(argv: Sequence[str] | None = None, count: int = PAIRS, listed: int = LISTED) -> int:
    """Command line; the exit code is 1 after a fault, whose sentence goes to the standard error."""
    parser = arguments("the GTA5 segmentation data", "gta5")
    parser.add_argument("--split", action="store_true", help="take the authors' split too")
    parser.add_argument("--list", type=Path, metavar="FILE", help="take the reference's list of training images too")
    args = parser.parse_args(argv)

    def work() -> str:
        if not args.check:
            obtain(args.to, args.source, args.split)
        verify(args.to, count)
        if args.split:
            street.official_split(args.to / street.SPLIT)
        if (path := args.list) or (path := args.to / street.LIST).exists():
            check_list(path, args.to, listed)
        if args.list and not args.check:
            take_list(args.list, args.to)
        known = f", {street.LIST} names {listed:,} of them" if path.exists() else ""
        return f"GTA5 at {args.to} is complete: {count:,} pairs{known}."

    return run(args.to, work)


if __name__ == "__main__":
    sys.exit(main())
