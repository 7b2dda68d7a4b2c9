"""Kills for lack of memory are counted where the kernel counts them, in either kind of cgroup."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecm_cluster.node.supervise import oom

V1 = "9:name=systemd:/\n8:pids:/\n4:cpu,memory:/slurm_n1/uid_0/job_7/step_0/task_0\n0::/\n"
V2 = "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n"


@pytest.mark.parametrize(("listed", "file", "text"), [
    (V1, "memory/slurm_n1/uid_0/job_7/step_0/task_0/memory.oom_control",
     "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    (V2, "system.slice/slurmstepd.scope/job_7/step_0/user/task_0/memory.events",
     "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"),
])
def test_the_kernels_kills_in_the_own_cgroup_are_counted(tmp_path: Path, listed: str, file: str, text: str):
    (tmp_path / "own").write_text(listed)
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert oom.kills(tmp_path / "own", tmp_path) == 2


@pytest.mark.parametrize("listed", [V1, V2, "", "no cgroup at all\n"])
def test_where_no_count_can_be_read_nothing_was_killed(tmp_path: Path, listed: str):
    (tmp_path / "own").write_text(listed)
    assert oom.kills(tmp_path / "own", tmp_path) == 0
