"""Words, YAML and trees of values that a program may not expect."""

from __future__ import annotations

import random
from typing import Any

ESCAPES = "\x1b]52;c;ZXZpbA==\x07\x1b[2J"
DIGITS = "9" * 400

# words of a command line; NUL cannot be one
WORDS = (
    "", " ", "\n", "a\nb", "\t", "x" * 300, "x" * 5000, "\udce4", "caf\udce9", "caf\u00e9", ESCAPES, "../../outside",
    "/", "/dev/null", "/proc/self/mem", "-1", "0", "1e400", DIGITS, "-" + DIGITS, "nan", "inf", "-inf", "1e-400",
    "\u00b2", "\u0663", "\uff11", "\u2167", "None", "null", "true", "%j", "%%", "a;b", "$(id)", "`id`", "$HOME", "'",
    '"', "\\", "\u2028", "\u202e", "\x7f", "\x85", "{}", "{", "[", "[" * 3000, "(" * 3000, "~", "~nobody/x", "//",
    "a/b", ".", "..", "./.", "-", "--", "=", "a=", "=a", "a=b=c", "@x", "*", "?", ",", ",,", "1,", "1,2,x", "1:2:3:4",
    "0x10", "1_000", "010", " 5", "5 ", "+5", "1.5", "1e3", "2020-99-99", "9" * 20, "18446744073709551616",
    "1-00:00:00:00", "\U0001f4a9", "a\u0301", "None,None", "mmdet::", "mmdet::../../etc/passwd", "all", "last", "best",
)

# values as a YAML file writes them, and whether they are invalid YAML
YAML = (
    "", "~", "null", "abc", "-1", "0", "1.5", "true", '"5"', "[]", "[1, 2]", "{}", "{a: 1}", "[[1]]", "2020-01-01",
    "12:30:45", "0x1F", "1_000", "010", ".inf", "-.inf", ".nan", DIGITS, "-" + DIGITS, "1e400", "\u00b2", "\u0663",
    "|\n  a\n  b", '"a\\nb"', '"\\e[2J"', '"\\0"', '"\\ud800"', '"\\u2028"', "x" * 5000, "x" * 300, "''", '" "',
    "[null]", "{null: 1}", "{1: 2}", "{[1]: 2}", "!!str 5", "!!binary aGFsbG8=", "!!set {a}", "!!omap [a: 1]",
    "&a [*a]", "&b {c: *b}", "../../outside", "/dev/null", "%j", "$(id)", "!!bool yes", "!!float 1", "!!null x",
    "2020-99-99", "2020-01-01 99:99:99", "2020-02-30", "0000-01-01",  # dates that are none may be read as text
)
NO_YAML = (
    "!!int abc", "!!float abc", "!!bool abc", "!!timestamp abc", "!!binary '%'",
    "!!python/object/apply:os.system [id]", "!!python/name:os.system", "!unknown 5", "*unknown", "{a: 1", "[1, 2", "'",
    '"', "%", "@", "`", '"\\x"', "a: b: c", "- -\t- a", "[" * 3000, "[" * 100000, "{a: " * 3000, "!!int " + "9" * 5000,
    "!!int ''", "!!float ''", "!<tag:yaml.org,2002:python/tuple> [1]", "{a: 1, a: 2}", "&a &b c", "!!int [1]",
    "!!map [1]", "!!seq {a: 1}", "<<: 5", "{<<: 5}", "{<<: [5]}", "{? [a, b] : c, ? {d} : e}", "!!int 0x", "!!int 1_",
    "!!int 0b2", "!!float 1_", "!!timestamp ''",
)

LEAVES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, "", "x", "5", [], {}, [1], {"a": 1}, [[]], 10**30, -(10**30), 2**63, -(2**63) - 1,
    1e308, float("nan"), float("inf"), "x" * 5000, ESCAPES, "\ud800", "a\0b", "a\nb", "../../outside/victim",
    "/outside/victim", "..", ".", "/", "\u00b2", "\u0663", "%j", "$(id)", "sha256:", "sha256:" + "0" * 64, [None], [{}],
)


def of_another_type(rng: random.Random, value: Any) -> Any:
    """A value that is certainly not of the type, nor a number for a number."""
    number = (int, float)
    return rng.choice([leaf for leaf in LEAVES if type(leaf) is not type(value)
                       and not (isinstance(value, number) and isinstance(leaf, number))])


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all values of a tree of dicts and lists, without its root; of long lists the first three."""
    if isinstance(tree, dict):
        items: Any = tree.items()
    elif isinstance(tree, list):
        items = list(enumerate(tree))[:3]
    else:
        return []
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value
