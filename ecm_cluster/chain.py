"""What is submitted after what: training, then the evaluation of its last checkpoint.

A chain survives a crash of its submitter. Before each sbatch a token is written into the run, and given to Slurm
as the job's comment; whoever comes later finds a job whose id was never recorded by it, and submits what is
missing. One job for each stage, never two. A run that goes on in a new job keeps the ids of its former ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from . import cluster, driver, evaluations, files, lead, starts
from . import job as jobs
from .errors import UserError
from .run import Run
from .spec import evaluation_job

TRAIN, EVALUATE = "train", "evaluate"


def stages(job: jobs.Job) -> list[str]:
    """The chain of a job, in order."""
    return [TRAIN, EVALUATE] if job.evaluation.enabled else [TRAIN]


def request(run: Run, job: jobs.Job, stage: str, token: str, after: str | None = None,
            elements: int | None = None) -> cluster.Request:
    """What a stage asks of the cluster; an evaluation inherits what its block does not say.

    Args:
        elements: Of the stage's array; None: as many as are on record.
    """
    job = job if stage == TRAIN else evaluation_job(job)
    asked = lead.lead_of(run, job.signal_lead) if stage == TRAIN else job.signal_lead
    job = dataclasses.replace(job, signal_lead=lead.within(asked, job.time), exclude=excluded(run, job))
    if elements is None:
        elements = 1 if stage == TRAIN else len(evaluations.read(run, stage))
    return cluster.Request(run, job, stage, job.nodes, job.gpus, token, job.partition, job.time, after, elements,
                           min(job.evaluation.at_once, elements))


def excluded(run: Run, job: jobs.Job) -> str | None:
    """The nodes that a job shall not get: the user's own, and those on which the run could not work."""
    return ",".join([*filter(None, [job.exclude]), *starts.left_out(run.events())]) or None


def new_token(run_name: str, stage: str) -> str:
    return f"ecm-cluster:{run_name}:{stage}:{secrets.token_hex(6)}"


def task(run: Run, stage: str) -> Callable[[], Any]:
    """What each task of a stage's job runs."""
    from .node.task import Evaluate, Train

    return Train(str(run.path)) if stage == TRAIN else Evaluate(str(run.path), stage)


def submit(run: Run, job: jobs.Job) -> dict[str, str]:
    """Submit every stage that has no job yet.

    Returns:
        Job ids by stage, those found again included.
    """
    ids: dict[str, str] = {}
    for stage in stages(job):
        # behind a training that is complete there is nothing to wait for, and Slurm may have forgotten its job
        ids[stage] = submit_stage(run, job, stage, after=None if run.completion() else ids.get(TRAIN))
    return ids


def submit_stage(run: Run, job: jobs.Job, stage: str, after: str | None) -> str:
    """Submit the job of one stage, or find again the one that it has.

    Returns:
        The job id.
    """
    path = run.submission_file(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = files.read_json(path) if path.exists() else None
    if record and record.get("job_id"):
        return record["job_id"]
    found = cluster.find_by_token(record["token"]) if record else None
    if found is None:
        former = (record or {}).get("former", [])
        record = {"token": new_token(run.name, stage), "cluster": "slurm", "former": former}
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
                _take_back(run, stage, former)  # nothing was submitted under this token
                raise
        files.kill_point("after-sbatch", path)
    assert record is not None
    files.write_json(path, {**record, "job_id": found})
    run.ledger(0, "submit").write("submitted", stage=stage, job_id=found, token=record["token"])
    return found


def _take_back(run: Run, stage: str, former: list[dict[str, Any]]) -> None:
    """The record of a stage as it was before the token that Slurm refused."""
    path = run.submission_file(stage)
    if former:
        files.write_json(path, {**former[-1], "cluster": "slurm", "former": former[:-1]})
    else:
        path.unlink()


def submit_local(run: Run, job: jobs.Job) -> str:
    """Start the local driver, which plays the chain on this machine.

    Returns:
        Its pid.
    """
    path = run.submission_file(TRAIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.kill_point("before-driver", path)
    # a former submission may have died after it started one
    pid = driver.find(run) or driver.start(run, job)
    files.kill_point("after-driver", path)
    former = record_of(run, TRAIN).get("former", [])
    files.write_json(path, {"token": new_token(run.name, TRAIN), "cluster": "local", "job_id": pid, "former": former})
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


def virtual_ranks(run: Run) -> int:
    """Ranks that the order of samples is made for: those of the submission, whatever plays them now."""
    return run.overrides().virtual_ranks or run.spec.virtual_ranks


def resume_point(run: Run) -> int | None:
    """The iteration beyond which the next attempt accepts no checkpoint; None: it accepts all that count.

    ``resume --from`` names it. It holds for one attempt: later ones accept what that one has listed and committed.
    """
    point = run.overrides().point
    return point.iteration if point and point.after == run.newest_attempt() else None


def resume_line(run: Run) -> str:
    """What the user types to bring a run back."""
    return f"python -m ecm_cluster.resume {shlex.quote(str(run.path))}"


def line_to_go_on(run: Run) -> str:
    """What the user types to submit what an interrupted submission did not come to."""
    if record_of(run, TRAIN).get("former"):
        return resume_line(run)
    flags = ["--name", run.name, "--runs-dir", str(run.path.parent)]
    flags += ["--cluster", "local"] if run.spec.cluster == "local" else []
    return "python -m ecm_cluster.submit " + shlex.join(flags)


# ---------------------------------------------------------------------------------------------- going on in a new job


def record_of(run: Run, stage: str) -> dict[str, Any]:
    """The submission record of a stage; empty where there is none."""
    try:
        return files.read_json(run.submission_file(stage))
    except (OSError, ValueError):
        return {}


def recorded_stages(run: Run) -> list[str]:
    """Every stage that has a job, the training first."""
    return [submission.stage for submission in run.submissions()]


def next_sweep(run: Run) -> str:
    """The name of one more stage of evaluations."""
    taken = [0, *(int(stage[5:]) for stage in (*run.stages_with_elements(), *recorded_stages(run))
                  if re.fullmatch(r"sweep\d+", stage))]
    return f"sweep{1 + max(taken):03d}"


def chain_ids(run: Run) -> list[str]:
    """Every job that a run has had, sweeps included, those of the training first."""
    return [job_id for stage in recorded_stages(run) for job_id in job_ids(run, stage)]


def job_ids(run: Run, stage: str) -> list[str]:
    """Every job that a stage has had, oldest first, with the present one last."""
    record = record_of(run, stage)
    ids = [old["job_id"] for old in record.get("former", [])]
    return [*ids, record["job_id"]] if record.get("job_id") else ids


def renew(run: Run, stage: str) -> None:
    """Put the job on record into the stage's history, so that :func:`submit` makes a new one: the token comes first."""
    record = record_of(run, stage)
    former = record.get("former", [])
    if record.get("job_id"):
        former = [*former, {"token": record["token"], "job_id": record["job_id"]}]
    path = run.submission_file(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"token": new_token(run.name, stage), "cluster": run.spec.cluster, "former": former})
    files.kill_point("renewed", path)


@contextlib.contextmanager
def alone(run: Run) -> Iterator[None]:
    """Hold the right to submit and cancel jobs of a run.

    Raises:
        UserError: Another process holds it.
    """
    try:
        with files.locked(run.run_file):
            yield
    except BlockingIOError:
        raise UserError(f"RUN: another process is submitting or cancelling jobs of {run.name}; try again when it is "
                        "done") from None
    except PermissionError as error:
        raise UserError(f"RUN: {error.filename} cannot be changed ({error.strerror}); ask its owner") from None
