"""Why a signal came, as rank 0 asks Slurm, and the requeue that may follow it."""

from __future__ import annotations

import time
from typing import Any

from ...attempts import causes, endings, slurm_ends
from ...base import files
from ...chain import signal_lead
from ...rundir.run import Run, Work
from ...slurm import commands, site
from ..world import RankInfo
from . import epilog, postmortem

OUTLIVE_SECONDS = 600.0  # twice the SlurmdTimeout that Slurm has by default
UNANSWERED_SECONDS = 600.0  # a signal that Slurm does not explain, and no kill follows, was not a preemption


def ask(run: Run, place: RankInfo) -> str:
    """The cause of a signal: a key of :data:`causes.CAUSES`, or ``unknown`` where Slurm does not answer."""
    # not less than what the job was submitted with: what a run has measured only grows
    warned = signal_lead.lead_of(run, run.job().signal_lead)
    answer = commands.show_job(place.job_id)
    cause = slurm_ends.why_signalled(answer, place.restart, warned, None)
    if answer is None or cause != "signalled" or answer.get("EndTime", "Unknown") in slurm_ends.UNSET:
        return cause
    left = site.seconds_left(answer)
    # without slurmctld's time a signal before the time limit cannot be distinguished from a user's
    return "unknown" if left is None else slurm_ends.why_signalled(answer, place.restart, warned, left)


def why_signalled(run: Run, place: RankInfo) -> str:
    """The cause of a signal: a key of :data:`causes.CAUSES`. Stays here while Slurm does not answer."""
    asked = time.monotonic()
    while time.monotonic() - asked < UNANSWERED_SECONDS:
        cause = ask(run, place)
        if cause != "unknown":
            return cause
        time.sleep(5)  # slurmctld is down or restarting, or this node has no scontrol: stay until killed
    return "signalled"


def missed_signal(place: RankInfo) -> str:
    """What happened to the job while this task started, when signals were ignored: ``preempted``, ``requeued``, …"""
    return slurm_ends.why_signalled(commands.show_job(place.job_id), place.restart, 0, None)


def after_stop(run: Run, work: Work, attempt: int, place: RankInfo, ledger: Any, link: str,
               received: list[str]) -> dict[str, Any]:
    """Rank 0: why all ranks have stopped, on record as the attempt's end, and what they do now.

    Args:
        received: Names of the signals that came.

    Returns:
        ``cause``, and ``action``: ``again`` (the next attempt in the same start), ``stay`` (until Slurm ends the task)
        or ``stop``.
    """
    signals = ", ".join(dict.fromkeys(received))
    failed = endings.failed_commit(work.events(attempt, "train000"), attempt)
    lost = f"; {failed}" if failed else ""
    if not place.on_slurm:
        cause = "cancelled" if run.cancelled(link) else "signalled"
        ledger.write("end", cause=cause, detail=f"{signals or 'signal'} received{lost}", rank=0, next="stop")
        return {"action": "stop", "cause": cause}
    cause = why_signalled(run, place)
    # requeued already: nothing here is waited for, and a node that Slurm took for dead is free the sooner
    action = "again" if cause == "signalled" else "stay" if cause in causes.REQUEUES else "stop"
    text = causes.CAUSES[cause].text + (f" ({signals} received)" if signals else "")
    ledger.write("end", cause=cause, detail=text + lost, rank=0, next=action)
    return {"action": action, "cause": cause}


def requeue(run: Run, work: Work, attempt: int, place: RankInfo, ledger: Any, link: str) -> str | None:
    """Have Slurm run this job again after its commit; where it refuses, submit a successor.

    Returns:
        None where this task is to stay until Slurm ends it; else why it must fail.
    """
    # asked again, since a scancel may have come meanwhile: a requeue would bring the cancelled job back to life
    cause = "cancelled" if run.cancelled(link) else why_signalled(run, place)
    if cause == "requeued":
        return None
    if cause not in causes.REQUEUES or work.newest_attempt() != attempt:
        ledger.write("requeue", accepted=False, cause=cause)
        return f"not requeued: {cause}"
    files.kill_point("before-requeue", work.path)
    accepted = commands.requeue(place.job_id, place.restart, place.token)
    files.kill_point("after-requeue", work.path)
    ledger.write("requeue", accepted=accepted, cause=cause)
    if accepted or (cause == "preempted" and slurm_requeues(place)):
        return None
    epilog.succeed(run, attempt, link, place.job_id, ledger)
    return "Slurm refused the requeue; a job submitted in its place continues the run, or `resume` does"


def stand_in(run: Run, work: Work, attempt: int, place: RankInfo, ledger: Any, link: str) -> bool:
    """Rank 0 and the batch shell may have gone with their node: the first task of another node does their last work.

    Returns:
        Whether the job has ended with a node, or its batch shell, for good; then it runs again, or one in its place.
    """
    if not place.on_slurm or place.node == 0 or place.local_rank != 0:
        return False
    cause = missed_signal(place)
    seen_to = any(e.kind in ("requeue", "successor", "stopped") for e in work.events(attempt))
    if cause not in ("node failure", "killed") or seen_to:
        return False
    postmortem.abort(work, attempt, ledger, rank=place.rank, cause=cause)
    what = "a node failed" if cause == "node failure" else "the batch shell was killed"
    ledger.write("end", cause=cause, rank=place.rank, next="stop", detail=f"{what}: Slurm has ended job {place.job_id}")
    decision = endings.decide(work)
    if decision.action == "continue" and not run.cancelled(link):
        epilog.carry_on(run, work, attempt, link, ledger, decision.reason)
    return True


def outlive(run: Run, work: Work, attempt: int, place: RankInfo, ledger: Any, link: str) -> None:
    """After a failure that only followed from another rank's: wait for word of rank 0's node, and stand in for it.

    Gloo notices within a second that a node is gone, slurmctld only after SlurmdTimeout. A rank that left before would
    leave nobody to bring the job back. Where that node lives, its supervisor says at once what happened there.
    """
    end = time.monotonic() + OUTLIVE_SECONDS
    while place.on_slurm and place.node != 0 and time.monotonic() < end and not work.abort_file(attempt).exists():
        time.sleep(2.0)
        if stand_in(run, work, attempt, place, ledger, link):
            return


def slurm_requeues(place: RankInfo) -> bool:
    """Whether Slurm itself runs the job again at the end of the grace: then the tasks need only stay."""
    job = commands.show_job(place.job_id) or {}
    # a job that is ending, and was not requeued, is not restarted automatically, regardless of the modes
    alive = job.get("Requeue") == "1" and job.get("JobState") in slurm_ends.ALIVE
    return alive and "REQUEUE" in site.preempt_mode(job)
