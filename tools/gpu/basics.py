"""Folders, the record of each step, and running a command within a time limit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]
HOME_ENV = "ECM_CLUSTER_GPU_CHECK"
HOME = Path(os.environ.get(HOME_ENV) or ROOT / "build" / "gpu_check").absolute()  # git ignores the latter
VENV = HOME / "venv"
TIMED_OUT = 124
TOKEN = "GPU_CHECK_STEP"  # marks what a step has started
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
LOCK = ROOT / "tools" / "environment" / "pins" / "requirements.txt"


class StepError(Exception):
    """A step cannot be done; the text is one line with the remedy."""


def say(line: str) -> None:
    print(f"gpu_check: {line}", flush=True)


def log_file(name: str) -> Path:
    return HOME / "logs" / f"{name}.log"


def mmcv_version() -> str:
    """The version of mmcv-full that the environment of this checkout has."""
    source = (ROOT / "tools" / "environment" / "basics.py").read_text()
    found = re.search(r'^    mmcv: str = "(.+)"$', source, re.M)
    assert found, "tools/environment/basics.py names no mmcv"
    return found[1]


def mmcv_source() -> Path:
    """Where the source distribution is unpacked, and compiled in place."""
    return HOME / f"mmcv-full-{mmcv_version()}"


# -- records: what each step came to, for the report, and so that a later call does only what is left


def record(step: str, **fields: Any) -> None:
    path = HOME / "steps" / f"{step}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"step": step, "at": time.strftime("%Y-%m-%d %H:%M:%S"), **fields}, indent=1))


def recorded(step: str) -> dict[str, Any]:
    """The record of a step; empty if there is none."""
    try:
        found = json.loads((HOME / "steps" / f"{step}.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- commands


def run(name: str, command: Sequence[str | Path], limit: float, env: Mapping[str, str] | None = None,
        cwd: Path = ROOT, echo: bool = True, **facts: Any) -> int:
    """Run a command; its output goes to the step's log, and to the screen as well.

    Args:
        limit: Seconds after which it is ended, with all that it has started; 0: none.
        facts: Further fields of the step's record.

    Returns:
        Its exit code; 124 if it ran into the limit.
    """
    log, began, token = log_file(name), time.monotonic(), uuid.uuid4().hex
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env={**os.environ, **(env or {}), TOKEN: token}, cwd=cwd, start_new_session=True)
        expired: list[bool] = []

        def end(*_: Any) -> None:
            if expired:
                kill_all(token)
            else:  # compilers and pytest tidy up
                os.killpg(process.pid, signal.SIGTERM)
            expired.append(True)
            signal.setitimer(signal.ITIMER_REAL, GRACE)

        before = signal.signal(signal.SIGALRM, end)
        signal.setitimer(signal.ITIMER_REAL, limit)  # 0 sets none
        try:
            copy(process, out, echo)
            code = process.wait()
        except BaseException:
            expired.append(True)
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            if expired:
                kill_all(token)
        if expired:
            out.write(f"\ngpu_check: ended at its limit of {limit:.0f} s\n".encode())
            code = TIMED_OUT
    record(name, rc=code, seconds=round(time.monotonic() - began, 1), limit=limit, command=[str(p) for p in command],
           **facts)
    return code


def copy(process: subprocess.Popen[bytes], out: BinaryIO, echo: bool) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        out.write(line)
        out.flush()
        if echo:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def kill_all(token: str) -> None:
    """Kill everything that a step has started: ninja's compilers and local runs have left its process group."""
    mark = f"{TOKEN}={token}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                os.kill(int(pid), signal.SIGKILL)
