"""What is wrong with a run, as warnings after its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..attempts import endings
from ..attempts.endings import failing_text
from ..base.units import duration_text
from ..chain import evaluations
from ..job import eval_settings
from ..rundir.ledger import Event
from ..rundir.run import Run, Work

SILENT_SECONDS = 120.0  # without a heartbeat before a warning; it is written about every 10 s


def of_waiting(work: Work) -> str:
    """Warnings: the run is interrupted before it reaches a checkpoint, or it cannot commit one."""
    return _warnings(failing_commits(work), endings.interruptions(work))


def of_evaluations(unscored: Mapping[Run, Sequence[evaluations.Element]]) -> list[str]:
    """Why no job scores these elements any more, and which log to read; one line each."""
    lines = []
    for run, elements in unscored.items():
        for element, work in zip(elements, evaluations.works(run, elements)):
            prefix = f"{run.name}: {element.at} ({eval_settings.label(element.settings)}) is not scored"
            if work is None:
                lines.append(f"{prefix}: the checkpoint does not exist")
                continue
            end = endings.newest_end(work)
            reason = (end.get("detail") or endings.ending(end).text) if end else \
                "its job ended before it started, or without recording a reason"
            log = work.rank_log((end.get("rank") if end else 0) or 0)
            read = log if log.exists() else run.local_log if run.local_log.exists() else run.submitit_dir
            lines.append(f"{prefix}: {reason}; see {read}")
    return lines


def of_running(work: Work) -> str:
    """The same, and a missing heartbeat."""
    silence = work.seconds_since_heartbeat(work.newest_attempt())
    silent = f"no heartbeat for {duration_text(silence)}" if silence and silence > SILENT_SECONDS else ""
    return of_waiting(work) + _warnings(silent)


def declared(work: Work, besides: str = "") -> str:
    """New warnings of the training itself, since the attempt of the last commit; the newest of each kind."""
    events = work.events()
    since = max((e.attempt for e in events if e.kind == "commit"), default=0)
    warned = sorted((e for e in events if e.kind == "warning" and e.attempt >= since), key=lambda e: e.time)
    newest = {e["about"]: e["text"] for e in warned}  # an empty text withdraws a warning
    return _warnings(*(text for text in newest.values() if text not in besides))


def _warnings(*texts: str | None) -> str:
    return "".join(f"; warning: {each}" for each in texts if each)


def failing_commits(work: Work) -> str:
    """That the newest attempt cannot commit, from its heartbeat or else from the ledger; empty if it can."""
    newest = work.newest_attempt()
    heartbeat = work.heartbeat(newest) or {}
    if "commits_fail" in heartbeat:
        return failing_text(heartbeat["commits_fail"])
    failed: list[Event] = []
    for event in work.events(newest, "train000"):
        failed = [*failed, event] if event.kind == "commit-failed" else [] if event.kind == "commit" else failed
    if not failed:
        return ""
    # a difference within one process, so its clock may be wrong
    return (f"commits have failed for {duration_text(failed[-1].time - failed[0].time)} ({failed[-1]['reason']}); "
            f"{failed[-1]['stands']}")
