"""Plain values: numbers, strings, times, small arrays, and containers of them; recognised, copied and compared."""

from __future__ import annotations

import collections
import datetime
import pathlib
from typing import Any

import numpy as np
import torch

LIMIT = 4000  # values in a container: class names of LVIS are kept, lists of annotations are not
DEEPEST = 50  # containers and objects in one another
SCALARS = frozenset((bool, int, float, complex, str, bytes, type(None), datetime.datetime, datetime.date,
                     datetime.timedelta, pathlib.PosixPath, torch.Size, torch.dtype, torch.device))
SEQUENCES = (list, tuple, set, frozenset, collections.deque)
TABLES = (dict, collections.OrderedDict, collections.Counter, collections.defaultdict)
FACTORIES = (None, bool, int, float, str, list, dict, set)  # of defaultdicts
PLAIN_KINDS = "biufcSU"  # of numpy's dtypes


def is_plain(value: Any) -> bool:
    """Whether a value is made of numbers, strings and the like in few enough containers."""
    if type(value) in SCALARS:
        return True
    left, todo = LIMIT, [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for item in todo:
            kind = type(item)
            left -= item.size if kind is np.ndarray else 1
            if left < 0:
                return False
            if kind in SEQUENCES and len(item) <= left:
                inner += item
            elif kind in TABLES and 2 * len(item) <= left and getattr(item, "default_factory", None) in FACTORIES:
                inner += [*item.keys(), *item.values()]
            elif kind not in SCALARS and not (
                    (kind is np.ndarray or isinstance(item, np.generic)) and item.dtype.kind in PLAIN_KINDS):
                return False
        if not inner:
            return True
        todo = inner
    return False


def copied(value: Any) -> Any:
    """A plain value that stays when the other one is changed in place."""
    if type(value) in TABLES:
        made = value.copy()  # with its factory
        for key, item in value.items():
            made[key] = copied(item)
        return made
    if type(value) is collections.deque:
        return collections.deque(map(copied, value), value.maxlen)
    if type(value) in SEQUENCES:
        return type(value)(map(copied, value))
    return value.copy() if type(value) is np.ndarray else value


def differ(one: Any, other: Any) -> bool:
    """Whether plain values differ: in type, in sign, in a byte; NaN is itself."""
    if one is other and type(one) in SCALARS:
        return False
    if type(one) is not type(other):
        return True
    if type(one) in TABLES:
        return differ(list(one.items()), list(other.items()))
    if type(one) in (list, tuple, collections.deque):
        return len(one) != len(other) or any(map(differ, one, other))
    if type(one) is np.ndarray:
        return bool(one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes())
    return repr(one) != repr(other)
