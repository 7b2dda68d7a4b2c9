"""What differs between ranks (SeesawLoss counts its samples), or is in no state_dict: into a checkpoint and back."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch

from ...attempts.failures import NotStartable
from ...pickles import restricted
from ..gathering import gather_bytes, gather_json
from ..training import loading


def gather(runner: Any, group: Any) -> list[dict[str, torch.Tensor]]:
    """Collective: for each virtual rank the buffers that are not the same for all, on rank 0; elsewhere nothing."""
    mine, share = runner.rank_buffers.each(), runner.share
    if share.virtual == 1:
        return []
    sums = [{name: _digest(value) for name, value in own.items()} for own in mine]
    if share.world_size > 1:
        sums = [own for part in gather_json(sums, group) for own in part]
    differing = [name for name in sums[0] if any(other[name] != sums[0][name] for other in sums)]
    if not differing:
        return []
    return _collect([{name: own[name] for name in differing} for own in mine], share, group)


def gather_plain(runner: Any, group: Any) -> dict[str, Any]:
    """Collective: plain attributes of each virtual rank's model, as a part of the state; empty if none changed."""
    found = _collect(runner.rank_buffers.plain_of_each(), runner.share, group)
    return {"attributes": found} if any(found) else {}


def _collect(mine: list[Any], share: Any, group: Any) -> list[Any]:
    """What each virtual rank has, in their order, on rank 0; elsewhere nothing."""
    if share.world_size == 1:
        return mine
    buffer = io.BytesIO()
    torch.save(mine, buffer)
    try:
        return [own for data in gather_bytes(buffer.getvalue(), group, to_all=False)
                for own in loading.read_bytes(data)]
    except restricted.Refused as error:
        raise NotStartable(f"a checkpoint cannot hold {error}, which a rank's model has in an attribute; keep plain "
                           "data there: numbers, strings, lists, dicts, tensors and arrays") from error


def restore(runner: Any, state: dict[str, Any], source: str) -> None:
    """Take up a checkpoint, each virtual rank with its own buffers.

    Raises:
        RuntimeError: It holds the buffers of another number of ranks than the run is laid out for.
    """
    share, own = runner.share, state.get("rank_buffers") or []
    if plain := state.get("attributes"):
        # set when the runner has taken note of what a freshly built model has
        runner.plain_of_ranks = [plain[v % len(plain)] for v in share.ranks]
    if not own:
        runner.restore(state)
        return
    if len(own) != share.virtual:
        laid_out = state["meta"].get("virtual_ranks")
        if laid_out == share.virtual:
            raise RuntimeError(f"{source} holds the buffers of {len(own)} ranks instead of {share.virtual}; "
                               "go on from another checkpoint")
        # rescaled on request: counts and statistics of the former ranks are dealt out anew
        own = [own[v % len(own)] for v in range(share.virtual)]
    mine = [own[v] for v in share.ranks]
    runner.restore({**state, "state_dict": {**state["state_dict"], **mine[0]}})
    runner.rank_buffers.give(mine)


def _digest(tensor: torch.Tensor) -> str:
    # flat: a single number (BatchNorm counts its batches) cannot be seen as bytes otherwise
    data = tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
