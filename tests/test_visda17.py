"""The VisDA-17 data: obtained from archives, folders or a server, verified fault by fault, and read."""

import errno
import hashlib
import importlib.util
import io
import re
import shutil
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image

from asg import AsgError
from asg.data import visda

spec = importlib.util.spec_from_file_location("visda17", Path(__file__).parents[1] / "data_scripts" / "visda17.py")
visda17 = importlib.util.module_from_spec(spec)
spec.loader.exec_module(visda17)

COUNTS = {"train": 108, "validation": 24, "test": 6}
ALL = ["--splits", "train", "validation", "test"]


def name_of(split: str, number: int) -> tuple[str, int]:
    """Path and label of an image, named as the published ones are; the labels of a list are mixed."""
    label = number * 5 % 12
    digest = hashlib.md5(f"{split}{number}".encode()).hexdigest()
    return {
        "train": f"{visda.CLASSES[label]}/src_1_02691156_{digest}__{number}_236_150.png",
        "validation": f"{visda.CLASSES[label]}/validation_{number}.jpg",
        "test": f"trunk{number % 2:02d}/{digest}.jpg",
    }[split], label


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """Small archives in the published layout: lists inside train and validation, beside the test archive."""
    root = tmp_path_factory.mktemp("published")
    tree = tmp_path_factory.mktemp("tree")
    for split, count in COUNTS.items():
        rows = [name_of(split, number) for number in range(count)]
        for name, label in rows:
            (tree / split / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (label * 20, 100, 200)).save(tree / split / name)
        (root if split == "test" else tree / split).joinpath("image_list.txt").write_text(
            "".join(f"{name} {label}\n" for name, label in rows)
        )
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            archive.add(tree / split, split)
    return root


@pytest.fixture(scope="session")
def obtained(published, tmp_path_factory) -> Path:
    """The obtained tree of all three splits; not to be altered."""
    root = tmp_path_factory.mktemp("whole") / "visda17"
    visda17.obtain(root, list(COUNTS), published)
    return root


@pytest.fixture
def tree(obtained, tmp_path) -> Path:
    """A copy of the tree that a test may damage."""
    return shutil.copytree(obtained, tmp_path / "tree")


def sentence(capsys) -> str:
    return capsys.readouterr().err.split("\r")[-1]


def first(tree: Path, split: str) -> Path:
    return tree / split / name_of(split, 0)[0]


# ---------------------------------------------------------------- obtaining


def test_from_archives_extracts_verifies_and_records_checksums(published, tmp_path, capsys):
    to = tmp_path / "new" / "visda17"
    arguments = ["--to", str(to), "--from", str(published), *ALL]
    assert visda17.main(arguments, COUNTS) == 0
    assert "train 108 images, validation 24 images, test 6 images" in capsys.readouterr().out
    digests = {f: hashlib.sha256((published / f).read_bytes()).hexdigest() for f in ("train.tar", "test.tar")}
    lines = (to / "SHA256SUMS").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["train.tar", "validation.tar", "test.tar"]
    assert lines[0].startswith(digests["train.tar"]) and lines[2].startswith(digests["test.tar"])
    assert {p.name for p in to.iterdir()} == {"train", "validation", "test", "SHA256SUMS"}
    assert (to / "test" / "image_list.txt").read_bytes() == (published / "image_list.txt").read_bytes()

    before = first(to, "train").stat()
    assert visda17.main(arguments, COUNTS) == 0, "a second call has nothing to do"
    assert first(to, "train").stat() == before
    assert digests["train.tar"] not in capsys.readouterr().out


def test_test_split_is_taken_only_when_asked_for(published, tmp_path):
    assert visda17.main(["--to", str(tmp_path), "--from", str(published)], COUNTS) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"train", "validation", "SHA256SUMS"}


def test_from_extracted_folders_links_them(obtained, tmp_path):
    to = tmp_path / "visda17"
    assert visda17.main(["--to", str(to), "--from", str(obtained), *ALL], COUNTS) == 0
    assert (to / "train").is_symlink() and first(to, "train").samefile(first(obtained, "train"))


def test_a_link_whose_folder_is_gone_is_replaced(published, tmp_path):
    (tmp_path / "train").symlink_to(tmp_path / "gone")
    assert visda17.main(["--to", str(tmp_path), "--from", str(published)], COUNTS) == 0
    assert not (tmp_path / "train").is_symlink()


