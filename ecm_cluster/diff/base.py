"""The config that a run's was made from: a shipped one, or the user's file, before ``--set``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..base.reading import check_inside, read_bytes
from ..freeze.snapshot import CONFIGS
from ..mmconfig import config, settled
from ..mmconfig.edit import map_strings
from ..mmconfig.shipped import resource_dir
from ..rundir.run import Run
from .changes import Change, config_diff


def config_of(run: Run) -> dict[str, Any]:
    """A run's resolved config, with weights by their source: their local paths say nothing about the training."""
    sources = {each.get("path"): each.get("source") for each in run.spec.weights if isinstance(each, dict)}
    return map_strings(config.read_literals(run.config_file), lambda text: sources.get(text) or text)


def of(run: Run) -> tuple[str, dict[str, Any]] | None:
    """Name and content of the config that a run's was made from; None where it is not available.

    A config is executed to read it. Of the run's own code that is done for the caller's own runs alone; of others, only
    a config of this installation that is the same, byte by byte.
    """
    names = run.spec.code.get("configs") or []
    if run.spec.job.trainer is not None or not names:
        return None
    with contextlib.suppress(UserError, OSError, AttributeError, TypeError, KeyError):
        frozen = run.code_folder(1) / CONFIGS
        for name in names:
            check_inside(frozen, name, run.run_file, "code.configs")
        home = frozen if run.is_own else _same(frozen, names)
        if home is not None:
            base = settled.settle(settled.replace_references(config.read(home / names[0])))
            root = run.spec.job.data_root
            return run.spec.config, config.rewrite_data_root(base, _root_of(run) or root) if root else base
    return None


def _root_of(run: Run) -> str | None:
    root = config.read_literals(run.config_file).get("data_root")
    return root if isinstance(root, str) else None


def _same(frozen: Path, names: list[str]) -> Path | None:
    """This installation's folder of configs, if it has the same files."""
    ours = resource_dir("configs")
    prefix = next((p for p in ("", f"{ours.name}/") if all(name.startswith(p) for name in names)), "")
    same = all((ours / name[len(prefix):]).is_file()
               and read_bytes(ours / name[len(prefix):]) == read_bytes(frozen / name) for name in names)
    return (ours.parent if prefix else ours) if same else None


def against_base(run: Run) -> tuple[str, list[Change]] | None:
    """The config that a run's was made from, and what differs; None where that config is not available."""
    found = of(run)
    return (found[0], config_diff(config_of(run), found[1])) if found else None
