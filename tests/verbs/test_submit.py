"""The verb that makes runs: what it refuses, what it writes, and what an interrupted one leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import Answers
from small import CLASSES, ROOT, job_flags, verb, wait_until

from ecm_cluster import submit
from ecm_cluster.backends import driver
from ecm_cluster.base import files, units
from ecm_cluster.base.errors import UserError
from ecm_cluster.console import cli
from ecm_cluster.freeze import snapshot
from ecm_cluster.mmconfig import config
from ecm_cluster.plan import create
from ecm_cluster.rundir.run import Run
from ecm_cluster.rundir.runs import list_runs

LOCAL = ("--cluster", "local")
BLOCKED = ("torch", "torchvision", "mmcv", "mmdet", "numpy", "cv2", "pycocotools", "lvis")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No settings of the user who runs the tests, and a folder of its own to stand in."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("ECM_CLUSTER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def idle(tmp_path) -> str:
    """A job file of the demo whose local run ends at once, in its setup lines."""
    return job_file(tmp_path / "idle.yaml", "exit 3")


@pytest.fixture
def staying(tmp_path) -> Iterator[str]:
    """A job file of the demo whose local run stays in its setup lines until the test ends."""
    yield job_file(tmp_path / "staying.yaml", "sleep 100")
    for run in list_runs(tmp_path / "runs"):
        while pid := driver.find(run):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(int(pid), 0)


def job_file(path: Path, line: str) -> str:
    path.write_text((ROOT / "jobs/demo.yaml").read_text() + f"setup: ['{line}']\n")
    return str(path)


def flags_for(job: str, data: Path, runs: Path, name: str | None = "a-run") -> list[str]:
    flags = [job, *job_flags(data, runs, name or "")[1:], *LOCAL]
    if name is None:
        at = flags.index("--name")
        del flags[at:at + 2]
    return flags


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """The verb in this process: exit code and what it printed."""
    try:
        code = cli.run(submit.main, [str(a) for a in argv])
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _is_of_submit(path: Path) -> bool:
    """Not the lock of a submission that was killed, nor what a driver writes meanwhile."""
    return path.name != ".submitting" and "starts" not in path.parts


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line of a refusal, which left nothing behind."""
    before = sorted(filter(_is_of_submit, Path().rglob("*")))
    code, _, err = call(capsys, *argv)
    assert code == 2
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert sorted(filter(_is_of_submit, Path().rglob("*"))) == before
    return lines[0]


# ---------------------------------------------------------------------------------------------- refusals


def test_without_slurm_the_way_out_is_named(capsys, small_data, tmp_path, monkeypatch):
    Answers(tmp_path, monkeypatch)
    said = refused(capsys, *job_flags(small_data, tmp_path / "runs", "a-run"))
    assert "Slurm is not reachable: no sbatch in PATH" in said
    assert "--cluster local" in said


@pytest.mark.parametrize(("argv", "said"), [
    (["--nods", "2"], "unrecognized arguments: --nods; did you mean --nodes?"),
    (["--node", "2"], "unrecognized arguments: --node; did you mean --nodes?"),
    (["--nodes", "two"], "argument --nodes: invalid int value: 'two'"),
    (["--nodes", "0"], "nodes: invalid value 0; expected a whole number, 1 or more"),
    (["--cluster", "slrum"], "invalid choice: 'slrum'"),
    (["dmeo"], "JOB: 'dmeo' is unknown (did you mean demo?)"),
    (["demo", "one-more"], "unrecognized arguments: one-more"),
    (["demo", "--config", "configs/dmeo.py"], "did you mean configs/demo.py"),
    (["demo", "--set", "optimizer.lr"], "optimizer.lr"),
    (["demo", "--time", "soon"], "time: invalid value 'soon'"),
    (["demo", "--name", "a/b"], "name: invalid value 'a/b'; expected a plain directory name, below --runs-dir"),
    (["demo", "--name", "../a"], "name: invalid value '../a'"),
    (["demo", "--name", ".a"], "name: invalid value '.a'"),
    (["demo", "--name", ""], "name: invalid value ''"),
    (["demo", "--nodes", "2", "--device", "cuda"], "invalid nodes: 2; expected 1"),
])
def test_a_mistake_is_reported_in_one_line_and_nothing_is_written(capsys, argv, said):
    assert said in refused(capsys, *LOCAL, *argv)


