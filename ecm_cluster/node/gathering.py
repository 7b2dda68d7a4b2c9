"""What each rank has, for all ranks or for rank 0: as bytes that no reader of ours ever unpickles with ``pickle``.

torch's collectives for objects run what another rank has pickled. A connection between ranks is not authenticated, so
a process that takes a rank's place could have code run on every other.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist


def gather_bytes(data: bytes, group: Any, to_all: bool = True) -> list[bytes]:
    """The data of each rank, by rank; collective over a gloo group.

    Args:
        to_all: Else rank 0 alone gets it, and the others nothing.
    """
    ranks, first = dist.get_world_size(group), dist.get_rank(group) == 0
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks)]
    dist.all_gather(sizes, torch.tensor([len(data)]), group=group)
    longest = max(1, *(int(size) for size in sizes))
    own = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8)
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in sizes] if to_all or first else []
    if to_all:
        dist.all_gather(parts, own, group=group)
    else:
        dist.gather(own, parts or None, dst=0, group=group)
    return [part.numpy()[:int(size)].tobytes() for part, size in zip(parts, sizes)]


def gather_json(value: Any, group: Any) -> list[Any]:
    """What each rank gave, by rank; collective over a gloo group."""
    return [json.loads(data) for data in gather_bytes(json.dumps(value).encode(), group)]
