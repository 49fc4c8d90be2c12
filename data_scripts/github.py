"""What the scripts of benchmarks that lie on GitHub share: the indexed files of a repository at one commit.

GitHub's archives of a commit have no stable checksum, so each *file* is checked by SHA-256 against an index. Only
indexed files are taken, each complete and right or not at all; those that are there and right are not obtained again.
A repository comes as GitHub's archive, by download (kept in ``downloads``), or from a folder given by hand that holds
an archive (``.tar``, ``.tar.gz``, ``.tgz`` or ``.zip``, of any name, in which everything lies below ``NAME-COMMIT/``)
or the unpacked tree (as ``NAME-COMMIT/``, as ``NAME/``, or as the folder itself).
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from archives import by_any_means, download, lines_of, need_room, write
from asg import AsgError
from asg.data.images import make_folder
from asg.data.indexed import Row, fault_at, fault_of

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
UNSOUND = (gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)
KINDS = ("missing", "cut short", "altered")


@dataclass(frozen=True)
class Repository:
    """A repository at one commit; of interest is what lies below ``folder`` (all of it if empty)."""

    owner: str
    name: str
    commit: str
    folder: str = ""

    @property
    def url(self) -> str:
        """Where GitHub gives its archive."""
        return f"https://codeload.github.com/{self.owner}/{self.name}/tar.gz/{self.commit}"

    @property
    def tree(self) -> str:
        """The one folder that its archive holds."""
        return f"{self.name}-{self.commit}"

    @property
    def archive(self) -> str:
        """The name under which its download is kept."""
        return f"{self.tree}.tar.gz"

    def path(self, row: Row) -> str:
        """Where the file of an index's row lies in its tree."""
        return f"{self.folder}/{row['path']}".removeprefix("/")


@dataclass(frozen=True)
class Part:
    """What is wanted of a repository: the files of ``index``, from below ``repository.folder``, to lie below ``to``."""

    repository: Repository
    index: Sequence[Row] = field(repr=False)
    to: Path


def faulty(part: Part) -> dict[str, tuple[Row, str]]:
    """Path → row and fault (of KINDS) of each indexed file that is not as published in ``part.to``."""
    rows = tqdm(part.index, desc=f"checking {part.to.name}", unit="file", leave=False)
    return {row["path"]: (row, fault) for row in rows if (fault := fault_at(part.to, row))}


def require(parts: Sequence[Part], script: str) -> None:
    """Raise with every kind of fault, and its first examples, unless all files of all ``parts`` are as published."""
    for part in parts:
        if faults := faulty(part):
            kinds = grouped({path: fault for path, (_, fault) in faults.items()})
            raise AsgError(f"{part.to} is not as published; {kinds}: run `python data_scripts/{script}.py`.")


def grouped(faults: Mapping[str, str]) -> str:
    """Path → fault as one line: how many of each kind, and the first of them."""
    return ", ".join(lines_of({kind: sorted(p for p, fault in faults.items() if fault == kind) for kind in KINDS}))


def obtain(parts: Sequence[Part], source: Path | None, downloads: Path) -> None:
    """Make every file of every part as published, from ``source`` if given, else from archives in ``downloads``.

    Archives that are not there are downloaded, an interrupted download is continued. Says what it did.
    """
    todo = []
    for part in parts:
        if faults := faulty(part):
            todo.append((part, [row for row, _ in faults.values()]))
        else:
            print(f"{part.repository.name}: all {len(part.index):,} files are there")
    if source is not None and not source.is_dir():
        raise AsgError(f"The folder {source} does not exist: give the one that holds archives or trees with --from.")
    places = [place_of(part, source, downloads) for part, _ in todo]
    repositories = [part.repository for (part, _), place in zip(todo, places, strict=True) if place is None]
    absent = {repository.tree: repository.url for repository in repositories}
    if absent and source is not None:
        unreadable = ", ".join(path.name for path in archives_in(source) if first_folder(path) is None)
        raise AsgError(
            f"{source} holds neither the tree nor an archive of {', '.join(absent)}"
            f"{f' ({unreadable} cannot be read)' if unreadable else ''}: {by_any_means(absent)} into it and run again."
        )
    otherwise = f"{by_any_means(absent)} and pass the folder that holds them: --from DIR."
    for (part, rows), place in zip(todo, places, strict=True):
        need_room(make_folder(part.to), sum(int(row["bytes"]) for row in rows))
        if place is None:
            place = make_folder(downloads) / part.repository.archive
            if not place.exists():
                print(f"fetching {part.repository.url} …", flush=True)
                download(part.repository.url, place, otherwise)
        take(part, rows, place)
        print(f"{part.repository.name}: {len(rows):,} files taken from {place}")


def place_of(part: Part, source: Path | None, downloads: Path) -> Path | None:
    """The tree or archive that holds the repository of ``part``, if one is there."""
    if source is None:
        archive = downloads / part.repository.archive
        return archive if archive.exists() else None
    for tree in (source / part.repository.tree, source / part.repository.name, source):
        if any((tree / part.repository.path(row)).is_file() for row in part.index):
            return tree
    return next((path for path in archives_in(source) if first_folder(path) == part.repository.tree), None)


def archives_in(folder: Path) -> list[Path]:
    """The files that are named as archives, sorted."""
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(SUFFIXES) and path.is_file())


def first_folder(archive: Path) -> str | None:
    """The folder in which the first entry of an archive lies; None where it cannot be read."""
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as opened:
                first = next(iter(opened.namelist()), "")
        else:
            with tarfile.open(archive) as opened:
                first = member.name if (member := opened.next()) else ""
    except UNSOUND:
        return None
    return first.split("/")[0]


def contents(place: Path, tree: str, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(path, content) of those files ``paths`` that ``place``, an unpacked tree or an archive of it, holds."""
    if place.is_dir():
        for path in paths:
            if (place / path).is_file():
                yield path, (place / path).read_bytes()
    elif place.suffix.lower() == ".zip":
        with zipfile.ZipFile(place) as archive:
            held = set(archive.namelist())
            for path in paths:
                if f"{tree}/{path}" in held:
                    yield path, archive.read(f"{tree}/{path}")
    else:
        names = {f"{tree}/{path}": path for path in paths}
        with tarfile.open(place) as archive:
            for member in archive:  # in the order of the archive: a compressed one cannot be read at random
                if member.isfile() and (path := names.pop(member.name, None)) is not None:
                    yield path, archive.extractfile(member).read()
                if not names:
                    return


def take(part: Part, rows: Sequence[Row], place: Path) -> None:
    """Write the files of ``rows`` that ``place`` holds as published; raise if it lacks some or holds others."""
    again = f"obtain {'them' if place.is_dir() else 'it'} again from {part.repository.url}"
    wanted = {part.repository.path(row): row for row in rows}
    faults = dict.fromkeys(wanted, "missing")
    try:
        with tqdm(desc=f"taking {part.repository.name}", total=len(rows), unit="file", leave=False) as bar:
            for path, content in contents(place, part.repository.tree, wanted):
                faults[path] = fault_of(content, wanted[path])
                if faults[path] is None:
                    write(part.to / wanted[path]["path"], content)
                bar.update()
    except UNSOUND as error:
        reason = str(error).partition(":\n")[0]  # tarfile adds what each compression says, a line each
        raise AsgError(f"{place} is not a sound archive ({reason}): remove it and {again}.") from None
    if kinds := grouped({path: fault for path, fault in faults.items() if fault}):
        remove = "" if place.is_dir() else "remove it and "
        raise AsgError(f"{place} does not hold what was published; {kinds}: {remove}{again}.")
