"""The append-only record of what happened, one file per writer.

Appends from several hosts to one file are not atomic on NFS, so each writer (a rank's supervisor, the trainer, a
verb on the login node) has its own file, ``<attempt>-<writer>.jsonl``. Events are ordered by (attempt, writer, position
in the file); the time is for display only, as the clocks of nodes differ. A line truncated by a kill is skipped.

Once an attempt is closed, :func:`fold` copies its files into one cumulative file, so that reading all events takes only
that file and those of the open attempts. A file is removed one fold after the one that copied it, and only if it has
not grown since. So a reader that has just listed the directory finds each line in one place or the other, and a late
line of a stale writer goes to a file that is still read, or to a new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import files
from ..base.reading import Unreadable, check
from .ledger_files import (
    FOLDED,
    OWN,
    ReadBudget,
    contents_of,
    lines_of,
    name_of,
    newest_folded,
    origin,
    parsed,
    read_folded,
    union,
)
from .records import EVENTS, TIME

SUBMISSION = 0  # the attempt number of what happens before the first attempt
ANY = {"kind": str, "time": TIME}
NOT_FIELDS = ("kind", "time", "sequence", "attempt", "writer", "work")
LONGEST_LINE = 1 << 20  # bytes: the longest event holds a traceback, of which 8000 characters are kept
TRIES = 3  # of a write whose file another host's fold removes: then NFS answers ESTALE, or the link is gone


@dataclass(frozen=True)
class Event:
    """One line of the ledger.

    Attributes:
        attempt: Number of the attempt; 0 for the submission.
        writer: Name of the writer, e.g. ``task000`` or ``submit``.
        sequence: Position among this writer's events of this attempt, from 1; for an event just written, among those of
            this process.
        kind: What happened, e.g. ``commit`` or ``end``.
        time: Seconds since the epoch, by the writer's clock.
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
    """The file of one writer.

    Args:
        folder: The ledger directory of a run or of an evaluation.
        attempt: The attempt that this writer belongs to.
        writer: A name that no other process of this attempt uses.
        patient: An event that cannot be written (full disk, file server restarting) is not an error, but is kept and
            written with the next one: for processes that the training depends on.
    """

    def __init__(self, folder: Path, attempt: int, writer: str, patient: bool = False) -> None:
        self.path = folder / name_of(attempt, writer)
        self.attempt, self.writer, self.patient = attempt, writer, patient
        self._waiting: list[bytes] = []
        self._count, self._whole = 0, False
        with _suppressed(patient):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, kind: str, **fields: Any) -> Event:
        """Append one event, durable when this returns; see ``patient``."""
        self._count += 1
        event = Event(self.attempt, self.writer, self._count, kind, time.time(), fields)
        line = {"sequence": event.sequence, "kind": kind, "time": round(event.time, 6), **fields}
        self._waiting.append(json.dumps(line).encode() + b"\n")
        try:
            self.retry()
        except OSError as error:
            if not self.patient:
                self._waiting.pop()
                raise
            if len(self._waiting) == 1:
                with contextlib.suppress(OSError):  # stderr may be a file on the same disk
                    print(f"warning: {kind}: not in the ledger yet ({error.strerror})", file=sys.stderr)
        return event

    def retry(self) -> None:
        """Write the events that could not be written yet.

        Raises:
            OSError: They still cannot be written.
        """
        for last in [False] * (TRIES - 1) + [True]:
            try:
                if not self._waiting or self._append(b"".join(self._waiting)):
                    self._waiting.clear()
                    return
            except OSError as error:
                if error.errno != errno.ESTALE or last:
                    raise
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self.path))

    def _append(self, lines: bytes) -> bool:
        """False if the file was removed by a fold in the meantime: the lines must go to a new one."""
        whole, self._whole = self._whole, False
        with files.naming(self.path), open(self.path, "ab") as handle:
            # an earlier process of this name may have been killed within a line: start a new one
            handle.write((b"" if whole or handle.tell() == 0 else b"\n") + lines)
            handle.flush()
            os.fsync(handle.fileno())
            # looked at after the fsync: a fold that removed the file before has not copied these lines
            self._whole = os.fstat(handle.fileno()).st_nlink > 0
        return self._whole


