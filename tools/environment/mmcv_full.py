"""mmcv-full: find a wheel that fits the torch installed here, or compile one and keep it for later.

Its operators are compiled against one torch and one Python, with or without CUDA, and its version says
nothing of that; so wheels are kept in folders whose names do.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from .basics import CACHE, PYTHON, TAG, VENV, SetupError, clock, pinned, say, wheelhouse_folder
from .uv import Uv

VERSION = "1.7.2"
WHEELS = CACHE / "wheels"
GIB = 1 << 30
A_DAY = 86400


def missing() -> dict[str, str]:
    """What is lacking to compile it, each with the Debian package that has it; empty if a wheel is there."""
    if any(fits(wheel, pinned("torch"), cuda=None) for wheel in known_wheels()):
        return {}
    return _missing_for_build()


def install(uv: Uv) -> None:
    """Install a wheel that works with the torch in ``.venv``, compiled here if there is none.

    Raises:
        SetupError: The build fails, or what it built cannot be imported.
    """
    torch, cuda = _installed_torch()
    cuda = _buildable_cuda(cuda)
    for wheel in known_wheels():
        if fits(wheel, torch, cuda):
            say(f"installing {wheel}")
            if (trouble := _try(uv, wheel)) is None:
                return
            say(f"it does not work here ({trouble}); looking further")
    wheel = build(torch, cuda)
    if (trouble := _try(uv, wheel)) is not None:
        wheel.unlink()
        raise SetupError(f"mmcv-full was built but does not import ({trouble}); remove {VENV} and try again")


def known_wheels() -> list[Path]:
    """Wheels of this version for this Python and machine: the wheelhouse's first, then those built here."""
    name = f"mmcv_full-{VERSION}-{TAG}-*_{platform.machine()}.whl"
    found: list[Path] = []
    for folder in filter(None, (wheelhouse_folder(), WHEELS)):
        found += sorted(folder.glob(name)) + sorted(folder.glob(f"*/{name}"))
    return found


def fits(wheel: Path, torch: str, cuda: str | None) -> bool:
    """Whether the folder of ``wheel`` says that it was built for this torch, with the operators wanted.

    A wheel with CUDA operators also serves the CPU; one that lies directly in the wheelhouse is taken on
    trust. A torch version without a local tag, here or in the name, stands for every build of that version.

    Args:
        torch: Version of torch, as ``2.8.0+cu128`` or ``2.8.0``.
        cuda: CUDA release that operators are wanted for, None for the CPU alone.
    """
    if wheel.parent == wheelhouse_folder():
        return True
    pattern = rf"(?:mmcv-{re.escape(VERSION)}-)?torch-([^-]+)-{TAG}-(cpu|cuda|cu\d+)"
    named = re.fullmatch(pattern, wheel.parent.name)
    if not named:
        return False
    theirs, operators = named.groups()
    if "+" not in theirs or "+" not in torch:
        theirs, torch = theirs.split("+")[0], torch.split("+")[0]
    return theirs == torch and (operators != "cpu" or cuda is None)


def toolkit_release() -> str | None:
    """Release of the CUDA toolkit that torch's build machinery would use, as ``12.8``; None without one."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    nvcc = Path(home, "bin", "nvcc") if home else shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc")
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    except OSError:
        return None
    found = re.search(r"release (\d+\.\d+)", said)
    return found.group(1) if found else None


def build(torch: str, cuda: str | None) -> Path:
    """Compile the source distribution into the user's wheels; a wheel appears there only whole.

    Raises:
        SetupError: There is no compiler, or it fails; the log is kept beside the wheels.
    """
    if lacks := _missing_for_build():
        raise SetupError(f"mmcv-full has to be compiled here and that needs {', '.join(lacks)}; on Debian: "
                         f"apt-get install {' '.join(lacks.values())}")
    operators = "cu" + cuda.replace(".", "") if cuda else "cpu"
    target = WHEELS / f"mmcv-{VERSION}-torch-{torch}-{TAG}-{operators}"
    target.mkdir(parents=True, exist_ok=True)
    log = target / "build.log"
    say(f"compiling mmcv-full {VERSION} for torch {torch}, operators for {operators}: about 20 minutes on "
        f"2 cores, once for this user; log in {log}")
    for left in target.glob(".building-*"):  # of a build that was killed
        if time.time() - left.stat().st_mtime > A_DAY:
            shutil.rmtree(left, ignore_errors=True)
    tmp = Path(tempfile.mkdtemp(dir=target, prefix=".building-"))
    # pip's cache of built wheels knows nothing of the torch they were built against, hence --no-cache-dir
    command = [str(PYTHON), "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-cache-dir",
               "--disable-pip-version-check", "--no-binary", "mmcv-full", "-w", str(tmp),
               f"mmcv-full=={VERSION}"]
    try:
        with open(log, "w") as out, \
                subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=_build_environment(cuda),
                                 start_new_session=True) as process:
            _watch(process, log)
        built = list(tmp.glob("mmcv_full-*.whl"))
        if process.returncode or not built:
            sys.stderr.write("".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:]))
            raise SetupError(f"mmcv-full did not compile; the whole log is {log}")
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


def _try(uv: Uv, wheel: Path) -> str | None:
    """Install ``wheel`` and import its operators; the last line of the error, None if they work."""
    uv.run("pip", "install", "--quiet", "--python", str(PYTHON), "--no-deps", "--reinstall", str(wheel))
    done = subprocess.run([PYTHON, "-c", "import mmcv.ops, mmdet.apis"], capture_output=True, text=True)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]


def _installed_torch() -> tuple[str, str | None]:
    """torch's version with its local tag, as ``2.8.0+cu128``, and its CUDA release, as ``12.8``."""
    code = "import torch; print(torch.__version__, torch.version.cuda)"
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1]
        raise SetupError(f"torch does not import ({reason}); remove {VENV} and try again")
    version, cuda = done.stdout.split()
    return version, None if cuda == "None" else cuda


def _buildable_cuda(cuda: str | None) -> str | None:
    """The CUDA release to build operators for; None for the CPU alone.

    torch refuses an nvcc of another major release than its own, so such a toolkit counts as none.
    """
    release = toolkit_release()
    if cuda and release and release.split(".")[0] == cuda.split(".")[0]:
        return cuda
    if cuda and Path("/dev/nvidiactl").exists():
        say(f"a GPU is here but no nvcc of CUDA {cuda}: mmcv-full's operators will run on the CPU only; load "
            f"a CUDA {cuda} toolkit (module load cuda) and run `make setup` again")
    return None


def _build_environment(cuda: str | None) -> dict[str, str]:
    given = os.environ
    environment = given | {
        "MMCV_WITH_OPS": "1",
        "FORCE_CUDA": "1" if cuda else "0",
        "MAX_JOBS": given.get("MAX_JOBS", str(_compilers())),
        "PATH": f"{VENV / 'bin'}{os.pathsep}{given.get('PATH', os.defpath)}",  # ninja is in there
    }
    if not cuda:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # mmcv builds for CUDA as soon as torch sees a GPU
    return environment


def _compilers() -> int:
    """One for each core, as long as each has 2 GiB: a file with torch's headers can take that much."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // (2 * GIB)))


def _watch(process: subprocess.Popen, log: Path) -> None:
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
