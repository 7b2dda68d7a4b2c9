"""The machine that an attempt trains on, for the record: GPUs, driver, CPU, kernel; and packages that have changed."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from pathlib import Path
from typing import Any

from ...base import files
from ...base.reading import Unreadable, read_text
from ...freeze import environment
from ...rundir import records
from ...rundir.run import Run, Work
from ..world import node_name
from .cuda_driver import Driver, DriverError

DRIVER = Path("/sys/module/nvidia/version")


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
        with contextlib.suppress(DriverError, AttributeError):
            driver = Driver()
            found.update(gpus=[gpu.name for gpu in driver.gpus()], cuda=".".join(map(str, driver.version())))
        with contextlib.suppress(OSError, Unreadable):
            found["driver"] = read_text(DRIVER).strip()
    return found


def _cpu() -> str | None:
    with contextlib.suppress(OSError, Unreadable):
        for line in read_text("/proc/cpuinfo").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or None
