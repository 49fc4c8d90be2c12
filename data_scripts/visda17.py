"""Obtain and verify the VisDA-17 classification data (152,397 renders, 55,388 and 72,372 photographs).

``python data_scripts/visda17.py`` downloads train.tar and validation.tar, which are all that the book
reads (``--splits train validation test`` adds the test photographs and their published labels), continuing
an interrupted download, then extracts and verifies. ``--from DIR`` takes the published files, or extracted
folders train/, validation/, test/ (linked, not copied), from DIR. ``--check`` only verifies.

No published checksums are known to us. The SHA-256 of an archive is printed, recorded in ``SHA256SUMS`` when
it first extracts, and compared whenever an archive of that name is extracted again: this finds a file that
*changed*; that the first one was the publisher's is vouched for by counts, lists and sampled images only.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from archives import (
    arguments,
    bar_of,
    by_any_means,
    download,
    lacking,
    lines_of,
    link,
    need_room,
    require,
    run,
    sampled,
    unpack,
)
from asg import AsgError
from asg.data.images import read_image
from asg.data.visda import CLASSES

COUNTS = {"train": 152_397, "validation": 55_388, "test": 72_372}  # images, as published
READ_BY_THE_BOOK = ("train", "validation")
ARCHIVES = "http://csr.bu.edu/ftp/visda17/clf"
TEST_LIST = (
    "https://raw.githubusercontent.com/VisionLearningGroup/taskcv-2017-public/master/classification/data/image_list.txt"
)
LIST = "image_list.txt"


def extract(archive: Path, folder: Path, labels: Path | None = None) -> None:
    """The folder of that name in ``archive``, moved to ``folder`` once complete; ``labels`` becomes its list."""
    size = archive.stat().st_size
    need_room(folder.parent, size)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive, "r:") as tar, tqdm(**bar_of(f"extracting {archive.name}", size)) as bar:
            for member in tar:
                tar.extract(member, partial, filter="data")
                bar.update(tar.offset - bar.n)
        if not (partial / folder.name).is_dir():
            raise AsgError(f"{archive} holds no folder {folder.name}/, so it is not the published one: fetch it again.")
        if labels is not None:
            shutil.copyfile(labels, partial / folder.name / LIST)
        (partial / folder.name).replace(folder)
    except (tarfile.TarError, EOFError) as error:
        raise AsgError(f"{archive} is not a sound tar archive ({error}): remove it and fetch it again.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def obtain(
    root: Path, splits: Sequence[str], source: Path | None = None, archives: str = ARCHIVES, test_list: str = TEST_LIST
) -> None:
    """Make ``root/SPLIT`` of each split that is not there: from ``source`` if given, else by download into ``root``."""
    todo = link(root, source, splits)
    urls = {f"{split}.tar": f"{archives}/{split}.tar" for split in todo}
    if "test" in todo:
        urls[LIST] = test_list
    base = source or root
    absent = lacking(urls, root, source)
    for name, url in absent.items():
        download(url, root / name, f"{by_any_means(absent)} and pass the folder that holds them: --from DIR.")
    for split in todo:
        archive, labels = base / f"{split}.tar", base / LIST if split == "test" else None
        unpack([archive], root, partial(extract, archive, root / split, labels))


def faults_of(folder: Path, count: int) -> list[str]:
    """How one split differs from the published one: a line for each kind of fault, with its first examples."""
    if not (folder / LIST).is_file():
        return [f"{folder / LIST} is missing" + (f" (published at {TEST_LIST})" if folder.name == "test" else "")]
    by_class = folder.name != "test"  # the test photographs lie in trunk00, trunk01, …
    listed, malformed, mislabelled, repeated = set(), [], [], []
    for number, line in enumerate((folder / LIST).read_text("utf-8", errors="replace").splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if "/" not in name or not label.isdecimal() or int(label) >= len(CLASSES):
            malformed.append(f"line {number}: {line}")
            continue
        if by_class and name.split("/")[0] != CLASSES[int(label)]:
            mislabelled.append(f"line {number}: {line}")
        if name in listed:
            repeated.append(name)
        listed.add(name)
    entries = [p for p in folder.iterdir() if not p.name.startswith(".") and p.name != LIST]
    folders = {p.name: p for p in entries if p.is_dir()}
    present = {p.name for p in entries if p.name not in folders}
    present |= {f"{name}/{p.name}" for name, sub in folders.items() for p in sub.iterdir() if p.name[0] != "."}
    undecodable = []
    for name in sampled(sorted(listed & present), folder.name):
        try:
            read_image(folder / name)
        except AsgError:
            undecodable.append(name)
    kinds = {
        f"lines of {LIST} that are not 'folder/file label' with a label below {len(CLASSES)}": malformed,
        "labels that are not those of the class folder": mislabelled,
        "images listed twice": repeated,
        "listed images that are missing": sorted(listed - present),
        "files that are not listed": sorted(present - listed) if by_class else [],
        "class folders that are missing or unknown": sorted(folders.keys() ^ set(CLASSES)) if by_class else [],
        "images that cannot be decoded": undecodable,
    }
    faults = [f"{len(listed):,} images are listed where {count:,} were published"] if len(listed) != count else []
    return [f"{folder}: {fault}" for fault in faults + lines_of(kinds)]


def verify(root: Path, splits: Sequence[str], counts: Mapping[str, int] = COUNTS) -> None:
    """Raise with every fault of every split, unless ``root`` holds exactly what was published."""
    faults = {split: faults_of(root / split, counts[split]) for split in splits}
    lines = [line for split_faults in faults.values() for line in split_faults]
    require("VisDA-17", "visda17", root, lines, [split for split, split_faults in faults.items() if split_faults])


def main(argv: Sequence[str] | None = None, counts: Mapping[str, int] = COUNTS) -> int:
    """Command line; the exit code is 1 after a fault, whose sentence goes to the standard error."""
    parser = arguments("the VisDA-17 classification data", "visda17")
    parser.add_argument("--splits", nargs="+", choices=list(COUNTS), default=READ_BY_THE_BOOK, help="all but test")
    args = parser.parse_args(argv)

    def work() -> str:
        if not args.check:
            obtain(args.to, args.splits, args.source)
        verify(args.to, args.splits, counts)
        return f"VisDA-17 at {args.to} is complete: {', '.join(f'{s} {counts[s]:,} images' for s in args.splits)}."

    return run(args.to, work)


if __name__ == "__main__":
    sys.exit(main())
