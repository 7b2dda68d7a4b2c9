"""A run in one file: complete without its checkpoints, free of secrets, the same bytes each time."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from small import ROOT, job_flags, state_now, verb
from steering import SCORED, ended_run

from ecm_cluster import archive, status
from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.console import cli
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

SECRET = "s3cret-of-the-run"


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    monkeypatch.chdir(tmp_path)
    made = ended_run(tmp_path / "runs" / "first", iterations=(10, 20))
    (made.path / "code" / "ecm_cluster").mkdir(parents=True)
    (made.path / "code" / "ecm_cluster" / "x.py").write_text("x = 1\n")
    for path in (made.env_file, made.notify_file, made.lock_file, made.task_pickle("train"), made.rendezvous_file(1),
                 made.notice_file("done", 1)):
        path.parent.mkdir(exist_ok=True)
        path.write_text(SECRET)
    (tmp_path / "outside").write_text(SECRET)
    (made.logs_dir / "link").symlink_to(tmp_path / "outside")
    (made.logs_dir / "folder").symlink_to(tmp_path)
    os.mkfifo(made.logs_dir / "pipe")
    work = evaluations.evaluation_of(made, checkpoints.accepted(made)[1], {})
    work.detections_dir.mkdir(parents=True)
    work.chunk_file(0).write_bytes(b"boxes")
    files.write_json(work.metrics_file(), SCORED)
    return made


def call(capsys, *words: object) -> str:
    assert cli.run(archive.main, [str(word) for word in words]) == 0
    return capsys.readouterr().out


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return [member.name for member in tar.getmembers()]


def test_it_leaves_out_checkpoints_detections_links_and_secrets(capsys, run, tmp_path):
    said = call(capsys, run.path)
    assert said.startswith("wrote first.tar.gz: ") and "warning" not in said
    for text in ("6 secret or temporary files", "2 checkpoints", "1 files of detections", "3 links and other special"):
        assert text in said
    inside = names(tmp_path / "first.tar.gz")
    assert {"first/run.json", "first/config.py", "first/code/ecm_cluster/x.py",
            "first/checkpoints/iter_0000020-a0001.json"} <= set(inside)
    with tarfile.open(tmp_path / "first.tar.gz") as tar:
        for member in tar.getmembers():
            assert member.isreg() and (member.uid, member.uname, member.mode & ~0o111) == (0, "", 0o644)
            data = tar.extractfile(member)
            assert data is not None and SECRET.encode() not in data.read()


def test_it_is_the_same_bytes_each_time_and_overwrites_nothing(capsys, run, tmp_path):
    call(capsys, "first", "--runs-dir", run.path.parent, "-o", "one.tgz")
    call(capsys, "first", "--runs-dir", run.path.parent, "-o", "two.tgz")
    assert (tmp_path / "one.tgz").read_bytes() == (tmp_path / "two.tgz").read_bytes()
    before = (tmp_path / "one.tgz").stat().st_mtime_ns
    assert cli.run(archive.main, [str(run.path), "-o", "one.tgz"]) == 2
    assert capsys.readouterr().err == f"error: output: {tmp_path}/one.tgz exists; delete it, or use another -o FILE\n"
    assert (tmp_path / "one.tgz").stat().st_mtime_ns == before


@pytest.mark.parametrize("words, why", [
    (("-o", "missing/x.tgz"), "output: "), (("-o", "runs/first/x.tgz"), "output: "),
    (("-o", "runs"), "output: "),
])
def test_where_it_cannot_be_written_is_one_line(capsys, run, tmp_path, words, why):
    assert cli.run(archive.main, [str(run.path), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {why}") and err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "runs"]


def test_the_last_checkpoint_and_the_detections_come_along_on_request(capsys, run, tmp_path):
    call(capsys, run.path, "--with-last", "--with-detections")
    inside = [name for name in names(tmp_path / "first.tar.gz") if name.endswith((".pth", ".npz"))]
    assert len(inside) == 2 and "first/checkpoints/iter_0000020-a0001.pth" in inside
    empty = ended_run(tmp_path / "runs" / "empty")
    assert cli.run(archive.main, [str(empty.path), "--with-last"]) == 2
    assert "has no checkpoint; leave out --with-last" in capsys.readouterr().err
    assert not (tmp_path / "empty.tar.gz").exists()


@pytest.mark.slow
def test_the_unpacked_archive_of_a_real_run_says_what_the_run_says(capsys, tmp_path, small_data):
    verb("submit", *job_flags(small_data, tmp_path / "runs", "first"), "--cluster", "local", "--wait", "--no-check")
    run = Run(tmp_path / "runs" / "first")
    verb("archive", run.path, cwd=tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with tarfile.open(tmp_path / "first.tar.gz") as tar:
        tar.extractall(tmp_path / "elsewhere")
    copy = Run(tmp_path / "elsewhere" / "first")
    before, after = state_now(run), state_now(copy)
    different = {key for key in before if before[key] != after[key]}
    assert before["state"] == "done" and before["evaluation"] and different <= {"path"}, different
    assert cli.run(status.main, [str(copy.path)]) == 0
    assert "trained and scored" in capsys.readouterr().out
    assert json.loads(copy.run_file.read_text()) == json.loads(run.run_file.read_text())
    assert (copy.code_dir / "ecm_cluster").is_dir() and copy.code_dir != ROOT
