"""Folders as the doctor tries them: full, read-only, without locks, gone; and what quotas say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import shims
from answers import Answers
from small import ROOT
from users import ATTACKER, VICTIM, acting_as, needs_root, shared_folder

from ecm_cluster.diagnosis import asked, folder, sharing, storage
from ecm_cluster.job import job

UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]


def look(path: Path, *before: str, **env: str) -> dict[str, dict]:
    command = [*before, sys.executable, "-m", "ecm_cluster.diagnosis.folder", "runs", str(path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT), **env}, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    return {one["id"]: one for one in json.loads(done.stdout)}


def mounted(path: Path, options: str) -> list[str]:
    """What runs a command where a separate file system is mounted on a folder."""
    probe = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(path)], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this kernel lets nobody mount a file system of his own")
    return [*UNSHARE, "sh", "-c", f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"', str(path)]


def test_a_sound_folder_is_ok_and_nothing_stays_in_it(tmp_path):
    found = look(tmp_path / "not" / "yet")
    assert {name: one["state"] for name, one in found.items() if not name.endswith("room")} == {"folder.runs": "ok"}
    assert f"(does not exist yet; tested in {tmp_path})" in found["folder.runs"]["text"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "state", "text", "remedy"), [
    ("size=256k", "fails", "no space left (ENOSPC)", "ecm_cluster.clean"),
    ("size=64m,nr_inodes=3", "fails", "no space left (ENOSPC)", "another directory (--runs-dir)"),
    ("ro", "fails", "it is mounted read-only (EROFS)", "another directory (--runs-dir)"),
    ("size=64m,nr_inodes=100", "warning", "free inodes", "free some space")])
def test_a_folder_that_is_full_or_read_only_or_nearly_full_is_named(tmp_path, options, state, text, remedy):
    found = look(tmp_path, *mounted(tmp_path, options))["folder.runs" if state == "fails" else "folder.runs.room"]
    assert (found["state"], text in found["text"], remedy in found["remedy"]) == (state, True, True), found


def test_a_folder_in_memory_is_not_another_machines(tmp_path):
    found = look(tmp_path, *mounted(tmp_path, "size=64m"))
    assert (found["folder.runs"]["state"], found["folder.runs.memory"]["state"]) == ("ok", "warning")


def test_a_folder_of_another_user_and_a_file_in_its_place_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert look(tmp_path / "file" / "runs")["folder.runs"]["text"] == f"{tmp_path}/file is not a directory"
    nobody = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.geteuid() == 0 and shutil.which("setpriv") else []
    if subprocess.run([*nobody, sys.executable, "-c", ""], capture_output=True, check=False).returncode == 0:
        found = look(Path("/usr/share"), *nobody)  # a folder that anybody may look into
        assert found["folder.runs"]["state"] == "fails" and "EACCES" in found["folder.runs"]["text"]


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    return shims.build(tmp_path_factory.mktemp("shim"))


@pytest.mark.parametrize(("code", "text"), [("37", "files cannot be locked (ENOLCK)"),
                                            ("38", "files cannot be locked (ENOSYS)"),
                                            ("0", "two processes can hold the same lock")])
def test_a_folder_whose_locks_do_not_work_is_named(tmp_path, shim, code, text):
    found = look(tmp_path, LD_PRELOAD=str(shim), SHIM_FLOCK=code)["folder.runs"]
    assert found["state"] == "fails" and text in found["text"]


def test_a_file_server_whose_clock_differs_is_a_warning(tmp_path, shim):
    found = look(tmp_path, LD_PRELOAD=str(shim), SHIM_SKEW="-600")
    assert found["folder.runs.clock"]["state"] == "warning" and "+600 s" in found["folder.runs.clock"]["text"]


def test_a_file_server_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(storage, "SECONDS", 0.2)
    monkeypatch.setattr(storage.sys, "executable", str(slow))
    began = time.monotonic()
    found = list(storage.Looks({"runs": tmp_path}).findings())
    assert [(one.id, one.state) for one in found] == [("folder.runs", "fails")]
    assert "no answer within" in found[0].text and time.monotonic() - began < 20


# ---------------------------------------------------------------------------------------------- shared or not


def seen(path: Path, token: str = "t") -> dict[str, str]:
    return {one.id: f"{one.state}: {one.text}" for one in sharing.look("runs", path, token, "n1")}


def test_marks_of_the_login_node_are_seen_with_its_lock_and_gone_afterwards(tmp_path):
    runs = tmp_path / "a" / "runs"
    with sharing.laid_out(runs, "t") as own:
        assert seen(runs) == {"node.folder.runs": f"ok: {runs} is shared, with its locks"}
        assert sharing.answers(own, "t", ["n1", "n2"], 0.0) == ["n2"]
        other = tmp_path / "other"
        other.mkdir()
        assert "is not shared" in seen(other)["node.folder.runs"]
        assert seen(tmp_path / "none")["node.folder.runs"].startswith("fails")
        (own / "lock").unlink()
        (own / "lock").write_text("")  # nobody holds the lock of this file
        assert "the lock that the login node holds is not seen" in seen(runs)["node.folder.runs.lock"]
        (own / "token").write_text("older")
        assert "another file than the login node's" in seen(runs)["node.folder.runs"]
    assert list(tmp_path.iterdir()) == [other]


def test_a_folder_that_existed_stays(tmp_path):
    (tmp_path / "runs").mkdir()
    with sharing.laid_out(tmp_path / "runs", "t"):
        pass
    assert list((tmp_path / "runs").iterdir()) == []


# ---------------------------------------------------------------------------------------------- quotas

LINUX = """Disk quotas for user me (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
nfs:/home 10485760* 10000000 10485760   6days  1234       0       0
nfs:/data  500000  10000000 11000000           99999  100000  110000
nfs:/free  500000  10000000 11000000           10     100000  110000
nfs:/open  500000  0 0           10     0  0
"""
LUSTRE = "       /lustre  9900000  10000000 11000000       -   120       0       0       -\n"


def quotas(tmp_path, monkeypatch, **commands: str) -> dict[str, str]:
    answers = Answers(tmp_path, monkeypatch)
    for name, text in commands.items():
        (answers.folder / f"{name}.said").write_text(text)
        answers.script(name, f"cat {answers.folder}/{name}.said; exit 1\n")
    return {one.id: f"{one.state}: {one.text}" for one in storage.quotas(asked.Asked(job.make({}), "slurm", False))}


def test_a_quota_that_is_exceeded_or_nearly_so_is_named_by_file_system(tmp_path, monkeypatch):
    found = quotas(tmp_path, monkeypatch, quota=LINUX)
    assert {name: text.split(":")[0] for name, text in found.items()} == {
        "quota.nfs:/home": "fails", "quota.nfs:/data": "warning", "quota.nfs:/free": "ok"}
    assert "99,999 files of 100,000 files used in nfs:/data" in found["quota.nfs:/data"]


def test_lustre_is_asked_where_a_folder_is_on_it(tmp_path, monkeypatch):
    from ecm_cluster.base.disk import Filesystem

    monkeypatch.setattr(storage, "filesystem", lambda path: Filesystem("lustre", 1, 1))
    found = quotas(tmp_path, monkeypatch, lfs=LUSTRE)
    assert found["quota./lustre"].startswith("warning")


def test_without_a_quota_command_it_says_so(tmp_path, monkeypatch):
    assert quotas(tmp_path, monkeypatch) == {"quota.user": "not asked: there is no quota command here"}
    (tmp_path / "more").mkdir()
    found = quotas(tmp_path / "more", monkeypatch, quota="Disk quotas for user me (uid 0): none\n")
    assert found == {"quota.user": "ok: quota names no quota of yours"}


def test_every_folder_that_may_be_at_fault_can_be_named_otherwise():
    assert {*asked.Asked(job.make({}), "slurm", False).folders(), "scratch"} == set(folder.ELSEWHERE)


@needs_root
def test_a_folder_whose_content_others_can_replace_is_named():
    shared = shared_folder()
    lab, theirs = shared / "lab", shared / "theirs"
    for path, uid, mode in ((lab, VICTIM, 0o2775), (theirs, ATTACKER, 0o755), (shared / "own", VICTIM, 0o700)):
        path.mkdir()
        os.chown(path, uid, uid + 1 if path == lab else uid)
        path.chmod(mode)
    with acting_as(VICTIM):
        assert list(folder.changed_by_others(shared / "own")) == [], "the shared folder is sticky"
        assert list(folder.changed_by_others(lab)) == [f"{lab} is writable by group {VICTIM + 1}"]
        assert list(folder.changed_by_others(theirs)) == [f"{theirs} belongs to uid {ATTACKER}"]
        found = {one.id: one for one in folder.check("runs", lab)}
    assert found["folder.runs.others"].state == "warning"
