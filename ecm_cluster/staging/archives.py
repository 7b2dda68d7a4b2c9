"""Zip files that are read where they are, by many threads at once; and what is said of a file that cannot be read.

Covered: members that are stored or deflated, also in files of more than 4 GiB. Every member is held to its CRC.
"""

from __future__ import annotations

import os
import struct
import weakref
import zipfile
import zlib
from pathlib import Path

from ..errors import UserError

_LOCAL = struct.Struct("<4s22xHH")  # of a zip member's header before its data: magic, lengths of name and extra


class Archive:
    """A zip file, open; members are read by pread, so that threads need not wait for each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._fd)
            self._stat = os.fstat(self._fd)
            with zipfile.ZipFile(path) as opened:
                self.members = [m for m in opened.infolist() if not m.is_dir()]
        except OSError as error:
            raise unreadable(path, error) from None
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise UserError(f"{path}: is no zip file that can be read ({error}); fetch it again") from None

    def check(self) -> None:
        """Raise :class:`UserError` where the file is no longer the one that was opened."""
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
            raise UserError(f"{where} is encrypted, or compressed otherwise than by deflate; unpack the zip file")
        try:
            # its header, and its data most of the time, in one round trip
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


def unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be read ({error.strerror or error}); mend it or take it away")


def changed(path: Path) -> UserError:
    return UserError(f"{path}: changed while it was read; wait until nobody writes there, and give the command again")
