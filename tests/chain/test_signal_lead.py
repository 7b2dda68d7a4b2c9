"""How long before its end a run must be signalled, from what its commits cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ecm_cluster.base import files
from ecm_cluster.chain import signal_lead
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm.site import Preemption

JOB = {"options": {"a": 1}, "device": "cuda", "gpu_type": None, "signal_lead": 120}
GRACE = Preemption("CANCEL", 60, "QOS scav")


def make(path: Path, submitted: float = 0.0, config: str = "c.py", **job: Any) -> Run:
    path.mkdir()
    run = Run(path)
    files.write_json(run.run_file, {"job": {**JOB, **job}, "cluster": "slurm", "config": config,
                                    "submitted": submitted})
    return run


def commits(run: Run, *costs: tuple[float, float, float]) -> Run:
    ledger = run.ledger(1, "train000")
    for step, blocked, write in costs:
        ledger.write("commit", slowest_step=step, blocked_seconds=blocked, write_seconds=write)
    return run


def test_the_lead_holds_two_steps_and_two_commits_and_a_margin():
    assert signal_lead.signal_lead(20, 41) == 160
    assert signal_lead.signal_lead(0.1, 0.1) == 60


def test_the_slowest_step_and_commit_of_a_few_count(tmp_path):
    run = commits(make(tmp_path / "r"), (2.0, 0.5, 3.0), (1.0, 0.1, 9.9))
    cost = signal_lead.measured(run)
    assert cost is not None and (cost.slowest_step, cost.commit) == (2.0, 10.0)


def test_one_step_of_two_hours_leaves_the_lead_near_the_usual(tmp_path):
    usual = [(0.5 + i / 100, 0.1, 4.0) for i in range(30)]
    for name, before in (("late", 25), ("early", 1)):
        run = commits(make(tmp_path / name), *usual[:before], (7200.0, 0.1, 4.0), *usual[before:])
        assert signal_lead.lead_of(run, 60) == 60
    run = commits(make(tmp_path / "suspended while it wrote"), *usual, (0.5, 0.1, 7200.0))
    assert signal_lead.lead_of(run, 60) == 60


def test_a_run_recorded_by_an_earlier_version_which_kept_the_slowest_step_of_an_attempt_is_read_alike(tmp_path):
    steps = [0.0, 0.5, 0.5, 0.6, *[7200.0] * 100]
    run = commits(make(tmp_path / "r"), *((step, 0.1, 4.0) for step in steps))
    assert signal_lead.lead_of(run, 60) == 60
    cost = signal_lead.measured(run)
    assert cost is not None and cost.slowest_step == 0.6


def test_steps_that_are_slow_now_and_then_are_not_outliers(tmp_path):
    """A step of each interval between commits waits for storage: the slowest of each interval is on record."""
    cost = signal_lead.measured(commits(make(tmp_path / "r"), *((20.0 + i % 7, 0.1, 30.0) for i in range(60))))
    assert cost is not None and (cost.slowest_step, cost.commit) == (26.0, 30.1)


def test_the_lead_shrinks_again_once_commits_are_fast_again(tmp_path):
    run = commits(make(tmp_path / "r"), *[(30.0, 1.0, 59.0)] * 50)
    assert signal_lead.lead_of(run, 60) == 210
    commits(run, *[(0.5, 0.1, 4.0)] * 250)
    assert signal_lead.lead_of(run, 60) == 60


def test_a_run_that_never_committed_keeps_the_lead_it_was_submitted_with(tmp_path):
    assert signal_lead.lead_of(make(tmp_path / "r"), 120) == 120


def test_the_next_job_of_a_run_is_warned_earlier_where_its_commits_need_it_and_never_later(tmp_path):
    assert signal_lead.lead_of(commits(make(tmp_path / "slow"), (30.0, 1.0, 59.0)), 120) == 210
    assert signal_lead.lead_of(commits(make(tmp_path / "fast"), (0.1, 0.1, 0.1)), 120) == 120


def test_a_new_run_is_judged_by_the_newest_one_of_the_same_config_options_and_device(tmp_path):
    commits(make(tmp_path / "old", 1), (1.0, 0.0, 5.0))
    commits(make(tmp_path / "new", 2), (1.0, 0.0, 7.0))
    make(tmp_path / "newer-but-empty", 3)
    commits(make(tmp_path / "other-device", 4, device="cpu"), (1.0, 0.0, 8.0))
    commits(make(tmp_path / "other-config", 5, config="d.py"), (1.0, 0.0, 9.0))
    (tmp_path / "broken").mkdir()
    Run(tmp_path / "broken").run_file.write_text("{")
    found = signal_lead.expected(tmp_path, "c.py", JOB)
    assert (found.commit, found.source) == (7.0, "measured in new")
    assert signal_lead.expected(tmp_path / "nowhere", "c.py", JOB) is signal_lead.ASSUMED


def test_a_grace_or_a_lead_that_is_too_short_is_warned_of_with_the_figures():
    cost = signal_lead.Cost(10.0, 50.0, "measured in r")
    grace, before_limit = signal_lead.warnings(cost, lead=90, preemption=GRACE, limit="24:00:00")
    assert "may take 120 s" in grace and "a preempted job of QOS scav has 60 s" in grace and "measured in r" in grace
    assert "--signal-lead 150" in before_limit
    assert signal_lead.warnings(cost, lead=150, preemption=None, limit="24:00:00") == []
    assert signal_lead.warnings(cost, lead=150, preemption=replace(GRACE, grace=120), limit="24:00:00") == []


def test_no_job_is_reported_to_stop_before_half_of_its_time_is_over_and_a_limit_too_short_for_a_stop_is_warned_of():
    assert [signal_lead.within(120, limit) for limit in ("1", "3:00", "4", "1-00:00:00")] == [30, 90, 120, 120]
    (short,) = signal_lead.warnings(signal_lead.Cost(10.0, 50.0, "measured in r"), lead=150, preemption=None, limit="4")
    assert short.startswith("time: 4 is short: of the 240 s of each start 120 s are kept for a stop that may take 120")

