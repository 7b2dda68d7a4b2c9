"""Unpickles plain data only; every checkpoint is read this way.

A pickle names functions for its reader to call, so reading it with ``pickle`` runs any code its author wanted. These
readers accept an explicit list of names instead and refuse all others. ``torch.load(weights_only=True)`` has the same
aim, but its list depends on torch's version (before 2.0 it refuses plain numbers, before 2.4 it cannot be extended),
it lacks numpy's scalars, and its messages are over ten lines long.

:class:`Unpickler` is passed to ``torch.load``. :class:`Structure` reads the same files without torch and numpy, with
placeholders for tensors and arrays: that is how the checkpoint writer and a login node check that a file is readable.
Both share the list, the checks and the messages. :class:`FastStructure` does the same in C, with fewer checks.
"""

from __future__ import annotations

import _compat_pickle  # maps names of Python 2, in which protocols below 3 are written
import argparse
import collections
import datetime
import importlib
import pathlib
import pickle
import re
from collections.abc import Callable
from typing import Any, ClassVar

from .placeholders import (
    DtypePlaceholder,
    Placeholder,
    Refused,
    StoragePlaceholder,
    TensorConstructor,
    TensorPlaceholder,
    foreign_order,
)

__all__ = ["PLAIN_DTYPE", "FastStructure", "Placeholder", "Refused", "Structure", "TensorPlaceholder", "Unpickler",
           "load"]

# dtypes of plain numbers or text with a fixed size: no objects, fields or times
PLAIN_DTYPE = re.compile(r"b1|i[1248]|u[1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d+")

RENAMED = {"numpy.core.multiarray": "numpy._core.multiarray",
           "numpy.core.numeric": "numpy._core.numeric", "torch.tensor": "torch._tensor", "pathlib._local": "pathlib"}
# of the standard library; creating one of these runs no code but its own
PLAIN: dict[Any, Any] = {
    **{("builtins", kind.__name__): kind for kind in
       (bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple)},
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
DEEPEST = 100  # nested tuples; far below the interpreter's recursion limit, which hashing them would reach
MOST_COPIED = 100_000_000  # elements that calls copy: a small file can copy its own content exponentially often
SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset, collections.deque)


class _Allowed:
    """The list of allowed names, a mix-in for unpicklers."""

    numpy: Any = None  # the module; None: arrays become placeholders
    tensors: tuple[Any, ...] = ()  # torch's own types of tensors; none: they become placeholders

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
        return TensorConstructor(name) if name.startswith("_rebuild_") or name == "Parameter" else Placeholder(name)

    def dtype(self, text: Any, *_: Any) -> Any:
        if not isinstance(text, str) or not PLAIN_DTYPE.fullmatch(text):
            raise Refused(f"numpy data of dtype {text!r}")
        # a copy: its state may set another byte order
        return self.numpy.dtype(text, copy=True) if self.numpy else DtypePlaceholder(text)

    def empty_array(self, kind: Any, *_: Any) -> Any:
        if kind is not NDARRAY:
            raise Refused("a subclass of numpy.ndarray")
        return self.numpy.empty(0) if self.numpy else Placeholder()

    def scalar(self, dtype: Any, data: Any) -> Any:
        if not isinstance(data, bytes):
            raise Refused("a numpy scalar with an object")
        return self.numpy.ndarray((), self._checked(dtype), data)[()] if self.numpy else Placeholder()

    def array_of_buffer(self, data: Any, dtype: Any, shape: Any, order: str) -> Any:
        if not self.numpy:
            return Placeholder()
        return self.numpy.frombuffer(data, self._checked(dtype)).reshape(shape, order=order)

    def _checked(self, dtype: Any) -> Any:
        if not isinstance(dtype, self.numpy.dtype):
            raise Refused("numpy data without a dtype")
        return dtype


NDARRAY = Placeholder()  # for the class, which is only passed to _reconstruct


