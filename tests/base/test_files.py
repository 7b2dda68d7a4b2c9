"""Writing what must survive."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ecm_cluster.base import files, folders

WRITE = "import sys; from ecm_cluster.base import files; files.write_text(sys.argv[1], 'new')"
CREATE = "import sys; from ecm_cluster.base import files; files.create_exclusive(sys.argv[1], 'mine')"


def run(root: Path, program: str, target: Path, kill_at: str = "") -> int:
    env = {**os.environ, "PYTHONPATH": str(root), files.KILL_ENV: kill_at}
    return subprocess.run([sys.executable, "-c", program, str(target)], env=env, check=False).returncode


@pytest.mark.parametrize("point", ["after-data", "before-fsync", "before-rename"])
def test_a_kill_before_the_rename_leaves_the_old_content(root, tmp_path, point):
    target = tmp_path / "state.json"
    target.write_text("old")
    assert run(root, WRITE, target, point) == -signal.SIGKILL
    assert target.read_text() == "old"


def test_a_kill_after_the_rename_leaves_the_new_content(root, tmp_path):
    target = tmp_path / "state.json"
    target.write_text("old")
    assert run(root, WRITE, target, "after-rename") == -signal.SIGKILL
    assert target.read_text() == "new"


def test_a_kill_point_can_be_narrowed_to_a_path(root, tmp_path):
    assert run(root, WRITE, tmp_path / "b.json", "before-rename:a.json") == 0
    assert run(root, WRITE, tmp_path / "a.json", "before-rename:a.json") == -signal.SIGKILL


def test_of_many_that_come_to_a_point_named_in_a_file_one_dies_once_and_the_next_point_can_be_named(root, tmp_path):
    order, target = tmp_path / "order", tmp_path / "state.json"
    order.write_text("before-rename:state.json")
    together = [subprocess.Popen([sys.executable, "-c", WRITE, str(target)],
                                 env={**os.environ, "PYTHONPATH": str(root), files.KILL_ENV: f"@{order}"})
                for _ in range(4)]
    assert sorted(process.wait() for process in together) == [-signal.SIGKILL, 0, 0, 0]
    assert not order.exists() and Path(f"{order}{files.TAKEN}").read_text() == "before-rename:state.json"
    order.write_text("after-rename:other.json")
    assert run(root, WRITE, target, f"@{order}") == 0
    assert run(root, WRITE, tmp_path / "other.json", f"@{order}") == -signal.SIGKILL
    assert run(root, WRITE, tmp_path / "other.json", f"@{order}") == 0


def test_what_a_kill_leaves_behind_does_not_disturb_the_next_writer(root, tmp_path):
    target = tmp_path / "state.json"
    assert run(root, WRITE, target, "before-rename") == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    assert run(root, WRITE, target) == 0
    assert target.read_text() == "new"


def test_an_exception_while_writing_leaves_the_old_content_and_no_temporary_file(tmp_path):
    target = tmp_path / "state.json"
    target.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(target) as handle:
        handle.write(b"half")
        raise RuntimeError("disk full")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_of_many_that_create_exclusively_exactly_one_succeeds(tmp_path):
    target, won = tmp_path / "0001.json", []
    start = threading.Barrier(8)

    def attempt(number: int) -> None:
        start.wait()
        if files.create_exclusive(target, f"writer {number}"):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert target.read_text() == f"writer {won[0]}"


def test_a_kill_before_the_link_creates_nothing(root, tmp_path):
    target = tmp_path / "0001.json"
    assert run(root, CREATE, target, "before-link") == -signal.SIGKILL
    assert not target.exists()


def test_the_digest_of_a_file_is_that_of_its_text(tmp_path):
    path = tmp_path / "a"
    path.write_text("öre")
    assert files.digest(path) == files.digest_text("öre")
    assert files.digest(path) != files.digest_text("ore")


def test_a_link_whose_answer_got_lost_counts_as_made_and_only_that(tmp_path, monkeypatch):
    """A retransmitted LINK is answered EEXIST, or the answer does not come at all: there is no real NFS to test it."""
    real = os.link

    def lost(error: OSError, made: bool):
        def link(source, target):
            if made:
                real(source, target)
            raise error
        return link

    for number, error in enumerate([FileExistsError(errno.EEXIST, "File exists"), OSError(errno.EIO, "I/O error"),
                                    OSError(errno.ETIMEDOUT, "timed out")]):
        target = tmp_path / f"{number}.json"
        monkeypatch.setattr(os, "link", lost(error, made=True))
        assert files.create_exclusive(target, "mine")
        assert target.read_text() == "mine" and not list(tmp_path.glob(".*"))
        assert not files.create_exclusive(target, "another's") if number == 0 else True
    assert (tmp_path / "0.json").read_text() == "mine"
    monkeypatch.setattr(os, "link", lost(OSError(errno.EIO, "I/O error"), made=False))
    with pytest.raises(OSError, match="I/O error"):
        files.create_exclusive(tmp_path / "9.json", "mine")
    assert not (tmp_path / "9.json").exists()


@pytest.mark.slow
def test_a_lock_stays_with_the_child_that_inherits_it(tmp_path):
    path = tmp_path / "run.json"
    path.touch()
    holder = ("import subprocess, sys; from ecm_cluster.base import files\n"
              "with files.locked(sys.argv[1]) as held:\n"
              "    subprocess.Popen(['sleep', '6'], pass_fds=[held], stdout=subprocess.DEVNULL); import os, signal; "
              "print('held', flush=True); os.kill(os.getpid(), signal.SIGKILL)\n")
    done = subprocess.run([sys.executable, "-c", holder, str(path)], stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "held\n"
    notices = []
    with pytest.raises(BlockingIOError), files.locked(path, 2.5, lambda: notices.append("waits")):
        pass
    assert notices == ["waits"]


def test_folders_of_killed_processes_are_swept_and_those_of_living_or_recent_ones_are_not(tmp_path):
    for name in ("own-dead", "own-alive", "own-new", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
        if name != "own-new":
            os.utime(tmp_path / name, (0, 0))
    with files.locked(tmp_path / "own-alive" / "lock"):
        folders.remove_stale(tmp_path, "own-")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "own-alive", "own-new"]
