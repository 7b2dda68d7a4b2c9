"""What a run has submitted, on record, and who may act on it.

Each link has one record: the token of its present job (written before sbatch, and given to Slurm as the job's comment
and in the name of its script), the id that sbatch answered, who submitted it and on which cluster, and the jobs it had
before. A token is never dropped: a later verb looks for the job of each that has no id, so a job whose
submitter died is found. All of it changes under one lock, which sbatch itself holds too.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..rundir.run import Run, Submission
from ..slurm import queue
from . import locks

OUTDATED_SECONDS = 90.0  # that a node may see a record as it was: NFS trusts what it has read for up to a minute


def recorded_links(run: Run) -> list[str]:
    """Every link that has a record, the training first."""
    return [submission.link for submission in run.submissions()]


def of_run(run: Run) -> list[Submission]:
    """Every job that a run has had, sweeps included, those of the training first."""
    return [job for link in recorded_links(run) for job in run.submissions_of(link)]


def job_ids(run: Run, link: str) -> list[str]:
    """The ids of a link's jobs, the present one last."""
    return [job.job_id for job in run.submissions_of(link) if job.job_id]


def new_token(run_name: str, link: str) -> str:
    return f"ecm-cluster:{run_name}:{link}:{secrets.token_hex(6)}"


# ---------------------------------------------------------------------------------------------- writing


def replace_token(run: Run, link: str, cluster_name: str | None) -> None:
    """Put a new token on record; the present job joins the earlier ones."""
    record = run.submission(link)
    earlier = list(record.pop("former", []))
    if record.get("token") and (record.get("job_id") or _was_tried(record)):
        earlier.append({key: value for key, value in record.items() if key not in ("cluster", "submitted")})
    path = run.submission_file(link)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"token": new_token(run.name, link), "cluster": run.spec.cluster, "job_id": None,
                            "user": queue.user_name(), "cluster_name": cluster_name, "former": earlier})
    files.kill_point("renewed", path)


def to_submit(run: Run, link: str, cluster_name: str | None) -> str:
    """The token for the next sbatch of a link, on record: the present one, if no sbatch was tried with it."""
    record = run.submission(link)
    if not record.get("token") or record.get("job_id") or _was_tried(record):
        replace_token(run, link, cluster_name)
        record = run.submission(link)
    files.write_json(run.submission_file(link), {**record, "submitted": round(time.time(), 3)})
    return record["token"]


def _was_tried(record: dict[str, Any]) -> bool:
    # version 0.1 wrote a token only before sbatch, and no user
    return "submitted" in record or "user" not in record


def write_id(run: Run, link: str, job_id: str, **fields: Any) -> None:
    """Record what sbatch, or the start of the local driver, has answered."""
    record = {**run.submission(link), "job_id": job_id}
    # before the ledger: who looks for the id reads that only where this record is damaged
    files.write_json(run.submission_file(link), record)
    run.ledger(0, "submit").write("submitted", stage=link, job_id=job_id, token=record["token"], **fields)


def take_back(run: Run, link: str) -> None:
    """The record of a link as it was before the token that Slurm refused, which joins the earlier ones."""
    path, record = run.submission_file(link), run.submission(link)
    earlier = record.pop("former", [])
    last = next((row for row in reversed(earlier) if row.get("job_id")), None)
    if last is None:
        path.unlink()
        return
    refused = [{"token": record["token"], "job_id": None, "refused": True}] if _was_tried(record) else []
    files.write_json(path, {**last, "cluster": record["cluster"], "submitted": None,
                            "former": [*(row for row in earlier if row is not last), *refused]})


def take_back_untried(run: Run, link: str) -> None:
    """Undo :func:`replace_token` if sbatch was not called."""
    record = run.submission(link)
    if record.get("token") and not record.get("job_id") and not _was_tried(record):
        take_back(run, link)


# ---------------------------------------------------------------------------------------------- finding jobs again


def adopt(run: Run) -> list[str]:
    """Record the ids of jobs whose submitter died before it could, earlier ones included; under the run's lock.

    Returns:
        The links whose present job was found.

    Raises:
        UserError: Slurm does not answer.
    """
    missing = without_id(run)
    found: dict[str, str] = {}
    for user in {job.user for job in missing}:
        found.update(queue.find([job.token for job in missing if job.user == user], user))
    for link in dict.fromkeys(job.link for job in missing):
        record = run.submission(link)
        tokens = {job.token for job in missing if job.link == link}
        for row in (*record.get("former", []), record):
            if row.get("token") in found and row["token"] in tokens:
                row["job_id"] = found[row["token"]]
            elif row is not record and row["token"] in tokens and row.get("user") in (None, queue.user_name()):
                # nothing can be on its way, as sbatch holds the lock; of another user's jobs Slurm may not tell
                row["refused"] = True
        files.write_json(run.submission_file(link), record)
        if record.get("token") in found:
            run.ledger(0, "submit").write("submitted", stage=link, job_id=record["job_id"], adopted=True)
    return [job.link for job in missing if job.present and job.token in found]


def try_adopt(run: Run) -> None:
    """The same for a verb that only looks: nothing, where another process is at it, or the record cannot be changed."""
    with contextlib.suppress(UserError, OSError):
        if without_id(run):
            with locks.run_lock(run, patience=0.0):
                adopt(run)


def without_id(run: Run) -> list[Submission]:
    """The jobs whose ids were never recorded, and may be found here."""
    return [job for job in of_run(run) if job.job_id is None and not job.refused and _here(job)]


def _here(job: Submission) -> bool:
    name = queue.cluster_name()
    return not (name and job.cluster_name) or name == job.cluster_name


# ---------------------------------------------------------------------------------------------- owners


def require_owner(run: Run, line: str) -> None:
    """Refuse to act on a run from another cluster's login node, or as another user than the one who submitted it.

    Args:
        line: What the user has to type there.

    Raises:
        UserError: The run's jobs are not this place's.
    """
    run.require_own("change")
    for job in (job for job in of_run(run) if job.present):
        if not _here(job):
            raise UserError(f"RUN: the jobs of {run.name} are on cluster {job.cluster_name}, and this machine's Slurm "
                            f"is {queue.cluster_name()}; type `{line}` on a login node of {job.cluster_name}")
        if job.user and job.user != queue.user_name():
            raise UserError(f"RUN: {run.name} was submitted by {job.user}, and this is {queue.user_name()}; have "
                            f"{job.user} type `{line}`")


def stale(run: Run, link: str, token: str, job_id: str, patience: float = OUTDATED_SECONDS) -> str | None:
    """Why a start of a job must not take part in a run any more: another job is on record in its place.

    Args:
        token: That the job was submitted under; empty where its script does not say it.
        job_id: Its id, of an element of an array too.
        patience: Seconds to read again what does not name the job at all, and so is older than it.
    """
    end = time.monotonic() + patience
    own = (token, job_id.partition("_")[0])
    while True:
        with contextlib.suppress(OSError):
            os.listdir(run.submission_file(link).parent)  # an NFS client looks for new names then
        jobs = run.submissions_of(link)
        mine = [job for job in jobs if (job.token == own[0] if token else job.job_id == own[1])]
        present = next((job for job in jobs if job.present), None)
        if present is None or present in mine:
            return None
        if not mine and not token and present.job_id is None:
            return None  # a job of version 0.1 that is not on record yet
        if mine or time.monotonic() > end:
            other = f"job {present.job_id}" if present.job_id else "another submission"
            return f"stale start: job {own[1]} is not the one on record any more, {other} is"
        time.sleep(1.0)
