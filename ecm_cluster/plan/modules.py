"""Whether a rank can find the modules that a config imports (``custom_imports``): in ``--code`` or installed.

Only looks at files, so torch and mmdet need not be installed. A rank imports nothing from the working directory, or
from a checkout in which ``submit`` is run.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from ..freeze import snapshot
from ..job.job import Job
from ..mmconfig import lookup
from ..slurm.sbatch import python_of

# modules that classes of mmcv and mmdet import when they are built, besides their own dependencies
OF_CLASSES = {
    "Albu": "albumentations", "Corrupt": "imagecorruptions", "InstaBoost": "instaboostfast",
    "ClearMLLoggerHook": "clearml", "DvcliveLoggerHook": "dvclive",
    "MemoryProfilerHook": "memory_profiler", "MlflowLoggerHook": "mlflow", "NeptuneLoggerHook": "neptune",
    "PaviLoggerHook": "pavi", "SegmindLoggerHook": "segmind"}


def problems(cfg: Mapping[str, Any], job: Job) -> tuple[list[str], list[str]]:
    """Problems of ``custom_imports``.

    Returns:
        Errors, and warnings: if the job's setup or env may add to the search path, a missing module is only a warning.
    """
    if job.code and not Path(job.code).expanduser().is_dir():
        return [f"--code {job.code}: is not a directory; expected the directory of your modules"], []
    section = cfg.get("custom_imports") or {}
    if section and "imports" not in section:  # mmcv passes the keys on as arguments
        return ["config: custom_imports has no imports; expected a list of module names"], []
    named = section.get("imports") or []
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list):
        return [f"config: invalid custom_imports.imports: {named!r}; expected a list of module names"], []
    for name in named:
        if not isinstance(name, str):
            return [f"config: invalid custom_imports.imports: {name!r}; expected module names"], []
        for file in own_files(name, job):
            try:
                ast.parse(file.read_bytes(), str(file))
            except (SyntaxError, ValueError) as error:
                return [f"config: custom_imports: {file}:{getattr(error, 'lineno', None) or 1}: "
                        f"{getattr(error, 'msg', error)}; fix the module"], []
    paths = search_path(job)
    missing = [] if paths is None else [name for name in named if not is_there(name, paths)]
    absent = [f"config: custom_imports: module {name!r} not found in {where(job)}; {remedy(name)}"
              for name in missing]
    lacking = [] if paths is None else list(_lacking(cfg, paths, python_of(job)))
    if job.setup or "PYTHONPATH" in job.env:
        return [], absent + lacking
    if missing and cfg["custom_imports"].get("allow_failed_imports"):
        return lacking, absent
    return absent + lacking, []


def _lacking(cfg: Mapping[str, Any], paths: list[str], python: str) -> Iterator[str]:
    """Classes of mmcv and mmdet that cannot be built because a module that they import is not installed."""
    for section in ("custom_hooks", "log_config", "data.train", "data.test"):
        for key, name in lookup.paths(lookup.at(cfg, section), section):
            owner, _, last = key.rpartition(".")
            module = OF_CLASSES.get(name) if last == "type" and isinstance(name, str) else None
            if module and not is_there(module, paths):
                yield (f"config: {owner}: {name} needs the module {module}, which is not installed for {python}; "
                       "install it, or remove this part of the config")


def without_tracker(trackers: Iterable[str], job: Job) -> tuple[list[str], list[str]]:
    """Trackers whose package is not installed; see :func:`problems`."""
    paths = search_path(job)
    missing = [f"trackers: {name} is not installed for {python_of(job)}; pip install 'ecm-cluster[trackers]' there, or "
               f"give trackers: {{{name}: false}}" for name in trackers if paths is not None
               and not is_there(name, paths)]
    return ([], missing) if job.setup or "PYTHONPATH" in job.env else (missing, [])


def search_path(job: Job) -> list[str] | None:
    """The search path of a rank; None: not known here, since the job uses another Python."""
    if python_of(job) != sys.executable:
        return None
    # Python prepends the working directory, or that of the script, which a rank does not have
    own = {os.path.abspath(path or os.getcwd()) for path in sys.path[:1]} - {os.path.abspath(p) for p in _given()}
    rest = [path for path in sys.path if path and os.path.abspath(path) not in own]
    code = [str(Path(job.code).expanduser())] if job.code else []
    return [*code, *rest]


def _given() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def own_files(name: str, job: Job) -> list[Path]:
    """The user's own files that importing a module executes, if the job uses this Python."""
    if not job.code or python_of(job) != sys.executable:
        return []
    parts, folder = name.split("."), Path(job.code).expanduser()
    paths = [folder.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    found = [path / "__init__.py" for path in paths] + [folder.joinpath(*parts[:-1], f"{parts[-1]}.py")]
    return [file for file in found if file.is_file()]


def remedy(name: str) -> str:
    meant = ".".join(part for part in name[:-len(".py")].split("/") if part != ".") if name.endswith(".py") else ""
    return f"did you mean {meant!r}?" if meant else "specify its directory with --code"


def is_there(name: str, paths: list[str]) -> bool:
    """Whether a dotted module can be found, without importing its parents."""
    if name.partition(".")[0] in snapshot.PACKAGES:
        paths = [str(package.parent) for package in snapshot.own_packages()]
    found: ModuleSpec | None = None
    if not all(name.split(".")):
        return False
    for depth, part in enumerate(name.split(".")):
        if found and not paths:  # not a package: it may create submodules, like os.path
            return _makes(found, part)
        # besides the path: finders of built-in modules and of editable installations
        others = [finder for finder in sys.meta_path if finder is not PathFinder] if depth == 0 else []
        found = PathFinder.find_spec(part, paths)
        found = found or next((spec for finder in others if (spec := finder.find_spec(part, None))), None)
        if found is None:
            return False
        paths = list(found.submodule_search_locations or [])
    return True


def _makes(found: ModuleSpec, name: str) -> bool:
    """Whether the source of a module adds modules to sys.modules and contains this name."""
    text = Path(found.origin).read_bytes() if found.origin and found.origin.endswith(".py") else b""
    return b"sys.modules[" in text and re.search(rf"\b{re.escape(name)}\b".encode(), text) is not None


def where(job: Job) -> str:
    code = f"--code {job.code}" if job.code else "the run's code (no --code is given)"
    return f"{code}, and none is installed for {python_of(job)}"
