"""``submit`` checks a job automatically, leaves nothing behind, and refuses nothing for lack of time or of torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from small import ROOT, job_flags, verb, wait_until

from ecm_cluster.base.errors import UserError
from ecm_cluster.checking import check, here
from ecm_cluster.checking.findings import Report, finished
from ecm_cluster.job import job
from ecm_cluster.plan import create, planning

ON = {"ECM_CLUSTER_CHECK": ""}
FAILING = """
from mmdet.models.builder import LOSSES
from mmdet.models.losses import L1Loss

@LOSSES.register_module()
class OwnLoss(L1Loss):
    def forward(self, *args, **kwargs):
        raise ValueError("beta is not set")
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where a check puts what it needs."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)  # what was found before
    return folder


def code(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "own_losses.py").write_text(text)
    return folder


def own_loss(folder: Path) -> list[str]:
    """Flags for a job whose loss is the user's own; its module must have a class of that name."""
    return ["--code", str(folder), "--set", "custom_imports.imports=['mmdet_ext.register', 'own_losses']",
            "--set", "model.roi_head.bbox_head.loss_bbox.type=OwnLoss"]


@pytest.mark.slow
def test_a_job_that_would_fail_in_its_first_step_is_refused_in_one_line_and_nothing_is_left(
        small_data, tmp_path, temporary):
    flags = [*job_flags(small_data, tmp_path / "runs", "a-run"), "--cluster", "local", "--check"]
    done = verb("submit", *flags, *own_loss(code(tmp_path / "code", FAILING)), env=ON, code=2)
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert f"beta is not set ({tmp_path}/code/own_losses.py:8, in forward)" in said[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "runs").exists()
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_a_dry_run_with_a_check_says_what_was_checked_and_writes_nothing(small_data, tmp_path, temporary):
    flags = [*job_flags(small_data, tmp_path / "runs", "a-run"), "--cluster", "local", "--dry-run", "--check"]
    said = verb("submit", *flags, env={**ON, "TMPDIR": str(temporary)}).stdout
    for part in ("check       passed in", "training data: 24 samples", "a batch: 2 images of 128×128",
                 "a checkpoint written and read", "a test image: 8 images", "each rank   1.0 M parameters"):
        assert part in said
    assert "not checked" not in said
    assert not (tmp_path / "runs").exists()
    assert not list(temporary.iterdir())


def test_the_check_is_on_where_nobody_has_switched_it_off(small_data, temporary, monkeypatch, capsys):
    monkeypatch.setenv(check.MODE_ENV, "")
    monkeypatch.setattr(check, "SHORT", 0.3)
    check.check(*planned(small_data), None)
    assert "checking the job on this machine for up to 0 s (--no-check skips it)" in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_ends_the_check_and_all_that_it_started(small_data, tmp_path, temporary):
    waiting = "import os, subprocess, time\nclass OwnLoss: pass\nsubprocess.Popen(['sleep', '300.125'])\n" \
              f"open({str(tmp_path / 'begun')!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n"
    flags = [*job_flags(small_data, tmp_path / "runs", "a-run"), "--cluster", "local", "--check",
             *own_loss(code(tmp_path / "code", waiting))]
    process = subprocess.Popen([sys.executable, "-m", "ecm_cluster.submit", *flags], cwd=ROOT, stderr=subprocess.PIPE,
                               stdout=subprocess.DEVNULL, env={**os.environ, **ON}, text=True,
                               # what a shell starts in the background ignores SIGINT, and hands that on
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until((tmp_path / "begun").exists, "the check imports the user's module", 170)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.endswith("interrupted\n")
    assert not (tmp_path / "runs").exists()
    assert not list(temporary.iterdir())
    assert "300.125" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_check_dies_with_a_submission_that_is_killed(small_data, tmp_path, temporary):
    waiting = "import os, time\nclass OwnLoss: pass\n" \
              f"open({str(tmp_path / 'begun')!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n"
    flags = [*job_flags(small_data, tmp_path / "runs", "a-run"), "--cluster", "local", "--check",
             *own_loss(code(tmp_path / "code", waiting))]
    process = subprocess.Popen([sys.executable, "-m", "ecm_cluster.submit", *flags], cwd=ROOT,
                               stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **ON})
    pid = wait_until(lambda: (tmp_path / "begun").exists() and (tmp_path / "begun").read_text(), "it begins", 170)
    process.kill()
    process.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the check's process ends", 10)


