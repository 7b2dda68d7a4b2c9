"""Options of sbatch that a site demands or forbids, on a real Slurm: what each job is given, and what is refused."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_harness import SlurmCluster
from small import ROOT, await_state, job_flags, verb

from ecm_cluster import chain, cluster, job
from ecm_cluster.run import Run

# what each of 2 × 2 tasks sees: its GPUs, and whether the run's environment has come through
FORMS: dict[str, dict[str, Any]] = {
    "the launcher's own": {},
    "gres": {"slurm": {"gres": "gpu:7"}},
    "gpus per task": {"slurm": {"gpus-per-task": 1}},
    "no environment": {"slurm": {"export": "NONE"}},
    "some of it": {"slurm": {"export": "NIL", "get-user-env": True}},
    "nothing that can be left off": {"mem_per_gpu": "none", "slurm": dict.fromkeys(
        ["cpus-per-task", "comment", "signal", "requeue", "time", "chdir", "open-mode", "job-name",
         "kill-on-invalid-dep"])},
    "memory in other words": {"slurm": {"mem-per-cpu": "50M"}},
}


def test_however_a_job_asks_for_gpus_and_whatever_it_leaves_off_its_tasks_see_the_same(slurm, tmp_path):
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\ncase "$*" in *core._submit*) '
                       'echo "$SLURMD_NODENAME:$CUDA_VISIBLE_DEVICES $OWN ${PYTHONPATH%%:*} $PWD";; esac\n')
    program.chmod(0o755)
    jobs = {}
    for number, (form, values) in enumerate(FORMS.items()):
        run = Run(tmp_path / f"run {number}")
        for folder in (run.logs_dir, run.submitit_dir, run.task_pickle("train").parent):
            folder.mkdir(parents=True)
        wanted = chain.request(run, job.make({
            "nodes": 2, "gpus": 2, "cpus_per_gpu": 1, "mem_per_gpu": "100M", "time": "5", "python": str(program),
            "env": {"OWN": "own"}, **values}), "train", "token")
        cluster.write_task(wanted, chain.task(run, "train"))
        jobs[form] = (run, slurm.submit(script=cluster.render(wanted)))
    for form, (run, job_id) in jobs.items():
        assert slurm.wait_for(job_id)["JobState"] == "COMPLETED", form
        lines = [line.rstrip() for path in run.submitit_dir.glob("*.out") for line in path.read_text().splitlines()
                 if " own " in line]
        assert len(lines) == 4 and all(line.endswith(f" own {run.code_dir} {run.logs_dir}") for line in lines), form
        seen: dict[str, list[str]] = {}
        for node, _, gpus in (line.partition(" ")[0].partition(":") for line in lines):
            seen.setdefault(node, []).append(gpus)
        each = 1 if form == "gpus per task" else 2
        for gpus in seen.values():
            assert [len(names.split(",")) for names in gpus] == [each] * 2, form
            assert len({name for names in gpus for name in names.split(",")}) == 2, form
        assert len(seen) == 2
