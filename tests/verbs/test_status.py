"""What status shows of a run, from its directory and Slurm's answer, also among unrelated files."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import Answers
from steering import SCORED

from ecm_cluster import status
from ecm_cluster.backends import driver
from ecm_cluster.backends import slurm as slurm_backend
from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.console import cli, layout
from ecm_cluster.job import job
from ecm_cluster.reporting import runs_table
from ecm_cluster.reporting import state as states
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.ledger import Event
from ecm_cluster.rundir.run import Evaluation, Run
from ecm_cluster.slurm import queue
from ecm_cluster.slurm.job_states import JobState


def make_run(path: Path, where: str = "slurm", submitted: float = 1.0, jobs: dict[str, str | None] | None = None,
             **values: Any) -> Run:
    """A run directory as submit leaves it, with the jobs that were recorded."""
    run = Run(path)
    made = job.make({"name": run.name, "device": "cpu", **values})
    path.mkdir(parents=True)
    files.write_json(run.run_file, {"name": run.name, "run_id": "ab", "submitted": submitted, "cluster": where,
                                    "cwd": str(path), "threads": 1, "job": made.as_dict(),
                                    "digests": {"config": "sha256:0"}})
    for link, job_id in ({"train": "7", "evaluate": "8"} if jobs is None else jobs).items():
        record_job(run, link, job_id, where)
    return run


def record_job(run: Run, link: str, job_id: str | None, where: str = "slurm", age: float = 3600) -> None:
    run.submission_file(link).parent.mkdir(exist_ok=True)
    files.write_json(run.submission_file(link), {"token": f"token {run.name} {link}", "cluster": where,
                                                  **({"job_id": job_id} if job_id else {})})
    then = run.submission_file(link).stat().st_mtime - age
    os.utime(run.submission_file(link), (then, then))


def begin(work: Run | Evaluation, number: int, rank: int = 0) -> None:
    work.attempts_dir.mkdir(parents=True, exist_ok=True)
    accepts = [m.file for m in checkpoints.accepted(work)] if isinstance(work, Run) else []
    assert files.create_exclusive(work.attempt_file(number), json.dumps({"number": number, "accepts": accepts}))
    work.ledger(number, "task000").write("start", pid=1, host="n1", rank=rank)


def commit(run: Run, attempt: int, iteration: int, epoch: int = 0) -> checkpoints.Manifest:
    manifest = checkpoints.commit(run, attempt, lambda f: f.write(b"weights"), iteration=iteration, epoch=epoch,
                                  position=iteration, epoch_end=False)
    run.ledger(attempt, "train000").write("commit", **checkpoints.describe(manifest), epoch_end=False, seconds=0.1)
    return manifest


def evaluation_of(run: Run) -> Evaluation:
    """The evaluation of a complete run's last checkpoint."""
    work = evaluations.of_element(run, evaluations.Element(evaluations.LAST, {}))
    assert work is not None
    return work


def end(work: Run | Evaluation, attempt: int, cause: str, **fields: Any) -> Event:
    return work.ledger(attempt, "task000").write("end", cause=cause, **fields)


def complete(run: Run, attempt: int = 1) -> None:
    manifest = commit(run, attempt, 30, epoch=2)
    files.write_json(run.complete_file(attempt), {"attempt": attempt, "time": 1.0, **checkpoints.describe(manifest)})


def known(*answers: tuple[str, str] | tuple[str, str, str]) -> dict[str, JobState]:
    """Slurm's answer: (job id, state, reason) each."""
    return {a[0]: JobState(a[0], a[1], a[2] if len(a) > 2 else "None", "", "") for a in answers}


def state_of(run: Run, *answers: Any) -> states.RunState:
    tokens = {s.job_id: s.token for s in run.submissions()}
    return states.fold_one(run, {job_id: replace(state, comment=tokens.get(job_id, ""))
                                 for job_id, state in known(*answers).items()})


# ---------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("jobs", [{}, {"train": None}])
def test_an_interrupted_submission_says_how_to_continue(tmp_path, jobs):
    run = make_run(tmp_path / "it's a run", jobs=jobs)
    found = state_of(run)
    assert (found.state, found.reason) == ("submitting", "the submission was interrupted")
    assert found.next == f"""python -m ecm_cluster.submit --name 'it'"'"'s a run' --runs-dir {tmp_path}"""
    local = make_run(tmp_path / "local", "local", jobs={})
    assert str(state_of(local).next).endswith(f"--name local --runs-dir {tmp_path} --cluster local")


