"""The files of a ledger: each writer's own, and the cumulative one; read within limits, damaged or not."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..base.reading import DECODER, Unreadable, read_bytes
from .records import LASTING

OWN = re.compile(r"([0-9]{1,9})-(.+)\.jsonl")  # a writer's file
FOLDED = re.compile(r"folded-([0-9]{1,9})\.jsonl")  # everything up to an attempt
HEAD = b'{"file": '  # with which a line of the cumulative file begins that says whose lines follow; no event's does
OWN_BYTES, FOREIGN_BYTES = 1 << 30, 1 << 24  # of a ledger; a thousand ranks that start a thousand times write 500 MB
BLOCK = 4096  # that each file counts for besides its bytes
READERS = 16  # files that are read at a time: each costs round trips to the file server
TRIES = 3


def name_of(attempt: int, writer: str) -> str:
    return f"{attempt:04d}-{writer}.jsonl"


def origin(name: str) -> tuple[int, str]:
    found = OWN.fullmatch(name)
    assert found is not None, name
    return int(found[1]), found[2]


def newest_folded(names: Iterable[str]) -> tuple[int, str] | None:
    return max(((int(found[1]), name) for name in names if (found := FOLDED.fullmatch(name))), default=None)


def lines_of(folder: Path, attempt: int | None, writer: str | None, skipped: list[object],
             lenient: bool) -> dict[str, list[bytes]]:
    """The lines of each writer's file, wherever they are now."""
    def wanted(name: str) -> bool:
        of, who = origin(name)
        return attempt in (None, of) and writer in (None, who)

    for last in [False] * (TRIES - 1) + [True]:
        del skipped[:]
        try:
            names, room = os.listdir(folder), Room(folder)
            own = [name for name in names if OWN.fullmatch(name) and wanted(name)]
            contents = contents_of(folder, own, room, skipped, lenient)
            known = _newest_readable(folder, names, attempt, room, skipped, lenient)
        except (FileNotFoundError, NotADirectoryError):
            if not folder.is_dir():
                return {}
            if last:
                raise
            continue  # the cumulative file was replaced by the next one
        except OSError as error:
            if lenient:
                skipped.append(_said(error, folder))
                return {}
            if error.errno in LASTING:
                raise Unreadable(error.filename or folder, "", str(error.strerror)) from None
            raise
        found = {name: lines for name, lines in known.items() if wanted(name)}
        return {**found, **{name: union(found.get(name, []), content) for name, content in contents.items()}}
    raise AssertionError


def _newest_readable(folder: Path, names: Iterable[str], attempt: int | None, room: Room, skipped: list[object],
                     lenient: bool) -> dict[str, list[bytes]]:
    """What the cumulative file holds, the one before where it is damaged; nothing where what is asked for is newer."""
    left = [name for name in names if FOLDED.fullmatch(name)]
    while (newest := newest_folded(left)) and (attempt is None or attempt <= newest[0]):
        try:
            return read_folded(folder / newest[1], room, skipped)
        except Unreadable as error:
            skipped.append(error)
        except OSError as error:
            if not lenient or isinstance(error, FileNotFoundError):
                raise
            skipped.append(_said(error, folder / newest[1]))
        left.remove(newest[1])
    return {}


def union(lines: list[bytes], content: bytes) -> list[bytes]:
    return list(dict.fromkeys([*lines, *filter(None, content.split(b"\n"))]))


class Room:
    """Reads the files of one ledger, no more than a run could write; of another user's less, which is only shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left = OWN_BYTES if os.stat(folder).st_uid == os.geteuid() else FOREIGN_BYTES

    def read(self, path: Path) -> bytes:
        for _ in range(TRIES - 1):
            try:
                return self._read(path)
            except OSError as error:
                if error.errno != errno.ESTALE:  # replaced on another node: opened again it is the new one
                    raise
        return self._read(path)

    def _read(self, path: Path) -> bytes:
        data = read_bytes(path, max(self.left, 0))
        self.left -= len(data) + BLOCK
        if self.left < 0:
            raise TooMuch(self.folder, "", "more than a run could write; remove what does not belong there")
        return data


class TooMuch(Unreadable):
    """There is more in a ledger than a run could write."""


def read_folded(path: Path, room: Room, skipped: list[object]) -> dict[str, list[bytes]]:
    """The lines of each file that a cumulative one has taken in: behind a head for each file, which counts them."""
    found: dict[str, list[bytes]] = {}
    counts: dict[str, Any] = {}
    name = None
    for row in room.read(path).split(b"\n")[:-1]:
        if row.startswith(HEAD):
            head = parsed(row) or {}
            name = str(head.get("file"))
            counts[name] = head.get("lines")
            found[name] = []
        elif name is not None:
            found[name].append(row)
    for name, lines in found.items():
        if counts[name] != len(lines) and isinstance(counts[name], int):
            skipped.append(Unreadable(path, name, f"{len(lines)} lines; expected {counts[name]}"))
            del lines[max(counts[name], 0):]  # more are those of a file whose head is lost
    return {name: lines for name, lines in found.items() if OWN.fullmatch(name)}


def contents_of(folder: Path, names: list[str], room: Room, skipped: list[object],
                lenient: bool) -> dict[str, bytes]:
    """The content of each file that is still there."""
    def read_one(name: str) -> bytes | None:
        try:
            return room.read(folder / name)
        except FileNotFoundError:
            return None
        except TooMuch:
            raise
        except Unreadable as error:
            skipped.append(error)
        except OSError as error:
            if not lenient:
                raise
            skipped.append(_said(error, folder / name))
        return None

    if len(names) < READERS:
        found: Iterable[bytes | None] = map(read_one, names)
    else:
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(read_one, names))
    return {name: content for name, content in zip(names, found) if content is not None}


def _said(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror}"


def parsed(line: bytes) -> dict[str, Any] | None:
    """The mapping in a line; None where it is torn, or none of ours."""
    try:
        record = DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
