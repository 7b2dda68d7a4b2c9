"""What a group of runs varies: names with several values each, from ``--vary`` and sweep files.

A name is a key of a job file (``seed``, ``nodes``, ``config``), or else an mmdet option as in ``--set``. A value
``@NAME`` stands for a part of a config (:mod:`.named`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError, shown
from ..base.yaml_file import read_yaml
from ..job.job import OPTIONS
from ..mmconfig import shipped
from ..mmconfig.options import ADD, parse_values

SEED = "seed"
EXAMPLE = "--vary seed=0,1,2 or --vary model.roi_head.bbox_head.loss_cls=@ecm,@ce"
LONGEST_WORD = 24  # characters of a value in the name of a run
# keys of a job that are the same in all of a group, and why
FIXED = {"name": "the group names its runs", "runs_dir": "a group's runs are in one directory",
         "env": "its values are secrets, which no record may hold", "notify": "its URLs are secrets",
         "options": "vary the mmdet option itself", "share": "a group is read by the same people",
         "evaluation": "all runs are scored alike"}


@dataclass(frozen=True)
class Value:
    """One value.

    Attributes:
        text: In one line, the same however it was written: it identifies the value in the group's record.
        given: What the job or the option gets; of a named value its name.
        own: The value that a sweep file gives a name; else None.
    """

    text: str
    given: Any
    own: Any = None

    @property
    def is_named(self) -> bool:
        return self.text.startswith("@")

    @property
    def word(self) -> str:
        """For the name of a run."""
        stem = self.text.lstrip("@")
        if "/" in stem:
            stem = Path(stem).stem
        word = re.sub(r"[^\w.+-]+", "_", stem, flags=re.ASCII).strip("_.") or "value"
        if len(word) > LONGEST_WORD:
            word = f"{word[:LONGEST_WORD - 7]}-{files.digest_text(self.text)[7:13]}"
        return word


@dataclass(frozen=True)
class VariedKey:
    """A name with the values that it takes."""

    key: str
    values: tuple[Value, ...]

    @property
    def is_of_job(self) -> bool:
        return self.key in OPTIONS


def read(varied: Sequence[str], sweep_file: str | None) -> list[VariedKey]:
    """What the command line and a sweep file vary, the file's first.

    Raises:
        UserError: A name cannot be varied, or a value is invalid.
    """
    axes = _of_file(sweep_file) if sweep_file else []
    axes += [_of_flag(text) for text in varied]
    for at, axis in enumerate(axes):
        for other in axes[:at]:
            if overlap(axis.key, other.key):
                raise UserError(f"vary: {axis.key} and {other.key} set the same value; use one of them")
    return axes


def overlap(one: str, other: str) -> bool:
    """Whether two keys set the same value, or one a part of the other."""
    one, other = (f"{key.lstrip(ADD)}." for key in (one, other))
    return one.startswith(other) or other.startswith(one)


def _of_flag(text: str) -> VariedKey:
    key, sign, values = text.partition("=")
    key = key.strip()
    if not sign or not key:
        raise UserError(f"vary: invalid value {shown(text)}; expected NAME=VALUE,VALUE, e.g. {EXAMPLE}")
    try:
        parsed = parse_values(values)
    except (ValueError, RecursionError):
        raise UserError(f"vary: {key}: invalid values {shown(values)}; expected values with commas between them, and "
                        "brackets around lists, e.g. --vary lr_config.step=[8,11],[6,9]") from None
    if key in OPTIONS:
        word = OPTIONS[key].reader.word
        parsed = [(text, text if word is str and not isinstance(value, bool) else value) for text, value in parsed]
    return _axis(key, [value for _, value in parsed], "vary")


def _of_file(given: str) -> list[VariedKey]:
    path = shipped.find_in_jobs(given) or Path(given).expanduser()
    axes = []
    for key, values in read_yaml(path).items():
        if not isinstance(key, str) or not isinstance(values, list):
            raise UserError(f"{path}: {shown(key)}: expected a list of values, e.g. 'seed: [0, 1, 2]'")
        axes.append(_axis(key, values, str(path)))
    if not axes:
        raise UserError(f"{path}: varies nothing; expected names with lists of values, e.g. 'seed: [0, 1, 2]'")
    return axes


def _axis(key: str, given: Sequence[Any], where: str) -> VariedKey:
    if key in FIXED or key.partition(".")[0] in ("name", "runs_dir", "env", "notify"):
        raise UserError(f"{where}: {key} cannot be varied: {FIXED[key.partition('.')[0]]}")
    if not given:
        raise UserError(f"{where}: {key}: the list is empty; expected values, e.g. {EXAMPLE}")
    values = [_value(key, one, where) for one in given]
    twice = [value.text for at, value in enumerate(values) if value.text in [v.text for v in values[:at]]]
    if twice:
        raise UserError(f"{where}: {key}: {twice[0]} is given twice; leave one out")
    return VariedKey(key, tuple(values))


def _value(key: str, given: Any, where: str) -> Value:
    own = None
    if isinstance(given, Mapping) and len(given) == 1 and str(next(iter(given))).startswith("@"):
        ((given, own),) = given.items()
    if isinstance(given, str) and given.startswith("@"):
        if key in OPTIONS or not re.fullmatch(r"@[^\s@,]+", given):
            raise UserError(f"{where}: {key}: invalid value {shown(given)}; expected a value"
                            + ("" if key in OPTIONS else ", or @NAME without spaces"))
        return Value(given, given, own)
    if key in OPTIONS:
        given = OPTIONS[key].read(f"{where}: {key}", given)
    return Value(given if isinstance(given, str) else text_of(given), given)


def text_of(value: Any) -> str:
    """A value in one line; tuples as lists."""
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        raise UserError(f"vary: invalid value {shown(value)}; expected numbers, text, lists or mappings") from None