def planned(data: Path, **values: object) -> tuple[planning.Plan, create.Frozen]:
    options = {f"model.roi_head.{head}.num_classes": 6 for head in ("bbox_head", "mask_head")}
    plan = planning.make(job.make({"config": "configs/demo.py", "device": "cpu", "data_root": str(data),
                                   "options": options, **values}), "local")
    return plan, create.freeze(plan)


def test_what_was_not_reached_in_time_is_said_and_refuses_nothing(small_data, temporary, capsys):
    left = temporary / "ecm-cluster-check-left"  # by one that was killed
    left.mkdir()
    os.utime(left, (0, 0))
    began = time.monotonic()
    report = here.look(*planned(small_data), seconds=0.3)
    assert time.monotonic() - began < 5
    assert report.failure == ""
    said = check.describe(report, [], 0.3)
    assert "not checked imports (time limit of 0.3 s); training data; model" in said
    assert not list(temporary.iterdir())


def test_a_python_without_torch_is_said_in_one_line(small_data, tmp_path, temporary, capsys):
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -S \"$@\"\n")
    bare.chmod(0o755)
    plan, frozen = planned(small_data, python=str(bare))
    check.check(plan, frozen, "here")
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "check       skipped: " in said
    assert "has no torch, mmcv, mmdet; errors will appear" in said


def test_a_python_that_only_the_nodes_have_refuses_nothing(small_data, temporary, capsys):
    plan, frozen = planned(small_data, python="/nodes/only/python")
    check.check(plan, frozen, "here")
    assert "could not start /nodes/only/python here (No such file or directory)" in capsys.readouterr().out


def test_no_room_for_a_check_refuses_nothing(small_data, temporary, monkeypatch, capsys):
    (temporary / "a file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "a file" / "gone"))
    check.check(*planned(small_data), "here")
    assert "check       skipped: could not create a temporary directory (Not a directory); errors" in \
        capsys.readouterr().out


def test_a_process_that_was_killed_is_not_a_fault_of_the_job():
    report = finished(Report(done={"imports": ""}), -9, 20)
    assert (report.failure, report.skipped) == ("", {"training data": "the check was killed by SIGKILL"})


@pytest.mark.parametrize("mode", ["yes", "off"])
def test_another_word_in_the_environment_is_refused_with_the_valid_ones(small_data, monkeypatch, mode):
    monkeypatch.setenv(check.MODE_ENV, mode)
    plan, frozen = planned(small_data)
    with pytest.raises(UserError, match=f"ECM_CLUSTER_CHECK: '{mode}'.*here, job, none"):
        check.check(plan, frozen, None)


# ---------------------------------------------------------------------------------------------- as a job


@pytest.mark.slow
def test_a_check_as_a_job_on_one_machine_runs_the_setup_and_leaves_nothing(small_data, tmp_path, monkeypatch):
    text = (ROOT / "jobs/demo.yaml").read_text() + f"setup: ['touch {tmp_path}/set-up']\n"
    (tmp_path / "job.yaml").write_text(text)
    flags = [*job_flags(small_data, tmp_path / "runs", "a-run")[1:], "--cluster", "local", "--dry-run", "--check=job"]
    done = verb("submit", tmp_path / "job.yaml", *flags, env=ON)
    assert "checking the job in process " in done.stderr
    assert "check       passed in" in done.stdout
    assert "a batch: 4 images of 128×128" in done.stdout, "the whole batch, unlike beside others"
    assert (tmp_path / "set-up").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_job_whose_setup_fails_is_refused_with_its_last_words(small_data, tmp_path, capsys):
    plan, frozen = planned(small_data, setup=["echo no module cuda/99", "false"], runs_dir=str(tmp_path / "runs"))
    with pytest.raises(UserError, match=r"exit code 1 .*no module cuda/99; a line of setup failed with code 1"):
        check.check(plan, frozen, "job")
    assert not (tmp_path / "runs").exists()
