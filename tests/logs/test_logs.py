"""The log that is asked for is printed, or one line says why there is none; followed, it continues over restarts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import ROOT, trainer_flags, verb, wait_until
from steering import SCORED, ended_run

from ecm_cluster import logs
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.console import cli
from ecm_cluster.logs import choice
from ecm_cluster.rundir.run import Run


def train_log(attempt: int, *lines: str) -> str:
    return "\n".join([f"2026-01-01 00:00:0{attempt} INFO attempt {attempt}: 2 ranks on 1 nodes, job 7", *lines, ""])


def rank_log(attempt: int, rank: int, *lines: str) -> str:
    return "\n".join([f"---- attempt {attempt}, job 7 on n1, rank {rank} of 2", *lines, ""])


def two_attempts(folder: Path) -> Run:
    """A run of two attempts with two ranks, the second of which hung in attempt 1."""
    run = ended_run(folder, attempts=2, iterations=(10, 20))
    run.train_log.write_text(train_log(1, "first") + train_log(2, "second"))
    for rank in (0, 1):
        run.rank_log(rank).write_text(rank_log(1, rank, "one") + rank_log(2, rank, "two"))
    run.stacks_file(1, 1).write_text("Thread 0x7f\n")
    return run


def said(capsys: Any, *argv: object) -> tuple[str, str]:
    """What a call prints on stdout and stderr."""
    assert logs.main([*map(str, argv)]) == cli.EXIT_OK
    found = capsys.readouterr()
    return found.out, found.err


def error_of(*argv: object) -> str:
    with pytest.raises(UserError) as error:
        logs.main([*map(str, argv)])
    return str(error.value)


def test_the_log_of_the_training_a_rank_an_attempt(tmp_path, capsys):
    run = two_attempts(tmp_path / "run")
    assert said(capsys, run.path) == (run.train_log.read_text(), "")
    assert said(capsys, run.path, "--attempt", 1) == (train_log(1, "first"), "")
    assert said(capsys, run.path, "--attempt", "last", "-n", 1) == ("second\n", "")
    assert said(capsys, run.path, "--rank", 0) == (run.rank_log(0).read_text(), "")
    assert said(capsys, run.path, "--rank", 1, "--attempt", 2) == (rank_log(2, 1, "two"), "")
    out, _ = said(capsys, run.path, "--rank", 1, "--attempt", 1)
    assert out == (f"==> {run.rank_log(1)} <==\n{rank_log(1, 1, 'one')}==> {run.stacks_file(1, 1)} <==\nThread 0x7f\n")
    assert said(capsys, run.path, "-n", "0") == ("", "")
    assert said(capsys, run.path, "-n", "all") == (run.train_log.read_text(), "")


def test_what_does_not_exist_is_an_error_that_says_what_does(tmp_path):
    run = two_attempts(tmp_path / "run")
    assert error_of(run.path, "--attempt", 3) == "attempt: there is no attempt 3; expected 1 to 2, or last"
    assert error_of(run.path, "--rank", 2) == "rank: there is no output of rank 2; expected 0 to 1"
    assert error_of(run.path, "--rank", -1) == "rank: invalid value -1; expected 0 or more"
    assert error_of(run.path, "-n", "few") == "lines: invalid value 'few'; expected a whole number, or all"
    assert error_of(run.path, "--json", "--rank", 0).endswith("leave --rank out")
    assert error_of(run.path, "--evaluation", "last").startswith("evaluation: run has none yet")


def test_an_attempt_that_ended_before_its_training_has_the_output_of_its_rank(tmp_path, capsys):
    run = two_attempts(tmp_path / "run")
    run.train_log.write_text(train_log(1, "first"))
    out, err = said(capsys, run.path)
    assert out == train_log(1, "first")
    assert err == "attempt 2 has not written to it; add `--attempt 2` for the output of its rank 0\n"
    out, err = said(capsys, run.path, "--attempt", 2)
    assert out == rank_log(2, 0, "two")
    assert err == "there is no training log of attempt 2; this is the output of rank 0\n"


def test_without_any_rank_it_is_the_output_of_the_job_or_a_line_about_why_there_is_none(tmp_path, capsys):
    run = ended_run(tmp_path / "run", attempts=0)
    out, err = said(capsys, run.path)
    assert out == ""
    assert err.startswith("there is no log yet; run is failed: ")
    assert err.endswith(f"next: python -m ecm_cluster.resume {run.path}\n")
    run.submitit_dir.mkdir()
    for number, job in enumerate((7, 8)):
        log = run.submitit_dir / f"{job}_0_log.out"
        log.write_text(f"job {job}\n")
        os.utime(log, (number, number))
    out, err = said(capsys, run.path, "-n", 1)
    assert (out, err) == ("job 8\n", "no rank has printed anything; this is the output of the job\n")
    run.local_log.write_text("train: starting\n")
    out, err = said(capsys, run.path, "--job")
    assert err == ""
    assert [line for line in out.splitlines() if "==>" not in line] == ["train: starting", "job 7", "job 8"]


def test_the_folded_losses_are_json_lines(tmp_path, capsys):
    run = two_attempts(tmp_path / "run")
    for number, start in ((1, 0), (2, 2)):
        losses = (1, 2, float("nan"))
        rows = [{"starts_after": start, "by_epoch": False, "epoch": 0, "position": 0, "iterations_this_epoch": 9,
                 "iterations_per_epoch": 9}, *({"mode": "train", "iter": start + n, "loss": loss}
                                               for n, loss in enumerate(losses, 1))]
        run.json_log(number).write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [json.loads(line) for line in said(capsys, run.path, "--json")[0].splitlines()]
    assert [(row["iteration"], row["attempt"], row["loss"]) for row in rows] == [
        (1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2), (5, 2, None)]
    rows = [json.loads(line) for line in said(capsys, run.path, "--json", "--attempt", 1, "-n", 2)[0].splitlines()]
    assert [row["iteration"] for row in rows] == [2, 3]


def scored_twice(run: Run) -> list[str]:
    keys = ["iter_0000010-aa11", "iter_0000020-bb22", "iter_0000020-cc33"]
    for key in keys:
        work = run.evaluation(key)
        work.logs_dir.mkdir(parents=True)
        work.attempts_dir.mkdir()
        files.write_json(work.attempt_file(1), {"number": 1, "job_id": "8"})
        work.rank_log(0).write_text(f"scored {key}\n")
        files.write_json(work.metrics_file(), SCORED)
    return keys


@pytest.mark.parametrize(("asked", "which"), [("10", 0), ("1", 0), ("3", 2), ("cc33", 2), ("iter_0000020-bb22", 1)])
def test_an_evaluation_by_its_checkpoint_number_or_key(tmp_path, capsys, asked, which):
    run = two_attempts(tmp_path / "run")
    keys = scored_twice(run)
    assert said(capsys, run.path, "--evaluation", asked) == (f"scored {keys[which]}\n", "")


def test_several_evaluations_of_a_checkpoint_are_listed(tmp_path):
    run = two_attempts(tmp_path / "run")
    scored_twice(run)
    for asked in ("20", "last"):
        assert error_of(run.path, "--evaluation", asked) == (
            f"evaluation: '{asked}' stands for several of run; expected one of: 2 (iter_0000020-bb22, as configured), "
            "3 (iter_0000020-cc33, as configured)")
    assert "stands for none of run; expected one of: 1 (iter_0000010-aa11" in error_of(run.path, "--evaluation", "x")


# ---------------------------------------------------------------------------------------------- as a program


def follower(run: Path, *more: str, **kwargs: Any) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "ecm_cluster.logs", str(run), "-f", *more], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, **kwargs)


@pytest.mark.slow
def test_escape_sequences_of_a_log_do_not_reach_the_terminal(tmp_path):
    run = two_attempts(tmp_path / "run")
    run.train_log.write_bytes(b"\x1b[31mred\x1b[0m\r\x1b]0;title\x07\n\xff\n")
    assert verb("logs", run.path).stdout == "red\n\\x1b]0;title\\x07\n\\xff\n"


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["-f"]])
def test_a_reader_that_leaves_ends_it(tmp_path, more):
    run = two_attempts(tmp_path / "run")
    run.train_log.write_text("line\n" * 1_000_000)
    line = f"{sys.executable} -m ecm_cluster.logs {run.path} -n all {' '.join(more)} | head -2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                          text=True, check=True, timeout=20)
    assert done.stdout == "line\nline\n0\n"


@pytest.mark.slow
def test_a_pending_run_is_waited_for_until_ctrl_c(tmp_path):
    run = ended_run(tmp_path / "run", cluster="slurm", attempts=0)
    process = follower(run.path)
    assert process.stderr is not None
    assert process.stderr.readline() == "-- unknown: Slurm does not answer here\n"
    run.train_log.write_text(train_log(1, "here"))
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == train_log(1, "here").splitlines(keepends=True)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "interrupted\n")
    assert process.returncode == 130


@pytest.mark.slow
def test_a_run_is_followed_over_a_restart_to_its_end(tmp_path):
    verb("submit", *trainer_flags(tmp_path, "run", "--cluster", "local", "--gpus", 2))
    run = Run(tmp_path / "run")
    process, of_rank = follower(run.path), follower(run.path, "--rank", "1")
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) > 20, "it trains")
    pid = next(event["pid"] for event in run.events(1) if event.kind == "start" and event["rank"] == 1)
    os.kill(next(int(pid) for pid in children(pid)), signal.SIGKILL)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert [line.split("INFO ")[1][:10] for line in out.splitlines() if "INFO attempt" in line and "ranks" in line] == [
        "attempt 1:", "attempt 2:"]
    assert out == run.train_log.read_text(), "nothing is missing, nothing comes twice"
    assert err.splitlines()[-1].startswith("-- done: ")
    out, _ = of_rank.communicate(timeout=60)
    assert out == run.rank_log(1).read_text()
    assert out.count("---- attempt ") == 2
    parts = [verb("logs", run.path, "--rank", 1, "--attempt", number).stdout for number in (1, 2)]
    assert "".join(parts) == out
    assert choice.ranks(run) == [0, 1]


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
