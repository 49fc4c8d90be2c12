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

import argparse
import errno
import hashlib
import shutil
import sys
import tarfile
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from asg import AsgError
from asg.data import data_root
from asg.data.images import make_folder, read_image
from asg.data.visda import CLASSES

COUNTS = {"train": 152_397, "validation": 55_388, "test": 72_372}  # images, as published
READ_BY_THE_BOOK = ("train", "validation")
ARCHIVES = "http://csr.bu.edu/ftp/visda17/clf"
TEST_LIST = (
    "https://raw.githubusercontent.com/VisionLearningGroup/taskcv-2017-public/master/classification/data/image_list.txt"
)
LIST = "image_list.txt"
DECODED = 200  # images of each split that the check decodes, evenly spaced
SHOWN = 5  # examples of each kind of fault
BLOCK = 1 << 20  # bytes read at once
DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def bar_of(what: str, total: int | None) -> dict:
    """The look of a progress bar that counts bytes."""
    return {"desc": what, "total": total, "unit": "B", "unit_scale": True, "leave": False}


def need_room(folder: Path, size: int) -> None:
    """Raise where the disk of ``folder`` has fewer than ``size`` bytes free."""
    if (free := shutil.disk_usage(folder).free) < size:
        raise AsgError(
            f"The disk of {folder} has {free / 1e9:.1f} GB free and {size / 1e9:.1f} GB are needed: "
            "free some space or choose another folder with --to."
        )


