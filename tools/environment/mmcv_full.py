"""mmcv-full: find a wheel that fits the torch installed here, or compile one and keep it for later.

Its operators are compiled against one torch and one Python, for the CPU alone or for certain GPUs, and its version says
none of that; so wheels are kept in folders whose names do, with a record beside each (:data:`RECORD`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from ecm_cluster.plan import operators
from ecm_cluster.plan.operators import Operators

from . import compiling, cuda
from .basics import CACHE, MMCV, PYTHON, TAG, VENV, SetupError, Stack, say, wheelhouse_folder
from .uv import Uv

WHEELS = CACHE / "wheels"
RECORD = "operators.json"
A_DAY = 86400


def missing(stack: Stack, toolkit: cuda.Toolkit | None) -> dict[str, str]:
    """What is lacking to compile it, each with the Debian package that has it; empty if a wheel is there."""
    torch = stack.pinned("torch")
    wanted = Operators(MMCV, torch, stack.cuda, stack.cuda if toolkit else None)
    if any(fits(wheel, wanted) for wheel in known_wheels()):
        return {}
    return _missing_for_build()


def install(uv: Uv, toolkit: cuda.Toolkit | None) -> Operators:
    """Install a wheel that works with the torch in ``.venv``, compiled here if there is none.

    Returns:
        What its operators are compiled for, as mmcv itself reports it.

    Raises:
        SetupError: The build fails, or what it built cannot be imported.
    """
    wanted, environment = plan(toolkit)
    for wheel in known_wheels():
        if fits(wheel, wanted):
            say(f"installing {wheel}")
            installed = _try(uv, wheel, wanted)
            if isinstance(installed, Operators):
                return installed
            say(f"it does not work here ({installed}); looking further")
    wheel = build(wanted, environment)
    installed = _try(uv, wheel, wanted)
    if not isinstance(installed, Operators):
        wheel.unlink()
        raise SetupError(f"mmcv-full was built but does not work ({installed}); remove {VENV} and try again")
    return installed


def plan(toolkit: cuda.Toolkit | None) -> tuple[Operators, dict[str, str]]:
    """The operators that ``toolkit`` and the torch in ``.venv`` are to give, and the environment that builds them.

    Raises:
        SetupError: torch does not import, or refuses the architectures that the user names.
    """
    code = ("import json, torch; flags = getattr(torch._C, '_cuda_getArchFlags', str)() or '';"
            "print(json.dumps([torch.__version__, torch.version.cuda, flags]))")
    try:
        version, release, flags = json.loads(_torch_says(code, dict(os.environ)))
    except _TorchError as error:
        raise SetupError(f"torch does not import ({error}); remove {VENV} and try again") from None
    if toolkit is None or release is None:
        return Operators(MMCV, version, release, None), _build_environment(None)
    environment = {**_build_environment(toolkit), "TORCH_CUDA_ARCH_LIST": cuda.architectures(flags, toolkit)}
    code = "import json, torch.utils.cpp_extension as c; print(json.dumps(c._get_cuda_arch_flags()))"
    try:
        wanted = cuda.compiled_for(json.loads(_torch_says(code, environment)))
    except _TorchError as error:
        raise SetupError(f"TORCH_CUDA_ARCH_LIST: torch refuses {environment['TORCH_CUDA_ARCH_LIST']} ({error}); "
                         "expected a list such as 8.0;9.0+PTX") from None
    cuda.refuse_unknown(wanted, toolkit)
    return Operators(MMCV, version, release, toolkit.release, wanted), environment


def known_wheels() -> list[Path]:
    """Wheels of this version for this Python and machine: the wheelhouse's first, then those built here.

    Of each, those for CUDA come first: an environment made again in a shell without nvcc does not lose its operators.
    """
    name = f"mmcv_full-{MMCV}-{TAG}-*_{platform.machine()}.whl"
    found: list[Path] = []
    for folder in filter(None, (wheelhouse_folder(), WHEELS)):
        below = sorted(folder.glob(f"*/{name}"), key=lambda wheel: (wheel.parent.name.endswith("-cpu"), wheel))
        found += [*sorted(folder.glob(name)), *below]
    return found


def fits(wheel: Path, wanted: Operators) -> bool:
    """Whether a wheel was built for this torch, with the operators wanted, as far as its folder says.

    A wheel with CUDA operators also serves the CPU. In the wheelhouse one without a record counts for every
    architecture, and one that lies directly in it is taken on trust altogether. A torch version without a local tag,
    here or in the name, stands for every build of that version.
    """
    if wheel.parent == wheelhouse_folder():
        return True
    named = re.fullmatch(rf"(?:mmcv-{re.escape(MMCV)}-)?torch-([^-]+)-{TAG}-(cpu|cuda|cu\d+)(-sm[\w.]+)?",
                         wheel.parent.name)
    if not named:
        return False
    theirs, ours = named[1], wanted.torch
    if "+" not in theirs or "+" not in ours:
        theirs, ours = theirs.split("+")[0], ours.split("+")[0]
    record = read_record(wheel)
    if record is None and wheel.parent.parent == wheelhouse_folder():
        return theirs == ours and (named[2] != "cpu" or wanted.cuda is None)
    built = record or Operators(MMCV, named[1], None, None if named[2] == "cpu" else named[2])
    return theirs == ours and built.serve(wanted)


def read_record(wheel: Path) -> Operators | None:
    """The record next to a wheel; None if there is none, as for wheels built elsewhere."""
    try:
        return operators.parse(json.loads((wheel.parent / RECORD).read_text()))
    except (OSError, ValueError):
        return None


def folder_name(wanted: Operators) -> str:
    """As ``mmcv-1.7.2-torch-2.8.0+cu128-cp311-cu128-sm80.90ptx``."""
    name = f"mmcv-{MMCV}-torch-{wanted.torch}-{TAG}-"
    if wanted.cuda is None:
        return name + "cpu"
    names = wanted.architectures or ()
    numbers = [n[len("sm_"):] + ("ptx" if n.replace("sm", "compute") in names else "")
               for n in names if n.startswith("sm_")]
    return name + f"cu{wanted.cuda.replace('.', '')}-sm{'.'.join(numbers)}"


def build(wanted: Operators, environment: dict[str, str]) -> Path:
    """Compile the source distribution into the user's wheels; a wheel appears there only whole.

    Raises:
        SetupError: There is no compiler, or it fails; the log is kept beside the wheels.
    """
    if lacks := _missing_for_build():
        raise SetupError(f"mmcv-full has to be compiled here and that needs {', '.join(lacks)}; on Debian: "
                         f"apt-get install {' '.join(lacks.values())}")
    target = WHEELS / folder_name(wanted)
    target.mkdir(parents=True, exist_ok=True)
    log = target / "build.log"
    say(f"compiling mmcv-full {wanted.describe()}, torch {wanted.torch}, once for this user; log in {log}")
    say(how_long(wanted))
    for left in target.glob(".building-*"):  # of a build that was killed
        if time.time() - left.stat().st_mtime > A_DAY:
            shutil.rmtree(left, ignore_errors=True)
    tmp = Path(tempfile.mkdtemp(dir=target, prefix=".building-"))
    # pip's cache of built wheels ignores the torch they were built against, hence --no-cache-dir
    command = [str(PYTHON), "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-cache-dir",
               "--disable-pip-version-check", "--no-binary", "mmcv-full", "-w", str(tmp),
               f"mmcv-full=={MMCV}"]
    try:
        with open(log, "w") as out, \
                subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment,
                                 start_new_session=True) as process:
            compiling.watch(process, log)
        built = list(tmp.glob("mmcv_full-*.whl"))
        if process.returncode or not built:
            sys.stderr.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:]))
            raise SetupError(f"mmcv-full did not compile; the whole log is {log}")
        (target / RECORD).write_text(json.dumps(wanted.as_dict(), indent=1) + "\n")
        return built[0].replace(target / built[0].name)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _missing_for_build() -> dict[str, str]:
    lacks = {}
    if not (shutil.which("gcc") and shutil.which("g++")):
        lacks["a C++ compiler"] = "g++"
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        lacks["Python's headers"] = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    return lacks


def _try(uv: Uv, wheel: Path, wanted: Operators) -> Operators | str:
    """Install ``wheel`` and import its operators: what they are, or the last line of the error."""
    uv.run("pip", "install", "--quiet", "--python", str(PYTHON), "--no-deps", "--reinstall", str(wheel))
    code = "import mmdet.apis; from mmcv.ops import get_compiling_cuda_version as v; print(); print(v())"
    try:
        said = _torch_says(code, dict(os.environ))
    except _TorchError as error:
        return str(error)
    release = said if re.fullmatch(r"\d+\.\d+", said) else None  # it says "not available" where there are none
    if wanted.cuda and not release:
        return "it has no CUDA operators"
    record = read_record(wheel)
    return dataclasses.replace(wanted, cuda=release, architectures=record.architectures if record and release else None)


class _TorchError(Exception):
    """The last line of what a piece of Python in ``.venv`` ended with."""


def _torch_says(code: str, environment: dict[str, str]) -> str:
    """The last line that a piece of Python prints in ``.venv``."""
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise _TorchError((done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1])
    return done.stdout.strip().splitlines()[-1]


def how_long(wanted: Operators) -> str:
    """The time that the build takes, and how to make it shorter."""
    names = wanted.architectures or ()
    if wanted.cuda is None:
        return "that takes about 20 minutes on 2 cores"
    return (f"that takes about {20 + 4 * len(names)} minutes on 2 cores; TORCH_CUDA_ARCH_LIST (9.0 for an H100) makes "
            "it shorter, FORCE_CUDA=0 leaves GPUs out")


def _build_environment(toolkit: cuda.Toolkit | None) -> dict[str, str]:
    given = os.environ
    path = [str(VENV / "bin"), *([str(toolkit.home / "bin")] if toolkit else []), given.get("PATH", os.defpath)]
    environment = {
        **given,
        "MMCV_WITH_OPS": "1",
        "FORCE_CUDA": "1" if toolkit else "0",
        "MAX_JOBS": given.get("MAX_JOBS", str(compiling.at_once())),
        "PATH": os.pathsep.join(path),  # ninja is in the first
    }
    if toolkit is None:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # mmcv builds for CUDA as soon as torch sees a GPU
        return environment
    # torch's headers include those of cuBLAS and its siblings, which torch's own packages have and nvcc's do not; a
    # toolkit that has them comes first, as CPATH is searched last
    headers = sorted(map(str, VENV.glob("lib/python*/site-packages/nvidia/*/include")))
    cpath = os.pathsep.join(headers + ([given["CPATH"]] if given.get("CPATH") else []))
    return {**environment, "CUDA_HOME": str(toolkit.home), "CPATH": cpath}
