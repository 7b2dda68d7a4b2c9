"""Starts of a job that could not work, on record beside the attempts; and the nodes that a run leaves out for it.

The batch shell records each start (``batch_shell.py``), a ``not-started`` event why one began no attempt.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import files, fileserver
from ..base.reading import Unreadable, check, parse_json, read_bytes, read_text
from ..rundir import records as shapes
from ..rundir.ledger import Event
from ..rundir.run import Run, Work

# Nodes that a run leaves out because it could not start there, or because their GPUs failed; then it stops.
NODE_LIMIT = 3
# Failures of GPUs on one node after which the node is left out.
GPU_FAILURES_OF_A_NODE = 2
LARGEST = 1 << 20  # bytes of what a start has put on record
RESTART = re.compile("[0-9]{1,9}")


@dataclass(frozen=True)
class Start:
    """One start of a job as its batch shell recorded it; of the local driver: its one start.

    Attributes:
        notes: What the shell wrote, by kind: ``begin``, ``end``, ``no-python``, and ``left`` as its last; the local
            driver writes ``begin`` and ``left`` for each job that it starts.
    """

    job_id: str
    restart: int
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return next((note["host"] for note in self.notes.values()), "")

    @property
    def on_one_node(self) -> bool:
        """Whether the job had this one node."""
        return all(note["nodes"] == note["host"] for note in self.notes.values())

    @property
    def broken(self) -> bool:
        return "no-python" in self.notes

    def failure(self, run: Run) -> tuple[str, str] | None:
        """Cause and detail where the shell itself saw why the start could not work."""
        python, end = self.notes.get("no-python"), self.notes.get("end", {})
        if end.get("phase") == "setup" and (end["code"] or end.get("line")):
            lines = "\n".join(run.job(end["stage"] if end["stage"] != "chain" else "train").setup).split("\n")
            line = end.get("line", 0)
            text = f" `{lines[line - 1].strip()}`" if 0 < line <= len(lines) else ""
            failed = f"setup line {line}{text} failed" if line else "a setup line ended the shell"
            return "setup failed", f"{self.host}: {failed} with exit code {end['code']}"
        if python is not None:
            return "start failed", f"{self.host}: Python could not run there (exit code {python['code']})"
        return None


def on_record(run: Run, job_id: str) -> dict[int, Start]:
    """The starts of a job that its batch shells have recorded, by restart count."""
    return {restart: _start(run, job, restart) for job, restart in all_on_record(run) if job == job_id}


def newest(run: Run, job_id: str) -> Start | None:
    """The newest start of a job that its batch shells have recorded."""
    restarts = [restart for job, restart in all_on_record(run) if job == job_id]
    return _start(run, job_id, max(restarts)) if restarts else None


def _start(run: Run, job_id: str, restart: int) -> Start:
    return Start(job_id, restart, {note["kind"]: note for note in notes_on(run, job_id, restart)})


def all_on_record(run: Run) -> list[tuple[str, int]]:
    """Job and restart count of each start on record."""
    names = (name for name in fileserver.names_in(run.starts_dir) if name.endswith(".json"))
    stems = [name[:-len(".json")].rpartition(".") for name in names]
    return [(job, int(restart)) for job, _, restart in stems if RESTART.fullmatch(restart)]


def put_on_record(run: Run, job_id: str, kind: str, **fields: Any) -> None:
    """A note on the one start of a job of this machine, which no batch shell accompanies; a full disk takes none."""
    path = run.starts_dir / f"{job_id}.0.json"
    with contextlib.suppress(OSError, Unreadable):
        run.starts_dir.mkdir(exist_ok=True)
        before = read_text(path, LARGEST) if path.exists() else ""  # process ids come back
        files.write_text(path, before + json.dumps({"kind": kind, "host": socket.gethostname(), **fields}) + "\n")


def records(run: Run, job_id: str) -> bool:
    """Whether the job's script records its starts: that of version 0.1 does not."""
    try:
        return b"ecm_start=" in read_bytes(run.submitit_dir / f"{job_id}_submission.sh")
    except (OSError, Unreadable):
        return False


def notes_on(run: Run, job_id: str, restart: int) -> list[dict[str, Any]]:
    """What is on record about one start, as it was written."""
    path = run.starts_dir / f"{job_id}.{restart}.json"
    return fileserver.once(("notes", path), lambda: _notes(run, path))


