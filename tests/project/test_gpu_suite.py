"""The GPU suite and tools/gpu_check, as far as a machine without a GPU can try them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import ROOT

sys.path.insert(0, str(ROOT))  # tools/ is not part of the installed package

from tools.gpu import basics, bundle, operators  # noqa: E402

NO_GPU = pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="says what happens without a GPU, and there is one")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (basics, bundle):
        monkeypatch.setattr(module, "HOME", tmp_path)
    return tmp_path


def check(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(ROOT / "tools/gpu_check"), *arguments], capture_output=True, text=True,
                          env={**os.environ, "ECM_CLUSTER_PYTHON": sys.executable, **env})


def suite(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/gpu", *arguments], cwd=ROOT,
                          capture_output=True, text=True, env={**os.environ, **env})


@pytest.mark.slow
def test_gpu_check_runs_the_suite_and_reports_what_passed_and_what_was_not_checked(tmp_path):
    done = check("test", "report", "--device", "cpu", "--pytest", "-k 'half_types or pinned'", "--out",
                 str(tmp_path / "out"), ECM_CLUSTER_GPU_CHECK=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "out" / "gpu_check.md").read_text()
    assert "exit code 0 after" in report and "6 passed, 0 failed, 0 error, 1 skipped" in report
    assert "- not checked: test_a_copy_into_memory_that_cannot_be_pinned" in report
    assert "## Build\n\nnot run" in report
    assert (tmp_path / "out" / "test.log").exists()


@NO_GPU
@pytest.mark.slow
def test_without_a_gpu_the_suite_is_skipped_with_the_reason_and_test_gpu_says_so_in_one_line():
    skipped = suite("-k", "golden or original")
    assert skipped.returncode == 0 and " passed" not in skipped.stdout
    assert "15 tests: no GPU; `make test-gpu` runs this suite" in skipped.stdout
    refused = check("test")
    assert refused.returncode == 2
    assert refused.stdout.splitlines()[-1].startswith("gpu_check: test: there is no GPU on this machine")


@pytest.mark.slow
def test_the_suite_trains_kills_resumes_and_compares_on_a_cpu_and_says_what_it_cannot_check_there():
    done = suite("-k", "signals_and_a_kill or first_step or pinned or whole_detector",
                 ECM_CLUSTER_GPU_TESTS_DEVICE="cpu")
    assert done.returncode == 0, done.stdout
    assert "4 passed, 1 skipped" in done.stdout, done.stdout
    assert "not checked: test_a_copy_into_memory_that_cannot_be_pinned_is_the_same_and_leaves_no_error_pending: " \
        "needs a GPU" in done.stdout
    assert "measured: test_after_signals_and_a_kill_the_losses_stay_within_the_tolerance: " in done.stdout


def test_a_step_that_runs_into_its_limit_is_ended_with_all_that_it_has_started(home, monkeypatch):
    monkeypatch.setattr(basics, "GRACE", 0.2)
    mark = home / "child"
    code = f"trap '' TERM; setsid sleep 60 >/dev/null 2>&1 & echo $! > {mark}; echo begun; while true; do sleep 1; done"
    assert basics.run("stuck", ["bash", "-c", code], limit=0.5, echo=False) == basics.TIMED_OUT
    child = int(mark.read_text())
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end, "the child is still there"
        time.sleep(0.05)
    assert "begun" in basics.log_file("stuck").read_text()
    assert basics.recorded("stuck")["rc"] == basics.TIMED_OUT


def test_a_bundle_holds_the_pinned_packages_that_the_target_lacks():
    asked = {line.split("==")[0] for line in bundle.wanted(bundle.HAVE.split(","))}
    assert {"mmdet", "lvis", "pycocotools", "hotcoco", "opencv-python-headless", "pytest", "submitit", "xxhash",
            "ninja", "setuptools", "scipy"} <= asked
    assert not {name for name in asked if name.startswith(("torch", "nvidia", "numpy", "ruff", "mypy"))}
    assert "scipy" not in {line.split("==")[0] for line in bundle.wanted([*bundle.HAVE.split(","), "scipy"])}
    with pytest.raises(basics.StepError, match="--have: scypi is not among the packages"):
        bundle.wanted(["scypi"])


def test_a_bundle_that_is_too_large_is_refused_with_what_is_large(home, monkeypatch):
    for name, size in {"huge": 5000, "tiny": 10}.items():
        (home / "site" / name).mkdir(parents=True)
        (home / "site" / name / "x").write_bytes(bytes(size))
    packed = home / "packed"
    packed.write_bytes(bytes(200))
    bundle.check_size(packed, home)
    monkeypatch.setattr(bundle, "LIMIT", 100)
    with pytest.raises(basics.StepError, match="--have what the target has.*largest are huge"):
        bundle.check_size(packed, home)


def test_of_scipy_a_bundle_takes_what_mmdet_imports(home):
    import scipy

    site = home / "site"
    site.mkdir()
    installed = Path(scipy.__file__).parent
    (site / "scipy").mkdir()
    (site / "scipy" / "optimize").symlink_to(installed / "optimize")
    bundle.reduce_scipy(site, home / "last")
    assert not (site / "scipy").exists()
    code = "import scipy.optimize as o; print(o.__file__, o.linear_sum_assignment([[3, 1], [1, 3]]))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(home / "last")}).stdout
    assert said.startswith(str(home / "last")) and "array([1, 0])" in said


def test_without_a_bundle_or_a_compiler_the_remedy_is_said(home, monkeypatch, tmp_path):
    with pytest.raises(basics.StepError, match="make it with `tools/gpu_check bundle --python 3.12`"):
        bundle.made_for("cp312", "3.12.1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(basics.StepError, match="nowhere/bin/nvcc.*; name its toolkit in CUDA_HOME"):
        operators.compiler("12.8")
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    with pytest.raises(basics.StepError, match="is of CUDA 11 and torch of CUDA 12.8"):
        operators.compiler("12.8")


def test_wrong_arguments_end_with_exit_code_2():
    assert check("tset").returncode == 2
    assert "invalid version 'three'" in check("bundle", "--python", "three").stdout
