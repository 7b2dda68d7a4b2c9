"""YAML as its readers mean it: plain data, in which times, dates, numbers and names are what they look like."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from . import reading
from .errors import UserError
from .reading import LONGEST_NUMBER, Unreadable

LARGEST = 1 << 20  # bytes
DEEPEST, MOST_NODES = 100, 100_000  # of what is left when each alias is replaced by what it stands for


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a file holds; empty for an empty file.

    Raises:
        UserError: It cannot be read, or holds anything else; names the file and the line.
    """
    import yaml  # 30 ms that --help need not wait for

    try:
        text = reading.read_text(path, LARGEST)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None

    def wrong(line: int | None, problem: object) -> Unreadable:
        return Unreadable(path, "" if line is None else f"line {line + 1}", f"not valid YAML ({str(problem)[:200]})")

    try:
        values = yaml.load(text, Loader=_loader())
    except yaml.reader.ReaderError as error:
        raise wrong(text.count("\n", 0, error.position), f"the character {error.character:#04x}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise wrong(mark.line if mark else None, getattr(error, "problem", None) or error) from None
    except RecursionError:
        raise wrong(None, "nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of an escape sequence
        raise wrong(None, error) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, e.g. 'nodes: 2'")
    return values


@functools.lru_cache(maxsize=1)
def _loader() -> Any:
    """The safe loader for plain data alone: ``12:00:00`` (YAML 1.1 makes it 43200), dates and ``010`` are text,
    ``1e-3`` is a float; a key may be given once; what an alias multiplies is limited."""
    import yaml

    def wrong(problem: str, node: Any) -> Any:
        return yaml.composer.ComposerError(None, None, problem, node.start_mark)

    class Loader(yaml.SafeLoader):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            alias = self.check_event(yaml.AliasEvent)
            if not alias and self.depth > DEEPEST:
                raise wrong("nested too deeply", self.peek_event())
            self.depth += 1
            node: Any = super().compose_node(parent, index)
            self.depth -= 1
            # a node has its size once it is whole; each place that it stands in counts
            if alias and not hasattr(node, "size"):
                raise wrong("an alias within what it stands for", node)
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
                raise wrong(f"{node.value[:40]!r} holds a character that no text has", node)
            if node.tag.endswith((":int", ":float")) and not _is_number(node.value):
                raise wrong(f"{node.value[:40]!r} is not a number within limits", node)
            return node

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            known: set[str] = set()
            for key in (key for key, _ in node.value if isinstance(key.value, str)):
                if key.value in known:  # the last one would count
                    raise wrong(f"the key {key.value!r} is given twice", key)
                known.add(key.value)
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):  # an explicit tag
                raise wrong(f"{str(node.value)[:40]!r} is not a value of {node.tag.rpartition(':')[2]}", node) from None

    Loader.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers
                if not tag.endswith((":int", ":float", ":timestamp", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    plain = ("null", "bool", "int", "float", "str", "seq", "map")
    Loader.yaml_constructors = {tag: made for tag, made in yaml.SafeLoader.yaml_constructors.items()
                                if tag is None or tag.rpartition(":")[2] in plain}
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9]+([eE][-+]?[0-9]+)?|\.inf|\.nan)$"),
        list("-+0123456789."))
    return Loader


def _is_number(text: str) -> bool:
    """Whether the digits are those of this script, few enough, and no float that is infinite for its size alone."""
    if not text.isascii() or len(text) > LONGEST_NUMBER:
        return False
    try:
        return re.search("inf", text, re.IGNORECASE) is not None or abs(float(text.replace("_", ""))) != float("inf")
    except ValueError:
        return True  # the constructor says what is wrong
