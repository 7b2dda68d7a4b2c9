"""An attempt that nobody has closed: the dead cannot write, so whoever starts next finds out how it ended."""

from __future__ import annotations

from .. import cluster, recovery
from ..run import Work
from .world import Place


def close_open(work: Work, place: Place) -> None:
    """Record the end of the newest attempt if it has none, before the next one begins.

    Args:
        place: Of the task that starts now.
    """
    newest = work.newest_attempt()
    if not newest or recovery.last_end(work.events(), newest) is not None:
        return
    record = work.read_attempt(newest)
    cause, detail = why(record, place)
    writer = f"closer.{place.job_id}.{place.restart}"
    work.ledger(newest, writer).write("end", cause=cause, detail=detail, rank=None, found_by=place.identity)


def why(record: dict, place: Place) -> tuple[str, str]:
    """Cause and evidence of the end of an attempt of which only its file is left."""
    job_id, restart = str(record.get("job_id")), int(record.get("restart") or 0)
    if record.get("cluster") != "slurm":
        return "lost", recovery.ENDINGS["lost"].text
    states = cluster.past_states(job_id)
    state = states[restart] if len(states) > restart else ""
    again = job_id == place.job_id and place.restart > restart
    cause = recovery.ACCOUNTED.get(state, "requeued" if again else "lost")
    if state in recovery.ACCOUNTED:
        return cause, f"{recovery.ENDINGS[cause].text} (accounting says {state}); the attempt ended without a word"
    if again:
        return cause, "Slurm restarted the job; the attempt ended without a word"
    answer = cluster.show_job(job_id)
    state = (answer or {}).get("JobState", "")
    cause = recovery.ACCOUNTED.get(state, "lost")
    said = f"Slurm says {state} of job {job_id}" if state else f"Slurm knows nothing of job {job_id}"
    return cause, f"{recovery.ENDINGS[cause].text}; {said}"
