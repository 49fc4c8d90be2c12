"""The scripts of GTA5, Cityscapes and CamVid: archives in the published layouts, obtained and verified fault by fault."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import camvid
import cityscapes
import gta5
from asg import AsgError
from asg.data import street

PER_PART = 3  # pairs in each of GTA5's ten parts
CITIES = {"train": {"aachen": 3, "tubingen": 2}, "val": {"frankfurt": 2}, "test": {"berlin": 2}}


@dataclass(frozen=True)
class Case:
    """One script: its archives, what it makes of them, and the count that stands for the published one."""

    script: ModuleType
    counts: object
    folders: tuple[str, str]
    first: tuple[str, str]
    archives: tuple[str, ...]

    def main(self, *arguments: object) -> int:
        return self.script.main([str(a) for a in arguments], self.counts)


CASES = {
    "gta5": Case(
        gta5, 10 * PER_PART, ("images", "labels"), ("images/00002.png", "labels/00002.png"),
        tuple(f"{part:02}_{kind}.zip" for kind in ("images", "labels") for part in range(1, 11)),
    ),
    "cityscapes": Case(
        cityscapes, {"train": 5, "val": 2}, ("leftImg8bit", "gtFine"),
        ("leftImg8bit/val/frankfurt/frankfurt_000000_000019_leftImg8bit.png",
         "gtFine/val/frankfurt/frankfurt_000000_000019_gtFine_labelIds.png"),
        ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    ),
    "camvid": Case(
        camvid, 4, ("701_StillsRaw_full", "LabeledApproved_full"),
        ("701_StillsRaw_full/Seq05VD_f00000.png", "LabeledApproved_full/Seq05VD_f00000_L.png"),
        ("701_StillsRaw_full.zip", "LabeledApproved_full.zip"),
    ),
}  # fmt: skip


def png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo(number: int) -> np.ndarray:
    return np.full((4, 6, 3), number, np.uint8)


def ids(number: int) -> np.ndarray:
    return np.full((4, 6), 7 + number % 3, np.uint8)


def pack(archive: Path, files: dict[str, Path]) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as opened:
        for name, path in files.items():
            opened.write(path, name)
        opened.writestr("license.txt", "for research")
        opened.writestr("__MACOSX/images/._00001.png", "left by a Macintosh")


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """The archives of all three, each in a folder of its own and laid out as on its site for GTA5 and CamVid."""
    tree, root = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("published")
    for part in range(1, 11):
        numbers = range((part - 1) * PER_PART + 1, part * PER_PART + 1)
        for kind, pixels in (("images", photo), ("labels", ids)):
            for n in numbers:
                png(tree / f"{kind}/{n:05}.png", pixels(n))
            members = {f"{kind}/{n:05}.png": tree / f"{kind}/{n:05}.png" for n in numbers}
            pack(root / f"gta5/data/{part:02}_{kind}.zip", members)
    parts = {"trainIds": [[1], [2]], "valIds": [[3]], "testIds": [[4]]}
    savemat(tree / "split.mat", {name: np.array(numbers) for name, numbers in parts.items()})
    pack(root / "gta5/code/read_mapping.zip", {"read_mapping/split.mat": tree / "split.mat"})

    members = {"leftImg8bit": {}, "gtFine": {}}
    for split, cities in CITIES.items():
        for city, count in cities.items():
            for n in range(count):
                name = f"{split}/{city}/{city}_{n:06}_000019"
                for folder, kind, pixels in (
                    ("leftImg8bit", "leftImg8bit", photo), ("gtFine", "gtFine_labelIds", ids), ("gtFine", "gtFine_color", photo),
                ):  # fmt: skip
                    path = f"{folder}/{name}_{kind}.png"
                    png(tree / path, pixels(n))
                    members[folder][path] = tree / path
    for folder, files in members.items():
        pack(root / f"cityscapes/{folder}_trainvaltest.zip", files)

    names = ["0001TP_006690", "0006R0_f00930", "0016E5_00390", "Seq05VD_f00000"]
    for n, name in enumerate(names):
        png(tree / f"stills/{name}.png", photo(n))
        png(tree / f"approved/{name}_L.png", np.full((4, 6, 3), (128, 64, 128), np.uint8))
    stills = {f"701_StillsRaw_full/{name}.png": tree / f"stills/{name}.png" for name in names}
    pack(root / "camvid/files/701_StillsRaw_full.zip", stills)
    labels = {f"{name}_L.png": tree / f"approved/{name}_L.png" for name in names}  # no folder in this one
    pack(root / "camvid/data/LabeledApproved_full.zip", labels)
    return root


@pytest.fixture(scope="session")
def given(published, tmp_path_factory) -> Callable[[str], Path]:
    """The folder that a user would give: all archives of one benchmark side by side."""
    root = tmp_path_factory.mktemp("given")
    for path in published.rglob("*.zip"):
        folder = root / path.relative_to(published).parts[0]
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    return lambda name: root / name


@pytest.fixture(params=list(CASES))
def name(request) -> str:
    return request.param


@pytest.fixture
def tree(name, given, tmp_path) -> Path:
    """What the script makes of the archives; may be damaged."""
    CASES[name].script.obtain(tmp_path / name, given(name))
    return tmp_path / name


def sentence(capsys) -> str:
    return capsys.readouterr().err.split("\r")[-1]


def files(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


# ---------------------------------------------------------------- obtaining


def test_from_archives_extracts_verifies_and_records_checksums(name, given, tmp_path, capsys):
    case, to = CASES[name], tmp_path / "new" / name
    assert case.main("--to", to, "--from", given(name)) == 0
    assert "is complete" in capsys.readouterr().out
    assert {p.name for p in to.iterdir()} == {*case.folders, "SHA256SUMS"}
    lines = [line.split("  ") for line in (to / "SHA256SUMS").read_text().splitlines()]
    assert [line[1] for line in lines] == list(case.archives)
    for digest, archive in lines:
        assert digest == hashlib.sha256((given(name) / archive).read_bytes()).hexdigest()
    before = (to / case.first[0]).stat()
    assert case.main("--to", to, "--from", given(name)) == 0, "a second call has nothing to do"
    assert (to / case.first[0]).stat() == before
    assert lines[0][0] not in capsys.readouterr().out


def test_what_is_extracted_is_what_the_readers_read(given, tmp_path):
    for name, case in CASES.items():
        case.script.obtain(tmp_path / name, given(name))
    train, held = street.gta5(tmp_path / "gta5")
    assert (len(train), len(held)) == (29, 1)
    image, labels = train.decode(0)
    assert np.array_equal(image, photo(2)) and (labels == -1).all(), "id 9 is parking"
    assert (train.decode(1)[1] == 0).all(), "id 7 is road"
    assert [len(street.cityscapes(tmp_path / "cityscapes", split)) for split in ("train", "val")] == [5, 2]
    assert (street.camvid(tmp_path / "camvid").decode(3)[1] == 0).all()
    extracted = files(tmp_path / "cityscapes")
    assert len(extracted) == 2 * 7 + 1, "the splits and the label maps that are read, and no other file"
    assert not any("/test/" in path or "_color" in path for path in extracted)
    assert len(files(tmp_path / "gta5")) == 61 and len(files(tmp_path / "camvid")) == 9


def test_from_extracted_folders_links_them(name, tree, tmp_path):
    case, to = CASES[name], tmp_path / "linked"
    assert case.main("--to", to, "--from", tree) == 0
    assert all((to / folder).is_symlink() for folder in case.folders)
    assert (to / case.first[1]).samefile(tree / case.first[1])


def test_archives_that_lie_in_the_place_already_are_taken(name, given, tmp_path):
    case, to = CASES[name], shutil.copytree(given(name), tmp_path / "to")
    assert case.main("--to", to) == 0
    assert (to / case.first[0]).exists()


def test_from_lacks_an_archive(name, given, tmp_path, capsys):
    case, some = CASES[name], shutil.copytree(given(name), tmp_path / "some")
    (some / case.archives[1]).unlink()
    assert case.main("--to", tmp_path / "to", "--from", some) == 1
    message = sentence(capsys)
    assert f"{some} lacks {case.archives[1]}: " in message and case.archives[0] not in message
    assert "run again" in message


def test_from_does_not_exist(name, tmp_path, capsys):
    assert CASES[name].main("--to", tmp_path / "to", "--from", tmp_path / "none") == 1
    assert f"The folder {tmp_path / 'none'} does not exist" in sentence(capsys)


@pytest.mark.parametrize("keep", [0, 0.5, -1], ids=["empty", "half", "all but a byte of an image"])
def test_broken_archive(name, given, tmp_path, capsys, keep):
    case, some = CASES[name], shutil.copytree(given(name), tmp_path / "some")
    path = some / case.archives[0]
    content = bytearray(path.read_bytes())
    if keep == -1:
        content[content.index(b"IDAT") + 6] ^= 255
    path.write_bytes(content if keep == -1 else content[: int(keep * len(content))])
    assert case.main("--to", tmp_path / "to", "--from", some) == 1
    expected = rf"{path} is not a sound zip archive \(.+\): remove it and fetch it again"
    assert re.search(expected, sentence(capsys))
    assert list((tmp_path / "to").iterdir()) == [], "no half-extracted folder and no checksum of a broken file"


def test_archive_with_other_contents(name, given, tmp_path, capsys):
    case, some = CASES[name], shutil.copytree(given(name), tmp_path / "some")
    with zipfile.ZipFile(some / case.archives[0], "w") as archive:
        archive.writestr("../evil.txt", "")
        archive.writestr("notes/../../readme.md", "")
    assert case.main("--to", tmp_path / "to", "--from", some) == 1
    assert f"holds no {case.folders[0]}, so it is not the published one" in sentence(capsys)
    assert list((tmp_path / "to").iterdir()) == []


def test_archive_that_changed_is_refused(name, tree, given, tmp_path):
    case, changed = CASES[name], shutil.copytree(given(name), tmp_path / "changed")
    shutil.rmtree(tree / case.folders[1])
    with zipfile.ZipFile(changed / case.archives[-1], "a") as archive:
        archive.writestr("more.txt", "")
    with pytest.raises(AsgError, match=r"not the archive whose SHA-256 .*SHA256SUMS records: fetch it again, or"):
        case.script.obtain(tree, changed)
    case.script.obtain(tree, given(name))
    assert (tree / case.first[1]).exists()


def test_too_little_room_is_said_before_extraction(name, given, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert CASES[name].main("--to", tmp_path / "to", "--from", given(name)) == 1
    assert "GB free and 0.0 GB are needed: free some space" in sentence(capsys)
    assert list((tmp_path / "to").iterdir()) == []


def test_an_interruption_leaves_nothing_half_extracted(name, given, tmp_path, capsys, monkeypatch):
    copy, calls = shutil.copyfileobj, []

    def stop(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > 2:
            raise KeyboardInterrupt
        copy(*arguments)

    monkeypatch.setattr(shutil, "copyfileobj", stop)
    arguments = ("--to", tmp_path / "to", "--from", given(name))
    assert CASES[name].main(*arguments) == 1
    assert "Interrupted: run again to continue." in sentence(capsys)
    assert len(calls) == 3 and list((tmp_path / "to").iterdir()) == []
    monkeypatch.undo()
    assert CASES[name].main(*arguments) == 0


# ---------------------------------------------------------------- downloading


@pytest.fixture
def site(published, monkeypatch):
    """The address under which the published archives are served; ``seen`` lists what was asked for."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    seen: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            seen.append(self.path)
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(published))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["gta5", "camvid"])
def test_download_of_everything(name, site, tmp_path):
    url, seen = site
    case = CASES[name]
    case.script.obtain(tmp_path, site=f"{url}/{name}")
    case.script.verify(tmp_path, case.counts)
    assert [path.split("/")[-1] for path in seen] == list(case.archives)
    case.script.obtain(tmp_path, site=f"{url}/{name}")
    for archive in case.archives:
        (tmp_path / archive).unlink()
    case.script.obtain(tmp_path, site=f"{url}/{name}")
    assert len(seen) == len(case.archives), "nothing is fetched twice, also when the archives are removed"


