"""Whether a rank can train here at all: asked before an attempt is taken, without importing torch.

Run by each rank's supervisor as ``python -m ecm_cluster.node.gpu.preflight LOCAL_RANK SECONDS``, in a process of its
own: a broken GPU can hang its caller, and a context on a GPU takes memory as long as its process lives. Prints
what is wrong as JSON, or nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from ...attempts import starts
from ...attempts.failures import NotStartable
from ...rundir.run import Run, Work
from ..signals import prepare_child
from ..world import RankInfo, node_name
from .cuda_code import CudaCode, cuda_code
from .cuda_driver import NO_DEVICE, Driver, DriverError, Gpu

TIMEOUT_SECONDS = 60.0  # of the whole check, FREE_SECONDS included: a broken GPU can hang its caller for good
GIB = 1 << 30
# What CUDA and its libraries take before a model has a byte. On a small GPU, or an instance of one, a quarter of it.
FREE_BYTES = 2 * GIB
FREE_SECONDS = 20.0  # that a process which ends may take to give its memory back
BUILD = "run `make setup` where nvcc is (module load cuda), or install a build of it for CUDA"


@dataclass(frozen=True)
class Problem:
    """Why a rank cannot start.

    Attributes:
        text: What is wrong, and the remedy, in one line.
        of_node: Whether another node may do.
    """

    text: str
    of_node: bool


class CannotStart(Exception):
    """Carries a problem out of a check."""

    def __init__(self, text: str, of_node: bool) -> None:
        super().__init__(text)
        self.problem = Problem(text, of_node)


def look(local_rank: int, patience: float) -> Problem | None:
    """What keeps a rank on GPUs from starting in this process's environment, if anything does.

    Args:
        local_rank: Of the rank on its node.
        patience: Seconds that the GPU's memory may take to become free.
    """
    try:
        cuda = torch_release()
        operators = mmcv_operators()
        gpu = usable_gpu(local_rank, cuda, patience)
        check_capability(gpu, operators)
    except CannotStart as found:
        return found.problem
    return None


def torch_release() -> tuple[int, int]:
    """The CUDA release that torch was built for, read from its files."""
    path = package("torch") / "version.py"
    found = re.search(r"^cuda\b[^=]*=\s*'(\d+)\.(\d+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise CannotStart(f"torch in {path.parent} is built for the CPU alone; install a build for CUDA", False)
    return int(found[1]), int(found[2])


def mmcv_operators() -> CudaCode:
    """The code for GPUs in the library of mmcv's operators."""
    folder = package("mmcv")
    libraries = sorted(folder.glob("_ext*.so"))
    if not libraries:
        raise CannotStart(f"mmcv in {folder} has no compiled operators; install mmcv-full", False)
    code = cuda_code(libraries[0])
    if code is None:
        raise CannotStart(f"mmcv-full in {folder} has operators for the CPU alone; {BUILD}", False)
    return code


def package(name: str) -> Path:
    """The folder of a package, found as an import would find it, and not imported."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise CannotStart(f"{name} is not installed for {sys.executable}; install it, or name another interpreter with "
                          "--python", False)
    return Path(next(iter(found.submodule_search_locations)))


def usable_gpu(local_rank: int, cuda: tuple[int, int], patience: float) -> Gpu:
    """The GPU of this rank, which works and has memory to spare."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
    try:
        driver = Driver()
        gpus = driver.gpus()
        if not gpus:
            raise DriverError("no device", code=NO_DEVICE)
        newest = driver.version()
        if newest[0] < cuda[0]:
            raise CannotStart(f"the NVIDIA driver supports CUDA {newest[0]}.{newest[1]}, and torch is built for CUDA "
                              f"{cuda[0]}.{cuda[1]}; use nodes with a newer driver, or an older build of torch", True)
        gpu = _with_free_memory(driver, local_rank % len(gpus), patience)
    except DriverError as error:
        if error.code == NO_DEVICE:
            raise CannotStart(f"no GPU is visible{shown}; ask for a partition with GPUs, or give --device cpu",
                              True) from None
        raise CannotStart(f"{error}; is this a node with a working GPU? Leave it out with --exclude, or tell its "
                          "administrator", True) from None
    if not _is_free(gpu):
        free, total = gpu.free or 0, gpu.total or 0
        raise CannotStart(f"{gpu.name} has {free / GIB:.1f} of {total / GIB:.1f} GiB free: another process uses it; "
                          "end that process, or leave the node out with --exclude", True)
    return gpu


def _with_free_memory(driver: Driver, index: int, patience: float) -> Gpu:
    """A GPU with its memory, once that is free: what a killed process held is given back after a while only."""
    end = time.monotonic() + patience
    while True:
        gpu = driver.with_memory(index)
        if _is_free(gpu) or time.monotonic() > end:
            return gpu
        time.sleep(1.0)


def _is_free(gpu: Gpu) -> bool:
    return (gpu.free or 0) >= min(FREE_BYTES, (gpu.total or 0) // 4)


def check_capability(gpu: Gpu, code: CudaCode) -> None:
    """Whether mmcv's operators have code for the GPU: where not, the first of them would fail in the first step."""
    if not code.runs_on(gpu.capability):
        major, minor = gpu.capability
        raise CannotStart(f"mmcv-full has operators for {code}, and {gpu.name} needs sm_{major}{minor}; build it again "
                          f"with TORCH_CUDA_ARCH_LIST={major}.{minor}", True)


def require(work: Work, run: Run, place: RankInfo) -> None:
    """Refuse to start a rank on a GPU where it could not work; on record with the node and the remedy.

    Args:
        work: The training or evaluation that would begin an attempt.
        run: The training that it belongs to.

    Raises:
        NotStartable: Something is wrong.
    """
    problem = check(place.local_rank)
    if problem is not None:
        refuse(work, run, place, f"{node_name()}: {problem.text}", problem.of_node)


def refuse(work: Work, run: Run, place: RankInfo, detail: str, of_node: bool = False) -> NoReturn:
    """Put on record why a rank cannot take part in an attempt, and raise it as :class:`NotStartable`."""
    writer = f"start{place.rank:03d}.{place.job_id}.{place.restart}"
    work.ledger(work.newest_attempt(), writer).write(
        "not-started", cause=NotStartable.cause, rank=place.rank, node=node_name(), detail=detail, of_node=of_node,
        start=place.identity, cluster=place.cluster, resumes=starts.resumes_of(run.events()))
    raise NotStartable(detail)


def check(local_rank: int) -> Problem | None:
    """:func:`look` in a process of its own, which may hang or die without harm to the caller."""
    command = [sys.executable, "-m", __spec__.name, str(local_rank), str(FREE_SECONDS)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              encoding="utf-8", errors="replace",
                              timeout=TIMEOUT_SECONDS, preexec_fn=prepare_child)
    except subprocess.TimeoutExpired:
        return Problem(f"the NVIDIA driver gave no answer within {TIMEOUT_SECONDS:.0f} s; leave this node out with "
                       "--exclude, or tell its administrator", True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Problem(f"the check of the GPU failed ({reason}); leave this node out with --exclude, or tell its "
                       "administrator", True)
    return Problem(**json.loads(done.stdout)) if done.stdout.strip() else None


if __name__ == "__main__":
    found = look(int(sys.argv[1]), float(sys.argv[2]))
    if found is not None:
        print(json.dumps(asdict(found)))