def test_from_lacks_an_archive(published, tmp_path, capsys):
    (tmp_path / "some").mkdir()
    shutil.copy(published / "train.tar", tmp_path / "some")
    assert visda17.main(["--to", str(tmp_path / "to"), "--from", str(tmp_path / "some"), *ALL], COUNTS) == 1
    message = sentence(capsys)
    assert "lacks validation.tar, test.tar, image_list.txt: fetch http://csr.bu.edu/ftp/visda17/clf/valid" in message
    assert visda17.TEST_LIST in message and "train.tar" not in message


def test_from_does_not_exist(tmp_path, capsys):
    assert visda17.main(["--to", str(tmp_path), "--from", str(tmp_path / "none")]) == 1
    assert f"The folder {tmp_path / 'none'} does not exist" in sentence(capsys)


def spoil(published: Path, folder: Path, content: bytes) -> Path:
    folder.mkdir()
    (folder / "train.tar").write_bytes(content)
    return folder


@pytest.mark.parametrize("keep", [0, 100, 0.5], ids=["empty", "header only", "half"])
def test_truncated_archive(published, tmp_path, capsys, keep):
    content = (published / "train.tar").read_bytes()
    member = content.find(b"\x89PNG", len(content) // 2)  # inside an image, not between two
    source = spoil(published, tmp_path / "from", content[: keep if isinstance(keep, int) else member + 8])
    assert visda17.main(["--to", str(tmp_path / "to"), "--from", str(source), "--splits", "train"], COUNTS) == 1
    assert re.search(r"train\.tar is not a sound tar archive \(.+\): remove it and fetch it again", sentence(capsys))
    assert list((tmp_path / "to").iterdir()) == [], "no half-extracted folder and no checksum of a broken file"


def test_archive_cut_between_two_images_is_found_by_the_check(published, tmp_path, capsys):
    source = spoil(published, tmp_path / "from", b"")
    with tarfile.open(published / "train.tar") as opened, tarfile.open(source / "train.tar", "w") as cut:
        for member in opened.getmembers():
            if not member.name.endswith(name_of("train", 7)[0]):
                cut.addfile(member, opened.extractfile(member) if member.isfile() else None)
    assert visda17.main(["--to", str(tmp_path / "to"), "--from", str(source), "--splits", "train"], COUNTS) == 1
    assert f"listed images that are missing: 1 ({name_of('train', 7)[0]})" in sentence(capsys)


@pytest.mark.parametrize(
    ("member", "expected"), [("../evil.png", "not a sound tar archive"), ("photos/a.png", "holds no folder train/")]
)
def test_archive_with_other_contents(tmp_path, member, expected):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(AsgError, match=expected):
        visda17.obtain(tmp_path / "to", ["train"], tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_archive_that_changed_is_refused(published, tmp_path):
    visda17.obtain(tmp_path / "to", ["train"], published)
    shutil.rmtree(tmp_path / "to" / "train")
    changed = spoil(published, tmp_path / "from", (published / "train.tar").read_bytes() + bytes(512))
    with pytest.raises(
        AsgError, match=r"not the archive whose SHA-256 .*SHA256SUMS records: fetch it again, or delete"
    ):
        visda17.obtain(tmp_path / "to", ["train"], changed)
    visda17.obtain(tmp_path / "to", ["train"], published)
    assert first(tmp_path / "to", "train").exists()


def test_unwritable_place(published, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert visda17.main(["--to", str(tmp_path / "file" / "to"), "--from", str(published)], COUNTS) == 1
    assert f"Cannot write into {tmp_path / 'file' / 'to'}" in sentence(capsys)


def test_too_little_room_is_said_before_extraction(published, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert visda17.main(["--to", str(tmp_path / "to"), "--from", str(published)], COUNTS) == 1
    assert "0.0 GB free and 0.0 GB are needed: free some space" in sentence(capsys)
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device): free some space or choose"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied): mend that or choose another --to"),
        (KeyboardInterrupt(), "Interrupted: run again to continue."),
    ],
)
def test_extraction_that_stops_midway_leaves_nothing(published, tmp_path, capsys, monkeypatch, fault, expected):
    extract, calls = tarfile.TarFile.extract, []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) > 5:
            raise fault
        extract(*args, **kwargs)

    monkeypatch.setattr(tarfile.TarFile, "extract", stop)
    arguments = ["--to", str(tmp_path), "--from", str(published)]
    assert visda17.main(arguments, COUNTS) == 1
    assert expected in sentence(capsys)
    assert len(calls) == 6 and list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert visda17.main(arguments, COUNTS) == 0


