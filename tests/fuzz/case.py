"""One case: valid input in a folder of its own, what was changed in it, and the command line that meets it."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LINKED_FROM = 1 << 18  # bytes from which files of the library are linked, not copied


@dataclass(frozen=True)
class Library:
    """Valid input, made once; no case changes it."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def pack(self) -> Path:
        return self.folder / "data.pack"

    @property
    def half_pack(self) -> Path:
        """What a call of `stage pack` left that was killed before it wrote the manifest."""
        return self.folder / "half.pack.partial"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "real"

    @property
    def scratch(self) -> Path:
        """A node's scratch that holds the pack."""
        return self.folder / "scratch"

    @property
    def checkpoint(self) -> Path:
        return next((self.run / "checkpoints").glob("*.pth"))


@dataclass
class Case:
    """A command line and what is known of its input.

    Attributes:
        argv: The verb and its words.
        kinds: What was changed, for the summary and for the reader.
        names: The answer to a refusal holds one of them: the file, the field, the flag.
        invalid: Whether the input is certainly wrong, so that an answer of 0 is a fault.
        may_start: Whether the verb may leave a process behind, as a submission does.
        env: Variables beside those that every case has.
    """

    number: int
    rng: random.Random
    work: Path
    library: Library
    argv: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    invalid: bool = False
    may_start: bool = False
    env: dict[str, str] = field(default_factory=dict)

    def changed(self, kind: str, invalid: bool = False, names: Iterable[object] = ()) -> None:
        self.kinds.append(kind)
        self.names += [str(name) for name in names if str(name)]
        self.invalid |= invalid

    def choose(self, values: Iterable[Any]) -> Any:
        return self.rng.choice(list(values))

    def write(self, name: str, data: str | bytes) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
        return path

    def copy(self, source: Path, name: str) -> Path:
        """A folder or a file of the library, in this case's folder."""
        target = self.work / name
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link_or_copy, symlinks=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(str(source), str(target))
        return target

    def replace(self, path: Path, data: bytes) -> None:
        """Give a file other content; its links keep theirs."""
        path.unlink()
        path.write_bytes(data)


def _link_or_copy(source: str, target: str) -> str:
    if "/code/" in source or os.stat(source).st_size >= LINKED_FROM:
        os.link(source, target)
        return target
    return shutil.copyfile(source, target)
