"""How a case is run: in a process forked from one that has imported the verbs, or as `python -m` for one in many."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .case import Case

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20.0  # that a verb may take
MEMORY = 4 << 30  # bytes of address space, in which threads reserve more than they use
VERBS = ("submit", "evaluate", "compare", "diff", "report", "status", "logs", "cancel", "resume", "clean", "archive",
         "stage", "doctor", "synthesize")
# modules that import torch, which no verb does on a login node
NODES = ("ecm_cluster.__main__", "ecm_cluster.node", "ecm_cluster.lvis", "ecm_cluster.staging.mmcv_backend")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


@dataclass(frozen=True)
class Answer:
    """What a verb said, and what it took.

    Attributes:
        code: The exit code; negative: ended by that signal.
        memory: The largest resident size in bytes.
        left: Command lines of processes that it left behind, which are ended.
        kept: The traceback that it kept in a file of its user.
    """

    code: int
    out: bytes
    err: bytes
    seconds: float
    memory: int
    left: tuple[str, ...]
    kept: str = ""


def environment(folder: Path) -> dict[str, str]:
    """The variables of a user whose home is in the folder, on a machine without Slurm."""
    home = folder / "home"
    return {"HOME": str(home), "PATH": str(folder / "bin"), "LANG": "C.UTF-8", "TMPDIR": str(home),
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1",
            "ECM_CLUSTER_CHECK": "none", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def prepare() -> None:
    """Import what verbs import when they need it, apart from what only nodes have; and take orphans in."""
    import ecm_cluster

    for module in pkgutil.walk_packages(ecm_cluster.__path__, "ecm_cluster."):
        if not module.name.startswith(NODES):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    for name in ("yaml", "rich.console", "rich.table", "rich.progress", "numpy", "xxhash", "cv2"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def run(case: Case, folder: Path, real: bool = False) -> Answer:
    """Run the case's command line in its folder; stdout and stderr go to files beside it."""
    (folder / "home").mkdir(exist_ok=True)
    programs(folder / "bin")
    env = {**environment(folder), **case.env}
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(case, folder, env, real)
    code, usage = _wait(pid, began)
    seconds = time.monotonic() - began
    left = tuple(_end_children())
    out, err = ((folder / name).read_bytes() for name in ("out", "err"))
    kept = "".join(path.read_text() for path in (folder / "home").glob("ecm-cluster-traceback-*"))
    return Answer(code, out, err, seconds, usage.ru_maxrss << 10, left, kept)


def programs(folder: Path) -> None:
    """A PATH with what a login node has, but no Slurm."""
    if not folder.is_dir():
        folder.mkdir()
        for name in ("bash", "sh", "env", "git", "cat", "ls", "df", "uname", "hostname", "id", "nvidia-smi", "ps"):
            for place in ("/usr/bin", "/bin"):
                if os.path.exists(f"{place}/{name}") and not os.path.lexists(folder / name):
                    os.symlink(f"{place}/{name}", folder / name)


def _child(case: Case, folder: Path, env: dict[str, str], real: bool) -> None:
    code = 70
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(env)
        for number, (name, flags) in enumerate((("/dev/null", os.O_RDONLY), (folder / "out", os.O_WRONLY | os.O_CREAT),
                                                (folder / "err", os.O_WRONLY | os.O_CREAT))):
            os.dup2(os.open(name, flags, 0o600), number)
        os.closerange(3, 256)
        os.chdir(case.work)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if real:
            words = [sys.executable, "-m", f"ecm_cluster.{case.argv[0]}", *case.argv[1:]]
            os.execv(sys.executable, [os.fsencode(word) for word in words])
        code = _in_process(case.argv)
    finally:
        os._exit(code)


def _in_process(argv: list[str]) -> int:
    """What `python -m ecm_cluster.VERB` does, from the import on."""
    from ecm_cluster.console import cli

    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "strict")
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True)
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    verb = importlib.import_module(f"ecm_cluster.{argv[0]}")
    sys.argv = [str(verb.__file__), *argv[1:]]
    try:
        code: object = cli.run(verb.main)
    except SystemExit as end:
        code = end.code
        if not isinstance(code, (int, type(None))):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        code = 120
    return code if isinstance(code, int) else 0


def _wait(pid: int, began: float) -> tuple[int, resource.struct_rusage]:
    """The child's end; one that takes too long is killed."""
    pause, killed = 0.002, False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return (os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)), usage
        if not killed and time.monotonic() - began > SECONDS + 5:
            os.kill(pid, signal.SIGKILL)
            killed = True
        time.sleep(pause)
        pause = min(pause * 1.3, 0.02)


def _end_children() -> Iterator[str]:
    """End what is left below this process, and say what it was."""
    while True:
        mine = [pid for pid in os.listdir("/proc") if pid.isdigit() and _parent(pid) == os.getpid()]
        if not mine:
            return
        for pid in mine:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if line.strip():  # a child that has ended has none
                    yield line.strip()[:200]
                os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), 0)


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
