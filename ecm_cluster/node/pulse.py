"""A worker's progress, in memory that its supervisor reads: no file system stands between the two.

The worker rewrites one record in place, whenever it likes; that costs microseconds and cannot fail or block. The
supervisor tells from the record whether the worker is alive, and writes the heartbeat of the whole work from it.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from typing import Any

ENV = "ECM_CLUSTER_PULSE"  # in the worker: the number of the memory's descriptor
SIZE = 1 << 14
HEAD = struct.Struct("<II")  # bytes of the record, and their checksum
TRIES = 5


class Pulse:
    """The memory that a supervisor and its worker share.

    Args:
        descriptor: Of a memory that there is already; without it a new one.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("pulse", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, SIZE)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SIZE)
        self._newest: dict[str, Any] = {}
        self._beats = 0

    def write(self, **progress: Any) -> None:
        """Replace the record; each one differs from the last, as it counts."""
        self._beats += 1
        record = {**progress, "beats": self._beats}
        data = json.dumps(record).encode()
        if len(data) > SIZE - HEAD.size:  # a text of unforeseen length; the numbers and words must get through
            data = json.dumps({k: v if len(str(v)) < 100 else str(v)[:100] for k, v in record.items()}).encode()
        self._memory[HEAD.size:HEAD.size + len(data)] = data
        self._memory[:HEAD.size] = HEAD.pack(len(data), zlib.crc32(data))

    def read(self) -> dict[str, Any]:
        """The newest record, empty before the first; one that is being rewritten is told by its checksum."""
        for _ in range(TRIES):
            size, checksum = HEAD.unpack(self._memory[:HEAD.size])
            data = self._memory[HEAD.size:HEAD.size + size]
            if size and zlib.crc32(data) == checksum:
                self._newest = json.loads(data)
                break
        return self._newest

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)


_own: Pulse | None = None


def beat(**progress: Any) -> None:
    """In a worker: say how far it is (``phase``, ``iteration``, …); news of any kind means that it does not hang."""
    global _own
    if _own is None:
        inherited = os.environ.get(ENV)
        _own = Pulse(int(inherited) if inherited else None)
    _own.write(**progress)


def last() -> dict[str, Any]:
    """In a worker: what it said last."""
    return _own.read() if _own is not None else {}
