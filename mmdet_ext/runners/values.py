"""Plain values inside an object that change while it is used: found, copied, compared, and put back.

A plain value is made of numbers, strings, times, small arrays and containers of them. Objects are looked into as far as
a caller says. Other data (tensors, large containers, generators of random numbers) is compared by a mark, so that its
changes can be named.
"""

from __future__ import annotations

import collections
import enum
import numbers
import pickle
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, List, Tuple

import numpy as np
import torch

from .plain import DEEPEST, LIMIT, copied, differ, is_plain

# set again at the start of an epoch, caches, or not state at all
NOT_STATE = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set",
             "_is_full_backward_hook", "_cast", "_labels_of", "CLASSES", "PALETTE"}
# other data: compared by its bytes, or by what it holds
BY_BYTES = (np.ndarray, np.generic, np.random.RandomState, np.random.Generator, random.Random, enum.Enum,
            numbers.Number)
CONTAINERS = (list, tuple, set, frozenset, collections.deque, Mapping)
DATA = (torch.Tensor, torch.Generator, *BY_BYTES, *CONTAINERS)
PLAIN, OBJECT, OTHER = "plain", "object", "other"

Path = Tuple[Tuple[str, Any], ...]  # of ("attribute", name), ("item", key), ("gradient", name) and ("tensor", name)
Found = List[Tuple[Path, Any, str]]  # (path, part, kind)


def _mark(value: Any) -> Any:
    """What tells data that is not plain from itself after a change."""
    try:
        if isinstance(value, torch.Tensor):
            return id(value), value._version
        if isinstance(value, CONTAINERS):
            parts = () if isinstance(value, Mapping) or len(value) > LIMIT else tuple(map(_mark, value))
            return id(value), len(value), parts
        if isinstance(value, torch.Generator):
            return value.get_state().cpu().numpy().tobytes()
        if value is np.random.mtrand._rand or not isinstance(value, BY_BYTES):  # numpy's own: each step seeds it
            return type(value)
        return pickle.dumps(value) if getattr(value, "size", 0) <= LIMIT else id(value)
    except Exception:  # it runs code of its own, or is too deep
        return id(value)


def is_walkable(value: Any) -> bool:
    """Whether an object may hold parts of a dataset or a model; handles, arrays, classes and loggers do not."""
    try:
        if isinstance(value, (torch.Tensor, type, enum.Enum)) or callable(getattr(value, "fileno", None)):
            return False
    except Exception:  # of its own __getattr__
        return False
    if isinstance(value, CONTAINERS):
        return type(value) is tuple or isinstance(value, (list, Mapping))  # a named one is data
    return hasattr(value, "__dict__") and (isinstance(value, torch.nn.Module) or origin(value) not in (
        "builtins", "numpy", "torch", "logging", "threading", "weakref", "functools", "re", "_thread", "pathlib",
        "random", "decimal", "fractions"))


def is_small(value: Any) -> bool:
    """Whether something is a container all of which is looked at."""
    return isinstance(value, (list, tuple, Mapping)) and _look(value, is_walkable) is not None and len(value) <= LIMIT


def origin(value: Any) -> str:
    """The package of an object's class."""
    return type(value).__module__.partition(".")[0]


def _parts(value: Any) -> Iterator[tuple[tuple[str, Any], Any]]:
    """(step, part) of everything inside an object that may hold state."""
    if isinstance(value, torch.nn.Module):
        yield from ((("item", name), module) for name, module in value._modules.items() if module is not None)
        for name, parameter in value._parameters.items():
            if parameter is not None:
                yield ("gradient", name), parameter.requires_grad
                yield ("tensor", name), parameter
        yield from ((("tensor", name), b) for name, b in value._buffers.items()
                    if b is not None and name not in value._non_persistent_buffers_set)
    if isinstance(value, Mapping):
        if len(value) <= LIMIT:
            yield from ((("item", key), item) for key, item in value.items() if is_plain(key))
    elif isinstance(value, (list, tuple)) and len(value) <= LIMIT:
        yield from ((("item", at), item) for at, item in enumerate(value))
    yield from ((("attribute", name), item) for name, item in getattr(value, "__dict__", {}).items()
                if name not in NOT_STATE and not name.endswith("_hooks"))


def _look(value: Any, enters: Callable[[Any], bool]) -> list[tuple[tuple[str, Any], Any]] | None:
    """The parts of an object that is looked into, else None."""
    try:
        return list(_parts(value)) if enters(value) else None
    except Exception:  # a class may have anything for a length or an attribute
        return None


