"""CUDA's compiler: where it is, whether it fits torch, and for which GPUs it compiles.

torch refuses an nvcc of another major release than its own. Where the user asked for CUDA (ECM_CLUSTER_CUDA_HOME,
ECM_CLUSTER_NVCC, FORCE_CUDA=1), one that is missing or does not fit is an error; elsewhere mmcv-full's operators are
compiled for the CPU alone, and a line says so.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ecm_cluster.plan.operators import by_number

from .basics import CACHE, SetupError, Stack, say
from .uv import Uv

USUAL_PLACE = Path("/usr/local/cuda")


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its folder, which torch calls CUDA_HOME, and its release, as ``12.8``."""

    home: Path
    release: str

    def fits(self, stack: Stack) -> bool:
        return self.release.split(".")[0] == stack.cuda.split(".")[0]

    def architectures(self) -> set[str]:
        """What nvcc compiles for, as ``sm_90`` and ``compute_90``; empty if it does not say (before CUDA 11)."""
        return set(re.findall(r"^(?:sm|compute)_\w+", _output(self.home / "bin" / "nvcc", "--list-gpu-code")
                              + _output(self.home / "bin" / "nvcc", "--list-gpu-arch"), re.M))


@dataclass(frozen=True)
class Search:
    """What was found: a toolkit that fits, or the reason why there is none."""

    toolkit: Toolkit | None
    trouble: str = ""


def find(stack: Stack) -> Search:
    """The toolkit for the operators: the user's, or the first that fits.

    Raises:
        SetupError: The user asked for CUDA, and what was named is wrong or missing.
    """
    needs = f"torch {stack.pinned('torch')} needs CUDA {stack.cuda}"
    named, source = os.environ.get("ECM_CLUSTER_CUDA_HOME"), os.environ.get("ECM_CLUSTER_NVCC")
    if named:
        toolkit = at(Path(named, "bin", "nvcc"))
        if toolkit is None:
            raise SetupError(f"ECM_CLUSTER_CUDA_HOME: no working bin/nvcc in {named}; {needs}: name its folder, such "
                             f"as {USUAL_PLACE}-{stack.cuda}, or unset it")
        if not toolkit.fits(stack):
            raise SetupError(f"ECM_CLUSTER_CUDA_HOME: {named} is CUDA {toolkit.release}, and {needs}; {remedy(stack)}")
        return Search(toolkit)
    if source:
        return Search(_of_index(stack, source))
    if os.environ.get("FORCE_CUDA") == "0":
        return Search(None, "as FORCE_CUDA=0 asks")
    found = list(toolkits())
    for toolkit in found:
        if toolkit.fits(stack):
            return Search(toolkit)
    others = ", ".join(dict.fromkeys(f"CUDA {toolkit.release} in {toolkit.home}" for toolkit in found))
    trouble = f"{needs}, and there is {'only ' + others if others else 'no nvcc here'}"
    if os.environ.get("FORCE_CUDA") == "1":
        raise SetupError(f"FORCE_CUDA=1: {trouble}; {remedy(stack)}")
    return Search(None, trouble)


def remedy(stack: Stack) -> str:
    """How to get a compiler that fits, in one line."""
    index = "ECM_CLUSTER_NVCC=index takes one from the package index"
    if stack.nvcc is None:
        index = "ECM_CLUSTER_STACK=cuda13 has a torch for CUDA 13, and ECM_CLUSTER_NVCC=index its nvcc"
    return f"`module load cuda/{stack.cuda}` or set ECM_CLUSTER_CUDA_HOME, then `make setup` again; {index}"


