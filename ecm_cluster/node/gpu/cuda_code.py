"""Which GPUs a shared library has code for, read from the file: nothing is loaded, and no tool of CUDA's is needed.

nvcc puts the code of all architectures into the ELF section ``.nv_fatbin``: containers, each a header and entries. An
entry is a cubin (machine code, for one compute capability and the later ones of the same major release) or PTX, which
the driver compiles for any later capability. The layout is not documented by NVIDIA; a file that does not read as
described counts as one whose architectures are not known.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

SECTION = ".nv_fatbin"
CONTAINER = 0xBA55ED50  # magic number at the beginning of a container
CONTAINER_HEADER = struct.Struct("<IHHQ")  # magic, version, size of the header, size of what follows
ENTRY_HEADER = struct.Struct("<HHIQ12xI")  # kind, version, size of the header, size of what follows, ..., capability
PTX, CUBIN = 1, 2  # kinds of entries, from CUDA's fatbinary format


@dataclass(frozen=True)
class CudaCode:
    """Compute capabilities as numbers such as 90; ``known`` is False where they could not be read.

    Attributes:
        cubins: Machine code.
        ptx: Code that the driver compiles.
    """

    cubins: frozenset[int]
    ptx: frozenset[int]
    known: bool = True

    def runs_on(self, capability: tuple[int, int]) -> bool:
        """Whether a GPU of this compute capability finds code that it can run."""
        major, minor = capability
        number = 10 * major + minor
        same_major = any(code // 10 == major and code <= number for code in self.cubins)
        return not self.known or same_major or any(code <= number for code in self.ptx)

    def __str__(self) -> str:
        return ", ".join([*(f"sm_{code}" for code in sorted(self.cubins)),
                          *(f"compute_{code}" for code in sorted(self.ptx))])


def cuda_code(library: Path) -> CudaCode | None:
    """What a library has for GPUs; None if it has nothing for them.

    Raises:
        OSError: It cannot be read.
    """
    with open(library, "rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                span = _section(data, SECTION)
                return None if span is None else _architectures(data, *span)
        except (struct.error, ValueError, OverflowError):  # mmap's too, of an empty file
            return CudaCode(frozenset(), frozenset(), known=False)


def _section(data: mmap.mmap, name: str) -> tuple[int, int] | None:
    """(begin, end) of a section of a 64-bit ELF file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<II8x8xQQ", data, table + index * size) for index in range(count)]
    names = headers[names_index][2]
    for name_at, _, offset, length in headers:
        begin = names + name_at
        if data[begin:begin + len(name) + 1] == name.encode() + b"\0":
            return offset, offset + length
    return None


def _architectures(data: mmap.mmap, at: int, end: int) -> CudaCode:
    found: dict[int, set[int]] = {PTX: set(), CUBIN: set()}
    while at + CONTAINER_HEADER.size <= end:
        magic, _, header, size = CONTAINER_HEADER.unpack_from(data, at)
        if magic != CONTAINER:
            at += 8  # padding between containers
            continue
        entry, at = at + header, at + header + size
        while entry + ENTRY_HEADER.size <= at:
            kind, _, header, size, capability = ENTRY_HEADER.unpack_from(data, entry)
            found.setdefault(kind, set()).add(capability)
            if not header:
                raise ValueError("an entry without a header")
            entry += header + size
    return CudaCode(frozenset(found[CUBIN]), frozenset(found[PTX]), known=bool(found[CUBIN] or found[PTX]))