def _notes(run: Run, path: Path) -> list[dict[str, Any]]:
    notes = []
    try:
        lines = read_bytes(path, LARGEST).decode(errors="replace").splitlines()
    except Unreadable as error:
        run.note(error)
        return []
    for line in lines:
        with contextlib.suppress(Unreadable):  # torn by a kill
            note = check(parse_json(line, path), shapes.START_NOTE, path)
            notes.append({"host": "", "nodes": "", "stage": "train", "code": 0, **note})
    return notes


def _seen_by_the_shell(run: Run, events: list[Event]) -> Event | None:
    """What the batch shell alone has recorded of the newest start of the training, as a ``not-started`` event.

    Where Python cannot run, nobody else can.
    """
    job = next((s for s in run.submissions() if s.link == "train" and s.job_id), None)
    start = newest(run, job.job_id) if job and job.job_id else None
    if not job or not start:
        return None
    attempt = run.newest_attempt()
    identity, failure = f"{job.cluster}:{start.job_id}:{start.restart}", start.failure(run)
    recorded = {e["start"] for e in events if e.kind == "not-started"}
    if failure is None or identity in recorded or (attempt and start_of(run.read_attempt(attempt)) == identity):
        return None
    return Event(attempt, "shell", 0, "not-started", 0.0, {
        "cause": failure[0], "detail": failure[1], "rank": None, "node": start.host, "of_node": start.on_one_node,
        "start": identity, "cluster": job.cluster, "resumes": resumes_of(events)})


def failed(work: Work, events: list[Event]) -> Event | None:
    """What kept the newest start from working, if a rank could not take part in an attempt: a ``not-started`` event.

    Rank 0 may have taken an attempt before another rank found that it cannot start: then it is that attempt's end.
    """
    newest = work.newest_attempt()
    start = start_of(work.read_attempt(newest)) if newest else ""
    found = [e for e in events if e.kind == "not-started" and (e.attempt == newest or e["start"] == start)]
    seen = _seen_by_the_shell(work, events) if isinstance(work, Run) else None
    return seen or max(found, key=_order, default=None)


def _order(event: Event) -> tuple[int, int, int, int]:
    """Starts in the order in which Slurm made them, by its own numbers, and of one start the lowest rank last."""
    job, _, restart = event["start"].partition(":")[2].rpartition(":")
    number = job.partition("_")[0]
    return event["resumes"], int(number) if number.isdigit() else 0, int(restart or 0), -(event.get("rank") or 0)


def in_a_row(work: Work, events: list[Event], cause: str | None = None) -> list[Event]:
    """The newest starts that began no attempt, one event for each: those since the newest attempt and resume.

    Args:
        cause: Of those that count, the newest included; None: all.
    """
    newest, resumes = work.newest_attempt(), resumes_of(events)
    found = {e["start"]: e for e in sorted((e for e in events if e.kind == "not-started"), key=_order)
             if e.attempt == newest and e["resumes"] == resumes}
    return [e for e in found.values() if cause in (None, e["cause"])]


def start_of(record: Mapping[str, Any]) -> str:
    """The start of a job that an attempt belongs to, from the attempt's file."""
    return str(record.get("identity", "")).rpartition(":")[0]


def nodes_at_fault(events: list[Event], start: str) -> dict[str, str]:
    """Nodes that a run should leave out from now on, each with the reason.

    Args:
        start: Identity of the start of the job that has just ended.
    """
    found = {e["node"]: e["detail"] for e in events
             if e.kind == "not-started" and e["of_node"] and e["start"] == start}
    since = counted_from(events)
    failures = [e for e in events if e.kind == "end" and e["cause"] == "GPU failure" and e.attempt > since]
    for node in dict.fromkeys(e["node"] for e in failures if e.get("node")):
        times = len({e.attempt for e in failures if e.get("node") == node})
        if times >= GPU_FAILURES_OF_A_NODE:
            found.setdefault(node, f"its GPUs failed {times} times")
    return found


def left_out(events: list[Event]) -> list[str]:
    """Nodes that a run leaves out, in the order in which they came on record; a resume gives them another chance."""
    resumes = resumes_of(events)
    return list(dict.fromkeys(e["node"] for e in events if e.kind == "left-out" and e["resumes"] == resumes))


def resumes_of(events: list[Event]) -> int:
    """How often the user has resumed the run."""
    return sum(e.kind == "resumed" for e in events)


def counted_from(events: list[Event]) -> int:
    """The failure budget was reset after this attempt, as the user resumed the run."""
    return max((e.attempt for e in events if e.kind == "resumed"), default=0)
