"""The suite's own rules, on a small suite that runs under the same conftest.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SLURM_TESTS = """
import pytest

@pytest.mark.slow
@pytest.mark.slurm
def test_needs_slurm():
    pytest.skip("no Slurm here")
"""
OTHER_TESTS = """
import os, pytest

@pytest.mark.slow
def test_first_in_the_file():
    pass

def test_sees_no_settings_of_the_shell():
    assert not {"SLURM_JOB_ID", "ECM_CLUSTER_SITE"} & set(os.environ)

def test_skips_itself():
    pytest.skip("for a reason of its own")
"""


@pytest.fixture
def suite(tmp_path: Path, root: Path) -> Path:
    (tmp_path / "tests" / "on_slurm").mkdir(parents=True)
    shutil.copy(root / "tests" / "conftest.py", tmp_path / "tests")
    shutil.copy(root / "setup.cfg", tmp_path)
    (tmp_path / "tests" / "test_other.py").write_text(OTHER_TESTS)
    return tmp_path


def run(suite: Path, *args: str, **variables: str) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(("ECM_CLUSTER_", "PYTEST"))}
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", *args], cwd=suite,
                          env={**env, **variables}, capture_output=True, text=True)


def test_fast_tests_run_first_and_nothing_leaks_in_from_the_shell(suite: Path) -> None:
    done = run(suite, SLURM_JOB_ID="7", ECM_CLUSTER_SITE="mine.yaml", ECM_CLUSTER_REQUIRE_SLURM="1")
    assert done.returncode == 0, "a test that has nothing to do with Slurm may skip itself\n" + done.stdout
    assert done.stdout.index("test_sees_no_settings") < done.stdout.index("test_first_in_the_file")


@pytest.mark.slow
@pytest.mark.parametrize("body", [SLURM_TESTS, "import pytest; pytest.skip('no', allow_module_level=True)"],
                         ids=["in a test", "of a file"])
def test_a_slurm_test_may_skip_itself_except_where_slurm_is_required(suite: Path, body: str) -> None:
    (suite / "tests" / "on_slurm" / "test_cluster.py").write_text(body)
    assert run(suite).returncode == 0
    required = run(suite, ECM_CLUSTER_REQUIRE_SLURM="1")
    assert required.returncode != 0
    assert "skipped although ECM_CLUSTER_REQUIRE_SLURM=1" in required.stdout


@pytest.mark.slow
def test_a_test_as_two_users_may_not_skip_itself_in_a_ci(suite: Path) -> None:
    body = "import pytest\n\n@pytest.mark.skipif(True, reason='only root can')\ndef test_two_users():\n    pass\n"
    (suite / "tests" / "test_users.py").write_text(body)
    assert "skipped although this is root, or a CI" in run(suite, CI="1").stdout
