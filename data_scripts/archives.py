"""What the scripts of the large data sets share: downloads, checksums, archives, checks, and how a run ends."""

from __future__ import annotations

import argparse
import errno
import hashlib
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from asg import AsgError, messages
from asg.data import data_root
from asg.data.images import make_folder
from asg.data.segmentation import SegmentationSet

SUMS = "SHA256SUMS"
DECODED = 200  # images of each set that a check decodes, evenly spaced
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


def link(root: Path, source: Path | None, names: Sequence[str]) -> list[str]:
    """Link the folders ``names`` that ``source`` has and ``root`` lacks; gives the names that ``root`` still lacks."""
    make_folder(root)
    if source is not None and not source.is_dir():
        raise AsgError(f"The folder {source} does not exist: give the one that holds the archives with --from.")
    for name in names:
        if (root / name).is_symlink() and not (root / name).exists():
            (root / name).unlink()  # the folder that it led to is gone
        if source is not None and (source / name).is_dir() and not (root / name).exists():
            (root / name).symlink_to((source / name).resolve(), target_is_directory=True)
    return [name for name in dict.fromkeys(names) if not (root / name).exists()]


def lacking(files: Mapping[str, str], root: Path, source: Path | None) -> dict[str, str]:
    """Those of ``files`` (name → address) that are to be fetched into ``root``; none where ``source`` is given."""
    absent = {name: url for name, url in files.items() if not ((source or root) / name).exists()}
    if absent and source is not None:
        raise AsgError(f"{source} lacks {', '.join(absent)}: {by_any_means(absent)} into it and run again.")
    return absent


def by_any_means(absent: Mapping[str, str]) -> str:
    """How files (name → address) can be had without a script."""
    return f"fetch {', '.join(absent.values())} by any means"


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


def write(path: Path, content: bytes) -> None:
    """``content`` to ``path``, in place only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def unpack(archives: Sequence[Path], root: Path, extract: Callable[[], None]) -> None:
    """Call ``extract`` if no archive differs from what ``ROOT/SHA256SUMS`` records; record those that are new."""
    sums_file = root / SUMS
    lines = sums_file.read_text("utf-8").splitlines() if sums_file.exists() else []
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for archive in archives:
        digest = sha256(archive)
        print(f"{digest}  {archive.name}")
        if sums.setdefault(archive.name, digest) != digest:
            raise AsgError(
                f"{archive} is not the archive whose SHA-256 {sums_file} records: fetch it again, "
                "or delete its line there if you trust this one."
            )
    extract()
    sums_file.write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), "utf-8")


def extract_zips(archives: Sequence[Path], folder: Path, pattern: str) -> None:
    """Members whose names match ``pattern``, as ``folder/GROUP`` (its one group); the folder whole or not at all."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for archive in archives:
            with zipfile.ZipFile(archive) as opened:
                members = [(m, match[1]) for m in opened.infolist() if (match := re.fullmatch(pattern, m.filename))]
                if not members:
                    raise AsgError(f"{archive} holds no {folder.name}, so it is not the published one: fetch it again.")
                need_room(folder.parent, sum(member.file_size for member, _ in members))
                for member, name in tqdm(members, desc=f"extracting {archive.name}", unit="file", leave=False):
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(member) as packed, (partial / name).open("wb") as file:
                        shutil.copyfileobj(packed, file, BLOCK)
        partial.replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AsgError(f"{archive} is not a sound zip archive ({error}): remove it and fetch it again.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sampled(items: Sequence, what: str) -> Iterator:
    """Up to DECODED of ``items``, evenly spaced, with a progress bar."""
    count = min(DECODED, len(items))
    for i in tqdm(range(count), desc=f"decoding {what}", unit="image", leave=False):
        yield items[i * len(items) // count]


def lines_of(kinds: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each kind of fault that was found: how many, and the first examples."""
    return [
        f"{kind}: {len(examples):,} ({'; '.join(examples[:SHOWN])}{'; …' if len(examples) > SHOWN else ''})"
        for kind, examples in kinds.items()
        if examples
    ]


def names_in(folder: Path, pattern: str, suffix: str) -> set[str]:
    """Paths below ``folder`` that match ``pattern``, without their ``suffix``; hidden files do not count."""
    paths = (path for path in folder.glob(pattern) if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix().removesuffix(suffix) for path in paths}


def pair_faults(
    folder: Path, images: set[str], labels: set[str], count: int, read: Callable[[], Sequence[SegmentationSet]]
) -> list[str]:
    """How images and label maps, by name, differ from ``count`` pairs that ``read`` gives; a line for each kind."""
    faults = [f"{len(images):,} images where {count:,} were published"] if len(images) != count else []
    kinds = {"images without a label map": sorted(images - labels)}
    kinds["label maps without an image"] = sorted(labels - images)
    if images and images <= labels:
        kinds["pairs that cannot be read"] = []
        for pairs, i in sampled([(one, i) for one in read() for i in range(len(one))], folder.name):
            try:
                pairs.decode(i)
            except AsgError as error:
                kinds["pairs that cannot be read"].append(str(error))
    return [f"{folder}: {fault}" for fault in faults + lines_of(kinds)]


def require(what: str, script: str, root: Path, faults: Sequence[str], broken: Sequence[str]) -> None:
    """Raise if there are ``faults``; ``broken`` are the folders of ``root`` that have them."""
    if faults:
        lines = "\n".join(f"  {line}" for line in faults)
        raise AsgError(
            f"{what} at {root} is not as published:\n{lines}\nRepair or remove "
            f"{', '.join(str(root / folder) for folder in broken)} and run "
            f"`python data_scripts/{script}.py --to {root}` again (remove a downloaded archive too if it is at fault)."
        )


def arguments(what: str, folder: str) -> argparse.ArgumentParser:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=f"Obtain and verify {what}.")
    parser.add_argument("--to", type=Path, default=data_root() / folder, help="where it shall lie (%(default)s)")
    parser.add_argument("--from", type=Path, dest="source", metavar="DIR", help="take archives or folders from DIR")
    parser.add_argument("--check", action="store_true", help="only verify what is there")
    return parser


def run(root: Path, work: Callable[[], str]) -> int:
    """Exit code of ``work``, which gives what to print; a fault's sentence goes to the standard error, with code 1."""
    messages.listen()
    try:
        print(work())
    except AsgError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        remedy = "free some space" if error.errno == errno.ENOSPC else "mend that"
        print(f"Reading or writing {root} failed ({error}): {remedy} or choose another --to.", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted: run again to continue.", file=sys.stderr)
    else:
        return 0
    return 1
