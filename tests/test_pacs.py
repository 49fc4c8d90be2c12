"""The benchmark pacs: its index, how it is obtained and read, and (where the data is) its files."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tarfile
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from timm.data import ImageNetInfo
from torchvision.models import ResNet18_Weights

import archives
import pacs as script
import pacs_index
from asg import AsgError
from asg.config import make_config
from asg.data import data_root, pacs, read_domains
from asg.data.images import UNLABELLED
from asg_book.profiles import PROFILES

DATA = data_root() / "pacs"
needs_pacs = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the benchmark's images are not at {DATA}: run `python data_scripts/pacs.py`"
)
TREE = script.REPOSITORY.tree
URL = "https://codeload.github.com/MachineLearning2020/Homework3-PACS/tar.gz/d586a6cf3db84896fb6cc465c7bf51bdaf6d65d8"
CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
COUNTS = {
    "photo": (189, 202, 182, 186, 199, 280, 432),
    "cartoon": (389, 457, 346, 135, 324, 288, 405),
    "sketch": (258, 246, 251, 203, 272, 27, 53),
}


def parts(row: dict[str, str]) -> tuple[str, str]:
    """Domain and class of a row."""
    return tuple(row["path"].split("/")[:2])


# ---- the index -------------------------------------------------------------------------------------------------------


def test_no_file_is_listed_twice_under_a_path_or_as_a_copy():
    assert all(tuple(row) == pacs_index.COLUMNS for row in pacs.index())
    for column in ("path", "sha256"):
        assert len({row[column] for row in pacs.index()}) == 5_324
    assert all(len(bytes.fromhex(row["sha256"])) == 32 and int(row["bytes"]) > 0 for row in pacs.index())


def test_every_domain_has_the_published_images_of_every_class():
    assert {domain: sum(counts) for domain, counts in COUNTS.items()} == {
        "photo": 1_670, "cartoon": 2_344, "sketch": 1_310
    }  # fmt: skip
    expected = {(d, c): n for d, counts in COUNTS.items() for c, n in zip(CLASSES, counts, strict=True)}
    assert Counter(map(parts, pacs.index())) == expected


def test_every_class_is_in_every_split_and_about_a_tenth_is_held_out():
    splits = defaultdict(Counter)
    for row in pacs.index():
        splits[parts(row)][row["split"]] += 1
    for (domain, name), counts in splits.items():
        assert set(counts) == ({"test"} if domain == "photo" else {"train", "validation"}), name
        if domain != "photo":
            assert 0.09 <= counts["validation"] / counts.total() <= 0.115, (domain, name)


def test_no_group_straddles_the_splits_or_the_classes():
    groups = defaultdict(list)
    for row in pacs.index():
        if row["group"]:
            groups[row["group"]].append(row)
    for rows in groups.values():
        assert len({(row["split"], *parts(row)) for row in rows}) == 1
    sizes = Counter(parts(rows[0])[0] for rows in groups.values() if len(rows) > 1)
    assert sizes == {"cartoon": 75, "sketch": 438}
    assert sum(len(rows) for name, rows in groups.items() if name.startswith("cartoon")) == 189


def test_held_out_are_the_groups_whose_names_have_the_least_hashes():
    """Not a position, not a number that was measured."""
    order = defaultdict(dict)
    for row in pacs.index():
        name = row["group"] or row["path"]
        order[parts(row)][hashlib.sha256(name.encode()).hexdigest()] = row["split"] == "validation"
    for (domain, name), held in order.items():
        is_held = [held[digest] for digest in sorted(held)]
        assert is_held == sorted(is_held, reverse=True), (domain, name)


def test_sketches_are_of_photographs_of_the_target():
    """Sketchy's drawings have the name of the photograph that was drawn, and a number."""
    photos = {row["path"] for row in pacs.index() if row["path"].startswith("photo/")}
    sketches = [row for row in pacs.index() if row["path"].startswith("sketch/")]
    drawn = [row for row in sketches if row["group"]]
    stems = {(parts(r)[1], Path(r["path"]).stem.rsplit("-", 1)[0]) for r in drawn}
    assert stems == {(Path(r["group"]).parent.name, Path(r["group"]).stem) for r in drawn}
    assert (len(drawn), sum(row["group"] in photos for row in drawn)) == (1_096, 955)
    of_imagenet = {path for path in photos if Path(path).name[0] == "n"}
    assert len(of_imagenet) == 434 and of_imagenet <= {row["group"] for row in drawn}


