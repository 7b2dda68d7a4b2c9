"""YAML's safe loader for plain data alone, within limits.

``12:00:00`` (YAML 1.1 makes it 43200), dates and ``010`` are text, ``1e-3`` is a float; a key may be given once; what
aliases multiply is limited. Imported when a file is read, since yaml takes 30 ms.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from .reading import LONGEST_NUMBER

DEEPEST, MOST_NODES = 100, 100_000  # of the document when each alias is replaced by what it stands for


def wrong(problem: str, node: Any) -> Any:
    return yaml.composer.ComposerError(None, None, problem, node.start_mark)


class PlainLoader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        alias = self.check_event(yaml.AliasEvent)
        if not alias and self.depth > DEEPEST:
            raise wrong("nested too deeply", self.peek_event())
        self.depth += 1
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        # a node has its size once it is complete; each place where it is used counts
        if alias and not hasattr(node, "size"):
            raise wrong("an alias inside the value that it refers to", node)
        if not alias:
            inner = [one for pair in node.value for one in (pair if isinstance(pair, tuple) else [pair])
                     ] if not isinstance(node, yaml.ScalarNode) else []
            node.size = 1 + sum(one.size for one in inner)
            node.height = 1 + max((one.height for one in inner), default=0)
        if node.size > MOST_NODES or node.height > DEEPEST:
            raise wrong("too many values" if node.size > MOST_NODES else "nested too deeply", node)
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if re.search("[\0\ud800-\udfff]", node.value):
            raise wrong(f"{node.value[:40]!r} contains a character that is not allowed in text", node)
        if node.tag.endswith((":int", ":float")) and not _is_number(node.value):
            raise wrong(f"{node.value[:40]!r} is not a number within limits", node)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        known: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key.value, str)):
            if key.value in known:  # only the last one would take effect
                raise wrong(f"the key {key.value!r} is given twice", key)
            known.add(key.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):  # an explicit tag
            raise wrong(f"{str(node.value)[:40]!r} is not a value of {node.tag.rpartition(':')[2]}", node) from None


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers
            if not tag.endswith((":int", ":float", ":timestamp", ":value"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")
PlainLoader.yaml_constructors = {tag: made for tag, made in yaml.SafeLoader.yaml_constructors.items()
                            if tag is None or tag.rpartition(":")[2] in PLAIN}
PlainLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"),
                                  list("-+0123456789"))
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+([eE][-+]?[0-9]+)?|\.inf|\.nan)$"),
    list("-+0123456789."))


def _is_number(text: str) -> bool:
    """Whether the digits are ASCII and few enough, and a float is not infinite because of its size alone."""
    if not text.isascii() or len(text) > LONGEST_NUMBER:
        return False
    try:
        return re.search("inf", text, re.IGNORECASE) is not None or abs(float(text.replace("_", ""))) != float("inf")
    except ValueError:
        return True  # the constructor says what is wrong
