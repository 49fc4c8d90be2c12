"""What is read below a folder and what is left out, by one rule for training, adapting and predicting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from asg import AsgError
from asg.data import folder
from asg.data.scanner import CIRCLE, HIDDEN, NO_IMAGE, NOTHING, class_folders, images_below


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def test_everything_below_is_an_image_or_left_out_with_its_reason(tmp_path: Path):
    root, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    images = [image(root / name) for name in ("a.png", "b/B.JPG", "b/deeper/ünïcode ☃.webp")]
    linked = image(elsewhere / "linked.png")
    (root / "c").symlink_to(elsewhere, target_is_directory=True)
    (root / "d.png").symlink_to(linked)
    image(root / ".thumbnails" / "a.png")
    image(root / "b" / ".hidden.png")
    (root / "Thumbs.db").touch()
    image(root / "__MACOSX" / "a.png")
    (root / "e.HEIC").touch()
    (root / "notes.txt").touch()
    (root / "README").touch()
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "b" / "up").symlink_to(root, target_is_directory=True)
    os.mkfifo(root / "pipe.png")
    scan = images_below(root)
    assert scan.images == sorted([*images, root / "c" / "linked.png", root / "d.png"])
    reasons = {str(path.relative_to(root)): why for path, why in scan.left_out.items()}
    assert reasons == {
        ".thumbnails": HIDDEN, "b/.hidden.png": HIDDEN, "Thumbs.db": HIDDEN, "__MACOSX": HIDDEN, "e.HEIC": NO_IMAGE,
        "notes.txt": NO_IMAGE, "README": NO_IMAGE, "pipe.png": NO_IMAGE, "gone.png": NOTHING, "b/up": CIRCLE,
    }  # fmt: skip
    assert str(scan).startswith("5 images; left out: 1 × a link in a circle, 1 × a link to nothing, 4 × hidden")
    assert "1 × no image that can be read here (.heic)" in str(scan) and "(README)" in str(scan)
    assert str(images_below(root / "b" / "deeper")) == "1 images"


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch):
    (tmp_path / "closed").mkdir()
    iterdir = Path.iterdir

    def refusing(path: Path):  # as the system does, but for root
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", refusing)
    with pytest.raises(AsgError, match="closed cannot be read"):
        images_below(tmp_path)


def test_a_class_folder_without_an_image_says_what_it_holds(tmp_path: Path):
    image(tmp_path / "cup" / "a.png")
    (tmp_path / "boat").mkdir()
    (tmp_path / "boat" / "a.heic").touch()
    with pytest.raises(AsgError, match=r"boat holds 0 images; left out: 1 × no image .*\(\.heic\): add images"):
        class_folders(tmp_path, "source")


def test_a_linked_class_folder_is_a_class_and_a_hidden_one_is_none(tmp_path: Path):
    image(tmp_path / "elsewhere" / "a.png")
    image(tmp_path / "renders" / ".ipynb_checkpoints" / "a.png")
    (tmp_path / "renders" / "cup").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert list(class_folders(tmp_path / "renders", "source")) == ["cup"]


def renders(root: Path, designs: int, views: int) -> None:
    for name in ("boat", "cup"):
        for design in range(designs):
            for view in range(views):
                image(root / name / f"model{design:02}" / f"{view}.png")


def test_of_designs_whole_ones_are_held_out_and_err_together(tmp_path: Path):
    """Twelve models a class: the second and the twelfth are held out, with each of their three views."""
    renders(tmp_path, 12, 3)
    domains = folder.load(tmp_path, None, 32)
    held = {Path(name).parent.name for name in domains.validation.names}
    assert held == {"model01", "model11"} and not held & {Path(name).parent.name for name in domains.source.names}
    assert domains.validation.cluster.tolist() == [k for k in range(4) for _ in range(3)]
    assert len(domains.source) == 2 * 10 * 3 and len(domains.source.cluster.unique()) == 20


@pytest.mark.parametrize("loose", [True, False])
def test_few_sub_folders_or_images_beside_them_are_no_designs(tmp_path: Path, loose: bool):
    renders(tmp_path, 6 if loose else 4, 5)
    if loose:
        for name in ("boat", "cup"):
            image(tmp_path / name / "another.png")
    domains = folder.load(tmp_path, None, 32)
    assert domains.validation.cluster is None and len(domains.source) + len(domains.validation) == 2 * (
        31 if loose else 20
    )
    assert len(domains.validation) == 2 * (3 if loose else 2)  # every tenth image, from the second on


def test_a_sub_folders_name_moves_no_image_of_a_flat_folder(tmp_path: Path):
    """Flat folders are split as they always were: every tenth from the second on."""
    for k in range(25):
        image(tmp_path / "cup" / f"{k:02}.png")
        image(tmp_path / "boat" / f"{k:02}.png")
    held = [Path(name).name for name in folder.load(tmp_path, None, 32).validation.names]
    assert held == ["01.png", "11.png", "21.png"] * 2
