"""Importing torch, mmcv and mmdet without what a training never uses.

More than half of the CPU seconds of these imports go into packages of which the importing modules take one name or two
and call nothing: torch.compile's machinery with sympy (for torchvision, DDP and every optimizer), matplotlib,
scipy.optimize, hipify's tables. :func:`framework` puts a *stand-in* in the place of each. A stand-in is a module that
imports the real one as soon as something is asked of it that it does not know, and then has left no trace but
functions that call the real ones.

Where it fits less well, nothing breaks: a package that is absent or imported already has no stand-in; what a version
of torch asks in another way imports the real package, as ever; and should an import fail among stand-ins, it is done
again without them. ``ECM_CLUSTER_PLAIN_IMPORTS=1``, in the ``env:`` of a job, leaves all of it out.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

FRAMEWORK = ("torch", "torchvision", "mmcv", "mmcv.ops", "mmdet.core", "mmdet.datasets", "mmdet.models")
# What is asked of every module, and what no module here has: the import system asks whether it is a package (those that
# are have the answer), mmcv.device whether it is torch's data_parallel.
PROBED = ("__path__", "_check_balance")

# functions whose stand-ins had a say in what torch keeps; it is asked again once the real ones are there
_undecided: list[Callable[..., Any]] = []


@dataclass
class Package:
    """A package to be imported only when it is used.

    Attributes:
        name: Of the package, or of a single module.
        modules: Which of its modules importing modules name, "" being itself, and what they take from each: the
            stand-in of a function, or None for one that calls the real one.
        real: Modules of it that cost little, and are imported without the rest.
        stays: Also after the framework's imports; else it is for these alone.
    """

    name: str
    modules: Mapping[str, Mapping[str, Callable[..., Any] | None]]
    real: tuple[str, ...] = ()
    stays: bool = False
    standing: dict[str, ImportStandIn] = field(default_factory=dict)

    def put(self) -> None:
        """Put stand-ins into ``sys.modules``, if the package is there and not imported."""
        names = {part: f"{self.name}.{part}" if part else self.name for part in self.modules}
        if any(name in sys.modules for name in names.values()):
            return
        found: dict[str, ModuleSpec | None] = {}
        for part in sorted(names):  # the package itself first
            parent = found[""].submodule_search_locations if part and found[""] else _path_of(self.name)
            found[part] = PathFinder.find_spec(names[part], parent)
        if not all(found.values()):
            return
        self.standing = {names[part]: ImportStandIn(self, spec, self.modules[part])
                         for part, spec in found.items() if spec}
        for name, module in self.standing.items():
            sys.modules[name] = module
            parent_name, _, child = name.rpartition(".")
            if parent_name in sys.modules:
                vars(sys.modules[parent_name])[child] = module

    def take_away(self) -> None:
        """Leave the place to the real modules, which whoever still holds a stand-in gets from now on."""
        while self.standing:
            name, module = self.standing.popitem()
            if sys.modules.get(name) is module:
                del sys.modules[name]
            parent_name, _, child = name.rpartition(".")
            parent = sys.modules.get(parent_name)
            if parent is not None and vars(parent).get(child) is module:
                del vars(parent)[child]

    def load(self) -> None:
        """Import the real package."""
        if self.standing:
            self.take_away()
            for function in _undecided if self.stays else ():
                vars(function).pop("__dynamo_disable", None)
        package = importlib.import_module(self.name)
        for part in self.real:
            if f"{self.name}.{part}" in sys.modules:  # which its own import found there, and did not put into it
                vars(package).setdefault(part, sys.modules[f"{self.name}.{part}"])


class ImportStandIn(ModuleType):
    """A module in the place of another one, until that one is needed."""

    def __init__(self, package: Package, spec: ModuleSpec, known: Mapping[str, Callable[..., Any] | None]) -> None:
        super().__init__(spec.name)
        place = vars(self)
        place.update(__spec__=spec, __loader__=spec.loader, __file__=spec.origin, __package__=spec.parent,
                     _package=package)
        if spec.submodule_search_locations is not None:
            place["__path__"] = spec.submodule_search_locations
        place.update({name: answer or self._call_of(name) for name, answer in known.items()})

    def _call_of(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._real(), name)(*args, **kwargs)

        call.__name__ = call.__qualname__ = name
        return call

    def _real(self) -> ModuleType:
        vars(self)["_package"].load()
        return importlib.import_module(self.__name__)

    def __getattr__(self, name: str) -> Any:
        package = vars(self)["_package"]
        if name in PROBED:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name in package.real and self.__name__ == package.name and package.standing:
            return importlib.import_module(f"{package.name}.{name}")
        return getattr(self._real(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if sys.modules.get(f"{self.__name__}.{name}") is value and vars(self)["_package"].standing:
            vars(self)[name] = value  # the import system, with a module of this package
        else:
            setattr(self._real(), name, value)


class _Submodules(MetaPathFinder):
    """Before a module of a package that has stand-ins is imported, the real package is."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package = next((p for p in PACKAGES if p.standing and name.startswith(f"{p.name}.")), None)
        if package is None or name[len(package.name) + 1:] in package.real:
            return None
        package.load()
        if name in sys.modules:  # the package's own import has come to it
            return spec_from_loader(name, _There(sys.modules[name]))
        return PathFinder.find_spec(name, path)


