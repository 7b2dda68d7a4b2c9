"""What the classes that an mmdet config can name accept, without importing torch, mmcv or mmdet.

``classes.txt`` beside this file holds it, for mmdet 2.25 to 2.28 with what mmdet_ext adds; ``tools/class_table.py``
makes it, and a test holds it equal to the installed packages. A class of the user's own is unknown here.
"""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).with_name("classes.txt")
OPEN = "**"
REQUIRED = "!"
# no registries: what evaluate() accepts; keys of train_cfg and test_cfg; the classes that have a number of classes,
# with the arguments that make it up and their defaults in place of kinds
TOLD = {"evaluate", "cfg", "num_classes"}
NOT_MODEL = {"dataset", "pipeline", "hook", "runner", "optimizer", "constructor"}


@dataclass(frozen=True)
class Arguments:
    """What a class accepts.

    Attributes:
        type: Its name in the registry.
        section: The registry, as the table calls it.
        kinds: For each argument, which values it may have: letters of b(ool), i(nt), f(loat), s(tring),
            l(ist or tuple), d(ict), n(one); empty: any. ``!`` in front: it has no default.
        is_open: Whether it may accept others as well.
    """

    type: str
    section: str
    kinds: dict[str, str]
    is_open: bool


def arguments_of(section: str | None, type_name: str, release: str | None = None) -> Arguments | None:
    """What a class accepts; None where it is not known.

    Args:
        section: ``model`` (any part of one), ``dataset``, ``pipeline``, ``hook``, ``runner``, ``optimizer``,
            ``constructor`` (of optimizers), one of :data:`TOLD`, or None: any registry.
        type_name: As in the config; the scope of mmdet or mmcv may stand in front (``mmdet.ResNet``).
        release: Of mmdet, ``2.25.2``; None: what any release from 2.25 to 2.28 accepts.
    """
    scope, dot, name = type_name.rpartition(".")
    if dot and scope not in ("mmdet", "mmcv"):
        return None
    for found, words in _lines().get(name, {}).items():
        if found in sections(section):
            head, *arguments = words.split(" ")
            if _is_there(head, release):
                legal = [word for word in arguments if _is_there(word, release)]
                kinds = dict(word.partition("@")[0].partition(":")[::2] for word in legal if word != OPEN)
                return Arguments(name, found, kinds, OPEN in legal)
    return None


def types_in(section: str | None) -> list[str]:
    """Names of every class that a section (as for :func:`arguments_of`) holds."""
    wanted = sections(section)
    return [name for name, found in _lines().items() if wanted.intersection(found)]


@lru_cache
def sections(asked: str | None) -> frozenset[str]:
    """Registries that ``asked`` stands for, as the table calls them."""
    there = {section for found in _lines().values() for section in found}
    if asked is None:
        return frozenset(there - TOLD)
    return frozenset(there - TOLD - NOT_MODEL if asked == "model" else {asked})


def installed_release() -> str | None:
    """The release of mmdet in this Python; None without one. Does not import it."""
    try:
        return importlib.metadata.version("mmdet")
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache
def _lines() -> dict[str, dict[str, str]]:
    """Type → section → its line."""
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            found.setdefault(line.partition(" ")[0].partition("@")[0], {})[section] = line
    return found


def _is_there(word: str, release: str | None) -> bool:
    """Whether a word of the table, which may end in ``@SINCE-UNTIL``, holds for a release."""
    span = word.partition("@")[2]
    if not span or release is None:
        return True
    since, _, until = span.partition("-")
    return (not since or _numbers(release) >= _numbers(since)) and (not until or _numbers(release) <= _numbers(until))


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release)[:3])