# ---------------------------------------------------------------- downloading


class Server(ThreadingHTTPServer):
    """Serves a folder on 127.0.0.1 with byte ranges, and can break off or ignore ranges."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.break_after, self.ranges, self.seen = folder, None, True, []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        start = self.headers["Range"]
        self.server.seen.append((self.path, start))
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            return self.send_error(404)
        content = path.read_bytes()
        skip = int(re.fullmatch(r"bytes=(\d+)-", start)[1]) if start and self.server.ranges else 0
        if skip and skip >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if skip else 200)
        if skip:
            self.send_header("Content-Range", f"bytes {skip}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - skip))
        self.end_headers()
        self.wfile.write(content[skip : self.server.break_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(published, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(published) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_download_of_everything(server, tmp_path):
    visda17.obtain(tmp_path, list(COUNTS), archives=server.url, test_list=f"{server.url}/image_list.txt")
    visda17.verify(tmp_path, list(COUNTS), COUNTS)
    assert server.seen == [(f"/{name}", None) for name in ("train.tar", "validation.tar", "test.tar", "image_list.txt")]
    assert not list(tmp_path.glob("*.part"))
    visda17.obtain(tmp_path, list(COUNTS), archives=server.url)
    assert len(server.seen) == 4, "nothing is fetched twice"


def test_interrupted_download_is_continued(server, published, tmp_path):
    server.break_after = 5000
    with pytest.raises(
        AsgError, match=r"train.tar ended after 5,000 of [\d,]+ bytes: run again to continue, or by hand"
    ):
        visda17.download(f"{server.url}/train.tar", tmp_path / "train.tar", "by hand")
    assert (tmp_path / "train.tar.part").stat().st_size == 5000 and not (tmp_path / "train.tar").exists()
    server.break_after = None
    visda17.download(f"{server.url}/train.tar", tmp_path / "train.tar", "by hand")
    assert server.seen == [("/train.tar", None), ("/train.tar", "bytes=5000-")]
    assert (tmp_path / "train.tar").read_bytes() == (published / "train.tar").read_bytes()
    assert not (tmp_path / "train.tar.part").exists()


def test_server_without_ranges_sends_all_again(server, published, tmp_path):
    (tmp_path / "train.tar.part").write_bytes(b"x" * 5000)
    server.ranges = False
    visda17.download(f"{server.url}/train.tar", tmp_path / "train.tar", "by hand")
    assert (tmp_path / "train.tar").read_bytes() == (published / "train.tar").read_bytes()


def test_part_that_is_complete_or_too_long(server, published, tmp_path):
    content = (published / "train.tar").read_bytes()
    part = tmp_path / "train.tar.part"
    part.write_bytes(content + b"x")
    with pytest.raises(AsgError, match=r"train\.tar\.part is longer than .*: remove it and run again"):
        visda17.download(f"{server.url}/train.tar", tmp_path / "train.tar", "by hand")
    part.write_bytes(content)
    visda17.download(f"{server.url}/train.tar", tmp_path / "train.tar", "by hand")
    assert (tmp_path / "train.tar").read_bytes() == content and not part.exists()


def test_no_room_for_a_download(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(AsgError, match="GB are needed: free some space"):
        visda17.download(f"{server.url}/train.tar", tmp_path / "train.tar", "by hand")


def test_disk_that_fills_during_a_download_is_not_taken_for_the_network(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        visda17.download(f"{server.url}/train.tar", tmp_path / "train.tar", "by hand")


def test_download_that_cannot_start_says_what_to_fetch(server, tmp_path):
    remedy = r"fetch {0}/train\.tar, {0}/validation\.tar by any means and pass the folder that holds them: --from DIR\."
    missing = f"{server.url}/elsewhere"
    with pytest.raises(AsgError, match=r"\(the server answers 404\): " + remedy.format(missing)):
        visda17.obtain(tmp_path, ["train", "validation"], archives=missing)
    closed = "http://127.0.0.1:9"  # the discard port: nothing listens
    with pytest.raises(AsgError, match="refused.*: run again to continue, or " + remedy.format(closed)):
        visda17.obtain(tmp_path, ["train", "validation"], archives=closed)


# ---------------------------------------------------------------- verifying


def edit_list(tree: Path, split: str, old: str, new: str) -> None:
    path = tree / split / "image_list.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def row(split: str, number: int) -> str:
    return "{} {}\n".format(*name_of(split, number))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


NAME, TEST_NAME = name_of("train", 0)[0], name_of("test", 0)[0]
FAULTS = {
    "no folder": ("train", lambda t: shutil.rmtree(t / "train"), "train/image_list.txt is missing"),
    "no list": ("train", lambda t: (t / "train/image_list.txt").unlink(), "train/image_list.txt is missing"),
    "no test list": (
        "test",
        lambda t: (t / "test/image_list.txt").unlink(),
        f"test/image_list.txt is missing (published at {visda17.TEST_LIST})",
    ),
    "wrong label": (
        "train",
        lambda t: edit_list(t, "train", row("train", 1), f"{name_of('train', 1)[0]} 4\n"),
        f"labels that are not those of the class folder: 1 (line 2: {name_of('train', 1)[0]} 4)",
    ),
    "label out of range": (
        "validation",
        lambda t: edit_list(t, "validation", row("validation", 2), "truck/validation_2.jpg 12\n"),
        "lines of image_list.txt that are not 'folder/file label' with a label below 12: 1 (line 3: truck/",
    ),
    "test list without labels": (
        "test",
        lambda t: edit_list(t, "test", row("test", 0), TEST_NAME + "\n"),
        f"with a label below 12: 1 (line 1: {TEST_NAME})",
    ),
    "test label out of range": (
        "test",
        lambda t: edit_list(t, "test", row("test", 0), f"{TEST_NAME} 99\n"),
        f"(line 1: {TEST_NAME} 99)",
    ),
    "label that is no number": (
        "train",
        lambda t: edit_list(t, "train", row("train", 0), f"{NAME} x\n"),
        f"with a label below 12: 1 (line 1: {NAME} x)",
    ),
    "test name without folder": (
        "test",
        lambda t: edit_list(t, "test", row("test", 0), "photo.jpg 3\n"),
        "with a label below 12: 1 (line 1: photo.jpg 3)",
    ),
    "missing image": (
        "train",
        lambda t: first(t, "train").unlink(),
        f"train: listed images that are missing: 1 ({NAME})",
    ),
    "missing test image": (
        "test",
        lambda t: first(t, "test").unlink(),
        f"test: listed images that are missing: 1 ({TEST_NAME})",
    ),
    "unlisted image": (
        "validation",
        lambda t: shutil.copy(first(t, "validation"), t / "validation/bus/validation_extra.jpg"),
        "validation: files that are not listed: 1 (bus/validation_extra.jpg)",
    ),
    "loose file": ("train", lambda t: (t / "train/notes.txt").touch(), "files that are not listed: 1 (notes.txt)"),
    "corrupt image": (
        "validation",
        lambda t: truncate(first(t, "validation")),
        f"images that cannot be decoded: 1 ({name_of('validation', 0)[0]})",
    ),
    "corrupt test image": (
        "test",
        lambda t: first(t, "test").write_text("no image"),
        f"images that cannot be decoded: 1 ({TEST_NAME})",
    ),
    "listed twice": (
        "train",
        lambda t: edit_list(t, "train", row("train", 0), row("train", 0) * 2),
        f"images listed twice: 1 ({NAME})",
    ),
    "too few": (
        "train",
        lambda t: (edit_list(t, "train", row("train", 0), ""), first(t, "train").unlink()),
        "train: 107 images are listed where 108 were published",
    ),
    "renamed class": (
        "train",
        lambda t: (t / "train/aeroplane").rename(t / "train/airplane"),
        "class folders that are missing or unknown: 2 (aeroplane; airplane)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_sentence(tree, capsys, fault):
    split, damage, expected = FAULTS[fault]
    check = ["--to", str(tree), "--check", *ALL]
    assert visda17.main(check, COUNTS) == 0
    damage(tree)
    assert visda17.main(check, COUNTS) == 1
    message = sentence(capsys)
    assert expected in message
    assert f"Repair or remove {tree / split} and run `python data_scripts/visda17.py --to {tree}` again" in message


def test_all_faults_are_reported_and_each_kind_is_short(tree):
    for number in range(7):
        (tree / "train" / name_of("train", number)[0]).unlink()
    truncate(first(tree, "validation"))
    (tree / "train" / ".DS_Store").touch()
    with pytest.raises(AsgError) as caught:
        visda17.verify(tree, ["train", "validation"], COUNTS | {"train": 109})
    header, *faults, remedy = str(caught.value).splitlines()
    assert header.endswith("is not as published:") and "train, " in remedy and "validation and run" in remedy
    assert [line.split(" (")[0].removeprefix(f"  {tree}/") for line in faults] == [
        "train: 108 images are listed where 109 were published",
        "train: listed images that are missing: 7",
        "validation: images that cannot be decoded: 1",
    ]
    assert faults[1].count(".png") == 5 and faults[1].endswith("; …)")


def test_unlisted_test_photographs_are_no_fault(tree):
    shutil.copy(first(tree, "test"), tree / "test" / "trunk00" / "extra.jpg")
    visda17.verify(tree, ["test"], COUNTS)


def test_the_published_counts_are_what_is_checked_by_default(tree, capsys):
    assert visda17.main(["--to", str(tree), "--check", *ALL]) == 1
    message = sentence(capsys)
    for number in (
        "108 images are listed where 152,397",
        "24 images are listed where 55,388",
        "6 images are listed where 72,372",
    ):
        assert number in message


def test_check_changes_nothing(tmp_path, capsys):
    assert visda17.main(["--to", str(tmp_path / "none"), "--check"], COUNTS) == 1
    assert "none/train/image_list.txt is missing" in sentence(capsys)
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- reading


def test_reader_gives_listed_labels_sizes_and_pixels(obtained):
    domains = visda.load(obtained, 24)
    assert (len(domains.source), len(domains.validation), len(domains.target)) == (106, 2, 24)
    rows = [name_of("train", number) for number in range(108)]
    assert list(zip(domains.validation.names, domains.validation.labels.tolist(), strict=True)) == [rows[0], rows[100]]
    assert domains.source.names == tuple(name for i, (name, _) in enumerate(rows) if i not in (0, 100))
    assert domains.target.labels.tolist() == [name_of("validation", number)[1] for number in range(24)]
    assert domains.source.classes == tuple(sorted(visda.CLASSES)) and len(set(visda.CLASSES)) == 12
    for images in (domains.source, domains.validation, domains.target):
        _, image, label = images[1]
        assert image.shape == (3, 24, 24) and image.dtype == torch.uint8
        expected = torch.tensor([int(label) * 20, 100, 200]).view(3, 1, 1)
        assert (image.int() - expected).abs().max() <= 4, "the image belongs to its label (JPEG rounds)"


def test_renders_of_one_model_are_one_cluster():
    """Names as in the published list: the model's id, then yaw, light and pitch after two underscores."""
    names = [
        "aeroplane/src_2_02691156_4def53f1__44_349_150.png", "aeroplane/src_1_02691156_5d0d3f54__180_236_150.png",
        "aeroplane/src_2_02691156_4def53f1__180_12_150.png", "car/src_2_02691156_4def53f1__44_349_150.png",
        "plant/photo_1.jpg", "plant/photo_2.jpg",
    ]  # fmt: skip
    assert visda.models(names).tolist() == [0, 1, 0, 2, 3, 4]


