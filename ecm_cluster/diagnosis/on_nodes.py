"""What the doctor learns from the nodes, or from this machine in their place; none of it is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..backends import choose
from ..base import files, processes
from ..freeze import snapshot, weights
from ..rundir.run import Run
from ..slurm.sbatch import python_of
from . import requirements, sharing
from .asked import Asked
from .finding import Finding, fails, not_asked
from .visiting import LOG, MINUTES, Visit, last_line


def visit(asked: Asked, patience: float) -> Iterator[Finding]:
    """The findings of the nodes; folders and job are gone afterwards, also where the user ends it.

    Args:
        patience: Minutes that the job may wait in the queue.
    """
    with _laid_out(asked) as (token, own, faults):
        yield from faults
        if own is not None:
            visited = Visit(asked, own, token, patience)
            _prepare(visited)
            yield from visited.findings() if choose.by_name(asked.where).queues else _here(visited)


def _here(visited: Visit) -> Iterator[Finding]:
    """The findings of this machine, in the job's interpreter, where a run needs no other."""
    asked, own = visited.asked, visited.own
    python, log = python_of(asked.job), own / LOG
    command = processes.command(python, "probe", own)
    with choose.by_name(asked.where).short_job(Run(own), asked.job, command, log, MINUTES) as job, \
            contextlib.suppress(subprocess.TimeoutExpired):
        job.process.wait(60 * MINUTES)
    found = list(visited.read("alone"))
    if not found:
        yield fails("node.job", f"{python}: {last_line([log])}", "fix the job's `setup` and `env`, or give another "
                    "--python")
    yield from (dataclasses.replace(one, nodes=()) for one in found)


@contextlib.contextmanager
def _laid_out(asked: Asked) -> Iterator[tuple[str, Path | None, list[Finding]]]:
    """A token, the marks in the runs folder (None where that cannot be), and what went wrong; see :mod:`.sharing`."""
    token, faults, own = secrets.token_hex(6), [], None
    with _ended_by_signals(), contextlib.ExitStack() as stack:
        for name, path in asked.folders().items():
            try:
                made = stack.enter_context(sharing.laid_out(path, token))
            except OSError as error:
                faults.append(not_asked(f"node.folder.{name}", f"{path}: {error.strerror}"))
            else:
                own = made if name == "runs" else own
        yield token, own, faults


def _prepare(visited: Visit) -> None:
    """The code that the nodes import, and what they are asked."""
    asked, token = visited.asked, visited.token
    snapshot.freeze(Run(visited.own).code_folder(1), snapshot.own_packages(), [])
    folders = {name: str(path) for name, path in asked.folders().items() if sharing.marks(path, token).exists()}
    present = [weight.path for weight in weights.find(asked.cfg or {"model": {}}) if weight.present]
    files.write_json(visited.own / "asked.json", {
        "token": token, "folders": folders, "job": visited.job.as_record(), "requirements": requirements.lines(),
        "data": _sizes(asked.data_files()), "weights": _sizes(present)})


def _sizes(paths: list[Path]) -> list[list[Any]]:
    return [[str(path), path.stat().st_size] for path in paths if path.exists()]


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the visit as Ctrl-C does: the job is cancelled and the folders are removed."""
    def end(number: int, _: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
