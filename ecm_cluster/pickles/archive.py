"""Checks that a checkpoint file can be read, by its structure: without torch, and without reading its tensors."""

from __future__ import annotations

import errno
import io
import shlex
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from ..base.errors import UserError, naming
from . import restricted

ZIP = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C  # the first object in files of torch before 1.6
BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "ComplexFloat": 8,
         "ComplexDouble": 16}  # per number, by the name of the storage class
DAMAGE = (EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
          RuntimeError, AssertionError, struct.error, zlib.error, zipfile.BadZipFile,
          restricted.pickle.UnpicklingError)


class InvalidCheckpoint(UserError):
    """A file is not a checkpoint, or contains more than plain data; the message has the file and the remedy."""

    cause = "not startable"  # a retry would read the same file


def check(path: str | Path) -> Any:
    """Read the structure of a checkpoint file.

    Returns:
        Its content, with a :class:`restricted.TensorPlaceholder` for each tensor.

    Raises:
        InvalidCheckpoint: It is damaged, of another format, or asks for something that is not plain data.
        FileNotFoundError: It does not exist.
    """
    with open(path, "rb") as handle, naming(path):
        try:
            return _check_zip(handle) if handle.read(len(ZIP)) == ZIP else _check_legacy(handle)
        except DAMAGE as error:
            raise unreadable(path, error) from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: a damaged archive makes zipfile seek to a negative position
                raise
            raise unreadable(path, error) from error


def check_weights(path: str | Path, *entries: str) -> None:
    """Refuse a file that cannot be read or has no weights of a model.

    Args:
        entries: Keys that may hold them, unless the file itself is a dict of tensors; default: ``state_dict``.

    Raises:
        InvalidCheckpoint: As :func:`check`, or there are no tensors at that key.
    """
    content = check(path)
    held = content if isinstance(content, dict) else {}
    name = next((entry for entry in entries or ("state_dict",) if entry in held), None)
    if not _has_tensors(held if name is None else held[name]):
        other = next((name for name, value in held.items() if isinstance(name, str) and _has_tensors(value)), None)
        remedy = f"; to use its entry {other!r}, make a copy: python -c \"import sys, torch; f = " \
            f"torch.load(sys.argv[1], map_location='cpu'); torch.save({{'state_dict': f[{other!r}]}}, sys.argv[2])\" " \
            f"{shlex.quote(str(path))} weights.pth" if other else ""
        raise InvalidCheckpoint(f"{path}: contains no weights; expected a dict of tensors, or one as its entry "
                                f"'state_dict'{remedy}")


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, restricted.TensorPlaceholder) for item in value.values())


def unreadable(path: str | Path, error: BaseException) -> InvalidCheckpoint:
    """The error for users when reading a file has failed."""
    if isinstance(error, restricted.Refused):
        copy = ("import sys, torch; f = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
                "torch.save({'state_dict': f.get('state_dict', f)}, sys.argv[2])")
        return InvalidCheckpoint(f"{path}: contains {error}, which is not plain data, so the file is not read; if you "
                                 f"trust its source, make a copy of just its weights: python -c \"{copy}\" "
                                 f"{shlex.quote(str(path))} weights.pth")
    first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return InvalidCheckpoint(f"{path}: invalid checkpoint ({first}); expected a file written by torch.save")


def _check_zip(handle: BinaryIO) -> Any:
    if not zipfile.is_zipfile(handle):
        raise ValueError("a truncated zip archive")
    with zipfile.ZipFile(handle) as archive:
        entries = set(archive.namelist())
        inner = {name.partition("/")[2]: name for name in entries}
        if "constants.pkl" in inner:
            raise restricted.Refused("a TorchScript program")
        if "data.pkl" not in inner:
            raise ValueError("a zip archive without data.pkl")
        folder = inner["data.pkl"].partition("/")[0]

        held = sum(entry.file_size for entry in archive.infolist())
        there = handle.seek(0, io.SEEK_END)
        if held > 10 * there + (64 << 20):  # a zip bomb: torch.save does not compress
            raise ValueError(f"it has {there >> 20} MiB, and would unpack to {held >> 20} MiB")

        def storage(pid: Any) -> None:
            name = f"{folder}/data/{pid[2]}"
            if pid[0] != "storage" or name not in entries:
                raise ValueError(f"the data of tensor storage {pid[2]} is missing")
            if archive.getinfo(name).file_size < _bytes(pid):
                raise ValueError(f"the data of tensor storage {pid[2]} is truncated")

        return restricted.Structure(io.BytesIO(archive.read(inner["data.pkl"])), storage, encoding="utf-8").load()


def _bytes(pid: Any) -> int:
    """The minimum size of a storage, from its persistent id."""
    numel, kind = pid[4], str(getattr(pid[1], "name", ""))
    if type(numel) is not int or numel < 0:
        raise ValueError(f"a storage of {numel!r} numbers")
    return numel * BYTES.get(kind[:-len("Storage")], 1)


def _check_legacy(handle: BinaryIO) -> Any:
    sizes: dict[Any, int] = {}

    def storage(pid: Any) -> None:
        if pid[0] == "storage":
            sizes[pid[2]] = 8 + _bytes(pid)

    handle.seek(0)
    start = handle.read(512)
    if start[:2] != b"\x80\x02":
        raise ValueError(_other_format(start))
    handle.seek(0)
    content = None
    try:
        if restricted.Structure(handle, encoding="utf-8").load() != MAGIC:
            raise ValueError("a pickle not written by torch.save")
        for _ in ("protocol", "system", "structure"):
            content = restricted.Structure(handle, storage, encoding="utf-8").load()
        restricted.Structure(handle, encoding="utf-8").load()  # the storages' names; their data follow
        begin = handle.tell()
        if handle.seek(0, io.SEEK_END) < begin + sum(sizes.values()):
            raise ValueError("truncated")
    except restricted.Refused:
        if not handle.read(1):
            raise ValueError("truncated") from None  # within a name, which is then not on the list
        raise
    return content


def _other_format(start: bytes) -> str:
    """The format of a file that begins like this and is not a checkpoint."""
    text = start.lstrip().lower()
    if not start:
        return "an empty file"
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer instead of the file: run git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, perhaps from a failed download"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return ("a safetensors file: convert it with python -c \"import sys, torch, safetensors.torch as s; "
                "torch.save({'state_dict': s.load_file(sys.argv[1])}, sys.argv[2])\" FILE weights.pth")
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        return f"a {'tar' if start[257:262] == b'ustar' else 'gzip'} archive; unpack it"
    return "plain text" if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text) else \
        "an unknown format"
