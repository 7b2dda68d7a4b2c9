"""The code of a run, frozen: copied into the run at submission, and imported from there by every attempt.

A job can wait for days; what is edited, upgraded or deleted meanwhile must not change it. The copy holds::

    code/ecm_cluster/  code/mmdet_ext/   from wherever they are imported now
    code/configs/                        for the record: what is trained is the run's resolved config
    code/user/                           the folder given with --code

Not covered: what is installed in the environment (torch, mmdet, …), whose versions the run records.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pkgutil
import secrets
import shutil
import sys
import sysconfig
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from . import git
from .selection import MODULE_SUFFIXES, Selection, names_in, unreadable

PACKAGES = ("ecm_cluster", "mmdet_ext")
CONFIGS, USER = "configs", "user"


def own_packages() -> list[Path]:
    """Folders of our packages as they are imported now: a checkout's or an installation's."""
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.origin:
            raise UserError(f"{name} cannot be imported; install this program, or run it in a checkout")
        found.append(Path(spec.origin).parent)
    return found


def python_path(run_code: Path) -> list[str]:
    """What goes to the front of PYTHONPATH for an attempt, ours before the user's.

    ``python -m`` looks into its working folder before all of these: an attempt must not start in a checkout.
    """
    return [str(run_code), str(run_code / USER)]


def freeze(target: Path, packages: Iterable[Path], config_files: Iterable[Path],
           user_code: Path | None = None, replace: bool = False) -> dict[str, Any]:
    """Copy what runs into ``target``, whole or not at all.

    Args:
        packages: Folders of the packages to copy, see :func:`own_packages`.
        config_files: The config and its bases; where they lie relative to each other is kept.
        replace: Replace an existing folder, say of a submission that died half-way; never
            code that an attempt may be importing.

    Returns:
        For the record, all JSON: ``digest`` of the tree (paths and contents, see :func:`digest`), ``files``,
        ``bytes``; ``packages`` and ``user`` with their origin (``from``, ``commit``, ``dirty``, see
        :func:`ecm_cluster.freeze.git.state`); of the user's also its ``modules`` and which of Python's own these
        ``hide``; ``configs``, paths below ``configs_from``; ``left_out``, what was not copied, and why.

    Raises:
        UserError: Something cannot be read, is far too large, or would hide our own packages.
        FileExistsError: ``target`` exists and is not to be replaced.
    """
    target, packages = Path(target).absolute(), [Path(p).absolute() for p in packages]
    if target.exists() and not replace:
        raise FileExistsError(f"{target} exists")
    selected = Selection(target, {p.name for p in packages})
    for package in packages:
        selected.add_tree(package, package.name)
    manifest: dict[str, Any] = {"packages": _origins(packages)}
    manifest.update(_add_configs(selected, [Path(os.path.abspath(p)) for p in config_files]))
    manifest["user"] = _add_user(selected, Path(user_code).expanduser().absolute()) if user_code else None
    manifest["left_out"] = selected.left_out
    return {**_copy(selected, target), **manifest}


def digest(tree: Path) -> str:
    """``sha256:<hex>`` over the paths and contents of a frozen tree as it is now, without compiled files."""
    found = [p for p in Path(tree).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return _tree_digest((p.relative_to(tree).as_posix(), files.digest(p)) for p in found)


def _tree_digest(contents: Iterable[tuple[str, str]]) -> str:
    sha = hashlib.sha256()
    for name, content in sorted(contents):
        sha.update(os.fsencode(f"{content} {name}\n"))
    return f"sha256:{sha.hexdigest()}"


def _add_configs(selected: Selection, config_files: list[Path]) -> dict[str, Any]:
    if not config_files:
        return {"configs": [], "configs_from": None}
    root = Path(os.path.commonpath([p.parent for p in config_files]))
    names = list(dict.fromkeys(p.relative_to(root).as_posix() for p in config_files))
    selected.items += [(root / name, f"{CONFIGS}/{name}") for name in names]
    return {"configs": names, "configs_from": str(root)}


def _add_user(selected: Selection, folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"--code {folder}: is not a directory; expected the one that contains your modules")
    inside = names_in(folder)
    if "__init__.py" in inside:
        raise UserError(f"--code {folder}: is a package itself; use its parent directory")
    for name in sorted(inside):
        if name.partition(".")[0] in selected.ours:
            raise UserError(f"--code {folder}: holds {name}, which would hide this program's package; "
                            "rename it, or give another folder")
    start = len(selected.items)
    selected.add_tree(folder, USER, user=True)
    found = [name.split("/")[1] for _, name in selected.items[start:] if name.endswith(MODULE_SUFFIXES)]
    modules = sorted({name.partition(".")[0] for name in found})
    # these come before the standard library on the path: a profile.py here hides Python's
    hide = [name for name in modules if name in _standard_library()
            and (f"{name}.py" in inside or (folder / name / "__init__.py").exists())]
    return {"from": str(folder), **git.state(folder, ["."]), "modules": modules, "hide": hide}


def _standard_library() -> Collection[str]:
    """Names of Python's own modules; before Python 3.10, those that are files."""
    known = getattr(sys, "stdlib_module_names", None)
    library = sysconfig.get_paths()["stdlib"]
    return known or {module.name for module in pkgutil.iter_modules([library, os.path.join(library, "lib-dynload")])}


def _origins(packages: list[Path]) -> dict[str, Any]:
    parents = {p.parent: [q.name for q in packages if q.parent == p.parent] for p in packages}
    states = {parent: git.state(parent, names) for parent, names in parents.items()}
    return {p.name: {"from": str(p), **states[p.parent]} for p in packages}


def _copy(selected: Selection, target: Path) -> dict[str, Any]:
    # imported here: --help and a dry run do not owe it
    from concurrent.futures import ThreadPoolExecutor

    target.parent.mkdir(parents=True, exist_ok=True)
    tmp = target.with_name(f"{target.name}{files.TMP_MARK}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        folders = {tmp / parent for _, name in selected.items for parent in Path(name).parents} | {tmp}
        for folder in sorted(folders):
            folder.mkdir()
        # several at a time: on a network file system each file costs round trips
        with ThreadPoolExecutor(8) as pool:
            contents = list(pool.map(lambda item: _copy_file(item[0], tmp / item[1]), selected.items))
            list(pool.map(files.fsync_dir, folders))
        files.kill_point("before-rename", target)
        old = tmp.with_name(f"{tmp.name}-old")
        # moved aside, as rename(2) does not replace a folder that has files
        if target.exists():
            os.rename(target, old)
        os.rename(tmp, target)
        files.fsync_dir(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    named = [(name, content) for (_, name), (content, _) in zip(selected.items, contents)]
    return {"digest": _tree_digest(named), "files": len(contents), "bytes": sum(size for _, size in contents)}


def _copy_file(source: Path, place: Path) -> tuple[str, int]:
    """Copy one file durably; its digest and bytes, as written."""
    try:
        data = source.read_bytes()
        executable = source.stat().st_mode & 0o111
    except OSError as error:
        raise unreadable(source, error) from None
    with open(place, "wb") as handle:
        handle.write(data)
        if executable:
            os.fchmod(handle.fileno(), os.fstat(handle.fileno()).st_mode | executable)
        handle.flush()
        os.fsync(handle.fileno())
    return f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)