@pytest.mark.parametrize("name", ["gta5", "camvid"])
def test_download_that_cannot_start_says_what_to_fetch(name, site, tmp_path):
    url = f"{site[0]}/elsewhere"
    with pytest.raises(
        AsgError, match=r"\(the server answers 404\): fetch .+ by any means and pass the folder"
    ) as caught:
        CASES[name].script.obtain(tmp_path, site=url)
    assert all(f"/{archive}" in str(caught.value) for archive in CASES[name].archives)


def test_addresses_are_the_authors():
    assert gta5.SITE == "https://download.visinf.tu-darmstadt.de/data/from_games"
    assert camvid.SITE == "http://web4.cs.ucl.ac.uk/staff/g.brostow/MotionSegRecData"


def test_the_authors_split_of_gta5_is_taken_when_asked_for(site, given, tmp_path, capsys):
    url, seen = site
    gta5.obtain(tmp_path / "a", split=True, site=f"{url}/gta5")
    assert "/gta5/code/read_mapping.zip" in seen
    assert CASES["gta5"].main("--to", tmp_path / "b", "--from", given("gta5"), "--split") == 0
    for root in (tmp_path / "a", tmp_path / "b"):
        assert street.gta5(root, "split.mat")[0].names == ("images/00001.png", "images/00002.png")
        assert not (root / "split").exists()
    capsys.readouterr()
    (tmp_path / "b" / "split.mat").unlink()
    assert CASES["gta5"].main("--to", tmp_path / "b", "--check", "--split") == 1
    assert "split.mat cannot be read as GTA5's split" in sentence(capsys)


