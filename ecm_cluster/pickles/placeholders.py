"""Placeholders for tensors, arrays and functions in a pickle that is read without torch and numpy."""

from __future__ import annotations

import pickle
import sys
from typing import Any

NATIVE = "<" if sys.byteorder == "little" else ">"


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that is not on the list; the text says what."""


class Placeholder:
    """For a function or an array."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __call__(self, *_: Any) -> Placeholder:
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        """The state is dropped."""


class TensorPlaceholder(Placeholder):
    """For a tensor."""


class StoragePlaceholder(Placeholder):
    """For the storage of tensors; knows how many numbers it has."""

    def __init__(self, numel: Any) -> None:
        super().__init__()
        if type(numel) is not int or numel < 0:
            raise ValueError(f"a storage of {numel!r} numbers")
        self.numel = numel


class TensorConstructor(Placeholder):
    """For a function that returns a tensor."""

    def __call__(self, *args: Any) -> TensorPlaceholder:
        if self.name in ("_rebuild_tensor", "_rebuild_tensor_v2") and args and isinstance(args[0], StoragePlaceholder):
            _check_shape(args[0].numel, *args[1:4])
        return TensorPlaceholder()


def _check_shape(numel: int, offset: Any = None, size: Any = None, stride: Any = None) -> None:
    """Check that a tensor is within its storage: torch would enlarge the storage, with uninitialised memory."""
    shape = [size, stride, [offset]]
    if not all(isinstance(part, (list, tuple)) and all(type(n) is int and n >= 0 for n in part) for part in shape) \
            or len(size) != len(stride):
        raise ValueError("a tensor without a valid shape")
    if min(size, default=1) and offset + 1 + sum((n - 1) * step for n, step in zip(size, stride)) > numel:
        raise ValueError("a tensor that extends beyond its storage")


class DtypePlaceholder(Placeholder):
    """For a dtype; refuses the byte orders that cannot be read."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __setstate__(self, state: Any) -> None:
        foreign_order(self.text, state)


def foreign_order(text: str, state: Any) -> str | None:
    """The byte order in a dtype's state if it is not this machine's; everything else is in its text."""
    order = state[1]
    if order in ("|", "=", NATIVE):
        return None
    if order not in ("<", ">") or text[0] in "SU":
        raise Refused(f"numpy data of dtype {order}{text}")
    return str(order)
