"""The timeline of a long run: a line for each attempt, repeated ones together, and nothing that matters left out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ecm_cluster import status
from ecm_cluster.base import files
from ecm_cluster.console import cli, layout
from ecm_cluster.job import job as jobs
from ecm_cluster.reporting.run_state import RunState
from ecm_cluster.rundir.run import Run

START = 1_700_000_000.0
HOUR = 3600.0


class Recorded:
    """A run whose ledger is written event by event, at times of its own."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder)
        for part in (self.run.attempts_dir, self.run.ledger_dir, self.run.checkpoints_dir):
            part.mkdir(parents=True)
        self.run.config_file.write_text("")
        files.write_json(self.run.run_file, {
            "name": self.run.name, "run_id": "0", "submitted": START, "cluster": "local", "cwd": str(folder),
            "job": jobs.make({"device": "cpu", "name": self.run.name}).as_dict()})
        self.sequence = 0

    def event(self, attempt: int, writer: str, kind: str, hours: float, **fields: Any) -> None:
        self.sequence += 1
        line = {"sequence": self.sequence, "kind": kind, "time": START + hours * HOUR, **fields}
        with open(self.run.ledger_dir / f"{attempt:04d}-{writer}.jsonl", "a") as handle:
            handle.write(json.dumps(line) + "\n")

    def attempt(self, number: int, begin: float, end: float | None, first: int, commits: list[int], last: int = 0,
                cause: str = "preempted", **fields: Any) -> None:
        """One that resumed after ``first``, committed at these iterations, and was stopped at ``last``."""
        record = {"number": number, "accepts": [], "host": "n1", "time": START + begin * HOUR,
                  **({"from": f"iter_{first:07d}-a{number - 1:04d}.pth"} if first else {})}
        files.write_json(self.run.attempt_file(number), record)
        self.event(number, "task000", "start", begin, host="n1", rank=0, pid=1)
        for at, iteration in enumerate(commits, 1):
            name = f"iter_{iteration:07d}-a{number:04d}.pth"
            self.event(number, "train000", "commit", begin + at / 100, checkpoint=name, iteration=iteration)
        if end is not None:
            self.event(number, "task000", "end", end, cause=cause, rank=0, iteration=last or first, **fields)


@pytest.fixture
def made(tmp_path) -> Recorded:
    return Recorded(tmp_path / "runs/long")


def shown(capsys, made: Recorded, *options: str) -> list[str]:
    assert cli.run(status.main, [str(made.run.path), *options]) == 0
    return capsys.readouterr().out.splitlines()


def events_of(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("  ")]


def test_an_attempt_is_one_line_with_what_it_gained_and_lost(capsys, made):
    made.event(0, "submit", "submitted", 0, stage="train", job_id="7")
    made.attempt(1, 1, 3, 0, [*range(500, 12001, 500)], 12230, detail="Slurm preempted the job")
    made.attempt(2, 4, 5, 12000, [], 12100, "killed", detail="rank 1 was killed by signal 9")
    lines = shown(capsys, made)
    assert len(events_of(lines)) == 3
    first, second = events_of(lines)[1:]
    for word in ("attempt 1 on n1 until", "iterations 0 to 12230, 12000 gained, 230 lost",
                 "24 commits, newest iteration 12000", "ended: Slurm preempted the job"):
        assert word in first, first
    assert "attempt 2" in second and "100 lost" in second and "no commit" in second
    assert second.endswith("ended: rank 1 was killed by signal 9")
    assert "--full shows every event" in lines[-1]
    assert len(events_of(shown(capsys, made, "--full"))) == 1 + 24 + 2 + 2


def test_a_killed_rank_is_named_once_and_not_again_as_the_crash_of_its_peers(capsys, made):
    made.attempt(1, 1, 2, 0, [10], 12, "crashed", detail="rank 0: RuntimeError: Connection closed by peer", follows=1)
    made.event(1, "task001", "abort", 2, rank=1)
    made.event(1, "task001", "end", 2, cause="killed", rank=1, detail="rank 1 was killed by signal 9")
    (line,) = events_of(shown(capsys, made))
    assert "killed by signal 9" in line and "crashed" not in line and "Connection" not in line


