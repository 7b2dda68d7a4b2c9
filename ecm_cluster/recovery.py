"""Why something ended, what to do next, and within which budget.

Two tables. :data:`ENDINGS` maps the cause of an attempt's end to the next action and its budget;
:func:`why_signalled` maps Slurm's answer after a signal to a cause. Everything that restarts or refuses to restart
a run asks here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import starts
from .ledger import Event
from .run import Evaluation, Run, Work

# Consecutive attempts without a commit after which a run stops, whatever the causes were.
BARREN_LIMIT = 3


@dataclass(frozen=True)
class Ending:
    """What follows a cause.

    Attributes:
        action: ``continue`` (start again), ``wait`` (Slurm starts it again), ``stop``, or ``none``.
        text: The cause in the user's words.
        budget: How many ends of this kind since the last new checkpoint are answered by a new start; None: any number.
    """

    action: str
    text: str
    budget: int | None = None


ENDINGS: dict[str, Ending] = {
    "complete": Ending("none", "the work is complete"),
    "preempted": Ending("continue", "Slurm preempted the job"),
    "time limit": Ending("continue", "the time limit was near"),
    "signalled": Ending("continue", "somebody sent a signal"),
    "requeued": Ending("wait", "Slurm had requeued the job already"),
    "node failure": Ending("wait", "a node failed"),
    "cancelled": Ending("stop", "the job was cancelled"),
    "crashed": Ending("continue", "the program failed", budget=2),
    "killed": Ending("continue", "a rank was killed", budget=2),
    "out of memory": Ending("continue", "a rank needed more memory than the job has", budget=1),
    "out of GPU memory": Ending("continue", "a rank needed more memory than its GPU has", budget=1),
    "GPU failure": Ending("continue", "a GPU failed", budget=starts.GPU_FAILURES_OF_A_NODE * starts.NODE_LIMIT),
    "hung": Ending("continue", "nothing was heard of the program", budget=2),
    "lost": Ending("continue", "the attempt ended without a word", budget=2),
    "not startable": Ending("stop", "the program cannot start"),
}

# What Slurm's accounting calls the end of one start of a job, and what that is here.
ACCOUNTED = {"PREEMPTED": "preempted", "TIMEOUT": "time limit", "NODE_FAIL": "node failure",
             "BOOT_FAIL": "node failure", "OUT_OF_MEMORY": "out of memory", "CANCELLED": "cancelled",
             "REQUEUED": "requeued", "FAILED": "crashed"}


def why_signalled(answer: Mapping[str, str] | None, restarts: int, lead: float, remaining: float | None) -> str:
    """The cause of a SIGTERM or SIGUSR2, from the first ``scontrol show job`` after it.

    Args:
        answer: Fields of the job, or None where Slurm gave none in time.
        restarts: SLURM_RESTART_COUNT of this attempt, 0 at the first.
        lead: Seconds before the time limit at which Slurm warns; it may come up to 60 s early.
        remaining: Seconds to the job's EndTime, None if unknown.

    Returns:
        A key of :data:`ENDINGS`, or ``unknown`` where Slurm did not answer.
    """
    if not answer:
        return "unknown"
    state = answer.get("JobState", "")
    again = int(answer.get("Restarts", 0) or 0) > restarts
    # RUNNING too: then it is the next start of this job, and this task outlived a node that Slurm took for dead
    if again and state in ("RUNNING", "CONFIGURING", "COMPLETING", "PENDING"):
        return "requeued"
    if state == "RUNNING":
        if answer.get("PreemptTime", "None") not in ("None", "", "N/A", "Unknown"):
            return "preempted"
        return "time limit" if remaining is not None and remaining <= lead + 60 else "signalled"
    if state == "COMPLETING" and answer.get("Reason") == "TimeLimit":
        return "time limit"
    return "cancelled"


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
        return "killed" if code is not None and code > 128 else "crashed"
    return why_signalled(answer, restarts, lead=0, remaining=None)


@dataclass(frozen=True)
class Decision:
    """What is next for a piece of work: ``done``, ``continue``, ``wait`` or ``stop``, and why."""

    action: str
    reason: str


def decide(work: Work) -> Decision:
    """What to do after the newest attempt has ended, from the ledger alone."""
    newest = work.newest_attempt()
    if newest and is_done(work):  # whatever became of its processes after that
        return Decision("done", "complete")
    events = work.events()
    refused = starts.failed(work, events)
    if refused is not None:
        return _after_failed_start(refused, events)
    if newest == 0:
        return Decision("stop", "no attempt began; see the job's log")
    end = last_end(events, newest)
    cause = end["cause"] if end else "lost"
    ending = ENDINGS[cause]
    reason = (end.get("detail") if end else None) or ending.text
    if cause == "complete":
        return Decision("done", "complete")
    if ending.action != "continue":
        return Decision(ending.action, reason)
    spent = over_budget(work, events)
    return Decision("stop", f"{reason}; {spent}") if spent else Decision("continue", reason)


def _after_failed_start(refused: Event, events: list[Event]) -> Decision:
    """Where one node is at fault, another one may do: on Slurm, and for so many nodes."""
    reason = f"{refused['cause']}: {refused['detail']}"
    if not refused["of_node"] or refused["cluster"] != "slurm":
        return Decision("stop", reason)
    nodes = {e["node"] for e in events if e.kind == "not-started" and e["of_node"]
             and e["resumes"] == refused["resumes"]}
    if len(nodes) > starts.NODE_LIMIT:
        return Decision("stop", f"{reason}; it could not start on {len(nodes)} nodes, so no other is tried")
    return Decision("continue", reason)


def is_done(work: Work) -> bool:
    """Whether its completion mark stands, or all the metrics do that its newest attempt was begun for."""
    if isinstance(work, Run):
        return work.completion() is not None
    ways = work.read_attempt(work.newest_attempt()).get("ways", [""])
    return isinstance(work, Evaluation) and all(work.metrics(way) is not None for way in ways)


def over_budget(work: Work, events: list[Event]) -> str | None:
    """Why nothing may start again after the newest attempt, or None."""
    ends = _trail(work, events)
    newest = ends[0]
    if newest and newest["cause"] == "crashed" and len(ends) > 1 and _same_error(newest, ends[1]):
        return f"the same error twice at iteration {newest.get('iteration') or 0}, so it is not tried again"
    if newest and newest["cause"] == "GPU failure" and any(_same_elsewhere(newest, end) for end in ends[1:]):
        return (f"the same error on two nodes at iteration {newest.get('iteration') or 0}, so it is the program's, and "
                "it is not tried again")
    cause = newest["cause"] if newest else "lost"
    count = sum((end["cause"] if end else "lost") == cause for end in ends)
    budget = ENDINGS[cause].budget
    if budget is not None and count > budget:
        return f"{cause} {count} times since the last new checkpoint, so it is not tried again"
    # an evaluation commits no checkpoints, but one that does not fit into its time limit never will
    return barren_run(work, always=cause == "time limit")


def barren_run(work: Work, always: bool = False) -> str | None:
    """Why a run stops, whatever the causes were: its newest attempts have brought nothing. None: it need not.

    Args:
        always: Whether an evaluation counts too.
    """
    barren = barren_attempts(work, work.events())
    if barren < BARREN_LIMIT or not (always or isinstance(work, Run)):
        return None
    return f"{barren} attempts in a row ended without a new " + ("checkpoint" if isinstance(work, Run) else "result")


def _trail(work: Work, events: list[Event]) -> list[Event | None]:
    """The ends of the attempts since the last progress, newest first: an attempt that committed ended after it."""
    fruitful, ends = _fruitful(events), []
    for attempt in range(work.newest_attempt(), starts.counted_from(events), -1):
        ends.append(last_end(events, attempt))
        if attempt in fruitful:
            break
    return ends or [None]


def _same_error(one: Event | None, other: Event | None) -> bool:
    """Whether two crashes are the same traceback at the same iteration."""
    def mark(end: Event | None) -> Any:
        text = (end.get("traceback") or "") if end else ""
        return end and text and (end.get("iteration"), without_numbers(text))

    return bool(mark(one)) and mark(one) == mark(other)


def _same_elsewhere(one: Event, other: Event | None) -> bool:
    """Whether the same error came at the same iteration on another node."""
    return other is not None and one.get("node") != other.get("node") and _same_error(one, other)


def without_numbers(trace: str) -> str:
    """A traceback without what differs from process to process: addresses, sizes, process ids, seconds.

    The lines that say where in the code it happened keep their numbers.
    """
    lines = trace.splitlines()
    return "\n".join(line if line.startswith('  File "') else re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "0", line)
                     for line in lines)


def _fruitful(events: list[Event]) -> set[int]:
    return {e.attempt for e in events if e.kind in ("commit", "complete")}


def last_end(events: list[Event], attempt: int) -> Event | None:
    """The end of an attempt: the first that was recorded, those last that only followed from another rank's."""
    ends = [e for e in events if e.attempt == attempt and e.kind == "end"]
    return min(ends, key=lambda e: (bool(e.get("follows")), e.time), default=None)


