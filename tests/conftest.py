"""What all tests share: fast ones first, nothing leaks in from the shell, Slurm and root are skipped or required."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    import hypothesis
except ImportError:  # the GPU suite runs where little more than pytest is installed
    hypothesis = None

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_SLURM = "ECM_CLUSTER_REQUIRE_SLURM"
GPU_TESTS_DEVICE = "ECM_CLUSTER_GPU_TESTS_DEVICE"  # read by gpu/conftest.py

if hypothesis is not None:
    # deadline: the machine may be busy, so no example is judged by its time
    hypothesis.settings.register_profile("here", deadline=None, derandomize="CI" in os.environ)
    hypothesis.settings.load_profile("here")


def pytest_configure() -> None:
    # a shell that starts the tests in the background lets them ignore these, and so would all that they start
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    # a shell inside an allocation, or a user's own settings, would change what the verbs do
    for name in list(os.environ):
        ours = name.startswith("ECM_CLUSTER_") and name not in (REQUIRE_SLURM, GPU_TESTS_DEVICE)
        terminal = name in ("COLUMNS", "NO_COLOR")  # output would be laid out for it
        if ours or terminal or name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_", "MMDET_DATASETS")):
            del os.environ[name]
    # what runs keep for others is not put among the user's own
    os.environ["ECM_CLUSTER_HEARTBEAT_SECONDS"] = "0.3"  # tests wait for what a run says of itself
    os.environ["ECM_CLUSTER_CHECK"] = "none"  # a check takes seconds; the tests that are about it switch it on
    os.environ["ECM_CLUSTER_ANNOTATIONS"] = tempfile.mkdtemp(prefix="ecm-cluster-annotations-")


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ.pop("ECM_CLUSTER_ANNOTATIONS", ""), ignore_errors=True)


@pytest.hookimpl(trylast=True)  # after the folders' own conftest files have marked their tests
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


def _is_about_slurm(node: pytest.Item | pytest.Collector) -> bool:
    return node.get_closest_marker("slurm") is not None or ROOT / "tests" / "on_slurm" in node.path.parents


def _needs_root(node: pytest.Item | pytest.Collector) -> bool:
    # by the reason that users.py gives
    return any(mark.kwargs.get("reason", "").startswith("only root") for mark in node.iter_markers("skipif"))


def _refuse_skip(report: Any, node: pytest.Item | pytest.Collector) -> None:
    """A test that skips itself has failed, for any reason, where what it needs is required.

    Slurm is required where a variable says so; tests as two users, where this is root or a CI.
    """
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    why = f"{REQUIRE_SLURM}=1" if os.environ.get(REQUIRE_SLURM) == "1" and _is_about_slurm(node) else \
        "this is root, or a CI" if (os.geteuid() == 0 or "CI" in os.environ) and _needs_root(node) else ""
    if why:
        report.outcome = "failed"
        report.longrepr = f"skipped although {why}: {report.longrepr}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    _refuse_skip(report, item)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    _refuse_skip(report, collector)
    return report


@pytest.fixture(autouse=True)
def _signals_are_blocked_as_before() -> Iterator[None]:
    """A task that is unpickled holds signals back in its process, which here is that of all tests."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 24 training images and 6 classes, made once."""
    from small import make_data

    return make_data(tmp_path_factory.mktemp("data") / "lvis")