def download(url: str, path: Path, otherwise: str) -> None:
    """Fetch ``url`` into ``path``; what an interrupted call left in ``path.part`` is continued.

    ``otherwise`` ends the sentence of a failure: how the file can be had without this download.
    """
    part = path.with_name(path.name + ".part")
    with part.open("ab") as file:
        have = file.tell()
        request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urlopen(request, timeout=60) as reply:
                if reply.status != 206:  # the server sends the file from its start
                    have = file.truncate(0)
                length = reply.headers["Content-Length"]
                total = have + int(length) if length else None
                need_room(path.parent, 2 * total - have if total else 0)  # the archive, and what it holds
                with tqdm.wrapattr(reply, "read", initial=have, **bar_of(path.name, total)) as stream:
                    shutil.copyfileobj(stream, file, BLOCK)
        except HTTPError as error:
            error.close()
            if error.code != 416:
                raise AsgError(f"Cannot download {url} (the server answers {error.code}): {otherwise}") from None
            if error.headers["Content-Range"] != f"bytes */{have}":  # else: all of it is here already
                raise AsgError(f"{part} is longer than {url}: remove it and run again.") from None
            total = have
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) in DISK_FAULTS:
                raise
            reason = getattr(error, "reason", error)
            raise AsgError(f"Cannot download {url} ({reason}): run again to continue, or {otherwise}") from None
    if total is not None and (size := part.stat().st_size) != total:
        raise AsgError(f"{url} ended after {size:,} of {total:,} bytes: run again to continue, or {otherwise}")
    part.replace(path)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    bar = bar_of(f"SHA-256 of {path.name}", path.stat().st_size)
    with path.open("rb") as file, tqdm.wrapattr(file, "read", **bar) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


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
    make_folder(root)
    if source is not None and not source.is_dir():
        raise AsgError(f"The folder {source} does not exist: give the one that holds the archives with --from.")
    for split in splits:
        if (root / split).is_symlink() and not (root / split).exists():
            (root / split).unlink()  # the folder that it led to is gone
        if source is not None and (source / split).is_dir() and not (root / split).exists():
            (root / split).symlink_to((source / split).resolve(), target_is_directory=True)
    todo = [split for split in dict.fromkeys(splits) if not (root / split).exists()]
    urls = {f"{split}.tar": f"{archives}/{split}.tar" for split in todo}
    if "test" in todo:
        urls[LIST] = test_list
    base = source or root
    absent = {name: url for name, url in urls.items() if not (base / name).exists()}
    by_hand = f"fetch {', '.join(absent.values())} by any means"
    if absent and source is not None:
        raise AsgError(f"{source} lacks {', '.join(absent)}: {by_hand} into it and run again.")
    for name, url in absent.items():
        download(url, base / name, f"{by_hand} and pass the folder that holds them: --from DIR.")

    sums_file = root / "SHA256SUMS"
    lines = sums_file.read_text().splitlines() if sums_file.exists() else []
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for split in todo:
        archive = base / f"{split}.tar"
        digest = sha256(archive)
        print(f"{digest}  {archive.name}")
        if sums.setdefault(archive.name, digest) != digest:
            raise AsgError(
                f"{archive} is not the archive whose SHA-256 {sums_file} records: fetch it again, "
                "or delete its line there if you trust this one."
            )
        extract(archive, root / split, base / LIST if split == "test" else None)
        sums_file.write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def faults_of(folder: Path, count: int) -> list[str]:
    """How one split differs from the published one: a line for each kind of fault, with its first examples."""
    if not (folder / LIST).is_file():
        return [f"{folder / LIST} is missing" + (f" (published at {TEST_LIST})" if folder.name == "test" else "")]
    by_class = folder.name != "test"  # the test photographs lie in trunk00, trunk01, …
    listed, malformed, mislabelled, repeated = set(), [], [], []
    for number, line in enumerate((folder / LIST).read_text(errors="replace").splitlines(), 1):
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
    readable, undecodable = sorted(listed & present), []
    for i in tqdm(range(min(DECODED, len(readable))), desc=f"decoding {folder.name}", unit="image", leave=False):
        name = readable[i * len(readable) // min(DECODED, len(readable))]
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
    for kind, found in kinds.items():
        if found:
            faults.append(f"{kind}: {len(found):,} ({'; '.join(found[:SHOWN])}{'; …' if len(found) > SHOWN else ''})")
    return [f"{folder}: {fault}" for fault in faults]


def verify(root: Path, splits: Sequence[str], counts: Mapping[str, int] = COUNTS) -> None:
    """Raise with every fault of every split, unless ``root`` holds exactly what was published."""
    faults = {split: faults_of(root / split, counts[split]) for split in splits}
    if any(faults.values()):
        lines = "\n".join(f"  {line}" for found in faults.values() for line in found)
        broken = ", ".join(str(root / split) for split, found in faults.items() if found)
        raise AsgError(
            f"VisDA-17 at {root} is not as published:\n{lines}\nRepair or remove {broken} and run "
            f"`python data_scripts/visda17.py --to {root}` again (remove a downloaded archive too if it is at fault)."
        )


def main(argv: Sequence[str] | None = None, counts: Mapping[str, int] = COUNTS) -> int:
    """Command line; the exit code is 1 after a fault, whose sentence goes to the standard error."""
    parser = argparse.ArgumentParser(description="Obtain and verify the VisDA-17 classification data.")
    parser.add_argument("--to", type=Path, default=data_root() / "visda17", help="where it shall lie (%(default)s)")
    parser.add_argument("--from", type=Path, dest="source", metavar="DIR", help="take archives or folders from DIR")
    parser.add_argument("--check", action="store_true", help="only verify what is there")
    parser.add_argument("--splits", nargs="+", choices=list(COUNTS), default=READ_BY_THE_BOOK, help="all but test")
    args = parser.parse_args(argv)
    try:
        if not args.check:
            obtain(args.to, args.splits, args.source)
        verify(args.to, args.splits, counts)
    except AsgError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "mend that"
        print(f"Reading or writing {args.to} failed ({error}): {remedy} or choose another --to.", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted: run again to continue.", file=sys.stderr)
    else:
        print(f"VisDA-17 at {args.to} is complete: {', '.join(f'{s} {counts[s]:,} images' for s in args.splits)}.")
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
