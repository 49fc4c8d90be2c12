"""Indexed files of a GitHub repository: from archives of every form, trees and a server, and each fault by itself."""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import github
from archives import run
from asg import AsgError
from asg.data.indexed import content_of, fault_at
from github import Part, Repository, obtain

PETS = Repository("someone", "pets", "c0ffee" * 6 + "beef", "images")
FILES = {f"{kind}/{i}.jpg": f"{kind} {i} ".encode() * (50 + i) for kind in ("cat", "dog") for i in range(6)}
INDEX = tuple(
    {"path": path, "bytes": str(len(content)), "sha256": hashlib.sha256(content).hexdigest()}
    for path, content in FILES.items()
)
FORMS = ("pets.tar", "any name.tar.gz", "x.tgz", "y.ZIP")
URL = f"https://codeload.github.com/someone/pets/tar.gz/{PETS.commit}"


def entries(files: dict[str, bytes] = FILES, top: str = PETS.tree) -> dict[str, bytes]:
    """What GitHub's archive holds: also files that no index lists."""
    return {f"{top}/README.md": b"pets", **{f"{top}/images/{p}": c for p, c in files.items()}, f"{top}/z": b"z"}


def pack(path: Path, held: dict[str, bytes]) -> Path:
    """An archive of the form that its name says, folders first as GitHub has them."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{next(iter(held)).split('/')[0]}/", b"")
            for name, content in held.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz", pax_headers={"comment": PETS.commit}) as archive:
        top = tarfile.TarInfo(next(iter(held)).split("/")[0])
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name, content in held.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def unpacked(folder: Path, files: dict[str, bytes] = FILES) -> None:
    for path, content in files.items():
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / path).write_bytes(content)


def held(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def given(tmp_path) -> Path:
    folder = tmp_path / "given"
    folder.mkdir()
    return folder


@pytest.fixture
def part(tmp_path) -> Part:
    return Part(PETS, INDEX, tmp_path / "pets")


def taken(part: Part, given: Path | None) -> dict[str, bytes]:
    obtain([part], given, part.to.parent / "downloads")
    return held(part.to)


# ---- a folder given by hand ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_an_archive_of_any_form_and_name_gives_the_indexed_files_and_no_others(name, part, given, capsys):
    pack(given / name, entries())
    pack(given / "a other.tar", entries(top="pets-main"))  # sorted first, but of no commit
    assert taken(part, given) == FILES
    assert f"pets: 12 files taken from {given / name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", [PETS.tree, "pets", "."])
def test_an_unpacked_tree_gives_the_same(name, part, given):
    unpacked(given / name)
    assert taken(part, given) == FILES


def test_a_repository_without_a_folder_of_interest(tmp_path, given):
    repository = Repository("someone", "pets", PETS.commit)
    index = tuple({**row, "path": f"images/{row['path']}"} for row in INDEX)
    pack(given / "a.tar", entries())
    assert taken(Part(repository, index, tmp_path / "pets"), given) == {f"images/{p}": c for p, c in FILES.items()}


def test_what_is_there_and_right_is_not_obtained_again(part, given, capsys):
    pack(given / "a.tar", entries())
    taken(part, given)
    times = {p: p.stat().st_mtime_ns for p in part.to.rglob("*.jpg")}
    (part.to / "cat/1.jpg").unlink()
    (part.to / "dog/2.jpg").write_bytes(b"other")
    capsys.readouterr()
    assert taken(part, given) == FILES
    assert "pets: 2 files taken from" in capsys.readouterr().out
    changed = {p.relative_to(part.to).as_posix() for p in times if p.stat().st_mtime_ns != times[p]}
    assert changed == {"cat/1.jpg", "dog/2.jpg"}
    assert taken(part, None) == FILES, "and nothing is looked for where nothing is wanted"
    assert "taken" not in capsys.readouterr().out


def test_two_parts_of_one_repository_share_its_archive(tmp_path, given):
    pack(given / "a.tar", entries())
    cats, dogs = INDEX[:6], INDEX[6:]
    obtain([Part(PETS, cats, tmp_path / "1"), Part(PETS, dogs, tmp_path / "2")], given, tmp_path)
    assert {*held(tmp_path / "1")} == {row["path"] for row in cats}
    assert {*held(tmp_path / "2")} == {row["path"] for row in dogs}


def test_a_folder_that_does_not_exist_or_holds_nothing_of_use(part, given):
    with pytest.raises(AsgError, match=r"The folder .*nowhere does not exist: give the one that holds"):
        taken(part, given / "nowhere")
    pack(given / "main.tar", entries(top="pets-main"))
    (given / "cut.zip").write_bytes(pack(given / "whole.ZIP", entries()).read_bytes()[:300])
    (given / "whole.ZIP").unlink()
    (given / "empty.tar").touch()
    with pytest.raises(AsgError) as error:
        taken(part, given)
    assert str(error.value) == (
        f"{given} holds neither the tree nor an archive of {PETS.tree} (cut.zip, empty.tar cannot be read): "
        f"fetch {URL} by any means into it and run again."
    )
    assert not part.to.exists()


# ---- faults of what is given -----------------------------------------------------------------------------------------

ALTERED = {**FILES, "cat/3.jpg": FILES["cat/3.jpg"][:-1] + b"?", "dog/1.jpg": FILES["dog/1.jpg"][:40]}
del ALTERED["dog/5.jpg"]
SENTENCE = "missing: 1 (images/dog/5.jpg), cut short: 1 (images/dog/1.jpg), altered: 1 (images/cat/3.jpg)"


@pytest.mark.parametrize("name", FORMS)
def test_missing_cut_and_altered_files_of_an_archive_are_named_and_the_others_kept(name, part, given):
    pack(given / name, entries(ALTERED))
    with pytest.raises(AsgError) as error:
        taken(part, given)
    assert str(error.value) == (
        f"{given / name} does not hold what was published; {SENTENCE}: remove it and obtain it again from {URL}."
    )
    assert held(part.to).items() == FILES.items() & ALTERED.items()


def test_missing_cut_and_altered_files_of_a_tree_are_named(part, given):
    unpacked(given, ALTERED)
    with pytest.raises(AsgError) as error:
        taken(part, given)
    assert str(error.value) == (f"{given} does not hold what was published; {SENTENCE}: obtain them again from {URL}.")


@pytest.mark.parametrize("name", FORMS[:3])
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_truncated_archive_is_named_and_what_it_had_is_kept(name, share, part, given):
    noise = {path: hashlib.shake_256(path.encode()).digest(9000) for path in FILES}  # cannot be compressed
    index = tuple({"path": p, "bytes": str(len(c)), "sha256": hashlib.sha256(c).hexdigest()} for p, c in noise.items())
    archive = pack(given / name, entries(noise)).read_bytes()
    (given / name).write_bytes(archive[: int(share * len(archive))])
    part = Part(PETS, index, part.to)
    with pytest.raises(AsgError, match=r"is not a sound archive \(.+\): remove it and obtain it again from https"):
        taken(part, given)
    assert 3 <= len(held(part.to)) < 12 and held(part.to).items() <= noise.items()
    pack(given / name, entries(noise))
    assert taken(part, given) == noise


@pytest.mark.parametrize("name", FORMS[1:])
def test_a_damaged_archive_writes_nothing_that_is_wrong(name, part, given):
    noise = {path: hashlib.shake_256(path.encode()).digest(9000) for path in FILES}
    index = tuple({"path": p, "bytes": str(len(c)), "sha256": hashlib.sha256(c).hexdigest()} for p, c in noise.items())
    content = bytearray(pack(given / name, entries(noise)).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20] = bytes(20)
    (given / name).write_bytes(content)
    with pytest.raises(AsgError, match=r"is not a sound archive|not hold what was published; .*altered: "):
        taken(Part(PETS, index, part.to), given)
    assert held(part.to).items() <= noise.items()


def test_links_and_paths_that_lead_out_are_never_followed(part, given):
    with tarfile.open(given / "a.tar", "w") as archive:
        for name, kind in ((f"{PETS.tree}/images/cat/0.jpg", tarfile.SYMTYPE), (f"{PETS.tree}/../../evil", b"0")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member, io.BytesIO())
    with pytest.raises(AsgError, match="missing: 12"):
        taken(part, given)
    assert held(part.to) == {}


# ---- the disk, and a run that is stopped -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device): free some space or choose"),
        (KeyboardInterrupt(), "Interrupted: run again to continue."),
    ],
)
def test_a_run_that_stops_midway_keeps_whole_files_only_and_continues(
    fault, expected, part, given, capsys, monkeypatch
):
    pack(given / "a.tar", entries())
    write, calls = Path.write_bytes, []

    def stop(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == 6:
            write(path, content[:10])
            raise fault
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", stop)
    assert run(part.to, lambda: taken(part, given)) == 1
    message = capsys.readouterr().err.split("\r")[-1].strip()
    assert expected in message and "\n" not in message
    assert len(held(part.to)) == 5 and held(part.to).items() <= FILES.items()
    monkeypatch.undo()
    assert taken(part, given) == FILES
    assert "pets: 7 files taken from" in capsys.readouterr().out


def test_too_little_room_is_said_before_anything_is_written(part, given, monkeypatch):
    pack(given / "a.tar", entries())
    usage = shutil.disk_usage(given)._replace(free=sum(map(len, FILES.values())) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(AsgError, match="GB are needed: free some space or choose another folder with --to"):
        taken(part, given)
    assert held(part.to) == {}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=usage.free + 1))
    assert taken(part, given) == FILES


# ---- download --------------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        self.server.asked.append(self.path)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on 127.0.0.1 that has the archive where GitHub has it; what it was asked for."""
    path = tmp_path / "served" / "someone" / "pets" / "tar.gz" / PETS.commit
    path.parent.mkdir(parents=True)
    pack(tmp_path / "a.tar.gz", entries()).rename(path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served")) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        url = Repository.url.fget
        monkeypatch.setattr(
            Repository, "url", property(lambda self: url(self).replace("https://codeload.github.com", address))
        )
        yield server.asked
        server.shutdown()
        thread.join()


def test_the_address_is_githubs_archive_of_the_commit():
    assert PETS.url == URL


def test_download_keeps_the_archive_and_fetches_it_once(served, part, tmp_path):
    cats, dogs = Part(PETS, INDEX[:6], tmp_path / "1"), Part(PETS, INDEX[6:], tmp_path / "2")
    obtain([cats, dogs], None, tmp_path / "downloads")
    assert {**held(tmp_path / "1"), **held(tmp_path / "2")} == FILES
    assert list(held(tmp_path / "downloads")) == [f"{PETS.tree}.tar.gz"]
    assert taken(part, None) == FILES, "a third part finds the archive there"
    assert served == [f"/someone/pets/tar.gz/{PETS.commit}"]


def test_a_kept_download_that_was_damaged_is_named(served, part, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / PETS.archive).write_bytes(b"no archive")
    with pytest.raises(
        AsgError, match=rf"{PETS.archive} is not a sound archive \([^\n]+\): remove it and obtain it again"
    ):
        taken(part, None)


def test_without_network_one_sentence_has_every_address_and_the_option(tmp_path, monkeypatch):
    closed = property(lambda self: f"http://127.0.0.1:9/{self.name}")  # the discard port: nothing listens
    monkeypatch.setattr(Repository, "url", closed)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    parts = [Part(Repository("a", name, "1"), INDEX, tmp_path / name) for name in ("pets", "birds")]
    with pytest.raises(AsgError) as error:
        obtain(parts, None, tmp_path / "downloads")
    pattern = (
        r"Cannot download http://127\.0\.0\.1:9/pets \(.+\): run again to continue, or fetch http://127\.0\.0\.1:9/pets, "
        r"http://127\.0\.0\.1:9/birds by any means and pass the folder that holds them: --from DIR\."
    )
    assert re.fullmatch(pattern, str(error.value))


# ---- what is there ---------------------------------------------------------------------------------------------------


def test_require_names_every_kind_of_fault_and_the_script(part):
    for path, content in ALTERED.items():
        github.write(part.to / path, content)
    with pytest.raises(AsgError) as error:
        github.require([part], "pets")
    assert str(error.value) == (
        f"{part.to} is not as published; {SENTENCE.replace('images/', '')}: run `python data_scripts/pets.py`."
    )
    for path, content in FILES.items():
        github.write(part.to / path, content)
    github.require([part], "pets")


def test_a_reader_gets_published_bytes_or_a_sentence(part):
    unpacked(part.to, ALTERED)
    root, rows = part.to / "images", {row["path"]: row for row in INDEX}
    assert content_of(root, rows["cat/0.jpg"], "do so.") == FILES["cat/0.jpg"]
    assert fault_at(root, rows["cat/0.jpg"]) is None
    for path, fault in (("dog/5.jpg", "missing"), ("dog/1.jpg", "cut short"), ("cat/3.jpg", "altered")):
        assert fault_at(root, rows[path]) == fault
        with pytest.raises(AsgError) as error:
            content_of(root, rows[path], "do so.")
        assert str(error.value) == f"The benchmark's file {root / path} is {fault}: do so."