class _There(Loader):
    """Loads a module that is in ``sys.modules`` already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec, self.loader = module, module.__spec__, module.__loader__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__, module.__loader__ = self.spec, self.loader


def _path_of(name: str) -> Any:
    """Where a module's parent looks for it; the parent is imported."""
    parent = name.rpartition(".")[0]
    return importlib.import_module(parent).__path__ if parent else None


# ------------------------------------------------------------------------------ what is known of torch._dynamo


def _graph_break(*args: Any, **kwargs: Any) -> None:
    """Nothing is being traced, so there is nothing to break: the real one is empty as well, outside of a trace."""


def _disable(fn: Any = None, *args: Any, **kwargs: Any) -> Any:
    """What is not being traced need not be kept from it: ``fn`` itself, until the real package is there."""
    if not hasattr(fn, "__code__"):
        return _real_dynamo().disable(fn, *args, **kwargs)

    @functools.wraps(fn)
    def call(*values: Any, **named: Any) -> Any:
        if isinstance(sys.modules.get("torch._dynamo"), ImportStandIn):
            return fn(*values, **named)
        return _real_dynamo().disable(fn, *args, **kwargs)(*values, **named)

    _undecided.append(fn)
    return call


def _real_dynamo() -> Any:
    DYNAMO.load()
    return importlib.import_module("torch._dynamo")


def _optimize_ddp_mode() -> Any:
    """As in torch 2.8, from the real setting."""
    setting = importlib.import_module("torch._dynamo.config").optimize_ddp
    return ("ddp_optimizer" if setting else "no_optimization") if isinstance(setting, bool) else setting


DYNAMO = Package("torch._dynamo", {
    "": {"graph_break": _graph_break, "disable": _disable},
    "utils": {"is_compile_supported": None, "get_optimize_ddp_mode": _optimize_ddp_mode},
    "trace_rules": {"clear_lru_cache": lambda: None},  # of caches that are not there
}, real=("config",), stays=True)
PACKAGES = (
    DYNAMO,
    Package("torch.utils.hipify.hipify_python", {"": {"GeneratedFileCleaner": None}}),
    Package("matplotlib", {"": {}, "pyplot": {}, "collections": {"PatchCollection": None},
                           "patches": {"Polygon": None}}),
    Package("scipy", {"": {}, "optimize": {"linear_sum_assignment": None}}))


# ------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=None)
def framework() -> None:
    """Import torch, mmcv and mmdet; what comes after this finds them imported."""
    if os.environ.get("ECM_CLUSTER_PLAIN_IMPORTS") == "1":
        return
    collecting = gc.isenabled()
    gc.disable()  # modules are no garbage, and looking for some among ever more objects costs a seventh of the time
    try:
        with _standing():
            for name in FRAMEWORK:
                importlib.import_module(name)
    except Exception:  # whatever it was, it is either not the stand-ins' fault, or does not come again
        DYNAMO.take_away()
        for name in FRAMEWORK:
            importlib.import_module(name)
    finally:
        gc.freeze()  # neither is looked through later, in the midst of a training
        if collecting:
            gc.enable()


def names_of_old_numpy() -> None:
    """``np.int`` and ``np.float``, removed in numpy 1.24: samplers of mmdet 2.x (Libra R-CNN's, by class) use them."""
    for name, kind in (("int", int), ("float", float)):
        vars(importlib.import_module("numpy")).setdefault(name, kind)


@contextlib.contextmanager
def _standing() -> Iterator[None]:
    importlib.import_module("torch")  # which some of the packages are parts of
    sys.meta_path.insert(0, _Submodules())
    for package in PACKAGES:
        package.put()
    try:
        yield
    finally:
        for package in PACKAGES:
            if not package.stays:
                package.take_away()
