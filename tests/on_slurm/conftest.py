"""Fixtures that start a real Slurm (see ``slurm_harness``); every test here is marked ``slow`` and ``slurm``.

``slurm`` and ``slurm_dbd`` run for the whole session, without and with accounting; ``make_slurm(**options)``
starts a special one for one test. Where packages are missing the tests are skipped, or fail with
ECM_CLUSTER_REQUIRE_SLURM=1.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# pytest's importmode=importlib leaves sys.path alone
sys.path.insert(0, str(Path(__file__).parent))
from slurm_harness import SlurmCluster, missing_packages  # noqa: E402

_FAILED = pytest.StashKey[bool]()
_running: list[SlurmCluster] = []
_troubled: set[Path] = set()  # folders of clusters in use when a test failed


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")
            item.add_marker("slurm")


@contextlib.contextmanager
def _cluster(**options: Any) -> Iterator[SlurmCluster]:
    lacking = missing_packages(dbd=options.get("dbd", False))
    if lacking:
        reason = f"needs Debian packages: apt-get install {' '.join(lacking)}"
        (pytest.fail if os.environ.get("ECM_CLUSTER_REQUIRE_SLURM") == "1" else pytest.skip)(reason)
    cluster = SlurmCluster(tempfile.mkdtemp(prefix="ecs-", dir="/tmp"), **options)
    _running.append(cluster)
    try:
        yield cluster.start()
    except BaseException:
        _troubled.add(cluster.folder)
        raise
    finally:
        _running.remove(cluster)
        cluster.stop()
        cluster.remove(keep=("etc", "log", "jobs") if cluster.folder in _troubled else ())


@pytest.fixture(scope="session")
def small_data(small_data: Path) -> Path:
    """The small data set as a pack: on Slurm each node copies it to its scratch."""
    from small import verb

    pack = small_data.with_suffix(".pack")
    verb("stage", "pack", small_data, pack)
    return pack


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """4 nodes with 8 GPUs each, without accounting. Jobs left over are cancelled after each module."""
    with _cluster() as cluster:
        yield cluster


@pytest.fixture
def n1_first(slurm: SlurmCluster) -> Iterator[None]:
    """Slurm gives n1 first. By itself it may prefer another node, on which the last test's job is about to end."""
    slurm.wait_idle()
    others = ",".join(slurm.nodes[1:])
    slurm.run("scontrol", "update", f"NodeName={others}", "Weight=2")
    yield
    slurm.run("scontrol", "update", f"NodeName={others}", "Weight=1")


@pytest.fixture(scope="session")
def slurm_dbd() -> Iterator[SlurmCluster]:
    """Like ``slurm``, with slurmdbd: sacct works."""
    with _cluster(dbd=True) as cluster:
        yield cluster


@pytest.fixture
def make_slurm() -> Iterator[Callable[..., SlurmCluster]]:
    """``make_slurm(**options)`` starts a cluster with options of its own, which ends with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(_cluster(**options))


@pytest.fixture(scope="module", autouse=True)
def _no_job_outlives_its_module() -> Iterator[None]:
    yield
    for cluster in _running:
        cluster.clear()


@pytest.fixture(autouse=True)
def _no_job_outlives_a_failing_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if request.node.stash.get(_FAILED, False):
        for cluster in _running:
            cluster.clear()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    report = (yield).get_result()
    if report.failed:
        item.stash[_FAILED] = True
        for cluster in _running:
            _troubled.add(cluster.folder)
            report.sections.append((f"Slurm in {cluster.folder}", cluster.diagnose()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for folder in sorted(_troubled):
        terminalreporter.write_line(f"the logs and job outputs of a test's Slurm are kept in {folder}")
