"""``status --watch``: what it shows, when it looks again, and when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from answers import Answers
from small import ROOT, wait_until

from ecm_cluster import status
from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.console import cli, layout
from ecm_cluster.job import job as jobs
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import queue
from ecm_cluster.watching import forecast, watch

WAITING = ("7", "PENDING", "Priority", "2030-01-02T03:04:05")
RUNNING, FAILED = ("7", "RUNNING", "None", "N/A"), ("7", "FAILED", "NonZeroExitCode", "N/A")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Answers:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    answers = Answers(tmp_path, monkeypatch)
    answers(sbatch="", sacct="", squeue=row(RUNNING))
    return answers


def row(job: tuple[str, ...], run: str = "run") -> str:
    return queue.SEPARATOR.join((*job, f"token {run}", "")) + "\n"


def make_run(folder: Path, job_id: str = "7", **options: object) -> Run:
    run = Run(folder)
    for part in (run.attempts_dir, run.ledger_dir, run.checkpoints_dir, run.submission_file("train").parent):
        part.mkdir(parents=True)
    job = jobs.make({"device": "cpu", "name": run.name, **options})
    files.write_json(run.run_file, {"name": run.name, "run_id": "0", "submitted": 1.0, "cluster": "slurm",
                                    "cwd": str(folder), "job": job.as_dict(), "digests": {"config": "x"}})
    files.write_json(run.submission_file("train"), {"token": f"token {run.name}", "cluster": "slurm", "job_id": job_id})
    then = time.time() - 3600
    os.utime(run.submission_file("train"), (then, then))
    return run


def train(run: Run, **progress: object) -> None:
    files.write_json(run.attempt_file(1), {"number": 1, "accepts": [], "time": time.time() - 100, "host": "n1"})
    run.write_heartbeat(1, **{"phase": "training", "iteration": 1000, "iterations": 2000, "epoch": 0, "loss": 0.5,
                              "seconds_per_iteration": 0.5, **progress})


def cells_of(lines: list[str]) -> dict[str, str]:
    """The cells of the first row, by the heads of their columns."""
    head = next(line for line in lines if line.startswith("run"))
    first = lines[lines.index(head) + 2]
    words = re.compile(r"\S+( \S+)*")
    cells = list(words.finditer(first))
    return {column.group(): next((cell.group() for cell in cells if cell.start() < column.end()
                                  and cell.end() > column.start()), "") for column in words.finditer(head)}


def test_a_look_shows_pace_time_left_and_the_next_score(slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    train(run)
    watcher = watch.Watcher(lambda: [run], True)
    watcher.look()
    found = cells_of(watcher.lines(200))
    assert (found["state"], found["iteration"], found["it/s"], found["loss"], found["left"]) == (
        "running", "1000/2000", "2.00", "0.500", "8 min")
    assert found["next score"] == "8 min" and found["why"] == "training"
    assert "1 running" in watcher.lines()[0]


def test_a_job_that_waits_says_why_and_when_it_is_expected_to_start(slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    slurm(squeue=row(WAITING))
    watcher = watch.Watcher(lambda: [run], True)
    watcher.look()
    text = " ".join(" ".join(watcher.lines(80)).split())
    assert "waiting" in text and "pending (Priority: jobs of higher priority are ahead of it)" in text
    assert "expected to start at 01-02 03:04" in text


def test_each_look_asks_slurm_once_for_all_runs_and_an_account_is_kept_for_a_while(slurm, tmp_path):
    made = [make_run(tmp_path / f"runs/r{number}", str(number)) for number in range(1, 4)]
    slurm(squeue="".join(row((str(number), *RUNNING[1:]), f"r{number}") for number in range(1, 4)))
    watcher = watch.Watcher(lambda: made, True)
    for looks in range(1, 4):
        watcher.look()
        watcher.lines(80)
        assert slurm.calls().count("squeue") == looks
    assert slurm.calls().count("sacct") == 0


def test_runs_that_have_ended_are_looked_at_again_now_and_then(slurm, tmp_path, monkeypatch):
    made = [make_run(tmp_path / "runs/run"), make_run(tmp_path / "runs/ended", "9")]
    folded, fold = [], watch.states.fold
    monkeypatch.setattr(watch.states, "fold", lambda runs: folded.append([r.name for r in runs]) or fold(runs))
    watcher = watch.Watcher(lambda: made, False)
    for _ in range(watch.FULL_LOOK + 1):
        watcher.look()
        assert [s.run for s in watcher.states] == ["run", "ended"]
    assert folded[0] == folded[-1] == ["run", "ended"] and folded[1:-1] == [["run"]] * (watch.FULL_LOOK - 1)


def test_while_slurm_does_not_answer_it_says_so_and_goes_by_heartbeats(slurm, tmp_path):
    run, other = make_run(tmp_path / "runs/run"), make_run(tmp_path / "runs/other")
    train(run)
    slurm(squeue=None, sacct=None)
    watcher = watch.Watcher(lambda: [run, other], True)
    watcher.look()
    assert [s.state for s in watcher.states] == ["running", "unknown"] and not watcher.at_rest
    assert "Slurm does not answer" in watcher.lines()[0]


def test_of_all_runs_those_that_had_ended_before_are_only_counted(slurm, tmp_path):
    run, ended = make_run(tmp_path / "runs/run"), make_run(tmp_path / "runs/ended", "9")
    slurm(squeue=row(RUNNING))
    watcher = watch.Watcher(lambda: [ended, run], False)
    watcher.look()
    assert [s.run for s in watcher.shown] == ["run"] and "1 running, 1 failed" in watcher.lines()[0]
    slurm(squeue=row(FAILED))
    watcher.look()
    assert [s.state for s in watcher.shown] == ["failed"] and watcher.at_rest


@pytest.mark.parametrize("room", [60, 80, 100])
def test_the_words_of_the_table_stay_whole(slurm, tmp_path, room):
    made = [make_run(tmp_path / "runs" / name) for name in ("a", "größe-日本語の実験", "name_of_sixty_characters_" * 2)]
    for run in made:
        train(run)
    watcher = watch.Watcher(lambda: made, True)
    watcher.look()
    lines = watcher.lines(room)
    assert max(map(layout.cells, lines)) <= room
    assert {run.name for run in made} <= {word for line in lines for word in line.split()}


def test_ended_runs_are_printed_and_it_ends(capsys, slurm, tmp_path, monkeypatch):
    make_run(tmp_path / "runs/run")
    slurm(squeue=row(FAILED))
    monkeypatch.setattr(watch, "pause", lambda seconds: pytest.fail("it waits"))
    assert cli.run(status.main, ["--watch", "run", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert "run: failed: job 7 failed (NonZeroExitCode)" in capsys.readouterr().out
    assert cli.run(status.main, ["--watch", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert "1 failed" in capsys.readouterr().out


def test_a_log_gets_a_line_per_change(capsys, slurm, tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs/run")
    looks = iter([lambda: train(run, iteration=1010), lambda: train(run, iteration=1900),
                  lambda: slurm(squeue=row(FAILED))])
    monkeypatch.setattr(watch, "pause", lambda seconds: next(looks)())
    monkeypatch.setattr(watch, "PATIENCE", -1)
    train(run)
    assert cli.run(status.main, ["--watch", "2", "--runs-dir", str(tmp_path / "runs"), "run"]) == 0
    said = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert [line.partition("; ")[0] for line in said] == ["run: running: training"] * 2 + [
        "run: failed: job 7 failed (NonZeroExitCode)"]
    assert "iteration 1000/2000" in said[0] and "iteration 1900/2000" in said[1]


@pytest.mark.parametrize(("argv", "said"), [
    (["--watch", "0"], "watch: invalid value 0; expected seconds from 1 to 86400"),
    (["--watch", "nan"], "watch: invalid value nan"),
    (["--watch", "--json"], "watch: --json has no meaning with --watch"),
    (["--watch", "nosuch"], "RUN: 'nosuch' is neither a run directory nor the name of one"),
])
def test_a_mistake_is_one_line(capsys, slurm, tmp_path, argv, said):
    make_run(tmp_path / "runs/run")
    assert cli.run(status.main, [*argv, "--runs-dir", str(tmp_path / "runs")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_the_next_score_is_that_of_the_next_checkpoint_that_is_scored(slurm, tmp_path):
    run = make_run(tmp_path / "runs/run", evaluation={"while_training": True})
    evaluations.write(run, "evaluate", [evaluations.Element(f"iteration {n}", {}) for n in (500, 1200)]
                      + [evaluations.Element(evaluations.LAST, {})])
    train(run)
    (state,) = watch.states.fold([run])
    assert forecast.next_score(run, state) == pytest.approx(200 * 0.5)
    work = run.evaluation("iter_0000500-x")
    for part in (work.attempts_dir, work.ledger_dir):
        part.mkdir(parents=True)
    files.write_json(work.attempt_file(1), {"number": 1, "time": 1000.0})
    work.ledger(1, "task000").write("end", cause="complete", rank=0)
    files.write_json(work.metrics_file(), {"figures": {}, "max_dets": 300, "per_class": [],
                                           "provenance": {"checkpoint": "x", "iteration": 500}})
    assert (forecast.next_score(run, state) or 0) > 200 * 0.5, "with what the last evaluation took"


# ---------------------------------------------------------------------------------------------- a real terminal


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv: list[str], columns: int) -> None:
        main, side = pty.openpty()
        fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(argv, stdin=side, stdout=side, stderr=side, start_new_session=True,
                                        env={**environ, "TERM": "xterm", "PYTHONPATH": str(ROOT)})
        os.close(side)
        os.set_blocking(main, False)
        self.main, self.text = main, ""

    def read(self) -> str:
        with contextlib.suppress(OSError):  # nothing to read, or its end
            self.text += os.read(self.main, 1 << 20).decode(errors="replace")
        return self.text


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80])
def test_on_a_terminal_it_is_rewritten_in_place_and_ends_cleanly(slurm, tmp_path, columns):
    run = make_run(tmp_path / "runs/run")
    train(run)
    argv = [sys.executable, "-m", "ecm_cluster.status", "--watch", "1", "--runs-dir", str(tmp_path / "runs")]
    terminal = Terminal(argv, columns)
    wait_until(lambda: "1000/2000" in terminal.read(), "the first look", 30, lambda: terminal.text)
    train(run, iteration=1234)
    wait_until(lambda: "1234/2000" in terminal.read(), "another look", 30, lambda: terminal.text)
    assert "\x1b[32mrunning\x1b[0m" in terminal.text and "\x1b[1A" in terminal.text, "colored, and rewritten"
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(30) == 0
    end = terminal.read()[-200:]
    assert "\x1b[?25h" in end and "Traceback" not in end and "interrupted" not in end
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split("[\r\n]+", terminal.text)]
    assert max(map(layout.cells, plain)) <= columns


@pytest.mark.slow
def test_on_a_terminal_it_ends_when_all_runs_have_ended(slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    train(run)
    argv = [sys.executable, "-m", "ecm_cluster.status", "--watch", "1", "--runs-dir", str(tmp_path / "runs")]
    terminal = Terminal(argv, 80)
    wait_until(lambda: "1000/2000" in terminal.read(), "the first look", 30, lambda: terminal.text)
    slurm(squeue=row(FAILED))
    wait_until(lambda: (terminal.read(), terminal.process.poll())[1] is not None, "its end", 30, lambda: terminal.text)
    assert terminal.process.returncode == 0 and "failed" in terminal.text[-400:]
