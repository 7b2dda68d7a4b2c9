"""Files that somebody else may have written or damaged: read within limits, and checked before anything is used.

A run directory, a pack or a job file lies where others can write, is cut by a full disk, and may be anything. What
these functions return has the shape that was asked for; whatever is wrong is one :class:`Unreadable`, which names the
file, the field and what was expected. Errors of the storage itself (no permission, no such file, a stale handle) stay
``OSError``: they say nothing about the content, and may pass.

A shape is

* a type: ``str``, ``int`` (no bool, within 64 bits), ``float`` (an int too), ``bool``, ``dict``, ``list``, ``object``
* :class:`Number`, :class:`Text`, :class:`OneOf` or :class:`Maybe`, for a narrower or a wider choice
* ``[shape]``: a list of such values
* ``{"key": shape, OptionalKey("key"): shape}``: a mapping that has these keys; others are ignored
* ``{str: shape}``: a mapping from any names to such values
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError

LARGEST = 64 << 20  # bytes of a record or of a file that a user writes by hand; a ledger of months has some megabytes
LONGEST_NUMBER = 400  # digits; Python 3.11 refuses from 4300 on, older versions take quadratic time


class Unreadable(UserError):
    """A file that does not hold what it should.

    Attributes:
        path: The file.
        field: The dotted key in it; empty for the file as a whole.
    """

    def __init__(self, path: object, field: str, problem: str) -> None:
        super().__init__(f"{path}: {field}: {problem}" if field else f"{path}: {problem}")
        self.path, self.field = str(path), field


@dataclass(frozen=True)
class Number:
    """An int, or with ``whole=False`` any finite number, from ``low`` to ``high``."""

    low: float = -(2**63)
    high: float = 2**63 - 1
    whole: bool = True


@dataclass(frozen=True)
class Text:
    """A string that matches a pattern as a whole and has at most ``longest`` characters."""

    pattern: str = r"(?s:.*)"
    longest: int = 4096
    called: str = ""  # what such a string is, for the message


@dataclass(frozen=True)
class OneOf:
    """One of a few plain values."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True)
class Maybe:
    """Null, or a value of the shape."""

    shape: Any


@dataclass(frozen=True)
class OptionalKey:
    """A key that may be missing."""

    key: str


def open_regular(path: str | os.PathLike, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """A descriptor of a regular file; nothing else is opened or waited for.

    Raises:
        Unreadable: It is something else.
        OSError: It cannot be opened.
    """
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)  # a FIFO without a writer would block
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Unreadable(path, "", "not a regular file")
    return handle


@contextlib.contextmanager
def naming(path: str | os.PathLike, instead_of: str | os.PathLike | None = None) -> Iterator[None]:
    """Errors of the storage name this file, where they name none, as those of a read or of a full disk.

    Args:
        instead_of: A file that says nothing to the user, such as a temporary one, and is not named either.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None or str(error.filename) == str(instead_of):
            error.filename, error.filename2 = os.fspath(path), None
        raise


def read_bytes(path: str | os.PathLike, limit: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        Unreadable: It is something else (a FIFO is not waited for), or longer than ``limit`` bytes.
        OSError: The storage does not give it.
    """
    with os.fdopen(open_regular(path), "rb", buffering=0) as file, naming(path):
        size, data = os.fstat(file.fileno()).st_size, b""
        # as much as it seems to have: asking for the limit takes that much memory, and milliseconds
        while size <= limit and len(data) <= limit and (piece := file.read(max(size + 1 - len(data), 1 << 16))):
            data += piece
    if max(size, len(data)) > limit:
        raise Unreadable(path, "", f"larger than {limit >> 20} MiB; expected a small text file")
    return data


