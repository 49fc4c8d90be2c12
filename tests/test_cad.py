"""The benchmark cad: its index, its reader on a fake tree, its renderer (where mitsuba is) and its data script."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from torchvision.models import ResNet50_Weights

import cad as script
import cad_denoise
import cad_looks
import cad_meshes
import cad_textures
import render_cad
from asg import AsgError
from asg.config import RunConfig
from asg.data import cad, read_domains
from asg.data.images import UNLABELLED, read_image

SPLITS = ("train", "validation", "test")
MESHES = [row for split in SPLITS[:2] for row in cad.index(split)]
PHOTOS = cad.index("test")
IMAGENET = ResNet50_Weights.DEFAULT.meta["categories"]


# ---- the index -------------------------------------------------------------------------------------------------------


def test_every_class_has_meshes_held_out_meshes_photographs_and_a_look():
    classes = set(cad.imagenet_classes())
    assert len(classes) == 14
    assert all({row["class"] for row in cad.index(split)} == classes for split in SPLITS)
    assert set(cad_looks.LOOKS) == classes


@pytest.mark.parametrize("name", cad.imagenet_classes())
def test_a_class_has_150_renders_evenly_spread_a_fifth_to_a_third_held_out_and_at_most_200_photographs(name):
    views = {split: [int(row["views"]) for row in cad.index(split) if row["class"] == name] for split in SPLITS[:2]}
    both = views["train"] + views["validation"]
    assert sum(both) == 150
    assert max(both) - min(both) <= 1
    assert 0.18 <= sum(views["validation"]) / 150 <= 1 / 3
    assert 60 < sum(row["class"] == name for row in PHOTOS) <= 200


def test_no_file_is_listed_twice():
    rows = [*MESHES, *PHOTOS]
    assert len({row["sha256"] for row in rows}) == len({(row["repository"], row["path"]) for row in rows}) == len(rows)


def test_no_design_is_on_both_sides():
    sides = {(row["class"], row["design"], row["split"]) for row in MESHES}
    assert len({(name, design) for name, design, _ in sides}) == len(sides)
    assert len(sides) < len(MESHES)  # some meshes are near-identical


def test_renders_have_names_of_their_own():
    names = [(row["class"], Path(row["path"]).stem) for row in MESHES]
    assert len(set(names)) == len(names)


def test_rows_can_be_used():
    for row in MESHES:
        assert row["front"] in ("", *cad_meshes.AXES)
        turn = cad_meshes.rotation(row["up"], row["front"] or None)
        assert turn @ turn.T == pytest.approx(np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1)
        assert row["repository"] == "ShapeDatabase_INFOMR"
    assert {row["repository"] for row in [*MESHES, *PHOTOS]} == {one.name for one in script.REPOSITORIES}
    for row in [*MESHES, *PHOTOS]:
        assert len(bytes.fromhex(row["sha256"])) == 32
        assert not row["path"].startswith("/")
        assert ".." not in row["path"]


def test_guitars_alone_have_a_front():
    assert {row["class"] for row in MESHES if row["front"]} == {"guitar"}
    assert all(row["front"] for row in MESHES if row["class"] == "guitar")


@pytest.mark.parametrize(
    ("number", "name", "category"),
    [
        (404, "aeroplane", "airliner"), (671, "bicycle", "mountain bike"), (817, "car", "sports car"),
        (765, "chair", "rocking chair"), (402, "guitar", "acoustic guitar"), (508, "keyboard", "computer keyboard"),
        (846, "lamp", "table lamp"), (670, "motorcycle", "motor scooter"), (504, "mug", "coffee mug"),
        (579, "piano", "grand piano"), (738, "plant", "pot"), (780, "ship", "schooner"),
    ],
)  # fmt: skip
def test_imagenet_classes_are_what_torchvision_calls_them(number, name, category):
    assert number in cad.imagenet_classes()[name]
    assert IMAGENET[number] == category


def test_no_imagenet_class_means_two_classes_and_two_classes_have_none():
    listed = [number for numbers in cad.imagenet_classes().values() for number in numbers]
    assert len(set(listed)) == len(listed)
    assert [name for name, numbers in cad.imagenet_classes().items() if not numbers] == ["helicopter", "house"]


def test_a_photographs_imagenet_class_means_its_class():
    known = [row for row in PHOTOS if row["imagenet"]]
    assert len(known) > 400
    assert all(int(row["imagenet"]) in cad.imagenet_classes()[row["class"]] for row in known)


# ---- the reader, on a tree of the same layout --------------------------------------------------------------------------


def coloured(number: int, side: int = 160) -> bytes:
    """A PNG of one colour that tells ``number``."""
    file = io.BytesIO()
    Image.new("RGB", (side, side + 8), (number % 256, number // 256, 90)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Two meshes of two views and one held-out mesh, two photographs, with their index and files."""
    root, rows = tmp_path / "data" / "cad", []

    def add(split, name, path, content, repository="ShapeDatabase_INFOMR", **more):
        (root / repository / path).parent.mkdir(parents=True, exist_ok=True)
        (root / repository / path).write_bytes(content)
        row = {"split": split, "class": name, "repository": repository, "path": path, "bytes": str(len(content))}
        blank = dict.fromkeys(("views", "up", "front", "design", "imagenet"), "")
        rows.append({**blank, **row, "sha256": sha256(content).hexdigest(), **more})

    cube = {"up": "y", "views": "2"}
    for number, (split, name) in enumerate((("train", "mug"), ("train", "chair"), ("validation", "mug"))):
        add(split, name, f"Things/m{number}.obj", cube_obj(1 + number), design=f"m{number}", **cube)
    add("test", "mug", "mugs/a.png", coloured(1), "Homework2-Caltech101", imagenet="504")
    add("test", "chair", "chairs/b.png", coloured(2), "Homework2-Caltech101")
    monkeypatch.setattr(cad, "read_index", lambda _: tuple(rows))
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "data"))
    return root


