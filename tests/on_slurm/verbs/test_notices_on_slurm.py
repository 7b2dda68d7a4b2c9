"""Messages about runs on a real Slurm: by a short job at the end of the run, and by the next command."""

from __future__ import annotations

import pytest
from receiver import SECRET, listening
from slurm_harness.endings import preempt, trained
from small import await_state, trainer_flags, verb, wait_until

from ecm_cluster.rundir.run import Run

pytest.importorskip("apprise")


def test_a_short_job_tells_the_end_of_a_run_and_the_next_command_its_preemption(slurm, tmp_path):
    with listening() as server:
        job = tmp_path / "job.yaml"
        job.write_text(f"notify: {{urls: ['{server.url}'], from: job, events: [done, stopped, failed]}}\n")
        run, other = Run(tmp_path / "run"), Run(tmp_path / "other")
        words = [job, *trainer_flags(tmp_path, "run", "--partition", "low")]
        assert SECRET not in verb("submit", *words, env=slurm.env).stdout
        trained(run, 1, 2)
        preempt(slurm, str(run.submissions()[0].job_id))
        wait_until(lambda: server.got, "the message", 180, lambda: run.notices_job_log.read_text())
        assert server.events() == ["ecm-cluster: run done"] and "attempt 2" in server.got[0]["message"]

        job.write_text(f"notify: ['{server.url}']\n")
        verb("submit", job, *trainer_flags(tmp_path, "other", "--partition", "low", seconds=0.5), env=slurm.env)
        trained(other, 1, 2)
        preempt(slurm, str(other.submissions()[0].job_id))
        wait_until(lambda: other.newest_attempt() == 2, "the second attempt")
        await_state(other, "running", env=slurm.env)
        verb("cancel", other.path, env=slurm.env)
        wait_until(lambda: len(server.got) == 3, "both messages", 60)
        assert sorted(server.events()[1:]) == ["ecm-cluster: other stopped", "ecm-cluster: other was preempted"]
        verb("status", "--runs-dir", tmp_path, env=slurm.env)
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != job
                    and path.name != "notify.urls" and SECRET.encode() in path.read_bytes()]
