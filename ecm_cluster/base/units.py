"""Units and words: times, sizes, paths and numbers, as users write and read them."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import unicodedata
from pathlib import Path

from .errors import UserError, shown

UNSAFE = "%\\"  # in the names of logs Slurm expands % and removes a backslash
LONGEST_NAME = 200  # bytes of a run's name, out of the 255 of a file's name that is derived from it
LONGEST_PATH, LONGEST_PART = 3500, 255  # bytes: PATH_MAX (4096) less the paths inside a run; NAME_MAX
MOST_MINUTES = 10 * 366 * 1440  # ten years
MOST_MIB = 1 << 30  # 1024 TiB
SECRET_KEY = re.compile(r"(?<=[?&;])([^=&;#]*(?:token|key|secret|sig|passw|auth|credential)[^=&;#]*)=[^&;#]*",
                        re.IGNORECASE)  # in a URL's query
SET = "(set)"  # in place of a value that may be a secret
NO_MEMORY = "none"  # a job that requests no memory: the site assigns its share of the node


def parse_time(text: str) -> int:
    """Minutes of a Slurm time limit: ``minutes``, ``HH:MM:SS`` or ``D-HH[:MM[:SS]]``, rounded up.

    Raises:
        ValueError: It has none of these forms, is not positive, or is more than ten years.
    """
    match = re.fullmatch(r"(?:([0-9]{1,8})-)?([0-9]{1,8})(?::([0-9]{1,8}))?(?::([0-9]{1,8}))?", text.strip())
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
    if not 0 < seconds <= 60 * MOST_MINUTES:
        raise ValueError(text)
    return -(-seconds // 60)


def duration_text(seconds: float) -> str:
    """A duration in its largest unit: ``40 s``, ``12 min``, ``3 h``, ``2 d``."""
    unit, name = next(((u, n) for u, n in ((86400, "d"), (3600, "h"), (60, "min")) if seconds >= u), (1, "s"))
    return f"{seconds // unit:.0f} {name}"


def moment(seconds: float, beside: float | None = None) -> str:
    """A time of day, with its date unless that is the same as of another time that stands beside it."""
    at = time.localtime(seconds)
    same = beside is not None and at[:3] == time.localtime(beside)[:3]
    return time.strftime("%H:%M" if same else "%m-%d %H:%M", at)


def parse_memory(text: str) -> int:
    """MiB of a size such as ``48G``, ``1500M`` or ``1T``.

    Raises:
        ValueError: It is not such a size, or more than 1024 T.
    """
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)\s*([KMGT])i?B?", text.strip(), re.IGNORECASE | re.ASCII)
    mib = float(match[1]) * {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}[match[2].upper()] if match else 0
    if not 0 < mib <= MOST_MIB:
        raise ValueError(text)
    return max(1, int(mib))


def without_secrets(url: str) -> str:
    """A URL as it is shown and recorded: without a password, and without the values of keys such as ``token``."""
    url = re.sub(r"(?<=://)[^/@?#]*@", "***@", url)
    return SECRET_KEY.sub(r"\1=***", url)


def size_text(count: float) -> str:
    """Bytes for people: ``19.3 GB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def check_run_path(what: str, path: str) -> None:
    """Reject what Slurm expands or cannot represent in the path of a run, and so in those of its logs.

    Raises:
        UserError: In one line.
    """
    wrong = sorted({c for c in path if c in UNSAFE or is_control(c)})
    if wrong:
        raise UserError(f"{what}: {shown(path)} contains {', '.join(map(repr, wrong[:5]))}, which Slurm expands in the "
                        "names of logs; expected a path without %, backslashes and control characters")
    longest = LONGEST_NAME if os.sep not in path else LONGEST_PATH
    if len(os.fsencode(path)) > longest or any(len(os.fsencode(part)) > LONGEST_PART for part in path.split(os.sep)):
        raise UserError(f"{what}: {shown(path)} is too long; expected {longest} bytes at most, and {LONGEST_PART} "
                        "between two slashes")


def is_control(character: str) -> bool:
    """Whether it is a control character, a line separator, or half of a character (a byte that is not UTF-8)."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")


def safe_name(text: str) -> str:
    """A valid name for a run, made from one that may be invalid or too long."""
    safe = "".join("_" if c in UNSAFE or not c.isprintable() else c for c in text)
    return os.fsencode(safe)[:LONGEST_NAME - 20].decode(errors="ignore")


def whole(text: str) -> int:
    """A whole number from a command line, in ASCII digits, as its argparse type.

    Raises:
        argparse.ArgumentTypeError: It is not one.
    """
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"invalid int value: {shown(text)}; expected a whole number")
    return int(text)


def number(text: str) -> float:
    """Any number from a command line; as :func:`whole`."""
    if not re.fullmatch(r"[-+]?([0-9]{1,18}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE][-+]?[0-9]{1,2})?", text):
        raise argparse.ArgumentTypeError(f"invalid float value: {shown(text)}; expected a number")
    return float(text)


def utf8(text: str) -> str:
    """Text from a command line, as its argparse type.

    Raises:
        argparse.ArgumentTypeError: Its bytes are not UTF-8, so no record could name it; or they are, but the
            locale has another encoding, in which a record would name something else.
    """
    try:
        meant = os.fsencode(text).decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not UTF-8; rename the file, or type it in UTF-8") from None
    if meant != text:
        raise argparse.ArgumentTypeError(f"{shown(meant)} needs UTF-8, and this locale is in "
                                         f"{sys.getfilesystemencoding()}; export LC_ALL=C.UTF-8")
    return text


def path(text: str) -> Path:
    """A path from a command line; as :func:`utf8`."""
    return Path(utf8(text))
