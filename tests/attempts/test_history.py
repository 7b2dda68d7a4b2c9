"""The record of each attempt: also of attempts that were killed, live, or were written by an earlier version."""

from __future__ import annotations

import os

import former_version
from attempts.ledgers import age, attempt, events, heartbeat

from ecm_cluster.attempts.history import history
from ecm_cluster.rundir.run import Run


def test_each_attempt_says_when_where_how_far_and_why(tmp_path):
    run = Run(tmp_path / "run")
    attempt(run, 1, 100.0)
    events(run, 1, "task000", (101.0, "start", {"host": "n1", "rank": 0, "pid": 5}),
           (180.0, "end", {"cause": "preempted", "detail": "Slurm preempted the job", "rank": 0, "next": "stay"}))
    events(run, 1, "task001", (101.5, "start", {"host": "n2", "rank": 1, "pid": 6}), (181.0, "left", {"rank": 1}))
    events(run, 1, "train000", (170.0, "commit", {"checkpoint": "iter_0000040-a0001.pth", "iteration": 40}))
    heartbeat(run, 1, time=175.0, phase="stopped", iteration=43)
    attempt(run, 2, 300.0, "iter_0000040-a0001.pth")
    events(run, 2, "train001", (360.0, "end", {"cause": "killed", "detail": "rank 1: killed", "rank": 1,
                                               "iteration": 52}))
    attempt(run, 3, 400.0, "iter_0000040-a0001.pth")
    heartbeat(run, 3, time=450.0, phase="training", iteration=57)
    events(run, 3, "closer.7.3", (990.0, "end", {"cause": "lost", "detail": "no reason", "rank": None}))
    attempt(run, 4, 1000.0, "iter_0000040-a0001.pth")
    events(run, 4, "train000", (1050.0, "commit", {"checkpoint": "iter_0000060-a0004.pth", "iteration": 60}),
           (1051.0, "complete", {"checkpoint": "iter_0000060-a0004.pth", "iteration": 60}))
    first, second, third, fourth = history(run)
    assert (first.begin, first.end, first.cause) == (100.0, 180.0, "preempted")
    assert (first.hosts, first.gpus) == (("n1", "n2"), 2)
    assert (first.first, first.last, first.committed, first.lost, first.gained) == (0, 43, 40, 3, 40)
    assert first.start == "slurm:7:0" and not first.estimated
    assert (second.cause, second.rank, second.first, second.last, second.lost, second.gained) == (
        "killed", 1, 40, 52, 12, 0)
    # the next start found the end, at its own time: the last sign of life is what is known
    assert (third.end, third.estimated, third.cause, third.lost) == (450.0, True, "lost", 17)
    # killed after its mark, before it could record an end
    assert (fourth.end, fourth.cause, fourth.lost, fourth.gained) == (1051.0, "complete", 0, 20)


def test_a_commit_that_its_killed_worker_could_not_record_is_known_from_the_attempt_that_resumed_there(tmp_path):
    run = Run(tmp_path / "run")
    attempt(run, 1, 100.0)
    events(run, 1, "train000", (150.0, "commit", {"checkpoint": "iter_0000010-a0001.pth", "iteration": 10}))
    events(run, 1, "task000", (180.0, "end", {"cause": "killed", "rank": 0, "iteration": 21}))
    attempt(run, 2, 200.0, "iter_0000020-a0001.pth")
    first, second = history(run)
    assert (first.committed, first.last, first.lost, first.gained) == (20, 21, 1, 20)
    assert (second.first, second.source) == (20, 1)


def test_an_attempt_lives_while_it_has_a_heartbeat_and_else_ends_with_its_last_sign(tmp_path):
    run = Run(tmp_path / "run")
    attempt(run, 1, 100.0)
    events(run, 1, "train000", (160.0, "commit", {"checkpoint": "iter_0000020-a0001.pth", "iteration": 20}))
    path = heartbeat(run, 1, time=170.0, phase="training", iteration=25)
    events(run, 1, "resume", (5000.0, "resumed", {"stages": ["train"]}))  # by a verb, and no sign of life
    gone, = history(run)
    assert (gone.end, gone.estimated, gone.cause, gone.lost) == (170.0, True, "lost", 5)
    os.utime(path)
    alive, = history(run)
    assert alive.alive and alive.cause is None and (alive.last, alive.lost) == (25, 0)
    assert not history(run, alive=False)[0].alive, "a caller that knows that its job has ended is believed"


def test_what_is_damaged_is_left_out(tmp_path):
    run = Run(tmp_path / "run")
    attempt(run, 1, "yesterday", world_size="two")  # type: ignore[arg-type]
    events(run, 1, "task000", (101.0, "start", {"host": "n1", "rank": 0, "pid": 5}))
    (run.ledger_dir / "0001-train000.jsonl").mkdir()
    heartbeat(run, 1, time="now")
    attempt(run, 2, 200.0)
    run.attempt_file(2).write_text("{")
    age(run.attempt_file(2))
    first, second = history(run)
    assert (first.begin, first.end, first.gpus) == (101.0, 101.0, 1)
    assert (second.begin, second.first, second.cause) == (1.6e9, None, "lost")
    assert any("0002.json" in what for what in run.damage)


def test_a_run_of_the_former_version(tmp_path):
    run = former_version.complete(tmp_path)
    only, = history(run)
    assert (only.cause, only.first, only.last, only.committed, only.lost) == ("complete", 0, 21, 21, 0)
    assert 6 < only.end - only.begin < 7 and only.hosts == ("vm",)
    causes = [[a.cause for a in history(evaluation)] for evaluation in run.evaluations()]
    assert causes == [["complete"], ["cancelled", "complete"], ["complete"], ["complete"]]


def test_what_the_ledger_says_is_not_read_again_from_a_file_of_each_attempt(tmp_path, monkeypatch):
    run = Run(tmp_path / "run")
    attempt(run, 1, 100.0)
    events(run, 1, "task000", (100.5, "attempt", {
        "begin": 100.0, "identity": "slurm:7:0:0", "host": "n1", "job_id": "7", "restart": 0, "world_size": 2,
        "from": None}), (190.0, "phase", {"phase": "ended", "iteration": 30}),
        (191.0, "end", {"cause": "preempted", "rank": 0, "next": "stay"}))
    by_file, = history(run)
    for name in ("read_attempt", "heartbeat"):
        monkeypatch.setattr(Run, name, None)
    assert history(run) == [by_file] and (by_file.gpus, by_file.start, by_file.last) == (2, "slurm:7:0", 30)
