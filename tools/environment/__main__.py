"""Make this checkout's ``.venv``: pinned packages, mmcv-full built once for each torch, this package.

Run through ``make setup`` (``make demo`` and ``make test`` call it first). A second call finds its stamp and
ends at once. What all checkouts of a user share is in ``$XDG_CACHE_HOME/ecm-cluster``, which is
``~/.cache/ecm-cluster`` by default: uv, and the wheels of mmcv-full.

Environment:
    ECM_CLUSTER_WHEELHOUSE: A folder of wheels that is used first. A wheel of mmcv-full counts if it lies
        directly in it, or in a subfolder whose name says what it was built for:
        ``torch-2.8.0-cp311-cpu``, ``mmcv-1.7.2-torch-2.8.0+cu128-cp311-cu128``.
        A file operators.json beside it says for which GPUs.
    ECM_CLUSTER_PYTHON: The Python to use: 3.11, or 3.12 for the stack cuda13.
    ECM_CLUSTER_PYTHON38: The one for the stack original.
    ECM_CLUSTER_STACK: cuda12 (torch 2.8.0) or cuda13 (torch 2.11.0); default: that of the existing environment.
        original (torch 1.13.1) is made beside it, as .venv-original: docs/guide/stacks.md.
    ECM_CLUSTER_CUDA_HOME: The CUDA toolkit to use; default: CUDA_HOME, CUDA_PATH, the nvcc in PATH, /usr/local/cuda.
    ECM_CLUSTER_NVCC: "index" takes nvcc from the package index.
    FORCE_CUDA: 1: no nvcc that fits is an error; 0: compile for the CPU alone, even if there is one.
    TORCH_CUDA_ARCH_LIST: GPUs to compile for, as "8.0;9.0+PTX"; default: all that torch itself was compiled for.
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

from ecm_cluster.plan import operators

from . import cuda, mmcv_full, uv
from .basics import CACHE, PYTHON, ROOT, VENV, SetupError, Stack, clock, say, stack

STAMP = VENV / operators.STAMP


def main() -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    chosen = stack()
    keep_architectures(chosen)
    search = cuda.find(chosen)
    record = current(chosen, search.toolkit)
    if record is None:
        record = make(chosen, search.toolkit)
    elif "--report" not in sys.argv[1:]:
        return 0
    report(record, search.trouble, chosen)
    return 0


def make(chosen: Stack, toolkit: cuda.Toolkit | None) -> operators.Operators:
    """The environment, made from what is available."""
    with one_at_a_time():
        began = time.monotonic()
        check_machine(chosen, toolkit)
        installer = uv.Uv(chosen)
        if not runs(PYTHON):
            say(f"making {VENV}")
            installer.run("venv", "--quiet", "--clear", "--python", sys.executable, str(VENV))
        stamp = {"stack": chosen.name, "asked": os.environ.get("TORCH_CUDA_ARCH_LIST")}
        write_stamp(stamp)  # from here to the end the environment is in no known state
        say(f"installing what {chosen.lock.relative_to(ROOT)} pins (torch and its CUDA libraries: 3 GB, once)")
        installer.run("pip", "sync", "--python", str(PYTHON), str(chosen.lock))
        if toolkit:
            cuda.fetch(installer, chosen, toolkit)
        record = mmcv_full.install(installer, toolkit)
        say("installing this checkout")
        installer.run("pip", "install", "--quiet", "--python", str(PYTHON), "--no-deps",
                      "--no-build-isolation", "--editable", str(ROOT))
        write_stamp({**stamp, "inputs": inputs_digest(chosen), "operators": record.as_dict()})
        say(f"done in {clock(time.monotonic() - began)}")
    return record


def report(record: operators.Operators, trouble: str, chosen: Stack) -> None:
    """Say what the operators are compiled for, and what a job on GPUs needs where that is the CPU."""
    if record.cuda:
        say(f"mmcv-full {record.describe()}")
        return
    say(f"mmcv-full {record.describe()}{f' ({trouble})' if trouble else ''}")
    say(f"for a job on GPUs: {cuda.remedy(chosen)}")


def keep_architectures(chosen: Stack) -> None:
    """An environment keeps its TORCH_CUDA_ARCH_LIST until another one is named; an empty one means the default."""
    stamp = read_stamp()
    if stamp.get("stack") == chosen.name and stamp.get("asked"):
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", stamp["asked"])


def read_stamp() -> dict:
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(stamp: dict) -> None:
    tmp = STAMP.with_suffix(".tmp")
    tmp.write_text(json.dumps(stamp))
    tmp.replace(STAMP)


def check_machine(chosen: Stack, toolkit: cuda.Toolkit | None) -> None:
    """Say all that is missing at once, before gigabytes are downloaded.

    Raises:
        SetupError: Something is; the line names the packages to install.
    """
    missing = {**uv.missing(chosen), **mmcv_full.missing(chosen, toolkit)}
    if missing:
        raise SetupError(f"needed and not on this machine: {', '.join(missing)}; "
                         f"on Debian: apt-get install {' '.join(missing.values())}")


def inputs_digest(chosen: Stack) -> str:
    """Changes when the environment has to be made again: other pins, another Python, a moved checkout."""
    sha = hashlib.sha256(f"{ROOT}\0{sys.version}\0{sys.base_prefix}".encode())
    sources = Path(__file__).parent.glob("*.py")
    for path in (chosen.lock, ROOT / "setup.cfg", ROOT / "pyproject.toml", *sorted(sources)):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def current(chosen: Stack, toolkit: cuda.Toolkit | None) -> operators.Operators | None:
    """What ``.venv`` records, if it was made, to its end, from what is there now; else None.

    Operators for CUDA also serve a shell without nvcc.
    """
    stamp = read_stamp()
    record = operators.of_interpreter(str(PYTHON))
    if record is None or stamp.get("inputs") != inputs_digest(chosen) or not os.access(PYTHON, os.X_OK):
        return None
    if toolkit is None:
        return record
    same = (os.environ.get("TORCH_CUDA_ARCH_LIST") or None) == (stamp.get("asked") or None)
    return record if record.cuda and same else None


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
            say(f"no lock on {CACHE} ({error.strerror}); continuing without")
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
        raise SystemExit("setup: interrupted; run it again to continue") from None
