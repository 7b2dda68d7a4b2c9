"""How rank 0 takes the number of an attempt: only the job on record may, in its newest restart."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

from ...attempts import endings
from ...base import files
from ...chain import submissions
from ...rundir.run import Run, Work
from ..gpu import preflight
from ..world import RankInfo
from . import postmortem


class AttemptFailed(RuntimeError):
    """Ends the task with a non-zero code: an incomplete job must never look completed to Slurm."""


def create(work: Work, run: Run, place: RankInfo, link: str, mark: str,
           basis: Callable[[Any], dict[str, Any]]) -> int:
    """Take the next number.

    Args:
        mark: Identity of the start, in the attempt's file.
        basis: What the attempt starts from, as fields of its file; given its ledger.

    Raises:
        AttemptFailed: Nothing may begin.
    """
    work.attempts_dir.mkdir(parents=True, exist_ok=True)
    require_ownership(work, run, place, link)
    postmortem.close_open(work, place)
    if stop := endings.no_progress(work):
        preflight.refuse(work, run, place, stop)
    while True:
        number = work.newest_attempt() + 1
        ledger = work.ledger(number, "task000", patient=True)
        record = {"number": number, "identity": mark, "time": round(time.time(), 3), "host": socket.gethostname(),
                  "job_id": place.job_id, "cluster": place.cluster, "restart": place.restart, "token": place.token,
                  "nodes": place.nodes, "world_size": place.world_size, **basis(ledger)}
        # after the number was found: a start that comes later takes it, and then the link fails
        require_ownership(work, run, place, link)
        if files.create_exclusive(work.attempt_file(number), json.dumps(record, indent=1)):
            # the same again: who reads the ledger of many attempts need not open the file of each
            ledger.write("attempt", begin=record["time"], **{name: record.get(name) for name in (
                "identity", "host", "job_id", "restart", "world_size", "from")})
            return number


def require_ownership(work: Work, run: Run, place: RankInfo, link: str) -> None:
    """End a start that stood still while Slurm, or the user, has put another one in its place.

    Raises:
        AttemptFailed: It is stale. Nothing hangs on its exit: the job on record is another, or runs again already.
    """
    why = stale(work, run, place, link)
    if why:
        raise AttemptFailed(why)


def stale(work: Work, run: Run, place: RankInfo, link: str) -> str | None:
    """Why this start of a job must not take part in the run any more, if another one has its place."""
    newest = work.newest_attempt()
    record = work.read_attempt(newest) if newest else {}
    # an id is given away again after a reset of Slurm, a token never
    same = str(record.get("job_id")) == place.job_id and record.get("token", "") in ("", place.token)
    if same and int(record.get("restart") or 0) > place.restart:
        return (f"stale start: job {place.job_id} was restarted: restart {record['restart']} has begun attempt "
                f"{newest}, and this is restart {place.restart}")
    return submissions.stale(run, link, place.token, place.job_id)