def walk(value: Any, enters: Callable[[Any], bool] = is_walkable, foreign: Collection[int] = ()) -> Found:
    """Everything inside an object, each object once.

    Args:
        enters: Which objects are looked into.
        foreign: Ids of objects that are skipped.
    """
    found: Found = []
    seen = {id(value), *foreign}
    todo: list[tuple[Path, Any, Any]] = [((), *part) for part in reversed(_look(value, lambda _: True) or [])]
    while todo:
        path, step, part = todo.pop()
        path = (*path, step)
        if is_plain(part):
            found.append((path, part, PLAIN))
        elif id(part) not in seen:
            seen.add(id(part))
            parts = _look(part, enters) if len(path) < DEEPEST else None
            found.append((path, part, OTHER if parts is None else OBJECT))
            todo += [(path, *inner) for inner in reversed(parts or [])]
    return found


def structure(value: Any) -> list[tuple[Path, int, str]]:
    """The objects inside one by what they are; a replaced object is another structure."""
    return [(path, id(part), type(part).__qualname__) for path, part, kind in walk(value) if kind is OBJECT]


def paths_of_objects(found: Found) -> dict[Path, None]:
    """Where the objects of a walk are, its root included."""
    return {(): None, **{path: None for path, _, kind in found if kind is OBJECT}}


def _put(value: Any, path: Path, new: Any) -> bool:
    """Set what a path leads to; False where the path leads nowhere."""
    *way, (kind, last) = path
    try:
        for step, name in way:
            value = getattr(value, name) if step == "attribute" else \
                value._modules[name] if isinstance(value, torch.nn.Module) else value[name]
        if kind == "gradient":
            value._parameters[last].requires_grad_(new)
        elif kind == "item":
            value[last] = new
        else:
            setattr(value, last, new)
    except (AttributeError, KeyError, IndexError, TypeError):
        return False
    return True


class Values:
    """The plain values inside an object that have changed since this was made.

    Args:
        root: The object.
        enters: Which objects inside it are looked into.
        foreign: Ids of objects that are another's.

    Attributes:
        built: Those values as they were, by path.
        objects: Paths of objects whose new values count: not those of what is made in passing, as an open file's.
    """

    def __init__(self, root: Any, enters: Callable[[Any], bool] = is_walkable, foreign: Collection[int] = ()) -> None:
        self.root, self.enters = root, enters
        found = self.walk(foreign)
        self.built = {path: copied(part) for path, part, kind in found if kind is PLAIN}
        self._marks = {path: _mark(part) for path, part, kind in found if kind is not PLAIN}
        self.objects = paths_of_objects(found)

    def walk(self, foreign: Collection[int] = ()) -> Found:
        """Everything inside, as of now."""
        return walk(self.root, self.enters, foreign)

    def changed(self, found: Found | None = None) -> dict[Path, Any]:
        """Copies of the values, by path; ``found`` is what :meth:`walk` returned."""
        return {path: copied(part) for path, part, kind in (self.walk() if found is None else found)
                if kind is PLAIN and (differ(self.built[path], part) if path in self.built
                                      else path[:-1] in self.objects)}

    def put(self, values: Mapping[Path, Any], spared: Collection[Path] = (), found: Found | None = None) -> list[Path]:
        """Set what :meth:`changed` returned, and put everything else but ``spared`` back to what it was at first.

        ``found`` is what :meth:`walk` returned.

        Returns:
            What does not exist any more.
        """
        for path in self.changed(found):
            if path in self.built and path not in values and path not in spared:
                _put(self.root, path, copied(self.built[path]))
        return [path for path, value in values.items() if not _put(self.root, path, copied(value))]

    def unkept(self, found: Found) -> dict[Path, Any]:
        """What has changed and is not a plain value, and None for what is gone, by path.

        The contents of an existing container are examined separately.
        """
        there = {path: part for path, part, kind in found if kind is not PLAIN}
        plain = {path for path, _, kind in found if kind is PLAIN}
        gone = {path: there.get(path) for path in self.built
                if path not in plain and (path[:-1] in there or len(path) == 1)}
        return {**gone, **{path: part for path, part in there.items()
                           if path[:-1] in self.objects and not (path in self.objects and is_small(part))
                           and (path not in self._marks or _mark(part) != self._marks[path])}}
