"""Whether a checkpoint file can be read, told from its structure: without torch, and without reading its tensors."""

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
MAGIC = 0x1950A86A20F9469CFC6C  # begins what torch wrote before 1.6
BYTES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "ComplexFloat": 8,
         "ComplexDouble": 16}  # of a number, by the name of its storage
DAMAGE = (EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError,
          RuntimeError, AssertionError, struct.error, zlib.error, zipfile.BadZipFile,
          restricted.pickle.UnpicklingError)


class Unreadable(UserError):
    """A file that is not a checkpoint, or holds more than plain data: one line that names the file and the remedy."""

    cause = "not startable"  # another try finds the same file


def check(path: str | Path) -> Any:
    """Read a file's structure as the reader of checkpoints would.

    Returns:
        What it holds, with a :class:`restricted.TensorStandIn` for each tensor.

    Raises:
        Unreadable: It is damaged, of another format, or asks for something that is not plain data.
        FileNotFoundError: It does not exist.
    """
    with open(path, "rb") as handle, naming(path):
        try:
            return _check_zip(handle) if handle.read(len(ZIP)) == ZIP else _check_legacy(handle)
        except DAMAGE as error:
            raise unreadable(path, error) from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # which is a damaged archive's: it asks to read from before its begin
                raise
            raise unreadable(path, error) from error


def check_weights(path: str | Path, *entries: str) -> None:
    """Refuse a file that cannot be read, or that holds no weights of a model.

    Args:
        entries: Where its reader looks for them, unless the file is a dict of tensors itself; default: ``state_dict``.

    Raises:
        Unreadable: As :func:`check`, or there is no tensor in that place.
    """
    content = check(path)
    held = content if isinstance(content, dict) else {}
    name = next((entry for entry in entries or ("state_dict",) if entry in held), None)
    if not _has_tensors(held if name is None else held[name]):
        other = next((name for name, value in held.items() if isinstance(name, str) and _has_tensors(value)), None)
        remedy = f"; if you mean those of its entry {other!r}, make a copy: python -c \"import sys, torch; f = " \
            f"torch.load(sys.argv[1], map_location='cpu'); torch.save({{'state_dict': f[{other!r}]}}, sys.argv[2])\" " \
            f"{shlex.quote(str(path))} weights.pth" if other else ""
        raise Unreadable(f"{path}: holds no weights; expected a dict of tensors, by itself or as its entry "
                         f"'state_dict'{remedy}")


def _has_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(item, restricted.TensorStandIn) for item in value.values())


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


def _check_zip(handle: BinaryIO) -> Any:
    if not zipfile.is_zipfile(handle):
        raise ValueError("a zip archive that was cut short")
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
        if held > 10 * there + (64 << 20):  # torch.save does not compress
            raise ValueError(f"it has {there >> 20} MiB, and would unpack to {held >> 20} MiB")

        def storage(pid: Any) -> None:
            name = f"{folder}/data/{pid[2]}"
            if pid[0] != "storage" or name not in entries:
                raise ValueError(f"it lacks the data of tensor storage {pid[2]}")
            if archive.getinfo(name).file_size < _bytes(pid):
                raise ValueError(f"the data of tensor storage {pid[2]} was cut short")

        return restricted.Structure(io.BytesIO(archive.read(inner["data.pkl"])), storage, encoding="utf-8").load()


def _bytes(pid: Any) -> int:
    """The least that the numbers of a storage take, as its persistent id tells."""
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
            raise ValueError("a pickle that torch.save did not write")
        for _ in ("protocol", "system", "structure"):
            content = restricted.Structure(handle, storage, encoding="utf-8").load()
        restricted.Structure(handle, encoding="utf-8").load()  # the storages' names, and then their data
        begin = handle.tell()
        if handle.seek(0, io.SEEK_END) < begin + sum(sizes.values()):
            raise ValueError("it was cut short")
    except restricted.Refused:
        if not handle.read(1):
            raise ValueError("it was cut short") from None  # within a name
        raise
    return content


def _other_format(start: bytes) -> str:
    """What a file is that begins like this, and no checkpoint."""
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer in place of the file: run git lfs pull"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, maybe the answer to a failed download"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return ("a safetensors file: convert it by python -c \"import sys, torch, safetensors.torch as s; "
                "torch.save({'state_dict': s.load_file(sys.argv[1])}, sys.argv[2])\" FILE weights.pth")
    if start.startswith(b"\x1f\x8b") or start[257:262] == b"ustar":
        return f"a {'tar' if start[257:262] == b'ustar' else 'gzip'} archive; unpack it"
    return "plain text" if text and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in text) else \
        "no checkpoint begins as it does"