def test_imagenet_labels_are_the_synsets_of_the_file_names_and_caltechs_electric_guitars():
    number = {synset: k for k, synset in enumerate(ImageNetInfo().label_names())}
    for row in pacs.index():
        domain, name = parts(row)
        stem = Path(row["path"]).name.split("_")[0]
        caltech = ResNet18_Weights.DEFAULT.meta["categories"].index("electric guitar") if stem == "063" else ""
        assert row["imagenet"] == (str(number.get(stem, caltech)) if domain == "photo" else ""), row["path"]
        if row["imagenet"]:
            assert int(row["imagenet"]) in pacs.imagenet_classes()[name]
    assert Counter(row["imagenet"] for row in pacs.index() if row["imagenet"]) == {
        "235": 28, "247": 18, "402": 42, "546": 132
    }  # fmt: skip


def test_the_class_mapping_has_the_names_that_it_means():
    categories = ResNet18_Weights.DEFAULT.meta["categories"]
    named = {name: [categories[i] for i in ids] for name, ids in pacs.imagenet_classes().items()}
    assert {name: named[name] for name in CLASSES[1:]} == {
        "elephant": ["tusker", "Indian elephant", "African elephant"], "giraffe": [],
        "guitar": ["acoustic guitar", "electric guitar"], "horse": ["sorrel"], "house": [], "person": [],
    }  # fmt: skip
    dogs = named["dog"]
    assert (dogs[0], dogs[-1], len(dogs)) == ("Chihuahua", "Mexican hairless", 118)  # the breeds of ILSVRC 2012
    assert {"golden retriever", "German shepherd", "Saint Bernard", "toy poodle", "Siberian husky"} <= set(dogs)
    wild = {"timber wolf", "white wolf", "coyote", "dingo", "dhole", "African hunting dog", "red fox", "hyena"}
    assert wild <= set(categories) - set(dogs)


# ---- a small tree in the published layout ----------------------------------------------------------------------------


def clip_art(number: int) -> Image.Image:
    """A drawing of ten strokes on white, another for each number, 227 × 227."""
    rng, image = np.random.default_rng(number), Image.new("RGB", (227, 227), "white")
    for _ in range(10):
        ends = [tuple(map(int, rng.integers(10, 217, 2))) for _ in range(2)]
        ImageDraw.Draw(image).line(ends, fill=tuple(map(int, rng.integers(0, 200, 3))), width=int(rng.integers(4, 20)))
    return image


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A folder ``NAME-COMMIT/`` as GitHub's archive has it, with 12 cartoons, 9 sketches and 3 photographs a class."""
    tree = tmp_path_factory.mktemp("published") / TREE
    for k, name in enumerate(CLASSES):
        for domain in COUNTS:
            (tree / "PACS" / domain / name).mkdir(parents=True)
        cartoons = [clip_art(100 * k + i) for i in range(10)]
        cartoons.append(ImageOps.mirror(cartoons[3]))
        cartoons.append(Image.merge("RGB", cartoons[3].split()[::-1]))  # recoloured
        for i, image in enumerate(cartoons):
            image.save(tree / f"PACS/cartoon/{name}/pic_{i:03}.jpg", quality=95)
        for i in range(9):
            stem = f"n02103406_{100 + i // 3}-{i % 3 + 1}" if i < 6 else f"{5281 + i}"
            clip_art(100 * k + 20 + i).convert("1").convert("RGB").save(tree / f"PACS/sketch/{name}/{stem}.png")
        for i, stem in enumerate(("056_0001", "n02109525_1", "063_0007")):
            clip_art(100 * k + 40 + i).save(tree / f"PACS/photo/{name}/{stem}.jpg")
    (tree / "README.md").write_text("homework")
    return tree


