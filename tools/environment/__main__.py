"""Make this checkout's ``.venv``: pinned packages, mmcv-full built once for each torch, this package.

Run through ``make setup`` (``make demo`` and ``make test`` call it first). A second call finds its stamp and
ends at once. What all checkouts of a user share lies in ``$XDG_CACHE_HOME/ecm-cluster``, which is
``~/.cache/ecm-cluster`` by default: uv, and the wheels of mmcv-full.

Environment:
    ECM_CLUSTER_WHEELHOUSE: A folder of wheels that is used first. A wheel of mmcv-full counts if it lies
        directly in it, or in a subfolder whose name says what it was built for:
        ``torch-2.8.0-cp311-cpu``, ``mmcv-1.7.2-torch-2.8.0+cu128-cp311-cu128``.
    ECM_CLUSTER_PYTHON: The Python 3.11 to use.
    MAX_JOBS: Compiler processes at a time while mmcv-full is built.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import mmcv_full, uv
from .basics import CACHE, LOCK, PYTHON, ROOT, VENV, SetupError, clock, say

STAMP = VENV / "ecm-cluster.json"


def main() -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = {"inputs": inputs_digest(), "cuda": mmcv_full.toolkit_release() is not None}
    if is_current(wanted):
        return 0
    with one_at_a_time():
        began = time.monotonic()
        check_machine()
        installer = uv.Uv()
        if not runs(PYTHON):
            say(f"making {VENV}")
            installer.run("venv", "--quiet", "--clear", "--python", sys.executable, str(VENV))
        STAMP.unlink(missing_ok=True)  # from here to the end the environment is in no known state
        say(f"installing what {LOCK.relative_to(ROOT)} pins (torch and its CUDA libraries: 3 GB, once)")
        installer.run("pip", "sync", "--python", str(PYTHON), str(LOCK))
        mmcv_full.install(installer)
        say("installing this checkout")
        installer.run("pip", "install", "--quiet", "--python", str(PYTHON), "--no-deps",
                      "--no-build-isolation", "--editable", str(ROOT))
        tmp = STAMP.with_suffix(".tmp")
        tmp.write_text(json.dumps(wanted))
        tmp.replace(STAMP)
        say(f"done in {clock(time.monotonic() - began)}")
    return 0


def check_machine() -> None:
    """Say all that is missing at once, before gigabytes are downloaded.

    Raises:
        SetupError: Something is; the line names the packages to install.
    """
    missing = uv.missing() | mmcv_full.missing()
    if missing:
        raise SetupError(f"needed and not on this machine: {', '.join(missing)}; "
                         f"on Debian: apt-get install {' '.join(missing.values())}")


def inputs_digest() -> str:
    """Changes when the environment has to be made again: other pins, another Python, a moved checkout."""
    sha = hashlib.sha256(f"{ROOT}\0{sys.version}\0{sys.base_prefix}".encode())
    sources = Path(__file__).parent.glob("*.py")
    for path in (LOCK, ROOT / "setup.cfg", ROOT / "pyproject.toml", *sorted(sources)):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def is_current(wanted: dict) -> bool:
    """Whether ``.venv`` was made, to its end, from what ``wanted`` describes."""
    try:
        found = json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return False
    # a CUDA build of mmcv-full serves a shell without nvcc as well
    same = found.get("inputs") == wanted["inputs"] and bool(found.get("cuda")) >= wanted["cuda"]
    return same and os.access(PYTHON, os.X_OK)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the user's set-up lock: two checkouts would otherwise build the same wheel beside each other."""
    with open(CACHE / "lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up of this user is running; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # a network home without locks; renames keep what is shared whole
            say(f"no lock on {CACHE} ({error.strerror}); going on without")
        yield


def runs(python: Path) -> bool:
    """Whether ``python`` starts and is the version that this script runs under."""
    code = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    try:
        return subprocess.run([python, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up after `kill` as after Ctrl-C
    try:
        raise SystemExit(main())
    except SetupError as error:
        raise SystemExit(f"setup: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("setup: interrupted; run it again to go on") from None
