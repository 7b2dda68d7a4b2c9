"""GPUs that any machine has: PyTorch's own CUDA tensors, on host memory, computed by its CPU kernels.

Two parts take the place of a GPU. ``runtime.c`` stands before CUDA's runtime library and answers what PyTorch asks of
it: devices, allocations, copies, streams, events. A dispatch mode (:mod:`emulated_gpu.compute`) then computes each
operator on the CPU, in the memory of its CUDA tensors. Everything between is real: the device of a tensor, storages,
the caching allocator with its out-of-memory error, pinned memory, autograd's device threads, autocast, DDP's
buckets, and the checks of PyTorch (``.numpy()`` of a CUDA tensor, a CPU tensor given to NCCL). A kernel that would run
on the GPU all the same fails with "unspecified launch failure".

What it cannot show: kernels and their numbers (mmcv's CUDA operators, cuDNN, order of summation), speed, anything
asynchronous (a missing synchronisation, an error that comes late), NCCL itself (gloo carries the tensors), CUDA graphs.
An error that a call leaves behind in the runtime is raised by the next operator, as by the next kernel launch.
A CPU tensor that is not a single number mixed with CUDA tensors is refused as on a GPU, apart from operators
that take one there (copies, indices); a zero-dimensional one is always taken, which a few operators would refuse.

Needs a PyTorch that is built for CUDA, as the pinned one is, and gcc.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def missing() -> str | None:
    """What the emulation needs and is missing."""
    spec = importlib.util.find_spec("torch")
    libraries = Path(spec.origin or "").parent / "lib" if spec else HERE
    if not (libraries / "libtorch_cuda.so").exists():
        return "this PyTorch is not built for CUDA"
    return None if _headers() else "CUDA's runtime headers are not installed (they come with PyTorch's packages)"


def _headers() -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = [header.parent for folder in folders for header in folder.glob("*/include/cuda_runtime_api.h")]
    return found[0] if found else None


def build(folder: Path) -> Path:
    """Compile the runtime; the library."""
    library = folder / "libcuda.so.1"
    sources = HERE / "runtime.c", HERE / "driver.c", HERE.parent / "processes" / "fake_libcuda.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", f"-I{HERE}", f"-I{_headers()}", "-Wl,-soname,libcuda.so.1",
                    "-o", str(library), *map(str, sources), "-lpthread"], check=True)
    return library


def interpose() -> ctypes.CDLL:
    """Put the runtime before CUDA's own in this process; before torch is imported, and not to be undone."""
    with tempfile.TemporaryDirectory() as folder:
        return load(str(build(Path(folder))))


def load(library: str) -> ctypes.CDLL:
    """The same with a library that :func:`build` made."""
    return ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)  # the first definition of a symbol is the one that counts


def everywhere(folder: Path, gpus: int) -> dict[str, str]:
    """What makes emulated GPUs for a run of the launcher on this machine, from ``submit`` on: its environment."""
    packages = folder / "packages"
    (packages / "mmcv").mkdir(parents=True)
    (packages / "mmcv/__init__.py").touch()
    vision = importlib.util.find_spec("torchvision")
    assert vision is not None
    (packages / "mmcv/_ext.so").symlink_to(Path(vision.origin or "").parent / "_C.so")
    libraries = os.pathsep.join(filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")]))
    return {"PYTHONPATH": str(HERE / "everywhere"), "LD_LIBRARY_PATH": libraries, "ECM_LOSS_FUSED": "0",
            "EMULATED_GPU_CODE": str(HERE.parent), "EMULATED_GPU_LIBRARY": str(build(folder)),
            "EMULATED_GPU_PACKAGES": str(packages), "EMULATED_GPUS": str(gpus),
            "FAKE_CUDA_UUIDS": "ABCDEFGH"[:gpus]}
