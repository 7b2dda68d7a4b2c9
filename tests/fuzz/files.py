"""What can become of a file: other bytes, or something that is not a regular file."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

from .case import Case
from .values import DIGITS, ESCAPES, LEAVES, at, of_another_type, places

# which of a text's changes leave nothing that its format could be
NEVER = {"not UTF-8", "NUL", "UTF-16", "random bytes", "deep", "deep mapping"}


def mistreat(case: Case, path: Path, text: str = "") -> None:
    """Change what a path is: gone, a folder, a FIFO, a link to nowhere, to itself, to something endless."""
    def folder() -> None:
        path.mkdir()

    def endless() -> None:
        path.symlink_to("/dev/zero")

    kinds = {"missing": lambda: None, "a folder": folder, "a FIFO": lambda: os.mkfifo(path), "/dev/zero": endless,
             "a dangling link": lambda: path.symlink_to(case.work / "nowhere"),
             "a link to itself": lambda: path.symlink_to(path),
             "/dev/null": lambda: path.symlink_to("/dev/null")}
    name = case.choose(kinds)
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    kinds[name]()
    if name == "/dev/null":
        case.invalid = False  # what was wrong before is gone
    case.changed(f"{text or 'a file'} is {name}" if name != "missing" else f"{text or 'a file'} is missing",
                 names=(path.name, path.stem))


def damage(case: Case, path: Path, form: str, certain: bool = True) -> None:
    """Change the bytes of a file.

    Args:
        form: json, yaml, py, text (lines of anything) or binary.
        certain: Whether what can no longer be read is certainly wrong, which it is not where the file is optional.
    """
    data, rng = path.read_bytes(), case.rng
    kinds = {"emptied", "cut", "a bit flipped", "random bytes", "doubled"}
    if form != "binary":
        kinds |= {"not UTF-8", "NUL", "UTF-16", "BOM", "CRLF", "escapes", "digits", "surrogate"}
    if form in ("json", "yaml", "py"):
        kinds |= {"deep", "deep mapping"}
    if form == "yaml":
        kinds |= {"alias bomb"}
    name = rng.choice(sorted(kinds))
    made = CHANGES[name](rng, data, form)
    case.replace(path, made)
    wrong = name in NEVER and form not in ("text", "binary")
    wrong |= form == "json" and (name == "emptied" or (name == "doubled" and bool(data.strip()))
                                 or (name == "cut" and len(made) < len(data.rstrip())))
    if name in ("emptied", "cut"):
        case.invalid = False  # what was wrong before may be gone
    case.changed(f"{form} {name}", invalid=certain and wrong, names=(path.name, path.stem))


def _insert(rng: random.Random, data: bytes, piece: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + piece + data[at:]


def _flipped(rng: random.Random, data: bytes, form: str) -> bytes:
    if not data:
        return b"\x01"
    at, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1:]


def _deep(rng: random.Random, data: bytes, form: str) -> bytes:
    depth = rng.choice([2000, 100_000])
    return {"json": b"[" * depth, "yaml": data + b"\nx: " + b"[" * depth,
            "py": data + b"\nx = " + rng.choice([b"[", b"(", b"-", b"{0:"]) * depth}[form]


def _deep_mapping(rng: random.Random, data: bytes, form: str) -> bytes:
    depth = rng.choice([2000, 20_000])
    return {"json": b'{"a":' * depth, "yaml": data + b"\nx: " + b"{a: " * depth,
            "py": data + b"\nx = " + b"dict(a=" * depth}[form]


def _digits(rng: random.Random, data: bytes, form: str) -> bytes:
    """A number of the text becomes one of very many digits."""
    found = list(re.finditer(rb"(?<![\w.])\d+(?![\w.])", data))
    if not found:
        return data + b"9" * 6000
    match = rng.choice(found)
    return data[:match.start()] + rng.choice([DIGITS.encode(), b"9" * 6000]) + data[match.end():]


def _in_string(rng: random.Random, data: bytes, piece: bytes) -> bytes:
    found = list(re.finditer(rb"[a-z]{3,}", data))
    match = rng.choice(found) if found else None
    return data[:match.start()] + piece + data[match.start():] if match else data + piece


CHANGES: dict[str, Any] = {
    "emptied": lambda rng, data, form: b"",
    "cut": lambda rng, data, form: data[:rng.randrange(max(1, len(data)))],
    "a bit flipped": _flipped,
    "random bytes": lambda rng, data, form: bytes(rng.randrange(128, 256) for _ in range(200)),
    "doubled": lambda rng, data, form: data + data,
    "not UTF-8": lambda rng, data, form: _insert(rng, data, b"\xff"),
    "NUL": lambda rng, data, form: _insert(rng, data, b"\0"),
    "UTF-16": lambda rng, data, form: data.decode(errors="replace").encode("utf-16"),
    "BOM": lambda rng, data, form: b"\xef\xbb\xbf" + data,
    "CRLF": lambda rng, data, form: data.replace(b"\n", b"\r\n"),
    "escapes": lambda rng, data, form: _in_string(rng, data, json.dumps(ESCAPES)[1:-1].encode() if form == "json"
                                                  else ESCAPES.encode()),
    "surrogate": lambda rng, data, form: _in_string(rng, data, b"\\ud800"),
    "digits": _digits,
    "deep": _deep,
    "deep mapping": _deep_mapping,
    "alias bomb": lambda rng, data, form: data + b"\na0: &a0 [x, x]\n" + b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)),
}


def change_json(case: Case, path: Path, certain: bool = False, only: tuple[str, ...] = ()) -> None:
    """Change one value of a JSON file: gone, of another type, out of range; or give its key twice.

    Args:
        certain: Whether any change of a value is certainly wrong.
        only: Keys of the root, of which one is changed and not what is below it.
    """
    first, end, rest = path.read_bytes().partition(b"\n" if path.suffix == ".jsonl" else b"no end of a line")
    tree = json.loads(first)
    change_tree(case, tree, path, certain, only)
    case.replace(path, json.dumps(tree, indent=None if end else 1).encode() + end + rest)


def change_tree(case: Case, tree: Any, path: Path, certain: bool, only: tuple[str, ...] = ()) -> None:
    rng = case.rng
    found = [(key,) for key in only if key in tree] if only else places(tree)
    if not found:
        return
    place = rng.choice(found)
    inner, key, value = at(tree, place[:-1]), place[-1], at(tree, place)
    kind = rng.choice(["dropped", "another type", "another value"])
    if kind == "dropped":
        del inner[key]
    elif kind == "another type":
        inner[key] = of_another_type(rng, value)
    else:
        inner[key] = rng.choice([leaf for leaf in LEAVES if repr(leaf) != repr(value)])
    dotted = ".".join(str(part) for part in place)
    case.changed(f"{path.suffix[1:]} value {kind}", invalid=certain,
                 names=(path.name, dotted, *(str(part) for part in place if not isinstance(part, int))))


def anything(case: Case, path: Path) -> None:
    """Change a file of a record in one of all these ways; none is certainly wrong for every reader."""
    form = {".json": "json", ".jsonl": "text", ".py": "py", ".pth": "binary", ".npz": "binary", ".pkl": "binary",
            ".bin": "binary", ".tar": "binary", ".columns": "binary"}.get(path.suffix, "text")
    text, roll = path.read_bytes(), case.rng.random()
    if roll < 0.15:
        mistreat(case, path, "a file of a run")
    elif (form == "json" and roll < 0.8 and is_tree(text)) \
            or (path.suffix == ".jsonl" and roll < 0.6 and is_tree(text.split(b"\n")[0])):
        change_json(case, path)
    else:
        damage(case, path, form, certain=path.name == "run.json")


def is_tree(text: bytes) -> bool:
    """Whether a text is JSON of which a value can be changed."""
    try:
        return bool(places(json.loads(text.decode())))
    except (ValueError, RecursionError):
        return False


def short(word: str) -> list[str]:
    """A word, if an answer can be expected to repeat it as it is."""
    return [word] if 0 < len(word) < 40 and word.isprintable() else []
