"""Single values of a job: times, sizes, and what is legal for each kind of option."""

from __future__ import annotations

import argparse
import os
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import UserError, one_of, shown

UNSAFE = "%\\"  # of the names of logs Slurm expands the one, and takes the other away
LONGEST_NAME = 200  # bytes of a run's name: what is made of it has to be the name of a file, too
LONGEST_PATH, LONGEST_PART = 3500, 255  # bytes: of PATH_MAX some are for what lies in a run
MOST = {"int": 2**32 - 1, "positive": 1_000_000, "number": 1_000_000}  # seeds of numpy; minutes
MOST_MINUTES = 10 * 366 * 1440
MOST_MIB = 1 << 30
# variables of a job that are not the user's: bash's own, those of this program's shell lines, and what says who a
# process is
NOT_THEIRS = re.compile(r"BASHOPTS|BASH_VERSINFO|EUID|PPID|SHELLOPTS|UID|ecm_\w*|ECM_CLUSTER_TOKEN|RANK|WORLD_SIZE|"
                        r"LOCAL_RANK|SLURMD_NODENAME|SLURM_(JOB_?ID|JOB_NODELIST|RESTART_COUNT|ARRAY_\w+|PROCID|LOCALID|"
                        r"NODEID|NTASKS|NPROCS|NNODES|STEP_\w+)|SUBMITIT_\w+", re.ASCII)
SECRET_KEY = re.compile(r"(?<=[?&;])([^=&;#]*(?:token|key|secret|sig|passw|auth|credential)[^=&;#]*)=[^&;#]*",
                        re.IGNORECASE)  # of a URL's query
SET = "(set)"  # in place of a value that may be a secret
NO_MEMORY = "none"  # of a job that asks for none: its share of the node is the site's to tell


def parse_time(text: str) -> int:
    """Minutes of a Slurm time limit: ``minutes``, ``HH:MM:SS`` or ``D-HH[:MM[:SS]]``, rounded up.

    Raises:
        ValueError: It is none of these, not positive, or more than ten years.
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
    """A URL as it is shown and put on record: without a password, and without the values of keys such as ``token``."""
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
    """Refuse what Slurm expands or cannot write down in the path of a run, and so in those of its logs.

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
    """Whether it is a control character, a line's end, or half of a character (a byte that is not UTF-8)."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")


def safe_name(text: str) -> str:
    """A name for a run, made of one that may not be legal, or too long."""
    safe = "".join("_" if c in UNSAFE or not c.isprintable() else c for c in text)
    return os.fsencode(safe)[:LONGEST_NAME - 20].decode(errors="ignore")


def whole(text: str) -> int:
    """A whole number from a command line, in the digits of this script, as its argparse type.

    Raises:
        argparse.ArgumentTypeError: It is none.
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
        argparse.ArgumentTypeError: Its bytes are not UTF-8, so that no record could name it; or they are, and the
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


def check_variables(what: str, env: Mapping[Any, Any]) -> None:
    """Refuse what cannot be a job's environment; the values may be secrets, and are not in the message.

    Raises:
        UserError: In one line.
    """
    for name, value in env.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
            raise UserError(f"{what}: {shown(name)} is no name of a variable; give letters, digits and underscores")
        if NOT_THEIRS.fullmatch(name):
            raise UserError(f"{what}: {name} is set by the shell or the launcher; leave it out")
        if not isinstance(value, str):
            raise UserError(f"{what}: {name}: expected text or a number, not {_kind_of(value)}; "
                            'write "" for an empty value')
        if re.search("[\0\ud800-\udfff]", value):
            raise UserError(f"{what}: {name}: holds a character that no variable can have; expected text")


def _kind_of(value: Any) -> str:
    return {type(None): "null", list: "a list", dict: "a mapping", str: "text"}.get(type(value), type(value).__name__)


def check_value(what: str, value: Any, kind: str, choices: Sequence[str]) -> None:
    def refuse(legal: str) -> UserError:
        return UserError(f"{what}: {shown(value)} is not legal; give {legal}")

    if kind in ("int", "positive"):
        least = 1 if kind == "positive" else 0
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST[kind]:
            raise refuse(f"a whole number, {least} or more, up to {MOST[kind]}")
    elif kind == "number":
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MOST[kind]:
            raise refuse(f"a number, 0 or more, up to {MOST[kind]}")
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
        several = isinstance(value, list) and all(type(n) is int and 0 < n <= MOST["int"] for n in value)
        if value != "all" and not several:
            raise refuse("all, or a list of epochs such as [6, 12]")
    elif kind == "str":
        if not isinstance(value, str) or not value.strip() or any(map(is_control, value)) or len(value) > LONGEST_PATH:
            raise refuse("one line of text")
    elif kind == "path":
        check_value(what, value, "str", choices)
        if any(len(os.fsencode(part)) > LONGEST_PART for part in value.split(os.sep)):
            raise refuse(f"a path with {LONGEST_PART} bytes at most between two slashes")
        if value.startswith("~") and os.path.expanduser(value) == value:
            raise refuse("a path; there is no such home directory")
    elif kind == "variables":
        if not isinstance(value, dict):
            raise UserError(f"{what}: {_kind_of(value)} is not legal; give a mapping of names to values")
        check_variables(what, value)
    elif kind == "lines":
        if not isinstance(value, list) or not all(isinstance(line, str) and "\0" not in line for line in value):
            raise refuse("a list of shell lines")
    elif kind == "map" and (not isinstance(value, dict) or not all(isinstance(k, str) for k in value)):
        raise refuse("a mapping of names to values")
