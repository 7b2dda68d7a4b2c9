"""A node with GPUs as far as files and the driver's library tell: what is asked before torch is imported.

The driver is a stand-in (``fake_libcuda.c``). The operators are real code for GPUs: torchvision's, under mmcv's name.
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest
from small import ROOT


class GpuNode:
    """Sets the environment of this process and its children; see ``fake_libcuda.c`` for what can be set."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
        self.monkeypatch, self.packages = monkeypatch, folder / "packages"
        for name in ("torch", "mmcv"):
            (self.packages / name).mkdir(parents=True)
            (self.packages / name / "__init__.py").write_text("raise ImportError('nothing here is to be imported')")
        (self.packages / "torch/version.py").write_text("cuda: Optional[str] = '12.8'\n")
        self.operators = self.packages / "mmcv/_ext.so"
        self.operators.symlink_to(package("torchvision") / "_C.so")
        monkeypatch.setenv("PYTHONPATH", f"{self.packages}:{ROOT}")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library))

    def __call__(self, **settings: object) -> None:
        """``init=100`` sets FAKE_CUDA_INIT."""
        for name, value in settings.items():
            self.monkeypatch.setenv(f"FAKE_CUDA_{name.upper()}", str(value))


def package(name: str) -> Path:
    """The folder of a package, which is not imported."""
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def build_driver(folder: Path) -> Path:
    """Compile the stand-in for the driver's library; its folder, for LD_LIBRARY_PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    source = ROOT / "tests/processes/fake_libcuda.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    return folder
