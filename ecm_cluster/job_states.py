"""What Slurm says of jobs, with an array as one job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job: its state (``PENDING``, ``RUNNING``, …), the reason, and the comment.

    An array is one job here: its state is that of the elements that are furthest from their end.
    """

    job_id: str
    state: str
    reason: str
    comment: str
    start: str


# of an array's elements, the first of these that any has stands for the whole; then whatever ended badly
ORDER = ("RUNNING", "COMPLETING", "CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED")


def of_arrays(states: Iterable[JobState]) -> list[JobState]:
    """Elements of an array (``7_1``, ``7_[2-5%4]``) as one job."""
    arrays: dict[str, list[JobState]] = {}
    for state in states:
        arrays.setdefault(state.job_id.partition("_")[0], []).append(state)

    def height(state: JobState) -> int:
        ended_well = len(ORDER) + (state.state == "COMPLETED")
        return ORDER.index(state.state) if state.state in ORDER else ended_well

    return [replace(min(members, key=height), job_id=job_id) for job_id, members in arrays.items()]