def list_of(path: Path, numbers: list[int]) -> Path:
    path.write_text("".join(f"images/{n:05}.png\n" for n in numbers), encoding="utf-8")
    return path


def test_the_references_list_is_checked_and_copied_when_given(given, tmp_path, capsys):
    to, mine = tmp_path / "to", list_of(tmp_path / "obtained.txt", [5, 1, 9])
    take = lambda *more: gta5.main([str(a) for a in ("--to", to, *more)], 30, 3)  # noqa: E731
    assert take("--from", given("gta5"), "--list", mine) == 0
    assert "is complete: 30 pairs, gta5_train.txt names 3 of them" in capsys.readouterr().out
    assert (to / "gta5_train.txt").read_bytes() == mine.read_bytes()
    assert street.gta5(to, "gta5_train.txt")[0].names == ("images/00001.png", "images/00005.png", "images/00009.png")
    assert take("--list", to / "gta5_train.txt") == 0, "where it lies already"
    copied = (to / "gta5_train.txt").read_bytes()
    faults = {"names 2 images and the reference's list 3": [5, 1], "there is no GTA5 image '00031.png'": [1, 2, 31],
              "line 3: line 1 names 00005.png too": [5, 1, 5]}  # fmt: skip
    for fault, numbers in faults.items():
        capsys.readouterr()
        assert take("--list", list_of(mine, numbers)) == 1
        assert fault in sentence(capsys)
        assert (to / "gta5_train.txt").read_bytes() == copied, "a faulty list is not taken"
    assert take("--check", "--list", list_of(mine, [2, 3, 4])) == 0
    assert (to / "gta5_train.txt").read_bytes() == copied, "--check changes nothing"
    list_of(to / "gta5_train.txt", [1])
    capsys.readouterr()
    assert take("--check") == 1
    assert "names 1 images and the reference's list 3" in sentence(capsys)
    assert take("--check", "--list", tmp_path / "none.txt") == 1
    assert "none.txt of GTA5 images is missing" in sentence(capsys)


