"""Whether a checkpoint file can be read, told from its structure: without torch, and without reading its tensors."""

from __future__ import annotations

import io
import shlex
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UserError
from . import restricted

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch wrote before 1.6
DAMAGE = (EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
          NotImplementedError, RecursionError, AssertionError, zipfile.BadZipFile, restricted.pickle.UnpicklingError)


class Unreadable(UserError):
    """A file that is not a checkpoint, or holds more than plain data: one line that names the file and the remedy."""

    cause = "not startable"  # another try finds the same file


def check(path: str | Path) -> None:
    """Read a file's structure as the reader of checkpoints would.

    Raises:
        Unreadable: It is damaged, of another format, or asks for something that is not plain data.
        FileNotFoundError: It does not exist.
    """
    with open(path, "rb") as handle:
        try:
            if handle.read(len(ZIP)) == ZIP:
                _check_zip(handle)
            else:
                _check_legacy(handle)
        except DAMAGE as error:
            raise unreadable(path, error) from error


def unreadable(path: str | Path, error: BaseException) -> Unreadable:
    """What an error of reading a file means to its user."""
    if isinstance(error, restricted.Refused):
        copy = ("import sys, torch; f = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
                "torch.save({'state_dict': f.get('state_dict', f)}, sys.argv[2])")
        return Unreadable(f"{path}: holds {error}, which is not plain data, so the file is not read; if you trust its "
                          f"source, make a copy with its weights alone: python -c \"{copy}\" {shlex.quote(str(path))} "
                          "weights.pth")
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return Unreadable(f"{path}: not a checkpoint that can be read ({first}); expected a file written by torch.save")


def _check_zip(handle: BinaryIO) -> None:
    with zipfile.ZipFile(handle) as archive:
        entries = set(archive.namelist())
        inner = {name.partition("/")[2]: name for name in entries}
        if "constants.pkl" in inner:
            raise restricted.Refused("a TorchScript program")
        if "data.pkl" not in inner:
            raise ValueError("a zip archive without data.pkl")
        folder = inner["data.pkl"].partition("/")[0]

        def storage(pid: Any) -> None:
            if pid[0] != "storage" or f"{folder}/data/{pid[2]}" not in entries:
                raise ValueError(f"it lacks the data of tensor storage {pid[2]}")

        restricted.Structure(io.BytesIO(archive.read(inner["data.pkl"])), storage, encoding="utf-8").load()


def _check_legacy(handle: BinaryIO) -> None:
    handle.seek(0)
    if handle.read(2) != b"\x80\x02":
        raise ValueError("it begins as no checkpoint does")
    handle.seek(0)
    if restricted.Structure(handle, encoding="utf-8").load() != MAGIC:
        raise ValueError("a pickle that torch.save did not write")
    for _ in ("protocol", "system", "structure"):
        restricted.Structure(handle, encoding="utf-8").load()
