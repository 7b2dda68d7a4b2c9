"""What Slurm says of jobs, with an array as one job, and what each of its states means for a run."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

WAITING, LIVE, ENDED = "waiting", "live", "ended"
# Every state and flag that squeue, sacct and scontrol print, from Slurm 22.05 to 25.05. A state that is not here is one
# of a newer Slurm and counts as live: a second job beside a live one does more harm than one that is not submitted.
STATES: dict[str, str] = {
    # STOPPED: by SIGSTOP, with its resources. REVOKED: here, as another cluster of the federation has started it.
    # LAUNCH_FAILED, RECONFIG_FAIL: flags beside a state: the job is requeued, or ends in a state of its own.
    **dict.fromkeys(("RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING", "EXPEDITING",
                     "UPDATE_DB", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"), LIVE),
    **dict.fromkeys(("SUSPENDED", "CONFIGURING", "POWER_UP_NODE", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
                     "RESV_DEL_HOLD", "SPECIAL_EXIT"), WAITING),
    **dict.fromkeys(("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
                     "PREEMPTED", "TIMEOUT"), ENDED),
}
HELD = ("REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")
HELD_REASON = re.compile(r"held|hold", re.IGNORECASE)  # JobHeldUser, JobHoldMaxRequeue, launch failed requeued held, …
ORDER = tuple(STATES)


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job.

    An array is one job here: its state is that of the elements that are furthest from their end.

    Attributes:
        state: ``PENDING``, ``RUNNING``, …
        command: The batch script, or the line that submitted it.
    """

    job_id: str
    state: str
    reason: str
    comment: str
    start: str
    command: str = ""

    @property
    def kind(self) -> str:
        """``waiting``, ``live`` or ``ended``."""
        return STATES.get(self.state, LIVE)

    @property
    def expected_start(self) -> float | None:
        """When Slurm expects a waiting job to start, in seconds since the epoch; None where it does not say."""
        if self.kind != WAITING:
            return None
        try:
            return time.mktime(time.strptime(self.start, "%Y-%m-%dT%H:%M:%S"))
        except (ValueError, OverflowError):  # N/A, Unknown
            return None

    @property
    def is_held(self) -> bool:
        """Whether it waits until it is released manually."""
        return self.state in HELD or (self.kind == WAITING and HELD_REASON.search(self.reason) is not None)

    def is_of(self, token: str, folder: str | None = None) -> bool:
        """Whether this is the job that was submitted under a token: ids are given away again after a reset of Slurm.

        Args:
            folder: Where the run's batch scripts lie: accounting may keep no comment, and version 0.1 named the
                scripts at random.
        """
        return self.comment == token or script_name(token) in self.command or bool(
            folder and self.comment in ("", "(null)") and f"{folder}/." in self.command
            and not NAMED.search(self.command))


NAMED = re.compile(r"\.submission_file_[0-9a-f]{12}\.sh")  # by a token: so it belongs to no other job


def script_name(token: str) -> str:
    """The name of the batch script that is submitted under a token."""
    return f".submission_file_{token.rpartition(':')[2]}.sh"


def of_arrays(states: Iterable[JobState]) -> list[JobState]:
    """Elements of an array (``7_1``, ``7_[2-5%4]``) as one job."""
    arrays: dict[str, list[JobState]] = {}
    for state in states:
        arrays.setdefault(state.job_id.partition("_")[0], []).append(state)

    def height(state: JobState) -> int:
        if state.kind == ENDED:
            return len(ORDER) + (state.state == "COMPLETED")  # a bad end stands for the whole
        return ORDER.index(state.state) if state.state in ORDER else 0

    return [replace(min(members, key=height), job_id=job_id) for job_id, members in arrays.items()]
