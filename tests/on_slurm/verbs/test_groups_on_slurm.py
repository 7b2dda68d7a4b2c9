"""Groups of runs on a real Slurm, where it takes fewer jobs than a group has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from slurm_harness import SlurmCluster
from small import await_state, job_flags, verb, wait_until

from ecm_cluster.rundir.run import Run

LOSS = "model.roi_head.bbox_head.loss_cls"


def jobs(slurm: SlurmCluster) -> dict[str, str]:
    """The ids of the jobs that wait or run, by their names."""
    rows = [line.split() for line in slurm.run("squeue", "-h", "-t", "PD,R,CF,CG", "-o", "%j %i").stdout.splitlines()]
    return dict(rows)


def ask(slurm: SlurmCluster, data: Path, runs: Path, *more: object, code: int = 0, **options: object):
    return verb("submit", *job_flags(data, runs, "grid", **options), *more, env=slurm.env, code=code)


def test_what_a_limit_refuses_is_submitted_when_the_same_is_asked_for_again(make_slurm, small_data, tmp_path):
    slurm = make_slurm(dbd=True, qos={"few": "MaxSubmitJobsPerUser=2"})
    flags = ("--qos", "few", "--no-eval", "--vary", "seed=0,1,2")
    said = ask(slurm, small_data, tmp_path, *flags, "--dry-run").stdout
    assert "MaxSubmitJobsPerUser of QOS few 2" in said and "Slurm takes 2 jobs of yours at a time" in said
    said = ask(slurm, small_data, tmp_path, *flags, code=1).stderr
    assert "grid-seed2: sbatch refused the train job" in said and "2 of 3 runs were submitted" in said
    assert set(jobs(slurm)) <= {"grid-seed0", "grid-seed1"}
    found = json.loads(verb("status", "grid", "--runs-dir", tmp_path, "--json", env=slurm.env).stdout)
    assert [run["state"] for run in found["runs"]][2] == "not submitted"
    for seed in (0, 1):
        await_state(Run(tmp_path / f"grid-seed{seed}"), "complete", "done", env=slurm.env)
    wait_until(lambda: not jobs(slurm), "their jobs end", 100)
    ids = {seed: Run(tmp_path / f"grid-seed{seed}").submission("train")["job_id"] for seed in (0, 1)}
    ask(slurm, small_data, tmp_path, *flags)
    await_state(Run(tmp_path / "grid-seed2"), "complete", "done", env=slurm.env)
    assert ids == {seed: Run(tmp_path / f"grid-seed{seed}").submission("train")["job_id"] for seed in (0, 1)}


def test_one_at_a_time_and_cancelled_together(slurm, small_data, tmp_path):
    ask(slurm, small_data, tmp_path, "--vary", "seed=0,1", "--vary", f"{LOSS}=@ecm,@seesaw", "--at-once", 1,
        runner__max_epochs=2)
    names = [f"grid-seed{seed}-{loss}" for seed in (0, 1) for loss in ("ecm", "seesaw")]
    first, second, *others = (Run(tmp_path / name) for name in names)
    end = first.submission("evaluate")["job_id"]
    waits = slurm.job(second.submission("train")["job_id"])["Dependency"]
    assert waits.startswith(f"afterany:{end}")
    await_state(first, "done", env=slurm.env, seconds=400)
    wait_until(lambda: second.newest_attempt(), "the next starts by itself", 200)
    assert not any(run.newest_attempt() for run in others)
    verb("cancel", "grid", "--runs-dir", tmp_path, env=slurm.env)
    wait_until(lambda: not jobs(slurm), "nothing is left of it", 100)
    assert not any(run.newest_attempt() for run in others), "none started when the one before it ended"
    said = verb("status", "grid", "--runs-dir", tmp_path, env=slurm.env).stdout
    assert re.search(rf"{names[0]} .* done ", said) and said.count("stopped") >= 3
