"""The parent of a rank's worker: one attempt for all ranks, one cause for each end, one decision after a stop.

Real supervisors and real workers; the tests say what the workers do instead of training.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import Answers
from small import ROOT, wait_until

from ecm_cluster.base import files
from ecm_cluster.job import job
from ecm_cluster.node import world
from ecm_cluster.node.supervise import decision, supervise_evaluation, supervisor
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.ledger import Event
from ecm_cluster.rundir.run import Run

SUPERVISOR = """
import sys
from ecm_cluster.base import processes
from ecm_cluster.node import signals
from ecm_cluster.node.supervise import supervise_training, watching
from ecm_cluster.rundir.run import Run

watching.LEAVE_SECONDS = 1.0

class Small(supervise_training.TrainingSupervisor):
    process = "small worker"

processes.MODULES["small worker"] = "small_worker"
signals.watch()
Small(Run(sys.argv[1])).run()
"""
WORKER = """
import contextlib, os, signal, sys, time
from pathlib import Path
from ecm_cluster.rundir import checkpoints
from ecm_cluster.base import files
from ecm_cluster.node import heartbeat, signals
from ecm_cluster.node.rank_process import record_failure
from ecm_cluster.rundir.run import Run

run, attempt, rank = Run(sys.argv[1]), int(sys.argv[2]), int(os.environ["RANK"])
agreed = run.path / f"stop-{attempt}"
signals.watch(run.stacks_file(attempt, rank))
heartbeat.beat(phase="training", iteration=7)
files.write_text(run.path / f"working-{attempt}-{rank}", str(os.getpid()))

def commit():
    return checkpoints.commit(run, attempt, lambda f: f.write(b"weights"), iteration=9, epoch=0, position=9,
                              epoch_end=False)

