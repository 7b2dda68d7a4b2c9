"""What is submitted after what: training, then the evaluation of its last checkpoint.

A chain survives a crash of its submitter: what was submitted is found again (see ``submissions``), and what is missing
is submitted. One job for each link, never two.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable
from typing import Any

from ..attempts import starts
from ..base import files, processes
from ..base.errors import UserError
from ..job import job as jobs
from ..rundir.run import Run
from ..rundir.spec import evaluation_job
from ..slurm import launcher, queue
from . import evaluations, locks, signal_lead, submissions

TRAIN, EVALUATE = "train", "evaluate"
DEFAULT_CLUSTER = "slurm"


def links(job: jobs.Job) -> list[str]:
    """The chain of a job, in order."""
    return [TRAIN, EVALUATE] if job.is_evaluated else [TRAIN]


def request(run: Run, job: jobs.Job, link: str, token: str, after: str | None = None,
            elements: int | None = None) -> launcher.JobRequest:
    """What a link asks of the cluster; an evaluation inherits what its block does not say.

    Args:
        elements: Of the link's array; None: as many as are on record.
    """
    job = job if link == TRAIN else evaluation_job(job)
    asked = signal_lead.lead_of(run, job.signal_lead) if link == TRAIN else job.signal_lead
    job = dataclasses.replace(job, signal_lead=signal_lead.within(asked, job.time), exclude=excluded(run, job))
    if elements is None:
        elements = 1 if link == TRAIN else len(evaluations.read(run, link))
    return launcher.JobRequest(run, job, link, token, after, elements, min(job.evaluation.at_once, elements))


def excluded(run: Run, job: jobs.Job) -> str | None:
    """The nodes that a job excludes: the user's own, and those on which the run could not work."""
    return ",".join([*filter(None, [job.exclude]), *starts.left_out(run.events())]) or None


def task(run: Run, link: str) -> Callable[[], Any]:
    """What each task of a link's job runs."""
    return processes.task(TRAIN, str(run.path)) if link == TRAIN else processes.task(EVALUATE, str(run.path), link)


def submit(run: Run, job: jobs.Job, after: str | None = None) -> dict[str, str]:
    """Submit every link that has no job yet.

    Args:
        after: What the training has to wait for, in Slurm's own words.

    Returns:
        Job ids by link, those found again included; without the evaluation, where sbatch refuses that one alone.

    Raises:
        UserError: Nothing was submitted.
    """
    ids: dict[str, str] = {}
    with locks.run_lock(run):
        before = run.submission(TRAIN).get("job_id")
        for link in links(job):
            try:
                # behind a training that is complete there is nothing to wait for, and Slurm may have forgotten its job
                first = after if link == TRAIN else ids.get(TRAIN)
                ids[link] = submit_link(run, job, link, after=None if run.completion() else first)
            except UserError as refused:
                if not ids or ids[TRAIN] == before:
                    raise
                note_refusal(run, refused)
    return ids


def note_refusal(run: Run, refused: UserError) -> None:
    """Record that the training was submitted and its evaluation was not: the next `status` or `resume` tries again."""
    run.ledger(0, "submit").write("refused", stage=EVALUATE, reason=str(refused))


def refusal(run: Run) -> str | None:
    """Why the evaluation of a training that Slurm has taken was refused, if none was submitted since."""
    found = [e for e in run.events() if e.kind in ("submitted", "refused") and e.get("stage") == EVALUATE]
    return found[-1]["reason"] if found and found[-1].kind == "refused" else None


def submit_refused(run: Run, patience: float = 0.0) -> None:
    """Submit the evaluation that was refused when its training went in, if Slurm takes it now.

    Raises:
        UserError: It does not, or another process submits.
    """
    if refusal(run) is None:
        return
    with locks.run_lock(run, patience):
        if refusal(run) is not None and not run.cancelled() and not evaluations.chain_done(run, EVALUATE):
            if run.submission(EVALUATE).get("job_id"):  # of the job that came before the refused one
                submissions.replace_token(run, EVALUATE, queue.cluster_name())
            train = run.submission(TRAIN).get("job_id")
            submit_link(run, run.job(), EVALUATE, after=None if run.completion() else train)


def half_a_chain(run: Run, reason: str) -> str:
    """What the user has to know where the evaluation was refused."""
    return (f"its evaluation is not submitted ({reason}); the next `status` and the end of the training try again, or "
            f"type `{resume_line(run)}`")


def submit_link(run: Run, job: jobs.Job, link: str, after: str | None) -> str:
    """Submit the job of one link, or find again the one that it has; the job id."""
    with locks.run_lock(run):
        submissions.adopt(run)
        known = run.submission(link).get("job_id")
        if known:
            return known
        # on record before sbatch: if this process dies, its job is found by the token, not submitted twice
        token = submissions.to_submit(run, link, queue.cluster_name())
        asked, path = request(run, job, link, token, after), run.submission_file(link)
        # before sbatch: Slurm may start the job before this process continues
        launcher.write_task(asked, task(run, link))
        files.kill_point("before-sbatch", path)
        try:
            found = launcher.submit(asked, locks.held(run))
        except UserError as refused:
            found = _taken_all_the_same(run, link, token, refused)
        files.kill_point("after-sbatch", path)
        submissions.write_id(run, link, found)
    return found


def _taken_all_the_same(run: Run, link: str, token: str, refused: UserError) -> str:
    """The id of a job that slurmctld has taken although sbatch gave up.

    Raises:
        UserError: There is none, or it is not known; then the token stays, and who comes next looks for it.
    """
    try:
        found = queue.find([token]).get(token)
    except UserError:
        raise refused from None
    if found is None:
        if not isinstance(refused, launcher.Unanswered):
            submissions.take_back(run, link)
        raise refused
    return found


def virtual_ranks(run: Run) -> int:
    """Ranks that determine the order of samples: those of the submission, regardless of the processes now."""
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


def continue_line(run: Run) -> str:
    """What the user types to submit what an interrupted submission did not submit yet."""
    if run.submission(TRAIN).get("former"):
        return resume_line(run)
    flags = ["--name", run.name, "--runs-dir", str(run.path.parent)]
    flags += ["--cluster", run.spec.cluster] if run.spec.cluster != DEFAULT_CLUSTER else []
    return "python -m ecm_cluster.submit " + shlex.join(flags)


def next_sweep(run: Run) -> str:
    """The name of one more link of evaluations."""
    taken = [0, *(int(link[5:]) for link in (*run.links_with_elements(), *submissions.recorded_links(run))
                  if re.fullmatch(r"sweep\d+", link))]
    return f"sweep{1 + max(taken):03d}"
