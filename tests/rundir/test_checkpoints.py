"""Checkpoints as transactions, and the fence between attempts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ecm_cluster.base import files
from ecm_cluster.rundir import checkpoints, retention
from ecm_cluster.rundir.run import Run


def begin(run: Run, number: int) -> None:
    run.attempts_dir.mkdir(parents=True, exist_ok=True)
    accepts = [m.file for m in checkpoints.accepted(run)]
    assert files.create_exclusive(run.attempt_file(number), json.dumps({"number": number, "accepts": accepts}))


def commit(run: Run, attempt: int, iteration: int, epoch_end: bool = False) -> checkpoints.Manifest:
    return checkpoints.commit(run, attempt, lambda f: f.write(f"weights {attempt} {iteration}".encode()),
                              iteration=iteration, epoch=0, position=iteration, epoch_end=epoch_end)


def names(run: Run) -> list[str]:
    return [m.file for m in checkpoints.accepted(run)]


def test_a_run_without_checkpoints_starts_from_nothing(tmp_path):
    assert checkpoints.newest_sound(Run(tmp_path)) == (None, [])


def test_the_newest_sound_checkpoint_is_chosen(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    commit(run, 1, 10)
    last = commit(run, 1, 20)
    assert checkpoints.newest_sound(run) == (last, [])


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_broken_newest_checkpoint_is_quarantined_and_the_one_before_it_used(tmp_path, damage):
    run = Run(tmp_path)
    begin(run, 1)
    good, bad = commit(run, 1, 10), commit(run, 1, 20)
    path = bad.path(run)
    if damage == "remove":
        path.unlink()
    else:
        data = path.read_bytes()
        path.write_bytes(data[:-1] if damage == "truncate" else bytes([data[0] ^ 1]) + data[1:])
    chosen, broken = checkpoints.newest_sound(run)
    assert chosen == good
    assert [m.file for m, _ in broken] == [bad.file]
    assert names(run) == [good.file]
    assert (run.quarantine_dir / path.with_suffix(".json").name).exists()


def test_a_checkpoint_without_its_manifest_does_not_count(tmp_path, root):
    run = Run(tmp_path)
    begin(run, 1)
    program = ("import sys; from ecm_cluster.rundir import checkpoints; from ecm_cluster.rundir.run import Run; "
               "checkpoints.commit(Run(sys.argv[1]), 1, lambda f: f.write(b'x'), iteration=5, epoch=0, position=5, "
               "epoch_end=False)")
    env = {**os.environ, "PYTHONPATH": str(root), files.KILL_ENV: "before-manifest"}
    code = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=env, check=False).returncode
    assert code == -signal.SIGKILL
    assert run.checkpoint_file(5, 1).exists()
    assert names(run) == []


def test_what_an_old_attempt_commits_after_the_next_began_does_not_count(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    before = commit(run, 1, 10)
    begin(run, 2)
    commit(run, 1, 20)
    assert names(run) == [before.file]
    after = commit(run, 2, 15)
    assert names(run) == [before.file, after.file]


def test_two_attempts_that_reach_the_same_iteration_never_share_a_file(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    begin(run, 2)
    assert commit(run, 1, 10).path(run) != commit(run, 2, 10).path(run)


def test_a_completion_mark_of_a_fenced_attempt_does_not_count(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    files.write_json(run.complete_file(1), {"attempt": 1, "checkpoint": "iter_0000008-a0001.pth"})
    assert run.completion() is not None
    begin(run, 2)
    assert run.completion() is None


def test_pruning_keeps_the_last_ones_ends_of_epochs_and_what_is_needed(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    kept = [commit(run, 1, i, epoch_end=i == 20).file for i in (10, 20, 30, 40, 50)]
    gone = retention.prune(run, 1, keep=2, needed=lambda m: m.iteration == 30)
    assert gone == [kept[0]]
    assert names(run) == kept[1:]
    assert not Path(run.checkpoints_dir / kept[0]).exists()


def test_two_checkpoints_stay_however_few_are_asked_for(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    kept = [commit(run, 1, i).file for i in (10, 20, 30)]
    retention.prune(run, 1, keep=1)
    assert names(run) == kept[1:]


def test_a_stale_attempt_prunes_nothing_and_the_newest_cleans_up_after_it(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    first = [commit(run, 1, i).file for i in (10, 20, 30)]
    begin(run, 2)
    zombie = commit(run, 1, 40)
    assert retention.prune(run, 1, keep=2) == []
    assert names(run) == first
    last = commit(run, 2, 50).file
    assert retention.prune(run, 2, keep=2) == [*first[:2], zombie.file]
    assert names(run) == [first[2], last]


def test_a_checkpoint_that_is_committed_while_the_newest_is_read_is_the_one_that_is_chosen(tmp_path, monkeypatch):
    run = Run(tmp_path)
    begin(run, 1)
    commit(run, 1, 10)
    read, late = files.digest, []

    def slowly(path):
        if not late:  # as an attempt that is not dead yet would, while 800 MB are being read
            late.append(commit(run, 1, 20))
        return read(path)

    monkeypatch.setattr(files, "digest", slowly)
    chosen, accepts, broken = checkpoints.choose(run)
    assert (chosen, accepts[-1], broken) == (late[0], late[0], [])


def resume_from(run: Run, number: int, until: int | None) -> None:
    """Begin an attempt as a supervisor does, after ``resume --from`` if ``until`` is given."""
    _, accepts, _ = checkpoints.choose(run, until)
    record = {"number": number, "accepts": [m.file for m in accepts],
              "abandoned": retention.abandoned_after(run, until)}
    assert files.create_exclusive(run.attempt_file(number), json.dumps(record))


def test_a_branch_that_resume_from_leaves_stays_and_counts_no_more(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    old = [commit(run, 1, i, epoch_end=i == 30).file for i in (10, 20, 30, 40)]
    resume_from(run, 2, 20)
    stale = commit(run, 1, 50)
    new = [commit(run, 2, i).file for i in (21, 22, 23)]
    assert retention.prune(run, 2, keep=2) == [*old[:2], new[0], stale.file], "stale writers' are not a branch"
    assert names(run) == new[1:]
    assert retention.abandoned(run) == set(old[2:])
    # later attempts know of it, too, and may leave a branch themselves
    resume_from(run, 3, None)
    assert retention.abandoned(run) == set(old[2:])
    resume_from(run, 4, 22)
    last = [commit(run, 4, i).file for i in (24, 25, 26)]
    retention.prune(run, 4, keep=2)
    assert retention.abandoned(run) == {*old[2:], new[2]}
    assert {m.file for m in checkpoints.manifests(run)} == {*old[2:], new[2], *last[1:]}


def test_what_an_earlier_version_wrote_of_a_checkpoint_is_read(tmp_path):
    run = Run(tmp_path)
    begin(run, 1)
    made = commit(run, 1, 10)
    record = files.read_json(run.manifest_of(made.path(run)))
    files.write_json(run.manifest_of(made.path(run)), {k: v for k, v in record.items() if k != "step"})
    assert checkpoints.read(run, made.file) == made
    mark = {"attempt": 1, "time": 1.0, "checkpoint": made.file, "iteration": 10, "epoch": 0, "digest": "sha256:0"}
    files.write_json(run.complete_file(1), mark)
    assert checkpoints.last(run) == made, "with its size and its own digest"
