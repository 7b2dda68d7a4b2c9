"""A resolved config as a Python file of literals: writing it, and reading it without executing it.

Others may be able to write to the place of a run's frozen config, so it is parsed, and anything except literals is
refused.
"""

from __future__ import annotations
import __future__

import ast
import keyword
import math
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ..base import reading
from ..base.errors import UserError
from ..base.reading import Unreadable
from .edit import BASE

RESERVED = ("filename", "text", "pretty_text")  # reserved by mmcv.Config
DEEPEST = 60  # levels of brackets: Python 3.8 parses about 90; mmdet's configs have 10
MOST = 1_000_000  # values; a few lines of Python, each a list of the previous one, can exceed the memory
_LARGEST = 2**64  # enough for seeds and masks; no library that reads a config can hold a larger number
_PLAIN = "a number, a string, True, False, None, or a list, tuple or dict of these"


def dump(cfg: Mapping[str, Any]) -> str:
    """``cfg`` as a Python file of literals, which :func:`load` and ``mmcv.Config`` read back unchanged.

    Raises:
        UserError: A key cannot be a name in a config, or a value is not a literal; the message has the key.
    """
    for key in cfg:
        valid = isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
        if not valid or key.startswith("__") or key in RESERVED or key == BASE:
            raise UserError(f"config: invalid name {key!r}; expected a Python name that mmcv does not reserve")
    return "".join(f"{key} = {_text(value, '')}\n" for key, value in plain(cfg).items())


def plain(cfg: Mapping[str, Any], where: object = "config") -> dict[str, Any]:
    """A copy that has only Python's plain types: numpy numbers, paths and subclasses of dict are converted.

    Classes and functions imported at the top of a config (``from … import …``) are left out, as modules are when it
    is read: they are tools of the file, not settings.

    Raises:
        UserError: A value is not plain, too deeply nested or too large; the message has the key.
    """
    copying = _Plain(where)
    return {key: copying.top(value, _name(key)) for key, value in cfg.items()
            if not (callable(value) or isinstance(value, __future__._Feature))}


class _Plain:
    """One copy, which counts its values."""

    def __init__(self, where: object) -> None:
        self.where, self.count = where, 0

    def top(self, value: Any, key: str) -> Any:
        try:
            return self.of(value, key, 0)
        except UserError:
            raise
        except Exception as error:  # from a class that the config defines, or an unhashable key
            raise self.wrong(key, value, type(error).__name__) from None

    def of(self, value: Any, key: str, depth: int) -> Any:
        self.count += 1
        if self.count > MOST:
            raise UserError(f"{self.where}: invalid {key}: more than {MOST:,} values; expected a config, not the data")
        if depth > DEEPEST:
            raise UserError(f"{self.where}: invalid {key.partition('.')[0]}: nested too deeply, or contains itself; "
                            "expected plain values")
        kind = type(value)
        if value is None or kind in (bool, float, bytes, range):  # mmdet writes gpu_ids as a range
            return value
        if kind is int:
            if abs(value) >= _LARGEST:
                raise UserError(f"{self.where}: invalid {key}: a number of {value.bit_length()} bits; expected 64 or "
                                "less")
            return value
        if kind is str:
            return self.text(value, key)
        deeper = depth + 1
        if isinstance(value, dict):  # dict.items: a subclass may override it
            return {self.of(k, key, deeper): self.of(v, f"{key}.{_name(k)}", deeper) for k, v in dict.items(value)}
        if kind in (list, tuple):
            return kind([self.of(item, f"{key}.{at}", deeper) for at, item in enumerate(value)])
        if kind is set:
            return {self.of(item, key, deeper) for item in value}
        if isinstance(value, os.PathLike):
            return self.of(os.fspath(value), key, deeper)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):  # numpy's numbers
            return self.of(value.item(), key, deeper)
        raise self.wrong(key, value, "")

    def wrong(self, key: str, value: Any, more: str) -> UserError:
        return UserError(f"{self.where}: invalid {key}: a {type(value).__name__} ({more or _shown(value)}) cannot be "
                         f"written to the run's config; expected {_PLAIN}")

    def text(self, value: str, key: str) -> str:
        try:
            value.encode("utf-8", "surrogateescape")  # a file name may contain any bytes
            valid = "\0" not in value
        except UnicodeEncodeError:
            valid = False
        if not valid:
            raise UserError(f"{self.where}: invalid {key}: {_shown(value)} contains a NUL or half of a surrogate pair; "
                            "expected text")
        return value


