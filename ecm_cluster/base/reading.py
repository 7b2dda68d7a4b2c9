"""Reading untrusted files: within limits, and validated before anything is used.

A run directory, a pack or a job file may be written by others, truncated by a full disk, or contain anything. These
functions return values of the requested shape; anything else raises :class:`Unreadable`, which names the file, the
field and what was expected. Errors of the storage itself (no permission, no such file, a stale handle) stay
``OSError``: they say nothing about the content, and may be temporary.

A shape is

* a type: ``str``, ``int`` (no bool, within 64 bits), ``float`` (or an int), ``bool``, ``dict``, ``list``, ``object``
* :class:`Number`, :class:`Text`, :class:`OneOf` or :class:`Maybe`, to restrict or extend that
* ``[shape]``: a list of such values
* ``{"key": shape, OptionalKey("key"): shape}``: a mapping with these keys; other keys are ignored
* ``{str: shape}``: a mapping from arbitrary names to such values
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import fileserver
from .errors import UserError, naming, shown

LARGEST = 64 << 20  # bytes of a record or a handwritten file; the ledger of a run of months has a few megabytes
LONGEST_NUMBER = 400  # digits; Python 3.11 refuses more than 4300, older versions take quadratic time


class Unreadable(UserError):
    """A file whose content is not valid.

    Attributes:
        path: The file.
        field: The dotted key in it; empty for the whole file.
    """

    def __init__(self, path: object, field: str, problem: str) -> None:
        super().__init__(f"{path}: {field}: {problem}" if field else f"{path}: {problem}")
        self.path, self.field = str(path), field


@dataclass(frozen=True)
class Number:
    """An integer, or with ``whole=False`` any finite number, from ``low`` to ``high``."""

    low: float = -(2**63)
    high: float = 2**63 - 1
    whole: bool = True


@dataclass(frozen=True)
class Text:
    """A string of at most ``longest`` characters that matches the whole pattern; ``called`` is its name in messages."""

    pattern: str = r"(?s:.*)"
    longest: int = 4096
    called: str = ""


class OneOf:
    """One of a few plain values."""

    def __init__(self, *values: Any) -> None:
        self.values = values


@dataclass(frozen=True)
class Maybe:
    """Null, or a value of the shape."""

    shape: Any


@dataclass(frozen=True)
class OptionalKey:
    """A key that may be absent."""

    key: str


def open_regular(path: str | os.PathLike, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """A descriptor of a regular file; never blocks on anything else.

    Raises:
        Unreadable: It is not a regular file.
        OSError: It cannot be opened.
    """
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, mode)  # a FIFO without a writer would block
    if not stat.S_ISREG(fileserver.status_of(handle, path).st_mode):
        os.close(handle)
        raise Unreadable(path, "", "not a regular file")
    return handle


def read_bytes(path: str | os.PathLike, limit: int = LARGEST) -> bytes:
    """The content of a regular file.

    Raises:
        Unreadable: It is not a regular file, or larger than ``limit`` bytes.
        OSError: It could not be read.
    """
    with os.fdopen(open_regular(path), "rb", buffering=0) as file, naming(path):
        size, data = os.fstat(file.fileno()).st_size, b""
        # by its size: read(limit) would allocate that much memory, which takes milliseconds
        while size <= limit and len(data) <= limit and (piece := file.read(max(size + 1 - len(data), 1 << 16))):
            data += piece
    if max(size, len(data)) > limit:
        raise Unreadable(path, "", f"larger than {limit >> 20} MiB; expected a small text file")
    return data


def read_text(path: str | os.PathLike, limit: int = LARGEST) -> str:
    """The text of a UTF-8 file; raises like :func:`read_bytes`, and :class:`Unreadable` if it is not UTF-8."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(path, f"line {line}", f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
                         ) from None


def read_json(path: str | os.PathLike, shape: Any = object, limit: int = LARGEST) -> Any:
    """The JSON value of a file, validated against a shape.

    Raises:
        Unreadable: It is not JSON, or not of this shape.
        OSError: It could not be read.
    """
    return check(parse_json(read_text(path, limit), path), shape, path)


def parse_json(text: str | bytes, path: object) -> Any:
    """Parse one JSON value; ``path`` is its origin, for messages.

    Raises:
        Unreadable: It is not valid JSON, or its nesting or a number exceeds what real data has.
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
    """Return ``value`` if it has the shape; the module's docstring describes shapes.

    Raises:
        Unreadable: It does not; the message names ``path`` and the dotted key below ``field``.
    """
    if isinstance(shape, Maybe):
        return value if value is None else check(value, shape.shape, path, field)
    if isinstance(shape, list):
        for at, one in enumerate(check(value, list, path, field)):
            check(one, shape[0], path, f"{field}[{at}]")
    elif isinstance(shape, dict):
        _check_mapping(check(value, dict, path, field), shape, path, field)
    elif not _fits(value, shape):
        raise Unreadable(path, field, f"invalid value {_shown(value)}; expected {_described(shape)}")
    return value


def fits(value: Any, shape: Any) -> bool:
    """Whether a value has the shape."""
    with contextlib.suppress(Unreadable):
        check(value, shape, "")
        return True
    return False


def _check_mapping(value: dict[str, Any], shape: Mapping[Any, Any], path: object, field: str) -> None:
    prefix = f"{field}." if field else ""
    for key, inner in shape.items():
        name = key.key if isinstance(key, OptionalKey) else key
        if key is str:
            for name, one in value.items():
                check(one, inner, path, f"{prefix}{name if len(name) <= 40 else name[:37] + '...'}")
        elif name in value:
            check(value[name], inner, path, prefix + name)
        elif name is key:
            raise Unreadable(path, prefix + key, f"missing; expected {_described(inner)}")


def _fits(value: Any, shape: Any) -> bool:
    if shape is float:  # also NaN, which a loss may be
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
    kinds = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}
    return kinds.get(shape if isinstance(shape, type) else type(shape), "a mapping of keys to values")


def _shown(value: Any) -> str:
    return type(value).__name__ if isinstance(value, (dict, list)) else shown(value, 40)


def check_inside(folder: Path, name: str, path: object, field: str) -> Path:
    """``folder / name``, where the relative path comes from an untrusted file.

    Raises:
        Unreadable: It is absolute, contains ``..``, or is not a valid file name.
    """
    valid = isinstance(name, str) and len(name) <= 4096  # 4096 and 255: Linux's PATH_MAX and NAME_MAX
    with contextlib.suppress(UnicodeEncodeError):  # surrogates, which JSON can encode and no file name contains
        if valid and all(p not in ("", ".", "..") and "\0" not in p and len(os.fsencode(p)) <= 255
                         for p in name.split("/")):
            return folder / name
    raise Unreadable(path, field, f"invalid value {_shown(name)}; expected a relative path inside the directory")
