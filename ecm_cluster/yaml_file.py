"""YAML as its readers mean it: times, numbers and names are what they look like."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import UserError


def read_yaml(path: Path) -> dict[str, Any]:
    import yaml  # 30 ms that --help need not wait for

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML ({error}); expected text in UTF-8") from None
    try:
        values = yaml.load(text, Loader=_loader(yaml))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, e.g. 'nodes: 2'")
    return values


def _loader(yaml: Any) -> Any:
    """The safe loader, but ``12:00:00`` is text (YAML 1.1 makes it 43200), ``010`` is text, and ``1e-3`` is a float;
    a key may be given once."""

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            known: set[str] = set()
            for key in (key for key, _ in node.value if isinstance(key.value, str)):
                if key.value in known:  # the last one would count
                    raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} is given twice",
                                                      key.start_mark)
                known.add(key.value)
            return node

    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+([eE][-+]?[0-9]+)?|\.inf|\.nan)$"),
        list("-+0123456789."))
    return Loader
