"""Unpickling of plain data alone: what a checkpoint may hold, and the only way in which one is read.

A pickle names functions for its reader to call, so reading one with ``pickle`` runs whatever its author wanted. These
readers know an explicit list of names instead and refuse every other one. ``torch.load(weights_only=True)`` has the
same aim, but its list depends on torch's version (before 2.0 it refuses plain numbers, before 2.4 nothing can be added
to it), it lacks numpy's scalars, and its messages run over ten lines.

:class:`Unpickler` is what ``torch.load`` is given. :class:`Structure` reads the same without torch and numpy, with
stand-ins for tensors and arrays: so the process that writes checkpoints, and a login node, tell whether a file can be
read. Both share the list, the checks and the messages. :class:`Probe` is the second one at the speed of C.
"""

from __future__ import annotations

import _compat_pickle  # the names of Python 2, which protocols below 3 are written with
import argparse
import collections
import datetime
import importlib
import pathlib
import pickle
import re
from collections.abc import Callable
from typing import Any

from .stand_ins import DtypeStandIn, Maker, Refused, StandIn, StorageStandIn, TensorStandIn, foreign_order

__all__ = ["PLAIN_DTYPE", "Probe", "Refused", "StandIn", "Structure", "TensorStandIn", "Unpickler", "load"]

# dtypes whose data are bytes of a fixed size and nothing else: no objects, no fields, no times
PLAIN_DTYPE = re.compile(r"b1|i[1248]|u[1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d+")

RENAMED = {"numpy.core.multiarray": "numpy._core.multiarray",
           "numpy.core.numeric": "numpy._core.numeric", "torch.tensor": "torch._tensor", "pathlib._local": "pathlib"}
# of the standard library; making one of these runs no code but its own
PLAIN: dict[Any, Any] = {
    **{("builtins", kind.__name__): kind for kind in
       (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str,
        tuple)},
    **{("collections", kind.__name__): kind for kind in
       (collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque)},
    **{("datetime", kind.__name__): kind for kind in
       (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone)},
    **{("pathlib", name): getattr(pathlib, name) for name in ("PosixPath", "PurePosixPath")},
    ("argparse", "Namespace"): argparse.Namespace,  # in many published weights
}
DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32",
          "float64", "bfloat16", "complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
          "float8_e4m3fnuz", "float8_e5m2fnuz")
