"""What is submitted after what: training, then the evaluation of its last checkpoint.

A chain survives a crash of its submitter. Before each sbatch a token is written into the run, and given to Slurm
as the job's comment; whoever comes later finds a job whose id was never recorded by it, and submits what is
missing. One job for each stage, never two.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shlex
from collections.abc import Callable
from typing import Any

from . import cluster, driver, files
from . import job as jobs
from .errors import UserError
from .run import Evaluation, Run

TRAIN, EVALUATE = "train", "evaluate"


def stages(job: jobs.Job) -> list[str]:
    """The chain of a job, in order."""
    return [TRAIN, EVALUATE] if job.evaluation.enabled else [TRAIN]


def request(run: Run, job: jobs.Job, stage: str, token: str, after: str | None = None) -> cluster.Request:
    """What a stage asks of the cluster; an evaluation inherits what its block does not say."""
    if stage == TRAIN:
        return cluster.Request(run, job, stage, job.nodes, job.gpus, token, job.partition, job.time)
    block = job.evaluation
    return cluster.Request(run, job, stage, block.nodes or 1, block.gpus or job.gpus, token,
                           block.partition or job.partition, block.time or job.time, after)


def new_token(run_name: str, stage: str) -> str:
    return f"ecm-cluster:{run_name}:{stage}:{secrets.token_hex(6)}"


def task(run: Run, stage: str) -> Callable[[], Any]:
    """What each task of a stage's job runs."""
    from .node.task import Evaluate, Train

    return Train(str(run.path)) if stage == TRAIN else Evaluate(str(run.path))


def submit(run: Run, job: jobs.Job) -> dict[str, str]:
    """Submit every stage that has no job yet.

    Returns:
        Job ids by stage, those found again included.
    """
    ids: dict[str, str] = {}
    for stage in stages(job):
        ids[stage] = _submit_stage(run, job, stage, after=ids.get(TRAIN))
    return ids


def _submit_stage(run: Run, job: jobs.Job, stage: str, after: str | None) -> str:
    path = run.submission_file(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = files.read_json(path) if path.exists() else None
    if record and record.get("job_id"):
        return record["job_id"]
    found = cluster.find_by_token(record["token"]) if record else None
    if found is None:
        record = {"token": new_token(run.name, stage), "cluster": "slurm"}
        asked = request(run, job, stage, record["token"], after)
        work = task(run, stage)
        cluster.write_task(asked, work)
        files.write_json(path, record)
        files.kill_point("before-sbatch", path)
        try:
            found = cluster.submit(asked, work)
        except UserError as refused:
            # sbatch can give up (a time-out) on a job that slurmctld takes all the same
            try:
                found = cluster.find_by_token(record["token"])
            except UserError:
                raise refused from None  # the token stays: who comes next looks for it
            if found is None:
                path.unlink()  # nothing was submitted under this token
                raise
        files.kill_point("after-sbatch", path)
    assert record is not None
    files.write_json(path, {**record, "job_id": found})
    run.ledger(0, "submit").write("submitted", stage=stage, job_id=found, token=record["token"])
    return found


def submit_local(run: Run, job: jobs.Job) -> str:
    """Start the local driver, which plays the chain on this machine.

    Returns:
        Its pid.
    """
    path = run.submission_file(TRAIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a former submission may have died after it started one
    pid = driver.find(run) or driver.start(run, job)
    files.kill_point("after-driver", path)
    files.write_json(path, {"token": new_token(run.name, TRAIN), "cluster": "local", "job_id": pid})
    run.ledger(0, "submit").write("submitted", stage=TRAIN, job_id=pid)
    return pid


def adopt(run: Run) -> list[str]:
    """Record the ids of jobs whose submitter died before it could.

    Returns:
        The stages that were found.
    """
    found: list[str] = []
    for submission in run.submissions():
        if submission.job_id is None and submission.cluster == "slurm":
            try:
                job_id = cluster.find_by_token(submission.token)
            except UserError:
                return found
            if job_id is not None:
                path = run.submission_file(submission.stage)
                files.write_json(path, {**files.read_json(path), "job_id": job_id})
                run.ledger(0, "submit").write("submitted", stage=submission.stage, job_id=job_id, adopted=True)
                found.append(submission.stage)
    return found


def evaluation_settings(run: Run) -> dict[str, Any]:
    """What an evaluation's figures depend on besides the checkpoint."""
    return {"config": run.spec["digests"]["config"], "annotations": run.spec["digests"].get("val_annotations"),
            "iou_types": "as the model gives", "scorer": "lvis"}


def last_evaluation(run: Run) -> Evaluation:
    """The evaluation of a complete run's last checkpoint; its key is made of checkpoint and settings."""
    mark = run.completion()
    assert mark is not None, "only a complete run has a last checkpoint"
    settings = evaluation_settings(run)
    text = repr((mark["digest"], sorted(settings.items(), key=str)))
    return run.evaluation(f"iter_{mark['iteration']:07d}-{hashlib.sha256(text.encode()).hexdigest()[:10]}")


def frozen_job(run: Run) -> jobs.Job:
    """The job that a run was submitted with."""
    return jobs.make(run.spec["job"])


def line_to_go_on(run: Run) -> str:
    """What the user types to submit what an interrupted submission did not come to."""
    flags = ["--name", run.name, "--runs-dir", str(run.path.parent)]
    flags += ["--cluster", "local"] if run.spec["cluster"] == "local" else []
    return "python -m ecm_cluster.submit " + shlex.join(flags)


def with_name(job: jobs.Job, name: str) -> jobs.Job:
    """The same job under a name of its own."""
    return dataclasses.replace(job, name=name)
