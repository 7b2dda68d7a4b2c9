"""The append-only record of what happened, one file per writer.

Appends from several hosts to one file are not atomic on NFS, so each writer (a rank's supervisor, the trainer, a
verb on the login node) has a file of its own: ``<attempt>-<writer>.jsonl``. The order of events is
(attempt, writer, sequence); the time is for display only, as clocks of nodes differ. A line torn by a kill is
passed over.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUBMISSION = 0  # the attempt number of what happens before the first attempt


@dataclass(frozen=True)
class Event:
    """One line of the ledger.

    Attributes:
        attempt: Number of the attempt, 0 for the submission.
        writer: Who wrote it, e.g. ``task000`` or ``submit``.
        sequence: Position among this writer's events of this attempt, from 1.
        kind: What happened, e.g. ``commit`` or ``end``.
        time: Seconds since the epoch on the writer's clock.
        fields: Everything else.
    """

    attempt: int
    writer: str
    sequence: int
    kind: str
    time: float
    fields: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)


class Ledger:
    """One writer's file.

    Args:
        folder: The ledger folder of a run or of an evaluation.
        attempt: The attempt that this writer belongs to.
        writer: A name that no other process of this attempt uses.
    """

    def __init__(self, folder: Path, attempt: int, writer: str) -> None:
        self.attempt, self.writer = attempt, writer
        self.path = folder / f"{attempt:04d}-{writer}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._sequence = max((e.sequence for e in _read_file(self.path)), default=0)

    def write(self, kind: str, **fields: Any) -> Event:
        """Append one event, durable when this returns."""
        self._sequence += 1
        event = Event(self.attempt, self.writer, self._sequence, kind, time.time(), fields)
        line = json.dumps({"sequence": event.sequence, "kind": kind, "time": round(event.time, 6), **fields})
        with open(self.path, "ab") as handle:
            # a former process of this name may have died within a line: its rest must not swallow ours
            torn = handle.tell() > 0 and not self._ends_with_newline()
            handle.write(("\n" if torn else "").encode() + line.encode() + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        return event

    def _ends_with_newline(self) -> bool:
        with open(self.path, "rb") as handle:
            handle.seek(-1, os.SEEK_END)
            return handle.read(1) == b"\n"


def read(folder: Path) -> list[Event]:
    """All events under ``folder``, in the order (attempt, writer, sequence)."""
    events = [event for path in sorted(folder.glob("[0-9]*-*.jsonl"))
              if path.name.partition("-")[0].isdigit() for event in _read_file(path)]
    return sorted(events, key=lambda e: (e.attempt, e.writer, e.sequence))


def _read_file(path: Path) -> list[Event]:
    attempt, _, writer = path.stem.partition("-")
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    events = []
    for line in lines:
        try:
            record = json.loads(line)
            sequence, kind, stamp = record.pop("sequence"), record.pop("kind"), record.pop("time")
        except (ValueError, KeyError, AttributeError, TypeError):
            continue  # empty, or torn by a kill
        events.append(Event(int(attempt), writer, sequence, kind, stamp, record))
    return events