@pytest.fixture
def small(published, monkeypatch) -> Path:
    """The small tree, its index in place of the real one."""
    rows = tuple(pacs_index.rows_of(published / "PACS"))
    monkeypatch.setattr(pacs, "index", lambda: rows)
    return published


def test_drawings_alike_are_one_group_and_sketches_of_a_photograph_too(published):
    rows = {row["path"]: row for row in pacs_index.rows_of(published / "PACS")}
    for name in CLASSES:
        numbers = {i: rows[f"cartoon/{name}/pic_{i:03}.jpg"]["group"] for i in range(12)}
        first = f"cartoon/{name}/pic_003.jpg"
        assert numbers == {i: first if i in (3, 10, 11) else "" for i in range(12)}
        sketches = [row["group"] for path, row in rows.items() if path.startswith(f"sketch/{name}/")]
        photos = [f"photo/{name}/n02103406_{k}.jpg" for k in (100, 101)]
        assert Counter(sketches) == {photos[0]: 3, photos[1]: 3, "": 3}
        held = [p for p, row in rows.items() if row["split"] == "validation" and parts(row) == ("cartoon", name)]
        assert len(held) in (1, 3)  # a tenth of twelve, or the group of three whole
    assert [rows[f"photo/dog/{stem}.jpg"]["imagenet"] for stem in ("056_0001", "n02109525_1", "063_0007")] == [
        "", "247", "546"
    ]  # fmt: skip


def test_every_third_of_all_published_sketches_is_taken(published, monkeypatch):
    monkeypatch.setattr(pacs_index, "SKETCHES", 63)
    every = sorted(p.relative_to(published / "PACS").as_posix() for p in published.glob("PACS/sketch/*/*"))
    taken = [row["path"] for row in pacs_index.rows_of(published / "PACS") if row["path"].startswith("sketch/")]
    assert taken == every[::3] and len(every) == 63


def test_the_reader_gives_drawings_held_out_drawings_and_every_photograph(small, tmp_path):
    rows = pacs.index()
    for domain in ("cartoon", "sketch"):
        loaded = pacs.load(small / "PACS", domain, 64)
        for images, split, where in (
            (loaded.source, "train", domain), (loaded.validation, "validation", domain), (loaded.target, "test", "photo")
        ):  # fmt: skip
            mine = [row for row in rows if row["split"] == split and parts(row)[0] == where]
            assert images.names == tuple(row["path"] for row in mine)
            assert [images.classes[y] for y in images.labels] == [parts(row)[1] for row in mine]
            assert [int(row["imagenet"] or UNLABELLED) for row in mine] == images.imagenet.tolist()
            keys = [row["group"] or row["path"] for row in mine]
            same = torch.tensor([[a == b for b in keys] for a in keys])
            assert torch.equal(images.cluster[:, None] == images.cluster, same)
        assert loaded.source.classes == CLASSES and loaded.mirror
        assert loaded.imagenet_classes == pacs.imagenet_classes()
    first = loaded.target.names[0]
    pixels = np.asarray(Image.open(small / "PACS" / first).resize((64, 64), Image.BILINEAR))
    assert (loaded.target.decode(0) == pixels).all()


def test_the_fingerprint_changes_with_what_the_index_says(small, monkeypatch):
    before = pacs.load(small, "cartoon", 64).fingerprint
    assert before == pacs.load(Path("elsewhere"), "cartoon", 64).fingerprint
    assert len({before, pacs.load(small, "cartoon", 65).fingerprint, pacs.load(small, "sketch", 64).fingerprint}) == 3
    rows = pacs.index()
    for column, value in (("sha256", "0" * 64), ("group", "another"), ("imagenet", "3")):
        changed = tuple({**row, column: value} if k == 5 else row for k, row in enumerate(rows))
        monkeypatch.setattr(pacs, "index", lambda changed=changed: changed)
        assert pacs.load(small, "cartoon", 64).fingerprint != before, column