def _name(key: Any) -> str:
    return key if isinstance(key, str) else _shown(key)


def _shown(value: Any) -> str:
    try:
        return " ".join(ascii(value).split())[:80]
    except Exception:  # from a class that the config defines, or a number with too many digits
        return "not printable"


def _text(value: Any, indent: str) -> str:
    """A plain value as a literal."""
    if type(value) in (str, bytes):
        # mmcv replaces {{ name }} in the text of a config
        return repr(value).replace("{{", "{\\x7b")
    if type(value) is float and not math.isfinite(value):
        return f"float('{value!r}')"
    inner = indent + " "
    if type(value) is dict:
        return _bracketed("{", [f"{_text(k, '')}: {_text(v, inner)}" for k, v in value.items()], "}", indent)
    if type(value) is list:
        return _bracketed("[", [_text(item, inner) for item in value], "]", indent)
    if type(value) is tuple:
        return _bracketed("(", [_text(item, inner) for item in value], ",)" if len(value) == 1 else ")", indent)
    if type(value) is set and value:
        return _bracketed("{", sorted(_text(item, "") for item in value), "}", indent)
    return repr(value)


def _bracketed(left: str, items: list[str], right: str, indent: str) -> str:
    line = left + ", ".join(items) + right
    if len(line) + len(indent) <= 100 and "\n" not in line:
        return line
    return left + f",\n{indent} ".join(items) + right


# ---------------------------------------------------------------------------------------------------- reading


def load(path: str | os.PathLike) -> dict[str, Any]:
    """The names and values of a file of literals, which is not executed.

    ``dict(a=1)``, ``set()``, ``range(3)`` and ``float('inf')`` are accepted, since mmcv writes them.

    Raises:
        Unreadable: It is not text or Python, or contains anything except names and literals; the message has the line.
        OSError: It cannot be read.
    """
    return parse(reading.read_text(path), path)


def parse(text: str, path: str | os.PathLike) -> dict[str, Any]:
    """As :func:`load`, for text that was read from ``path``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in strings
            tree = ast.parse(text, os.fspath(path))
        return dict(_binding(node) for node in tree.body)
    except _Other as error:
        found, line = "contains code other than names and values", error.line
    except (SyntaxError, ValueError, TypeError) as error:
        found, line = getattr(error, "msg", None) or str(error), getattr(error, "lineno", None) or 1
    except (RecursionError, MemoryError):
        found, line = "nested too deeply", 1
    raise Unreadable(path, f"line {line}", f"{found}; expected the config written at submission, which contains only "
                     "literals and is not executed")


class _Other(Exception):
    """Code that is not a literal."""

    def __init__(self, node: ast.AST) -> None:
        self.line = getattr(node, "lineno", 1)


def _binding(node: ast.stmt) -> tuple[str, Any]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
        name = node.targets[0].id
        if not name.startswith("__") and name not in (*RESERVED, BASE):
            return name, _value(node.value)
    raise _Other(node)


def _value(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None
                                           or isinstance(node.value, (bool, int, float, str, bytes))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kinds: dict[type, Callable[[list[Any]], Any]] = {ast.List: list, ast.Tuple: tuple, ast.Set: set}
        return kinds[type(node)]([_value(item) for item in node.elts])
    if isinstance(node, ast.Dict) and all(node.keys):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values) if key is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = node.operand.value if isinstance(node.operand, ast.Constant) else None
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _call(node, node.func.id)
    raise _Other(node)


def _call(node: ast.Call, name: str) -> Any:
    if name == "dict" and not node.args and all(keyword.arg for keyword in node.keywords):
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    given = [] if node.keywords else [_value(arg) for arg in node.args]
    if name == "set" and not node.args and not node.keywords:
        return set()
    if name == "float" and len(given) == 1 and given[0] in ("inf", "-inf", "nan"):
        return float(given[0])
    if name == "range" and 1 <= len(given) <= 3 and all(type(one) is int for one in given):
        return range(*given)
    raise _Other(node)
