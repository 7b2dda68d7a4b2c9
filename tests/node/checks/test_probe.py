"""What a node says of itself: its GPU, its scratch, and files that it must see as the login node does."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from processes.gpu_node import GpuNode, build_driver

from ecm_cluster.job import job
from ecm_cluster.node.checks import probe

GPU = """
import json, os
from ecm_cluster.node.gpu import preflight
from ecm_cluster.node.checks import probe
from ecm_cluster.node import world
preflight.FREE_SECONDS = 0.0
place = world.RankInfo(0, 1, 0, 0, 1, '1', 0, 'local')
print(json.dumps([one.as_dict() for one in probe.gpu(place)]))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize(("settings", "state", "text", "remedy"), [
    ({"uuids": "AB"}, "ok",
     "2 × NVIDIA Test (sm_90); driver for CUDA 13.0, torch for 12.8; mmcv-full has operators for sm_", ""),
    ({"version": 11040}, "fails", "the NVIDIA driver supports CUDA 11.4, and torch is built for CUDA 12.8",
     "use nodes with a newer driver, or an older build of torch"),
    ({"capability": 30}, "fails", "needs sm_30", "build it again with TORCH_CUDA_ARCH_LIST=3.0"),
    ({"init": 100}, "fails", "no GPU is visible", "ask for a partition with GPUs, or give --device cpu")])
def test_a_gpu_is_judged_as_each_start_of_a_run_judges_it(tmp_path, monkeypatch, driver, settings, state, text, remedy):
    GpuNode(tmp_path, monkeypatch, driver)(**settings)
    done = subprocess.run([sys.executable, "-c", GPU], capture_output=True, text=True, check=True, env=dict(os.environ))
    (found,) = json.loads(done.stdout)
    assert (found["id"], found["state"], found["remedy"]) == ("node.gpu", state, remedy)
    assert text in found["text"]


def scratch(monkeypatch, **values) -> dict[str, str]:
    for name in ("SLURM_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return {one.id: f"{one.state}: {one.text}" for one in probe.scratch(job.make(values), "t")}


def test_a_scratch_that_is_missing_or_cannot_be_written_is_named(tmp_path, monkeypatch):
    assert "warning: there is none" in scratch(monkeypatch)["node.scratch"]
    assert scratch(monkeypatch, scratch="/nowhere/at/all")["node.scratch"] == (
        "fails: /nowhere/at does not exist on this node")
    assert scratch(monkeypatch, scratch="/proc/x")["node.scratch"].startswith("fails: /proc/x")
    monkeypatch.setenv("NODE", str(tmp_path))
    assert scratch(monkeypatch, scratch="$NODE/own")["node.scratch"].startswith(f"ok: {tmp_path}/own")
    kept = list(probe.kept(job.make({"scratch": str(tmp_path / "own")}), "t"))
    assert (kept[0].state, list((tmp_path / "own").iterdir())) == ("ok", []), "the mark is gone"
    kept = list(probe.kept(job.make({"scratch": str(tmp_path / "own")}), "t"))
    assert kept[0].state == "warning" and "does not outlive a job" in kept[0].text


def test_a_file_that_the_node_does_not_see_or_sees_otherwise_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("{}")
    for wanted, text in (([[str(path), 2]], "1 file(s) seen as on the login node"),
                         ([[str(path), 3]], "has 2 bytes here and 3 on the login node"),
                         ([[f"{path}.gone", 3]], "No such file or directory; the login node sees it")):
        (found,) = probe.files_there("node.data", wanted, "--data-root")
        assert text in found.text
