"""Ends that a worker could not record itself: the dead cannot write, so its supervisor or the next start does it."""

from __future__ import annotations

import json
import signal
import socket
from typing import Any

from ...attempts import causes, endings, failures, slurm_ends
from ...base import files
from ...base.reading import Maybe, OptionalKey, Unreadable
from ...rundir import ledger
from ...rundir.run import Work
from ...slurm import commands
from ..world import RankInfo, node_name

ABORT = {OptionalKey("rank"): Maybe(int), OptionalKey("cause"): Maybe(str), OptionalKey("stopped"): bool}


def record_exit(work: Work, place: RankInfo, attempt: int, record: ledger.Ledger, code: int, log_begin: int,
                starved: bool) -> None:
    """Record that a rank's worker failed, unless the worker has done so.

    Args:
        code: Its exit code, negative for a signal.
        log_begin: Size of its log when it was started.
        starved: Whether the kernel has killed something for lack of memory since then.
    """
    if _own_ends(work, place, attempt):
        return
    log = work.rank_log(place.rank)
    end = failures.of_exit(code, log, log_begin)
    how = end.pop("how")
    if starved and code == -signal.SIGKILL:
        end = {"cause": "out of memory"}
        how = "killed by the kernel, as the job's memory is used up; request more with --mem-per-gpu"
    see = f"; see {log}" if code > 0 else ""
    record.write("end", **end, rank=place.rank, node=node_name(),
                 detail=f"rank {place.rank} on {socket.gethostname()}: {how}{see}")


def abort(work: Work, attempt: int, record: ledger.Ledger, **why: Any) -> None:
    """End an attempt for all its ranks. Of several that try one makes the file, and its rank's end is the first."""
    if files.create_exclusive(work.abort_file(attempt), json.dumps(why)):
        record.write("abort", **why)


def read_abort(work: Work, attempt: int) -> dict[str, Any] | None:
    """Why a rank has ended an attempt for all; empty where that is damaged, None where none has."""
    try:
        return files.read_json(work.abort_file(attempt), ABORT)
    except FileNotFoundError:
        return None
    except Unreadable:  # created atomically, so this is not a file half written
        return {}


def only_follows(work: Work, place: RankInfo, attempt: int, code: int, log_begin: int) -> bool:
    """Whether a rank's worker failed only because another rank has gone; see :func:`record_exit`."""
    if own := _own_ends(work, place, attempt):
        return bool(own[-1].get("follows"))
    return bool(failures.of_exit(code, work.rank_log(place.rank), log_begin).get("follows"))


def _own_ends(work: Work, place: RankInfo, attempt: int) -> list[ledger.Event]:
    """What this rank has recorded as the attempt's end."""
    return [e for e in work.events(attempt) if e.kind == "end" and e.get("rank") == place.rank]


def close_open(work: Work, place: RankInfo) -> None:
    """Record the end of the newest attempt if it has none, before the next one begins.

    Args:
        place: Of the task that starts now.
    """
    newest = work.newest_attempt()
    if not newest or endings.last_end(work.events(newest), newest) is not None:
        return
    record = work.read_attempt(newest)
    cause, detail = why(record, place)
    closer = work.ledger(newest, f"closer.{place.job_id}.{place.restart}", patient=True)
    closer.write("end", cause=cause, detail=detail, rank=None, found_by=place.identity)


def why(record: dict, place: RankInfo) -> tuple[str, str]:
    """Cause and evidence of the end of an attempt of which only its file is left."""
    job_id, restart = str(record.get("job_id")), int(record.get("restart") or 0)
    if record.get("cluster") != "slurm":
        return "lost", causes.CAUSES["lost"].text
    states = commands.past_states(job_id)
    state = states[restart] if len(states) > restart else ""
    again = job_id == place.job_id and place.restart > restart
    if state in slurm_ends.UNRECORDED:
        cause = slurm_ends.UNRECORDED[state]
        return cause, f"{causes.CAUSES[cause].text} (accounting says {state}); the attempt itself recorded no reason"
    if again:
        return "requeued", "Slurm restarted the job; the attempt itself recorded no reason"
    answer = commands.show_job(job_id) or {}
    state = answer.get("JobState", "")
    cause = slurm_ends.why_unrecorded(answer, restart)
    said = f"Slurm says {state} of job {job_id}" if state else f"Slurm has no record of job {job_id}"
    return cause, f"{causes.CAUSES[cause].text}; {said}"
