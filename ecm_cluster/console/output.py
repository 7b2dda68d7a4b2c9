"""Standard output and error of verbs: no control characters from data, and no failure when the reader is gone."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import select
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO

# C0 except newline and tab, DEL, C1; bidirectional marks and overrides; line and paragraph separators; surrogates,
# which stand for bytes that are not UTF-8
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# replacements of the same width, so that tables stay aligned
_PLAIN = str.maketrans("–—‑−×·…→←│─━╸╺“”„‘’", "---" "-" "x" "." "." ">" "<" "|" "-" "-" "-" "-" '"' '"' '"' "'" "'")


def printable(text: str) -> str:
    """``text`` with control characters escaped, e.g. as ``\\x1b``; newline and tab stay.

    Everything from a file, a log, a name or an exception passes through here before it is shown; :class:`Output` does
    this for everything that a verb prints.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _legible(error: UnicodeError) -> tuple[str, int]:
    """Replace a character that the stream's encoding lacks by a similar ASCII character, or else by its escape."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start:error.end]
    return "".join(c if c.isascii() else c.encode("ascii", "backslashreplace").decode()
                   for c in missing.translate(_PLAIN)), error.end


codecs.register_error("ecm_cluster.legible", _legible)


class Guarded:
    """A text stream that ignores write errors: what a verb does never depends on whether its output is read.

    Attributes:
        lost: The error after which nothing more was written, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="ecm_cluster.legible")

    def _attempt(self, act: Callable[..., object], *args: str) -> None:
        if self.lost is None:
            try:
                act(*args)
            except OSError as error:
                self.lost = error

    def write(self, text: str) -> int:
        self._attempt(self.stream.write, text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Output(Guarded):
    """The same for arbitrary text, which is passed through :func:`printable`.

    Attributes:
        bare: The stream for the program's own control sequences, such as the colors of a table.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.bare = Guarded(stream)

    def write(self, text: str) -> int:
        return super().write(printable(text))


def bare(stream: Any) -> Any:
    """The stream for control sequences; the caller must pass all data through :func:`printable`."""
    return getattr(stream, "bare", stream)


def is_closed(stream: Any, seconds: float = 0.0) -> bool:
    """Whether nobody reads a stream any more, as that of ``| head``; waits so long for it."""
    if getattr(stream, "lost", None) is not None:
        return True
    poll = select.poll()
    with contextlib.suppress(OSError, ValueError):  # a stream without a file
        poll.register(stream.fileno(), 0)  # an error or a hang-up only
    return bool(poll.poll(1000 * seconds))


class Streams:
    """Replaces ``sys.stdout`` and ``sys.stderr`` while the block runs.

    Attributes:
        lost: Why standard output could not be written completely, or None; a closed pipe does not count.
    """

    def __enter__(self) -> Streams:
        self._before = sys.stdout, sys.stderr
        self._outputs = [Output(stream) for stream in self._before]
        self.lost: OSError | None = None
        sys.stdout, sys.stderr = self._outputs
        return self

    def __exit__(self, *args: object) -> None:
        self.flush()
        sys.stdout, sys.stderr = self._before

    def flush(self) -> None:
        """Flush both; what cannot be written is discarded, otherwise the interpreter would fail at its exit."""
        for output in self._outputs:
            output.flush()
            lost = output.lost or output.bare.lost
            if lost is not None:
                output.lost = output.bare.lost = lost
                _discard(output.stream)
                if output is self._outputs[0] and not isinstance(lost, BrokenPipeError):
                    self.lost = lost


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):  # too many open files, or a stream without a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
