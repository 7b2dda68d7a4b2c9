"""The packages that this program requires, from setup.cfg or its installed metadata, and whether they are installed."""

from __future__ import annotations

import configparser
import operator
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata

from ..base import processes

OPERATORS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt,
             "<": operator.lt, "~=": operator.ge}
CLAUSE = re.compile(r"(>=|<=|==|!=|~=|>|<)\s*([\w.+*]+)")


@dataclass(frozen=True)
class Requirement:
    """A package and its version constraints, e.g. ``>=2.25,<3``."""

    name: str
    versions: str

    def __str__(self) -> str:
        return f"{self.name} {self.versions}".strip()


def numbers(version: str) -> tuple[int, ...]:
    """The release of a version as numbers: ``2.8.0rc1+cu128`` is (2, 8, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version.strip())
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version satisfies constraints such as ``>=2.25,<3``; only releases are compared."""
    have = numbers(version)
    for sign, bound in CLAUSE.findall(wanted):
        limit = numbers(bound)
        width = max(len(have), len(limit))
        pair = [tuple([*value, *[0] * (width - len(value))]) for value in (have, limit)]
        if not OPERATORS[sign](*pair):
            return False
    return True


def read(line: str, python: str) -> Requirement | None:
    """A line of setup.cfg or of a wheel's metadata; None if its marker excludes this version of Python."""
    text, _, marker = line.partition(";")
    for sign, bound in re.findall(r"python_version\s*(>=|<=|==|!=|>|<)\s*[\"']([\d.]+)[\"']", marker):
        if not satisfies(".".join(python.split(".")[:2]), f"{sign}{bound}"):
            return None
    found = re.match(r"\s*([A-Za-z0-9][\w.-]*)\s*(?:\[[^]]*\])?\s*\(?([^)]*)\)?\s*$", text)
    if found is None:
        return None
    return Requirement(re.sub(r"[-_.]+", "-", found[1]).lower(), found[2].strip())


def lines() -> dict[str, list[str]]:
    """The lines of setup.cfg or of the installed metadata: ``python``, ``base`` and ``train``."""
    path = processes.SOURCE / "setup.cfg"
    if not path.is_file():
        return _installed()
    parsed = configparser.ConfigParser()
    parsed.read(path)
    options = parsed["options"]
    texts = {"python": options.get("python_requires", ""), "base": options["install_requires"],
             "train": parsed["options.extras_require"]["train"]}
    return {key: [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
            for key, text in texts.items()}


def _installed() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"python": [], "base": [], "train": []}
    try:
        own = metadata.distribution("ecm-cluster")
    except metadata.PackageNotFoundError:
        return found
    found["python"] = [own.metadata["Requires-Python"] or ""]
    for line in own.requires or []:
        extra = re.search(r"extra\s*==\s*[\"']([\w-]+)[\"']", line)
        if extra is None or extra[1] in found:
            found[extra[1] if extra else "base"].append(line)
    return found


def parsed(some: Iterable[str], python: str) -> list[Requirement]:
    """The requirements that apply to a version of Python."""
    return [one for one in (read(line, python) for line in some) if one is not None]


def unmet(wanted: list[Requirement], there: Mapping[str, str]) -> dict[Requirement, str]:
    """Requirements that are not met, each with the installed version, or an empty string."""
    return {one: there.get(one.name, "") for one in wanted
            if one.name not in there or not satisfies(there[one.name], one.versions)}
