"""Why a job waits, in words."""

from __future__ import annotations

import time

import pytest

from ecm_cluster.slurm import reasons
from ecm_cluster.slurm.job_states import JobState


@pytest.mark.parametrize(("reason", "words"), [
    ("Priority", "jobs of higher priority are ahead of it"),
    ("Resources", "it is next, as soon as enough nodes are free"),
    ("QOSMaxGRESPerUser", "the QOS has reached its limit of GPUs per user"),
    ("QOSMaxJobsPerUserLimit", "the QOS has reached its limit of jobs per user"),
    ("QOSMaxSubmitJobPerUserLimit", "the QOS has reached its limit of submitted jobs per user"),
    ("QOSMaxWallDurationPerJobLimit", "it asks for more run time than the QOS allows per job"),
    ("QOSMaxMemoryPerUser", "the QOS has reached its limit of memory per user"),
    ("QOSMinGRES", "it asks for fewer GPUs than the QOS demands"),
    ("QOSMinCpuNotSatisfied", "it asks for fewer CPUs than the QOS demands"),
    ("AssocGrpGRES", "the account has reached its limit of GPUs of all its jobs"),
    ("AssocGrpGRESMinutes", "the account has reached its limit of GPU minutes of all its jobs"),
    ("AssocGrpGRESRunMinutes", "the account has reached its limit of GPU minutes of all its jobs"),
    ("AssocGrpCpuLimit", "the account has reached its limit of CPUs of all its jobs"),
    ("AssocGrpCPUMinutesLimit", "the account has reached its limit of CPU minutes of all its jobs"),
    ("AssocGrpNodeLimit", "the account has reached its limit of nodes of all its jobs"),
    ("AssocMaxJobsLimit", "the account has reached its limit of jobs"),
    ("AssocMaxCpuPerJobLimit", "it asks for more CPUs than the account allows per job"),
    ("MaxGRESPerAccount", "the account has reached its limit of GPUs per account"),
    ("ReqNodeNotAvail, UnavailableNodes:n[1-3]", "nodes that it needs are down, drained or reserved"),
    ("ReqNodeNotAvail, Reserved for maintenance", "its time limit reaches into a maintenance"),
    ("ReqNodeNotAvail(Unavailable:n1)", "nodes that it needs are down, drained or reserved"),
    ("None", ""), ("", ""), ("SomethingOfNextYear", ""), ("QOSMaxTeapotsPerUser", ""),
])
def test_a_reason_of_slurm_is_put_into_words(reason, words):
    assert reasons.in_words(reason) == words


def test_the_expected_start_is_that_of_waiting_jobs_alone():
    def start(text: str, state: str = "PENDING") -> float | None:
        return JobState("7", state, "Priority", "", text).expected_start

    assert start("2030-01-02T03:04:05") == time.mktime((2030, 1, 2, 3, 4, 5, 0, 0, -1))
    assert start("2030-01-02T03:04:05", "RUNNING") is None
    for text in ("N/A", "Unknown", "", "2030-01-02", "9999999-01-01T00:00:00"):
        assert start(text) is None
