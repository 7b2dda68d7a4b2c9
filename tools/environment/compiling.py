"""How a build runs on this machine: how many compilers at a time, and what is shown meanwhile."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from .basics import clock, say

GIB = 1 << 30


def at_once() -> int:
    """Compilers at a time: one per core, if each gets 2 GiB (what a file with torch's headers can take)."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // (2 * GIB)))


def watch(process: subprocess.Popen, log: Path) -> None:
    """Show how far ninja is until the build ends: one line that changes, or in a log one now and then."""
    live, began = sys.stderr.isatty(), time.monotonic()
    try:
        while process.poll() is None:
            try:
                process.wait(timeout=1 if live else 20)
            except subprocess.TimeoutExpired:
                steps = re.findall(r"^\s*\[(\d+/\d+)\]", log.read_text(errors="replace"), re.M)
                line = f"mmcv-full: {steps[-1] if steps else 'preparing'}, {clock(time.monotonic() - began)}"
                if live:
                    print(f"\r\033[Ksetup: {line}", end="", file=sys.stderr, flush=True)
                else:
                    say(line)
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)  # pip, ninja and the compilers
        raise
    finally:
        if live:
            print(file=sys.stderr)
