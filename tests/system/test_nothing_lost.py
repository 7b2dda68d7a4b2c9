"""Regardless of what happens to a run on one machine, it ends in the bits of one that nothing happened to.

Real trainings through the real verbs. Where a moment matters that lasts microseconds, a process is stopped there by
SIGSTOP (see ``ecm_cluster.base.files``) and continues when the test lets it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from comparing import bits, log_lines, state_in
from small import ROOT, await_state, job_flags, logs_of, state_of, verb, wait_until

from ecm_cluster.attempts import endings
from ecm_cluster.backends import driver
from ecm_cluster.base import files
from ecm_cluster.freeze import snapshot
from ecm_cluster.rundir import checkpoints, spec
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import sbatch

pytestmark = pytest.mark.slow
PER_EPOCH, EPOCHS = 7, 3  # with the repeats of rare classes


def start(data: Path, runs: Path, name: str, *flags: object, env: dict[str, str] | None = None, **options: Any) -> Run:
    options = {"runner__max_epochs": EPOCHS, **options}
    verb("submit", *job_flags(data, runs, name, **options), "--cluster", "local", "--checkpoint-every", 2, *flags,
         env=env)
    return Run(runs / name)


@pytest.fixture(scope="module")
def straight(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing happens to."""
    run = start(small_data, tmp_path_factory.mktemp("runs"), "straight", "--no-eval")
    await_state(run, "done")
    return run


def ends_as(run: Run, straight: Run) -> None:
    """The same weights, optimizer state and log lines, bit by bit."""
    one, other = (made.checkpoints_dir / (made.completion() or "") for made in (run, straight))
    assert bits(state_in(one)) == bits(state_in(other))
    assert log_lines(run) == log_lines(straight)
    assert len(log_lines(run)) == PER_EPOCH * EPOCHS


def standing(run: Run) -> list[int]:
    """Processes of a run that a signal has stopped."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            stopped = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
            if stopped and str(run.path) in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
        except OSError:
            continue
    return found


def await_standing(run: Run) -> int:
    (pid,) = wait_until(lambda: standing(run), "a process stands at its point", look=lambda: logs_of(run))
    return pid


def of_attempt(run: Run, attempt: int, kind: str) -> list[Any]:
    return [e for e in run.events() if e.attempt == attempt and e.kind == kind]


# ------------------------------------------------------------------------------------------------------- the fence


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts the one rank of a run's next attempt, as another machine would, to which the old one seems dead."""
    started: list[subprocess.Popen] = []

    def begin(run: Run, job_id: str, **env: str) -> subprocess.Popen:
        place = {"SUBMITIT_LOCAL_JOB_ID": job_id, "SUBMITIT_LOCAL_NTASKS": "1", "SUBMITIT_LOCAL_GLOBALID": "0",
                 "SUBMITIT_LOCAL_LOCALID": "0", "PYTHONPATH": str(ROOT),
                 sbatch.TOKEN_ENV: run.submission("train")["token"]}
        program = "import sys; from ecm_cluster.node.task import Train; Train(sys.argv[1])()"
        started.append(subprocess.Popen([sys.executable, "-c", program, str(run.path)],
                                        env={**os.environ, **place, **env}, cwd=run.path))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_what_a_stale_attempt_was_about_to_commit_or_to_complete_does_not_count(
        small_data, tmp_path, straight, elsewhere):
    # its writer has passed the fence and stands before the rename of its manifest
    run = start(small_data, tmp_path, "fenced", "--no-eval",
                env={files.STOP_ENV: "before-rename:iter_0000004-a0001.json"})
    first = await_standing(run)
    before = [m.file for m in checkpoints.accepted(run)]
    # the second attempt will stand before the rename of its completion mark
    second = elsewhere(run, "900", **{files.STOP_ENV: f"before-rename:{run.complete_file(2).name}"})
    wait_until(run.attempt_file(2).exists, "attempt 2 begins")
    os.kill(first, signal.SIGCONT)
    late = run.manifest_of(run.checkpoint_file(4, 1))
    wait_until(late.exists, "the first attempt's rename")
    assert [m.file for m in checkpoints.accepted(run)] == before == run.read_attempt(2)["accepts"]
    wait_until(lambda: not driver.alive(run, run.submissions()[0].job_id or ""), "the first attempt gives up", 60,
               lambda: logs_of(run))
    assert run.attempts() == [1, 2], "its driver starts nothing against the second attempt"
    assert any("StaleAttempt: attempt 2 has begun" in e["detail"] for e in of_attempt(run, 1, "end"))
    held = await_standing(run)
    assert run.completion() is None
    # it passed its last checkpoint on, but not that it was complete
    third = elsewhere(run, "901")
    assert third.wait(240) == 0
    os.kill(held, signal.SIGCONT)
    second.wait(60)
    assert run.complete_file(2).exists()
    assert run.newest_attempt() == 3 and run.completion() == run.read_attempt(3)["from"]
    assert {m.attempt for m in checkpoints.accepted(run)} <= {1, 2, 3}
    assert late.name not in {run.manifest_of(m.path(run)).name for m in checkpoints.accepted(run)}
    assert state_of(run)["state"] == "done"
    ends_as(run, straight)