def read_text(path: str | os.PathLike, limit: int = LARGEST) -> str:
    """The text of a file in UTF-8; raises as :func:`read_bytes`, and :class:`Unreadable` for other bytes."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(path, f"line {line}", f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
                         ) from None


def read_json(path: str | os.PathLike, shape: Any = object, limit: int = LARGEST) -> Any:
    """The one JSON value of a file, checked against a shape.

    Raises:
        Unreadable: It is not JSON, or not of this shape.
        OSError: The storage does not give it.
    """
    return check(parse_json(read_text(path, limit), path), shape, path)


def parse_json(text: str | bytes, path: object) -> Any:
    """One JSON value; ``path`` says where it comes from.

    Raises:
        Unreadable: The text is no JSON value, or one too deep or with too long a number to be anybody's data.
    """
    try:
        return DECODER.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise Unreadable(path, f"line {error.lineno}" if error.lineno > 1 else "",
                         f"not valid JSON ({error.msg})") from None
    except RecursionError:
        raise Unreadable(path, "", "not valid JSON (nested too deeply)") from None
    except ValueError as error:  # digits, or bytes that are not UTF-8
        raise Unreadable(path, "", f"not valid JSON ({error})") from None


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


DECODER = json.JSONDecoder(parse_int=_whole)


def check(value: Any, shape: Any, path: object, field: str = "") -> Any:
    """``value``, if it has the shape; see the module for what a shape is.

    Raises:
        Unreadable: It does not; names ``path``, and the dotted key below ``field``.
    """
    if isinstance(shape, Maybe):
        return value if value is None else check(value, shape.shape, path, field)
    if isinstance(shape, list):
        for at, one in enumerate(check(value, list, path, field)):
            check(one, shape[0], path, f"{field}[{at}]")
    elif isinstance(shape, Mapping):
        _check_mapping(check(value, dict, path, field), shape, path, field)
    elif not _fits(value, shape):
        raise Unreadable(path, field, f"invalid value {_short(value)}; expected {_described(shape)}")
    return value


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has a shape."""
    try:
        check(value, shape, "")
    except Unreadable:
        return False
    return True


def _check_mapping(value: dict[str, Any], shape: Mapping[Any, Any], path: object, field: str) -> None:
    prefix = f"{field}." if field else ""
    for key, inner in shape.items():
        if key is str:
            for name, one in value.items():
                check(one, inner, path, f"{prefix}{_short(name, quoted=False)}")
        elif isinstance(key, OptionalKey):
            if key.key in value:
                check(value[key.key], inner, path, prefix + key.key)
        elif key not in value:
            raise Unreadable(path, prefix + key, f"missing; expected {_described(inner)}")
        else:
            check(value[key], inner, path, prefix + key)


def _fits(value: Any, shape: Any) -> bool:
    if shape is float:  # any: a loss may be NaN
        return isinstance(value, float) or _fits(value, int)
    if shape is int:
        shape = Number()
    if isinstance(shape, Number):
        kinds = int if shape.whole else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and shape.low <= value <= shape.high
    if isinstance(shape, Text):
        return (isinstance(value, str) and len(value) <= shape.longest
                and re.fullmatch(shape.pattern, value, re.ASCII) is not None)
    if isinstance(shape, OneOf):
        return any(type(value) is type(one) and value == one for one in shape.values)
    return isinstance(value, shape)


def _described(shape: Any) -> str:
    if isinstance(shape, Maybe):
        return f"{_described(shape.shape)} or null"
    if isinstance(shape, Number):
        kind = "a whole number" if shape.whole else "a number"
        return kind if shape == Number(whole=shape.whole) else f"{kind} from {shape.low:g} to {shape.high:g}"
    if isinstance(shape, Text):
        return shape.called or f"text that matches {shape.pattern}"
    if isinstance(shape, OneOf):
        return " or ".join(map(repr, shape.values))
    kinds = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if shape is list or isinstance(shape, list):
        return "a list"
    return kinds.get(shape if isinstance(shape, type) else dict, "a mapping of keys to values")


def _short(value: Any, quoted: bool = True) -> str:
    text = (repr(value) if quoted else str(value)) if not isinstance(value, (dict, list)) else type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."


def check_inside(folder: Path, name: str, path: object, field: str) -> Path:
    """``folder / name``, for a relative path with ``/`` that comes from a file.

    Raises:
        Unreadable: It is absolute, leads out of the folder by ``..``, or could not be the name of a file.
    """
    parts = name.split("/") if isinstance(name, str) else []
    # surrogates: bytes that are not UTF-8, which JSON can spell and a file system then refuses
    if not parts or not _encodes(name) or len(name) > 4096 or any(
            p in ("", ".", "..") or "\0" in p or len(os.fsencode(p)) > 255 for p in parts):
        raise Unreadable(path, field, f"invalid value {_short(name)}; expected a relative path inside the folder")
    return folder / name


def _encodes(name: object) -> bool:
    try:
        return isinstance(name, str) and bool(os.fsencode(name))
    except UnicodeEncodeError:
        return False
