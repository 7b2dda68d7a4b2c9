"""Packs and scratch folders that another user has made: nothing in them is used before it is checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from staging.making import A, make_pack
from staging.roots import call, small_root
from users import ATTACKER, VICTIM, environment, home_of, needs_root, run_as, shared_folder

from ecm_cluster.base.errors import UserError
from ecm_cluster.base.reading import Unreadable
from ecm_cluster.pack import manifest
from ecm_cluster.pack.manifest import INDEX_FILE, Location, Pack
from ecm_cluster.staging import copying, reader
from ecm_cluster.staging.scratch import Scratch

SMALL = {A: 1000, "images/b-00000.tar": 500}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Pack:
    return make_pack(tmp_path_factory.mktemp("shared") / "lvis.pack", SMALL)


@pytest.fixture
def own(made: Pack, tmp_path: Path) -> Path:
    shutil.copytree(made.path, tmp_path / "own.pack")
    return tmp_path / "own.pack"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any], honest: bool = True) -> None:
    """Change pack.json; ``honest`` gives it the digest of its new content."""
    record = json.loads((folder / "pack.json").read_text())
    change(record)
    if honest:
        content = {key: record.get(key) for key in ("format", "images", "files", "annotations")}
        record["digest"] = f"{manifest.checksum(json.dumps(content, sort_keys=True).encode()):016x}"
    (folder / "pack.json").write_text(json.dumps(record))


# -------------------------------------------------------------------------------------------------------- pack.json

HOSTILE = [
    ("digest", lambda r: r.update(digest="../../../../home/victim/.ssh"), False),
    ("digest", lambda r: r.update(digest="0" * 16), False),
    ("digest", lambda r: r.update(digest=None), False),
    ("images", lambda r: r.update(images="3"), True),
    ("images", lambda r: r.update(images=10**30), True),
    ("images", lambda r: r.update(images=-1), True),
    ("images", lambda r: r.update(images=True), True),
    ("files", lambda r: r.update(files=None), True),
    ("files", lambda r: r.pop("files"), True),
    ("files[0]", lambda r: r["files"].__setitem__(0, "images"), True),
    ("files[0].size", lambda r: r["files"][0].update(size="5"), True),
    ("files[0].size", lambda r: r["files"][0].update(size=None), True),
    ("files[0].size", lambda r: r["files"][0].update(size=10**30), True),
    ("files[0].blocks", lambda r: r["files"][0].update(size=2**40), True),
    ("files[0].blocks", lambda r: r["files"][0].update(blocks="00"), True),
    ("files[0].blocks", lambda r: r["files"][0].update(blocks=""), True),
    ("files[0].blocks", lambda r: r["files"][0].update(blocks="x" * 16), True),
    ("files[0].kind", lambda r: r["files"][0].update(kind="symlink"), True),
    ("files[0].kind", lambda r: r["files"][0].update(kind="index"), True),
    ("files[2].kind", lambda r: r["files"][2].update(kind="images"), True),
    ("files", lambda r: r["files"].append(r["files"][0]), True),
    ("files", lambda r: r["files"].append({**r["files"][0], "name": f"{A}/deeper"}), True),
    ("files", lambda r: r["files"].pop(2), True),  # images without an index
    *[("files[0].name", lambda r, name=name: r["files"][0].update(name=name), True)
      for name in ("../x", "/etc/x", "a/../../x", "", "a//b", "a\0b", "\ud800", "x" * 300, "pack.json", "manifest.json",
                   "lease", "copy.lock", "damaged/x", "a.tmp", 5)],
    ("annotations[0].name", lambda r: r["annotations"][0].update(name="../../x"), True),
    ("annotations[0].columns", lambda r: r["annotations"][0].update(columns="elsewhere"), True),
    ("annotations[0].columns", lambda r: r["annotations"][0].update(columns=A), True),
    ("annotations[0].groups", lambda r: r["annotations"][0].update(groups=["z"]), True),
    ("annotations[0].groups", lambda r: r["annotations"][0].update(groups="a"), True),
    ("annotations[0].digest", lambda r: r["annotations"][0].update(digest="md5:1"), True),
    ("annotations", lambda r: r["annotations"].append(r["annotations"][0]), True),
]


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        manifest.read(folder)
    said = str(error.value)
    assert "\n" not in said and len(said) < 400 and "pack the data again" in said
    return said


def test_what_a_pack_says_of_itself_is_checked_when_it_is_read(own):
    rewrite(own, lambda r: r["annotations"].append({"name": "annotations/a.json", "digest": f"sha256:{1:064}",
                                                    "columns": "annotations/a.columns", "groups": ["a"]}))
    manifest.read(own)
    before = (own / "pack.json").read_text()
    for field, change, honest in HOSTILE:
        rewrite(own, change, honest)
        assert refusal(own).startswith(f"pack: {own}/pack.json cannot be read ({field}")
        (own / "pack.json").write_text(before)


@pytest.mark.parametrize("verb", ["copy", "verify"])
def test_a_pack_that_says_something_impossible_is_one_line_and_nothing_is_written(own, tmp_path, capsys, verb):
    rewrite(own, lambda r: r.update(digest="../../../x"), honest=False)
    (tmp_path / "scratch").mkdir()
    assert call(verb, own, *([tmp_path / "scratch"] if verb == "copy" else [])) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: pack: ") and "(digest: invalid value '../../../x'; expected 16 hexa" in said
    assert said.count("\n") == 1 and list((tmp_path / "scratch").iterdir()) == []


def test_a_pack_json_that_is_none_is_one_line(own):
    for text in ("", "[]", "null", "5", "[" * 100_000, '{"format": ' + "1" * 5000 + "}", "{" * 9, "\0", '{"format": 1}',
                 '{"format": true}', '{"format": [1]}', '{"format": 1.0e999}'):
        (own / "pack.json").write_text(text)
        assert str(own) in refusal(own)


def test_a_file_of_a_pack_that_is_a_pipe_or_a_device_is_not_waited_for(own, tmp_path, capsys):
    (own / A).unlink()
    os.mkfifo(own / A)
    assert call("copy", own, tmp_path) == 1 and call("verify", own) == 1
    (own / A).unlink()
    (own / A).symlink_to("/dev/zero")
    assert call("copy", own, tmp_path) == 1
    said = capsys.readouterr()
    assert said.err.count("not a regular file") == 2 and said.err.count("\n") == 2 and "not a regular file" in said.out


# ----------------------------------------------------------------------------------------------------------- index


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Flip a bit as a disk does: size and time stamp stay."""
    before = path.stat()
    with open(path, "r+b") as handle:
        handle.seek(at)
        byte = handle.read(1)
        handle.seek(at)
        handle.write(bytes([byte[0] ^ 1 << bit]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_any_flipped_bit_in_the_index_of_a_copy_is_seen_and_the_pack_s_own_index_is_used(made, tmp_path):
    staged = copying.stage(made, made.files, Scratch(tmp_path))
    copy = staged.folder / INDEX_FILE
    names = list(made.open_index())
    for at in range(copy.stat().st_size):
        flip(copy, at, at % 8)
        images = reader.PackedImages(made, staged.folder)
        assert [images.find(name) for name in names] == [made.open_index().find(name) for name in names], at
        flip(copy, at, at % 8)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [lambda p: flip(p, 30), lambda p: p.write_bytes(b""), lambda p: os.truncate(p, 50),
                                  lambda p: p.write_bytes(p.read_bytes() + b"x"), lambda p: p.unlink(),
                                  lambda p: (p.unlink(), p.mkdir()), lambda p: (p.unlink(), os.mkfifo(p))])
def test_a_damaged_index_in_a_copy_is_repaired_at_the_next_start(made, tmp_path, harm):
    staged = copying.stage(made, made.files, Scratch(tmp_path))
    harm(staged.folder / INDEX_FILE)
    assert reader.PackedImages(made, staged.folder).find("train2017/1.jpg") is not None
    copying.stage(made, made.files, Scratch(tmp_path))
    assert (staged.folder / INDEX_FILE).read_bytes() == (made.path / INDEX_FILE).read_bytes()
    assert copying.repair(Scratch(tmp_path).sets()[0], made).source == "there"


@pytest.mark.parametrize("harm, said", [(lambda p: flip(p, 30), "damaged"), (lambda p: p.unlink(), "does not exist"),
                                        (lambda p: p.write_bytes(b""), "is not an index"),
                                        (lambda p: (p.unlink(), os.mkfifo(p)), "not a regular file")])
def test_a_pack_whose_own_index_is_damaged_is_one_line_with_file_and_remedy(own, harm, said):
    harm(own / INDEX_FILE)
    with pytest.raises(Unreadable, match=said) as error:
        reader.PackedImages(manifest.read(own))
    assert f"{own}/{INDEX_FILE}" in str(error.value) and "\n" not in str(error.value)


def test_columns_in_a_copy_are_read_once_and_those_of_the_pack_are_used_where_a_bit_is_wrong(made, tmp_path):
    staged = copying.stage(made, made.files, Scratch(tmp_path))
    name = "annotations/a.columns"
    assert reader.right_copy(made, name, staged.folder) == staged.folder / name
    flip(staged.folder / name, 77)
    assert reader.right_copy(made, name, staged.folder) is None
    assert copying.stage(made, made.files, Scratch(tmp_path)).repaired == made.file(name).size
    assert reader.right_copy(made, name, staged.folder) == staged.folder / name
    (staged.folder / name).unlink()
    assert reader.right_copy(made, name, staged.folder) is None


@pytest.mark.parametrize("place", [Location(9, 0, 1, 0), Location(0, 0, 1001, 0), Location(1, 500, 1, 0),
                                   Location(0, 2**63, 2**63, 0), Location(0, 2**64 - 1, 1, 0)])
def test_an_index_that_leads_out_of_the_files_of_its_pack_is_refused(own, place):
    with open(own / INDEX_FILE, "wb") as handle:
        manifest.write_index(handle, [("a.jpg", place), ("b.jpg", Location(0, 0, 10, 0))])
    data = (own / INDEX_FILE).read_bytes()
    rewrite(own, lambda r: r["files"][2].update(size=len(data), blocks=f"{manifest.checksum(data):016x}"))
    images = reader.PackedImages(manifest.read(own))
    with pytest.raises(Unreadable, match=r"index.bin: image \d is outside of the pack's files"):
        images.get("a.jpg")
    assert images.find("b.jpg") is not None


# --------------------------------------------------------------------------------------------------------- threads


def test_a_copy_that_no_thread_could_make_fails_and_says_so(made, tmp_path, monkeypatch, capsys):
    from ecm_cluster.staging import streams

    def nothing_left(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(streams.mmap, "mmap", nothing_left)
        assert call("copy", made.path, tmp_path) == 1
    said = capsys.readouterr()
    assert "none could read a block ([Errno 12] Cannot allocate memory)" in said.err and said.err.count("\n") == 1
    assert call("copy", made.path, tmp_path) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(streams.mmap, "mmap", nothing_left)
        assert call("verify", tmp_path) == 1
    assert "right" not in capsys.readouterr().out


def test_where_no_more_threads_can_be_started_those_that_there_are_do_it_all(made, tmp_path, monkeypatch):
    from ecm_cluster.staging import streams

    started = []

    class Scarce(streams.threading.Thread):
        def start(self) -> None:
            if sum(thread.is_alive() for thread in started) >= allowed:
                raise RuntimeError("can't start new thread")
            started.append(self)
            super().start()

    monkeypatch.setattr(streams.threading, "Thread", Scarce)
    allowed = 0
    with pytest.raises(UserError, match="can't start new thread"):
        copying.stage(made, made.files, Scratch(tmp_path))
    allowed = 1
    assert copying.stage(made, made.files, Scratch(tmp_path)).copied == sum(f.size for f in made.files)


# ------------------------------------------------------------------------------------------------------- two users


STAGE = [sys.executable, "-m", "ecm_cluster.stage"]


@needs_root
@pytest.mark.slow
def test_a_pack_of_another_user_writes_nowhere_but_into_the_scratch_of_the_one_who_copies_it():
    shared = shared_folder()
    home = home_of(VICTIM, shared)
    scratch, keys = home / "scratch", home / ".ssh" / "authorized_keys"
    for folder in (scratch, keys.parent):
        folder.mkdir()
        os.chown(folder, VICTIM, VICTIM)
    keys.write_text("the victim's own\n")
    os.chown(keys, VICTIM, VICTIM)
    evil = make_pack(shared / "evil.pack", {"images/a-00000.tar": 10}).path
    (evil / "authorized_keys").write_text("the attacker's\n")
    rewrite(evil, lambda r: r.update(digest=str(keys.parent), images=0, files=[
        {"name": "authorized_keys", "size": 15, "kind": "annotations", "group": "",
         "blocks": f"{manifest.checksum((evil / 'authorized_keys').read_bytes()):016x}"}]), honest=False)
    for path in (evil, *evil.rglob("*")):
        os.chown(path, ATTACKER, ATTACKER)
    done = run_as(VICTIM, *STAGE, "copy", str(evil), str(scratch), env=environment(home))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "digest" in done.stderr
    assert keys.read_text() == "the victim's own\n" and list(scratch.iterdir()) == []


@needs_root
@pytest.mark.slow
def test_what_another_user_put_where_a_scratch_or_a_pack_belongs_is_not_used():
    shared = shared_folder()
    home = home_of(VICTIM, shared)
    root = home / "root"
    small_root(root)
    for path in (root, *root.rglob("*")):
        os.chown(path, VICTIM, VICTIM)
    (home / "secret").mkdir(mode=0o700)
    os.chown(home / "secret", VICTIM, VICTIM)
    env = environment(home)
    # a link that leads to a folder of the victim, where the pack is being made
    planted = [f"import os; os.symlink({str(home / 'secret')!r}, {str(shared / 'lvis.pack.partial')!r})",
               f"import os; os.mkdir({str(shared / 'other.pack.partial')!r}); "
               f"os.chmod({str(shared / 'other.pack.partial')!r}, 0o777); "
               f"os.symlink({str(home / 'secret')!r}, {str(shared / 'other.pack.partial/annotations')!r})",
               f"import os; os.symlink({str(home / 'secret')!r}, {str(shared / f'ecm-cluster-{VICTIM}')!r})"]
    for text in planted:
        assert run_as(ATTACKER, sys.executable, "-c", text, env=environment(home)).returncode == 0
    for out in ("lvis.pack", "other.pack"):
        done = run_as(VICTIM, *STAGE, "pack", str(root), str(shared / out), env=env)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done
        assert f"{shared / out}.partial" in done.stderr and "another OUT" in done.stderr
    assert run_as(VICTIM, *STAGE, "pack", str(root), str(home / "lvis.pack"), env=env).returncode == 0
    done = run_as(VICTIM, *STAGE, "copy", str(home / "lvis.pack"), str(shared), env=env)
    assert done.returncode == 2 and "not your directory" in done.stderr and done.stderr.count("\n") == 1
    assert list((home / "secret").iterdir()) == []


# ----------------------------------------------------------------------------------------------- the place fails


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["ulimit -n 8", "ulimit -v 80000", "ulimit -f 0", "true"])
def test_a_place_that_gives_too_little_is_one_line_and_the_command_can_be_run_again(made, tmp_path, limit):
    small_root(tmp_path / "root", 40, 10)
    commands = [[*STAGE, "pack", "root", "root.pack"], [*STAGE, "copy", str(made.path), "scratch"],
                [*STAGE, "verify", "scratch"]]
    (tmp_path / "scratch").mkdir()
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    for n, command in enumerate(commands):
        done = subprocess.run(["bash", "-c", f'{limit}; exec "$@"', "bash", *command], cwd=tmp_path, env=env, text=True,
                              capture_output=True, check=False)
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr, (command, done)
        assert done.returncode == 0 or len((done.stderr + done.stdout).splitlines()) <= 2, (command, done)
        assert n == 2 or subprocess.run(command, cwd=tmp_path, env=env, capture_output=True).returncode == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root", "root.pack", "scratch"]