@pytest.mark.parametrize("data", ["pacs-cartoon", "pacs-sketch"])
def test_a_run_knows_the_benchmark_without_its_files_and_names_the_script_when_it_decodes(workplace, data):
    sizes = {"pacs-cartoon": (2_109, 235), "pacs-sketch": (1_178, 132)}[data]
    domains = read_domains(make_config(PROFILES["toy"], {"data": data}))
    assert (len(domains.source), len(domains.validation), len(domains.target)) == (*sizes, 1_670)
    with pytest.raises(AsgError) as error:
        domains.source.batch([0])
    path = workplace.data / "pacs" / domains.source.names[0]
    assert str(error.value) == (
        f"The benchmark's file {path} is missing: run `python data_scripts/pacs.py` to obtain the benchmark."
    )


@pytest.mark.parametrize(("content", "fault"), [(b"", "cut short"), (b"no image" * 99999, "altered")])
def test_a_cut_or_altered_file_is_named_when_it_is_decoded(small, tmp_path, content, fault):
    root = shutil.copytree(small / "PACS", tmp_path / "pacs")
    images = pacs.load(root, "sketch", 64).target
    (root / images.names[2]).write_bytes(content)
    images.batch([0, 1])
    with pytest.raises(AsgError, match=rf"{images.names[2]} is {fault}: run `python data_scripts/pacs\.py`"):
        images.decode(2)


# ---- the script ------------------------------------------------------------------------------------------------------


def given_as(form: str, published: Path, folder: Path) -> Path:
    """The small tree in one of the forms in which it may be given."""
    folder.mkdir()
    if form == "zip":
        with zipfile.ZipFile(folder / "x.zip", "w") as archive:
            for path in published.rglob("*"):
                archive.write(path, path.relative_to(published.parent))
    elif form in ("tar", "tar.gz", "tgz"):
        with tarfile.open(folder / f"x.{form}", "w" if form == "tar" else "w:gz") as archive:
            archive.add(published, TREE)
    else:
        shutil.copytree(published, folder / form, dirs_exist_ok=True)
    return folder


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tgz", "zip", TREE, "Homework3-PACS", "."])
def test_obtained_in_every_form_and_nothing_obtained_twice(small, tmp_path, capsys, form):
    given, to = given_as(form, small, tmp_path / "given"), tmp_path / "pacs"
    assert script.main(["--to", str(to), "--from", str(given)]) == 0
    out = capsys.readouterr().out
    assert "Homework3-PACS: 168 files taken from" in out
    assert f"pacs at {to} is complete: 168 images, in " in out
    assert [line.split() for line in out.splitlines()[1:5]] == [
        [*CLASSES, "all"], ["photo", *"3333333", "21"], ["cartoon", *["12"] * 7, "84"], ["sketch", *"9999999", "63"]
    ]  # fmt: skip
    held = {p.relative_to(to).as_posix(): p for p in to.rglob("*") if p.is_file()}
    assert held.keys() == {row["path"] for row in pacs.index()}
    assert all(p.read_bytes() == (small / "PACS" / name).read_bytes() for name, p in held.items())
    shutil.rmtree(given)
    assert script.main(["--to", str(to)]) == 0
    assert capsys.readouterr().out.startswith("Homework3-PACS: all 168 files are there\n")
    assert script.main(["--to", str(to), "--check"]) == 0


def test_without_network_one_sentence_has_the_address_and_the_option(tmp_path, workplace, capsys, monkeypatch):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(archives, "urlopen", offline)
    assert script.main(["--to", str(tmp_path / "pacs")]) == 1
    assert capsys.readouterr().err.split("\r")[-1].strip() == (
        f"Cannot download {URL} (Name or service not known): run again to continue, or fetch {URL} by any means "
        "and pass the folder that holds them: --from DIR."
    )


