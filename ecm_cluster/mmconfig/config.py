"""Reads an mmdet config as ``mmcv.Config.fromfile`` (mmcv 1.x) does, without mmcv, numpy or torch.

A reader of our own because every verb reads a config, on login nodes that may lack the framework: mmcv's imports
torch, and mmengine's takes 0.7 to 1.0 s to import and needs numpy.

A config is Python that is executed; ``_base_`` names the configs that it inherits from, and ``_delete_=True`` in a
dict replaces the inherited dict instead of merging into it. JSON and YAML are supported, too. Not supported: a sibling
module imported by a config (mmcv does not find it either). Where mmcv recurses endlessly, shows a traceback or returns
a random string, this reader raises a :class:`UserError` with file and line.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from .edit import BASE, MergeError, apply_options, merge, rewrite_data_root
from .literals import RESERVED, dump
from .literals import load as read_literals
from .lookup import nested
from .options import parse_option, parse_options
from .shipped import resource_dir
from .source import ConfigSource

__all__ = ["apply_options", "bases", "dump", "find", "nested", "parse_option", "parse_options", "read",
           "read_frozen", "read_literals", "rewrite_data_root"]

SHIPPED = "mmdet::"


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The resolved config: the content of ``mmcv.Config.fromfile(path)`` as plain dicts.

    Args:
        path: A file, a config that is part of this project (``configs/…``), or ``mmdet::`` followed by the path of a
            config that mmdet ships. It is executed, as by mmcv; for a run's own config use :func:`read_frozen`.

    Raises:
        UserError: It cannot be read, or contains a value that :func:`dump` cannot write.
    """
    file = find(path)
    values = _load(file, {})
    for key in RESERVED:
        if key in values:
            raise UserError(f"{file}: invalid name {key!r}: reserved by mmcv; choose another name")
    return values


def read_frozen(path: Path) -> dict[str, Any]:
    """A run's own config, which is parsed and never executed.

    Raises:
        UserError: It is not the config of a submission.
    """
    cfg = read_literals(path)
    for key in ("model", "data"):
        if not isinstance(cfg.get(key), dict):
            raise UserError(f"{path}: {key}: missing; expected a mapping; restore the file from a backup")
    return cfg


def bases(path: str | os.PathLike) -> list[Path]:
    """Absolute paths of the config and of every file that it inherits from, itself first."""
    files: dict[Path, None] = {}
    _load(find(path), files)
    return list(files)


def find(path: str | os.PathLike) -> Path:
    """The absolute path of a config, given as for :func:`read`; the error lists close matches."""
    given = os.fspath(path)
    if given.startswith(SHIPPED):
        return _find_in_mmdet(given)
    home = resource_dir("configs")
    for candidate in (Path(given).expanduser(), home.parent / given, home / given):
        if candidate.is_file():
            return Path(os.path.abspath(candidate))
    if Path(given).is_dir():
        raise UserError(f"config {given}: is a directory; expected a file")
    raise _not_found(given, home, home.name + "/")


def _find_in_mmdet(given: str) -> Path:
    spec = importlib.util.find_spec("mmdet")  # finds the package without importing it, which takes seconds
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"config {given}: mmdet is not installed here; use the path of a copy of the config, or "
                        "choose one of configs/")
    package = Path(next(iter(spec.submodule_search_locations)))
    home = next((d for d in (package / ".mim" / "configs", package.parent / "configs") if d.is_dir()), None)
    if home is None:
        raise UserError(f"config {given}: mmdet in {package} has no configs; use the path of a copy of the config")
    file = home / given[len(SHIPPED):]
    if not file.is_file():
        raise _not_found(given, home, SHIPPED)
    return file


def _not_found(given: str, home: Path, prefix: str) -> UserError:
    known = {prefix + file.relative_to(home).as_posix(): file.stem for file in sorted(home.rglob("*.py"))}
    shown = [name for name in known if "_base_" not in name]
    near = difflib.get_close_matches(given, shown, n=3, cutoff=0.6)
    stems = difflib.get_close_matches(Path(given).stem, known.values(), n=3)
    near += [name for name in shown if known[name] in stems]
    if near:
        near = list(dict.fromkeys(near))[:3]
        return UserError(f"config {given}: does not exist; did you mean {', '.join(near)}?")
    there = ", ".join(shown) if len(shown) <= 20 else f"those in {home}"
    return UserError(f"config {given}: does not exist; expected a path, or one of: {there or 'none'}")


def _load(path: Path, files: dict[Path, None], chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The resolved values of ``path``, to which ``chain`` leads; ``files`` collects the files read, in order."""
    if path in chain:
        cycle = " → ".join(f.name for f in (*chain[chain.index(path):], path))
        raise UserError(f"{chain[-1]}: invalid {BASE}: cyclic inheritance {cycle}; remove one of them")
    files[path] = None
    source = ConfigSource.open(path)
    values = source.values()
    values.pop("_deprecation_", None)
    names = values.pop(BASE, [])
    names = names if isinstance(names, list) else [names]
    inherited: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{source.at(BASE)}: invalid {BASE}: {name!r}; expected a path or a list of paths")
        base = Path(os.path.abspath(path.parent / name))
        if not base.is_file():
            raise UserError(f"{source.at(BASE, name)}: invalid {BASE}: {name!r}: {base} does not exist")
        part = _load(base, files, (*chain, path))
        for key in part.keys() & inherited.keys():
            raise UserError(f"{source.at(BASE)}: invalid {BASE}: {origin[key]} and {name} both set {key!r}; "
                            "remove it from one of them")
        inherited.update(part)
        origin.update(dict.fromkeys(part, name))
    try:
        return merge(source.substitute(values, inherited), inherited)
    except MergeError as error:
        raise UserError(f"{source.at(error.key)}: {error.key}: {error}") from None
