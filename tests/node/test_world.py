"""Who a task is among those of its job."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from ecm_cluster.node import world

SLURM = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
         "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "77"}
LOCAL = {"SUBMITIT_LOCAL_JOB_ID": "4242", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_GLOBALID": "1",
         "SUBMITIT_LOCAL_LOCALID": "1", "SUBMITIT_LOCAL_NODEID": "0", "SUBMITIT_LOCAL_JOB_NUM_NODES": "1"}
PLACE = world.RankInfo(rank=5, world_size=8, local_rank=1, node=1, nodes=2, job_id="77", restart=0, cluster="slurm")


def place(monkeypatch: pytest.MonkeyPatch, *environments: dict[str, str]) -> world.RankInfo:
    for variables in environments:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    return world.identify()


def test_a_task_of_slurm_knows_its_place(monkeypatch):
    assert place(monkeypatch, SLURM) == PLACE


@pytest.mark.parametrize(("count", "restart"), [("", 0), ("0", 0), ("3", 3)])
def test_each_restart_of_a_job_is_another_identity(monkeypatch, count, restart):
    found = place(monkeypatch, SLURM, {"SLURM_RESTART_COUNT": count})
    assert found.restart == restart
    assert found.identity == f"slurm:77:{restart}"


def test_all_tasks_of_a_start_share_an_identity_that_no_other_start_has():
    same = {replace(PLACE, rank=r, local_rank=r, node=n).identity for r in range(3) for n in range(2)}
    assert len(same) == 1
    others = {replace(PLACE, **{k: v}).identity for k, v in {"job_id": "78", "restart": 1, "cluster": "local"}.items()}
    assert len(others | same) == 4


def test_a_task_of_the_local_controller_knows_its_place_even_within_a_job_of_slurm(monkeypatch):
    expected = world.RankInfo(rank=1, world_size=2, local_rank=1, node=0, nodes=1, job_id="4242", restart=0,
                           cluster="local")
    assert place(monkeypatch, LOCAL) == expected
    assert place(monkeypatch, SLURM, LOCAL) == expected


def test_libraries_that_read_rank_variables_find_them():
    assert world.export(PLACE) == {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}


def test_a_driver_is_gone_when_its_process_is(monkeypatch):
    assert not world.driver_is_gone(), "there is none on Slurm"
    monkeypatch.setenv(world.DRIVER_ENV, str(os.getpid()))
    assert not world.driver_is_gone()
    ended = subprocess.Popen(["true"])
    ended.wait()
    monkeypatch.setenv(world.DRIVER_ENV, str(ended.pid))
    assert world.driver_is_gone()
