"""Who may submit and cancel a run's jobs: one process at a time, and nobody else can hold it up or pass for it."""

from __future__ import annotations

import fcntl
import os
import subprocess

import pytest
from users import ATTACKER, acting_as, command_as, needs_root, shared_folder

from ecm_cluster.backends import driver
from ecm_cluster.base import files
from ecm_cluster.base import processes as table
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import locks
from ecm_cluster.rundir.run import Run


def is_free(run: Run) -> bool:
    """Whether another process could take the lock: a descriptor of its own stands for it."""
    try:
        with locks.run_lock(Run(run.path), patience=0.0):
            return True
    except UserError:
        return False


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path / "runs" / "run")
    made.path.mkdir(parents=True, mode=0o755)
    files.write_json(made.run_file, {})
    return made


@pytest.mark.parametrize(("mode", "own", "earlier", "free"), [
    (0o755, True, False, False), (0o755, True, True, True), (0o700, True, True, False), (0o755, False, True, False),
    (0o700, False, True, False)])
def test_versions_exclude_each_other_where_nobody_else_can_hold_the_lock(run, mode, own, earlier, free):
    """A process of the earlier version locks run.json; one of this version the run's own lock file, if there is one."""
    run.path.chmod(mode)
    if own:
        files.private_file(run.lock_file)
    with files.locked(run.run_file if earlier else run.lock_file):
        assert is_free(run) is free
    assert is_free(run)


def test_sbatch_inherits_every_lock(run):
    run.path.chmod(0o700)
    files.private_file(run.lock_file)
    assert locks.held(run) == []
    with locks.run_lock(run):
        assert len(locks.held(run)) == 2
    assert locks.held(run) == []


def test_a_lock_file_is_its_owners_alone_and_is_not_looked_for_elsewhere(run):
    files.private_file(run.lock_file)
    assert run.lock_file.stat().st_mode & 0o777 == 0o600
    run.lock_file.unlink()
    run.lock_file.symlink_to(run.run_file)
    with pytest.raises(OSError, match="symbolic links"):
        files.private_file(run.lock_file)
    with pytest.raises(OSError, match="symbolic links"), files.locked(run.lock_file):
        pass


@needs_root
def test_another_user_can_hold_nothing_that_a_run_waits_for(tmp_path):
    run = Run(shared_folder() / "run")
    run.path.mkdir(mode=0o755)
    files.write_json(run.run_file, {})
    files.private_file(run.lock_file)
    with acting_as(ATTACKER):
        handle = os.open(run.run_file, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(PermissionError):
            os.open(run.lock_file, os.O_RDONLY)
    try:
        assert is_free(run)
    finally:
        os.close(handle)


@needs_root
def test_a_folder_that_another_user_has_made_in_advance_is_not_taken(tmp_path):
    shared = shared_folder()
    theirs, mine = Run(shared / "theirs"), Run(shared / "mine")
    with acting_as(ATTACKER):
        theirs.path.mkdir(mode=0o777)
        theirs.path.chmod(0o777)
    mine.path.mkdir()
    (shared / "link").symlink_to(mine.path)
    os.lchown(shared / "link", ATTACKER, ATTACKER)
    for run in (theirs, Run(shared / "link")):
        with pytest.raises(UserError, match=r"name: .* belongs to another user \(uid .*; use another --name"), \
                locks.creation_lock(run):
            pass
        assert not list(run.path.iterdir())
    with locks.creation_lock(mine):
        assert mine.submit_lock.stat().st_mode & 0o777 == 0o600


@needs_root
def test_a_process_of_another_user_is_not_a_driver_no_matter_what_its_command_line(tmp_path):
    run = Run(shared_folder() / "run")
    run.path.mkdir()
    line = ["bash", "-c", "echo; read -r", table.MODULES[driver.DRIVER], "chain", str(run.path)]
    rank = ["bash", "-c", "echo; read -r", "ecm_cluster.node.training.worker", str(run.path)]
    processes = [subprocess.Popen(each, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for each in
                 (command_as(ATTACKER, *line), command_as(ATTACKER, *rank), line, rank)]
    for each in processes:
        assert each.stdout and each.stdout.readline()
    theirs, their_rank, own, own_rank = (str(each.pid) for each in processes)
    try:
        assert driver.find(run) == own
        assert driver.ranks(run) == sorted([own, own_rank], key=int)
        assert [driver.is_own(run, pid) for pid in (theirs, their_rank, own, own_rank)] == [False, False, True, True]
        with acting_as(ATTACKER):  # who looks at another's run sees its driver, and cannot end it
            assert driver.alive(run, own)
            assert not driver.is_own(run, own)
    finally:
        for each in processes:
            each.communicate(b"\n", timeout=10)