# --------------------------------------------------------------------------------------------- checkpoints that break


@pytest.fixture(scope="module")
def damaged(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[checkpoints.Manifest]]:
    """Cancelled, then its newest two checkpoints broken, then resumed with the code of another checkout, to the end.

    Returns:
        The run, and what was committed before the damage.
    """
    tmp_path = tmp_path_factory.mktemp("damaged")
    run = start(small_data, tmp_path, "damaged", "--no-eval", "--keep", 3,
                env={files.STOP_ENV: "after-manifest:iter_0000008-a0001"})
    writer = await_standing(run)  # the training waits for it, so that it cannot be over before the cancel
    cancel = subprocess.Popen([sys.executable, "-m", "ecm_cluster.cancel", str(run.path)], cwd=ROOT,
                              stdout=subprocess.DEVNULL)
    wait_until(run.cancel_file.exists, "the cancel mark")
    time.sleep(0.5)  # the driver passes the signal on
    os.kill(writer, signal.SIGCONT)
    assert cancel.wait(120) == 0
    committed = checkpoints.accepted(run)
    newest, previous = (m.path(run) for m in committed[:-3:-1])
    newest.write_bytes(newest.read_bytes()[:-1])
    content = bytearray(previous.read_bytes())
    content[len(content) // 2] ^= 1
    previous.write_bytes(content)
    for package in ("ecm_cluster", "mmdet_ext", "configs"):
        shutil.copytree(ROOT / package, tmp_path / "newer" / package)
    trainer = tmp_path / "newer/ecm_cluster/node/training/worker.py"
    trainer.write_text(trainer.read_text().replace("resuming from %s", "by newer code from %s"))
    done = verb("resume", run.path, "--code", "current", source=tmp_path / "newer")
    assert f"code        replaced by {tmp_path}/newer/ecm_cluster, {tmp_path}/newer/mmdet_ext" in done.stdout
    await_state(run, "done")
    return run, committed


def test_a_truncated_and_a_corrupt_checkpoint_are_quarantined_and_the_one_before_them_is_taken(damaged, straight):
    run, committed = damaged
    assert run.read_attempt(2)["from"] == committed[-3].file
    said = verb("status", run.path).stdout
    assert f"moved {committed[-1].file} to quarantine: {committed[-1].size - 1} bytes instead of" in said
    assert f"moved {committed[-2].file} to quarantine: its content does not match its digest" in said
    assert {p.name for p in run.quarantine_dir.glob("*.pth")} == {m.file for m in committed[-2:]}
    ends_as(run, straight)


def test_newer_code_is_used_from_the_next_attempt_on_and_the_earlier_is_kept(damaged):
    run, committed = damaged
    assert f"by newer code from {committed[-3].file}" in run.train_log.read_text()
    record = run.overrides().code
    assert record["digest"] == snapshot.digest(run.code_dir) and run.code_dir != run.code_folder(1)
    assert run.spec.code["digest"] == snapshot.digest(run.code_folder(1))
    assert f"code {record['digest']}" in verb("status", run.path).stdout


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "none", folder], capture_output=True,
                      check=False).returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no room for a checkpoint, but some for a ledger."""
    room = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - (1 << 20)))
    return ballast


def test_a_full_disk_costs_checkpoints_and_ends_the_run_only_when_it_takes_not_even_the_last(
        small_data, tmp_path, disk):
    order = tmp_path / "order"
    order.write_text("after-manifest:iter_0000002")
    run = start(small_data, disk, "full", "--no-eval", "--keep", 2, env={files.STOP_ENV: f"@{order}"})
    writer = await_standing(run)
    ballast = fill(disk)
    order.write_text("after-manifest")
    os.kill(writer, signal.SIGCONT)
    failed = wait_until(lambda: of_attempt(run, 1, "commit-failed"), "a commit fails", look=lambda: logs_of(run))[0]
    assert (failed["reason"], failed["stands"]) == ("No space left on device", "iteration 2 stands")
    assert [m.iteration for m in checkpoints.accepted(run)] == [2]
    ballast.unlink()
    # the training has continued, and its next commit works
    writer = await_standing(run)
    kept = checkpoints.accepted(run)[-1]
    assert kept.iteration > failed["iteration"]
    fill(disk)
    os.kill(writer, signal.SIGCONT)
    found = await_state(run, "failed")
    assert "the last checkpoint could not be written: No space left on device" in found["reason"]
    assert "\n" not in found["reason"] and found["checkpoint"] == kept.file
    assert "could not commit iteration 4: No space left on device" in verb("status", run.path, "--full").stdout


# ------------------------------------------------------------------------------------------- signals at any moment


def test_signals_while_it_imports_meets_and_commits_and_a_kill_while_it_evaluates_cost_nothing(
        small_data, tmp_path, straight):
    order = tmp_path / "order"
    run = start(small_data, tmp_path, "signalled", env={files.STOP_ENV: f"@{order}"})

    def task(attempt: int) -> int:
        return wait_until(lambda: of_attempt(run, attempt, "start"), f"attempt {attempt}", look=lambda: logs_of(run)
                          )[0]["pid"]

    os.kill(task(1), signal.SIGTERM)  # its worker imports, or is not even born
    order.write_text(f"before-rename:{run.rendezvous_file(2).name}")
    worker = await_standing(run)
    os.kill(task(2), signal.SIGUSR2)
    order.write_text("before-manifest:-a0003")
    os.kill(worker, signal.SIGCONT)
    writer = await_standing(run)
    os.kill(task(3), signal.SIGTERM)
    order.write_text("before-rename:chunk-00001.npz")
    os.kill(writer, signal.SIGCONT)
    worker = await_standing(run)
    os.kill(worker, signal.SIGKILL)
    assert await_state(run, "done")["attempt"] == 4
    for attempt in (1, 2, 3):
        end = endings.last_end(run.events(), attempt)
        assert end is not None and (end["cause"], bool(of_attempt(run, attempt, "commit"))) == ("signalled", True)
    (evaluation,) = run.evaluations()
    assert [e["cause"] for e in evaluation.events() if e.kind == "end"] == ["killed", "complete"]
    ends_as(run, straight)


# ------------------------------------------------------------------------------------------- other numbers of ranks


def test_a_run_is_rescaled_on_request_only_and_that_is_on_record(small_data, tmp_path):
    run = start(small_data, tmp_path, "rescaled", "--no-eval",
                env={files.STOP_ENV: "after-manifest:iter_0000002-a0001"})
    writer = await_standing(run)
    os.kill(int(run.submissions()[0].job_id or 0), signal.SIGTERM)
    wait_until(run.cancel_file.exists, "the cancel mark")
    time.sleep(0.5)
    os.kill(writer, signal.SIGCONT)
    await_state(run, "stopped")
    last = checkpoints.accepted(run)[-1]
    refused = verb("resume", run.path, "--gpus", 2, code=2).stderr
    assert len(refused.splitlines()) == 1 and "cannot be divided evenly among 2" in refused
    assert run.overrides() == spec.Overrides() and run.attempts() == [1]
    verb("resume", run.path, "--gpus", 2, "--rescale")
    await_state(run, "done")
    assert run.read_attempt(2)["world_size"] == 2
    left = -(-(PER_EPOCH - last.position) // 2) if last.position else 0
    later = json.loads(run.json_log(2).read_text().splitlines()[0])["iterations_per_epoch"]
    rest = (EPOCHS - last.epoch - bool(last.position)) * later
    end = checkpoints.last(run)
    assert end is not None and end.iteration == last.iteration + left + rest
    assert [line["iteration"] for line in log_lines(run)] == list(range(1, end.iteration + 1))
    assert "resumed: train with virtual_ranks 2, gpus 2" in verb("status", run.path).stdout
