"""The append-only record of what happened, one file per writer.

Appends from several hosts to one file are not atomic on NFS, so each writer (a rank's supervisor, the trainer, a
verb on the login node) has a file of its own: ``<attempt>-<writer>.jsonl``. The order of events is
(attempt, writer, position in the file); the time is for display only, as clocks of nodes differ. A line torn by a kill
is skipped.

Once an attempt is closed, :func:`fold` copies its files into one cumulative file, so that reading all events costs
as many files as the open attempts have, and one. A file is removed one fold after the one that took it in, and only if
it has not grown since: a reader that has just listed the folder finds each line in the one place or the other, and so
does a stale writer's late line, which lands in a file that is still read, or in a new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import files

SUBMISSION = 0  # the attempt number of what happens before the first attempt
OWN = re.compile(r"(\d+)-(.+)\.jsonl")  # a writer's file
FOLDED = re.compile(r"folded-(\d+)\.jsonl")  # everything up to an attempt
READERS = 16  # files that are read at a time: each costs round trips to the file server
TRIES = 3


@dataclass(frozen=True)
class Event:
    """One line of the ledger.

    Attributes:
        attempt: Number of the attempt, 0 for the submission.
        writer: Who wrote it, e.g. ``task000`` or ``submit``.
        sequence: Position among this writer's events of this attempt, from 1; of one just written, among this
            process's.
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
        patient: What cannot be written (the disk is full, the server restarts) waits for the next event, and is no
            error: for processes that a training depends on.
    """

    def __init__(self, folder: Path, attempt: int, writer: str, patient: bool = False) -> None:
        self.path = folder / _name(attempt, writer)
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
        """Write what still waits.

        Raises:
            OSError: It still cannot be written.
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
        """False where the file was folded away meanwhile: a new one takes the lines."""
        whole, self._whole = self._whole, False
        with files.naming(self.path), open(self.path, "ab") as handle:
            # a former process of this name may have died within a line: its rest must not swallow ours
            handle.write((b"" if whole or handle.tell() == 0 else b"\n") + lines)
            handle.flush()
            os.fsync(handle.fileno())
            self._whole = os.fstat(handle.fileno()).st_nlink > 0
        return self._whole


def read(folder: Path, attempt: int | None = None, writer: str | None = None) -> list[Event]:
    """Events under ``folder``, in the order (attempt, writer, position).

    Args:
        attempt, writer: Only this attempt's, only this writer's.
    """
    found = _lines(folder, attempt, writer)
    return [event for name in sorted(found, key=_origin) for event in _parse(name, found[name])]


def fold(folder: Path, attempt: int) -> None:
    """Take the files of all attempts up to ``attempt``, which are closed, into the cumulative file.

    Any process may do this at any time, again, or beside another one that does it.
    """
    names = os.listdir(folder)
    newest = _newest_folded(names)
    if newest is not None and newest[0] > attempt:
        return  # this caller is stale
    known = _read_folded(folder / newest[1]) if newest else {}
    own = [name for name in names if (found := OWN.fullmatch(name)) and int(found[1]) <= attempt]
    contents = _contents(folder, own)
    merged = {**known, **{name: _merged(known.get(name, []), content) for name, content in contents.items()}}
    target = folder / f"folded-{attempt:04d}.jsonl"
    if merged != known or (newest and newest[1] != target.name):
        with files.replacing(target) as handle:
            for name in sorted(merged, key=_origin):
                head = json.dumps({"file": name, "lines": len(merged[name])}).encode()
                handle.write(b"".join(line + b"\n" for line in [head, *merged[name]]))
    # the one before stays, for readers who have listed the folder a moment ago
    for name in sorted(name for name in names if FOLDED.fullmatch(name) and name != target.name)[:-1]:
        (folder / name).unlink(missing_ok=True)
    for name in contents:
        with contextlib.suppress(FileNotFoundError):
            if known.get(name) == merged[name] and _read_file(folder / name) == contents[name]:
                (folder / name).unlink()


def _name(attempt: int, writer: str) -> str:
    return f"{attempt:04d}-{writer}.jsonl"


def _origin(name: str) -> tuple[int, str]:
    found = OWN.fullmatch(name)
    assert found is not None, name
    return int(found[1]), found[2]


def _newest_folded(names: Iterable[str]) -> tuple[int, str] | None:
    return max(((int(found[1]), name) for name in names if (found := FOLDED.fullmatch(name))), default=None)


def _lines(folder: Path, attempt: int | None, writer: str | None) -> dict[str, list[bytes]]:
    """The lines of each writer's file, wherever they are now."""
    def wanted(name: str) -> bool:
        of, who = _origin(name)
        return attempt in (None, of) and writer in (None, who)

    for last in [False] * (TRIES - 1) + [True]:
        try:
            names = os.listdir(folder)
            newest = _newest_folded(names)
            contents = _contents(folder, [name for name in names if OWN.fullmatch(name) and wanted(name)])
            needed = newest is not None and (attempt is None or attempt <= newest[0])
            known = _read_folded(folder / newest[1]) if newest and needed else {}
        except (FileNotFoundError, NotADirectoryError):
            if not folder.is_dir():
                return {}
            if last:
                raise
            continue  # the cumulative file was replaced by the next one
        found = {name: lines for name, lines in known.items() if wanted(name)}
        return {**found, **{name: _merged(found.get(name, []), content) for name, content in contents.items()}}
    raise AssertionError


def _merged(lines: list[bytes], content: bytes) -> list[bytes]:
    return list(dict.fromkeys([*lines, *filter(None, content.split(b"\n"))]))


def _read_folded(path: Path) -> dict[str, list[bytes]]:
    rows, at, found = _read_file(path).split(b"\n"), 0, {}
    while rows[at]:
        head = json.loads(rows[at])
        end = at + 1 + head["lines"]
        found[head["file"]], at = rows[at + 1:end], end
    return found


def _contents(folder: Path, names: list[str]) -> dict[str, bytes]:
    """The content of each file that is still there."""
    def read_one(name: str) -> bytes | None:
        try:
            return _read_file(folder / name)
        except FileNotFoundError:
            return None

    if len(names) < READERS:
        found: Iterable[bytes | None] = map(read_one, names)
    else:
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(read_one, names))
    return {name: content for name, content in zip(names, found) if content is not None}


def _read_file(path: Path) -> bytes:
    for _ in range(TRIES - 1):
        try:
            return path.read_bytes()
        except OSError as error:
            if error.errno != errno.ESTALE:  # replaced on another node: opened again it is the new one
                raise
    return path.read_bytes()


def _parse(name: str, lines: Iterable[bytes]) -> list[Event]:
    attempt, writer = _origin(name)
    events: list[Event] = []
    for line in lines:
        try:
            record = json.loads(line)
            kind, stamp = record.pop("kind"), record.pop("time")
            record.pop("sequence", None)
        except (ValueError, KeyError, AttributeError, TypeError):
            continue  # torn by a kill
        events.append(Event(attempt, writer, len(events) + 1, kind, stamp, record))
    return events


def _suppressed(asked: bool) -> contextlib.AbstractContextManager[None]:
    return contextlib.suppress(OSError) if asked else contextlib.nullcontext()
