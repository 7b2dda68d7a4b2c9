"""Names at the top level of a config that look like a misspelt section.

A name that mmdet does not read is a variable of the config. If nothing refers to it and its name is very close to that
of a section, it is most likely meant as that section, and the training would silently use the inherited one.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..keycheck import sections
from ..mmconfig.source import ConfigSource

_NEAR = 0.75  # difflib's ratio: that of `modle` and `model` is 0.8
_REFERENCE = re.compile(r"\$\{(\w+)")


def warnings(cfg: Mapping[str, Any], config_files: Iterable[Path]) -> list[str]:
    """One line for each such name in a config without options, given the files of it and of all that it inherits."""
    known = sections.known({}, "")
    assert known is not None
    near = {name: found for name in cfg if name not in known[1]
            for found in difflib.get_close_matches(name.lower(), known[1], n=1, cutoff=_NEAR)}
    used = {name for path in config_files for name in _used(path)} if near else set()
    return [f"the config sets {name}, which neither mmdet nor the config itself uses; did you mean {found}?"
            for name, found in near.items() if name not in used]


def _used(path: Path) -> set[str]:
    """Names that a config file refers to."""
    source = ConfigSource.open(path)
    found = {name.partition(".")[0] for name in source.tokens.values()} | set(_REFERENCE.findall(source.text))
    if path.suffix == ".py":
        found |= {node.id for node in ast.walk(ast.parse(source.text))
                  if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return found