def fill(root: Path) -> list[Path]:
    """A PNG of its own colour for every render."""
    meshes = [*cad.index("train"), *cad.index("validation")]
    paths = [root / cad.render_name(mesh, view) for mesh in meshes for view in range(int(mesh["views"]))]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(coloured(300 + number))
    return paths


def cube_obj(width: float = 1.0) -> bytes:
    """A box of squares, ``width`` along x."""
    points = [f"v {width * x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    squares = ("1 2 4 3", "5 6 8 7", "1 2 6 5", "3 4 8 7", "1 3 7 5", "2 4 8 6")
    return "\n".join([*points, *(f"f {square}" for square in squares)]).encode()


def test_the_reader_gives_every_view_with_its_class_and_mesh(tree):
    fill(tree)
    domains = read_domains(RunConfig(profile="own", data="cad", size=32, steps=1))
    classes = tuple(cad.imagenet_classes())
    assert domains.source.classes == domains.target.classes == classes
    assert [classes[k] for k in domains.source.labels] == ["mug", "mug", "chair", "chair"]
    assert domains.source.cluster.tolist() == [0, 0, 1, 1]
    assert [classes[k] for k in domains.validation.labels] == ["mug", "mug"]
    assert domains.validation.cluster.tolist() == [0, 0]
    assert domains.source.names[0] == f"renders-v{cad.RENDERER}/mug/m0-0.png"
    assert [classes[k] for k in domains.target.labels] == ["mug", "chair"]
    assert domains.target.imagenet.tolist() == [504, UNLABELLED]
    assert domains.imagenet_classes["mug"] == [504, 968]
    assert domains.source.decode(3).tolist() == [[[300 + 3 - 256, 1, 90]] * 32] * 32
    assert torch.equal(domains.target.batch([1])[0, :, 0, 0], torch.tensor([2, 0, 90], dtype=torch.uint8))


def test_the_fingerprint_is_of_index_and_renderer_not_of_the_folder(tree, tmp_path, monkeypatch):
    before = cad.load(tree, 32)
    assert cad.load(tmp_path / "elsewhere", 32).fingerprint == before.fingerprint
    assert cad.load(tree, 64).fingerprint != before.fingerprint
    rows = cad.read_index("")
    for change in ({"views": "3"}, {"up": "z"}, {"sha256": "0" * 64}, {"class": "lamp"}):
        monkeypatch.setattr(cad, "read_index", lambda _, change=change: ({**rows[0], **change}, *rows[1:]))
        assert cad.load(tree, 32).source.fingerprint != before.source.fingerprint
    monkeypatch.setattr(cad, "read_index", lambda _: rows)
    monkeypatch.setattr(cad, "RENDERER", cad.RENDERER + 1)
    later = cad.load(tree, 32)
    assert later.source.fingerprint != before.source.fingerprint
    assert later.target.fingerprint == before.target.fingerprint


def test_a_missing_render_and_an_altered_photograph_are_named_with_the_remedy(tree):
    domains = cad.load(tree, 32)
    with pytest.raises(AsgError, match=r"m0-0\.png is missing: run `python data_scripts/cad\.py`"):
        domains.source.decode(0)
    (tree / "Homework2-Caltech101" / "mugs" / "a.png").write_bytes(coloured(7))
    with pytest.raises(AsgError, match=r"a\.png is altered: run `python data_scripts/cad\.py`"):
        domains.target.decode(0)


# ---- meshes ------------------------------------------------------------------------------------------------------------


def written(folder: Path, content: bytes | str, name: str = "mesh.obj") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def cone_obj(up: str) -> str:
    """A cone whose apex points along the axis ``up``, over a base of 24 corners."""
    above = cad_meshes.AXES[up]
    a, b = (np.roll(np.abs(above), k) for k in (1, 2))
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = [2 * above, *(np.cos(t) * a * 0.8 + np.sin(t) * b * 0.8 for t in turns)]
    lines = ["v " + " ".join(map(str, point)) for point in points]
    lines += [f"f 1 {k + 2} {(k + 1) % 24 + 2}" for k in range(24)]
    return "\n".join([*lines, "f " + " ".join(str(k + 2) for k in range(24))])


@pytest.mark.parametrize("up", cad_meshes.AXES)
def test_the_axis_that_points_up_is_y_afterwards(tmp_path, up):
    mesh = cad_meshes.prepare(written(tmp_path, cone_obj(up)), up)
    apex = mesh.points[mesh.points[:, 1].argmax()]
    assert apex == pytest.approx([0, 0.5, 0], abs=1e-9)
    assert np.ptp(mesh.points, axis=0).tolist() == pytest.approx([0.8, 1, 0.8])


@pytest.mark.parametrize(("up", "front"), [(u, f) for u in cad_meshes.AXES for f in cad_meshes.AXES if u[-1] != f[-1]])
def test_turning_upright_is_a_rotation(up, front):
    turn = cad_meshes.rotation(up, front)
    assert turn @ cad_meshes.AXES[up] == pytest.approx([0, 1, 0])
    assert turn @ cad_meshes.AXES[front] == pytest.approx([0, 0, 1])
    assert np.linalg.det(turn) == pytest.approx(1)
    assert np.linalg.det(cad_meshes.rotation(up)) == pytest.approx(1)


def test_a_mesh_that_leans_in_its_file_is_stood_upright(tmp_path):
    lean = np.radians(20)
    c, s = np.cos(lean), np.sin(lean)
    points = np.array([(0, 2, 0), (-1, 0, -1), (1, 0, -1), (1, 0, 1), (-1, 0, 1)]) @ ((c, s, 0), (-s, c, 0), (0, 0, 1))
    lines = [f"v {x} {y} {z}" for x, y, z in points]
    lines += ["f 1 2 3", "f 1 3 4", "f 1 4 5", "f 1 5 2", "f 2 3 4 5"]
    mesh = cad_meshes.prepare(written(tmp_path, "\n".join(lines)), f"{-2 * s} {2 * c} 0")
    assert np.sort(mesh.points[:, 1]) == pytest.approx([-0.5] * 4 + [0.5])


def test_a_box_has_the_area_normals_and_pieces_of_a_box(tmp_path):
    second = cube_obj().decode().splitlines()
    shifted = [f"v {5 + float(line.split()[1])} {' '.join(line.split()[2:])}" if line[0] == "v" else
               "f " + " ".join(str(int(k) + 8) for k in line.split()[1:]) for line in second]  # fmt: skip
    mesh = cad_meshes.prepare(written(tmp_path, "\n".join([*second, *shifted])))
    assert len(mesh.faces) == 24
    assert mesh.areas.sum() == pytest.approx(12 / 36)  # two cubes of side 1/6
    assert Counter(mesh.pieces.tolist()) == {0: 12, 1: 12}
    assert set(cad_meshes.kinds(mesh)) == {0}  # of one size, of one kind
    flat = np.repeat(mesh.normals[:, None], 3, 1)
    assert mesh.smooth_normals == pytest.approx(flat)  # edges of 90° are sharp


def test_a_round_body_is_smooth_however_its_faces_are_wound(tmp_path):
    turns = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    lines = [f"v {np.cos(t)} {y} {np.sin(t)}" for t in turns for y in (-1, 1)]
    for k in range(36):
        a, b, c, d = (1 + 2 * k, 2 + 2 * k, 2 + 2 * ((k + 1) % 36), 1 + 2 * ((k + 1) % 36))
        lines.append(f"f {a} {b} {c} {d}" if k % 2 else f"f {d} {c} {b} {a}")
    mesh = cad_meshes.prepare(written(tmp_path, "\n".join(lines)))
    outward = mesh.corners * (1, 0, 1)
    outward /= np.linalg.norm(outward, axis=2, keepdims=True)
    assert np.abs((mesh.smooth_normals * outward).sum(2)).min() > np.cos(np.radians(3))
    assert ((mesh.smooth_normals * mesh.normals[:, None]).sum(2) > 0).all()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("v 0 0 zero\n", r"line 1: 'v 0 0 zero' is no line of an OBJ mesh"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 x\n", "line 4"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "missing or infinite points"),
        ("v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n", "missing or infinite points"),
        ("v 0 0 0\n", "no faces"),
        ("", "no faces"),
        ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "no extent"),
    ],
)
def test_a_broken_mesh_is_named(tmp_path, content, what):
    with pytest.raises(AsgError, match=what) as caught:
        cad_meshes.prepare(written(tmp_path, content))
    assert str(tmp_path / "mesh.obj") in str(caught.value)