def test_a_hundred_attempts_stay_readable_and_their_sums_are_right(capsys, made, monkeypatch):
    for number in range(1, 101):
        at = 1000 * (number - 1)
        cause = "crashed" if number in (40, 41) else "preempted" if number % 2 else "node failure"
        made.attempt(number, number, number + 0.9, at, [at + 500, at + 1000], at + 1010, cause, detail="x y")
    monkeypatch.setenv("COLUMNS", "80")
    assert len(shown(capsys, made)) <= 40
    monkeypatch.delenv("COLUMNS")
    lines = shown(capsys, made)
    said = " ".join(events_of(lines))
    assert "attempt 1 " in said and "attempt 100 " in said
    folded = [line for line in lines if "attempts " in line]
    singly = sum("  attempt " in line for line in lines)
    assert sum(int(count) for line in folded for count in re.findall(r"(\d+)x", line)) == 100 - singly
    assert any("crashed 2x" in line for line in folded)


def test_commits_that_are_the_same_trouble_are_said_once_with_their_number(capsys, made):
    made.attempt(1, 1, None, 0, [100])
    for count in range(40):
        made.event(1, "train000", "commit-failed", 2 + count / 10, iteration=200 + count,
                    reason="No space left on device", stands="the checkpoint of iteration 100 stands")
    made.event(1, "train000", "warning", 7, about="loss", text="the loss is not finite since iteration 300")
    lines = shown(capsys, made)
    said = [line for line in events_of(lines) if "could not commit" in line]
    assert len(said) == 1 and "could not commit iteration 239: No space left on device (40 times since" in said[0]
    assert sum("warning: the loss is not finite since iteration 300" in line for line in events_of(lines)) == 1


def test_commits_that_fail_are_said_before_everything_else():
    reason = "training, after: rank 1 was killed by signal 9; warning: no heartbeat for 3 min; warning: commits have " \
             "failed for 3 h (No space left on device); the checkpoint of iteration 12 stands"
    assert status.first_line(RunState("long", "", "running", reason)).startswith(
        "long: running: warning: commits have failed for 3 h (No space left on device); the checkpoint of iteration 12 "
        "stands; training, after: rank 1 was killed by signal 9; warning: no heartbeat for 3 min")


def test_what_was_done_to_the_run_keeps_its_lines(capsys, made):
    made.event(0, "submit", "submitted", 0, stage="train", job_id="7")
    made.attempt(1, 1, 2, 0, [10], 12)
    made.event(1, "cancel", "cancelled", 2, what="train 7")
    made.event(1, "resume", "resumed", 3, stages=["train"], overrides={"gpus": 2})
    made.event(1, "batch.7", "left-out", 4, node="n9", reason="its GPU failed", resumes=0)
    said = "\n".join(events_of(shown(capsys, made)))
    for word in ("train submitted as process 7", "cancelled train 7", "resumed: train with gpus 2",
                 "node n9 excluded from now on: its GPU failed"):
        assert word in said


@pytest.mark.parametrize("room", [60, 80, 100])
def test_the_timeline_wraps_at_words_below_its_text(capsys, made, monkeypatch, room):
    made.attempt(1, 1, 3, 0, [500, 1000], 1100, detail="Slurm preempted the job while a long text was being written")
    whole = shown(capsys, made)
    monkeypatch.setenv("COLUMNS", str(room))
    lines = shown(capsys, made)
    every = events_of(shown(capsys, made, "--full"))
    assert max(map(layout.cells, every)) <= room and any("started on n1" in line for line in every)
    assert max(map(layout.cells, (line for line in lines if not line.startswith(("next:", "folder:"))))) <= room
    assert " ".join(" ".join(lines).split()) == " ".join(" ".join(whole).split())
