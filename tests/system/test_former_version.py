"""Runs of the previous version continue under this one: every record that it wrote is read, and every verb answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from answers import Answers
from former_version import cancelled, complete, with_code
from small import await_state, logs_of, state_of, verb, wait_until

from ecm_cluster import compare, evaluate, resume, status
from ecm_cluster.backends import driver
from ecm_cluster.base import files
from ecm_cluster.chain import chain, evaluations
from ecm_cluster.console import cli
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run


@pytest.fixture
def run(tmp_path) -> Run:
    return complete(tmp_path)


def call(capsys, verb, *argv: object) -> str:
    code = cli.run(verb.main, [str(a) for a in argv])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out


def files_of(run: Run) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_the_submission_and_what_resumes_changed_are_read(run):
    assert (run.spec.name, run.spec.cluster, run.spec.virtual_ranks, run.spec.threads) == ("former", "local", 1, 1)
    assert run.spec.job.evaluation.epochs == "all" and run.spec.staging is not None
    assert (run.spec.job.mem_per_gpu, run.job().mem_per_gpu) == ("3G", "3G")
    files.write_json(run.overrides_file, {"job": {"mem_per_gpu": "5G"}, "from": {"iteration": 7, "after": 1}})
    assert (run.job().mem_per_gpu, chain.resume_point(run)) == ("5G", 7)
    assert run.job("evaluate").gpus == 1


def test_the_completion_mark_leads_to_the_manifest_with_its_size(run):
    last = checkpoints.last(run)
    assert last == evaluations.resolve(run, "last") == checkpoints.accepted(run)[-1]
    assert (last.iteration, last.size, checkpoints.problem(run, last)) == (21, 24, None)
    (run.checkpoints_dir / last.file).write_text("another text of 24 char\n")
    assert checkpoints.problem(run, last) == "its content does not match its digest"


def test_links_of_evaluations_are_read_and_everything_is_scored(run):
    assert [e.at for e in evaluations.read(run, "evaluate")] == ["epoch 1", "epoch 2", "last"]
    assert run.job("sweep001").gpus == 2, "of which the evaluation block was on record"
    assert evaluations.chain_done(run, "evaluate") and evaluations.chain_done(run, "sweep001")
    assert evaluations.awaited(run) == set()


def test_status_and_evaluate_and_compare_and_resume_answer_of_a_complete_run(capsys, run):
    (row,) = json.loads(call(capsys, status, "--json", "--runs-dir", run.path.parent))
    assert (row["state"], row["iteration"], row["reason"]) == ("done", 21, "trained and scored (3 evaluations)")
    before = files_of(run)
    assert "4 of 6 scored already" in call(capsys, evaluate, run.path, "--checkpoints", "all", "--vary",
                                           "nms_iou=0.4,0.5", "--dry-run")
    assert "1 to score" in call(capsys, evaluate, run.path, "--vary", "nms_iou=0.3", "--dry-run")
    assert "nothing to do" in call(capsys, resume, run.path, "--dry-run")
    assert "mask AP" in call(capsys, compare, f"{run.path}@7", run.path)
    assert files_of(run) == before


@pytest.mark.parametrize("cluster", ["local", "slurm"])
def test_a_cancelled_run_can_be_resumed(capsys, tmp_path, monkeypatch, cluster):
    run = cancelled(tmp_path, cluster)
    if cluster == "slurm":
        Answers(tmp_path, monkeypatch)(sbatch="", squeue="", sacct=None, scontrol="", sinfo="")
    assert run.cancelled() and run.cancelled("evaluate") and run.cancelled("sweep001")
    (row,) = json.loads(call(capsys, status, "--json", "--runs-dir", run.path.parent))
    assert (row["state"], row["checkpoint"]) == ("stopped", "iter_0000014-a0001.pth")
    before = files_of(run)
    said = call(capsys, resume, run.path, "--dry-run")
    assert "from iter_0000014-a0001.pth: iteration 14, epoch 2" in said
    assert "1 checkpoint(s) of iteration 14 (24 bytes) stay" in call(capsys, resume, run.path, "--from", 7, "--code",
                                                                     "current", "--dry-run")
    (run.code_dir / "ecm_cluster").mkdir(parents=True)  # its own code prunes what the new branch does not accept
    assert "of an earlier version, which deletes them; use --code current to keep them" in call(
        capsys, resume, run.path, "--from", 7, "--dry-run")
    assert files_of(run) == before


def left_by(run: Run) -> list[str]:
    """Processes of the run on this machine."""
    return [*filter(None, [driver.find(run)]), *driver.ranks(run)]


@pytest.mark.slow
def test_a_run_with_its_own_code_is_steered_resumed_and_scored_by_the_verbs_of_this_version(small_data, tmp_path):
    run = with_code(tmp_path, small_data)
    assert state_of(run)["state"] == "stopped"
    # as that version starts its driver
    run.cancel_file.unlink()
    record = run.submission("train")
    with open(run.local_log, "ab") as log:
        started = subprocess.Popen([sys.executable, "-m", "ecm_cluster.node.local", "chain", str(run.path)],
                                   env={**os.environ, "PYTHONPATH": str(run.code_dir),
                                        "ECM_CLUSTER_TOKEN": record["token"]}, cwd=run.logs_dir, stdout=log,
                                   stderr=log, start_new_session=True)
    files.write_json(run.submission_file("train"), {**record, "job_id": str(started.pid)})
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 3, "training", look=lambda: logs_of(run))
    assert driver.find(run) == str(started.pid) and driver.link_of(str(started.pid)) == driver.CHAIN
    assert len(driver.ranks(run)) >= 2, "its supervisor and its worker are distinguished from other processes"
    assert state_of(run)["state"] == "running"
    assert "cancelled driver" in verb("cancel", run.path).stdout
    started.wait()
    stopped = state_of(run)
    assert stopped["state"] == "stopped" and stopped["checkpoint"] is not None
    wait_until(lambda: not left_by(run), "all its processes end", 60, lambda: str(left_by(run)))

    verb("resume", run.path)
    found = await_state(run, "done")
    assert (found["iteration"], found["attempt"]) == (84, 2) and "segm_AP" in found["evaluation"]
    assert not (run.code_dir / "ecm_cluster/base").exists(), "its own code continued"
    pickles = [path.read_bytes() for path in run.submitit_dir.glob("*_submitted.pkl")]
    assert len(pickles) == 3 and all(b"ecm_cluster.node.task" in one for one in pickles)

    verb("evaluate", run.path, "--vary", "nms_iou=0.4")
    wait_until(lambda: evaluations.chain_done(run, "sweep001"), "the sweep is scored", look=lambda: logs_of(run))
    assert len(run.evaluations()) == 2
