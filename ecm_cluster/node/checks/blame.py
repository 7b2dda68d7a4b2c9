"""Turns an exception from building or training into one line: the key of the config, the error, the remedy."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from mmdet_ext.data.samples import BadSample

from ...attempts.failures import NotStartable
from ...base.errors import UserError, brief
from ...freeze import snapshot
from ...mmconfig import lookup
from ...rundir.run import Run

# messages of torch's and mmcv's operators without a GPU, or without enough memory
NEEDS_GPU = re.compile(r"implementation for device|\bCUDA\b|\bcuda\b|NVIDIA|not implemented for 'Half'|"
                       r"Not compiled with GPU")
HALF = re.compile(r"\bHalf\b")
NO_MEMORY = re.compile(r"can't allocate memory|Unable to allocate|Cannot allocate memory|Insufficient memory|bad_alloc|"
                       "can't start new thread")
UNKNOWN_TYPE = re.compile(r"'?([\w.]+)'? is not in the ([\w ]+) registry")
UNKNOWN_ARGUMENT = re.compile(r"got an unexpected keyword argument '(\w+)'")
MISSING_ARGUMENT = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)")
CLASS_COUNT = re.compile(r"`num_classes` \((\d+)\) in (\w+) of \w+ does not matches the length of `CLASSES` (\d+)")


def not_here(error: BaseException, on_cpu: bool, device: str) -> str | None:
    """Why the error may only occur on this machine; None if the job itself is at fault.

    Args:
        device: The job's device: on CPUs it would fail like the check.
    """
    if not on_cpu or isinstance(error, (UserError, NotStartable)):
        return None
    text = str(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return "it needs more memory than a check may use here; --check=job checks in a job"
    if device == "cuda" and NEEDS_GPU.search(text):
        return f"it needs a GPU ({brief(text)}); --check=job checks in a job"
    if isinstance(error, OSError) and error.filename and str(error.filename).endswith(".so"):
        return f"a library is missing here ({brief(text)})"
    return None


def may_be_of_size(error: BaseException) -> bool:
    """Whether a layer may raise this just because the reduced images are too small for it."""
    plain = isinstance(error, (UserError, NotStartable, BadSample, NotImplementedError))
    return not plain and isinstance(error, (RuntimeError, ValueError, IndexError, AssertionError, ArithmeticError))


def line(error: BaseException, key: str, cfg: Any, run: Run) -> str:
    """The message for a failure in a step; ``key`` is the part of the config that the step builds."""
    if isinstance(error, (UserError, NotStartable, BadSample)):
        return str(error)
    text, blocks = str(error), [(k, b) for k, b in lookup.paths(_plain(cfg)) if isinstance(b, dict)]
    named = re.findall(r"(\w+): ", text)  # mmcv prefixes an error with the classes that were being built
    key = _of_hook(named[0], blocks) or key if named and key == "optimizer" else key
    if found := UNKNOWN_TYPE.search(text):
        return _unknown_type(found[1], found[2], blocks)
    if isinstance(error, TypeError) and (found := UNKNOWN_ARGUMENT.search(text)):
        return _unknown_argument(found[1], named, blocks, key) or _plainly(error, key, run)
    if isinstance(error, TypeError) and (found := MISSING_ARGUMENT.search(text)):
        where = next((k for k, b in blocks if named and b.get("type") == named[-1]), key)
        return f"config: {where}: {named[-1] if named else 'it'} needs {found[1]}; add it to the config"
    if found := CLASS_COUNT.search(text):
        wrong = [k for k, b in blocks if b.get("num_classes") == int(found[1]) and k.startswith("model")]
        remedy = " ".join(f"--set {k}.num_classes={found[3]}" for k in wrong)
        return (f"config: model: num_classes of {found[2]} is {found[1]}, but data.train has {found[3]} classes; use "
                f"{remedy or 'that number in the head'}")
    if isinstance(error, ImportError) and key == "custom_imports":
        return _import(error, cfg, run)
    if run.job().device == "cpu" and HALF.search(text):
        return f"config: fp16: half precision needs a GPU; use --device cuda, or --set fp16=None ({brief(text)})"
    if run.job().device == "cpu" and NEEDS_GPU.search(text):
        return f"config: {key}: it needs a GPU ({brief(text)}); use --device cuda"
    return _plainly(error, key, run)


def _of_hook(kind: str, blocks: list[tuple[str, dict[str, Any]]]) -> str | None:
    """The key of the hook with this class, which its type or its policy selects."""
    policies = {"LrUpdaterHook": "lr_config", "MomentumUpdaterHook": "momentum_config"}
    return next((key for key, block in blocks if block.get("type") == kind),
                next((key for ending, key in policies.items() if kind.endswith(ending)), None))


def _unknown_type(name: str, registry: str, blocks: list[tuple[str, dict[str, Any]]]) -> str:
    where = next((f"{k}.type" for k, b in blocks if b.get("type") == name), "type")
    near = difflib.get_close_matches(name, _registered(registry), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (f"config: {where}: {name!r} is not in the registry {registry} of mmdet{hint}; fix it, or list the module "
            "that registers it in custom_imports = dict(imports=[...]) and give its directory with --code")


def _registered(name: str) -> list[str]:
    """Names in the registries with this name, and in their parents."""
    found = [r for r in _registries() if r.name == name]
    return [n for r in found for n in [*r.module_dict, *(r.parent.module_dict if r.parent else ())]]


def _registries() -> list[Any]:
    """All registries of mmcv and mmdet."""
    from mmcv.utils import Registry

    ours = [module for name, module in list(sys.modules.items()) if name.startswith(("mmcv.", "mmdet."))]
    return list({id(r): r for module in ours for r in vars(module).values() if isinstance(r, Registry)}.values())


def _unknown_argument(argument: str, named: list[str], blocks: list[tuple[str, dict[str, Any]]],
                      key: str) -> str | None:
    """Mmcv's error has the class, unless the class passed the argument on to another one."""
    with_it = [(k, b) for k, b in blocks if argument in b]
    of_class = [(k, b) for k, b in with_it if named and b.get("type") == named[-1]]
    if not with_it:
        return None
    where, block = (of_class or with_it)[0]
    kind = str(block.get("type") or (named[-1] if named else key))
    near = difflib.get_close_matches(argument, _arguments(kind), n=1)
    hint = f"did you mean {near[0]}?" if near else "remove it"
    return f"config: {where}.{argument}: {kind} has no argument {argument!r}; {hint}"


