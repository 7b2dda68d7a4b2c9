"""Which Python here can run the GPU tests, and what the others lack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .basics import ROOT, VENV, StepError

# answers in one line what can be imported, and what of it is made for GPUs
PROBE = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore")
found = {"python": sys.version.split()[0], "tag": "cp%d%d" % sys.version_info[:2], "lacks": [], "gpus": [],
         "site": [p for p in sys.path if p.rstrip("/").endswith(("site-packages", "dist-packages"))]}
for name in ("torch", "mmcv.ops", "mmdet.apis", "pytest", "submitit"):
    try:
        importlib.import_module(name)
    except BaseException as error:
        lines = str(error).splitlines() or [""]
        found["lacks"].append("%s (%s: %s)" % (name, type(error).__name__, lines[0][:150]))
if "torch" in sys.modules:
    import torch
    found.update(torch=torch.__version__, cuda=torch.version.cuda)
    if torch.cuda.is_available():
        found["gpus"] = [{"name": p.name, "memory": p.total_memory, "capability": "%d.%d" % (p.major, p.minor)}
                         for p in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))]
if not any(lack.startswith("mmcv") for lack in found["lacks"]):
    from mmcv.ops import get_compiling_cuda_version
    found["operators"] = get_compiling_cuda_version()
print("PROBE" + json.dumps(found))
"""


def probe(python: str | Path) -> dict[str, Any] | str:
    """What a Python has; a line that says why it answers nothing."""
    try:
        done = subprocess.run([str(python), "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        return getattr(error, "strerror", None) or "no answer within 300 s"
    answers = [line[5:] for line in done.stdout.splitlines() if line.startswith("PROBE")]
    if not answers:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    found: dict[str, Any] = json.loads(answers[-1])
    return found


def candidates() -> list[str]:
    """Pythons to look at: the checkout's, the one that the user names, gpu_check's own, those of the shell."""
    named = os.environ.get("ECM_CLUSTER_PYTHON", "").split()
    return [str(ROOT / ".venv/bin/python"), *named, str(VENV / "bin/python"), "python3", "python"]


def lacking(found: dict[str, Any] | str, device: str) -> list[str]:
    """What a Python lacks for the tests on ``device``; empty if nothing."""
    if isinstance(found, str):
        return [found]
    lacks = list(found["lacks"])
    if device == "cuda" and not found["gpus"] and "torch" in found:
        lacks.append(f"a GPU that torch {found['torch']} can use")
    if device == "cuda" and "operators" in found and not found["operators"][:1].isdigit():
        lacks.append("CUDA operators in mmcv-full")
    return lacks


def find(device: str) -> tuple[str, dict[str, Any]]:
    """The first Python that has everything.

    Raises:
        StepError: None has, or there is no GPU.
    """
    looked: list[str] = []
    gpu_seen = Path("/dev/nvidiactl").exists()
    for python in dict.fromkeys(candidates()):
        if shutil.which(python) is None:
            looked.append(f"{python}: does not exist")
            continue
        found = probe(python)
        gpu_seen = gpu_seen or not isinstance(found, str) and bool(found["gpus"])
        lacks = lacking(found, device)
        if not lacks and not isinstance(found, str):
            return python, found
        looked.append(f"{python} lacks {', '.join(lacks)}")
        if device == "cuda" and not gpu_seen and not isinstance(found, str) and "torch" in found:
            break  # no GPU at all: no other Python will change that
    if device == "cuda" and not gpu_seen:
        raise StepError("there is no GPU on this machine (no /dev/nvidiactl, and torch sees none); run this where "
                        "there is one")
    raise StepError("no Python here has torch, mmcv-full with operators for the device, mmdet, submitit and pytest; "
                    "run `make setup` or `tools/gpu_check unpack build`, or name one in ECM_CLUSTER_PYTHON. Looked at:"
                    + "".join(f"\n  {line}" for line in looked))


def with_torch() -> tuple[str, dict[str, Any]]:
    """The Python of this machine that has torch, to build with.

    Raises:
        StepError: None has.
    """
    looked = []
    for python in [*os.environ.get("ECM_CLUSTER_PYTHON", "").split(), "python3", "python"]:
        found = probe(python) if shutil.which(python) else "does not exist"
        if not isinstance(found, str) and "torch" in found:
            return str(shutil.which(python)), found
        looked.append(f"{python}: {found if isinstance(found, str) else found['lacks'][0]}")
    raise StepError(f"no Python with torch; name one in ECM_CLUSTER_PYTHON. Looked at: {'; '.join(looked)}")
