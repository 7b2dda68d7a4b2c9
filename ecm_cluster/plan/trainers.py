"""A job with ``trainer: MODULE:FUNCTION``: whether a rank can import that, and what its config is.

Told from files alone, as :mod:`.modules` does it: nothing of the user's is executed by a submission.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from ..job import job as jobs
from ..mmconfig import config
from . import modules

NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


def settings(job: jobs.Job) -> tuple[str, list[Path], dict[str, Any]]:
    """Path, files and values of what the trainer gets as its config: the job's, if it names one, with its options.

    The default of ``config`` is one of mmdet's, and not meant. Without a config the path is the module's name.

    Raises:
        UserError: ``trainer`` is malformed, or the config cannot be read.
    """
    named = NAME.fullmatch(job.trainer or "")
    if named is None:
        raise UserError(f"trainer: invalid value {job.trainer!r}; expected MODULE:FUNCTION, e.g. my_trainer:make")
    path, sources, written = named[1].rpartition(".")[2], [], {}
    if job.config != jobs.DEFAULT_CONFIG:
        sources, written = config.bases(job.config), config.read(job.config)
        path = str(sources[0])
    cfg = config.apply_options(written, job.options)
    config.dump(cfg)  # a value that cannot be written down is refused here, in a dry run as well
    return path, sources, cfg


def problems(job: jobs.Job) -> tuple[list[str], list[str]]:
    """Why a rank cannot import the trainer, and what may keep it from it, see :func:`modules.problems`."""
    module, _, function = (job.trainer or "").partition(":")
    if job.code and not Path(job.code).expanduser().is_dir():
        return [f"--code {job.code}: is not a directory; expected the one that holds your modules"], []
    for file in modules.own_files(module, job):
        try:
            tree = ast.parse(file.read_bytes(), str(file))
        except (SyntaxError, ValueError) as error:
            return [f"trainer: {file}:{getattr(error, 'lineno', None) or 1}: {getattr(error, 'msg', error)}; correct "
                    "the module"], []
    found = modules.own_files(module, job)
    if found and function not in _names(tree):
        return [f"trainer: {found[-1]} has no {function!r}; expected a function of this name"], []
    paths = modules.search_path(job)
    if found or paths is None or modules.is_there(module, paths):
        return [], []
    missing = [f"trainer: there is no module {module!r} in {modules.where(job)}; {modules.remedy(module)}"]
    return ([], missing) if job.setup or "PYTHONPATH" in job.env else (missing, [])


def _names(tree: ast.Module) -> set[str]:
    """What a module defines, assigns or imports at its top level."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found
