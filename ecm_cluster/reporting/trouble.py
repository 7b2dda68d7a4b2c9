"""What is wrong with a run, as warnings behind its state."""

from __future__ import annotations

from .. import recovery
from ..ledger import Event
from ..recovery import failing_text
from ..run import Work
from ..values import duration_text

UNHEARD_SECONDS = 120.0  # without a heartbeat of a job that runs, after which that is said


def of_waiting(work: Work) -> str:
    """Warnings: it does not come to a checkpoint between its interruptions, or it cannot commit one."""
    return _warnings(failing_commits(work), recovery.interruptions(work))


def of_running(work: Work) -> str:
    """The same, and that nothing is heard of it."""
    silence = work.silence(work.newest_attempt())
    unheard = f"no heartbeat for {duration_text(silence)}" if silence and silence > UNHEARD_SECONDS else ""
    return of_waiting(work) + _warnings(unheard)


def declared(work: Work) -> str:
    """What the training itself warned of, since the start whose checkpoints count last: the newest of each kind."""
    events = work.events()
    since = max((e.attempt for e in events if e.kind == "commit"), default=0)
    newest = {e["about"]: e["text"] for e in events if e.kind == "warning" and e.attempt >= since}
    return _warnings(*newest.values())


def _warnings(*told: str | None) -> str:
    return "".join(f"; warning: {each}" for each in told if each)


def failing_commits(work: Work) -> str:
    """In words: that the newest attempt cannot commit, by its heartbeat, else by the ledger; empty where it can."""
    newest = work.newest_attempt()
    beat = work.heartbeat(newest) or {}
    if "commits_fail" in beat:
        return failing_text(beat["commits_fail"])
    failed: list[Event] = []
    for event in work.events(newest, "train000"):
        failed = [*failed, event] if event.kind == "commit-failed" else [] if event.kind == "commit" else failed
    if not failed:
        return ""
    # times of one process, whose clock may be any
    return (f"commits have failed for {duration_text(failed[-1].time - failed[0].time)} ({failed[-1]['reason']}); "
            f"{failed[-1]['stands']}")
