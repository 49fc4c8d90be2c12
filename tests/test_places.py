"""Where things are kept, in a checkout and without one; and packages that clients fetch, each fault by itself."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path

import pytest

from asg import AsgError, places
from asg.packages import Package, obtain
from asg.places import place, policies


def test_a_variable_goes_before_the_checkout_and_that_before_the_users_cache(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("ASG_DATA", str(tmp_path / "mine"))
    assert place("data") == tmp_path / "mine"
    for unset in ("", None):
        monkeypatch.setenv("ASG_DATA", unset) if unset is not None else monkeypatch.delenv("ASG_DATA")
        assert place("data") == places.CHECKOUT / "data"
    monkeypatch.setattr(places, "CHECKOUT", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert place("data") == tmp_path / "cache" / "asg" / "data"


def test_policies_come_with_the_package(monkeypatch, tmp_path: Path):
    monkeypatch.delenv("ASG_POLICIES", raising=False)
    assert policies() == places.CHECKOUT / "policies" and any(policies().glob("cartoon-asg.safetensors"))
    monkeypatch.setattr(places, "CHECKOUT", tmp_path)
    assert policies() == Path(places.__file__).parent / "policies"
    monkeypatch.setenv("ASG_POLICIES", str(tmp_path))
    assert policies() == tmp_path


def package(*client: str, again: tuple[str, ...] | None = None, content: bytes = b"whole") -> Package:
    return Package("the things", "things.whl", hashlib.sha256(content).hexdigest(), client, "the shelf", again)


WRITES = (sys.executable, "-c", "open('things.whl', 'w').write('whole')")
FAILS = (sys.executable, "-c", "import sys; sys.exit('no\\nway\\n')")


def test_a_package_is_fetched_once_by_its_client_or_the_second_one(tmp_path: Path, caplog):
    for k, made in enumerate((package(*WRITES), package(*FAILS, again=WRITES))):
        downloads = tmp_path / str(k)
        downloads.mkdir()
        with caplog.at_level(logging.INFO, "asg"):
            assert obtain(made, None, downloads).read_text() == "whole"
            (message,) = caplog.messages
            assert message.startswith("fetching the things")
            obtain(made, None, downloads)
            assert caplog.messages == [message]
        caplog.clear()
        assert [p.name for p in downloads.iterdir()] == ["things.whl"]


def test_what_goes_wrong_is_said_with_the_remedy(tmp_path: Path):
    for made, words in (
        (package("no-such-client"), r"no-such-client is not on this machine.*Fetch things\.whl from the shelf"),
        (package(*FAILS), r"failed \(way\)\. Fetch things\.whl from the shelf by any means and put it into"),
        (
            package(*WRITES, content=b"other"),
            r"wrong checksum .*remove it and obtain things\.whl again, from the shelf",
        ),
    ):
        with pytest.raises(AsgError, match=words):
            obtain(made, None, tmp_path)
    with pytest.raises(AsgError, match=r"absent\.whl does not exist: give the file things\.whl, from the shelf"):
        obtain(package(*WRITES), tmp_path / "absent.whl", tmp_path)
