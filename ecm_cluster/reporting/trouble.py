"""What is wrong with a run, as warnings behind its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..attempts import endings
from ..attempts.endings import failing_text
from ..base.units import duration_text
from ..chain import evaluations
from ..job import eval_settings
from ..rundir.ledger import Event
from ..rundir.run import Run, Work

UNHEARD_SECONDS = 120.0  # without a heartbeat of a job that runs, after which that is said


def of_waiting(work: Work) -> str:
    """Warnings: it does not come to a checkpoint between its interruptions, or it cannot commit one."""
    return _warnings(failing_commits(work), endings.interruptions(work))


def of_evaluations(unscored: Mapping[Run, Sequence[evaluations.Element]]) -> list[str]:
    """Why nothing scores these elements any more, and what to read: a line for each."""
    lines = []
    for run, elements in unscored.items():
        for element, work in zip(elements, evaluations.works(run, elements)):
            said = f"{run.name}: {element.at} ({eval_settings.label(element.settings)}) is not scored"
            if work is None:
                lines.append(f"{said}: there is no such checkpoint")
                continue
            end = endings.newest_end(work)
            reason = (end.get("detail") or endings.ending(end).text) if end else \
                "its job ended before it began, or without a reason on record"
            log = work.rank_log((end.get("rank") if end else 0) or 0)
            read = log if log.exists() else run.local_log if run.local_log.exists() else run.submitit_dir
            lines.append(f"{said}: {reason}; see {read}")
    return lines


def of_running(work: Work) -> str:
    """The same, and that nothing is heard of it."""
    silence = work.seconds_since_heartbeat(work.newest_attempt())
    unheard = f"no heartbeat for {duration_text(silence)}" if silence and silence > UNHEARD_SECONDS else ""
    return of_waiting(work) + _warnings(unheard)


def declared(work: Work, besides: str = "") -> str:
    """What the training itself warned of, since the start whose checkpoints count last: the newest of each kind.

    Args:
        besides: What is said already.
    """
    events = work.events()
    since = max((e.attempt for e in events if e.kind == "commit"), default=0)
    newest = {e["about"]: e["text"] for e in events if e.kind == "warning" and e.attempt >= since}
    return _warnings(*(text for text in newest.values() if text not in besides))


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