TORCH = {*(("torch", name) for name in (*DTYPES, "Size", "device", "Tensor")),
         ("torch.nn.parameter", "Parameter"), ("torch._tensor", "_rebuild_from_type_v2"),
         ("torch.serialization", "_get_layout"),
         *(("torch._utils", f"_rebuild_{name}") for name in
           ("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "sparse_tensor"))}
STORAGE = re.compile(r"[A-Z]\w*Storage")


DEEPEST = 100  # tuples in tuples
MOST_COPIED = 100_000_000  # values that calls take over from others
SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, collections.deque)


class _Allowed:
    """The list, for an unpickler to be mixed in before."""

    numpy: Any = None  # the module; None: arrays get stand-ins
    tensors: tuple[Any, ...] = ()  # torch's own kinds of tensors; none: they get stand-ins

    def find_class(self, module: str, name: str) -> Any:
        module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
        module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        module = RENAMED.get(module, module)
        key = (module, name)
        if key in PLAIN:
            return PLAIN[key]
        if key == ("_codecs", "encode"):
            return _latin1
        numpy = {("numpy", "dtype"): self.dtype, ("numpy", "ndarray"): NDARRAY,
                 ("numpy._core.multiarray", "_reconstruct"): self.empty_array,
                 ("numpy._core.multiarray", "scalar"): self.scalar,
                 ("numpy._core.numeric", "_frombuffer"): self.array_of_buffer}
        if key in numpy:
            return numpy[key]
        if key in TORCH or (module in ("torch", "torch.storage") and STORAGE.fullmatch(name)):
            return self.of_torch(module, name)
        raise Refused(f"{module}.{name}")

    def of_torch(self, module: str, name: str) -> Any:
        return Maker(name) if name.startswith("_rebuild_") or name == "Parameter" else StandIn(name)

    def dtype(self, text: Any, *_: Any) -> Any:
        if not isinstance(text, str) or not PLAIN_DTYPE.fullmatch(text):
            raise Refused(f"numpy data of dtype {text!r}")
        # a copy, since its state may be another byte order
        return self.numpy.dtype(text, copy=True) if self.numpy else DtypeStandIn(text)

    def empty_array(self, kind: Any, *_: Any) -> Any:
        if kind is not NDARRAY:
            raise Refused("a subclass of numpy.ndarray")
        return self.numpy.empty(0) if self.numpy else StandIn()

    def scalar(self, dtype: Any, data: Any) -> Any:
        if not isinstance(data, bytes):
            raise Refused("a numpy scalar that holds an object")
        return self.numpy.ndarray((), self._checked(dtype), data)[()] if self.numpy else StandIn()

    def array_of_buffer(self, data: Any, dtype: Any, shape: Any, order: str) -> Any:
        if not self.numpy:
            return StandIn()
        return self.numpy.frombuffer(data, self._checked(dtype)).reshape(shape, order=order)

    def _checked(self, dtype: Any) -> Any:
        if not isinstance(dtype, self.numpy.dtype):
            raise Refused("numpy data of no dtype")
        return dtype


NDARRAY = StandIn()  # the class, which nothing but _reconstruct gets


class Structure(_Allowed, pickle._Unpickler):
    """Reads a pickle with stand-ins for tensors and arrays; neither torch nor numpy is needed.

    Args:
        storage: Is told the persistent id of each storage of tensors; raises where that cannot be read.

    Raises:
        Refused: It asks for something that is not on the list.
    """

    def __init__(self, file: Any, storage: Callable[[Any], None] = lambda pid: None, **options: Any) -> None:
        super().__init__(file, **options)
        self._storage, self._copied = storage, 0
        self._depths: dict[int, int] = {}  # of tuples that hold tuples, by their ids
        self._nested: list[Any] = []  # these, so that no id is used again

    def persistent_load(self, pid: Any) -> StandIn:
        self._storage(pid)
        return StorageStandIn(pid[4])

    def _call(self, function: Any, args: Any) -> Any:
        """Call what is on the list, unless it would make much out of little."""
        if function is not range and any(type(arg) is range for arg in args) \
                or function in (bytes, bytearray) and args and isinstance(args[0], int):
            raise Refused(f"a {getattr(function, '__name__', 'call')} of a size that the file does not have")
        self._copied += sum(len(arg) for arg in args if isinstance(arg, SIZED))
        if self._copied > MOST_COPIED:
            raise Refused("copies of its own content")
        return function(*args)

    def _check_depth(self) -> None:
        """Hashing, comparing and printing of tuples in tuples takes the interpreter's own stack."""
        made = vars(self)["stack"][-1]
        inner = [self._depths.get(id(item), 1) for item in made if type(item) is tuple] if type(made) is tuple else []
        if inner:
            self._depths[id(made)] = 1 + max(inner)
            self._nested.append(made)
            if max(inner) > DEEPEST:
                raise ValueError("tuples that are nested too deeply")

    def load_reduce(self) -> None:
        stack: list[Any] = vars(self)["stack"]
        args = stack.pop()
        stack[-1] = self._call(stack[-1], args)
        self._check_depth()

    def load_newobj(self) -> None:
        stack: list[Any] = vars(self)["stack"]
        args = stack.pop()
        kind = stack.pop()
        stack.append(self._call(kind, args))
        self._check_depth()

    def _instantiate(self, kind: Any, args: Any) -> None:  # of protocol 0
        vars(self)["stack"].append(self._call(kind, args))
        self._check_depth()

    def load_tuple(self) -> None:
        super().load_tuple()  # type: ignore[misc]
        self._check_depth()

    def load_tuple1(self) -> None:
        super().load_tuple1()  # type: ignore[misc]
        self._check_depth()

    def load_tuple2(self) -> None:
        super().load_tuple2()  # type: ignore[misc]
        self._check_depth()

    def load_tuple3(self) -> None:
        super().load_tuple3()  # type: ignore[misc]
        self._check_depth()

    def load_build(self) -> None:
        """Give an object its state: the few kinds of objects that have one, so no other __setstate__ runs."""
        stack: list[Any] = vars(self)["stack"]
        state, target = stack.pop(), stack[-1]
        if type(target) in (collections.OrderedDict, argparse.Namespace) and type(state) is dict:
            vars(target).update(state)
        elif self.numpy and isinstance(target, self.numpy.dtype):
            order = foreign_order(f"{target.kind}{target.itemsize}", state)
            if order:
                target.__setstate__((3, order, None, None, None, -1, -1, 0))
        elif self.numpy and type(target) is self.numpy.ndarray:
            self._checked(state[2])
            if not isinstance(state[4], bytes):
                raise Refused("a numpy array of objects")
            target.__setstate__(state)
        elif type(target) in self.tensors:  # as torch pickled parameters before 0.4
            self.tensors[0].__setstate__(target, state)
        elif isinstance(target, StandIn):
            target.__setstate__(state)
        else:
            raise Refused(f"a state of {type(target).__module__}.{type(target).__qualname__}")

    dispatch = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build,  # type: ignore[dict-item]
                pickle.REDUCE[0]: load_reduce, pickle.NEWOBJ[0]: load_newobj,  # type: ignore[dict-item]
                pickle.TUPLE[0]: load_tuple, pickle.TUPLE1[0]: load_tuple1,  # type: ignore[dict-item]
                pickle.TUPLE2[0]: load_tuple2, pickle.TUPLE3[0]: load_tuple3}  # type: ignore[dict-item]
    del dispatch[pickle.NEWOBJ_EX[0]]  # nothing on the list needs it


class Unpickler(Structure):
    """Reads plain data, tensors and numpy's arrays; ``torch.load`` makes it load the storages as well."""

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        torch = importlib.import_module("torch")
        self.numpy, self.tensors = importlib.import_module("numpy"), (torch.Tensor, torch.nn.Parameter)

    def of_torch(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(module), name)


class Probe(_Allowed, pickle.Unpickler):
    """What :class:`Structure` tells, faster; for pickles of one's own only, since it lets any object take a state."""

    def persistent_load(self, pid: Any) -> StandIn:
        return StandIn()


def load(file: Any, **options: Any) -> Any:
    """As ``pickle.load``; ``torch.load`` calls it where it is given this module for a pickle module."""
    return Unpickler(file, **options).load()


def _latin1(text: str, encoding: str) -> bytes:
    """How bytes are pickled below protocol 3."""
    if encoding != "latin1":
        raise Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")
