"""Reads an mmdet config as ``mmcv.Config.fromfile`` (mmcv 1.x) does, without mmcv, numpy or torch.

A config is Python that is executed; ``_base_`` names the configs that it inherits from, and ``_delete_=True``
in a dict replaces what it would be merged into. JSON and YAML are read too. Not covered: a sibling module
imported by a config (mmcv does not find it either).

What mmcv turns into an endless recursion, a traceback or a random string is a :class:`UserError` here, with
file and line.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from .edit import BASE, MergeError, apply_options, merge, nested, rewrite_data_root
from .literals import RESERVED, dump
from .literals import load as read_literals
from .options import parse_option, parse_options
from .shipped import resource_dir
from .source import Source

__all__ = ["apply_options", "bases", "dump", "find", "nested", "parse_option", "parse_options", "read",
           "read_frozen", "read_literals", "rewrite_data_root"]

SHIPPED = "mmdet::"


def read(path: str | os.PathLike) -> dict[str, Any]:
    """The resolved config: what ``mmcv.Config.fromfile(path)`` holds, in plain dicts.

    Args:
        path: A file, one of the configs that come with this program (``configs/…``), or ``mmdet::`` and the
            path of one that mmdet ships. It is executed, as mmcv does it; of a run's own config take
            :func:`read_frozen`.

    Raises:
        UserError: It cannot be read, or holds what :func:`dump` does not write.
    """
    reading = _Reading()
    file = find(path)
    values = reading.load(file, ())
    for key in RESERVED:
        if key in values:
            raise UserError(f"{file}: mmcv keeps the name {key!r} for itself; choose another")
    return values


def read_frozen(path: Path) -> dict[str, Any]:
    """A run's own config, which is never executed.

    Raises:
        UserError: It is not what a run was submitted with.
    """
    cfg = read_literals(path)
    for key in ("model", "data"):
        if not isinstance(cfg.get(key), dict):
            raise UserError(f"{path}: {key}: missing; expected a mapping; restore the file from a backup")
    return cfg


def bases(path: str | os.PathLike) -> list[Path]:
    """Every file that the config is made of, absolute: itself first, then what it inherits from."""
    reading = _Reading()
    reading.load(find(path), ())
    return list(reading.files)


def find(path: str | os.PathLike) -> Path:
    """The absolute path of a config, given as for :func:`read`; names near matches where there is none."""
    given = os.fspath(path)
    if given.startswith(SHIPPED):
        return _find_in_mmdet(given)
    home = resource_dir("configs")
    for candidate in (Path(given).expanduser(), home.parent / given, home / given):
        if candidate.is_file():
            return Path(os.path.abspath(candidate))
    if Path(given).is_dir():
        raise UserError(f"config {given}: is a directory; name a file in it")
    raise _not_found(given, home, home.name + "/")


def _find_in_mmdet(given: str) -> Path:
    spec = importlib.util.find_spec("mmdet")  # looks for the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"config {given}: mmdet, with its configs, is not installed here; give the path of a "
                        f"copy, or choose one of configs/")
    package = Path(next(iter(spec.submodule_search_locations)))
    home = next((d for d in (package / ".mim" / "configs", package.parent / "configs") if d.is_dir()), None)
    if home is None:
        raise UserError(f"config {given}: mmdet in {package} has no configs; give the path of a copy")
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
        return UserError(f"config {given}: there is no such file; near to it: {', '.join(near)}")
    there = ", ".join(shown) if len(shown) <= 20 else f"those in {home}"
    return UserError(f"config {given}: there is no such file; beside your own there are: {there or 'none'}")


@dataclass
class _Reading:
    """One reading of a config; ``files`` collects what was read, in order."""

    files: dict[Path, None] = field(default_factory=dict)

    def load(self, path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
        """The resolved values of ``path``; ``chain`` leads to it from the config that was asked for."""
        if path in chain:
            circle = " → ".join(f.name for f in (*chain[chain.index(path):], path))
            raise UserError(f"{chain[-1]}: {BASE} runs in a circle: {circle}; take one of them out")
        self.files[path] = None
        source = Source.open(path)
        values = source.values()
        values.pop("_deprecation_", None)
        names = values.pop(BASE, [])
        names = names if isinstance(names, list) else [names]
        inherited: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for name in names:
            if not isinstance(name, str):
                raise UserError(f"{source.at(BASE)}: {BASE} is a path or a list of paths, not {name!r}")
            base = Path(os.path.abspath(path.parent / name))
            if not base.is_file():
                raise UserError(f"{source.at(BASE, name)}: {BASE} names {name!r}, but there is no {base}")
            part = self.load(base, (*chain, path))
            for key in part.keys() & inherited.keys():
                raise UserError(f"{source.at(BASE)}: {BASE} names {origin[key]} and {name}, which both set "
                                f"{key!r}; leave it to one of them")
            inherited.update(part)
            origin.update(dict.fromkeys(part, name))
        try:
            return merge(source.substitute(values, inherited), inherited)
        except MergeError as error:
            raise UserError(f"{source.at(error.key)}: {error.key}: {error}") from None
