"""Starts that come to nothing, on a real Slurm: for whose fault, where the run goes instead, and what is on record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from slurm_harness.endings import began, ends, submit, train_job, trained
from small import await_state, logs_of, wait_until

from ecm_cluster.attempts import starts
from ecm_cluster.rundir.run import Run


def not_started(run: Run) -> list[tuple[str, str]]:
    return [(e["cause"], e["node"]) for e in run.events() if e.kind == "not-started"]


def test_requeues_in_a_row_while_it_starts_stop_no_run(slurm, small_data, tmp_path):
    run, job_id = submit(slurm, small_data, tmp_path, "burst", "--no-eval", runner__max_epochs=1)
    for restart in range(5):
        wait_until(lambda count=restart: count in starts.on_record(run, job_id), f"start {restart} is on record",
                   look=lambda: logs_of(run))
        slurm.run("scontrol", "requeue", job_id)
    found = await_state(run, "done", env=slurm.env, seconds=400)
    assert found["reason"].startswith("trained")
    assert slurm.job(job_id)["Restarts"] == "5"
    assert sorted(starts.on_record(run, job_id)) == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def hidden(slurm, n1_first, tmp_path):
    """A folder for runs that node n1 does not see."""
    if not slurm.namespaces:
        pytest.skip("nodes with mounts of their own need a kernel that allows them")
    folder = tmp_path / "runs"
    folder.mkdir()
    inside = ["nsenter", f"--mount=/proc/{slurm._daemons['slurmd.n1'].pid}/ns/mnt"]
    if subprocess.run([*inside, "mount", "-t", "tmpfs", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("this user cannot enter the namespace of a node")
    yield folder
    subprocess.run([*inside, "umount", str(folder)], check=True)


def test_a_node_that_does_not_see_the_runs_folder_is_left_out_and_named(slurm, small_data, hidden):
    run, job_id = submit(slurm, small_data, hidden, "unseen", "--no-eval", runner__max_epochs=1)
    await_state(run, "done", env=slurm.env, seconds=400)
    assert slurm.job(job_id)["ExcNodeList"] == "n1"
    assert not_started(run) == [("start failed", "n1")]
    assert [e["node"] for e in run.events() if e.kind == "left-out"] == ["n1"]
    assert run.attempts() == [1]


def test_a_node_on_which_python_cannot_run_is_left_out_and_named(slurm, n1_first, small_data, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$SLURMD_NODENAME" != n1 ] || exit 127\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run, job_id = submit(slurm, small_data, tmp_path, "no-python", "--no-eval", "--python", python,
                         runner__max_epochs=1)
    await_state(run, "done", env=slurm.env, seconds=400)
    assert slurm.job(job_id)["ExcNodeList"] == "n1"
    assert not_started(run) == [("start failed", "n1")]
    assert [e["node"] for e in run.events() if e.kind == "left-out"] == ["n1"]


def test_a_setup_line_that_fails_everywhere_is_tried_on_one_more_node_and_named(slurm, small_data, tmp_path):
    job = tmp_path / "job.yaml"
    job.write_text((Path(__file__).parents[2] / "jobs/demo.yaml").read_text() + "setup: ['true', '(exit 6)']\n")
    run, job_id = submit(slurm, small_data, tmp_path, "setup", job=job)
    found = await_state(run, "failed", env=slurm.env)
    assert "setup line 2 `(exit 6)` failed with exit code 6" in found["reason"]
    assert "2 starts in a row, so it is not tried again" in found["reason"]
    assert len(not_started(run)) == 2 and run.attempts() == []


def test_a_node_failure_that_slurm_does_not_requeue_gets_a_job_in_its_place(slurm, small_data, tmp_path):
    run, job_id = submit(slurm, small_data, tmp_path, "not-requeued", runner__max_epochs=1)
    began(run, 1)
    slurm.run("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    slurm.node_down(slurm.job(job_id)["NodeList"])
    found = await_state(run, "done", env=slurm.env, seconds=400)
    assert found["reason"] == "trained and scored"
    assert ends(run, 1)[0] == "node failure"
    assert run.submissions()[0].job_id != job_id
    assert slurm.job(job_id)["JobState"] == "NODE_FAIL"


def test_where_the_batch_shell_dies_with_its_node_another_node_submits_the_job_in_its_place(
    slurm, small_data, tmp_path
):
    run, job_id = submit(slurm, small_data, tmp_path, "first-node", "--nodes", 2, "--no-eval", runner__max_epochs=1)
    trained(run, 1, 1)
    slurm.run("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    first = slurm.job(job_id)["BatchHost"]
    slurm.kill_node(first)
    slurm.node_down(first)
    wait_until(lambda: train_job(run) not in ("", job_id), "a job in its place", look=lambda: logs_of(run))
    slurm.start_node(first)
    await_state(run, "done", env=slurm.env, seconds=400)
    assert ends(run, 1)
    assert run.read_attempt(2)["job_id"] != job_id


def test_a_qos_preempts_a_start_and_an_evaluation_and_both_come_back(make_slurm, small_data, tmp_path):
    slurm = make_slurm(dbd=True, preempt="qos", preempt_mode="CANCEL",
                       qos={"cheap": "PreemptMode=cancel GraceTime=0", "dear": "Preempt=cheap Priority=1000"})

    def preempt(job_id: str) -> None:
        slurm.wait_for(slurm.submit("--qos", "dear", "-p", "low", "--exclusive", "--nodelist",
                                    slurm.job(job_id)["NodeList"], "--time", "5", "--wrap", "sleep 1"))

    run, job_id = submit(slurm, small_data, tmp_path, "cheap", "--qos", "cheap", "--partition", "low",
                         runner__max_epochs=1)
    began(run, 1)
    preempt(job_id)
    await_state(run, "evaluating", env=slurm.env, seconds=400)
    assert ends(run, 1)[0] == "preempted"
    evaluation = run.submissions()[1].job_id or ""
    (work,) = wait_until(run.evaluations, "the evaluation begins")
    wait_until(lambda: work.attempts(), "its first attempt")
    preempt(evaluation)
    found = await_state(run, "done", env=slurm.env, seconds=400)
    assert found["reason"] == "trained and scored"
    assert ends(work, 1)[0] == "preempted"