def _arguments(kind: str) -> list[str]:
    classes = [r.module_dict[kind] for r in _registries() if kind in r.module_dict]
    return [name for one in classes[:1] for c in inspect.getmro(one) if "__init__" in vars(c)
            for name in inspect.signature(vars(c)["__init__"]).parameters if name != "self"]


def _import(error: ImportError, cfg: Any, run: Run) -> str:
    if isinstance(error.__context__, ImportError):
        error = error.__context__  # mmcv replaces it with one without a message
    code = run.spec.job.code
    searched = f"it is not in --code {code}" if code else "no --code is given"
    name = getattr(error, "name", None) or str(error)
    if isinstance(error, ModuleNotFoundError):
        return (f"config: custom_imports: module {name!r} not found: it is not installed for this Python, and "
                f"{searched}; specify its directory with --code")
    return f"config: custom_imports: {brief(str(error))}{_where(error, run)}; fix the module"


def _plainly(error: BaseException, key: str, run: Run) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"config: {key}: {error.filename} does not exist{_where(error, run)}; fix its path"
    kind = type(error).__name__
    return (f"config: {key}: {kind}: {brief(str(error)) or 'no message'}{_where(error, run)}; fix it (--verbose "
            "shows the traceback), or submit with --no-check")


def _where(error: BaseException, run: Run) -> str:
    """The line that raised, preferably in the user's code, with its original path."""
    frames = traceback.extract_tb(error.__traceback__)
    user = snapshot.python_path(run.code_dir)[1]
    own = [f for f in frames if f.filename.startswith(user)]
    for frame in own[-1:] or frames[-1:]:
        path = frame.filename
        origin = run.spec.job.code
        if own and origin:
            path = str(Path(origin) / Path(path).relative_to(user))
        elif "site-packages/" in path:
            path = path.rpartition("site-packages/")[2]
        return f" ({path}:{frame.lineno}, in {frame.name})"
    return ""


def short(error: BaseException) -> str:
    """A short description of an error."""
    return f"{type(error).__name__}: {brief(str(error))}"


def _plain(cfg: Any) -> dict[str, Any]:
    return cfg._cfg_dict.to_dict() if cfg is not None else {}
