"""A cache of weights that several users write to: what another one has put there neither counts nor holds up."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from freeze.test_weights import CONTENT, KEY, NAMED, SHA, config, refused, server  # noqa: F401
from users import ATTACKER, acting_as, needs_root, shared_folder

from ecm_cluster.freeze import model_urls, weight_cache, weights

URL = f"https://nowhere.invalid/{NAMED}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As an administrator makes one for all: 1777."""
    folder = shared_folder()
    monkeypatch.setenv(weight_cache.CACHE_ENV, str(folder))
    return folder


def record_of(path: Path, url: str, sha: str) -> None:
    there = path.stat()
    path.with_name(f"{path.name}.json").write_text(json.dumps(
        {"url": url, "sha256": sha, "size": there.st_size, "mtime_ns": there.st_mtime_ns}))


@needs_root
def test_a_lock_that_is_a_link_opens_nothing_to_anybody(cache, server, tmp_path):  # noqa: F811
    """It was followed, and the file behind it made writable for all."""
    bashrc = tmp_path / "bashrc"
    bashrc.write_text("mine")
    bashrc.chmod(0o600)
    locks = {f".{NAMED}.lock", f".{hashlib.sha256(NAMED.encode()).hexdigest()[:16]}-{os.geteuid()}.lock"}
    with acting_as(ATTACKER):
        for lock in locks:
            (cache / lock).symlink_to(bashrc)
    text = refused(config(server.offer(f"/{NAMED}")))
    assert f"{cache} cannot be written" in text
    assert weight_cache.CACHE_ENV in text
    assert bashrc.stat().st_mode & 0o777 == 0o600
    assert bashrc.read_text() == "mine"


@needs_root
def test_a_lock_that_another_user_holds_is_not_waited_for(cache, server):  # noqa: F811
    with acting_as(ATTACKER):
        for lock in (f".{NAMED}.lock", "x.lock"):
            (cache / lock).touch(mode=0o666)
            handle = os.open(cache / lock, os.O_RDWR)
            fcntl.flock(handle, fcntl.LOCK_EX)
    assert weights.fetch(weights.find(config(server.offer(f"/{NAMED}"))))[0].downloaded
    own = [path for path in cache.glob(".*.lock") if path.stat().st_uid == os.geteuid()]
    assert [path.stat().st_mode & 0o777 for path in own] == [0o600]


@needs_root
def test_a_record_of_another_user_vouches_for_nothing(cache):
    with acting_as(ATTACKER):
        (cache / NAMED).write_bytes(b"\x80\x02poisoned")
        record_of(cache / NAMED, URL, SHA)
    text = refused(config(URL))
    assert "not what its name promises" in text
    assert "belongs to another user" in text
    assert weight_cache.CACHE_ENV in text


@needs_root
def test_a_file_of_another_user_counts_where_its_digest_says_so(cache):
    with acting_as(ATTACKER):
        (cache / NAMED).write_bytes(CONTENT)
        (cache / f"{NAMED}.json").write_text("[" * 5000)
    assert weights.fetch(weights.find(config(URL)))[0].digest == f"sha256:{SHA}"
    with acting_as(ATTACKER):
        (cache / NAMED).write_bytes(CONTENT[:-1])
    assert "not what its name promises" in refused(config(URL))


@needs_root
@pytest.mark.parametrize("as_link", [False, True])
def test_a_file_of_another_user_that_nothing_vouches_for_is_refused(cache, tmp_path, as_link):
    with acting_as(ATTACKER):
        if as_link:
            (cache / "latest.pth").symlink_to("/etc/passwd")
        else:
            (cache / "latest.pth").write_bytes(CONTENT)
            record_of(cache / "latest.pth", "https://nowhere.invalid/latest.pth", SHA)
    text = refused(config("https://nowhere.invalid/latest.pth"))
    assert "belongs to another user" in text
    assert f"--set {KEY}=PATH" in text


@needs_root
def test_a_folder_that_a_colleague_alone_fills_is_trusted(cache):
    with acting_as(ATTACKER):
        own = cache / "of-a-colleague"
        own.mkdir(mode=0o755)
        (own / "latest.pth").write_bytes(CONTENT)
    weight, = weights.find(config("https://nowhere.invalid/latest.pth"), own)
    own.chmod(0o777)
    with pytest.raises(weights.UserError, match="belongs to another user"):
        weights.fetch([weight])
    own.chmod(0o755)
    assert weights.fetch([weight])[0].digest == f"sha256:{SHA}"


@needs_root
def test_records_that_cannot_be_replaced_do_not_end_a_fetch(cache, server):  # noqa: F811
    """In a folder with the sticky bit nobody renames over another's file."""
    (cache / f"{NAMED}.json").write_text("{}")
    url = server.offer(f"/{NAMED}")
    with acting_as(ATTACKER):
        assert weights.fetch(weights.find(config(url)))[0].downloaded
        assert not weights.fetch(weights.find(config(url)))[0].downloaded


@pytest.mark.parametrize(("url", "begins", "safe"), [
    ("https://host/a.pth", "", True), ("http://host/a.pth", "", False), ("http://host/a.pth", "0676ba61", True),
    ("http://localhost:8000/a.pth", "", True), ("http://127.0.0.1/a.pth", "", True), ("ftp://host/a.pth", "", False),
    ("http://localhost.evil.org/a.pth", "", False), ("file:///etc/passwd", "0676ba61", False)])
def test_what_anybody_on_the_way_can_change_is_not_fetched(url, begins, safe):
    assert model_urls.is_safe(url, begins) is safe


def test_weights_without_a_digest_are_not_fetched_unencrypted(server, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv(weight_cache.CACHE_ENV, str(tmp_path / "cache"))
    text = refused(config("http://host.example/latest.pth"))
    assert re.match(rf"{KEY}: http://host.example/latest.pth comes unencrypted.* https:// .*--set {KEY}=PATH", text)
    elsewhere = server.offer("/latest.pth", b"", 302, Location="http://host.example/latest.pth")
    assert "leads to http://host.example/latest.pth" in refused(config(elsewhere))
    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "latest.pth").write_bytes(CONTENT)
    assert weights.fetch(weights.find(config("http://host.example/latest.pth")))[0].digest == f"sha256:{SHA}"


def test_a_server_that_never_ends_is_given_up(server, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv(weight_cache.CACHE_ENV, str(tmp_path / "cache"))
    monkeypatch.setattr(weight_cache, "LARGEST", len(CONTENT) - 1)
    assert "gives more than" in refused(config(server.offer(f"/{NAMED}")))
    assert not (tmp_path / "cache" / NAMED).exists()


def test_who_has_no_home_is_reported_where_to_keep_weights_and_needs_nothing_without_any(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", weight_cache.CACHE_ENV):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert weights.find({"model": {"pretrained": None}}) == []
    assert f"{weight_cache.CACHE_ENV}: no home directory" in refused(config(URL))
    assert "home directory of ~ is unknown" in refused(config("~/mine.pth"))
