"""Which of the GPUs that it sees a rank takes, so that no two ranks of a node take the same one.

Slurm may show a task its own GPU, all GPUs of its node, or (with ``--gpu-bind``) those near its cores, which several
tasks share. Ranks therefore tell each other which GPUs they see, and all of them compute the same assignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...attempts.failures import NotStartable
from ..gathering import gather_json
from ..world import RankInfo, device_index, node_name
from .cuda_driver import Driver, DriverError


def agree(place: RankInfo, visible: int, group: Any) -> int:
    """The GPU of this rank; collective.

    Args:
        visible: GPUs that the rank sees.
        group: A gloo group over all ranks.

    Raises:
        NotStartable: The ranks of a node see fewer GPUs between them than they are.
    """
    seen = gather_json({"node": place.node, "local_rank": place.local_rank, "uuids": _uuids(visible)}, group)
    mates = [rank for rank in seen if rank["node"] == place.node]
    if not all(rank["uuids"] for rank in mates):
        return device_index(place, visible)  # an older driver does not tell GPUs apart, so nothing can be compared
    mates.sort(key=lambda rank: rank["local_rank"])
    chosen = assign([rank["uuids"] for rank in mates])
    if chosen is None:
        different = len({uuid for rank in mates for uuid in rank["uuids"]})
        raise NotStartable(f"{node_name()}: its {len(mates)} ranks see {different} GPUs between them; ask for one GPU "
                           "for each rank, and look at --gpu-bind and CUDA_VISIBLE_DEVICES")
    return chosen[[rank["local_rank"] for rank in mates].index(place.local_rank)]


def assign(seen: Sequence[Sequence[str]]) -> list[int] | None:
    """For each rank of a node the index of its GPU among those that it sees; None where there are too few.

    Ranks that see the same GPUs take them in their order. Otherwise it is a bipartite matching, by augmenting paths.

    Args:
        seen: UUIDs of the GPUs that each rank sees, by local rank.
    """
    owner: dict[str, int] = {}

    def place(rank: int, tried: set[str]) -> bool:
        gpus = seen[rank]
        first = rank % len(gpus)
        for uuid in [*gpus[first:], *gpus[:first]]:
            if uuid not in tried:
                tried.add(uuid)
                if uuid not in owner or place(owner[uuid], tried):
                    owner[uuid] = rank
                    return True
        return False

    if not all(gpus and place(rank, set()) for rank, gpus in enumerate(seen)):
        return None
    chosen = {rank: uuid for uuid, rank in owner.items()}
    return [list(gpus).index(chosen[rank]) for rank, gpus in enumerate(seen)]


def _uuids(visible: int) -> list[str]:
    """What this process sees, in the order of the indices; empty where the driver does not say."""
    try:
        found = [gpu.uuid for gpu in Driver().gpus()]
    except (DriverError, AttributeError):
        return []
    return found if len(found) == visible else []
