"""Why a job waits and when it is expected to start, as a real Slurm says it; watching it until Slurm is gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_harness import SlurmCluster
from small import ROOT, job_flags, state_of, verb, wait_until

from ecm_cluster.rundir.run import Run


def submit(slurm: SlurmCluster, data: Path, runs: Path, name: str, *flags: object, hold: bool = False) -> Run:
    given = job_flags(data, runs, name)
    if hold:
        path = runs / "held.yaml"
        path.write_text((ROOT / "jobs/demo.yaml").read_text() + "slurm: {hold: true}\n")
        given[0] = str(path)
    verb("submit", *given, *flags, env=slurm.env)
    return Run(runs / name)


@pytest.fixture
def cancelled(slurm) -> Iterator[list[Run]]:
    made: list[Run] = []
    yield made
    for run in made:
        verb("cancel", run.path, env=slurm.env)


def test_a_held_job_says_how_to_release_it(slurm, small_data, tmp_path, cancelled):
    run = submit(slurm, small_data, tmp_path, "held", hold=True)
    cancelled.append(run)
    job = run.submission("train")["job_id"]
    found = state_of(run, slurm.env)
    assert found["state"] == "waiting" and found["expected_start"] is None
    assert found["reason"] == f"job {job} pending (JobHeldUser: it is held; release it to let it start)"
    assert found["next"] == f"scontrol release {job}"


def test_a_job_that_waits_for_resources_says_when_slurm_expects_it_to_start(slurm, small_data, tmp_path, cancelled):
    busy = slurm.submit("-N4", "--exclusive", "-t", "7", "-p", "high", script="#!/bin/sh\nsleep 300\n")
    slurm.wait_for(busy, "RUNNING")
    run = submit(slurm, small_data, tmp_path, "next")
    cancelled.append(run)
    job = run.submission("train")["job_id"]

    def expected() -> float | None:
        return state_of(run, slurm.env)["expected_start"]

    start = wait_until(expected, "an expected start", 90, lambda: slurm.run("squeue", "--start").stdout)
    said = slurm.run("squeue", "-h", "--start", "-j", job, "-o", "%S").stdout.strip()
    assert time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(start)) == said
    text = " ".join(verb("status", run.path, env=slurm.env).stdout.split())
    assert "pending (Resources: it is next, as soon as enough nodes are free); expected to start at" in text
    slurm.run("scancel", busy)


def test_watching_continues_while_slurm_does_not_answer(slurm, small_data, tmp_path, cancelled):
    run = submit(slurm, small_data, tmp_path, "watched", hold=True)
    cancelled.append(run)
    environ = {**os.environ, **slurm.env, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    log = tmp_path / "log"
    with open(log, "w") as handle, contextlib.ExitStack() as stack:
        watching = subprocess.Popen([sys.executable, "-m", "ecm_cluster.status", "--watch", "1", str(run.path)],
                                    env=environ, stdout=handle, stderr=subprocess.STDOUT)
        stack.callback(watching.wait)
        stack.callback(watching.kill)
        wait_until(lambda: "watched: waiting: job" in log.read_text(), "the first look", 60, log.read_text)
        slurm.stop_controller()
        stack.callback(slurm.start_controller)
        wait_until(lambda: "watched: unknown: Slurm does not answer here" in log.read_text(), "silence", 120,
                   log.read_text)
        assert watching.poll() is None


def test_a_limit_of_the_qos_is_put_into_words(make_slurm, small_data, tmp_path):
    slurm = make_slurm(nodes=1, dbd=True, qos={"few": "MaxTRESPerUser=cpu=2"})
    busy = slurm.submit("--qos=few", "-c2", "-t", "7", script="#!/bin/sh\nsleep 300\n")
    slurm.wait_for(busy, "RUNNING")
    run = submit(slurm, small_data, tmp_path, "limited", "--qos", "few", "--cpus-per-gpu", 2)

    def reason() -> str:
        return state_of(run, slurm.env)["reason"]

    wait_until(lambda: "QOSMax" in reason(), "the limit", 60, reason)
    assert "(QOSMaxCpuPerUserLimit: the QOS has reached its limit of CPUs per user)" in reason()
    verb("cancel", run.path, env=slurm.env)
