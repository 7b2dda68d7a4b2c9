"""What of a run waits or runs, as far as can be told from here: asked before anything is resumed or cancelled."""

from __future__ import annotations

import socket
import time

from . import chain, cluster, driver, recovery
from .reporting import state as states
from .run import Run

SILENT = 60.0  # seconds without a heartbeat after which an attempt on another machine counts as gone


def on_slurm(run: Run) -> dict[str, str] | None:
    """The jobs of a run that wait or run, former ones included; those whose submitter died are found first.

    Returns:
        Slurm's words by job id, in the order of the chain; None where Slurm does not answer.
    """
    chain.adopt(run)
    ids = chain.chain_ids(run)
    known = cluster.query(ids) if ids else {}
    if known is None:
        return None
    found = {job_id: states.liveness(run, job_id, "slurm", known) for job_id in ids}
    return {job_id: text for job_id, (alive, text) in found.items() if alive in ("waiting", "live")}


def on_this_machine(run: Run) -> dict[str, str]:
    """The driver, or ranks that have outlived theirs, by pid; an attempt on another machine by its heartbeat."""
    pid = driver.find(run)
    if pid is not None:
        return {pid: f"local driver {pid}"}
    ranks = {rank: f"process {rank}, which commits and ends" for rank in driver.ranks(run)}
    number = run.newest_attempt()
    beat = run.heartbeat(number) if number else None
    if not ranks and beat and time.time() - beat["time"] < SILENT:
        host = run.read_attempt(number)["host"]
        if host != socket.gethostname() and recovery.last_end(run.events(), number) is None:
            return {host: f"attempt {number} on {host}"}
    return ranks


def last_sign(run: Run) -> str:
    """How old the newest heartbeat is, in brackets; empty where there was none."""
    beat = run.heartbeat(run.newest_attempt()) if run.newest_attempt() else None
    return f" (its last sign of life is {time.time() - beat['time']:.0f} s old)" if beat else ""
