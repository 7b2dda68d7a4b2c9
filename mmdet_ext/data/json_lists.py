"""A JSON text walked from value to value, so that a long list need not be in memory as a whole.

Each value is decoded by Python's own decoder; what a walk accepts is what ``json.loads`` accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_blank = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


class Cursor:
    """A place in a JSON text. All methods raise ``json.JSONDecodeError`` where the text is no JSON."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def peek(self) -> str:
        """The next character that is no blank; empty at the end of the text."""
        found = _blank.match(self.text, self.at)
        assert found is not None  # it matches no blanks, too
        self.at = found.end()
        return self.text[self.at : self.at + 1]

    def take(self, legal: str) -> str:
        """Go behind the next character, which has to be one of ``legal``."""
        found = self.peek()
        if not found or found not in legal:
            raise json.JSONDecodeError(f"Expecting one of {legal}", self.text, self.at)
        self.at += 1
        return found

    def value(self) -> Any:
        """Go behind a value, and return it."""
        self.peek()
        value, self.at = _decode(self.text, self.at)
        return value

    def members(self) -> Iterator[str]:
        """The keys of the object that is the whole text; whoever iterates goes behind each key's value."""
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
        """(element, begin, end) for each of a list, with the places of its text."""
        self.take("[")
        more = self.peek() != "]" or self.take("]") == ""
        while more:
            self.peek()
            begin = self.at
            value = self.value()
            yield value, begin, self.at
            more = self.take(",]") == ","
