"""The GPU suite: which device it runs on, and what it says that it could not check."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
# cpu: run everything that makes sense without a GPU, as a check of the suite itself
DEVICE_ENV = "ECM_CLUSTER_GPU_TESTS_DEVICE"
DEVICE = os.environ.get(DEVICE_ENV, "cuda")
KINDS = ("not checked", "measured")
FEW = 3


@functools.lru_cache(maxsize=None)
def obstacle() -> str | None:
    """Why the suite cannot run here; None if it can."""
    for name in ("torch", "mmcv.ops", "mmdet.apis"):
        try:
            importlib.import_module(name)
        except Exception as error:  # an extension for another torch fails with anything
            return f"{name} does not import ({type(error).__name__}: {error})"
    import torch
    from mmcv.ops import get_compiling_cuda_version

    if DEVICE == "cpu":
        return None
    if not torch.cuda.is_available():
        return "no GPU; `make test-gpu` runs this suite where there is one"
    if not get_compiling_cuda_version()[0].isdigit():
        return "mmcv-full is built without CUDA operators; run `make setup` where nvcc is, or tools/gpu_check"
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if HERE in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.gpu)
        item.add_marker(pytest.mark.slow)
    why = obstacle() if own else None
    for item in own if why else []:
        item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Everything that was not checked, with the reason, and what was measured."""
    lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if not isinstance(report, pytest.TestReport) or "gpu" not in report.keywords:
                continue
            name = report.nodeid.rpartition("::")[2]
            if report.skipped and report.when in ("setup", "call"):
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
                lines["not checked"].append(f"{name}: {reason.replace('Skipped: ', '', 1)}")
            if report.when == "call":
                for kind, text in report.user_properties:
                    if kind in lines:
                        lines[kind].append(f"{name}: {text}")
    if not any(lines.values()):
        return
    reasons = {line.partition(": ")[2] for line in lines["not checked"]}
    terminalreporter.section("GPU suite")
    if len(reasons) == 1 and len(lines["not checked"]) > FEW and not lines["measured"]:  # one line will do
        terminalreporter.line(f"not checked: {len(lines['not checked'])} tests: {reasons.pop()}")
        return
    for kind, found in lines.items():
        for line in found:
            terminalreporter.line(f"{kind}: {line}")


@pytest.fixture(scope="session")
def device() -> str:
    """``cuda``, or ``cpu`` where the suite checks itself."""
    return DEVICE


@pytest.fixture
def needs_gpu() -> None:
    if DEVICE != "cuda":
        pytest.skip(f"needs a GPU, and {DEVICE_ENV}={DEVICE}")


@pytest.fixture
def two_devices() -> None:
    """Two GPUs, or two ranks on a CPU."""
    if DEVICE == "cuda":
        import torch

        if torch.cuda.device_count() < 2:
            pytest.skip("there is no second GPU")


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """``say("measured", "…")`` and ``say("not checked", "…")`` appear at the end of the test run."""
    return lambda kind, text: request.node.user_properties.append((KINDS[KINDS.index(kind)], text))
