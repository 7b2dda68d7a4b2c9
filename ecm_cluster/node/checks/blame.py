"""From an exception while a rank's parts are built to one line: the config's key, what is wrong, the remedy."""

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

# of torch's and mmcv's operators where there is no GPU, or too little memory
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
    """Why this machine cannot check what another one may well do; None where the fault is the job's.

    Args:
        device: Where the job is to train: on CPUs it fails as the check does.
    """
    if not on_cpu or isinstance(error, (UserError, NotStartable)):
        return None
    text = str(error)
    if isinstance(error, MemoryError) or NO_MEMORY.search(text):
        return "it takes more memory than a check may have here; --check=job checks in a job"
    if device == "cuda" and NEEDS_GPU.search(text):
        return f"it needs a GPU ({brief(text)}); --check=job checks in a job"
    if isinstance(error, OSError) and error.filename and str(error.filename).endswith(".so"):
        return f"a library is missing here ({brief(text)})"
    return None


def may_be_of_size(error: BaseException) -> bool:
    """Whether layers may say so of images that are too small for them, rather than a mistake in any case."""
    plain = isinstance(error, (UserError, NotStartable, BadSample, NotImplementedError))
    return not plain and isinstance(error, (RuntimeError, ValueError, IndexError, AssertionError, ArithmeticError))


def line(error: BaseException, key: str, cfg: Any, run: Run) -> str:
    """The message for a failure in the step that ``key`` of the config is about."""
    if isinstance(error, (UserError, NotStartable, BadSample)):
        return str(error)
    text, blocks = str(error), [(k, b) for k, b in lookup.paths(_plain(cfg)) if isinstance(b, dict)]
    named = re.findall(r"(\w+): ", text)  # mmcv puts the classes that were being built before an error's text
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
        return (f"config: model: num_classes of {found[2]} is {found[1]}, and data.train has {found[3]} classes; give "
                f"{remedy or 'the head that number'}")
    if isinstance(error, ImportError) and key == "custom_imports":
        return _import(error, cfg, run)
    if run.job().device == "cpu" and HALF.search(text):
        return f"config: fp16: half precision needs a GPU; give --device cuda, or --set fp16=None ({brief(text)})"
    if run.job().device == "cpu" and NEEDS_GPU.search(text):
        return f"config: {key}: it needs a GPU ({brief(text)}); give --device cuda"
    return _plainly(error, key, run)


def _of_hook(kind: str, blocks: list[tuple[str, dict[str, Any]]]) -> str | None:
    """The key whose hook is of this class: one that names it, or a policy that does."""
    policies = {"LrUpdaterHook": "lr_config", "MomentumUpdaterHook": "momentum_config"}
    return next((key for key, block in blocks if block.get("type") == kind),
                next((key for ending, key in policies.items() if kind.endswith(ending)), None))


def _unknown_type(name: str, registry: str, blocks: list[tuple[str, dict[str, Any]]]) -> str:
    where = next((f"{k}.type" for k, b in blocks if b.get("type") == name), "type")
    near = difflib.get_close_matches(name, _registered(registry), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return (f"config: {where}: {name!r} is not registered among mmdet's {registry}{hint}; correct it, or name the "
            "module that registers it in custom_imports = dict(imports=[...]) and give its folder with --code")


def _registered(name: str) -> list[str]:
    """Names in the registries that mmcv calls so, and in their parents."""
    found = [r for r in _registries() if r.name == name]
    return [n for r in found for n in [*r.module_dict, *(r.parent.module_dict if r.parent else ())]]


def _registries() -> list[Any]:
    """Those of mmcv and mmdet, wherever they are kept."""
    from mmcv.utils import Registry

    ours = [module for name, module in list(sys.modules.items()) if name.startswith(("mmcv.", "mmdet."))]
    return list({id(r): r for module in ours for r in vars(module).values() if isinstance(r, Registry)}.values())


def _unknown_argument(argument: str, named: list[str], blocks: list[tuple[str, dict[str, Any]]],
                      key: str) -> str | None:
    """Mmcv names the class unless the class itself passes the argument on."""
    with_it = [(k, b) for k, b in blocks if argument in b]
    of_class = [(k, b) for k, b in with_it if named and b.get("type") == named[-1]]
    if not with_it:
        return None
    where, block = (of_class or with_it)[0]
    kind = str(block.get("type") or (named[-1] if named else key))
    near = difflib.get_close_matches(argument, _arguments(kind), n=1)
    hint = f"did you mean {near[0]}?" if near else "remove it"
    return f"config: {where}.{argument}: {kind} takes no {argument!r}; {hint}"


def _arguments(kind: str) -> list[str]:
    classes = [r.module_dict[kind] for r in _registries() if kind in r.module_dict]
    return [name for one in classes[:1] for c in inspect.getmro(one) if "__init__" in vars(c)
            for name in inspect.signature(vars(c)["__init__"]).parameters if name != "self"]


def _import(error: ImportError, cfg: Any, run: Run) -> str:
    if isinstance(error.__context__, ImportError):
        error = error.__context__  # mmcv raises one without a text in its place
    code = run.spec.job.code
    told = f"--code {code} does not have it" if code else "no --code is given"
    name = getattr(error, "name", None) or str(error)
    if isinstance(error, ModuleNotFoundError):
        return (f"config: custom_imports: the module {name!r} cannot be found: it is not installed for this Python, "
                f"and {told}; give the folder that holds it with --code")
    return f"config: custom_imports: {brief(str(error))}{_where(error, run)}; correct the module"


def _plainly(error: BaseException, key: str, run: Run) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"config: {key}: {error.filename} does not exist{_where(error, run)}; correct its path"
    kind = type(error).__name__
    return (f"config: {key}: {kind}: {brief(str(error)) or 'without a text'}{_where(error, run)}; correct it "
            "(--verbose shows the traceback), or submit with --no-check")


def _where(error: BaseException, run: Run) -> str:
    """The line of the user's code that raised, or else the last one, as a user finds it."""
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
    """An error in a few words."""
    return f"{type(error).__name__}: {brief(str(error))}"


def _plain(cfg: Any) -> dict[str, Any]:
    return cfg._cfg_dict.to_dict() if cfg is not None else {}
