"""Names at the top of a config that mmdet does not read, and that look like a section with its name misspelt.

Any other name is a variable for the config's own use. One that nothing refers to, and whose name is very close to that
of a section, is most likely that section: the training would use what it inherits instead.
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

_NEAR = 0.75  # of difflib's ratio: `modle` is 0.8 from `model`
_REFERENCE = re.compile(r"\$\{(\w+)")


def warnings(cfg: Mapping[str, Any], config_files: Iterable[Path]) -> list[str]:
    """A line for each such name.

    Args:
        cfg: The config as it was read, without options.
        config_files: Every file that it is made of.
    """
    known = sections.known({}, "")
    assert known is not None
    near = {name: found for name in cfg if name not in known[1]
            for found in difflib.get_close_matches(name.lower(), known[1], n=1, cutoff=_NEAR)}
    used = {name for path in config_files for name in _used(path)} if near else set()
    return [f"the config sets {name}, which mmdet does not read and nothing in the config refers to; did you mean "
            f"{found}?" for name, found in near.items() if name not in used]


def _used(path: Path) -> set[str]:
    """Names that a config file refers to."""
    source = ConfigSource.open(path)
    found = {name.partition(".")[0] for name in source.tokens.values()} | set(_REFERENCE.findall(source.text))
    if path.suffix == ".py":
        found |= {node.id for node in ast.walk(ast.parse(source.text))
                  if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return found