def test_a_pending_job_waits_for_what_slurm_says(tmp_path):
    run = make_run(tmp_path / "run")
    assert state_of(run, ("7", "PENDING", "Priority")) == states.RunState(
        "run", str(run.path), "waiting", "job 7 pending (Priority: jobs of higher priority are ahead of it)",
        jobs={"train": "7", "evaluate": "8"})
    assert state_of(run, ("7", "CONFIGURING")).reason == "job 7 configuring"


def test_a_requeued_job_waits_and_says_what_happened_before(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    commit(run, 1, 12, epoch=1)
    end(run, 1, "preempted", detail="Slurm preempted the job", rank=0)
    found = state_of(run, ("7", "PENDING", "BeginTime"))
    assert found.state == "waiting"
    assert found.reason == "job 7 pending (BeginTime: it may not start yet, as just after a requeue), " \
        "after attempt 1: Slurm preempted the job"
    assert (found.attempt, found.iteration, found.epoch) == (1, 12, 1)
    assert found.checkpoint == "iter_0000012-a0001.pth"


def test_a_running_job_shows_how_far_it_is(tmp_path):
    run = make_run(tmp_path / "run")
    assert state_of(run, ("7", "RUNNING")).reason == "starting"
    begin(run, 1)
    run.write_heartbeat(1, phase="training", iteration=5, iterations=30, epoch=0, loss=1.25,
                    seconds_per_iteration=0.4)
    found = state_of(run, ("7", "RUNNING"))
    assert (found.state, found.reason, found.iteration, found.iterations, found.loss, found.seconds_per_iteration) == (
        "running", "training", 5, 30, 1.25, 0.4)
    assert state_of(run, ("7", "COMPLETING")).state == "running"


FULL = {"seconds": 3 * 3600 + 5, "reason": "No space left on device", "stands": 12}


def test_commits_that_fail_for_hours_show_in_the_first_line(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    run.write_heartbeat(1, phase="training", iteration=90, commits_fail=FULL)
    said = "commits have failed for 3 h (No space left on device); the checkpoint of iteration 12 stands"
    assert state_of(run, ("7", "RUNNING")).reason == f"training; warning: {said}"
    assert state_of(run).reason.endswith(said), "by its heartbeat only"
    run.write_heartbeat(1, phase="training", iteration=91, commits_fail=None)
    assert state_of(run, ("7", "RUNNING")).reason == "training"


def test_commits_that_fail_show_by_the_ledger_where_the_heartbeat_is_lost(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    clock = iter([0.0, 600.0, 600.0 + 2 * 3600])
    monkeypatch.setattr("ecm_cluster.rundir.ledger.time.time", lambda: next(clock))
    trainer = run.ledger(1, "train000")
    trainer.write("commit", checkpoint="x")
    for iteration in (20, 30):
        trainer.write("commit-failed", iteration=iteration, reason="Disk quota exceeded", stands="iteration 12 stands")
    assert state_of(run, ("7", "RUNNING")).reason == \
        "starting; warning: commits have failed for 2 h (Disk quota exceeded); iteration 12 stands"
    monkeypatch.undo()
    trainer.write("commit", checkpoint="y")
    assert state_of(run, ("7", "RUNNING")).reason == "starting"


def test_a_running_job_without_a_heartbeat_is_said_to_be_silent_and_nothing_more(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    run.write_heartbeat(1, phase="training", iteration=90)
    then = os.stat(run.heartbeat_file(1)).st_mtime - 400
    os.utime(run.heartbeat_file(1), (then, then))
    assert state_of(run, ("7", "RUNNING")).reason == "training; warning: no heartbeat for 6 min"
    assert "no heartbeat" not in state_of(run, ("7", "PENDING", "Priority")).reason


def test_a_new_attempt_begins_where_the_last_checkpoint_is(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    commit(run, 1, 12)
    run.write_heartbeat(1, phase="training", iteration=17, iterations=30, epoch=0)
    end(run, 1, "preempted")
    begin(run, 2)
    found = state_of(run, ("7", "RUNNING"))
    assert (found.attempt, found.iteration) == (2, 12)


def test_what_a_fenced_attempt_commits_is_not_shown(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    commit(run, 1, 12)
    begin(run, 2)
    with contextlib.suppress(RuntimeError):  # as it notices that it is stale
        commit(run, 1, 20)
    assert state_of(run, ("7", "RUNNING")).checkpoint == "iter_0000012-a0001.pth"


def test_a_failed_job_says_why_and_where_to_read_on(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    end(run, 1, "crashed", detail="rank 3: ValueError: the loss is not a number", rank=3)
    found = state_of(run, ("7", "FAILED", "NonZeroExitCode"))
    assert (found.state, found.reason) == ("failed", "rank 3: ValueError: the loss is not a number")
    assert found.next == f"less {run.rank_log(3)}; python -m ecm_cluster.resume {run.path}"


def test_a_job_that_failed_before_any_attempt_says_slurms_words_and_its_log(tmp_path):
    run = make_run(tmp_path / "run")
    run.submitit_dir.mkdir()
    (run.submitit_dir / "7_0_log.out").write_text("module: command not found")
    found = state_of(run, ("7", "FAILED", "NonZeroExitCode"))
    assert (found.state, found.reason) == ("failed", "job 7 failed (NonZeroExitCode)")
    assert found.next == f"less {run.submitit_dir}/7_0_log.out; python -m ecm_cluster.resume {run.path}"


@pytest.mark.parametrize(("cause", "state"), [
    ("preempted", "stopped"), ("time limit", "stopped"), ("signalled", "stopped"), ("requeued", "stopped"),
    ("crashed", "failed"), ("killed", "failed")])
def test_an_ended_job_is_stopped_if_it_could_continue_and_failed_if_not(tmp_path, cause, state):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    end(run, 1, cause)
    assert state_of(run, ("7", "FAILED")).state == state


@pytest.mark.parametrize("mark", [True, False])
def test_a_cancelled_run_is_stopped_and_says_so(tmp_path, mark):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    end(run, 1, "signalled" if mark else "cancelled", detail="SIGTERM received")
    if mark:
        files.write_json(run.cancel_file, {"time": 1.0})
    found = state_of(run, ("7", "CANCELLED"))
    assert (found.state, found.reason) == ("stopped", "cancelled; SIGTERM received")
    assert found.next == f"python -m ecm_cluster.resume {run.path}"


def test_an_attempt_that_recorded_no_end_has_failed(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    found = state_of(run, ("7", "FAILED"))
    assert (found.state, found.reason) == ("failed", "job 7 failed")


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(("said", "state", "reason"), [
    ("NODE_FAIL", "stopped", "a node failed: job 7 node_fail"),
    ("PREEMPTED", "stopped", "Slurm preempted the job: job 7 preempted"),
    ("TIMEOUT", "stopped", "the time limit was near: job 7 timeout"),
    ("CANCELLED", "stopped", "cancelled; job 7 cancelled"),
    ("OUT_OF_MEMORY", "failed", "a rank needed more memory than the job has: job 7 out_of_memory"),
])
def test_an_unrecorded_end_is_described_by_slurm(tmp_path, closed, said, state, reason):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    if closed:  # by a batch shell that could not ask Slurm
        run.ledger(1, "batch.7.0").write("end", cause="lost", rank=None, detail="Slurm does not answer")
    found = state_of(run, ("7", said))
    assert (found.state, found.reason) == (state, reason)
    assert (found.next or "").endswith(f"python -m ecm_cluster.resume {run.path}")


def test_a_job_that_slurm_has_forgotten_has_failed_unless_its_heart_beats(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    assert state_of(run).state == "failed"
    assert state_of(run).reason == "Slurm has no record of job 7"
    run.write_heartbeat(1, phase="training", iteration=1, iterations=30, epoch=0)
    assert state_of(run).state == "running"
    then = time.time() - slurm_backend.SILENT_SECONDS - 1
    os.utime(run.heartbeat_file(1), (then, then))
    assert state_of(run).state == "failed"


def test_where_slurm_does_not_answer_nothing_is_said_to_have_failed(tmp_path):
    run = make_run(tmp_path / "run")
    found = states.fold_one(run, None)
    assert (found.state, found.reason) == ("unknown", "Slurm does not answer here")
    begin(run, 1)
    end(run, 1, "preempted", detail="Slurm preempted the job")
    found = states.fold_one(run, None)
    assert found.reason == "Slurm does not answer here; attempt 1 ended: Slurm preempted the job"
    begin(run, 2)
    run.write_heartbeat(2, phase="training", iteration=1, iterations=30, epoch=0)
    assert states.fold_one(run, None).state == "running"


# ---------------------------------------------------------------------------------------------- evaluation


def test_a_trained_run_whose_evaluation_waits_is_complete(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    complete(run)
    found = state_of(run, ("7", "COMPLETED"), ("8", "PENDING", "Dependency"))
    assert (found.state, found.reason) == (
        "complete", "trained; evaluation: job 8 pending (Dependency: it starts after another job)")
    assert (found.iteration, found.epoch, found.checkpoint) == (30, 2, "iter_0000030-a0001.pth")
    assert states.fold_one(run, None).state == "complete"


def test_without_an_evaluation_asked_for_a_trained_run_is_done(tmp_path):
    run = make_run(tmp_path / "run", evaluation={"enabled": False}, jobs={"train": "7"})
    begin(run, 1)
    complete(run)
    assert (state_of(run).state, state_of(run).reason) == ("done", "trained; no evaluation was requested")


def test_an_evaluation_shows_its_images_and_then_its_figures(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    complete(run)
    assert state_of(run, ("8", "RUNNING")).reason == "starting"
    work = evaluation_of(run)
    begin(work, 1)
    work.write_heartbeat(1, phase="inference", done=3, total=8)
    found = state_of(run, ("8", "RUNNING"))
    assert (found.state, found.reason) == ("evaluating", "inference 3/8")
    files.write_json(work.metrics_file(), {
        **SCORED, "figures": {"bbox": {"AP": 0.269, "APr": None}, "segm": {"AP": 0.25}}})
    found = state_of(run, ("8", "COMPLETED"))
    assert (found.state, found.reason) == ("done", "trained and scored")
    assert found.evaluation == {"metrics_file": f"evaluations/{work.key}/metrics.json", "bbox_AP": 0.269,
                                "bbox_APr": None, "segm_AP": 0.25}
    assert runs_table.scores(found) == "mask AP 25.0", "box AP only where there are no masks"


def test_a_failed_evaluation_says_why_and_where_to_read_on(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    complete(run)
    found = state_of(run, ("8", "CANCELLED"))
    resume = f"python -m ecm_cluster.resume {run.path}"
    assert (found.state, found.reason, found.next) == ("failed", "evaluation: job 8 cancelled", resume)
    work = evaluation_of(run)
    begin(work, 1)
    end(work, 1, "crashed", detail="rank 1: MemoryError", rank=1)
    found = state_of(run, ("8", "FAILED"))
    assert (found.state, found.reason) == ("failed", "evaluation: rank 1: MemoryError")
    assert found.next == f"less {work.rank_log(1)}; {resume}"


def test_an_evaluation_that_slurm_has_forgotten_runs_only_while_its_heart_beats(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    complete(run)
    work = evaluation_of(run)
    begin(work, 1)
    assert state_of(run).state == "failed"
    work.write_heartbeat(1, phase="inference", done=3, total=8)
    assert state_of(run).state == "evaluating"


def test_a_completion_mark_of_a_fenced_attempt_is_none(tmp_path):
    run = make_run(tmp_path / "run")
    begin(run, 1)
    complete(run)
    begin(run, 2)
    assert state_of(run, ("7", "RUNNING")).state == "running"


# ---------------------------------------------------------------------------------------------- one machine


def test_a_local_run_lives_as_long_as_its_driver(tmp_path):
    run = make_run(tmp_path / "runs" / "run", "local", jobs={})
    pid = driver.start(run, job.make({"name": "run", "setup": ["sleep 100"]}))
    try:
        record_job(run, "train", pid, "local")
        (tmp_path / "link").symlink_to(tmp_path / "runs")
        for path in (run.path, tmp_path / "link/run"):
            found = states.fold([Run(path)])[0]
            assert (found.state, found.reason) == ("running", "starting")
    finally:
        os.killpg(int(pid), signal.SIGKILL)
        os.waitpid(int(pid), 0)
    found = states.fold([run])[0]
    assert (found.state, found.next) == ("failed", f"less {run.local_log}; python -m ecm_cluster.resume {run.path}")


# ---------------------------------------------------------------------------------------------- the verb


def row(*fields: str) -> str:
    """A line of squeue."""
    return queue.SEPARATOR.join(fields) + "\n"


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Answers:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    answers = Answers(tmp_path, monkeypatch)
    answers(sbatch="", sacct=None, squeue=row("7", "RUNNING", "None", "N/A", "token run train"))
    return answers


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = cli.run(status.main, [str(a) for a in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_table_has_a_line_for_each_run_oldest_first_and_asks_slurm_once(capsys, slurm, tmp_path):
    for number, name in enumerate(["b-last", "a-middle", "c-first"]):
        make_run(tmp_path / "runs" / name, submitted=9.0 - number, jobs={"train": str(7 + number)})
    code, out, err = call(capsys, "--runs-dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if "-" in line and "──" not in line]
    assert [line.split()[0] for line in lines] == ["c-first", "a-middle", "b-last"]
    assert slurm.calls().count("squeue") == slurm.calls().count("sacct") == 1


def test_json_has_the_same_fields_for_every_run_and_the_timeline_for_one(capsys, slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    begin(run, 1)
    commit(run, 1, 12)
    make_run(tmp_path / "runs/other", submitted=2.0)
    listed = json.loads(call(capsys, "--json", "--runs-dir", tmp_path / "runs")[1])
    assert [r["run"] for r in listed] == ["run", "other"]
    names = set(states.RunState.__dataclass_fields__)
    assert all(set(r) == names for r in listed)
    one = json.loads(call(capsys, "run", "--json", "--runs-dir", tmp_path / "runs")[1])
    assert set(one) == names | {"events", "goodput"}
    assert [(e["kind"], e["attempt"], e["writer"]) for e in one["events"]] == [
        ("start", 1, "task000"), ("commit", 1, "train000")]
    assert one["jobs"] == {"train": "7", "evaluate": "8"}
    assert json.loads(call(capsys, run.path, "--json")[1]) == one, "a path means the same as a name"


def test_a_loss_that_is_not_a_number_leaves_json_readable(capsys, slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    begin(run, 1)
    run.write_heartbeat(1, phase="training", iteration=1, iterations=3, epoch=0, loss=math.nan)
    out = call(capsys, "--json", "--runs-dir", tmp_path / "runs")[1]

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert json.loads(out, parse_constant=refuse)[0]["loss"] is None
    assert " nan " in call(capsys, "--runs-dir", tmp_path / "runs")[1]


def test_the_timeline_of_one_run_tells_attempt_by_attempt(capsys, slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    run.ledger(0, "submit").write("submitted", stage="train", job_id="7")
    begin(run, 1)
    commit(run, 1, 12)
    end(run, 1, "preempted")
    run.ledger(1, "task000").write("requeue", accepted=True, cause="preempted")
    run.ledger(2, "task000").write("quarantine", checkpoint="iter_0000012-a0001.pth", reason="3 bytes instead of 7")
    begin(run, 2)
    code, out, _ = call(capsys, run.path, "--full")
    assert code == 0
    in_order = ["run: running: starting", "jobs: train 7, evaluate 8",
                     "train submitted as job 7", "started on n1", "committed iter_0000012-a0001.pth in 0.1 s",
                     "ended: preempted: Slurm preempted the job", "requeued",
                     "moved iter_0000012-a0001.pth to quarantine: 3 bytes instead of 7"]
    places = [out.index(text) for text in in_order]
    assert places == sorted(places)


@pytest.mark.parametrize("numbers, words", [
    ((19_300_000_000, 0, 0, 20.0, 0.0), "n1: 19.3 GB staged to /s/ab in 20.0 s (965.0 MB/s)"),
    ((0, 19_300_000_000, 0, 0.1, 0.0), "n1: 19.3 GB already there in /s/ab"),
    ((0, 19_300_000_000, 0, 0.1, 21.5), "n1: 19.3 GB already there in /s/ab, waited 21.5 s for another process"),
    ((0, 19_291_000_000, 9_000_000, 1.0, 0.0), "n1: 9.0 MB repaired, 19.3 GB already there in /s/ab"),
])
def test_the_timeline_says_how_long_staging_took_and_why(capsys, slurm, tmp_path, numbers, words):
    run = make_run(tmp_path / "runs/run")
    begin(run, 1)
    fields = dict(zip(("copied", "found", "repaired", "seconds", "waited"), numbers))
    run.ledger(1, "staging000").write("staged", host="n1", node=0, rank=0, scratch="/s/ab", pack="/p", **fields)
    run.ledger(1, "staging001").write("staging", host="n2", detail="read from shared storage: scratch: no room")
    output = call(capsys, run.path, "--full")[1]
    assert words in output
    assert "n2: read from shared storage: scratch: no room" in output


def test_what_another_rank_of_the_node_copied_is_shown_once(capsys, slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    begin(run, 1)
    same = {"host": "n1", "node": 0, "scratch": "/s", "pack": "/p", "repaired": 0, "seconds": 1.0, "waited": 0.0}
    run.ledger(1, "staging000").write("staged", copied=0, found=5000, **same)
    run.ledger(1, "staging001").write("staged", copied=5000, found=0, **same)
    run.ledger(1, "staging002").write("staged", copied=0, found=5000, **{**same, "node": 1, "host": "n2"})
    output = call(capsys, run.path, "--full")[1]
    assert output.count("5.0 kB staged to /s") == 1
    assert output.count("already there") == 1 and "n2: 5.0 kB already there" in output


def test_a_run_that_stages_says_how_far_it_is(capsys, slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    begin(run, 1)
    run.write_heartbeat(1, phase="staging", done=8_100_000_000, total=19_300_000_000)
    assert "running: staging 8.1 GB of 19.3 GB" in call(capsys, run.path)[1]


def test_an_unrecorded_job_is_found_by_status(capsys, slurm, tmp_path):
    run = make_run(tmp_path / "runs/run", jobs={"train": None})
    slurm(squeue=row("41", "PENDING", "Priority", "N/A", "token run train"))
    listed = json.loads(call(capsys, "--json", "--runs-dir", tmp_path / "runs")[1])
    assert (listed[0]["state"], listed[0]["jobs"]) == ("waiting", {"train": "41"})
    assert run.submissions()[0].job_id == "41"


def test_status_works_while_slurm_is_down(capsys, slurm, tmp_path):
    make_run(tmp_path / "runs/run")
    make_run(tmp_path / "runs/interrupted", jobs={"train": None})
    slurm(squeue=None, sacct=None)
    code, out, err = call(capsys, "--json", "--runs-dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    assert {r["run"]: r["state"] for r in json.loads(out)} == {"run": "unknown", "interrupted": "submitting"}


@pytest.mark.parametrize("name", ["none", "runs", "../runs", "runs/empty", "runs/run/run.json"])
def test_something_that_is_not_a_run_is_refused_in_one_line(capsys, slurm, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs/run")
    (tmp_path / "runs/empty").mkdir()
    code, out, err = call(capsys, name)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert f"RUN: {name!r} is neither a run directory nor the name of one under" in err


def test_a_runs_folder_that_is_none_is_refused_where_it_was_named(capsys, slurm, tmp_path, monkeypatch):
    code, _, err = call(capsys, "--runs-dir", tmp_path / "none")
    assert code == 2
    assert f"runs-dir: {tmp_path}/none is not a directory" in err
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys)
    assert code == 0
    assert "no runs in" in out


def test_several_runs_are_a_table_named_one_by_one_or_by_patterns(capsys, slurm, tmp_path):
    for number, name in enumerate(["exp-1", "exp-2", "base"]):
        make_run(tmp_path / "runs" / name, submitted=number + 1.0)
    for words, names in ((["base", "exp-*"], ["base", "exp-1", "exp-2"]), (["bas*"], ["base"]),
                         ([tmp_path / "runs/exp-2", "exp-2", "base"], ["exp-2", "base"])):
        out = call(capsys, *words, "--runs-dir", tmp_path / "runs")[1]
        assert [line.split()[0] for line in out.splitlines()[2:]] == names
        listed = json.loads(call(capsys, *words, "--json", "--runs-dir", tmp_path / "runs")[1])
        assert [r["run"] for r in listed] == names and "events" not in listed[0]
    code, out, err = call(capsys, "base", "none-*", "--runs-dir", tmp_path / "runs")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "no run matches 'none-*'" in err


def scored_by(name: str, **figures: float) -> states.RunState:
    return states.RunState(name, "", "done", "trained and scored", evaluation=figures)


def test_the_table_names_the_ap_that_it_shows(capsys):
    masks, boxes = scored_by("a", bbox_AP=0.3, segm_AP=0.25, segm_APr=0.1, bbox_APr=0.2), scored_by("b", bbox_AP=0.4)
    for shown, head, cells in (([masks], ["mask AP", "APr"], [["25.0", "10.0"]]), ([boxes], ["box AP"], [["40.0"]]),
                               ([masks, boxes], ["mask AP", "box AP", "APr"], [["25.0", "10.0"], ["40.0"]])):
        header, _, *rows = runs_table.lines(shown)
        assert [word for word in re.split("  +", header) if "AP" in word][:len(head)] == head
        assert [row.split()[2:-3] for row in rows] == cells


NAMES = ["short", "mask_rcnn_r50_fpn_1x_lvis_v1_ecm_seed_0_with_a_name_of_sixty", "größe-日本語の実験の名前-その二"]
LONG_REASON = ("waiting: job 7 pending (Priority), after attempt 12: Slurm preempted the job; warning: commits have "
               "failed for 3 h (No space left on device); the checkpoint of iteration 12 stands")


@pytest.mark.parametrize("room", [60, 80, 100, 160])
def test_the_words_of_the_table_stay_whole(capsys, room):
    shown = [states.RunState(name, "", "running", LONG_REASON, attempt=12, iteration=12000, iterations=90000, epoch=3,
                             loss=0.512, evaluation={"segm_AP": 0.264, "segm_APr": 0.18}) for name in NAMES]
    lines = runs_table.lines(shown, room)
    words = [word for line in lines for word in line.split()]
    assert set(words) >= {*NAMES, *LONG_REASON.split(), "running", "12000/90000", "26.4"}
    assert words.count("26.4") == words.count("preempted") == 3
    assert max(map(layout.cells, lines)) <= room


def test_color_is_for_terminals_only(capsys, slurm, tmp_path):
    run = make_run(tmp_path / "runs/run")
    begin(run, 1)
    assert "\x1b" not in call(capsys, "--runs-dir", tmp_path / "runs")[1]
    line = runs_table.lines(states.fold([run]), 80, color=True)[2]
    assert "\x1b[32mrunning\x1b[0m" in line


# ---------------------------------------------------------------------------------------------- damage


def damage(run: Run, what: str) -> None:
    """Something that no writer of ours leaves there."""
    begin(run, 1)
    commit(run, 1, 5)
    if what == "run.json torn":
        run.run_file.write_text(run.run_file.read_text()[:40])
    elif what == "run.json a list":
        run.run_file.write_text("[]")
    elif what == "run.json empty":
        run.run_file.write_text("{}")
    elif what == "run.json a folder":
        run.run_file.unlink()
        run.run_file.mkdir()
    elif what == "run.json of other bytes":
        run.run_file.write_bytes(b"\xff\xfe\x00")
    elif what == "completion torn":
        run.complete_file(1).write_text('{"attempt": 1, ')
    elif what == "completion without fields":
        run.complete_file(1).write_text('{"attempt": 1}')
    elif what == "attempt torn":
        run.attempt_file(1).write_text("")
    elif what == "submission torn":
        run.submission_file("train").write_text('{"token": ')
    elif what == "another submission":
        run.submission_file("x").write_text("[1, 2]")
    elif what == "heartbeat a list":
        run.heartbeat_file(1).write_text("[1]")
    elif what == "ledger of another":
        (run.ledger_dir / "1st-notes.jsonl").write_text("{}\n[1]\nnull\n")
    elif what == "ledger torn":
        (run.ledger_dir / "0001-task001.jsonl").write_bytes(b'{"sequence": 1, "kind": "e\n\xff\n[1]\n7\nnull\n{}\n')
    elif what == "end of an unknown cause":
        end(run, 1, "abducted")
    elif what == "manifest of another":
        (run.checkpoints_dir / "iter_9.json").write_text("[]")
    elif what == "evaluations a file":
        run.evaluations_dir.write_text("")
    elif what == "ledger gone":
        shutil.rmtree(run.ledger_dir)


DAMAGES = ["run.json torn", "run.json a list", "run.json empty", "run.json a folder", "run.json of other bytes",
           "completion torn", "completion without fields", "attempt torn", "submission torn", "another submission",
           "heartbeat a list", "ledger of another", "ledger torn", "end of an unknown cause", "manifest of another",
           "evaluations a file", "ledger gone"]
HARMLESS = {"another submission", "ledger of another", "ledger torn", "manifest of another", "evaluations a file",
            "ledger gone"}


@pytest.mark.parametrize("what", DAMAGES)
def test_one_damaged_run_does_not_hide_the_others(capsys, slurm, tmp_path, what):
    damage(make_run(tmp_path / "runs/damaged", jobs={"train": "17", "evaluate": "18"}), what)
    make_run(tmp_path / "runs/sound")
    slurm(squeue=row("7", "RUNNING", "None", "N/A", "token sound train")
          + row("17", "RUNNING", "None", "N/A", "token damaged train"))
    code, out, err = call(capsys, "--json", "--runs-dir", tmp_path / "runs")
    assert (code, err) == (0, "")
    found = {r["run"]: r for r in json.loads(out)}
    assert found["sound"]["state"] == "running"
    assert found["damaged"]["state"] == "running" if what in HARMLESS else found["damaged"]["state"] != "done"
    assert call(capsys, "--runs-dir", tmp_path / "runs")[0] == 0


@pytest.mark.parametrize("what", [d for d in DAMAGES if d.startswith("run.json")])
def test_a_run_whose_record_cannot_be_read_says_so(capsys, slurm, tmp_path, what):
    damage(make_run(tmp_path / "runs/damaged"), what)
    (found,) = json.loads(call(capsys, "--json", "--runs-dir", tmp_path / "runs")[1])
    assert found["state"] == "unreadable"
    assert "run.json" in found["reason"]
    code, out, err = call(capsys, "damaged", "--runs-dir", tmp_path / "runs")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "run.json" in err


def test_unrelated_files_beside_the_runs_are_skipped(capsys, slurm, tmp_path):
    make_run(tmp_path / "runs/run")
    (tmp_path / "runs/notes.txt").write_text("x")
    (tmp_path / "runs/empty").mkdir()
    (tmp_path / "runs/nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "runs/circle").symlink_to(tmp_path / "runs/circle")
    assert [r["run"] for r in json.loads(call(capsys, "--json", "--runs-dir", tmp_path / "runs")[1])] == ["run"]


def test_a_reason_with_brackets_is_shown_as_it_is(capsys, slurm, tmp_path):
    slurm(squeue="7|FAILED|None|N/A|x\n")
    run = make_run(tmp_path / "runs/run [v2]")
    begin(run, 1)
    detail = "IndexError: [/image] and [red] of shape [batch, 4]"
    end(run, 1, "crashed", detail=detail, rank=0)
    out = call(capsys, "--runs-dir", tmp_path / "runs")[1]
    assert detail in out
    assert "run [v2]" in out


def test_a_waiting_job_says_when_it_is_expected_to_start(capsys, slurm, tmp_path):
    make_run(tmp_path / "runs/run")
    soon = time.localtime(time.time() + 3 * 86400)
    slurm(squeue=row("7", "PENDING", "Resources", time.strftime("%Y-%m-%dT%H:%M:%S", soon), "token run train"))
    said = time.strftime("expected to start at %m-%d %H:%M", soon)
    assert said in call(capsys, "run", "--runs-dir", tmp_path / "runs")[1]
    assert said in " ".join(call(capsys, "--runs-dir", tmp_path / "runs")[1].split())
    (found,) = json.loads(call(capsys, "--json", "--runs-dir", tmp_path / "runs")[1])
    assert found["expected_start"] == time.mktime(soon) and "expected" not in found["reason"]