def act(what):
    if what == "complete":
        if rank == 0:
            with contextlib.suppress(RuntimeError):
                commit()
            files.write_json(run.complete_file(attempt), {"attempt": attempt, "checkpoint": "iter_0000008-a0001.pth"})
        return 0
    if what == "meet and complete":
        while not all((run.path / f"working-{attempt}-{n}").exists() for n in range(int(os.environ["WORLD_SIZE"]))):
            time.sleep(0.02)
        return act("complete")
    if what == "fail and say why":
        try:
            raise ArithmeticError("the loss is not a number")
        except ArithmeticError as error:
            record_failure(run, attempt, rank, "train", error)
        return 1
    if what == "complete and be killed":
        act("complete")
    if what in ("be killed", "complete and be killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "beat":
        for iteration in range(10**9):
            heartbeat.beat(phase="training", iteration=iteration)
            if (run.path / "go").exists():
                return act("complete")
            time.sleep(0.05)
    if what == "commit when asked":
        while not (run.path / "go").exists():
            time.sleep(0.02)
        return act("complete")
    while what in ("stop", "wait", "stop and stay"):
        if what == "stop and stay" and signals.asked_to_stop():
            heartbeat.beat(phase="stopped")
            signal.pause()
        # stands for the agreement of the ranks
        if what == "stop" and signals.asked_to_stop():
            agreed.touch()
        if what == "stop" and agreed.exists():
            return 75
        time.sleep(0.02)
    return int(what)

sys.exit(act(sys.argv[3] if len(sys.argv) > 3 else os.environ["ACTS"].split(";")[attempt - 1]))
"""


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path / "run")
    made.path.mkdir()
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/small_worker.py").write_text(WORKER)
    files.write_json(made.run_file, {"name": "run", "run_id": "ab", "cluster": "local",
                                     "job": job.make({"name": "run", "device": "cpu"}).as_dict()})
    return made


@pytest.fixture
def start(run, tmp_path) -> Iterator[Any]:
    """Starts the supervisor of a rank; ``acts`` is what its worker does in attempt 1; in attempt 2; …"""
    started: list[subprocess.Popen[str]] = []

    def begin(acts: str, rank: int = 0, size: int = 1, job_id: str = "100", **env: str) -> subprocess.Popen[str]:
        place = {"SUBMITIT_LOCAL_JOB_ID": job_id, "SUBMITIT_LOCAL_NTASKS": str(size),
                 "SUBMITIT_LOCAL_GLOBALID": str(rank), "SUBMITIT_LOCAL_LOCALID": str(rank)}
        if "SLURM_JOB_ID" in env:
            place = {"SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size), "SLURM_LOCALID": str(rank),
                     "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
        environ = {**os.environ, **place, "ACTS": acts, "PYTHONPATH": f"{ROOT}:{tmp_path}/modules", **env}
        started.append(subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(run.path)], env=environ, cwd=tmp_path,
                                        text=True, stderr=subprocess.PIPE))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and the last line of what was printed."""
    _, err = process.communicate(timeout=120)
    return process.returncode, err.strip().splitlines()[-1] if err.strip() else ""


def events(run: Run, kind: str) -> list[Event]:
    return [e for e in run.events() if e.kind == kind]


def working(run: Run, attempt: int = 1, rank: int = 0) -> int:
    """The pid of a rank's worker, once it listens."""
    path = run.path / f"working-{attempt}-{rank}"
    return int(wait_until(lambda: path.exists() and path.read_text(), f"rank {rank} of attempt {attempt} works", 60))


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# ---------------------------------------------------------------------------------------------- attempts


def test_a_worker_that_dies_after_the_completion_mark_has_completed_the_work(run, start):
    assert ended(start("complete and be killed")) == (0, "")
    assert [e["cause"] for e in events(run, "end")] == ["complete"]


def test_a_worker_that_completes_ends_its_task_well(run, start):
    task = start("complete")
    assert ended(task) == (0, "")
    assert run.completion() is not None
    assert [(e.attempt, e["rank"], e["pid"]) for e in events(run, "start")] == [(1, 0, task.pid)]
    assert events(run, "end") == []
    record = run.read_attempt(1)
    expected = {"number": 1, "identity": "local:100:0:0", "job_id": "100", "cluster": "local", "restart": 0, "nodes": 1,
                "world_size": 1, "from": None, "accepts": []}
    assert {k: record[k] for k in expected} == expected
    assert "---- attempt 1, job 100 on " in run.rank_log(0).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("other", [{"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"}, {"SLURM_JOB_ID": "78"}])
@pytest.mark.parametrize("tokens", [True, False])
def test_a_start_that_stood_still_while_another_took_its_place_takes_no_attempt(run, start, other, tokens):
    before = {"token": "t:77", "job_id": "77", "cluster": "slurm", "former": []}
    run.submission_file("train").parent.mkdir()
    files.write_json(run.submission_file("train"), before)
    token = {"ECM_CLUSTER_TOKEN": "t:77"} if tokens else {}
    old = start("complete", SLURM_JOB_ID="77", **token, **{files.STOP_ENV: "before-link:0001.json"})
    stat = Path(f"/proc/{old.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it stands still", 60)
    if other["SLURM_JOB_ID"] == "78":  # the user has resumed the run
        files.write_json(run.submission_file("train"), {"token": "t:78", "job_id": "78", "cluster": "slurm",
                                                        "former": [before]})
        token = {"ECM_CLUSTER_TOKEN": "t:78"} if tokens else {}
    new = start("commit when asked", **other, **token)
    working(run)
    os.kill(old.pid, signal.SIGCONT)
    code, said = ended(old)
    assert code != 0 and "stale start: job 77" in said
    assert run.attempts() == [1] and events(run, "end") == []
    (run.path / "go").touch()
    assert ended(new) == (0, "")
    assert run.completion() is not None and run.attempts() == [1]


def test_an_id_that_slurm_gave_to_an_earlier_job_of_the_run_makes_no_start_stale(run, start):
    run.attempts_dir.mkdir()
    files.write_json(run.attempt_file(1), {"number": 1, "job_id": "77", "restart": 3, "token": "t:old", "accepts": [],
                                           "cluster": "slurm", "identity": "slurm:77:3:0", "host": "n1"})
    assert ended(start("0;complete", SLURM_JOB_ID="77", ECM_CLUSTER_TOKEN="t:new")) == (0, "")
    assert run.attempts() == [1, 2]


def test_what_is_done_is_not_begun_again(run, start):
    ended(start("complete"))
    assert ended(start("1", job_id="101")) == (0, "")
    assert run.attempts() == [1]


def test_rank_1_joins_the_attempt_of_rank_0_and_no_older_one(run, start):
    run.attempts_dir.mkdir()
    files.write_json(run.attempt_file(1), {"number": 1, "identity": "local:99:0:0", "accepts": []})
    second = start("1;complete", rank=1, size=2)
    first = start("1;complete", rank=0, size=2)
    assert (ended(first)[0], ended(second)[0]) == (0, 0)
    assert sorted((e.attempt, e["rank"]) for e in events(run, "start")) == [(2, 0), (2, 1)]
    assert run.read_attempt(2)["world_size"] == 2


def test_rank_1_goes_home_where_the_work_was_done_before_it_came(run, start):
    ended(start("complete"))
    assert ended(start("1", rank=1, size=2, job_id="101")) == (0, "")


def test_an_attempt_names_the_checkpoint_it_resumes_from_and_those_it_accepts(run, start):
    run.attempts_dir.mkdir()
    files.write_json(run.attempt_file(1), {"number": 1, "identity": "x", "accepts": []})
    sound, broken = (checkpoints.commit(run, 1, lambda f: f.write(b"weights"), iteration=i, epoch=0, position=i,
                                        epoch_end=False) for i in (5, 6))
    broken.path(run).write_bytes(b"wei")
    ended(start("1;complete"))
    record = run.read_attempt(2)
    assert (record["from"], record["accepts"]) == (sound.file, [sound.file])
    (event,) = events(run, "quarantine")
    assert (event.attempt, event["checkpoint"], event["reason"]) == (2, broken.file, "3 bytes instead of 7")


def test_a_second_start_fences_the_first(run, start):
    """As when Slurm takes a node for dead and runs the job elsewhere while its old tasks live on."""
    old = start("commit when asked", job_id="100")
    working(run)
    new = start(";wait", job_id="101")
    working(run, 2)
    (run.path / "go").touch()
    code, said = ended(old)
    assert code != 0
    assert "ended without completing its work" in said
    assert run.completion() is None
    assert checkpoints.accepted(run) == []
    assert new.poll() is None


# ---------------------------------------------------------------------------------------------- ends


def test_an_exit_code_is_a_crash_with_the_log_to_read(run, start):
    code, said = ended(start("3"))
    assert code != 0
    assert said.endswith(f"rank 0: the worker ended with code 3; see {run.rank_log(0)}")
    (end,) = events(run, "end")
    assert (end["cause"], end["rank"]) == ("crashed", 0)
    assert f"exit code 3; see {run.rank_log(0)}" in end["detail"]
    assert files.read_json(run.abort_file(1)) == {"rank": 0, "code": 3}


def test_a_cause_that_the_worker_reported_itself_is_the_only_one(run, start):
    assert ended(start("fail and say why"))[0] != 0
    (end,) = events(run, "end")
    assert (end["cause"], end["detail"]) == ("crashed", "rank 0: ArithmeticError: the loss is not a number")
    assert "ArithmeticError" in run.rank_log(0).read_text()


def test_a_killed_worker_is_reported_by_its_signal(run, start):
    assert ended(start("be killed"))[0] != 0
    (end,) = events(run, "end")
    assert end["cause"] == "killed"
    assert end["detail"].endswith(": killed by SIGKILL")


def test_a_worker_that_ends_well_without_the_work_has_failed(run, start):
    """For Slurm an exit code of 0 would be a completed job, and start what waits for it."""
    code, said = ended(start("0"))
    assert code != 0
    assert "the worker ended without completing its work" in said
    assert [e["cause"] for e in events(run, "end")] == ["crashed"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["be killed", "fail and say why"])
def test_when_one_rank_fails_the_others_end_and_the_cause_is_reported_once(run, start, how):
    others = (0, 2) if how == "be killed" else (0,)
    waiting = [start("wait", rank=rank, size=3) for rank in others]
    pids = [working(run, rank=rank) for rank in others]
    failing = start(how, rank=1, size=3)
    assert ended(failing)[0] != 0
    for task in waiting:
        assert ended(task)[0] != 0
    assert all(gone(pid) for pid in pids)
    assert [e["rank"] for e in events(run, "end")] == [1]


def hangs_soon(run: Run) -> None:
    """A worker that trains may be silent for 2 s."""
    files.write_json(run.run_file, {"name": "run", "run_id": "ab", "cluster": "local",
                                    "job": job.make({"name": "run", "device": "cpu", "hang_minutes": 0.2}).as_dict()})


@pytest.mark.slow
def test_silent_ranks_are_hung_and_say_where_they_stood(run, start):
    hangs_soon(run)
    tasks = [start("wait", rank=rank, size=2) for rank in (0, 1)]
    pids = [working(run, rank=rank) for rank in (0, 1)]
    for task in tasks:
        assert ended(task)[0] != 0
    assert all(gone(pid) for pid in pids)
    assert {e["cause"] for e in events(run, "end")} == {"hung"}
    for end in events(run, "end"):
        assert "training, iteration 7: no progress for" in end["detail"]
        assert 2 <= end["silence"] < 30 and end["process_state"] in "SR" and end["cpu_seconds"] < 5
    for rank in (0, 1):
        assert "small_worker.py" in run.stacks_file(1, rank).read_text()


@pytest.mark.slow
def test_a_worker_that_is_stopped_is_not_hung_and_continues_when_it_is_let(run, start):
    """As where the job is suspended, or its worker alone; one that is silent when it runs again hangs."""
    hangs_soon(run)
    task = start("beat;wait")
    pid = working(run)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    task.send_signal(signal.SIGSTOP)  # the whole job
    time.sleep(6)
    os.kill(pid, signal.SIGCONT)
    task.send_signal(signal.SIGCONT)
    time.sleep(1)
    os.kill(pid, signal.SIGCONT)
    (run.path / "go").touch()
    assert ended(task) == (0, "")
    assert events(run, "end") == []


@pytest.fixture
def small_disk(run) -> Iterator[Path]:
    """The run's folder on a disk of 1 MB; gives the file that fills it."""
    kept = {path.name: path.read_bytes() for path in run.path.iterdir()}
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", run.path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    for name, content in kept.items():
        (run.path / name).write_bytes(content)
    yield run.path / "filler"
    subprocess.run(["umount", "-l", run.path], check=True)


def fill(path: Path) -> None:
    with open(path, "wb", buffering=0) as handle, contextlib.suppress(OSError):
        while True:
            handle.write(bytes(4096))


@pytest.mark.slow
def test_a_full_disk_ends_no_run_and_its_heartbeat_still_continues(run, start, small_disk):
    hangs_soon(run)
    task = start("beat")
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration"), "it works", 60)
    fill(small_disk)
    before = wait_until(lambda: run.heartbeat(1), "a heartbeat on a full disk", 30)["iteration"]
    time.sleep(4)
    assert task.poll() is None
    assert run.heartbeat(1)["iteration"] > before
    assert run.seconds_since_heartbeat(1) < 5
    small_disk.unlink()
    (run.path / "go").touch()
    assert ended(task) == (0, "")
    assert [e.kind for e in run.events() if e.kind in ("start", "end", "left")] == ["start", "left"]


@pytest.mark.slow
def test_a_run_on_a_full_disk_that_hangs_or_fails_ends_even_so(run, start, small_disk):
    hangs_soon(run)
    task = start("commit when asked")
    working(run)
    fill(small_disk)
    code, said = ended(task)
    assert code != 0 and "the worker ended with code -9" in said


@pytest.fixture(scope="module")
def shim(tmp_path_factory) -> Path:
    """The library that lets storage fail."""
    made = tmp_path_factory.mktemp("shim") / "slowfs.so"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", made, ROOT / "benchmarks/slowfs.c", "-ldl"], check=True)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_storage_that_fails_for_a_while_ends_no_run(run, start, shim, tmp_path, number):
    orders = tmp_path / "errors"
    env = {"LD_PRELOAD": str(shim), "SLOWFS_FOLDER": str(run.path), "SLOWFS_ERRORS": str(orders)}
    hangs_soon(run)
    tasks = [start("beat", rank=rank, size=2, **env) for rank in (0, 1)]
    for rank in (0, 1):
        working(run, rank=rank)
    failing = [".abort.", ".heartbeat.", "ledger", "stop-", ".decision.", "cancelled", "submissions"]
    orders.write_text("".join(f"{number} {part}\n" for part in failing))
    time.sleep(4)
    assert [task.poll() for task in tasks] == [None, None]
    orders.unlink()
    (run.path / "go").touch()
    assert [ended(task)[0] for task in tasks] == [0, 0]
    assert events(run, "end") == []


@pytest.mark.slow
def test_storage_that_fails_as_a_worker_ends_is_asked_again(run, start, shim, tmp_path):
    orders = tmp_path / "errors"
    task = start("commit when asked", LD_PRELOAD=str(shim), SLOWFS_FOLDER=str(run.path), SLOWFS_ERRORS=str(orders))
    pid = working(run)
    orders.write_text(f"{errno.ESTALE} attempts\n{errno.ESTALE} ledger\n")
    os.kill(pid, signal.SIGKILL)
    time.sleep(3)
    assert task.poll() is None
    orders.unlink()
    code, said = ended(task)
    assert "rank 0: the worker ended with code -9" in said
    assert [e["cause"] for e in events(run, "end")] == ["killed"]


def test_a_worker_does_not_outlive_its_supervisor(run, start):
    task = start("wait")
    pid = working(run)
    task.kill()
    wait_until(lambda: gone(pid), "the worker dies with its supervisor", 60)


# ---------------------------------------------------------------------------------------------- stops, one machine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_any_rank_stops_all_with_one_decision(run, start, number):
    tasks = [start("stop", rank=rank, size=2) for rank in (0, 1)]
    for rank in (0, 1):
        working(run, rank=rank)
    tasks[1].send_signal(number)
    for task in tasks:
        code, said = ended(task)
        assert code != 0
        assert said.endswith("stopped: signalled")
    (end,) = events(run, "end")
    assert (end["cause"], end["rank"]) == ("signalled", 0)
    assert files.read_json(run.decision_file(1)) == {"action": "stop", "cause": "signalled"}
    assert not run.abort_file(1).exists()


def test_a_worker_that_has_committed_and_does_not_end_is_not_waited_for(run, start):
    """As where NCCL or a broken GPU holds up the end of a process: the requeue must not wait for that."""
    task = start("stop and stay")
    pid = working(run)
    task.send_signal(signal.SIGTERM)
    assert ended(task)[1].endswith("stopped: signalled")
    assert gone(pid)
    (end,) = events(run, "end")
    assert end["cause"] == "signalled", "it has done what it was asked for"


def test_a_rank_that_cannot_use_its_gpu_takes_no_attempt(run, start):
    """There is no GPU here, or mmcv has no operators for it."""
    files.write_json(run.run_file, {"name": "run", "run_id": "ab", "cluster": "local",
                                    "job": job.make({"name": "run"}).as_dict()})
    code, said = ended(start("complete"))
    (event,) = events(run, "not-started")
    assert code != 0
    assert said.endswith(event["detail"])
    assert event["detail"].startswith(f"{world.node_name()}: ")
    assert run.attempts() == []


@pytest.mark.slow
def test_a_rank_whose_answer_dies_with_rank_0_does_not_wait_for_it_on_one_machine(run, start):
    first = start("stop", size=2, **{files.KILL_ENV: "before-rename:decision"})
    second = start("stop", rank=1, size=2)
    for rank in (0, 1):
        working(run, rank=rank)
    first.send_signal(signal.SIGTERM)
    assert ended(first)[0] == -signal.SIGKILL
    assert ended(second)[1].endswith("stopped: unknown")
    assert not run.decision_file(1).exists()



def test_a_signal_while_the_worker_is_still_starting_reaches_it(run, start):
    task = start("stop")
    wait_until(lambda: events(run, "start"), "the attempt begins", 60)
    task.send_signal(signal.SIGTERM)
    assert ended(task)[1].endswith("stopped: signalled")
    assert events(run, "end")[0]["detail"] == "SIGTERM received"


def test_a_cancelled_run_says_so(run, start):
    task = start("stop")
    working(run)
    files.write_json(run.cancel_file, {"time": 1.0})
    task.send_signal(signal.SIGTERM)
    assert ended(task)[1].endswith("stopped: cancelled")
    assert [e["cause"] for e in events(run, "end")] == ["cancelled"]


def test_tasks_without_their_driver_commit_and_stop(run, start):
    driver = subprocess.Popen(["sleep", "600"])
    task = start("stop", **{world.DRIVER_ENV: str(driver.pid)})
    working(run)
    assert task.poll() is None
    driver.kill()
    driver.wait()
    assert ended(task)[1].endswith("stopped: signalled")


# ---------------------------------------------------------------------------------------------- stops, on Slurm


def answer(state: str, restarts: int = 0, preempted: bool = False, reason: str = "None") -> str:
    when = "2999-05-03T11:20:31" if preempted else "None"
    return (f"JobId=77 JobName=run JobState={state} Reason={reason} Requeue=1 Restarts={restarts} "
            f"EndTime=2999-01-01T00:00:00 PreemptTime={when} \nConfiguration data as of 2998-01-01T00:00:00\n")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Answers:
    return Answers(tmp_path, monkeypatch)


def stop_on_slurm(run: Run, start: Any, slurm: Answers, reported: str | None = None, script: str = "", size: int = 1,
                  acts: str = "stop", **env: str) -> list[subprocess.Popen]:
    """All ranks of a Slurm job, signalled as Slurm does it; from then on scontrol answers ``reported``, or by a script.

    Only what is asked from then on is among ``slurm.calls()``.
    """
    slurm(scontrol=answer("RUNNING", restarts=int(env.get("SLURM_RESTART_COUNT", 0))))
    # when it starts, a task asks whether it has missed a signal: what the test has Slurm say comes after that
    scontrol = Path(os.environ["PATH"], "scontrol")
    later = scontrol.rename(scontrol.with_suffix(".later"))
    scontrol.write_text(f'#!/bin/sh\necho "{answer("RUNNING", int(env.get("SLURM_RESTART_COUNT", 0))).strip()}"\n')
    scontrol.chmod(0o755)
    tasks = [start(acts, rank=rank, size=size, SLURM_JOB_ID="77", **env) for rank in range(size)]
    for rank in range(size):
        working(run, rank=rank)
    later.rename(scontrol)
    (slurm.folder / "calls").unlink(missing_ok=True)
    if script:
        slurm.script("scontrol", f'echo "$0 $*" >> {slurm.folder}/calls\n{script}\n')
    else:
        slurm(scontrol=reported)
    for task in tasks:
        task.send_signal(signal.SIGTERM)
    return tasks


def said_to(text: str) -> str:
    """A line of shell that answers."""
    return f"echo '{text.strip()}'"


PREEMPTED = answer("RUNNING", preempted=True)


def test_a_preempted_job_asks_twice_requeues_itself_once_and_then_ends(run, start, slurm):
    tasks = stop_on_slurm(run, start, slurm, PREEMPTED, size=2)
    wait_until(lambda: events(run, "requeue"), "the requeue", 60)
    (event,) = events(run, "requeue")
    assert (event["accepted"], event["cause"]) == (True, "preempted")
    calls = [line.split(" ", 1)[1] for line in slurm.calls().splitlines()]
    assert calls == ["-o show job 77", "-o show job 77", "requeue 77"]
    assert [e["cause"] for e in events(run, "end")] == ["preempted"]
    for task in tasks:
        code, said = ended(task)
        assert code != 0 and said.endswith("stopped: preempted")


@pytest.mark.slow
def test_a_preempted_job_that_slurm_itself_runs_again_stays_until_it_is_killed(run, start, slurm):
    refusing = (f'case "$*" in requeue*) exit 1;; *partition*) echo PartitionName=low PreemptMode=REQUEUE;; '
                f'*) {said_to(PREEMPTED.strip().replace("PreemptTime", "Partition=low PreemptTime"))};; esac')
    tasks = stop_on_slurm(run, start, slurm, script=refusing, size=2)
    wait_until(lambda: events(run, "requeue"), "the requeue", 60)
    # a second SIGTERM at the end of the grace time changes nothing
    for task in tasks:
        task.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        tasks[0].wait(1.5)
    assert tasks[1].poll() is None, "an exit now would be the end of the job for Slurm"


def test_a_job_that_is_cancelled_between_the_two_questions_stays_cancelled(run, start, slurm):
    first, then = said_to(PREEMPTED), said_to(answer("COMPLETING"))
    (task,) = stop_on_slurm(run, start, slurm, script=f"if [ -e {slurm.folder}/asked ]; then {then}; else {first}; fi\n"
                                                      f": > {slurm.folder}/asked")
    assert ended(task)[1].endswith("not requeued: cancelled")
    assert "requeue 77" not in slurm.calls()
    (event,) = events(run, "requeue")
    assert (event["accepted"], event["cause"]) == (False, "cancelled")


def test_an_attempt_that_is_stale_while_slurm_is_asked_requeues_nothing(run, start, slurm):
    newer = f"echo '{{\"number\": 2, \"identity\": \"x\", \"accepts\": []}}' > {run.attempt_file(2)}"
    (task,) = stop_on_slurm(run, start, slurm, script=f"{newer}; {said_to(PREEMPTED)}")
    assert "not requeued" in ended(task)[1]
    assert "requeue 77" not in slurm.calls()


def test_a_run_with_a_cancel_mark_is_not_requeued_at_its_time_limit(run, start, slurm):
    mark = f"echo '{{}}' > {run.cancel_file}"
    (task,) = stop_on_slurm(run, start, slurm, script=f"{mark}; {said_to(answer('COMPLETING', reason='TimeLimit'))}")
    assert ended(task)[1].endswith("not requeued: cancelled")
    assert "requeue 77" not in slurm.calls()


def test_a_cancelled_job_ends_at_once_without_a_requeue(run, start, slurm):
    for task in stop_on_slurm(run, start, slurm, answer("COMPLETING"), size=2):
        assert ended(task)[1].endswith("stopped: cancelled")
    assert "requeue 77" not in slurm.calls()
    assert [(e["cause"], e["next"]) for e in events(run, "end")] == [("cancelled", "stop")]


def test_a_job_that_slurm_requeued_itself_ends_at_once_and_not_as_complete(run, start, slurm):
    (task,) = stop_on_slurm(run, start, slurm, answer("COMPLETING", restarts=3), SLURM_RESTART_COUNT="2")
    wait_until(lambda: run.decision_file(1).exists(), "the decision", 60)
    assert files.read_json(run.decision_file(1)) == {"action": "stop", "cause": "requeued"}
    assert ended(task)[0] != 0
    assert "requeue 77" not in slurm.calls()
    assert run.read_attempt(1)["identity"] == "slurm:77:2:0"


def test_after_somebodys_signal_all_ranks_continue_in_a_new_attempt_of_the_same_start(run, start, slurm):
    tasks = stop_on_slurm(run, start, slurm, answer("RUNNING"), size=2, acts="stop;meet and complete")
    assert [ended(task)[0] for task in tasks] == [0, 0]
    assert run.attempts() == [1, 2]
    assert [run.read_attempt(n)["identity"] for n in (1, 2)] == ["slurm:77:0:0", "slurm:77:0:1"]
    assert sorted((e.attempt, e["rank"]) for e in events(run, "start")) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [(e.attempt, e["cause"], e["next"]) for e in events(run, "end")] == [(1, "signalled", "again")]


@pytest.mark.slow
def test_a_signal_that_comes_while_slurm_is_asked_stops_the_next_attempt(run, start, slurm):
    (task,) = stop_on_slurm(run, start, slurm, script=f"sleep 0.5\n{said_to(answer('RUNNING'))}",
                            acts="stop;stop;complete")
    wait_until(slurm.calls, "Slurm is asked", 60)
    task.send_signal(signal.SIGUSR2)
    assert ended(task)[0] == 0
    assert run.attempts() == [1, 2, 3]


@pytest.mark.slow
def test_a_requeue_that_slurm_refuses_fails_the_job(run, start, slurm):
    (task,) = stop_on_slurm(run, start, slurm, script=f'case "$*" in requeue*) exit 1;; esac\n{said_to(PREEMPTED)}')
    code, said = ended(task)
    assert code != 0
    assert "Slurm refuse" in said
    assert [(e["accepted"], e["cause"]) for e in events(run, "requeue")] == [(False, "preempted")]


@pytest.mark.slow
def test_while_slurm_does_not_answer_nothing_is_decided_and_nobody_leaves(run, start, slurm):
    tasks = stop_on_slurm(run, start, slurm, None, size=2)
    wait_until(lambda: slurm.calls().count("show job") >= 2, "it asks again", 60)
    assert [task.poll() for task in tasks] == [None, None]
    assert not run.decision_file(1).exists()
    slurm(scontrol=answer("COMPLETING"))
    for task in tasks:
        assert ended(task)[1].endswith("stopped: cancelled")


def test_an_evaluation_of_an_incomplete_run_does_not_run(run, monkeypatch):
    for name, value in {"SUBMITIT_LOCAL_JOB_ID": "1", "SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_GLOBALID": "0",
                        "SUBMITIT_LOCAL_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(supervisor.AttemptFailed, match="last: run is not complete, so its evaluation does not run"):
        supervise_evaluation.evaluation_supervisor(run, "evaluate")
    assert not run.evaluations_dir.exists()


def test_a_decision_that_is_still_being_written_is_waited_for(tmp_path: Path):
    path = tmp_path / "decision.json"
    assert decision.read(path, 0.2) is None
    path.write_text(json.dumps({"action": "stay", "cause": "preempted"}))
    assert decision.read(path, 0.2) == {"action": "stay", "cause": "preempted"}
