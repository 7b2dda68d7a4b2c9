"""Standard output and error of verbs: a terminal acts on nothing that comes from data, and nobody has to read them."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

# C0 but newline and tab, DEL, C1; marks and overrides of the direction of writing; separators of lines and
# paragraphs; halves of surrogate pairs, which stand for bytes that are not UTF-8
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# as wide as what they stand for, so that tables stay in shape
_PLAIN = str.maketrans("–—‑−×·…→←│─━╸╺“”„‘’", "---" "-" "x" "." "." ">" "<" "|" "-" "-" "-" "-" '"' '"' '"' "'" "'")


def printable(text: str) -> str:
    """``text`` without characters that a terminal acts upon: they are spelled, as ``\\x1b``.

    Newline and tab stay. Whatever comes from a file, a log, a name or an exception passes here before it is shown; all
    that a verb prints does (:class:`Output`).
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _legible(error: UnicodeError) -> tuple[str, int]:
    """For a stream whose encoding lacks a character: its plain look-alike, else its number."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start:error.end]
    return "".join(c if c.isascii() else c.encode("ascii", "backslashreplace").decode()
                   for c in missing.translate(_PLAIN)), error.end


codecs.register_error("ecm_cluster.legible", _legible)


class Guarded:
    """A text stream that goes on when it cannot be written any more: what a verb does never depends on who reads.

    Attributes:
        lost: The error after which nothing was written, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="ecm_cluster.legible")

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self.lost = error
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        if self.lost is None:
            try:
                self.stream.flush()
            except OSError as error:
                self.lost = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Output(Guarded):
    """The same for text that may hold anything: it is shown as :func:`printable`.

    Attributes:
        bare: The stream for a program's own control sequences, such as the colours of a table.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.bare = Guarded(stream)

    def write(self, text: str) -> int:
        return super().write(printable(text))


def bare(stream: Any) -> Any:
    """The stream to draw on with control sequences; the caller passes all data through :func:`printable`."""
    return getattr(stream, "bare", stream)


class Streams:
    """``sys.stdout`` and ``sys.stderr`` of a verb, while the block runs.

    Attributes:
        lost: Why standard output could not be written to its end, or None; nobody reading it any more is no reason.
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
        """Write what is left; what cannot be written is dropped, or the interpreter would try and fail at its exit."""
        for output in self._outputs:
            output.flush()
            lost = output.lost or output.bare.lost
            if lost is not None:
                output.lost = output.bare.lost = lost
                _discard(output.stream)
                if output is self._outputs[0] and not isinstance(lost, BrokenPipeError):
                    self.lost = lost


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError):  # no more open files, or no file beneath it
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
