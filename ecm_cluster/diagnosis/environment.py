"""The Python environments: the one that submits, and the one that trains if it is different."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..plan import operators
from ..slurm.sbatch import python_of
from . import interpreter, requirements
from .asked import Asked
from .finding import Finding, fails, not_asked, ok, warning
from .requirements import numbers

IMPORTS = ("torch", "torchvision", "mmcv.ops", "mmdet.apis")
SCRIPT = Path(__file__).with_name("interpreter.py")
REMEDY = "run `make setup`, or install it into that environment (setup.cfg names the versions)"
# torch release → the torchvision release built for it
VISION: dict[tuple[int, ...], tuple[int, int]] = {
    (1, 13): (0, 14), **{(2, minor): (0, 15 + minor) for minor in range(40)}}


class Interpreter:
    """A Python that describes itself: started immediately, read when needed, killed at a time limit."""

    def __init__(self, python: str, environ: Mapping[str, str], imports: tuple[str, ...] = ()) -> None:
        self.python, self.trouble = python, ""
        self._began = time.monotonic()
        try:
            self._process = subprocess.Popen([python, "-c", SCRIPT.read_text(encoding="utf-8"), *imports], cwd="/",
                                             encoding="utf-8", errors="replace",
                                             env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                             stderr=subprocess.PIPE)
        except OSError as error:
            self.trouble = error.strerror or str(error)

    def answer(self, seconds: float) -> list[dict[str, Any]]:
        """Its lines so far; the process is killed ``seconds`` after its start."""
        if self.trouble:
            return []
        errors = ""
        try:
            out, errors = self._process.communicate(timeout=max(0.1, self._began + seconds - time.monotonic()))
        except subprocess.TimeoutExpired as late:
            self._process.kill()
            out = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            self.trouble = f"no answer within {seconds:.0f} s"
        found = [json.loads(line) for line in out.splitlines() if line.startswith("{") and line.endswith("}")]
        if not found and not self.trouble:
            self.trouble = (errors.strip().splitlines() or ["no output"])[-1]
        return found


def here() -> Iterator[Finding]:
    """The requirements of submission: this interpreter, the packages for a login node, and git."""
    version = platform.python_version()
    wanted = requirements.lines()
    yield of_python("environment.python", version, sys.executable, wanted["python"])
    yield from packages("environment.packages", requirements.parsed(wanted["base"], version), interpreter.versions(),
                        sys.executable)
    if shutil.which("git"):
        yield ok("environment.git", "git is installed: runs record the commit of the code")
    else:
        yield warning("environment.git", "no git in PATH: runs keep a copy of the code but do not record its commit",
                      "load or install git")


def of_python(name: str, version: str, path: str, wanted: list[str]) -> Finding:
    """Whether an interpreter has one of the required versions."""
    needed = ",".join(wanted)
    if requirements.satisfies(version, needed):
        return ok(name, f"Python {version} ({path})")
    return fails(name, f"Python {version} ({path}); expected {needed}", "use another one (--python)")


def packages(name: str, wanted: list[requirements.Requirement], there: Mapping[str, str],
             python: str) -> Iterator[Finding]:
    """One finding for all packages that are as expected, and one for each that is not."""
    lacking = requirements.unmet(wanted, there)
    fine = [f"{one.name} {there[one.name]}" for one in wanted if one not in lacking]
    if fine:
        yield ok(name, ", ".join(fine))
    for one, version in lacking.items():
        what = f"{one.name} {version} is installed" if version else f"{one.name} is not installed"
        if one.name == "hotcoco":
            yield warning(f"{name}.{one.name}", f"{what} for {python}, expected {one}; lvis scores instead, slowly",
                          REMEDY)
        else:
            yield fails(f"{name}.{one.name}", f"{what} for {python}, expected {one}", REMEDY)


def ask_job(asked: Asked) -> Interpreter:
    """Start the job's interpreter, which may not exist here; it imports nothing if the job needs setup lines, too."""
    job = asked.job
    return Interpreter(python_of(job), {**os.environ, **job.env}, () if job.setup or job.srun else IMPORTS)


def of_job(asked: Asked, started: Interpreter, seconds: float) -> Iterator[Finding]:
    """The requirements of training, in the job's interpreter, which may exist only on the nodes."""
    python = python_of(asked.job)
    elsewhere = ("it is in the container of the tasks" if asked.job.srun else
                 "the job's `setup` lines may change that" if asked.job.setup else "")
    answer = started.answer(seconds)
    if not answer:
        if asked.job.python or elsewhere:
            yield not_asked("job.python", f"{python} does not run here ({started.trouble}); --node checks a node")
        else:
            yield fails("job.python", f"{python}: {started.trouble}", "give another interpreter with --python")
        return
    found = answer[0]
    if elsewhere:
        yield not_asked("job.python", f"{python} is Python {found['python']} here; {elsewhere}; --node checks a node")
        return
    wanted = requirements.lines()
    yield of_python("job.python", found["python"], python, wanted["python"])
    needed = [*(wanted["base"] if python != sys.executable else []), *wanted["train"]]
    yield from packages("job.packages", requirements.parsed(needed, found["python"]), found["versions"], python)
    yield from fitting(found["versions"], operators.of_interpreter(python), "job.fit")
    if len(answer) > 1:
        yield from importable("job.import", answer[1], python)
    else:
        yield not_asked("job.import", f"{', '.join(IMPORTS)}: {started.trouble}; --node checks a node")


def importable(name: str, said: Mapping[str, Any], python: str) -> Iterator[Finding]:
    """The result of importing the framework."""
    for module, error in said["failed"].items():
        yield fails(name, f"{python} cannot import {module}: {error}", REMEDY)
    if not said["failed"]:
        yield ok(name, f"{', '.join(IMPORTS)} can be imported ({said['seconds']} s)")


def fitting(there: Mapping[str, str], compiled: operators.Operators | None, name: str) -> Iterator[Finding]:
    """Whether the packages were built for each other."""
    torch, vision = there.get("torch", ""), there.get("torchvision", "")
    pair = f"torch {torch} and torchvision {vision}"
    if torch and vision:
        local = [version.partition("+")[2] for version in (torch, vision)]
        expected = VISION.get(numbers(torch)[:2])
        if expected and numbers(vision)[:2] != expected:
            yield fails(f"{name}.torchvision", f"{pair} were not built for each other; this torch needs torchvision "
                        f"{expected[0]}.{expected[1]}", REMEDY)
        elif all(local) and local[0] != local[1]:
            yield fails(f"{name}.torchvision", f"{pair} are different builds", "install both from the same index")
        else:
            yield ok(f"{name}.torchvision", f"{pair} are compatible")
    if torch and numbers(there.get("numpy", "")) >= (2,) and numbers(torch) < (2, 3):
        yield fails(f"{name}.numpy", f"torch {torch} was built for numpy 1, but numpy {there['numpy']} is installed",
                    "install numpy<2")
    if compiled is not None and torch and compiled.torch.partition("+")[0] != torch.partition("+")[0]:
        yield fails(f"{name}.mmcv", f"mmcv-full was compiled for torch {compiled.torch}, but torch {torch} is "
                    "installed", "run `make setup`, which recompiles it")
    elif compiled is not None:
        yield ok(f"{name}.mmcv", f"mmcv-full {compiled.describe()}, compiled for torch {compiled.torch}")
