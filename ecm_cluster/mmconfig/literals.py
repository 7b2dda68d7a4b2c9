"""A resolved config as a Python file of literals: how it is written, and how it is read without being executed.

A run's frozen config may lie where others can write, so nothing but the text of literals is taken from it.
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

RESERVED = ("filename", "text", "pretty_text")  # mmcv.Config keeps these names for itself
DEEPEST = 60  # brackets in brackets: Python 3.8 reads about 90 of them; mmdet's configs have 10
MOST = 1_000_000  # values; a few lines of Python can name more than fit into memory, each a list of the former
_LARGEST = 2**64  # seeds and masks; nothing that reads a config can hold a larger number
_PLAIN = "a number, a string, True, False, None, or a list, tuple or dict of these"


def dump(cfg: Mapping[str, Any]) -> str:
    """``cfg`` as a Python file of literals, which :func:`load` and ``mmcv.Config`` turn into it again.

    Raises:
        UserError: A key cannot be a name in a config, or a value is no literal; it names the key.
    """
    for key in cfg:
        legal = isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
        if not legal or key.startswith("__") or key in RESERVED or key == BASE:
            raise UserError(f"config: {key!r} cannot be a name in an mmdet config; choose another")
    return "".join(f"{key} = {_text(value, '')}\n" for key, value in plain(cfg).items())


def plain(cfg: Mapping[str, Any], where: object = "config") -> dict[str, Any]:
    """A copy that holds nothing but Python's own plain types: numpy's numbers, paths and kinds of dicts become these.

    Classes and functions that a config binds at its top by ``from … import …`` are left out, as modules are
    when it is read: they are the file's tools and no settings.

    Args:
        where: What begins a message.

    Raises:
        UserError: Something is no plain value, nests too deeply, or is too large; it names the key.
    """
    copying = _Plain(where)
    return {key: copying.top(value, _name(key)) for key, value in cfg.items()
            if not (callable(value) or isinstance(value, __future__._Feature))}


class _Plain:
    """One copy; counts its values."""

    def __init__(self, where: object) -> None:
        self.where, self.count = where, 0

    def top(self, value: Any, key: str) -> Any:
        try:
            return self.of(value, key, 0)
        except UserError:
            raise
        except Exception as error:  # an object of the config's own, or a key that is no key
            raise self.wrong(key, value, type(error).__name__) from None

    def of(self, value: Any, key: str, depth: int) -> Any:
        self.count += 1
        if self.count > MOST:
            raise UserError(f"{self.where}: {key} makes more than {MOST:,} values; expected a config, not the data")
        if depth > DEEPEST:
            raise UserError(f"{self.where}: {key.partition('.')[0]} is nested too deeply, or contains itself; expected "
                            "plain values")
        kind = type(value)
        if value is None or kind in (bool, float, bytes, range):  # ranges: gpu_ids in what mmdet writes down
            return value
        if kind is int:
            if abs(value) >= _LARGEST:
                raise UserError(f"{self.where}: invalid {key}: a number of {value.bit_length()} bits; expected 64 or "
                                "less")
            return value
        if kind is str:
            return self.text(value, key)
        deeper = depth + 1
        if isinstance(value, dict):  # or a kind of it, with methods of its own
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
            value.encode("utf-8", "surrogateescape")  # a name of a file may hold any bytes
            legal = "\0" not in value
        except UnicodeEncodeError:
            legal = False
        if not legal:
            raise UserError(f"{self.where}: invalid {key}: {_shown(value)} holds a NUL or half a character; expected "
                            "text")
        return value


def _name(key: Any) -> str:
    return key if isinstance(key, str) else _shown(key)


def _shown(value: Any) -> str:
    try:
        return " ".join(ascii(value).split())[:80]
    except Exception:  # an object of the config's own, or a number of too many digits
        return "not printable"


def _text(value: Any, indent: str) -> str:
    """A plain value as a literal."""
    if type(value) in (str, bytes):
        # a reader would take {{ name }} for one of its variables
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
    """What a file of literals binds. It is not executed.

    ``dict(a=1)``, ``set()``, ``range(3)`` and ``float('inf')`` are taken for what they say, as in what mmcv writes.

    Raises:
        Unreadable: It is no text, no Python, or holds anything but names and literals; it names the line.
        OSError: The storage does not give it.
    """
    return parse(reading.read_text(path), path)


def parse(text: str, path: str | os.PathLike) -> dict[str, Any]:
    """As :func:`load`, of a text that was read from ``path``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in strings
            tree = ast.parse(text, os.fspath(path))
        return dict(_binding(node) for node in tree.body)
    except _Other as error:
        found, line = "other code than names and values", error.line
    except (SyntaxError, ValueError, TypeError) as error:
        found, line = getattr(error, "msg", None) or str(error), getattr(error, "lineno", None) or 1
    except (RecursionError, MemoryError):
        found, line = "nested too deeply", 1
    raise Unreadable(path, f"line {line}", f"{found}; expected the config that the submission wrote, which holds "
                     "literals alone and is not executed")


class _Other(Exception):
    """What is no literal."""

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
