"""The machine that an attempt trains on, for the record: GPUs, driver, CPU, kernel; and packages that have changed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from ...base import files
from ...base.reading import Unreadable, check, parse_json, read_text
from ...freeze import environment
from ...rundir import records
from ...rundir.run import Run, Work
from ..signals import prepare_child
from ..world import node_name
from .cuda_driver import Driver

DRIVER = Path("/sys/module/nvidia/version")
GPUS = {"gpus": [str], "cuda": str}
TIMEOUT_SECONDS = 60.0  # as preflight's


def put_on_record(work: Work, run: Run, attempt: int, link: str) -> None:
    """Write an event ``machine``; and all packages, where they are not those of the submission any more."""
    now, device = environment.record(), run.job(link).device
    work.ledger(attempt, "machine", patient=True).write(
        "machine", **look(device), torch=now["torch"], python=now["python"], environment=now["digest"])
    with contextlib.suppress(OSError, Unreadable):
        if work is run and records.read(run.environment_file, records.ENVIRONMENT).get("digest") != now["digest"]:
            files.write_json(run.environment_of(attempt), now)


def look(device: str) -> dict[str, Any]:
    """What this node is; of its GPUs those that this process may use."""
    found: dict[str, Any] = {"host": socket.gethostname(), "node": node_name(), "kernel": platform.release(),
                             "platform": platform.platform(), "cpu": _cpu(), "cores": os.cpu_count(), "gpus": []}
    if device == "cuda":
        found.update(_gpus())
        with contextlib.suppress(OSError, Unreadable):
            found["driver"] = read_text(DRIVER).strip()
    return found


def _gpus() -> dict[str, Any]:
    """What the driver says, asked by a process of its own: a broken GPU can hang its caller for good, or end it."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, Unreadable):
        said = subprocess.run([sys.executable, "-m", __spec__.name], stdin=subprocess.DEVNULL,
                              capture_output=True, check=True, timeout=TIMEOUT_SECONDS, preexec_fn=prepare_child)
        return check(parse_json(said.stdout, "the driver"), GPUS, "the driver")
    return {}


def main() -> None:
    """Print the names of the GPUs, and the newest CUDA release that the driver supports, as JSON."""
    driver = Driver()
    print(json.dumps({"gpus": [gpu.name for gpu in driver.gpus()], "cuda": ".".join(map(str, driver.version()))}))


def _cpu() -> str | None:
    with contextlib.suppress(OSError, Unreadable):
        for line in read_text("/proc/cpuinfo").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or None


if __name__ == "__main__":
    main()
