"""What a run says that its jobs held, against Slurm's own accounting of the same jobs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from slurm_harness import SlurmCluster
from slurm_harness.endings import trained, worker_of
from small import await_state, job_flags, verb

from ecm_cluster.attempts import holds
from ecm_cluster.reporting import goodput
from ecm_cluster.rundir.run import Run


def test_every_second_that_slurm_counts_has_a_cause(slurm_dbd: SlurmCluster, small_data: Path, tmp_path: Path) -> None:
    slurm = slurm_dbd
    verb("submit", *job_flags(small_data, tmp_path, "run", runner__max_epochs=6), "--gpus", 2, env=slurm.env)
    run = Run(tmp_path / "run")
    trained(run, 1, 2)
    os.kill(worker_of(run, 1, 1), signal.SIGKILL)  # the job requeues itself
    trained(run, 2, 6)
    slurm.run("scontrol", "requeue", run.submissions()[0].job_id or "")  # and its user again
    await_state(run, "done", env=slurm.env)
    for submission in run.submissions():
        slurm.wait_for(submission.job_id)
    found = holds.holds(run)
    rows = [row.split("|") for submission in run.submissions() for row in slurm.run(
        "sacct", "-D", "-X", "-n", "-P", "-o", "JobID,ElapsedRaw", "-j", submission.job_id or "").stdout.splitlines()]
    elapsed = [int(row[1]) for row in rows]
    assert len(elapsed) == len(found) == 4, (rows, found)
    ours = [hold.end - hold.begin for hold in found]
    # both are in whole seconds, and Slurm's begins before the batch script does
    assert all(abs(a - b) <= 2 for a, b in zip(ours, elapsed)), (ours, elapsed)
    account = goodput.account(run)
    assert sum(account.seconds.values()) == account.held == 2 * sum(ours)
    assert not account.estimated and [a.number for a in account.attempts] == [1, 2, 3]
    assert account.waiting()["requeued"] > 0 and account.seconds["productive"] > 0