def toolkits() -> Iterator[Toolkit]:
    """Those of this shell and machine, in the order in which torch looks for them."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    for nvcc in [Path(home, "bin", "nvcc") for home in homes if home] + [shutil.which("nvcc"),
                                                                        USUAL_PLACE / "bin" / "nvcc"]:
        toolkit = at(Path(nvcc)) if nvcc else None
        if toolkit:
            yield toolkit


def at(nvcc: Path) -> Toolkit | None:
    """The toolkit that an nvcc belongs to; None if it does not run.

    What PATH contains may be a script or a link that leads elsewhere: nvcc itself says where its headers are.
    """
    release = re.search(r"release (\d+\.\d+)", _output(nvcc, "--version"))
    if not release:
        return None
    top = re.search(r"^#\$ TOP=(.+?)\s*$", _output(nvcc, "--dryrun", "-c", "none.cu"), re.M)
    for home in [Path(top[1]).resolve()] if top else []:
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists():
            return Toolkit(home, release[1])
    return Toolkit(nvcc.absolute().parent.parent, release[1])


def _output(nvcc: Path, *args: str) -> str:
    try:
        done = subprocess.run([nvcc, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


# -- nvcc from the package index


def _of_index(stack: Stack, source: str) -> Toolkit:
    if source != "index":
        raise SetupError(f"invalid ECM_CLUSTER_NVCC: {source}; expected index, or ECM_CLUSTER_CUDA_HOME for a folder")
    if stack.nvcc is None:
        raise SetupError(f"ECM_CLUSTER_NVCC=index: the package index has no nvcc for CUDA {stack.cuda}, which torch "
                         f"{stack.pinned('torch')} needs; {remedy(stack)}")
    version = re.search(r"^nvidia-cuda-nvcc==(\S+)", stack.nvcc.read_text(), re.M)
    assert version, stack.nvcc
    folder = CACHE / f"nvcc-{version[1]}-{platform.machine()}"
    return Toolkit(folder / "nvidia" / f"cu{stack.cuda.split('.')[0]}", ".".join(version[1].split(".")[:2]))


def fetch(uv: Uv, stack: Stack, toolkit: Toolkit) -> None:
    """Install the index's nvcc into the user's cache, unless it is there or ``toolkit`` is another one.

    Its packages leave out what a toolkit has: ``lib64``, and ``libcudart.so`` for the linker.
    """
    folder = toolkit.home.parent.parent
    if folder.parent != CACHE or stack.nvcc is None or folder.exists():
        return
    say(f"installing nvcc {toolkit.release} into {folder}")
    tmp = Path(tempfile.mkdtemp(dir=CACHE, prefix=".nvcc-"))
    try:
        uv.run("pip", "install", "--quiet", "--no-deps", "--target", str(tmp), "-r", str(stack.nvcc))
        home = tmp / toolkit.home.relative_to(folder)
        (home / "lib64").symlink_to("lib")
        for library in sorted(home.glob("lib/libcudart.so.*"))[:1]:
            (home / "lib" / "libcudart.so").symlink_to(library.name)
        tmp.chmod(0o755)
        tmp.rename(folder)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


# -- architectures


def architectures(torchs: str, toolkit: Toolkit) -> str:
    """TORCH_CUDA_ARCH_LIST for the build: the user's, or that of torch itself as far as nvcc knows it.

    The GPUs of this machine do not count: a login node has none, or others than the nodes.

    Args:
        torchs: torch's own list, as ``sm_80 sm_90``; available without a GPU, unlike torch.cuda.get_arch_list().

    Raises:
        SetupError: nvcc knows none of torch's.
    """
    if given := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return given
    known = toolkit.architectures()
    names = [name for name in sorted(re.findall(r"\bsm_\d+\w*", torchs), key=by_number) if not known or name in known]
    if not names:
        raise SetupError(f"nvcc {toolkit.release} compiles for none of torch's GPUs ({torchs}); set "
                         "TORCH_CUDA_ARCH_LIST, such as 9.0")
    return ";".join(re.sub(r"sm_(\d+)(\d)(\w?)", r"\1.\2\3", name) for name in names) + "+PTX"


def compiled_for(flags: list[str]) -> tuple[str, ...]:
    """Architectures in nvcc's flags as torch makes them: ``-gencode=arch=compute_90,code=sm_90``."""
    return tuple(sorted(re.findall(r",code=(\w+)", " ".join(flags)), key=by_number))


def refuse_unknown(wanted: tuple[str, ...], toolkit: Toolkit) -> None:
    """Raises SetupError: the user's TORCH_CUDA_ARCH_LIST names what nvcc cannot compile for."""
    known = toolkit.architectures()
    if known and (wrong := [name for name in wanted if name not in known]):
        listed = ", ".join(sorted((name for name in known if name.startswith("sm_")), key=by_number))
        raise SetupError(f"TORCH_CUDA_ARCH_LIST: nvcc {toolkit.release} does not compile for {', '.join(wrong)}; it "
                         f"knows {listed}")
