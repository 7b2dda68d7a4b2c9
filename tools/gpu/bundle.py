"""The bundle: what a machine with a GPU, CUDA's compiler and PyTorch lacks, in one file; made where there is a network.

Wheels are unpacked into one tree and compressed together: smaller by a third than the wheels, and by more once tests
and stubs are left out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from . import interpreter
from .basics import HOME, LOCK, VENV, StepError, mmcv_source, mmcv_version, record, say

LIMIT = 64 << 20  # bytes
# what comes with PyTorch
HAVE = "torch,torchvision,triton,numpy,pillow,filelock,fsspec,jinja2,markupsafe,mpmath,networkx,sympy,typing-extensions"
# for developing, or imported by nothing that runs here
LEFT_OUT = {"mypy", "mypy-extensions", "ast-serialize", "librt", "pathspec", "ruff", "uv", "types-pyyaml", "hypothesis",
            "sortedcontainers", "pytest-xdist", "execnet", "pip", "cython", "tzdata"}
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
# what has to import once a bundle is unpacked, whether mmcv-full is compiled or not
IMPORTED = ("cv2, matplotlib.pyplot, pycocotools.mask, lvis, hotcoco, scipy.optimize, addict, yapf, terminaltables, "
            "yaml, pytest, submitit, rich, xxhash, pkg_resources, wheel")
NOT_NEEDED = {"tests", "__pycache__", "sample_data"}  # folders


def path_of(tag: str) -> Path:
    return HOME / f"bundle-{tag}.tar.xz"


def wanted(have: Sequence[str]) -> list[str]:
    """The pinned requirements of this checkout without what the target has."""
    pins = re.findall(r"^([\w.-]+)==\S+", LOCK.read_text(), re.M)
    lines = {name: line for name in pins for line in [_pin(name)] if not name.startswith("nvidia-")}
    unknown = set(have) - set(lines) - set(HAVE.split(","))
    if unknown:
        raise StepError(f"--have: {', '.join(sorted(unknown))} is not among the packages that {LOCK.name} pins")
    return [line for name, line in lines.items() if name not in LEFT_OUT and name not in have]


def _pin(name: str) -> str:
    return next(line for line in LOCK.read_text().splitlines() if line.startswith(f"{name}=="))


def make(python: str, have: Sequence[str]) -> Path:
    """Download, unpack, trim and compress.

    Args:
        python: Version of the target's Python, as ``3.12``.
        have: Distributions that the target has.

    Raises:
        StepError: A download fails, or the bundle is too large.
    """
    if not re.fullmatch(r"3\.\d+", python):
        raise StepError(f"--python: invalid version {python!r}; expected one such as 3.12")
    tag = "cp" + python.replace(".", "")
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME, prefix=".bundle-") as name:
        folder = Path(name)
        requirements = wanted(have)
        wheels = download(folder / "wheels", python, tag, requirements)
        tree = folder / "tree"
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(tree / "site")
        trim(tree)
        shutil.copy(source(folder, wheels), tree)
        (tree / "bundle.json").write_text(json.dumps({"tag": tag, "mmcv-full": mmcv_version(),
                                                      "packages": requirements}, indent=1))
        packed, size = folder / "bundle", sum(p.stat().st_size for p in tree.rglob("*") if p.is_file())
        say(f"compressing {size / 1e6:.0f} MB of {len(wheels)} packages: some minutes")
        with tarfile.open(packed, "w:xz", preset=6) as archive_out:
            archive_out.add(tree, ".")
        check_size(packed, tree)
        target = packed.replace(path_of(tag))
    say(f"{target}: {target.stat().st_size / (1 << 20):.1f} MiB")
    return target


def check_size(packed: Path, tree: Path) -> None:
    if packed.stat().st_size <= LIMIT:
        return
    sizes = {part.name: sum(p.stat().st_size for p in part.rglob("*") if p.is_file())
             for part in (tree / "site").iterdir() if part.is_dir()}
    largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
    raise StepError(f"the bundle takes {packed.stat().st_size / (1 << 20):.1f} MiB and may take {LIMIT >> 20}; leave "
                    "out with --have what the target has. Uncompressed, the largest are "
                    + ", ".join(f"{name} {sizes[name] / 1e6:.0f} MB" for name in largest))


def download(folder: Path, python: str, tag: str, requirements: Sequence[str]) -> list[Path]:
    say(f"downloading {len(requirements)} wheels for Python {python}")
    _pip("download", "--no-deps", "--only-binary", ":all:", "--python-version", python, "--implementation", "cp",
         *(part for abi in (tag, "abi3", "none") for part in ("--abi", abi)),
         *(part for platform in PLATFORMS for part in ("--platform", platform)), "--dest", str(folder), *requirements)
    return sorted(folder.glob("*.whl"))


def source(folder: Path, wheels: Sequence[Path]) -> Path:
    """mmcv-full's source distribution, as it is published."""
    tools = folder / "tools"  # pip asks its setup.py for a name, and that imports pkg_resources
    for wheel in wheels:
        if wheel.name.startswith(("setuptools-", "wheel-")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(tools)
    _pip("download", "--no-deps", "--no-binary", "mmcv-full", "--no-build-isolation", "--dest", str(folder),
         f"mmcv-full=={mmcv_version()}", search=tools)
    return next(folder.glob("mmcv-full-*.tar.gz"))


def _pip(*args: str, search: Path | None = None) -> None:
    env = {**os.environ, "PYTHONPATH": str(search)} if search else None
    done = subprocess.run([sys.executable, "-m", "pip", *args, "--quiet", "--disable-pip-version-check"],
                          capture_output=True, text=True, env=env)
    if done.returncode:
        raise StepError(f"pip {args[0]} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")


def trim(tree: Path) -> None:
    """Remove what nobody imports, of scipy all that mmdet does not import, in a folder that is searched last."""
    site = tree / "site"
    for folder in sorted(site.rglob("*")):
        if folder.is_dir() and (folder.name in NOT_NEEDED or folder.parent.name == ".mim" and folder.name != "configs"):
            shutil.rmtree(folder)
    for stub in site.rglob("*.pyi"):
        stub.unlink()
    if (site / "scipy").exists():
        reduce_scipy(site, tree / "last")


def reduce_scipy(site: Path, last: Path) -> None:
    """``scipy.optimize.linear_sum_assignment`` alone, which mmdet imports at its start: 0.1 MB instead of 110."""
    reduced = last / "scipy" / "optimize"
    reduced.mkdir(parents=True)
    for module in (site / "scipy" / "optimize").glob("_lsap*.so"):
        shutil.copy(module, reduced)
    (reduced / "__init__.py").write_text("from ._lsap import linear_sum_assignment\n")
    (reduced.parent / "__init__.py").write_text('"""What mmdet needs of scipy."""\n')
    for part in [*site.glob("scipy"), *site.glob("scipy.libs"), *site.glob("scipy-*.dist-info")]:
        shutil.rmtree(part)


# -- on the other machine


def unpack() -> None:
    """Unpack the bundle for this machine's Python, and make an environment of it and of what the machine has."""
    python, found = interpreter.with_torch()
    bundle = made_for(found["tag"], found["python"])
    say(f"unpacking {bundle.name} for {python}, which has torch {found['torch']}")
    for part in ("site", "last"):
        shutil.rmtree(HOME / part, ignore_errors=True)
    with tarfile.open(bundle) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(HOME, filter="data")
        else:
            archive.extractall(HOME)
    if not mmcv_source().exists():  # what is compiled already stays
        with tarfile.open(HOME / f"{mmcv_source().name}.tar.gz") as archive:
            archive.extractall(HOME)
    environment(python, found["site"])
    done = subprocess.run([VENV / "bin" / "python", "-W", "ignore", "-c", f"import {IMPORTED}"], capture_output=True,
                          text=True)
    if done.returncode:
        raise StepError(f"{bundle.name} does not fit {python}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    record("unpack", rc=0, bundle=bundle.name, python=python, torch=found["torch"])


def made_for(tag: str, version: str) -> Path:
    """The bundle for a Python.

    Raises:
        StepError: There is none.
    """
    path = path_of(tag)
    if not path.exists():
        others = ", ".join(sorted(p.name for p in HOME.glob("bundle-*.tar.xz"))) or "none"
        remedy = f"tools/gpu_check bundle --python {version.rpartition('.')[0]}"
        raise StepError(f"{path} does not exist (there: {others}), and the Python with torch is {version}; make it "
                        f"with `{remedy}` where there is a network, or name another Python in ECM_CLUSTER_PYTHON")
    return path


def environment(python: str, base: Sequence[str]) -> None:
    """A virtual environment that finds the bundle first, then what ``python`` has; the latter is left untouched."""
    shutil.rmtree(VENV, ignore_errors=True)
    done = subprocess.run([python, "-m", "venv", "--without-pip", str(VENV)], capture_output=True, text=True)
    if done.returncode:
        raise StepError(f"{python} -m venv failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    packages = next((VENV / "lib").glob("python3*")) / "site-packages"
    lines = [str(HOME / "site"), str(mmcv_source()),
             *(f"import site; site.addsitedir({folder!r})" for folder in base), str(HOME / "last")]
    (packages / "gpu_check.pth").write_text("\n".join(lines) + "\n")
