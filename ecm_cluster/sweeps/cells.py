"""The runs of a group: every combination of what is varied, each with its name and its job."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..job import job as jobs
from ..job.option import MAPPING
from ..mmconfig import config, settled, shipped
from ..mmconfig.options import laid_over
from . import named
from .axes import SEED, Value, VariedKey

MOST = 1000  # runs of a group; far above any that is meant


@dataclass(frozen=True)
class Cell:
    """One run of a group.

    Attributes:
        name: Of the run.
        settings: What is varied in it, as text by key: they identify it.
        digest: Of what these settings make of the job: a named value may have changed since.
        job: None where only the record of the group is known.
    """

    name: str
    settings: Mapping[str, str]
    digest: str = ""
    job: jobs.Job | None = None


def combine(group: str, base: jobs.Job, axes: Sequence[VariedKey]) -> list[Cell]:
    """Every combination, the last name varying fastest.

    Raises:
        UserError: There are too many, two have one name, or a value is invalid; the message names the run.
    """
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST:
        raise UserError(f"vary: {count} runs; expected {MOST} at most")
    words = short_names([axis.key for axis in axes])
    cells = [_cell(group, base, list(zip(axes, values)), words)
             for values in itertools.product(*(axis.values for axis in axes))]
    names = Counter(cell.name for cell in cells)
    twice = next((name for name, times in names.items() if times > 1), None)
    if twice:
        one, other = [cell for cell in cells if cell.name == twice][:2]
        raise UserError(f"vary: {_differing(one, other)} would both be run {twice}; use another file name or "
                        "value for one of them")
    return cells


def _differing(one: Cell, other: Cell) -> str:
    return " and ".join(cell.settings[key] for cell in (one, other) for key in cell.settings
                        if one.settings[key] != other.settings[key])


def _cell(group: str, base: jobs.Job, chosen: Sequence[tuple[VariedKey, Value]], words: Mapping[str, str]) -> Cell:
    name = "-".join([group, *(value.word if value.is_named or "/" in value.text else words[axis.key] + value.word
                              for axis, value in chosen)])
    settings = {axis.key: value.text for axis, value in chosen}
    try:
        changes: dict[str, Any] = {axis.key: value.given for axis, value in chosen if axis.is_of_job}
        job = jobs.make({**asdict(base), **changes, "name": name})
        options = _options(job, {axis.key: value for axis, value in chosen if not axis.is_of_job})
        job = replace(job, options=laid_over(job.options, options))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Cell(name, settings, files.digest_text(json.dumps([changes, options], sort_keys=True, default=str)), job)


def _options(job: jobs.Job, values: Mapping[str, Value]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in values.items():
        if value.is_named:
            options.update(named.options(key, value, _config(job, key)))
        else:
            options[key] = value.given
    return MAPPING.read(options)


def _config(job: jobs.Job, but: str) -> dict[str, Any]:
    """A job's config with its options, except one that sets ``but``."""
    return config.apply_options(_read(job.config), {key: value for key, value in job.options.items() if key != but})


@lru_cache(maxsize=16)
def _read(path: str) -> dict[str, Any]:
    return settled.replace_references(config.read(shipped.find_config(path)))


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The end of each key that tells it from the others: ``lr`` for ``optimizer.lr``."""
    found = {}
    for key in keys:
        parts, length = key.lstrip("+").split("."), 1
        while length < len(parts) and (parts[-length].isdecimal() or any(
                other != key and other.lstrip("+").split(".")[-length:] == parts[-length:] for other in keys)):
            length += 1
        found[key] = ".".join(parts[-length:])
    return found


def label(settings: Mapping[str, str], without: Sequence[str] = (SEED,)) -> str:
    """A setting in words, without the seed: ``ecm, lr 0.01``."""
    words = short_names(list(settings))
    return ", ".join(text[1:] if text.startswith("@") else f"{words[key]} {text}"
                     for key, text in settings.items() if key not in without) or "as configured"
