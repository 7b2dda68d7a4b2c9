"""Zip files that are read where they are, by many threads at once; and the errors of files that cannot be read.

Covered: members that are stored or deflated, also in files of more than 4 GiB. Every member is checked against its CRC
and the size in the archive. Not covered: archives that expand to more than any data set does, and members that are not
regular files.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import weakref
import zipfile
import zlib
from pathlib import Path

from ..base.disk import SHORT
from ..base.errors import Failed, UserError
from ..base.reading import Unreadable, open_regular
from ..base.units import size_text

LARGEST_IMAGE = 1 << 30  # bytes; an image is read as a whole
LARGEST_LIST = 256 << 20  # bytes of an archive's list of members; that of COCO's train2017.zip has 10 MB
EXPANDS = 200  # times its size, if that is more than FREE bytes; deflate reaches 1030, images and annotations 10
FREE = 256 << 20  # bytes to which anything may expand: so much does no harm in memory or on a disk
_LOCAL = struct.Struct("<4s22xHH")  # of a zip member's header before its data: magic, lengths of name and extra


class _Limited(io.FileIO):
    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_LIST:  # zipfile reads the list of members at once
            raise zipfile.BadZipFile(f"its list of members has {size} bytes")
        return super().read(size)


class Archive:
    """An open zip file; members are read by pread, so threads do not wait for each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = open_regular(path)
            weakref.finalize(self, os.close, self._fd)
            self._stat = os.fstat(self._fd)
            with _Limited(path) as handle, zipfile.ZipFile(handle) as opened:
                self.members = [m for m in opened.infolist() if not m.is_dir()]
        except OSError as error:
            raise unreadable(path, error) from None
        except Unreadable:
            raise
        except (zipfile.BadZipFile, NotImplementedError, ValueError, LookupError, ArithmeticError,
                struct.error) as error:
            raise UserError(f"{path}: is not a readable zip file ({error}); fetch it again") from None

    def check_member(self, member: zipfile.ZipInfo) -> None:
        """Raise :class:`UserError` for a member that is not a regular file, or whose sizes are impossible."""
        kind = stat.S_IFMT(member.external_attr >> 16) if member.create_system == 3 else 0
        problem = None
        if kind not in (0, stat.S_IFREG):
            problem = "is a link or another special file; unpack the zip file"
        elif not 0 <= member.header_offset <= self._stat.st_size - member.compress_size:
            problem = "is outside of the zip file; fetch it again"
        elif _expands(member.file_size, member.compress_size):
            problem = f"expands to {size_text(member.file_size)}, over {EXPANDS} times its size; remove the zip file"
        if problem is not None:
            raise UserError(f"{self.path}: member {member.filename} {problem}")

    def check_total(self, size: int) -> None:
        """Raise :class:`UserError` if members of ``size`` bytes in all are more than it can hold."""
        if _expands(size, self._stat.st_size):
            raise UserError(f"{self.path}: expands to {size_text(size)}, over {EXPANDS} times its size; remove it")

    def check(self) -> None:
        """Raise :class:`UserError` if the file is no longer the one that was opened."""
        try:
            now = os.stat(self.path)
        except OSError as error:
            raise unreadable(self.path, error) from None
        if (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
            raise changed(self.path)

    @property
    def stamp(self) -> int:
        return self._stat.st_mtime_ns

    def read(self, member: zipfile.ZipInfo) -> bytes:
        where = f"{self.path}: member {member.filename}"
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"{where} is encrypted, or not compressed by deflate; unpack the zip file")
        try:
            # its header and, most of the time, its data in one round trip
            ahead = _LOCAL.size + len(member.filename.encode()) + 64 + member.compress_size
            found = os.pread(self._fd, ahead, member.header_offset)
            magic, name, extra = _LOCAL.unpack_from(found)
            begin = _LOCAL.size + name + extra
            if begin + member.compress_size > len(found):
                found = os.pread(self._fd, begin + member.compress_size, member.header_offset)
            data = found[begin:begin + member.compress_size]
            if member.compress_type == zipfile.ZIP_DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, member.file_size + 1)
        except OSError as error:
            raise unreadable(self.path, error) from None
        except (struct.error, zlib.error):
            magic = data = b""
        if magic != b"PK\3\4" or len(data) != member.file_size or zlib.crc32(data) != member.CRC:
            self.check()
            raise UserError(f"{where} is corrupt; fetch the zip file again")
        return data


def _expands(size: int, compressed: int) -> bool:
    return size > FREE and size > EXPANDS * compressed


def unreadable(path: Path, error: OSError) -> UserError:
    kind = Failed if error.errno in SHORT else UserError
    return kind(f"{path}: cannot be read ({error.strerror or error}); fix or remove it")


def changed(path: Path) -> UserError:
    return UserError(f"{path}: changed while it was read; wait until nothing writes there, and run the command again")
