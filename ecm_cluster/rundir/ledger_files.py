"""The files of a ledger, one per writer and a cumulative one; read within limits, even if they are damaged."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..base import fileserver
from ..base.reading import DECODER, Unreadable, read_bytes
from .records import LASTING

OWN = re.compile(r"([0-9]{1,9})-(.+)\.jsonl")  # a writer's file
FOLDED = re.compile(r"folded-([0-9]{1,9})\.jsonl")  # everything up to an attempt
HEAD = b'{"file": '  # begins a header line of the cumulative file, which names the file of the lines below it
OWN_BYTES, FOREIGN_BYTES = 1 << 30, 1 << 24  # limits of a ledger; 1000 ranks in 1000 attempts write 500 MB
BLOCK = 4096  # overhead per file, so that many empty files exhaust the limit, too
TRIES = 3  # files that are replaced on another node while they are read


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
    """The lines of each writer's file, from that file and from the cumulative one."""
    def wanted(name: str) -> bool:
        of, who = origin(name)
        return attempt in (None, of) and writer in (None, who)

    for last in [False] * (TRIES - 1) + [True]:
        del skipped[:]
        try:
            names, budget = list(fileserver.listed(folder)), ReadBudget(folder)
            own = [name for name in names if OWN.fullmatch(name) and wanted(name)]
            contents = contents_of(folder, own, budget, skipped, lenient)
            known = _newest_readable(folder, names, attempt, budget, skipped, lenient)
        except (FileNotFoundError, NotADirectoryError):
            if not folder.is_dir():
                return {}
            if last:
                raise
            continue  # the cumulative file was replaced by a newer one
        except OSError as error:
            if lenient:
                skipped.append(_error_text(error, folder))
                return {}
            if error.errno in LASTING:
                raise Unreadable(error.filename or folder, "", str(error.strerror)) from None
            raise
        found = {name: lines for name, lines in known.items() if wanted(name)}
        return {**found, **{name: union(found.get(name, []), content) for name, content in contents.items()}}
    raise AssertionError


def _newest_readable(folder: Path, names: Iterable[str], attempt: int | None, budget: ReadBudget, skipped: list[object],
                     lenient: bool) -> dict[str, list[bytes]]:
    """The content of the newest readable cumulative file; nothing if the attempt is newer than that."""
    left = [name for name in names if FOLDED.fullmatch(name)]
    while (newest := newest_folded(left)) and (attempt is None or attempt <= newest[0]):
        try:
            return read_folded(folder / newest[1], budget, skipped)
        except Unreadable as error:
            skipped.append(error)
        except OSError as error:
            if not lenient or isinstance(error, FileNotFoundError):
                raise
            skipped.append(_error_text(error, folder / newest[1]))
        left.remove(newest[1])
    return {}


def union(lines: list[bytes], content: bytes) -> list[bytes]:
    return list(dict.fromkeys([*lines, *filter(None, content.split(b"\n"))]))


class ReadBudget:
    """Reads the files of one ledger up to a total size; less for another user's, which is only shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left = OWN_BYTES if os.stat(folder).st_uid == os.geteuid() else FOREIGN_BYTES

    def read(self, path: Path) -> bytes:
        for _ in range(TRIES - 1):
            try:
                return self._read(path)
            except OSError as error:
                if error.errno != errno.ESTALE:  # replaced on another node; opening it again gets the new one
                    raise
        return self._read(path)

    def _read(self, path: Path) -> bytes:
        data = read_bytes(path, max(self.left, 0))
        self.left -= len(data) + BLOCK
        if self.left < 0:
            raise TooLarge(self.folder, "", "larger than any run could write; remove what does not belong there")
        return data


class TooLarge(Unreadable):
    """A ledger is larger than any run could write."""


def read_folded(path: Path, budget: ReadBudget, skipped: list[object]) -> dict[str, list[bytes]]:
    """The lines of each file that was copied into a cumulative one: below a header with its name and line count."""
    found: dict[str, list[bytes]] = {}
    counts: dict[str, Any] = {}
    name = None
    for row in budget.read(path).split(b"\n")[:-1]:
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
            del lines[max(counts[name], 0):]  # surplus lines belong to a file whose header is lost
    return {name: lines for name, lines in found.items() if OWN.fullmatch(name)}


def contents_of(folder: Path, names: list[str], budget: ReadBudget, skipped: list[object],
                lenient: bool) -> dict[str, bytes]:
    """The content of each file that still exists."""
    def read_one(name: str) -> bytes | None:
        try:
            return budget.read(folder / name)
        except FileNotFoundError:
            return None
        except TooLarge:
            raise
        except Unreadable as error:
            skipped.append(error)
        except OSError as error:
            if not lenient:
                raise
            skipped.append(_error_text(error, folder / name))
        return None

    found = zip(names, fileserver.each(read_one, names))
    return {name: content for name, content in found if content is not None}


def _error_text(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror}"


def parsed(line: bytes) -> dict[str, Any] | None:
    """The mapping in a line; None if it is truncated or invalid."""
    try:
        record = DECODER.decode(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