def _then_check_depth(opcode: bytes) -> Callable[[Any], None]:
    def load_tuple(unpickler: Any) -> None:
        pickle._Unpickler.dispatch[opcode[0]](unpickler)
        unpickler._check_depth()

    return load_tuple


class Structure(_Allowed, pickle._Unpickler):
    """Reads a pickle with placeholders for tensors and arrays; needs neither torch nor numpy.

    Args:
        storage: Called with the persistent id of each storage of tensors; raises if it cannot be read.

    Raises:
        Refused: It asks for something that is not on the list.
    """

    def __init__(self, file: Any, storage: Callable[[Any], None] = lambda pid: None, **options: Any) -> None:
        super().__init__(file, **options)
        self._storage, self._copied = storage, 0
        self._depths: dict[int, int] = {}  # of tuples of tuples, by id
        self._nested: list[Any] = []  # keeps them alive, so that no id is reused

    def persistent_load(self, pid: Any) -> Placeholder:
        self._storage(pid)
        return StoragePlaceholder(pid[4])

    def _call(self, function: Any, args: Any) -> Any:
        """Call a function of the list, unless a small file would make it fill the memory."""
        if function is not range and any(type(arg) is range for arg in args) \
                or function in (bytes, bytearray) and args and isinstance(args[0], int):
            raise Refused(f"a {getattr(function, '__name__', 'call')} larger than the file")
        self._copied += sum(len(arg) for arg in args if isinstance(arg, SIZED))
        if self._copied > MOST_COPIED:
            raise Refused("copies of its own content")
        return function(*args)

    def _check_depth(self) -> None:
        """Limit nested tuples: hashing, comparing and printing them uses the C stack and may crash."""
        made = vars(self)["stack"][-1]
        inner = [self._depths.get(id(item), 1) for item in made if type(item) is tuple] if type(made) is tuple else []
        if inner:
            self._depths[id(made)] = 1 + max(inner)
            self._nested.append(made)
            if max(inner) > DEEPEST:
                raise ValueError("tuples nested too deeply")

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

    def _instantiate(self, kind: Any, args: Any) -> None:  # in protocol 0
        vars(self)["stack"].append(self._call(kind, args))
        self._check_depth()

    def load_build(self) -> None:
        """Set the state of the few types of objects that have one, so no other __setstate__ runs."""
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
        elif type(target) in self.tensors:  # torch before 0.4 pickled parameters like this
            self.tensors[0].__setstate__(target, state)
        elif isinstance(target, Placeholder):
            target.__setstate__(state)
        else:
            raise Refused(f"a state of {type(target).__module__}.{type(target).__qualname__}")

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build, pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        **{op[0]: _then_check_depth(op) for op in (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)}}
    del dispatch[pickle.NEWOBJ_EX[0]]  # nothing on the list needs it


class Unpickler(Structure):
    """Reads plain data, tensors and numpy arrays; ``torch.load`` adds the loading of storages."""

    def __init__(self, file: Any, **options: Any) -> None:
        super().__init__(file, **options)
        torch = importlib.import_module("torch")
        self.numpy, self.tensors = importlib.import_module("numpy"), (torch.Tensor, torch.nn.Parameter)

    def of_torch(self, module: str, name: str) -> Any:
        return getattr(importlib.import_module(module), name)


class FastStructure(_Allowed, pickle.Unpickler):
    """:class:`Structure` in C, for this process's own pickles only: it lets any object set its state."""

    def persistent_load(self, pid: Any) -> Placeholder:
        return Placeholder()


def load(file: Any, **options: Any) -> Any:
    """As ``pickle.load``; called by ``torch.load`` if this module is passed as its pickle module."""
    return Unpickler(file, **options).load()


def _latin1(text: str, encoding: str) -> bytes:
    """Protocols below 3 pickle bytes as a call of ``_codecs.encode``."""
    if encoding != "latin1":
        raise Refused(f"_codecs.encode to {encoding}")
    return text.encode("latin1")
