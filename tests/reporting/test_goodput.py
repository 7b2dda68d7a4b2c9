"""The account of a run: what its jobs held, by cause."""

from __future__ import annotations

import json

import former_version
import pytest
from attempts.ledgers import attempt, heartbeat, spec, start
from attempts.test_segments import HELD, known_run

from ecm_cluster.reporting import goodput
from ecm_cluster.rundir.run import Run


def test_the_account_of_a_run_with_a_known_answer(tmp_path):
    known = goodput.account(known_run(Run(tmp_path / "run")))
    said = json.loads(json.dumps(known.as_dict()))
    hours = {kind: value * 3600 for kind, value in said["gpu_hours"].items()}
    assert hours == pytest.approx({
        "productive": 1220, "redone": 80, "staging": 110, "start-up": 370, "saving": 20, "hung": 200, "evaluation": 0,
        "not started": 120, "idle": 400})
    held = 2 * sum(end - begin for begin, end in HELD)
    assert sum(hours.values()) == pytest.approx(held) == pytest.approx(said["held_gpu_hours"] * 3600)
    assert said["goodput"] == pytest.approx(1220 / held)
    assert {k: round(v * 3600) for k, v in said["waiting_hours"].items()} == {
        "first": 100, "preempted": 100, "requeued": 140, "evaluation": 0}
    assert [(a["number"], a["cause"], a["first"], a["last"], a["lost"]) for a in said["attempts"]] == [
        (1, "preempted", 0, 100, 20), (2, "hung", 80, 130, 0), (3, "complete", 130, 180, 0)]
    assert said["attempts"][1]["gpu_hours"]["hung"] * 3600 == pytest.approx(200)
    assert said["unit"] == "GPU hours" and said["estimated"], "one of its attempts recorded no phases"


def test_it_is_shown_by_cause_and_for_several_runs_together(tmp_path):
    one = goodput.account(known_run(Run(tmp_path / "one")))
    cpu = spec(Run(tmp_path / "on-cpu"), device="cpu", nodes=1, gpus=1)
    start(cpu, "9", 0, 1000.0, 1100.0)
    attempt(cpu, 1, 1010.0, job_id="9")
    other = goodput.account(cpu)
    assert goodput.table([one]) == """\
goodput 48.4 % (estimated in part)
             GPU minutes    share
productive          20.3   48.4 %  iterations that count
redone               1.3    3.2 %  iterations that were, or will be, done again
staging              1.8    4.4 %  copying data to the nodes
start-up             6.2   14.7 %  setup, imports, rendezvous, building
saving               0.3    0.8 %  training blocked by commits
hung                 3.3    7.9 %  without progress, until it was ended
not started          2.0    4.8 %  starts that began no attempt
idle                 6.7   15.9 %  from the end of the work until the job left
held                42.0  100.0 %
in the queue: first 1 min, preempted 1 min, requeued 2 min"""
    several = goodput.table([one, other]).split("\n")
    assert several[0].split("  ")[0] == "run" and several[1].endswith("idle 15.9 %")
    assert several[2].startswith("on-cpu    0.0 %") and several[5].split() == ["minutes", "share"]
    assert max(map(len, several)) <= 80
    assert goodput.total([one, other])["runs"] == 2


def test_a_run_that_is_alive_holds_its_gpus_until_its_last_sign(tmp_path):
    run = spec(Run(tmp_path / "run"))
    start(run, "7", 0, 1000.0, None)
    attempt(run, 1, 1010.0)
    path = heartbeat(run, 1, time=1100.0, phase="training", iteration=10, seconds_per_iteration=5.0)
    path.touch()
    found = goodput.account(run)
    assert found.alive and goodput.summary(found) == "goodput 50.0 % (so far, estimated in part)"


def test_a_run_of_the_former_version_has_an_account_that_says_that_it_is_estimated(tmp_path):
    run = former_version.complete(tmp_path)
    found = goodput.account(run)
    assert found.estimated and 0.2 < (found.goodput or 0) < 0.5 and found.unit == "rank hours"
    assert sum(s.seconds for s in found.segments) == pytest.approx(found.held)
    assert found.seconds["evaluation"] > 15 and found.waiting()["first"] == 0


def test_a_run_that_began_nothing_has_none(tmp_path):
    found = goodput.account(spec(Run(tmp_path / "run")))
    assert found.goodput is None and found.held == 0 and goodput.summary(found) == "goodput –"
