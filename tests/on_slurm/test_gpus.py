"""Nodes whose GPUs do not work, on a real Slurm: the run says so at once and goes elsewhere, so many times."""

from __future__ import annotations

from processes.gpu_node import GpuNode, build_driver
from slurm_harness.endings import ends, job_file, submit
from small import await_state, hook, with_code

from ecm_cluster.attempts import starts
from ecm_cluster.rundir.run import Run

# what torch raises on a broken GPU; here on one node only
BROKEN = hook("if os.environ['SLURMD_NODENAME'] == 'n1': "
              "raise RuntimeError('CUDA error: uncorrectable ECC error encountered')")


def of(run: Run, kind: str) -> list:
    return [e for e in run.events() if e.kind == kind]


def test_a_run_leaves_a_node_whose_gpus_have_failed_twice(slurm, n1_first, small_data, tmp_path):
    run, job_id = submit(slurm, small_data, tmp_path, "broken", *with_code(tmp_path, BROKEN), "--no-eval")
    await_state(run, "done", env=slurm.env)
    assert [ends(run, number) for number in (1, 2)] == [["GPU failure"], ["GPU failure"]]
    assert [(e["node"], e["reason"]) for e in of(run, "left-out")] == [("n1", "its GPUs failed 2 times")]
    nodes = [e["node"] for e in of(run, "start")]
    assert nodes[:2] == ["n1", "n1"]
    assert "n1" not in nodes[2:]
    assert slurm.job(job_id)["ExcNodeList"] == "n1"


def test_a_job_that_can_start_nowhere_ends_with_the_reason_and_its_evaluation_too(slurm, small_data, tmp_path):
    """mmcv's operators are built for the CPU here: no node could run a job on GPUs."""
    run, job_id = submit(slurm, small_data, tmp_path, "cpu-only", "--device", "cuda")
    found = await_state(run, "failed", env=slurm.env)
    (event,) = of(run, "not-started")
    assert found["reason"] == f"not startable: {event['detail']}"
    assert event["detail"].startswith(f"{event['node']}: ")
    assert (run.attempts(), of(run, "left-out"), of(run, "requeue")) == ([], [], [])
    assert slurm.wait_for(job_id)["JobState"] == "FAILED"
    assert slurm.wait_for(run.submissions()[1].job_id)["JobState"] == "CANCELLED"


def test_a_job_that_sees_no_gpu_is_tried_on_so_many_nodes(slurm, small_data, tmp_path, monkeypatch):
    """Each of the four nodes has a driver that finds no GPU."""
    node = GpuNode(tmp_path, monkeypatch, build_driver(tmp_path / "driver"))
    job = job_file(tmp_path, "env:", f"  PYTHONPATH: {node.packages}", f"  LD_LIBRARY_PATH: {tmp_path / 'driver'}",
                   "  FAKE_CUDA_INIT: '100'")
    run, job_id = submit(slurm, small_data, tmp_path, "no-gpu", "--device", "cuda", "--no-eval", job=job)
    found = await_state(run, "failed", env=slurm.env)
    tried = [e["node"] for e in of(run, "not-started")]
    assert len(set(tried)) == len(tried) == starts.NODE_LIMIT + 1, "never twice on the same"
    assert [e["node"] for e in of(run, "left-out")] == tried[:-1]
    assert f"it could not start on {len(tried)} nodes, so no other is tried" in found["reason"]
    assert run.attempts() == []
    assert slurm.wait_for(job_id)["JobState"] == "FAILED"