def test_the_references_list_has_12_403_images():
    assert gta5.LISTED == 12_403


# ---------------------------------------------------------------- the official downloader of Cityscapes


@pytest.fixture
def client(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Puts a program named csDownload on the path, that runs ``script`` and writes what it was called with."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")

    def install(script: str) -> Path:
        program = bin_folder / "csDownload"
        program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n{script}\n')
        program.chmod(0o755)
        return tmp_path / "calls"

    return install


def test_the_official_downloader_fetches_what_is_lacking(client, given, tmp_path):
    calls = client(f'to=$3; shift 3; for name in "$@"; do cp {given("cityscapes")}/$name $to/; done')
    to = tmp_path / "cityscapes"
    assert CASES["cityscapes"].main("--to", to) == 0
    names = "leftImg8bit_trainvaltest.zip gtFine_trainvaltest.zip"
    assert calls.read_text() == f"--resume --destination_path {to}/downloads {names}\n"
    assert {p.name for p in to.iterdir()} == {"leftImg8bit", "gtFine", "SHA256SUMS", *names.split()}
    shutil.rmtree(to / "gtFine")
    (to / "gtFine_trainvaltest.zip").unlink()
    assert CASES["cityscapes"].main("--to", to) == 0
    assert calls.read_text().splitlines()[1].endswith("/downloads gtFine_trainvaltest.zip")


@pytest.mark.parametrize("script", ["exit 1", "exit 0"], ids=["refused", "nothing fetched"])
def test_a_failure_of_the_official_downloader(client, tmp_path, capsys, script):
    client(script)
    assert CASES["cityscapes"].main("--to", tmp_path / "to") == 1
    assert re.search(r"csDownload failed \(see above\): run again to continue .*, or log in at https", sentence(capsys))


