"""How a start of a job ended, by what Slurm says of the job: a key of :data:`ecm_cluster.attempts.causes.CAUSES`.

Each cause has evidence of its own. What Slurm says without a row here is ``ended by Slurm``, never a cancellation.
Times are compared with each other where slurmctld wrote both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from .causes import BY_REASON, BY_STATE

# What Slurm calls an end, for a start that recorded none. A program's failure is recorded by the batch shell; a shell
# that could not was killed, with its node perhaps.
UNRECORDED = {state: cause for state, cause in BY_STATE.items() if state != "FAILED"}
# States of a job that Slurm will start again, regardless of the tasks that are left of its last start.
STARTS_AGAIN = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
ALIVE = ("RUNNING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED")
UNSET = ("None", "", "N/A", "Unknown")


def why_signalled(answer: Mapping[str, str] | None, restarts: int, lead: float, remaining: float | None) -> str:
    """The cause of a SIGTERM or SIGUSR2, from the first ``scontrol show job`` after it.

    Args:
        answer: Fields of the job, or None where Slurm gave none in time.
        restarts: SLURM_RESTART_COUNT of this attempt, 0 at the first.
        lead: Seconds before the time limit at which Slurm warns; it may come up to 60 s early.
        remaining: Seconds to the job's EndTime, None if unknown.

    Returns:
        A key of :data:`CAUSES`, or ``unknown`` where Slurm did not answer.
    """
    if not answer:
        return "unknown"
    state = answer.get("JobState", "")
    again = int(answer.get("Restarts", 0) or 0) > restarts
    # alive too: then it is the next start of this job, and this task outlived a node that Slurm took for dead
    if state in STARTS_AGAIN or (again and state in (*ALIVE, "COMPLETING")):
        return "requeued"
    if state in ALIVE:
        if answer.get("PreemptTime", "None") not in UNSET:
            return "preempted"
        return "time limit" if remaining is not None and remaining <= lead + 60 else "signalled"
    if state == "COMPLETING":
        return _why_completing(answer)
    return BY_STATE.get(state, "ended by Slurm")


def why_unrecorded(answer: Mapping[str, str], restarts: int) -> str:
    """How a start ended of which nobody has recorded the end, asked once it is over."""
    state = answer.get("JobState", "")
    if state in ALIVE or not state:
        return "lost"
    cause = why_signalled(answer, restarts, 0, None)
    return "lost" if cause in ("crashed", "ended by Slurm") else cause


def _why_completing(answer: Mapping[str, str]) -> str:
    """How a job ended whose tasks have still to end: each way but a scancel leaves its name or its time."""
    reason = answer.get("Reason", "")
    if reason in BY_REASON:
        return BY_REASON[reason]
    if reason.startswith("RaisedSignal"):
        return "killed"  # the batch shell, as by newer Slurms where its node loses its power
    if reason != "None":
        return "ended by Slurm"
    return "preempted" if _preempted_at_its_end(answer) else "cancelled"


def _preempted_at_its_end(answer: Mapping[str, str]) -> bool:
    """Whether the preemption ended the job, and not a scancel in its grace; slurmctld wrote both times."""
    try:
        preempted, ended = (datetime.fromisoformat(answer[name]) for name in ("PreemptTime", "EndTime"))
    except (KeyError, ValueError):
        return answer.get("PreemptTime", "None") not in UNSET
    return (ended - preempted).total_seconds() <= 1


# The words of slurmstepd and srun for a step that the kernel, or Slurm's own polling, has killed for its memory.
SAYS_OUT_OF_MEMORY = re.compile(r"^(srun|slurmstepd\S*): error: .*(Out Of Memory|oom-kill|exceeded \w* ?memory limit)",
                                re.MULTILINE)


def why_step_ended(answer: Mapping[str, str] | None, restarts: int, code: int | None, said: str = "") -> str:
    """The cause of a job step's end that none of its tasks has recorded, as the batch shell sees it.

    Args:
        code: What srun returned; None where the shell itself was ended before.
        said: The last lines of the job's log.
    """
    if not answer:
        return "lost"
    if code and SAYS_OUT_OF_MEMORY.search(said) and answer.get("JobState") == "RUNNING":
        return "out of memory"
    if answer.get("JobState") == "RUNNING" and int(answer.get("Restarts", 0) or 0) <= restarts:
        if code is None:
            return "signalled"  # to the batch shell alone: its step had not ended
        return "killed" if code > 128 else "crashed"
    return why_signalled(answer, restarts, lead=0, remaining=None)
