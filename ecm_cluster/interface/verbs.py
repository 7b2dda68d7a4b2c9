"""Verbs called from Python: each is a process, so that a notebook's signals, umask and output stay its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..base import files, processes
from ..base.errors import Failed, UserError, one_of
from ..job import job as jobs

FOUND = re.compile(r"run (/.*?)(: its submission was interrupted; continuing it)?")  # first line of `submit`


def call(verb: str, *words: str) -> str:
    """Call a verb as a user would; what it prints.

    Raises:
        UserError: It was refused, in the verb's own words.
        Failed: It failed for another reason.
    """
    path = os.pathsep.join([str(processes.SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(processes.command(sys.executable, verb, *words), stdin=subprocess.DEVNULL,
                          capture_output=True, encoding="utf-8", errors="replace", check=False,
                          env={**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1"})
    lines = done.stderr.splitlines()
    for line in lines:
        if line.startswith("warning: "):
            warnings.warn(line[len("warning: "):], stacklevel=3)
    if done.returncode != 0:
        errors = [line[len("error: "):] for line in lines if line.startswith("error: ")]
        raise (UserError if done.returncode == 2 else Failed)(errors[-1] if errors else
                                                              f"{verb} ended with exit code {done.returncode}")
    return done.stdout


def submit(job: str | None, keys: Mapping[str, Any], cluster: str, check: bool) -> Path:
    """Submit a run; its directory."""
    made = jobs.load(job, keys)  # an error names the key, not the file below
    flags = ["--cluster", cluster] + ([] if check else ["--no-check"])
    with tempfile.TemporaryDirectory(prefix="ecm-cluster-submit-") as folder:
        path = Path(folder, "job.yaml")
        files.write_text(path, json.dumps(_given(made), ensure_ascii=False), private=True)
        said = call("submit", str(path), *flags)
    found = FOUND.fullmatch(said.splitlines()[0])
    assert found is not None, said
    return Path(found[1])


def _given(job: jobs.Job) -> dict[str, Any]:
    """What differs from the defaults: of other keys the user's shell may set some, as for the verb itself."""
    default, values = jobs.make({}).as_dict(), job.as_dict()
    block = {key: value for key, value in values["evaluation"].items() if value != default["evaluation"][key]}
    given = {f.name: values[f.name] for f in fields(job) if f.name != "evaluation"
             and values[f.name] != default[f.name]}
    return {**given, **({"evaluation": block} if block else {})}


def flags(changes: Mapping[str, Any]) -> list[str]:
    """Options of a job as the flags of a verb.

    Raises:
        UserError: One has no flag.
    """
    words: list[str] = []
    for name, value in changes.items():
        one = jobs.OPTIONS.get(name)
        if one is None or one.flag is None:
            raise one_of("key", name, [key for key, known in jobs.OPTIONS.items() if known.flag])
        value = one.read(name, value)
        words += [f"{one.flag}={'' if value is None else value}"] if not isinstance(value, bool) else [one.flag] * value
    return words
