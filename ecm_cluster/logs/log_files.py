"""Reading logs: parts of them by attempt, their last lines, and what is added; a log may be larger than the memory.

Logs are untrusted: only regular files are read, and color codes and carriage returns are resolved, so that what is left
of escape sequences is escaped by :mod:`ecm_cluster.console.output` and every line is shown.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.reading import Unreadable, open_regular

BLOCK = 1 << 18
LONGEST_MARK = 256  # bytes of a line that begins an attempt
LONGEST_LINE = 1 << 16  # bytes of an incomplete line that are held back

OF_RANK = re.compile(rb"(?<=\n)---- attempt ([0-9]{1,9}), job ")
OF_TRAINING = re.compile(rb"(?<=\n)[0-9-]{10} [0-9:]{8} INFO attempt ([0-9]{1,9}): ")
_CSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")  # colors, and the cursor movements of progress bars


@dataclass(frozen=True)
class Part:
    """A range of bytes of a log; ``end`` None: to the end of the file."""

    path: Path
    begin: int = 0
    end: int | None = None

    def exists(self) -> bool:
        """Whether there is anything in it."""
        with _opened(self.path) as handle:
            return handle is not None and self.begin < _size(handle, self.end)


def of_attempt(path: Path, mark: re.Pattern[bytes], attempt: int) -> list[Part]:
    """The parts of a log that an attempt wrote; each begins with a line that names the attempt."""
    marks = sections(path, mark)
    ends = [*(begin for _, begin in marks[1:]), None]
    return [Part(path, begin, end) for (number, begin), end in zip(marks, ends) if number == attempt]


def sections(path: Path, mark: re.Pattern[bytes]) -> list[tuple[int, int]]:
    """The attempts that a log is divided into: number and first byte of each."""
    found: list[tuple[int, int]] = []
    kept, offset, last = b"\n", -1, -1  # ``offset``: of the first byte of ``kept``
    with _opened(path) as handle:
        while handle is not None and (block := os.pread(handle, BLOCK, offset + len(kept))):
            text = kept + block
            for match in mark.finditer(text):
                if offset + match.start() > last:  # not the one at the end of the block before
                    last = offset + match.start()
                    found.append((int(match[1]), last))
            kept = text[-LONGEST_MARK:]
            offset += len(text) - len(kept)
    return found


def last_lines(parts: list[Part], count: int) -> list[Part]:
    """The last lines of several parts together; reads no more than these."""
    kept: list[Part] = []
    for part in reversed(parts):
        shorter, lines = _last_lines(part, count)
        kept.insert(0, shorter)
        count -= lines
        if count <= 0:
            break
    return kept


def _last_lines(part: Part, count: int) -> tuple[Part, int]:
    """Only the last lines of a part, and how many these are."""
    lines = 0
    with _opened(part.path) as handle:
        end = at = part.begin if handle is None else _size(handle, part.end)
        while handle is not None and at > part.begin and count > 0:
            begin = max(part.begin, at - BLOCK)
            block = os.pread(handle, at - begin, begin)
            position = len(block) - (at == end and block.endswith(b"\n"))  # the end of the last line begins none
            while (position := block.rfind(b"\n", 0, position)) >= 0:
                lines += 1
                if lines == count:
                    return replace(part, begin=begin + position + 1), lines
            at = begin
    return (replace(part, begin=end), 0) if count <= 0 or end <= part.begin else (part, lines + 1)


def text_of(part: Part) -> Iterator[str]:
    """The text of a part, in pieces that end with a line, or within a very long one."""
    with _opened(part.path) as handle:
        at, lines = part.begin, Lines()
        while handle is not None:
            block = os.pread(handle, BLOCK if part.end is None else min(BLOCK, part.end - at), at)
            at += len(block)
            yield lines.add(block) if block else lines.rest()
            if not block:
                break


class Lines:
    """Bytes to complete lines of text."""

    def __init__(self) -> None:
        self._held = b""

    def add(self, data: bytes) -> str:
        """The lines that ``data`` completes."""
        data = self._held + data
        cut = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1
        if len(data) - cut > LONGEST_LINE:
            cut = len(data)
        self._held = data[cut:]
        # a progress bar rewrites its line by carriage returns: here each state of it is a line
        plain = _CSI.sub(b"", data[:cut]).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return plain.decode("utf-8", "backslashreplace")

    def rest(self) -> str:
        """What is left at the end of the log, as a line."""
        return self.add(b"\n") if self._held else ""


class Growing:
    """A log that is being written, on any host: read further from where it was, also in a new file of the same name."""

    def __init__(self, path: Path, at: int = 0) -> None:
        self.path, self.at, self.handle = path, at, -1
        self._lines = Lines()

    def read(self) -> Iterator[str]:
        """What was added since the last call."""
        # opened again each time: an NFS client learns of a new size, and of a new file, by that
        with contextlib.suppress(OSError, Unreadable):
            new = open_regular(self.path)
            if self.handle >= 0 and not os.path.sameopenfile(new, self.handle):
                yield from self._added()  # the rest of the one that was moved away
                self.at = 0
            self.close()
            self.handle = new
            if os.fstat(new).st_size < self.at:  # truncated
                self.at = 0
        yield from self._added()

    def _added(self) -> Iterator[str]:
        with contextlib.suppress(OSError):  # removed on another host
            while self.handle >= 0 and (block := os.pread(self.handle, BLOCK, self.at)):
                self.at += len(block)
                yield self._lines.add(block)

    def rest(self) -> str:
        """An incomplete last line."""
        return self._lines.rest()

    def close(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """A descriptor of the log; None if it does not exist.

    Raises:
        Unreadable: It is not a regular file, or only another user may read it.
    """
    try:
        handle = open_regular(path)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except PermissionError as error:
        raise Unreadable(path, "", f"{error.strerror}; ask its owner for access") from None
    try:
        yield handle
    finally:
        os.close(handle)


def _size(handle: int, end: int | None) -> int:
    size = os.fstat(handle).st_size
    return size if end is None else min(size, end)
