"""The folders of a run as this machine sees them, and what the user may still put there."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ..base import processes
from ..base.disk import filesystem
from ..base.units import size_text
from ..slurm import commands, queue
from .asked import Asked
from .finding import FAILS, WARNING, Finding, fails, not_asked, ok, warning

SECONDS = 8.0  # that a folder may take to answer
NEARLY = 0.9  # of a quota
# filesystem, blocks of 1 KiB, quota, limit, grace, files, quota, limit; * stands where one is exceeded
QUOTA = re.compile(r"^\s*(\S+)\s+\[?(\d+)\]?(\*?)\s+(\d+)k?\s+(\d+)k?\s+(?:[^\s\d]\S*\s+|\d+(?:days|:)\S*\s+)?"
                   r"\[?(\d+)\]?(\*?)\s+(\d+)\s+(\d+)", re.MULTILINE)


class Looks:
    """The checks of several folders, each in a process of its own, started together."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._began = time.monotonic()
        environ = {**os.environ, "PYTHONPATH": str(processes.SOURCE)}
        self._running = {name: (path, subprocess.Popen(
            processes.command(sys.executable, "folder check", name, path), env=environ, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace"))
            for name, path in folders.items()}

    def findings(self, only_read: Collection[str] = ()) -> Iterator[Finding]:
        """What they have found; a folder that gives no answer in time fails, and is not waited for any more.

        Args:
            only_read: Folders that need not be written to: what fails there is a warning.
        """
        for one in self._answers():
            name = one.id.split(".")[1]
            yield dataclasses.replace(one, state=WARNING) if one.state == FAILS and name in only_read else one

    def _answers(self) -> Iterator[Finding]:
        for name, (path, process) in self._running.items():
            try:
                out, errors = process.communicate(timeout=max(0.1, self._began + SECONDS - time.monotonic()))
                yield from (Finding(**{**one, "nodes": tuple(one["nodes"])}) for one in json.loads(out))
            except subprocess.TimeoutExpired:
                process.kill()
                yield fails(f"folder.{name}", f"{path}: no answer within {SECONDS:.0f} s",
                            "is its file server there? Use another folder, or tell the administrator")
            except ValueError:
                said = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
                yield not_asked(f"folder.{name}", f"{path}: {said}")


def quotas(asked: Asked) -> Iterator[Finding]:
    """What ``quota`` and Lustre's ``lfs quota`` say of this user."""
    queries: list[tuple[str, ...]] = [("quota", "-w")]
    roots = {"home": Path(os.path.expanduser("~")), **asked.folders()}
    queries += [("lfs", "quota", "-q", "-u", queue.user_name(), str(path)) for path in
                 dict.fromkeys(roots.values()) if filesystem(path).kind == "lustre"]
    there = [command for command in queries if shutil.which(command[0])]
    if not there:
        yield not_asked("quota.user", "there is no quota command here")
    said = False
    for command in there:
        done = commands.run_command(*command, timeout=5.0)
        if done is None:
            yield not_asked("quota.user", f"{command[0]} does not answer")
            continue
        for row in QUOTA.findall(done.stdout):
            said = True
            yield from _judged(*row)
    if there and not said:
        yield ok("quota.user", f"{' and '.join(sorted({c[0] for c in there}))} names no quota of yours")


def _judged(place: str, blocks: str, over: str, soft: str, hard: str, count: str, many: str, files_soft: str,
            files_hard: str) -> Iterator[Finding]:
    parts, full, near = [], False, bool(over or many)
    for used, below, end, shown in ((int(blocks) << 10, int(soft) << 10, int(hard) << 10, size_text),
                                    (int(count), int(files_soft), int(files_hard), "{:,.0f} files".format)):
        limit = min((one for one in (below, end) if one), default=0)
        if limit:
            parts.append(f"{shown(used)} of {shown(limit)}")
            near, full = near or used > NEARLY * limit, full or bool(end and used >= end)
    if not parts:
        return
    name, text = f"quota.{place}", f"{' and '.join(parts)} used in {place}"
    if full:
        yield fails(name, text, "delete something there, or move caches and runs elsewhere ($XDG_CACHE_HOME, "
                    "--runs-dir)")
    elif near:
        yield warning(name, text, "delete something there before long runs write to it")
    else:
        yield ok(name, text)
