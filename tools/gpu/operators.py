"""Compile mmcv-full's operators in place, for the architectures of this machine's GPUs alone.

In place, so that a build which was ended at its limit continues where it was: ninja keeps what is compiled.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from . import interpreter
from .basics import TIMED_OUT, VENV, StepError, log_file, mmcv_source, record, recorded, run, say

GIB = 1 << 30
PYTHON = VENV / "bin" / "python"


def build(device: str, limit: float) -> int:
    """Compile what is not compiled; 0 when the operators import, 124 at the limit: call it again then.

    Raises:
        StepError: Nothing was unpacked, or there is no compiler.
    """
    if not PYTHON.exists() or not mmcv_source().exists():
        raise StepError("nothing to build; run `tools/gpu_check unpack` first")
    found = interpreter.probe(PYTHON)
    if isinstance(found, str):
        raise StepError(f"{PYTHON}: {found}")
    architectures = wanted_architectures(found, device)
    if recorded("build").get("architectures") == architectures and not interpreter.lacking(found, device):
        say(f"mmcv-full's operators are there, for {architectures}")
        return 0
    env = {"MMCV_WITH_OPS": "1", "MAX_JOBS": os.environ.get("MAX_JOBS") or str(jobs()),
           "FORCE_CUDA": "1" if device == "cuda" else "0",
           "PATH": os.pathsep.join([str(VENV / "bin"), *ninja(), os.environ.get("PATH", os.defpath)])}
    if device == "cuda":
        nvcc = compiler(found["cuda"])
        env.update({"TORCH_CUDA_ARCH_LIST": architectures, "CUDA_HOME": str(nvcc.parents[1])})
    else:
        env["CUDA_VISIBLE_DEVICES"] = ""
    say(f"compiling mmcv-full for {architectures} with {env['MAX_JOBS']} processes; log in {log_file('build')}")
    code = run("build", [PYTHON, "setup.py", "egg_info", "build_ext", "--inplace"], limit, env, mmcv_source(),
               echo=False)
    steps = re.findall(r"^\[(\d+/\d+)\]", log_file("build").read_text(errors="replace"), re.M)
    if code == 0 and (lacks := interpreter.lacking(interpreter.probe(PYTHON), device)):
        raise StepError(f"mmcv-full is built, and {PYTHON} lacks {', '.join(lacks)}")
    spent = recorded("build")["seconds"] + recorded("compiling").get("seconds", 0)
    record("compiling", seconds=spent)  # of all calls together
    record("build", rc=code, seconds=spent, reached=steps[-1] if steps else "",
           jobs=env["MAX_JOBS"], **({"architectures": architectures} if code == 0 else {}))
    if code not in (0, TIMED_OUT):
        raise StepError(f"mmcv-full did not compile; the end of {log_file('build')}:\n"
                        + "\n".join(log_file("build").read_text(errors="replace").splitlines()[-15:]))
    say(f"build: {'done' if code == 0 else 'at its limit, run it again to continue'}, "
        f"{steps[-1] if steps else 'nothing to compile'}, {spent:.0f} s in all")
    return code


def wanted_architectures(found: dict[str, Any], device: str) -> str:
    """As torch's build machinery takes them, ``9.0`` or ``8.0;9.0``; ``cpu`` for the CPU alone."""
    if device == "cpu":
        return "cpu"
    if not found["gpus"]:
        raise StepError("build: torch sees no GPU here; its architecture is what the operators are built for")
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(sorted({gpu["capability"] for gpu in found["gpus"]}))


def compiler(cuda: str) -> Path:
    """nvcc of the same major release as torch's CUDA, and what else a build needs.

    Raises:
        StepError: Something is missing.
    """
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    places = [os.path.join(home, "bin", "nvcc")] if home else [shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"]
    nvcc = next((place for place in places if place and os.access(place, os.X_OK)), None)
    if nvcc is None:
        raise StepError(f"build: CUDA's compiler was not found (looked at {', '.join(p for p in places if p)}); name "
                        "its toolkit in CUDA_HOME")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.\d+", said)
    if not release or release[1] != cuda.split(".")[0]:
        raise StepError(f"build: {nvcc} is of CUDA {release[1] if release else 'an unknown release'} and torch of CUDA "
                        f"{cuda}; name a toolkit of the same major release in CUDA_HOME")
    if not shutil.which("g++") or not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        raise StepError("build: g++ and Python's headers are needed; on Debian: apt-get install g++ python3-dev")
    return Path(nvcc)


def ninja() -> list[str]:
    """Folder of the bundle's ninja, which the wheel keeps beside its scripts."""
    from .basics import HOME

    folder = next((p.parent for p in HOME.glob("site/ninja*/**/ninja") if p.is_file()), None)
    if folder is None:
        return []
    (folder / "ninja").chmod(0o755)
    return [str(folder)]


def jobs() -> int:
    """One compiler for each core, as long as each has 3 GiB: nvcc takes that much with torch's headers."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // (3 * GIB)))