def test_a_missing_mesh_is_named(tmp_path):
    with pytest.raises(AsgError, match=r"none\.obj is missing: run `python data_scripts/cad\.py`"):
        cad_meshes.prepare(tmp_path / "none.obj")


# ---- pictures, grain, lens ---------------------------------------------------------------------------------------------


PICTURES = ("grass", "earth", "paving", "concrete", "plaster", "wallpaper", "boards", "board", "tiles", "bricks",
            "siding", "shingles", "leaf", "cloth")  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_of_their_stream_alone_and_in_range(name):
    one, again, other = (getattr(cad_textures, name)(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert one.shape == (cad_textures.SIDE, cad_textures.SIDE, 3)
    assert one.dtype == np.float32
    assert 0 <= one.min() < one.max() <= 1.0


@pytest.mark.parametrize("horizon", ["air", "none", "trees", "hills", "houses"])
def test_skies_are_light_above_and_finite(horizon):
    sky = cad_textures.sky(np.random.default_rng(3), horizon)
    assert sky.shape == (*cad_textures.SKY, 3)
    assert sky.min() >= 0
    assert sky.max() <= 1.0 + 1e-6
    assert sky[: len(sky) // 4].mean() > 0.2


def test_noise_fits_together_at_its_edges():
    noise = cad_textures.noise(np.random.default_rng(0), (4, 4))
    inner = np.abs(np.diff(noise, axis=1)).mean()
    assert np.abs(noise[:, 0] - noise[:, -1]).mean() < 2 * inner


def test_waves_have_the_normals_of_their_heights():
    step = 1e-5
    places = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    shift = np.eye(2) * step
    height, normal = cad_textures.waves(np.random.default_rng(1), places)
    slopes = [(cad_textures.waves(np.random.default_rng(1), places + s)[0] - height) / step for s in shift]
    assert -normal[:, 0] / normal[:, 1] == pytest.approx(slopes[0], abs=1e-4)
    assert -normal[:, 2] / normal[:, 1] == pytest.approx(slopes[1], abs=1e-4)


def test_the_denoiser_takes_grain_away_and_keeps_edges_and_patterns():
    rng = np.random.default_rng(0)
    side = 64
    albedo = np.where(np.arange(side)[None, :, None] // 4 % 2, 0.2, 0.8) * np.ones((side, side, 3))
    normal, depth = np.broadcast_to((0.0, 1.0, 0.0), albedo.shape), np.full((side, side), 2.0)
    clean = albedo * np.where(np.arange(side) < side // 2, 0.3, 1.2)[:, None, None]  # a shadow
    noisy = clean * rng.gamma(8, 1 / 8, clean.shape[:2])[..., None]
    result = cad_denoise.denoise(noisy, albedo, normal, depth)
    before, after = (np.abs(image - clean).mean() / clean.mean() for image in (noisy, result))
    assert before > 0.25
    assert after < 0.35 * before
    assert np.median(result[4 : side // 2 - 4] / albedo[4 : side // 2 - 4]) == pytest.approx(0.3, rel=0.05)
    assert np.median(result[side // 2 + 4 :] / albedo[side // 2 + 4 :]) == pytest.approx(1.2, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_the_object_fills_the_share_of_the_image_that_was_asked_for_and_lies_in_it(seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-0.5, 0.5, (500, 3)) * rng.uniform(0.2, 1, 3)
    direction = np.append(rng.normal(size=2), 0.4)[[0, 2, 1]]
    direction /= np.linalg.norm(direction)
    camera = render_cad.aim(points, direction, 35.0, 0.8, rng.uniform(-1, 1, 2))
    forward = (camera.aim - camera.position) / np.linalg.norm(camera.aim - camera.position)
    right = np.cross(forward, (0, 1, 0))
    right /= np.linalg.norm(right)
    seen = points - camera.position
    flat = np.stack((seen @ right, seen @ np.cross(right, forward)), 1) / (seen @ forward)[:, None]
    flat /= np.tan(np.radians(35 / 2))
    assert np.ptp(flat, axis=0).max() / 2 == pytest.approx(0.8, abs=0.06)  # off the middle it looks a little different
    assert np.abs(flat).max() <= 1.05


def test_a_camera_exposes_for_the_middle_keeps_highlights_and_differs_by_little():
    light = np.full((40, 40, 3), 5.0)
    dim, right = (render_cad.develop(light, exposure, np.random.default_rng(0)).mean() for exposure in (0.2, 0.5))
    assert 60 < dim < 150 < right < 230
    light[:4] = 500.0  # a bright tenth: the rest goes dark, but it is not lost
    image = render_cad.develop(light, 0.5, np.random.default_rng(0))
    assert image[:4].mean() > 235
    assert image[4:].mean() < 60


def test_the_outermost_points_bound_every_view():
    points = np.random.default_rng(0).normal(size=(5000, 3))
    few = render_cad.outermost(points)
    assert len(few) < 500
    directions = np.random.default_rng(1).normal(size=(3, 50))
    assert (few @ directions).max(0) == pytest.approx((points @ directions).max(0), rel=0.05)


@pytest.mark.parametrize("changed", [("a.obj", 1), ("b.obj", 0)])
def test_streams_are_of_path_view_and_version(changed, monkeypatch):
    first = render_cad.stream("a.obj", 0).random()
    assert render_cad.stream("a.obj", 0).random() == first
    assert render_cad.stream(*changed).random() != first
    monkeypatch.setattr(render_cad, "RENDERER", render_cad.RENDERER + 1)
    assert render_cad.stream("a.obj", 0).random() != first


@pytest.mark.parametrize("look", cad_looks.LOOKS)
def test_looks_name_places_and_parts_that_are_there(look):
    one = cad_looks.LOOKS[look]
    assert set(one.places) <= set(cad_looks.INDOORS) | set(cad_looks.OUTDOORS) | {"sky", "sea"}
    assert one.parts in ("pieces", "car", "cycle", "house", "lamp", "plant", "ship")
    assert one.elevation[0] < one.elevation[1] < 90


# ---- renders -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["car", "mug", "ship", "helicopter", "house"])
def test_a_render_has_the_same_bytes_twice_and_no_two_views_are_alike(tmp_path, name):
    pytest.importorskip("mitsuba")
    path = written(tmp_path, cube_obj(2))
    images = [
        render_cad.render(cad_meshes.prepare(path), cad_looks.LOOKS[name], render_cad.stream("cube", view), 32, 4)
        for view in (0, 0, 1, 2)
    ]
    assert images[0].shape == (32, 32, 3)
    assert images[0].dtype == np.uint8
    assert np.array_equal(images[0], images[1])
    assert len({image.tobytes() for image in images}) == 3
    corners = {tuple(image[0, 0].tolist()) for image in images}
    assert len(corners) == 3  # the background varies
    assert all(20 < image.mean() < 245 for image in images)


STAGE = cad_looks.Look({"studio": 1}, body={"ebony": 1}, elevation=(5, 6), fill=(0.8, 0.8))


@pytest.mark.slow
@pytest.mark.parametrize("up", ["y", "-z", "x"])
def test_the_apex_of_a_cone_is_seen_above_and_the_cone_in_the_image(tmp_path, monkeypatch, up):
    pytest.importorskip("mitsuba")
    monkeypatch.setattr(render_cad, "studio_colour", lambda _: np.full(3, 0.95))
    mesh = cad_meshes.prepare(written(tmp_path, cone_obj(up)), up)
    image = render_cad.render(mesh, STAGE, np.random.default_rng(0), 64, 16).mean(2)
    dark = image < 0.35 * np.median(image)  # the cone is black on white
    rows = np.flatnonzero(dark.any(1))
    width = dark.sum(1)
    tenth = max(1, len(rows) // 10)
    assert 0.7 * 64 < len(rows) < 0.95 * 64
    assert width[rows[:tenth]].mean() < 0.3 * width[rows[-3 * tenth :]].max()
    assert not dark[0].any()
    assert not dark[:, [0, -1]].any()


@pytest.mark.slow
def test_mitsuba_that_is_not_there_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(AsgError, match=r"mitsuba, which is not installed: pip install -e \.\[render\]"):
        render_cad.mitsuba()


# ---- the data script -----------------------------------------------------------------------------------------------------


def pack(tree: Path, folder: Path, leave_out: str = "") -> Path:
    """The repositories of a tree as archives, as GitHub gives them."""
    folder.mkdir()
    for one in script.REPOSITORIES:
        if (tree / one.name).is_dir():
            with tarfile.open(folder / f"{one.name}.tar", "w") as archive:
                for path in sorted((tree / one.name).rglob("*.*")):
                    if path.name != leave_out:
                        archive.add(path, f"{one.tree}/{path.relative_to(tree / one.name)}")
    return folder


def test_without_mitsuba_nothing_is_obtained(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    assert script.main(["--to", str(tmp_path / "new"), "--from", str(pack(tree, tmp_path / "archives"))]) == 1
    assert capsys.readouterr().err == "Rendering needs mitsuba, which is not installed: pip install -e .[render]\n"
    assert not (tmp_path / "new").exists()


def test_a_complete_benchmark_is_verified_without_mitsuba(tree, monkeypatch, capsys):
    fill(tree)
    for path in tree.glob("renders-v*/*/*.png"):
        Image.open(path).crop((0, 0, 160, 160)).save(path)
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    assert script.main(["--check", "--to", str(tree)]) == 0
    assert "is complete" in capsys.readouterr().out
    path = next(tree.glob("renders-v*/mug/m2-1.png"))
    Image.open(path).crop((0, 0, 99, 160)).save(path)
    assert script.main(["--check", "--to", str(tree)]) == 1
    assert "m2-1.png is of (99, 160) pixels, not 160 a side: remove it and run" in capsys.readouterr().err
    path.write_bytes(b"no image")
    assert script.main(["--check", "--to", str(tree)]) == 1
    assert "m2-1.png cannot be decoded" in capsys.readouterr().err
    path.unlink()
    assert script.main(["--check", "--to", str(tree)]) == 1
    assert "m2-1.png is missing: run" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--jobs", "--views"])
def test_none_or_fewer_jobs_and_views_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        script.main([option, "0"])
    assert f"{option} must be 1 or more" in capsys.readouterr().err


def test_the_table_counts_the_index():
    last = script.table().splitlines()[-1].replace(",", "").split()
    assert last[0] == "all"
    assert list(map(int, last[1:])) == [
        len(cad.index("train")), sum(int(r["views"]) for r in cad.index("train")),
        len(cad.index("validation")), sum(int(r["views"]) for r in cad.index("validation")), len(PHOTOS),
    ]  # fmt: skip


@pytest.mark.slow
def test_the_script_obtains_renders_resumes_and_gives_the_same_bytes_in_other_processes(tree, tmp_path, capsys):
    pytest.importorskip("mitsuba")
    archives, new = pack(tree, tmp_path / "archives"), tmp_path / "new"
    assert script.main(["--to", str(new), "--from", str(archives), "--class", "chair", "--views", "1"]) == 0
    assert "1 images rendered" in capsys.readouterr().out
    assert [path.name for path in new.glob("renders-v*/*/*")] == ["m1-0.png"]
    first = (new / f"renders-v{cad.RENDERER}/chair/m1-0.png").read_bytes()
    assert script.main(["--to", str(new), "--from", str(archives), "--jobs", "2"]) == 0
    assert "5 images rendered" in capsys.readouterr().out
    paths = sorted(new.glob("renders-v*/*/*"))
    assert len(paths) == 6
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert before["m1-0.png"][0] == first
    (new / f"renders-v{cad.RENDERER}/chair/m1-0.png").unlink()  # as if it had been stopped
    assert script.main(["--to", str(new), "--from", str(archives)]) == 0
    again = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    assert again["m1-0.png"][0] == first
    assert {name: what for name, what in again.items() if name != "m1-0.png"} == {
        name: what for name, what in before.items() if name != "m1-0.png"
    }


@pytest.mark.slow
@pytest.mark.parametrize("stopped_by", ["interrupted", "killed worker"])
def test_a_script_that_is_stopped_says_so_keeps_whole_images_and_goes_on(tree, tmp_path, spawn, stopped_by):
    pytest.importorskip("mitsuba")
    rows = [{**row, "views": "30"} if row["path"].endswith("m0.obj") else row for row in cad.read_index("")]
    code = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:] = json.loads(sys.argv[1])
import cad as script
from asg.data import cad
rows = tuple(json.loads(sys.argv[2]))
cad.read_index = lambda _: rows
if __name__ == "__main__":
    sys.exit(script.main(["--to", sys.argv[3], "--from", sys.argv[4]]))
"""
    arguments = (json.dumps(sys.path), json.dumps(rows), tmp_path / "new", pack(tree, tmp_path / "archives"))
    child = spawn(code, *arguments)
    folder = tmp_path / "new" / f"renders-v{cad.RENDERER}" / "mug"
    while not (folder / "m0-1.png").exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    if stopped_by == "interrupted":
        child.send_signal(signal.SIGINT)
        message = "Interrupted: run again to continue.\n"
    else:
        worker = max(map(int, Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text(encoding="utf-8").split()))
        os.kill(worker, signal.SIGKILL)
        message = "A process that rendered was ended, perhaps for lack of memory: run again with fewer --jobs.\n"
    _, errors = child.communicate()
    assert errors.endswith(message)
    assert child.returncode == 1
    files = sorted(folder.glob("*"))
    assert len(files) < 20
    assert all(read_image(path).size == (160, 160) for path in files if not path.name.startswith("."))


@pytest.mark.slow
def test_a_mesh_that_is_altered_or_missing_stops_the_script_with_its_name(tree, tmp_path, capsys):
    pytest.importorskip("mitsuba")
    lacking = pack(tree, tmp_path / "lacking", leave_out="m1.obj")
    assert script.main(["--to", str(tmp_path / "new"), "--from", str(lacking)]) == 1
    assert "missing: 1 (Things/m1.obj)" in capsys.readouterr().err
    (tree / "ShapeDatabase_INFOMR" / "Things" / "m1.obj").write_bytes(cube_obj(9))
    altered = pack(tree, tmp_path / "altered")
    assert script.main(["--to", str(tmp_path / "new"), "--from", str(altered)]) == 1
    assert "m1.obj" in capsys.readouterr().err
    assert not list((tmp_path / "new").glob("renders-v*/*/*"))


@pytest.mark.slow
def test_the_script_explains_itself():
    command = [sys.executable, str(REPOSITORY / "data_scripts" / "cad.py"), "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}
    )
    assert "--jobs" in done.stdout
    assert "--check" in done.stdout
