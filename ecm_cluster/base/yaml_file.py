"""YAML as plain data, in which times, dates, numbers and names are what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import reading
from .errors import UserError
from .reading import Unreadable

LARGEST = 1 << 20  # bytes


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file; empty for an empty file.

    Raises:
        UserError: It cannot be read, or contains anything else; names the file and the line.
    """
    import yaml  # 30 ms that --help need not wait for

    from .yaml_loader import PlainLoader

    try:
        text = reading.read_text(path, LARGEST)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None

    def wrong(line: int | None, problem: object) -> Unreadable:
        return Unreadable(path, "" if line is None else f"line {line + 1}", f"not valid YAML ({str(problem)[:200]})")

    try:
        values = yaml.load(text, Loader=PlainLoader)
    except yaml.reader.ReaderError as error:
        raise wrong(text.count("\n", 0, error.position), f"the character {error.character:#04x}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise wrong(mark.line if mark else None, getattr(error, "problem", None) or error) from None
    except RecursionError:
        raise wrong(None, "nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of an escape sequence
        raise wrong(None, error) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, e.g. 'nodes: 2'")
    return values
