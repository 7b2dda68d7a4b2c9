"""Which messages about a run are due, from its directory alone, and what they say."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..attempts import endings, starts
from ..console.output import printable
from ..job.notify_options import Notify
from ..reporting import trouble
from ..reporting.run_state import ENDED, RunState
from ..rundir import checkpoints
from ..rundir.run import Run

PREEMPTED = ("preempted", "requeued")  # causes; a preemption without a grace time is seen as a requeue
LONGEST = 600  # characters of a reason in a message
MARK = "-r{resumes}-a{attempt}"  # one end of a run, which may be resumed and end again


@dataclass(frozen=True)
class Notice:
    """One message.

    Attributes:
        name: Of its files in the run; the same for as long as it must not be sent again.
        event: One of :data:`ecm_cluster.job.notify_options.EVENTS`.
    """

    name: str
    event: str
    title: str
    body: str


def find(run: Run, state: RunState) -> list[Notice]:
    """All messages that the run gives reason for, sent or not, the oldest first.

    Args:
        state: Of the run now; an end must have been confirmed, see :func:`send.confirmed`.
    """
    asked = Notify.of(run.job().notify).events
    return [notice for notice in (*_preemptions(run, state), *_commits(run, state), *_end(run, state))
            if notice.event in asked]


def _end(run: Run, state: RunState) -> Iterator[Notice]:
    if state.state not in ENDED:
        return
    name = state.state
    if state.state != "done":
        name += MARK.format(resumes=starts.resumes_of(run.events()), attempt=state.attempt)
    yield _notice(run, state, name, state.state, state.reason)


def _preemptions(run: Run, state: RunState) -> Iterator[Notice]:
    """The first of each calendar day, by the clock of this machine."""
    events, days = run.events(), set()
    for attempt in run.attempts():
        end = endings.last_end(events, attempt)
        if end is None or end["cause"] not in PREEMPTED:
            continue
        day = time.strftime("%Y-%m-%d", time.localtime(end.time))
        if day not in days:
            days.add(day)
            stands = [m.iteration for m in checkpoints.accepted(run)]
            resumes = f"it resumes after iteration {stands[-1]}" if stands else "it starts over: no checkpoint yet"
            when = time.strftime("%H:%M", time.localtime(end.time))
            yield _notice(run, state, f"preempted-{day}", "preempted",
                          f"attempt {attempt} ended at {when}: {end.get('detail') or end['cause']}; {resumes}; further "
                          "preemptions of this day are not reported")


def _commits(run: Run, state: RunState) -> Iterator[Notice]:
    """Once for each checkpoint that stands while later ones cannot be written."""
    if state.state == "running" and (text := trouble.failing_commits(run)):
        stands = [m.iteration for m in checkpoints.accepted(run)]
        yield _notice(run, state, f"commits-fail-a{state.attempt}-i{stands[-1] if stands else 0}", "commits-fail", text)


def _notice(run: Run, state: RunState, name: str, event: str, reason: str) -> Notice:
    words = {"preempted": "was preempted", "commits-fail": "cannot write checkpoints"}.get(event, event)
    reason = reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}..."
    lines = [f"{run.name} {words}: {reason}"]
    if state.iteration is not None:
        total = f"/{state.iterations}" if state.iterations else ""
        lines.append(f"progress: iteration {state.iteration}{total}, epoch {state.epoch}, attempt {state.attempt}")
    figures = [f"{name} {100 * value:.1f}" for name in ("AP", "APr")
               if (value := state.evaluation.get(f"segm_{name}")) is not None]
    if figures:
        lines.append(f"mask {', '.join(figures)}")
    if state.next:
        lines.append(f"next: {state.next}")
    lines.append(f"{run.path} (from {socket.gethostname()})")
    return Notice(name, event, f"ecm-cluster: {printable(run.name)} {words}", "\n".join(map(printable, lines)))
