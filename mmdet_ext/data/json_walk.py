"""The one walker over annotation files: from value to value of a JSON text, without the whole of it in memory.

Each value is decoded by Python's own decoder, so a walk accepts what ``json.loads`` accepts (NaN too). A list can be
found by its key, without parsing what comes before it (LVIS v1's training set has 1.1 GB): :func:`places` gives every
position where its value may begin, and :func:`list_near_an_end` the one that is certainly the file's own.
"""

from __future__ import annotations

import codecs
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Callable

WINDOW = 1 << 20  # bytes decoded at once; an image's record has about 1 KB
FIRST_WINDOW = 1 << 14  # enough for a single record, which is often all that is wanted
LONGEST = 16 << 20  # characters of one value of a file read in windows; no record has more
HEAD, TAIL = 1 << 20, 64 << 20  # bytes; LVIS v1's annotations begin in the head, its images and categories in the tail
NEAR = 16 << 20  # LVIS v1's 1,203 categories, with their definitions and synonyms, take about half a megabyte

_blank = re.compile(r"[ \t\r\n]*")
_begins_value = re.compile(rb"\s*:\s*")
_decode = json.JSONDecoder().raw_decode


class Cursor:
    """A position in a JSON text. All methods raise ``ValueError`` where the text is not JSON.

    Args:
        text: The whole text, or its beginning.
        pieces: The rest of it, read when it is needed; positions then count from the piece in use.
    """

    def __init__(self, text: str = "", pieces: Iterable[str] = ()) -> None:
        self.text, self.at, self._pieces = text, 0, iter(pieces)

    def _read_on(self) -> bool:
        """Append the next piece to what is not consumed yet; False at the end."""
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self.text, self.at = self.text[self.at:] + piece, 0
        return True

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the text."""
        while True:
            found = _blank.match(self.text, self.at)
            assert found is not None  # it also matches the empty string
            self.at = found.end()
            if self.at < len(self.text) or not self._read_on():
                return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> str:
        """Consume the next character, which has to be one of ``expected``."""
        found = self.peek()
        if not found or found not in expected:
            raise json.JSONDecodeError(f"Expecting one of {expected}", self.text, self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        """Consume a value, and return it."""
        self.peek()
        while True:
            try:
                value, end = _decode(self.text, self.at)
            except ValueError:  # perhaps because the piece ends inside of it
                if len(self.text) - self.at > LONGEST or not self._read_on():
                    raise
                continue
            if end < len(self.text) or not self._read_on():  # a number may continue in the next piece
                self.at = end
                return value

    def members(self) -> Iterator[str]:
        """The keys of the object that is the whole text; the caller consumes the value of each."""
        self.take("{")
        more = self.peek() != "}" or self.take("}") == ""
        while more:
            if self.peek() != '"':
                raise json.JSONDecodeError("Expecting a key", self.text, self.at)
            key = self.value()
            self.take(":")
            yield key
            more = self.take(",}") == ","
        if self.peek():
            raise json.JSONDecodeError("Extra data", self.text, self.at)

    def elements(self) -> Iterator[tuple[Any, int, int]]:
        """(element, begin, end) of each in a list, with its position in the text."""
        self.take("[")
        more = self.peek() != "]" or self.take("]") == ""
        while more:
            self.peek()
            begin = self.at
            value = self.value()
            yield value, begin, self.at
            more = self.take(",]") == ","


def records(data: Any, at: int) -> Iterator[dict[str, Any]]:
    """The objects of the list that begins at ``at`` in the bytes of a file (mapped, or in memory).

    Raises:
        ValueError: It is not a list of objects.
    """
    for record, _, _ in Cursor(pieces=_pieces(data, at)).elements():
        if not isinstance(record, dict):
            raise ValueError("not a list of objects")
        yield record


def _pieces(data: Any, at: int) -> Iterator[str]:
    decoder, size = codecs.getincrementaldecoder("utf-8")(), min(FIRST_WINDOW, WINDOW)
    while at < len(data):
        yield decoder.decode(data[at : at + size])
        at, size = at + size, min(2 * size, WINDOW)


def places(data: Any, key: str, begin: int = 0, end: int | None = None) -> Iterator[int]:
    """Where the value of a key may begin between two positions: everything that looks like the key, at any depth."""
    name = json.dumps(key).encode()
    end = len(data) if end is None else end
    at = data.find(name, begin, end)
    while at >= 0:
        behind = _begins_value.match(data[at + len(name) : at + len(name) + 64])
        if behind and data[max(0, at - 64) : at].rstrip()[-1:] in (b"{", b","):
            yield at + len(name) + behind.end()
        at = data.find(name, at + 1, end)


def likely_places(data: Any, key: str) -> Iterator[int]:
    """Where the value of a key may begin: the first place in the head, the last one in the tail, the first anywhere."""
    yield from itertools.islice(places(data, key, 0, HEAD), 1)
    last = data.rfind(json.dumps(key).encode(), max(0, len(data) - TAIL))
    if last >= 0:
        yield from places(data, key, last)
    yield from itertools.islice(places(data, key), 1)


# --- a list near either end of a file -------------------------------------------------------------------


def list_near_an_end(path: Path, key: str, is_right: Callable[[Any], bool]) -> list[dict[str, Any]] | None:
    """The list of the outermost object, if the file's first or last megabytes show it beyond doubt."""
    with open(path, "rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        for window in (NEAR >> 4, NEAR):
            handle.seek(max(0, size - window))
            found = _in_tail(handle.read(), key)
            found = found if is_right(found) else None
            if found is not None or window >= size:
                return None if size <= NEAR and _is_joined(handle) else found
        handle.seek(0)
        found = _in_head(handle.read(NEAR), key)
        return found if is_right(found) else None


def _is_joined(handle: BinaryIO) -> bool:
    """Whether a file may hold two objects, one after the other: within one, a comma stands between braces."""
    handle.seek(0)
    return re.search(rb"\}\s*\{", handle.read()) is not None


def _in_tail(tail: bytes, key: str) -> Any:
    """Look for the key from the end.

    What follows the right key, with a ``{`` put before it, is itself an object that ends where the file ends.
    The bracket that ends the file is the outermost object's, so the key is one of the outermost object's
    keys; the same key inside an annotation leaves closing brackets over.
    """
    at = tail.rfind(json.dumps(key).encode())
    if at < 0 or not tail[:at].rstrip(b" \t\r\n").endswith((b",", b"{")):
        return None
    try:
        return json.loads(b"{" + tail[at:]).get(key)
    except (ValueError, RecursionError):
        return None


def _in_head(head: bytes, key: str) -> Any:
    """Walk the outermost object's keys from the start, until the key is there or the window ends."""
    cursor = Cursor(head.decode("utf-8-sig", errors="ignore"))  # the window may end inside a character
    try:
        for found in cursor.members():
            value = cursor.value()
            if found == key:
                return value
    except (ValueError, RecursionError):
        pass
    return None
