"""What stands in the place of tensors, arrays and functions where a pickle is read without torch and numpy."""

from __future__ import annotations

import pickle
import sys
from typing import Any

NATIVE = "<" if sys.byteorder == "little" else ">"


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that is not on the list; the text names it."""


class StandIn:
    """In the place of a function, a tensor or an array."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __call__(self, *_: Any) -> StandIn:
        return StandIn()

    def __setstate__(self, state: Any) -> None:
        """Nothing is kept."""


class TensorStandIn(StandIn):
    """In the place of a tensor."""


class StorageStandIn(StandIn):
    """In the place of the numbers of tensors, of which it knows how many there are."""

    def __init__(self, numel: Any) -> None:
        super().__init__()
        if type(numel) is not int or numel < 0:
            raise ValueError(f"a storage of {numel!r} numbers")
        self.numel = numel


class Maker(StandIn):
    """In the place of a function that makes a tensor."""

    def __call__(self, *args: Any) -> TensorStandIn:
        if self.name in ("_rebuild_tensor", "_rebuild_tensor_v2") and args and isinstance(args[0], StorageStandIn):
            _check_shape(args[0].numel, *args[1:4])
        return TensorStandIn()


def _check_shape(numel: int, offset: Any = None, size: Any = None, stride: Any = None) -> None:
    """Whether a tensor lies in its storage: torch would make the storage larger, with whatever is in memory."""
    shape = [size, stride, [offset]]
    if not all(isinstance(part, (list, tuple)) and all(type(n) is int and n >= 0 for n in part) for part in shape) \
            or len(size) != len(stride):
        raise ValueError("a tensor without a valid shape")
    if min(size, default=1) and offset + 1 + sum((n - 1) * step for n, step in zip(size, stride)) > numel:
        raise ValueError("a tensor that reaches beyond its storage")


class DtypeStandIn(StandIn):
    """In the place of a dtype, of which it knows what can be read."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __setstate__(self, state: Any) -> None:
        foreign_order(self.text, state)


def foreign_order(text: str, state: Any) -> str | None:
    """The byte order in a dtype's state, where it is not this machine's; the rest of it is in its text."""
    order = state[1]
    if order in ("|", "=", NATIVE):
        return None
    if order not in ("<", ">") or text[0] in "SU":
        raise Refused(f"numpy data of dtype {order}{text}")
    return str(order)
