"""A rank that cannot work on its GPU says so before an attempt is taken: where, what, and the remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes.gpu_node import GpuNode, build_driver, package

from ecm_cluster.attempts.failures import NotStartable
from ecm_cluster.base import files
from ecm_cluster.job import job
from ecm_cluster.node.gpu import cuda_code, cuda_driver, preflight
from ecm_cluster.node.world import RankInfo
from ecm_cluster.rundir.run import Run

PLACE = RankInfo(rank=1, world_size=2, local_rank=1, node=0, nodes=1, job_id="77", restart=3, cluster="slurm")


@pytest.fixture(scope="session")
def driver(tmp_path_factory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def node(tmp_path, monkeypatch, driver) -> GpuNode:
    return GpuNode(tmp_path, monkeypatch, driver)


def test_a_rank_whose_gpu_works_may_start(node):
    node(uuids="AB")
    assert preflight.check(1) is None


@pytest.mark.parametrize(("settings", "text", "of_node"), [
    ({"init": 100}, "no GPU is visible (CUDA_VISIBLE_DEVICES='3'); ask for a partition with GPUs", True),
    ({"uuids": ""}, "no GPU is visible", True),
    ({"init": 999}, "cuInit failed: unknown error (999); is this a node with a working GPU?", True),
    ({"context": 214}, "cuDevicePrimaryCtxRetain failed: uncorrectable ECC error encountered (214)", True),
    ({"version": 11040}, "the NVIDIA driver supports CUDA 11.4, and torch is built for CUDA 12.8", True),
    ({"free_mib": 500}, "NVIDIA Test has 0.5 of 40.0 GiB free: another process uses it", True),
    ({"capability": 30}, "needs sm_30; build it again with TORCH_CUDA_ARCH_LIST=3.0", True),
])
def test_what_is_wrong_with_a_node_is_said_in_one_line_with_the_remedy(node, monkeypatch, settings, text, of_node):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr(preflight, "FREE_SECONDS", 0.0)
    node(**settings)
    problem = preflight.check(0)
    assert problem is not None
    assert text in problem.text
    assert "\n" not in problem.text
    assert problem.of_node is of_node


def test_memory_that_a_killed_process_still_holds_is_waited_for(node, tmp_path):
    """It becomes free at the second look."""
    node(free_mib=500, free_later=tmp_path / "looked")
    assert preflight.check(0) is None


def test_a_newer_gpu_may_run_what_the_driver_compiles(node):
    node(capability=121)  # torchvision's operators have PTX
    assert preflight.check(0) is None


def test_a_node_without_a_driver_is_not_a_gpu_node(node, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nonexistent")
    problem = preflight.check(0)
    assert problem is not None
    assert problem.text.startswith("the NVIDIA driver's library cannot be loaded (libcuda.so.1")
    assert problem.of_node


def test_a_driver_that_hangs_is_not_waited_for(node, monkeypatch):
    monkeypatch.setattr(preflight, "TIMEOUT_SECONDS", 1.0)
    node(context=-1)
    problem = preflight.check(0)
    assert problem == preflight.Problem("the NVIDIA driver gave no answer within 1 s; leave this node out with "
                                        "--exclude, or tell its administrator", of_node=True)


@pytest.mark.parametrize(("breakage", "text"), [
    (lambda packages: (packages / "torch/version.py").write_text("cuda: Optional[str] = None\n"),
     "is built for the CPU alone; install a build for CUDA"),
    (lambda packages: (packages / "mmcv/_ext.so").unlink(), "has no compiled operators; install mmcv-full"),
    (lambda packages: files.write_bytes(packages / "mmcv/_ext.so", Path(sys.executable).resolve().read_bytes()),
     "has operators for the CPU alone; run `make setup` where nvcc is"),
])
def test_what_no_node_can_run_is_not_the_nodes_fault(node, breakage, text):
    (node.packages / "mmcv/_ext.so").unlink()
    node.operators.symlink_to(sys.executable)
    breakage(node.packages)
    problem = preflight.check(0)
    assert problem is not None
    assert text in problem.text
    assert not problem.of_node


def test_a_package_that_is_missing_is_named_with_the_interpreter():
    with pytest.raises(preflight.CannotStart, match=f"no_such_package is not installed for {sys.executable}"):
        preflight.package("no_such_package")


def test_each_gpu_has_a_name_an_identity_and_memory(node):
    node(uuids="AB", capability=86)
    code = ("from ecm_cluster.node.gpu.cuda_driver import Driver; d = Driver()\n"
            "print(*[g.uuid[:4] for g in d.gpus()], d.with_memory(1).free >> 20, d.with_memory(1).capability)")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "4141 4242 40000 (8, 6)"


def test_a_rank_that_cannot_start_is_on_record_and_takes_no_attempt(node, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    node(context=214)
    run = Run(tmp_path)
    files.write_json(run.run_file, {"name": "run", "cluster": "slurm", "job": job.make({"name": "run"}).as_dict()})
    with pytest.raises(NotStartable, match="^n7: cuDevicePrimaryCtxRetain failed"):
        preflight.require(run, run, PLACE)
    (event,) = run.events()
    assert event.kind == "not-started"
    assert {k: event[k] for k in ("cause", "node", "rank", "of_node", "start", "resumes")} == {
        "cause": "not startable", "node": "n7", "rank": 1, "of_node": True, "start": "slurm:77:3", "resumes": 0}
    assert event["detail"].startswith("n7: ")
    assert run.newest_attempt() == 0


# ---------------------------------------------------------------------------------------------- code for GPUs


def test_the_architectures_of_a_library_are_read_from_it():
    import torch

    operators = cuda_code.cuda_code(package("torchvision") / "_C.so")
    assert operators is not None
    listed = {int(name.replace("sm_", "")) for name in torch._C._cuda_getArchFlags().split()}
    assert {code for code in listed if 50 <= code < 100} <= operators.cubins
    assert str(operators).startswith("sm_")
    assert cuda_code.cuda_code(Path(torch.__file__).parent / "lib/libc10.so") is None


@pytest.mark.parametrize(("cubins", "ptx", "capability", "runs"), [
    ({80}, (), (8, 0), True), ({80}, (), (8, 6), True), ({86}, (), (8, 0), False), ({80}, (), (9, 0), False),
    ({80}, {80}, (9, 0), True), ((), {90}, (8, 0), False), ({90, 120}, (), (12, 1), True)])
def test_machine_code_runs_on_later_gpus_of_its_release_and_ptx_on_all_later_ones(cubins, ptx, capability, runs):
    assert cuda_code.CudaCode(frozenset(cubins), frozenset(ptx)).runs_on(capability) is runs


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"not a library at all" * 10, b"\x7fELF\x02\x01" + b"\xff" * 200])
def test_a_file_that_cannot_be_read_as_a_library_hinders_nobody(tmp_path, content):
    (tmp_path / "x.so").write_bytes(content)
    found = cuda_code.cuda_code(tmp_path / "x.so")
    assert found is not None
    assert found.runs_on((9, 0))


def test_the_check_prints_only_json(node):
    node(init=999)
    command = [sys.executable, "-m", "ecm_cluster.node.gpu.preflight", "0", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(done.stdout)["of_node"] is True
    assert done.stderr == ""


def test_a_driver_error_says_what_was_called(node):
    with pytest.raises(cuda_driver.DriverError):
        cuda_driver.Driver()  # this process was started without LD_LIBRARY_PATH: there is no driver
