"""Reads W&B's offline file back: its library does not say whether what it was given has reached the disk.

The file is a log of LevelDB's format: blocks of 32 KiB, of records that may be divided into fragments.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD, BLOCK = 7, 32768  # bytes of the file's head, and of a fragment's
FRAGMENT = struct.Struct("<IHB")  # checksum, length, and which part of a record it is
WHOLE, LAST = 1, 4


def rows(path: Path) -> int:
    """Complete rows of the history.

    Raises:
        OSError: The file cannot be read.
    """
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    return sum(messages.Record.FromString(record).HasField("history") for record in records(path.read_bytes()))


def records(data: bytes) -> Iterator[bytes]:
    """The records up to the first that is truncated."""
    at, record = HEAD, b""
    while True:
        if BLOCK - at % BLOCK < FRAGMENT.size:
            at += BLOCK - at % BLOCK
        if at + FRAGMENT.size > len(data):
            return
        _, length, part = FRAGMENT.unpack_from(data, at)
        at += FRAGMENT.size
        if part == 0 or at + length > len(data):
            return
        record += data[at:at + length]
        at += length
        if part in (WHOLE, LAST):
            yield record
            record = b""