def newest_end(work: Work) -> Event | None:
    """Why the work does not go on: what the newest start could not do, else how the newest attempt ended."""
    events, newest = work.events(), work.newest_attempt()
    return starts.failed(work, events) or (last_end(events, newest) if newest else None)


def barren_attempts(work: Work, events: list[Event]) -> int:
    """How many attempts in a row, the newest included, brought nothing that counts.

    A GPU that failed says nothing of the run; such attempts have a budget of their own.
    """
    fruitful, count = _fruitful(events), 0
    for attempt in range(work.newest_attempt(), starts.counted_from(events), -1):
        if attempt in fruitful:
            break
        end = last_end(events, attempt)
        count += end is None or end["cause"] != "GPU failure"
    return count


def failed_commit(events: list[Event], attempt: int) -> str | None:
    """In words: that the last commit which an attempt tried failed, why, and what stands; None if it did not."""
    tried = [e for e in events if e.attempt == attempt and e.kind in ("commit", "commit-failed")]
    if not tried or tried[-1].kind == "commit":
        return None
    last = tried[-1]
    return f"the checkpoint of iteration {last['iteration']} could not be written ({last['reason']}); {last['stands']}"


def describe_end(end: Event | None) -> dict[str, Any] | None:
    """An end as ``status`` shows it."""
    if end is None:
        return None
    return {"cause": end["cause"], "detail": end.get("detail"), "rank": end.get("rank"), "time": end.time}