def test_what_the_official_downloader_began_is_kept_for_it(client, tmp_path, capsys):
    client('echo half > "$3/gtFine_trainvaltest.zip"; exit 1')
    assert CASES["cityscapes"].main("--to", tmp_path / "to") == 1
    assert files(tmp_path / "to") == ["downloads/gtFine_trainvaltest.zip"]


def test_without_the_official_downloader_it_is_said_what_to_place_where(client, tmp_path, capsys):
    assert CASES["cityscapes"].main("--to", tmp_path / "to") == 1
    assert (
        "Cityscapes needs an account and csDownload is not on this machine: `pip install cityscapesscripts` and run "
        "again, or log in at https://www.cityscapes-dataset.com/downloads/, download leftImg8bit_trainvaltest.zip and "
        f"gtFine_trainvaltest.zip into {tmp_path / 'to'} and run again." in sentence(capsys)
    )


# ---------------------------------------------------------------- verifying


def test_the_published_counts_are_what_is_checked_by_default(name, tree, capsys):
    assert CASES[name].script.main(["--to", str(tree), "--check"]) == 1
    message = sentence(capsys)
    expected = {
        "gta5": ["30 images where 24,966 were"],
        "cityscapes": ["5 images where 2,975 were", "2 images where 500 were"],
        "camvid": ["4 images where 701 were"],
    }
    assert all(f"{line} published" in message for line in expected[name])


def test_check_changes_nothing(name, tmp_path, capsys):
    assert CASES[name].main("--to", tmp_path / "none", "--check") == 1
    assert ": 0 images where " in sentence(capsys)
    assert not (tmp_path / "none").exists()


def truncate(path: Path) -> None:
    png(path, np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-1000])


FAULTS: dict[str, tuple[Callable[[Path, Path], object] | None, str]] = {
    "missing label map": (lambda image, labels: labels.unlink(), r"images without a label map: 1 \({key}\)"),
    "missing image": (lambda image, labels: image.unlink(), r"label maps without an image: 1 \({key}\)"),
    "too few": (
        lambda image, labels: (image.unlink(), labels.unlink()), r": {fewer} images where {count} were published",
    ),
    "truncated image": (
        lambda image, labels: truncate(image),
        r"pairs that cannot be read: 1 \({image} cannot be decoded as an image .*\)",
    ),
    "truncated label map": (
        lambda image, labels: truncate(labels), r"pairs that cannot be read: 1 \({labels} cannot be decoded .*\)",
    ),
    "unknown label": (
        lambda image, labels: png(labels, np.full((4, 6, 3) if "_L" in labels.name else (4, 6), 77, np.uint8)),
        r"pairs that cannot be read: 1 \({labels} holds the (unknown label id 77|colour \(77, 77, 77\))",
    ),
    "no label maps": (None, r"images without a label map: \d+ \("),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence(name, tree, capsys, fault):
    case = CASES[name]
    assert case.main("--to", tree, "--check") == 0
    damage, expected = FAULTS[fault]
    image, labels = (tree / path for path in case.first)
    if damage is None:
        shutil.rmtree(tree / case.folders[1])
    else:
        damage(image, labels)
    assert case.main("--to", tree, "--check") == 1
    message = sentence(capsys)
    count = case.counts["val"] if name == "cityscapes" else case.counts
    key = {"gta5": "00002", "cityscapes": "frankfurt/frankfurt_000000_000019", "camvid": "Seq05VD_f00000"}[name]
    assert re.search(expected.format(image=image, labels=labels, key=key, count=count, fewer=count - 1), message), (
        message
    )
    both = f"{tree / case.folders[0]}, {tree / case.folders[1]}"
    assert f"Repair or remove {both} and run `python data_scripts/{name}.py --to {tree}` again" in message


def test_the_remedy_for_a_fault_is_one(name, tree, given):
    """Removing the two folders and running again makes everything anew."""
    case = CASES[name]
    truncate(tree / case.first[1])
    assert case.main("--to", tree, "--from", given(name)) == 1
    for folder in case.folders:
        shutil.rmtree(tree / folder)
    assert case.main("--to", tree, "--from", given(name)) == 0


def test_a_label_map_of_another_size_is_a_fault_but_in_gta5(name, tree, capsys):
    case = CASES[name]
    shape = (8, 12, 3) if name == "camvid" else (8, 12)
    png(tree / case.first[1], np.full(shape, 0, np.uint8))
    assert case.main("--to", tree, "--check") == (0 if name == "gta5" else 1)
    if name != "gta5":
        assert "has (12, 8) pixels and its image (6, 4): obtain both again" in sentence(capsys)
