"""A training's state as the bytes and storages of a checkpoint; what none can hold is left out, and named."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any

import torch

from ...pickles import restricted

DEEPEST = 100  # containers in one another, where something cannot be kept
PLAIN = (type(None), bool, int, float, str, bytes)
LOST = object()


def pickled(state: Any) -> tuple[bytes, list[torch.UntypedStorage], list[str]]:
    """A state as ``torch.save`` pickles it, readable by :mod:`ecm_cluster.pickles.restricted`.

    Returns:
        The pickled structure, the storages that it refers to by number, and what was left out: dotted keys with the
        reason in brackets.
    """
    try:
        return (*_dump(state), [])
    except Exception:  # hooks keep what they want in runner.meta, and pickling it runs their code
        lost: list[str] = []
        kept = _kept(state, "", lost, ())
        return (*_dump(kept), lost)


def _dump(value: Any) -> tuple[bytes, list[torch.UntypedStorage]]:
    rest = io.BytesIO()
    pickler = _StoragePickler(rest)
    pickler.dump(value)
    structure = rest.getvalue()
    restricted.FastStructure(io.BytesIO(structure)).load()
    return structure, pickler.storages


def _kept(value: Any, key: str, lost: list[str], inside: tuple[int, ...]) -> Any:
    """A copy of nested containers without what cannot be kept, or LOST; a list stays whole or goes."""
    if type(value) in PLAIN:
        return value
    if type(value) not in (dict, OrderedDict, list, tuple):
        return _leaf(value, key, lost)
    if id(value) in inside or len(inside) == DEEPEST:
        lost.append(f"{key} (nested in itself, or too deeply)")
        return LOST
    inside = (*inside, id(value))
    if isinstance(value, (list, tuple)):
        items = [_kept(item, f"{key}.{number}", lost, inside) for number, item in enumerate(value)]
        return LOST if any(item is LOST for item in items) else type(value)(items)
    made = type(value)()
    if isinstance(value, OrderedDict):
        vars(made).update(_kept(dict(vars(value)), key, lost, inside))  # a state_dict's _metadata
    for name, item in value.items():
        here = f"{key}.{name}" if key else str(name)
        if _leaf(name, f"{key}.<a key>", lost) is LOST:
            continue
        item = _kept(item, here, lost, inside)
        if item is not LOST:
            made[name] = item
    return made


def _leaf(value: Any, key: str, lost: list[str]) -> Any:
    try:
        _dump(value)
    except Exception as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        lost.append(f"{key} ({error if isinstance(error, restricted.Refused) else kind})")
        return LOST
    return value


class _StoragePickler(pickle.Pickler):
    """Pickles as ``torch.save`` does: a storage becomes a reference, and is collected once."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[torch.UntypedStorage] = []
        self._numbers: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, torch.storage.TypedStorage):
            # the names without an underscore are torch 1.13's, where these are public
            typed: Any = obj
            storage = typed._untyped_storage if hasattr(typed, "_untyped_storage") else typed._storage
            kind = getattr(torch, (getattr(typed, "_pickle_storage_type", None) or typed.pickle_storage_type)())
            size = (getattr(typed, "_size", None) or typed.size)()
        elif isinstance(obj, torch.UntypedStorage):  # of dtypes that have no typed one
            storage, kind, size = obj, torch.UntypedStorage, obj.nbytes()
        else:
            return None
        if storage._cdata not in self._numbers:
            self._numbers[storage._cdata] = len(self.storages)
            self.storages.append(storage)  # which also keeps it, so that no other gets its address
        # wherever the tensor lived, it is read back on the CPU, which any machine has
        return ("storage", kind, str(self._numbers[storage._cdata]), "cpu", size)
