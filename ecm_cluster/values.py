"""Single values of a job: times, sizes, and what is legal for each kind of option."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from .errors import UserError, one_of

UNSAFE = "%\\"  # of the names of logs Slurm expands the one, and takes the other away
NO_MEMORY = "none"  # of a job that asks for none: its share of the node is the site's to tell


def parse_time(text: str) -> int:
    """Minutes of a Slurm time limit: ``minutes``, ``HH:MM:SS`` or ``D-HH[:MM[:SS]]``, rounded up.

    Raises:
        ValueError: It is none of these, or not positive.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        raise ValueError(text)
    days, *clock = match.groups()
    parts = [int(p) for p in clock if p is not None]
    if days is not None:
        parts = (parts + [0, 0])[:3]
        seconds = int(days) * 86400 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    elif len(parts) == 3:
        seconds = parts[0] * 3600 + parts[1] * 60 + parts[2]
    elif len(parts) == 2:
        seconds = parts[0] * 60 + parts[1]  # as sbatch reads it: MM:SS
    else:
        seconds = parts[0] * 60
    if seconds <= 0:
        raise ValueError(text)
    return -(-seconds // 60)


def duration_text(seconds: float) -> str:
    """A duration in its largest unit: ``40 s``, ``12 min``, ``3 h``, ``2 d``."""
    unit, name = next(((u, n) for u, n in ((86400, "d"), (3600, "h"), (60, "min")) if seconds >= u), (1, "s"))
    return f"{seconds // unit:.0f} {name}"


def parse_memory(text: str) -> int:
    """MiB of a size such as ``48G``, ``1500M`` or ``1T``.

    Raises:
        ValueError: It is not such a size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT])i?B?", text.strip(), re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise ValueError(text)
    return max(1, int(float(match[1]) * {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}[match[2].upper()]))


def size_text(count: float) -> str:
    """Bytes for people: ``19.3 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def check_run_path(what: str, path: str) -> None:
    """Refuse what Slurm expands or cannot write down in the path of a run, and so in those of its logs.

    Raises:
        UserError: In one line.
    """
    wrong = sorted({c for c in path if c in UNSAFE or unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs")})
    if wrong:
        raise UserError(f"{what}: {path!r} contains {', '.join(map(repr, wrong))}, which Slurm expands in the names of "
                        "logs; expected a path without %, backslashes and control characters")


def safe_name(text: str) -> str:
    """A name for a run, made of one that may not be legal."""
    return "".join("_" if c in UNSAFE or not c.isprintable() else c for c in text)


def check_value(what: str, value: Any, kind: str, choices: Sequence[str]) -> None:
    def refuse(legal: str) -> UserError:
        return UserError(f"{what}: {value!r} is not legal; give {legal}")

    if kind in ("int", "positive"):
        least = 1 if kind == "positive" else 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise refuse(f"a whole number, {least} or more")
    elif kind == "number":
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise refuse("a number, 0 or more")
    elif kind == "bool":
        if not isinstance(value, bool):
            raise refuse("true or false")
    elif kind == "choice":
        if value not in choices:
            raise one_of(what, value, choices)
    elif kind in ("time", "memory"):
        example = "[D-]HH:MM:SS or minutes, e.g. 2-00:00:00" if kind == "time" else "a size such as 48G, or none"
        if kind == "memory" and value == NO_MEMORY:
            return
        try:
            (parse_time if kind == "time" else parse_memory)(value)
        except (ValueError, AttributeError, TypeError):
            raise refuse(example) from None
    elif kind == "epochs":
        several = isinstance(value, list) and all(type(n) is int and n > 0 for n in value)
        if value != "all" and not several:
            raise refuse("all, or a list of epochs such as [6, 12]")
    elif kind == "str":
        if not isinstance(value, str) or not value.strip() or "\n" in value:
            raise refuse("one line of text")
    elif kind == "lines":
        if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
            raise refuse("a list of shell lines")
    elif kind == "map" and (not isinstance(value, dict) or not all(isinstance(k, str) for k in value)):
        raise refuse("a mapping of names to values")