def test_fingerprint_follows_list_and_size(tree):
    before = visda.load(tree, 24)
    assert visda.load(tree, 24).fingerprint == before.fingerprint
    assert visda.load(tree, 32).fingerprint != before.fingerprint
    edit_list(tree, "validation", row("validation", 0), "")
    changed = visda.load(tree, 24)
    assert changed.fingerprint != before.fingerprint and changed.target.fingerprint != before.target.fingerprint
    assert changed.source.fingerprint == before.source.fingerprint
    edit_list(tree, "train", row("train", 1), f"{name_of('train', 1)[0]} 4\n")
    assert visda.load(tree, 24).source.fingerprint != before.source.fingerprint


@pytest.mark.parametrize(
    "line", ["aeroplane/a.png", "aeroplane/a.png x", "aeroplane/a.png 12", "aeroplane/a.png -1", "7", ""]
)
def test_reader_names_the_faulty_line(tree, line):
    edit_list(tree, "train", row("train", 2), line + "\n")
    with pytest.raises(AsgError, match=r"train/image_list\.txt, line 3: expected 'class/file label', got ") as caught:
        visda.read_list(tree, "train")
    assert repr(line) in str(caught.value)


def test_reader_says_how_to_obtain_missing_data(tmp_path):
    with pytest.raises(AsgError, match=r"run `python data_scripts/visda17.py --to .*`"):
        visda.load(tmp_path, 24)
