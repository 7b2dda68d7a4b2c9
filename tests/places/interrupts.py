"""Ctrl-C at any moment: the verb ends at once, says so in a line, and the same call goes through afterwards."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from .calls import Call
from .case import _environment
from .judging import LEFT, NOISE


@dataclass(frozen=True)
class Interrupted:
    """One call, and what came of a Ctrl-C after so many seconds."""

    call: Call
    seconds: float
    code: int
    err: str
    faults: list[str]


def ended(world: Path, call: Call, after: float | None = None, twice: float | None = None) -> tuple[int, str, float]:
    """Code, errors and seconds of a call; as from a terminal, the signal reaches all processes of the group.

    Args:
        after: Seconds until Ctrl-C.
        twice: Seconds until the second.
    """
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "ecm_cluster", *call.words], env=_environment(world), text=True,
                               cwd=world / "work", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, start_new_session=True)
    for seconds in (after, twice):
        if seconds is not None:
            time.sleep(seconds)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    return process.returncode, err, time.monotonic() - began


def renew(world: Path, base: Path) -> None:
    shutil.rmtree(world, ignore_errors=True)
    subprocess.run(["cp", "-a", base, world], check=True)


def moments(world: Path, call: Call, number: int, seed: int) -> list[Interrupted]:
    """Interrupt a call at ``number`` random moments, each in a fresh world."""
    base = world.with_name("base")
    if not base.exists():
        subprocess.run(["cp", "-a", world, base], check=True)
    renew(world, base)
    good, _, length = ended(world, call)
    choose = random.Random(f"{seed} {call.name}")
    found = []
    for _ in range(number):
        renew(world, base)
        before = set(world.rglob("*"))
        seconds = choose.uniform(0.02, 1.1 * length)
        code, err, _ = ended(world, call, seconds, 0.02 if choose.random() < 0.3 else None)
        faults = []
        # Python itself was starting, or runpy: this package cannot help it
        starting = code in (1, 130, -signal.SIGINT) and "ecm_cluster/" not in err and not err.endswith("interrupted\n")
        if code not in (good, 130, -signal.SIGINT) and not starting:
            faults.append(f"code {code}")
        if NOISE.search(err) and not starting:
            faults.append("a traceback")
        if code in (130, -signal.SIGINT) and not err.endswith("interrupted\n") and not starting:
            faults.append("it does not say that it was interrupted")
        left = [str(path) for path in set(world.rglob("*")) - before if LEFT.search(str(path))]
        if left:
            faults.append(f"left behind: {left[0]}")
        again = ended(world, call) if code != good else None
        if again is not None and again[0] != good and "already exists" not in again[1]:  # it was nearly printed
            faults.append(f"afterwards code {again[0]}: {again[1].strip()[-300:]}")
        found.append(Interrupted(call, seconds, code, err, faults))
    renew(world, base)
    return found