def test_a_folder_without_the_repository(tmp_path, capsys):
    (tmp_path / "given").mkdir()
    assert script.main(["--to", str(tmp_path / "pacs"), "--from", str(tmp_path / "given")]) == 1
    assert capsys.readouterr().err.split("\r")[-1].strip() == (
        f"{tmp_path / 'given'} holds neither the tree nor an archive of {TREE}: fetch {URL} by any means into it and "
        "run again."
    )


def test_a_full_disk_is_one_sentence_and_the_next_run_continues(small, tmp_path, capsys, monkeypatch):
    given, to, write, calls = given_as("tar", small, tmp_path / "given"), tmp_path / "pacs", Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        calls.append(path)
        if len(calls) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert script.main(["--to", str(to), "--from", str(given)]) == 1
    message = capsys.readouterr().err.split("\r")[-1].strip()
    assert message.startswith(f"Reading or writing {to} failed") and message.endswith("choose another --to.")
    assert "free some space" in message and "\n" not in message
    monkeypatch.undo()
    monkeypatch.setattr(pacs, "index", lambda rows=tuple(pacs_index.rows_of(small / "PACS")): rows)
    assert script.main(["--to", str(to), "--from", str(given)]) == 0
    assert "Homework3-PACS: 68 files taken from" in capsys.readouterr().out


def test_the_check_names_every_kind_of_fault_and_mends_nothing(small, tmp_path, capsys):
    to = shutil.copytree(small / "PACS", tmp_path / "pacs")
    (to / "photo/dog/056_0001.jpg").unlink()
    (to / "cartoon/dog/pic_001.jpg").write_bytes(b"\xff\xd8")
    altered = to / "sketch/dog/5287.png"
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    assert script.main(["--to", str(to), "--check"]) == 1
    assert capsys.readouterr().err.split("\r")[-1].strip() == (
        f"{to} is not as published; missing: 1 (photo/dog/056_0001.jpg), cut short: 1 (cartoon/dog/pic_001.jpg), "
        "altered: 1 (sketch/dog/5287.png): run `python data_scripts/pacs.py`."
    )
    assert script.main(["--to", str(to), "--from", str(small)]) == 0
    assert "Homework3-PACS: 3 files taken from" in capsys.readouterr().out


# ---- the files themselves --------------------------------------------------------------------------------------------


@needs_pacs
@pytest.mark.slow
def test_the_index_is_made_anew_from_the_files():
    """Every hash, group, split and label, by the rules of the script that made them."""
    assert pacs_index.rows_of(DATA) == list(pacs.index())


@needs_pacs
@pytest.mark.slow
@pytest.mark.parametrize("domain", ["cartoon", "sketch"])
def test_every_image_is_read(domain):
    loaded = pacs.load(DATA, domain, 32)
    for images in (loaded.source, loaded.validation, loaded.target):
        for i in range(len(images)):
            pixels = images.decode(i)
            assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
            assert pixels.std() > 1, images.names[i]


@needs_pacs
@pytest.mark.slow
def test_no_drawing_is_a_photograph():
    """No cartoon or sketch shows the pixels of a photograph, reduced to 32 × 32 and free of light and contrast."""

    def reduced(domain: str) -> np.ndarray:
        rows = [row for row in pacs.index() if row["path"].startswith(f"{domain}/")]
        grey = (Image.open(DATA / row["path"]).convert("L").resize((32, 32), Image.BOX) for row in rows)
        pixels = np.stack([np.asarray(image, dtype=np.float32).ravel() for image in grey])  # (N, 32²)
        pixels -= pixels.mean(1, keepdims=True)
        return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)

    photos = reduced("photo")
    assert all((reduced(domain) @ photos.T).max() < 0.9 for domain in ("cartoon", "sketch"))
