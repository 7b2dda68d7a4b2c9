"""One thing that a user can set: how a value is read, what is expected, and where it is offered.

Keys of a job file, its evaluation block, flags and test settings are all declared as an :class:`Option`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..base.errors import UserError, one_of, shown
from ..base.units import LONGEST_PART, LONGEST_PATH, NO_MEMORY, is_control, parse_memory, parse_time

MOST = 1_000_000  # of a count, or of minutes: two years
MOST_SEED = 2**32 - 1  # numpy's limit for a seed
LARGEST = 1_000_000_000  # of a test setting
# variables of a job that are not the user's: bash's own, those of the launcher's shell lines, and what says who a
# process is
NOT_THEIRS = re.compile(r"BASHOPTS|BASH_VERSINFO|EUID|PPID|SHELLOPTS|UID|ecm_\w*|ECM_CLUSTER_TOKEN|RANK|WORLD_SIZE|"
                        r"LOCAL_RANK|SLURMD_NODENAME|SLURM_(JOB_?ID|JOB_NODELIST|RESTART_COUNT|ARRAY_\w+|PROCID|LOCALID|"
                        r"NODEID|NTASKS|NPROCS|NNODES|STEP_\w+)|SUBMITIT_\w+", re.ASCII)


@dataclass(frozen=True)
class Reader:
    """How values of one kind are read.

    Attributes:
        expected: The valid values, in words.
        read: Turns what was given into the value that is kept. ValueError: it is none of these; a :class:`UserError`
            says itself what is wrong.
        word: What argparse makes of a flag's argument first.
        choices: The valid values, where they can be listed.
    """

    expected: str
    read: Callable[[Any], Any]
    word: type = str
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class Option:
    """One thing to set.

    Attributes:
        flag: On the command line; None: only in files.
        group: Verbs offer the flags of whole groups: ``resources``, ``staging``.
        slurm: Whether it means something to Slurm alone; a name: the option of sbatch that gets the value.
        scoring: Of a test setting: whether stored detections can be scored again with another value.
    """

    reader: Reader
    help: str
    default: Any = ""
    flag: str | None = None
    group: str = ""
    slurm: str | bool = False
    scoring: bool = False

    def read(self, what: str, value: Any) -> Any:
        """The value as it is kept.

        Raises:
            UserError: It is invalid; in one line that begins with ``what``.
        """
        if value is None and self.default is None:
            return None
        try:
            return self.reader.read(value)
        except UserError as error:
            raise UserError(f"{what}: {error}") from None
        except (ValueError, TypeError, AttributeError):
            if self.reader.choices:
                raise one_of(what, value, self.reader.choices) from None
            raise UserError(f"{what}: invalid value {shown(value)}; expected {self.reader.expected}") from None


def option(default: Any, reader: Reader, help: str, flag: str | None = None, group: str = "",
           slurm: str | bool = False, secret: bool = False) -> Any:
    """A field of a dataclass of options."""
    made = Option(reader, help, default, flag, group, slurm)
    given: dict[str, Any] = {"default_factory": type(default)} if isinstance(default, (dict, list)) else {
        "default": default}
    return field(**given, metadata={"option": made}, repr=not secret)


def options(kind: Any) -> dict[str, Option]:
    """The options that a dataclass declares by :func:`option`, by name."""
    return {f.name: f.metadata["option"] for f in fields(kind) if f.metadata}


# ---------------------------------------------------------------------------------------------- readers


def valid_if(condition: Callable[[Any], bool], expected: str, **more: Any) -> Reader:
    """A reader that keeps a value as it is, where a condition holds."""
    def read(value: Any) -> Any:
        if not condition(value):
            raise ValueError(value)
        return value

    return Reader(expected, read, **more)


def whole(least: int, most: int = MOST) -> Reader:
    return valid_if(lambda value: type(value) is int and least <= value <= most,
                    f"a whole number, {least} or more, up to {most}", word=int)


def number(least: float, most: float = MOST, above: bool = False) -> Reader:
    """A finite number; with ``above`` the least one is excluded."""
    def read(value: Any) -> float:
        if type(value) not in (int, float) or not (least < value if above else least <= value) or value > most:
            raise ValueError(value)
        return float(value)

    low = f"above {least:g}" if above else f"{least:g} or more"
    return Reader(f"a number, {low}, up to {most:.10g}", read, word=float)


def choice(*choices: str) -> Reader:
    return valid_if(lambda value: isinstance(value, str) and value in choices, ", ".join(choices), choices=choices)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not any(map(is_control, value)) \
        and len(value) <= LONGEST_PATH


def _path(value: Any) -> str:
    text: str = TEXT.read(value)
    if any(len(os.fsencode(part)) > LONGEST_PART for part in text.split(os.sep)):
        raise UserError(f"invalid value {shown(text)}; expected a path with {LONGEST_PART} bytes at most between two "
                        "slashes")
    if text.startswith("~") and os.path.expanduser(text) == text:
        raise UserError(f"invalid value {shown(text)}; expected a path, and there is no such home directory")
    return text


def _time(value: Any) -> str:
    text = str(value) if type(value) is int else value  # 90 in YAML
    parse_time(text)
    return text


def _memory(value: Any) -> str:
    if value != NO_MEMORY:
        parse_memory(value)
    return value


def _epochs(value: Any) -> bool:
    return value == "all" or isinstance(value, list) and all(type(n) is int and 0 < n <= MOST_SEED for n in value)


def _scale(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    if not re.fullmatch(r"[1-9][0-9]{0,5}x[1-9][0-9]{0,5}", value):
        raise ValueError(value)
    return value


def _variables(given: Any) -> dict[str, str]:
    """What can be a job's environment; the values may be secrets, and are in no message."""
    if not isinstance(given, Mapping):
        raise UserError(f"invalid value of type {_type_of(given)}; expected a mapping of names to values")
    env = {name: str(value) if isinstance(value, (int, float)) else value for name, value in given.items()}
    for name, value in env.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
            raise UserError(f"{shown(name)} is not a name of a variable; expected letters, digits and underscores")
        if NOT_THEIRS.fullmatch(name):
            raise UserError(f"{name} is set by the shell or the launcher; leave it out")
        if not isinstance(value, str):
            raise UserError(f'{name}: expected text or a number, not {_type_of(value)}; write "" for an empty value')
        if re.search("[\0\ud800-\udfff]", value):
            raise UserError(f"{name}: contains a character that no variable can have; expected text")
    return env


def _type_of(value: Any) -> str:
    return {type(None): "null", list: "list", dict: "mapping", str: "text"}.get(type(value), type(value).__name__)


COUNT = whole(0, MOST_SEED)
BOOL = valid_if(lambda value: isinstance(value, bool), "true or false")
TEXT = valid_if(_is_line, "one line of text")
PATH = Reader("one line of text: a path", _path)
TIME = Reader("[D-]HH:MM:SS or minutes, e.g. 2-00:00:00", _time)
MEMORY = Reader("a size such as 48G, or none", _memory)
EPOCHS = valid_if(_epochs, "all, or a list of epochs such as [6, 12]")
SCALE = Reader("WIDTHxHEIGHT, e.g. 1333x800", _scale)
VARIABLES = Reader("a mapping of names to values", _variables)
LINES = valid_if(lambda value: isinstance(value, list) and all(isinstance(line, str) and "\0" not in line
                                                               for line in value), "a list of shell lines")
MAPPING = valid_if(lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value),
                   "a mapping of names to values")
