"""Nothing needs a newer Python than setup.cfg declares: what a newer one, which most of us use, would not notice.

`make lint` asks vermin about the standard library; it cannot see the type of a variable, nor an alias of types. `make
test-original` runs the tests themselves on the oldest Python.
"""

from __future__ import annotations

import ast
import configparser
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "configs", "ecm_cluster", "mmdet_ext", "tests", "tools")
TYPES = {"bool", "bytes", "dict", "float", "frozenset", "int", "list", "set", "str", "tuple", "type"}
OF_A_TYPE = {"removeprefix": "3.9", "removesuffix": "3.9", "is_relative_to": "3.9", "with_stem": "3.9",
             "readlink": "3.9", "hardlink_to": "3.10", "bit_count": "3.10", "add_note": "3.11"}


@lru_cache(maxsize=None)
def oldest() -> tuple[int, int]:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg")
    found = re.fullmatch(r">=3\.(\d+)", parsed["options"]["python_requires"])
    assert found
    return 3, int(found[1])


def sources() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def too_new(text: str) -> Iterator[tuple[int, str]]:
    """Line and reason of each expression that Python 3.8 cannot evaluate."""
    try:
        tree = ast.parse(text, feature_version=oldest())
    except SyntaxError as error:
        yield error.lineno or 0, error.msg
        return
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    generic = TYPES | {"Future", "PathLike", "Popen", "Queue"} | {
        alias.asname or alias.name for node in imports for alias in node.names
        if node.module in ("collections", "collections.abc", "contextlib", "re")}
    for node in evaluated(tree) if any(node.module == "__future__" for node in imports) else ast.walk(tree):
        builtin = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr in TYPES
        if isinstance(node, ast.Subscript) and _name(node.value) in generic and not builtin:  # dtype.str[1:] is none
            yield node.lineno, f"{_name(node.value)}[...] is evaluated; typing has such a type"
        elif isinstance(node, ast.Attribute) and node.attr in OF_A_TYPE and _name(node.value) != "os":
            yield node.lineno, f"{node.attr} is of Python {OF_A_TYPE[node.attr]}"
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.BitOr):
            sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.target, node.value)
            if any(_is_mapping(side) for side in sides):
                yield node.lineno, "dicts are merged with {**one, **other} or update()"
            if any(_name(side) in TYPES or isinstance(side, ast.Constant) and side.value is None for side in sides):
                yield node.lineno, "X | Y is evaluated; typing has Union and Optional"


def evaluated(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of annotations."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field, value in ast.iter_fields(node):
            if field not in ("annotation", "returns"):
                waiting += [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, ast.AST)]


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_mapping(node: ast.AST) -> bool:
    call = isinstance(node, ast.Call) and _name(node.func) in ("dict", "as_dict")
    return call or isinstance(node, (ast.Dict, ast.DictComp)) or _name(node) == "environ"


@pytest.mark.slow
def test_the_source_parses_and_evaluates_on_the_oldest_python_that_is_declared():
    found = [f"{path.relative_to(ROOT)}:{line}: {why}" for path in sources()
             for line, why in too_new(path.read_text())]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("line", [
    "Pairs = list[tuple[int, str]]", "class A(Sequence[int]): pass", "x = cast(dict[str, int], y)", "s = set[int]()",
    "isinstance(x, int | str)", "Maybe = A | None", "a = {**b} | c", "a |= {'k': 1}", "e = os.environ | c",
    "text.removeprefix('a')", "with (open(a) as b, open(c) as d): pass"])
def test_the_law_sees(line):
    header = "from __future__ import annotations\nfrom collections.abc import Sequence\n"
    assert [number for number, _ in too_new(header + line)][:1] == [3]


@pytest.mark.parametrize("line", [
    "x: list[int] = []", "def f(x: int | None) -> dict[str, int]: ...", "a = {1} | b",
    "flags = os.O_RDONLY | os.O_CLOEXEC",
    "os.environ['A']", "dtype.str[1:]", "Pairs = List[int]", "os.readlink(path)"])
def test_the_law_lets_pass(line):
    assert not list(too_new("from __future__ import annotations\nimport os\n" + line))
