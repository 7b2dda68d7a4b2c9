"""Arrays of evaluations on a real Slurm: behind the training, while it runs, killed, preempted, asked for twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from slurm_harness import SlurmCluster
from slurm_harness.endings import worker_of
from small import ROOT, await_state, job_flags, logs_of, verb, wait_until

from ecm_cluster.chain import evaluations, submissions
from ecm_cluster.reporting import results
from ecm_cluster.rundir.run import Evaluation, Run

# the training does not end before the first epoch's evaluation has begun: waiting for its end would deadlock
WAITING = """
import time
from pathlib import Path
from mmcv.runner import HOOKS, Hook


@HOOKS.register_module()
class WaitsForItsScores(Hook):
    def __init__(self, folder):
        self.folder = Path(folder)

    def after_train_iter(self, runner):
        end = time.monotonic() + 240
        while runner.epoch == 1 and time.monotonic() < end and not list(self.folder.glob("iter_*/attempts/*.json")):
            time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def scored(slurm: SlurmCluster, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three epochs, scored while it trained."""
    folder = tmp_path_factory.mktemp("scored")
    run = Run(folder / "early")
    (folder / "code").mkdir()
    (folder / "code" / "waiting.py").write_text(WAITING)
    config = folder / "config.py"
    config.write_text(
        f"_base_ = ['{ROOT}/configs/demo.py']\n"
        f"custom_hooks = [dict(type='WaitsForItsScores', folder='{run.evaluations_dir}')]\n"
        "custom_imports = dict(imports=['mmdet_ext.register', 'waiting'], allow_failed_imports=False)\n")
    verb("submit", *job_flags(small_data, folder, "early", runner__max_epochs=3), "--code", folder / "code",
         "--config", config, "--eval-epochs", "all", "--eval-while-training", env=slurm.env)
    await_state(run, "done", env=slurm.env, seconds=400)
    return run


def table(run: Run) -> dict[str, Any]:
    """Figures by checkpoint and settings."""
    return {json.dumps([row.provenance["iteration"], row.settings], sort_keys=True): row.document["figures"]
            for row in results.rows(run)}


def began(work: Evaluation) -> float:
    return min(e.time for e in work.events() if e.kind == "start")


def test_checkpoints_are_scored_as_they_are_committed_in_one_array(slurm, scored):
    complete = next(e.time for e in scored.events() if e.kind == "complete")
    works = [evaluations.of_element(scored, element) for element in evaluations.read(scored, "evaluate")]
    assert [row.provenance["epoch"] for row in results.rows(scored)] == [1, 2, 3]
    assert began(works[0]) < complete < began(works[2])
    assert [e["at"] for e in scored.events() if e.kind == "released"][0] == "epoch 1"
    array = scored.submission("evaluate")["job_id"]
    ids = {work.read_attempt(1)["job_id"] for work in works}
    assert ids == {f"{array}_{index}" for index in range(3)}


def test_killing_and_preempting_elements_changes_nothing_in_the_table(slurm, scored):
    # without grace, in which an evaluation as small as these would complete
    asked = ["evaluate", scored.path, "--checkpoints", "all", "--vary", "nms_iou=0.4", "--partition", "lown",
             "--at-once", 2]
    said = verb(*asked, env=slurm.env).stdout
    assert "3 to score (the model answers on all images): job " in said
    assert "3 queued already" in verb(*asked, env=slurm.env).stdout, "asked for twice, queued once"
    link = submissions.recorded_links(scored)[-1]
    killed, preempted, _ = (evaluations.of_element(scored, e) for e in evaluations.read(scored, link))
    for work in (killed, preempted):
        wait_until(lambda w=work: (w.heartbeat(1) or {}).get("phase"), "it has begun", look=lambda: logs_of(scored))
    os.kill(worker_of(preempted, 1, 0), signal.SIGSTOP)  # else it may be done before it is preempted
    os.kill(worker_of(killed, 1, 0), signal.SIGKILL)
    node = slurm.job(preempted.read_attempt(1)["job_id"])["NodeList"]
    high = slurm.submit("-p", "high", "--exclusive", "--nodelist", node, "--time", "5", "--wrap", "sleep 2")
    slurm.wait_for(high)
    verb(*asked, "--wait", env=slurm.env)
    assert killed.newest_attempt() >= 2 and preempted.newest_attempt() >= 2
    ends = [e["cause"] for e in killed.events() if e.kind == "end"]
    assert ends[0] == "killed" and ends[-1] == "complete"
    before = table(scored)
    assert len(before) == 6
    # a job that has written its figures and not ended yet still counts as queued
    wait_until(lambda: not slurm.run("squeue", "-h").stdout, "its jobs end", 60)
    for work in (killed, preempted):
        shutil.rmtree(work.path)
    verb(*asked, "--wait", env=slurm.env)
    assert killed.newest_attempt() == 1
    assert table(scored) == before


def test_what_concerns_scoring_alone_takes_one_process_and_no_detections_are_made(slurm, scored):
    stored = {path: path.stat().st_mtime_ns for work in scored.evaluations()
              for path in work.detections_dir.glob("*.npz")}
    said = verb("evaluate", scored.path, "--vary", "max_dets=5", "--gpus", 2, "--wait", env=slurm.env).stdout
    assert "1 to score (no GPU: detections are there): job " in said
    (work,) = [w for w in scored.evaluations() if w.metrics(evaluations.scoring_variant({"max_dets": 5}))]
    assert work.read_attempt(work.newest_attempt())["world_size"] == 1
    assert stored == {path: path.stat().st_mtime_ns for w in scored.evaluations()
                      for path in w.detections_dir.glob("*.npz")}


def test_an_array_whose_training_fails_for_good_is_cancelled(slurm, small_data, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "failing.py").write_text("raise ArithmeticError('no such module')\n")
    config = tmp_path / "config.py"
    config.write_text(f"_base_ = ['{ROOT}/configs/demo.py']\n"
                      "custom_imports = dict(imports=['mmdet_ext.register', 'failing'], allow_failed_imports=False)\n")
    verb("submit", *job_flags(small_data, tmp_path, "failing", runner__max_epochs=3), "--code", tmp_path / "code",
         "--config", config, "--eval-epochs", "all", env=slurm.env)
    run = Run(tmp_path / "failing")
    await_state(run, "failed", env=slurm.env)
    array = run.submission("evaluate")["job_id"]
    wait_until(lambda: "CANCELLED" in slurm.run("squeue", "-h", "-a", "-t", "all", "-o", "%T", "-j", array).stdout,
               "the array is cancelled")
    assert not run.evaluations()
