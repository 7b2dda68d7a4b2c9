"""Options of a config as users write them: ``--set KEY=VALUE``, and ``options:`` in job files.

Values are parsed by the rules of mmcv 1.x (``DictAction``); a test compares both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..base.errors import UserError

ADD = "+"  # before an option's key: set it unchecked


def parse_option(text: str) -> tuple[str, Any]:
    """``'a.b=[1,(2,c)]'`` → ``('a.b', [1, (2, 'c')])``, by the rules of mmdet's ``--cfg-options``.

    Numbers, ``true``/``false`` (in any case) and ``None`` are recognised, commas make lists, brackets nest;
    quotes at the ends and all spaces are dropped.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"option {text!r}: expected KEY=VALUE, e.g. model.backbone.depth=101")
    try:
        return key, _parse(value)
    except ValueError:
        if re.search(r"\w\(", value):
            raise UserError(f"option {text!r}: invalid value: brackets after a name are Python code; expected numbers, "
                            f"words or lists. Set the keys of a dict one by one, e.g. {key}.type=…") from None
        raise UserError(f"option {text!r}: unbalanced brackets; expected e.g. {key}=[(1,2),(3,4)]") from None
    except RecursionError:
        raise UserError(f"option {key}: brackets nested too deeply; expected e.g. {key}=[(1,2),(3,4)]") from None


def parse_values(text: str) -> list[tuple[str, Any]]:
    """Several values of an option, ``'[8,11],[6,9]'``: each as it was written, and parsed as :func:`parse_option` does.

    Raises:
        ValueError: Brackets are unbalanced, or a value is empty.
    """
    parts = [part.strip() for part in _split(text)]
    if not all(parts) or not parts or text.rstrip().endswith(","):
        raise ValueError(text)
    return [(part, _parse(part)) for part in parts]


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Parsed options by key.

    Raises:
        UserError: One cannot be parsed, or two conflict.
    """
    given: dict[str, tuple[str, Any]] = {}
    for text in texts:
        key, value = parse_option(text)
        for other, (earlier, set_to) in given.items():
            if (_holds(key, other) or _holds(other, key)) and (key, repr(value)) != (other, repr(set_to)):
                raise UserError(f"option {text!r}: {earlier!r} is given as well; use one of them")
        given[key] = text, value
    return {key: value for key, (_, value) in given.items()}


def laid_over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a job file, overridden by those of the command line.

    Raises:
        UserError: One of the new ones would replace what another of them sets.
    """
    keys = list(map(str, new))
    for at, key in enumerate(keys):
        inner = next((earlier for earlier in keys[:at] if _holds(key, earlier)), None)
        if inner is not None:
            raise UserError(f"options: {key} replaces what {inner} sets; use one of them")
    return {**{key: value for key, value in old.items() if not any(_holds(other, str(key)) for other in keys)}, **new}


def _holds(outer: str, key: str) -> bool:
    """Whether one option sets the same key as another, or one that contains it."""
    return f"{key.lstrip(ADD)}.".startswith(f"{outer.lstrip(ADD)}.")


def _parse(text: str) -> Any:
    text = text.strip("'\"").replace(" ", "")
    is_tuple = text.startswith("(") and text.endswith(")")
    if is_tuple or (text.startswith("[") and text.endswith("]")):
        text = text[1:-1]
    elif "," not in text:
        return _scalar(text)
    elif list(_split(text)) == [text] and text == text.strip("'\""):
        raise ValueError(text)  # every comma is inside reversed brackets, as in ")1,2("
    values = [_parse(part) for part in _split(text)]
    return tuple(values) if is_tuple else values


def _split(text: str) -> Iterator[str]:
    """The parts between commas outside all brackets; a trailing comma adds none."""
    if text.count("(") != text.count(")") or text.count("[") != text.count("]"):
        raise ValueError(text)
    start = depth_round = depth_square = 0
    for at, char in enumerate(text):
        depth_round += (char == "(") - (char == ")")
        depth_square += (char == "[") - (char == "]")
        if char == "," and depth_round == depth_square == 0:
            yield text[start:at]
            start = at + 1
    if start < len(text):
        yield text[start:]


def _scalar(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return None if text == "None" else text
