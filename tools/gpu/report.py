"""One Markdown report of what the steps came to."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from . import interpreter
from .basics import HOME, ROOT, TIMED_OUT, VENV, log_file, recorded
from .checks import BENCHMARKS

LONGEST = 4000  # characters of a benchmark's output


def write(folder: Path) -> Path:
    """Write the report, and copies of the logs beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in sorted((HOME / "logs").glob("*.log")):
        shutil.copy(log, folder)
    target = folder / "gpu_check.md"
    target.write_text("\n\n".join(["# GPU check", machine(), build(), tests(), benchmarks()]) + "\n")
    return target


def machine() -> str:
    """Machine, driver, versions."""
    python = recorded("test").get("python") or str(VENV / "bin" / "python")
    found = interpreter.probe(python)
    rows: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"),
                            "commit": _said("git", "rev-parse", "--short", "HEAD"),
                            "machine": f"{len(os.sched_getaffinity(0))} CPU cores, {platform.platform()}"}
    if not isinstance(found, str):
        rows["GPUs"] = ", ".join(f"{gpu['name']}, {gpu['memory'] / (1 << 30):.0f} GiB, compute capability "
                                 f"{gpu['capability']}" for gpu in found["gpus"]) or "none"
        rows["Python, torch, CUDA"] = f"{found['python']}, {found.get('torch')}, {found.get('cuda')}"
        rows["mmcv-full's operators for"] = found.get("operators", "not importable")
    rows["driver"] = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return "## Machine\n\n| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def build() -> str:
    found = recorded("build")
    if not found:
        return "## Build\n\nnot run"
    state = {0: "done", TIMED_OUT: f"not finished at its limit ({found.get('reached')})"}.get(found["rc"], "failed")
    return f"## Build of mmcv-full's operators\n\n{state}; architectures {found.get('architectures', 'none yet')}, " \
        f"{found['seconds']:.0f} s in all with {found.get('jobs')} processes"


def tests() -> str:
    """Counts, what failed, and all that the suite says it could not check."""
    found, text = recorded("test"), _log("test")
    if not found:
        return "## Tests\n\nnot run"
    counts = {word: len(re.findall(rf"^\S+::\S.* {word}\b", text, re.M)) for word in
              ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    state = "ran into its limit" if found["rc"] == TIMED_OUT else f"exit code {found['rc']}"
    parts = [f"## Tests\n\n{state} after {found['seconds']:.0f} s: "
             + ", ".join(f"{count} {word.lower()}" for word, count in counts.items())]
    said = re.search(r"^=+ GPU suite =+\n(.*?)^=+ ", text, re.M | re.S)
    if said:
        parts.append("\n".join(f"- {line}" for line in said[1].strip().splitlines()))
    failures = re.search(r"^=+ (?:FAILURES|ERRORS) =+\n(.*?)^=+ ", text, re.M | re.S)
    if failures:
        parts.append(f"```\n{failures[1][-LONGEST:]}\n```")
    elif found["rc"]:
        parts.append(f"```\n{text[-LONGEST:]}\n```")
    return "\n\n".join(parts)


def benchmarks() -> str:
    parts = ["## Benchmarks"]
    for name in BENCHMARKS:
        found, text = recorded(f"bench-{name}"), _log(f"bench-{name}")
        if not found:
            parts.append(f"### {name}\n\nnot run")
            continue
        state = "" if found["rc"] == 0 else f"exit code {found['rc']} after {found['seconds']:.0f} s\n\n"
        command = " ".join(["python", *found["command"][1:]]).replace(f"{ROOT}/", "")
        parts.append(f"### {name}\n\n    {command}\n\n{state}```\n{text.strip()[-LONGEST:]}\n```")
    return "\n\n".join(parts)


def _log(name: str) -> str:
    try:
        return log_file(name).read_text(errors="replace")
    except OSError:
        return ""


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "unknown"