def test_missing_data_is_refused_before_anything_is_written(capsys, tmp_path):
    said = refused(capsys, "demo", *LOCAL, "--data-root", tmp_path / "none", "--runs-dir", tmp_path / "runs")
    assert "data.train.dataset.ann_file" in said
    assert str(tmp_path / "none") in said


def test_class_counts_that_cannot_be_used_are_refused_before_anything_is_written(capsys, small_data, idle, tmp_path):
    counts = tmp_path / "counts.txt"
    counts.write_text("1\n0\n" * (CLASSES // 2))
    said = refused(capsys, *flags_for(idle, small_data, tmp_path / "runs"), "--set",
                   f"model.roi_head.bbox_head.loss_cls.class_counts={counts}")
    assert "class_counts" in said


@pytest.mark.parametrize("name", ["a-run", None])
def test_a_code_folder_that_is_none_leaves_no_run_behind(capsys, small_data, idle, tmp_path, name):
    (tmp_path / "runs").mkdir()
    said = refused(capsys, *flags_for(idle, small_data, tmp_path / "runs", name), "--code", tmp_path / "none")
    assert "--code" in said


def test_a_folder_with_something_else_in_it_is_left_alone(capsys, small_data, idle, tmp_path):
    (tmp_path / "runs/a-run").mkdir(parents=True)
    (tmp_path / "runs/a-run/thesis.tex").write_text("years of work")
    said = refused(capsys, *flags_for(idle, small_data, tmp_path / "runs"))
    assert "exists and is not a run; use another --name or --runs-dir" in said


def test_a_file_with_the_name_of_the_run_is_left_alone(capsys, small_data, idle, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/a-run").write_text("years of work")
    assert "exists and is not a run" in refused(capsys, *flags_for(idle, small_data, tmp_path / "runs"))
    said = refused(capsys, *flags_for(idle, small_data, tmp_path / "runs/a-run"))
    assert "could not create" in said and "(Not a directory); use a writable --runs-dir" in said
    assert (tmp_path / "runs/a-run").read_text() == "years of work"


def test_a_run_that_was_submitted_is_never_submitted_again(capsys, small_data, idle, tmp_path):
    flags = flags_for(idle, small_data, tmp_path / "runs")
    assert call(capsys, *flags)[0] == 0
    record = Run(tmp_path / "runs/a-run").run_file.read_bytes()
    assert "a run 'a-run' already exists" in refused(capsys, *flags)
    assert Run(tmp_path / "runs/a-run").run_file.read_bytes() == record


# ---------------------------------------------------------------------------------------------- dry run


def test_a_dry_run_needs_neither_slurm_nor_torch_and_writes_nothing(small_data, tmp_path, monkeypatch):
    tmp_path = tmp_path / "here"
    tmp_path.mkdir()
    program = (f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
               "from ecm_cluster.console import cli; from ecm_cluster import submit\n"
               "raise SystemExit(cli.run(submit.main))\n")
    flags = ["--data-root", str(small_data), "--gpus", "8", "--nodes", "2", "--dry-run", "--set",
             f"model.roi_head.bbox_head.num_classes={CLASSES}", "--set",
             f"model.roi_head.mask_head.num_classes={CLASSES}",
             "--set", "data.train.dataset.type=LVISFromFile", "--set", "data.test.type=LVISFromFile"]
    done = subprocess.run([sys.executable, "-c", program, *flags], cwd=tmp_path, capture_output=True, text=True,
                          env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path),
                               "PYTHONDONTWRITEBYTECODE": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert f"run {tmp_path}/runs/mask_rcnn_r50_1x-001" in done.stdout
    assert "to fetch: https://" in done.stdout
    assert done.stdout.count("#!/bin/bash") == 2
    assert "#SBATCH --dependency=afterok:TRAIN_JOB_ID" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_rest_when_the_data_is_missing(capsys, tmp_path):
    code, out, err = call(capsys, "demo", "--dry-run", "--data-root", tmp_path / "none")
    assert code == 0
    assert err.count("would be refused: ") == 2
    assert "#SBATCH --job-name=demo-001" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_on_one_machine_shows_no_script(capsys, small_data, idle, tmp_path):
    code, out, _ = call(capsys, *flags_for(idle, small_data, tmp_path / "runs"), "--dry-run")
    assert code == 0
    assert "#SBATCH" not in out
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------------------------------- what a run holds


def test_a_run_holds_everything_that_it_needs(capsys, small_data, idle, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine.py").write_text("x = 1\n")
    flags = flags_for(idle, small_data, tmp_path / "runs")
    code, out, _ = call(capsys, *flags, "--code", tmp_path / "code", "--seed", 7)
    assert code == 0
    run = Run(tmp_path / "runs/a-run")
    spec = run.spec
    assert (spec.name, spec.cluster, spec.job.seed, spec.cwd) == ("a-run", "local", 7, str(tmp_path))
    assert spec.digests == {
        "config": files.digest(run.config_file),
        "train_annotations": files.digest(small_data / "annotations/lvis_v1_train.json"),
        "val_annotations": files.digest(small_data / "annotations/lvis_v1_val.json")}
    assert spec.code["digest"] == snapshot.digest(run.code_dir)
    assert (run.code_dir / "user/mine.py").read_text() == "x = 1\n"
    stored = config.read(run.config_file)
    counts = stored["model"]["roi_head"]["bbox_head"]["loss_cls"]["class_counts"]
    assert len(counts) == CLASSES
    assert stored["data"]["train"]["dataset"]["ann_file"] == str(small_data / "annotations/lvis_v1_train.json")
    (submission,) = run.submissions()
    assert (submission.link, submission.cluster) == ("train", "local")
    assert f"submitted: driver {submission.job_id}" in out
    assert "python -m ecm_cluster.status runs/a-run" in out
    assert list_runs(tmp_path / "runs") and list_runs(tmp_path / "runs")[0].path == run.path


def test_a_name_with_blanks_is_printed_as_the_shell_takes_it(capsys, small_data, idle, tmp_path):
    code, out, _ = call(capsys, *flags_for(idle, small_data, tmp_path / "runs", "it's a run"))
    assert code == 0
    assert """python -m ecm_cluster.status 'runs/it'"'"'s a run'""" in out


def test_names_are_the_configs_and_the_next_free_number(tmp_path):
    assert create.next_name(tmp_path / "none", "configs/demo.py") == "demo-001"
    for name in ("demo-001", "demo-003", "demo", "other-002"):
        (tmp_path / name).mkdir()
    assert create.next_name(tmp_path, "configs/demo.py") == "demo-002"
    (tmp_path / "demo-002").write_text("a file counts, too")
    assert create.next_name(tmp_path, "/elsewhere/demo.py") == "demo-004"
    for number in range(4, 1001):
        (tmp_path / f"demo-{number:03d}").mkdir()
    assert create.next_name(tmp_path, "configs/demo.py") == "demo-1001"


def test_submissions_at_the_same_time_never_share_a_folder(tmp_path):
    found: list[Path] = []
    start = threading.Barrier(8)

    def one() -> None:
        start.wait()
        found.append(create.claim(tmp_path / "runs", "configs/demo.py").path)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.name for p in found) == [f"demo-{n:03d}" for n in range(1, 9)]


# ---------------------------------------------------------------------------------------------- interrupted


def killed(point: str, flags: list[str]) -> None:
    assert verb("submit", *flags, env={files.KILL_ENV: point}, code=None, cwd=Path()).returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("point", ["before-rename:/code", "before-fsync:config.py", "after-rename:config.py",
                                   "before-link:run.json"])
def test_a_submission_killed_while_it_creates_the_run_can_be_repeated_with_the_same_name(
        capsys, small_data, idle, tmp_path, point):
    flags = flags_for(idle, small_data, tmp_path / "runs")
    killed(point, flags)
    run = Run(tmp_path / "runs/a-run")
    assert run.path.is_dir()
    assert list_runs(tmp_path / "runs") == [], "half a run is none"
    code, out, _ = call(capsys, *flags, "--seed", 5)
    assert code == 0, out
    again = Run(run.path)
    assert again.spec.job.seed == 5
    assert again.spec.digests["config"] == files.digest(again.config_file)
    assert again.spec.code["digest"] == snapshot.digest(again.code_dir)
    assert [s.link for s in again.submissions()] == ["train"]


def test_a_driver_whose_submitter_died_is_found_and_no_second_one_started(capsys, small_data, staying, tmp_path):
    flags = flags_for(staying, small_data, tmp_path / "runs")
    killed("after-driver", flags)
    run = Run(tmp_path / "runs/a-run")
    pid = wait_until(lambda: driver.find(run), "the driver runs", 30)
    assert [s.job_id for s in run.submissions()] == [None]
    code, out, _ = call(capsys, *flags)
    assert code == 0
    assert "its submission was interrupted; continuing it" in out
    assert [s.job_id for s in run.submissions()] == [pid]
    assert [p for p in os.listdir("/proc") if p.isdigit() and driver.alive(run, p)] == [pid]


def test_an_interrupted_submission_continues_with_its_own_settings_and_refuses_others(
        capsys, small_data, idle, tmp_path, monkeypatch):
    flags = flags_for(idle, small_data, tmp_path / "runs")
    killed("after-driver", flags)
    run = Run(tmp_path / "runs/a-run")
    wait_until(lambda: list(run.starts_dir.glob("*")), "the driver's shell records its start")
    said = refused(capsys, *flags, "--seed", 5, "--set", "optimizer.lr=0.5")
    assert "had another options, seed;" in said
    line = f"python -m ecm_cluster.submit --name a-run --runs-dir {tmp_path}/runs --cluster local"
    assert line in said
    slurm = Answers(tmp_path, monkeypatch)
    slurm(sbatch="", squeue="")
    slurm.script("sinfo", "exit 0\n")
    assert "had another cluster;" in refused(capsys, "--name", "a-run", "--runs-dir", tmp_path / "runs")
    state = json.loads(verb("status", run.path, "--json", cwd=tmp_path).stdout)
    assert (state["state"], state["next"]) == ("submitting", line)
    code, out, _ = call(capsys, *line.split()[3:])
    assert code == 0, out
    assert [s.link for s in run.submissions()] == ["train"]


@pytest.mark.parametrize("cluster", ["slurm", "local"])
@pytest.mark.parametrize("name", ["lr%1", "a%j", "a%", "a%%j", "a\\b", "a\\", "a\tb", "a\u2028b"])
def test_a_name_or_a_folder_that_slurm_would_write_otherwise_is_refused_in_one_line(tmp_path, capsys, name, cluster):
    for flags in (["--name", name], ["--name", "x", "--runs-dir", str(tmp_path / name)]):
        with pytest.raises(UserError) as caught:
            submit.main(["demo", "--cluster", cluster, "--dry-run", *flags])
        assert str(caught.value).startswith("name:" if len(flags) == 2 else ("runs-dir:", "runs_dir:"))
        expected = "which Slurm expands in the names of logs" if name.isprintable() else "expected one line of text"
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


def test_names_that_slurm_does_not_change_stay_valid():
    for name in ("it's a \"b\"", "a b", "a#b", "a|b;c", "$HOME", "Köln 北京", "[1-3]*", "a=b", "~{x}&(y)"):
        units.check_run_path("name", name)


def test_a_run_that_is_named_after_its_config_gets_a_name_that_slurm_leaves_as_it_is(tmp_path):
    assert create.next_name(tmp_path, "/configs/lr%1\\2.py") == "lr_1_2-001"