def read(folder: Path, attempt: int | None = None, writer: str | None = None,
         note: Callable[[object], None] | None = None) -> list[Event]:
    """Events under ``folder``, in the order (attempt, writer, position).

    Invalid and truncated lines are skipped, as is anything that is not a regular file.

    Args:
        attempt: Only events of this attempt.
        writer: Only events of this writer.
        note: Called with each thing that was skipped; if given, files that cannot be read are skipped, too.

    Raises:
        Unreadable: There is more than a run could have written.
        OSError: The storage failed.
    """
    skipped: list[object] = []
    unfit: list[object] = []
    found = lines_of(folder, attempt, writer, skipped, note is not None)
    events = [event for name in sorted(found, key=origin) for event in _parse(folder / name, found[name], unfit)]
    if unfit:
        several = f" ({len(unfit)} lines skipped)" if len(unfit) > 1 else " (skipped)"
        skipped.append(f"{unfit[0]}{several}")
    if note is not None:
        for what in skipped:
            note(what)
    return events


def fold(folder: Path, attempt: int) -> None:
    """Copy the files of all attempts up to ``attempt``, which are closed, into the cumulative file.

    Any process may do this at any time, repeatedly, and concurrently with others.
    """
    names = os.listdir(folder)
    newest = newest_folded(names)
    if newest is not None and newest[0] > attempt:
        return  # the caller is stale
    budget, known = ReadBudget(folder), {}
    if newest:
        known = read_folded(folder / newest[1], budget, [])
    own = [name for name in names if (found := OWN.fullmatch(name)) and int(found[1]) <= attempt]
    contents = contents_of(folder, own, budget, [], False)
    merged = {**known, **{name: union(known.get(name, []), content) for name, content in contents.items()}}
    target = folder / f"folded-{attempt:04d}.jsonl"
    if merged != known or (newest and newest[1] != target.name):
        with files.replacing(target) as handle:
            for name in sorted(merged, key=origin):
                head = json.dumps({"file": name, "lines": len(merged[name])}).encode()
                handle.write(b"".join(line + b"\n" for line in [head, *merged[name]]))
    # the previous one stays, for readers that have just listed the directory
    for name in sorted(name for name in names if FOLDED.fullmatch(name) and name != target.name)[:-1]:
        (folder / name).unlink(missing_ok=True)
    for name in contents:
        with contextlib.suppress(FileNotFoundError):
            if known.get(name) == merged[name] and budget.read(folder / name) == contents[name]:
                (folder / name).unlink()


def _parse(path: Path, lines: Iterable[bytes], unfit: list[object]) -> list[Event]:
    attempt, writer = origin(path.name)
    events: list[Event] = []
    for line in lines:
        record = parsed(line) if len(line) < LONGEST_LINE else None
        if record is None:
            continue  # truncated by a kill
        try:
            kind = _checked_kind(record, path)
        except Unreadable as error:
            unfit.append(error)
            continue
        stamp = record.pop("time")
        for name in NOT_FIELDS:
            record.pop(name, None)
        events.append(Event(attempt, writer, len(events) + 1, kind, stamp, record))
    return events


def _checked_kind(record: dict[str, Any], path: Path) -> str:
    """The kind of an event, if the event has the fields that readers require.

    Raises:
        Unreadable: It does not.
    """
    check(record, ANY, path)
    kind = record["kind"]
    if kind in EVENTS:
        check(record, EVENTS[kind], path, kind)
    return kind


def _suppressed(patient: bool) -> contextlib.AbstractContextManager[None]:
    return contextlib.suppress(OSError) if patient else contextlib.nullcontext()
