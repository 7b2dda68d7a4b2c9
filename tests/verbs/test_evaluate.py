"""The verb that scores: what is asked for, what is done already, what is shown; and whole sweeps on this machine."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from answers import Answers
from scored import score, scored_run
from small import ROOT, await_state, job_flags, logs_of, verb, wait_until

from ecm_cluster import evaluate
from ecm_cluster.backends import driver
from ecm_cluster.base import files, processes
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import evaluations, successor
from ecm_cluster.console import cli
from ecm_cluster.plan import plain_checkpoints
from ecm_cluster.reporting import results, trouble
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run


def call(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.run(evaluate.main, [str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture
def run(tmp_path) -> Run:
    return scored_run(tmp_path / "first", {10: 0.1, 20: 0.3, 30: 0.2})


def test_what_is_scored_is_shown_best_first_and_nothing_is_started(capsys, run):
    code, out, _ = call(capsys, run.path, "--checkpoints", "all")
    assert code == 0
    assert "first: 3 of 3 scored already" in out
    rows = [line.split() for line in out.splitlines() if line.startswith("iter")]
    assert [row[1] for row in rows] == ["20", "30", "10"]
    assert rows[0][2:] == ["as", "configured", "15.0", "60.0", "15.0", "–", "45.0", "30.0", "60.0", "15.0", "–", "45.0"]
    assert "(by mask AP, best first)" in out
    assert driver.find(run) is None and not list(run.evaluations_dir.glob("sweep*"))


def test_the_table_is_kept_unrounded(capsys, run, tmp_path):
    call(capsys, run.path, "--checkpoints", "10,30", "--csv", tmp_path / "table.csv", "--sort", "APr")
    kept, asked = (list(csv.DictReader(path.read_text().splitlines()))
                   for path in (run.results_file, tmp_path / "table.csv"))
    assert [row["iteration"] for row in kept] == ["10", "20", "30"]
    assert [(row["iteration"], row["bbox_APr"], row["bbox_APc"]) for row in asked] \
        == [("30", "0.1", ""), ("10", "0.05", "")]
    of_files = [json.loads(Path(row["metrics_file"]).read_text())["provenance"]["iteration"] for row in kept]
    assert of_files == [10, 20, 30]


def test_scripts_read_provenance_and_figures(capsys, run):
    code, out, _ = call(capsys, run.path, "--checkpoints", "best", "--json")
    (row,) = json.loads(out)
    assert (row["iteration"], row["figures"]["bbox"]["AP"], row["settings"]) == (20, 0.3, {})
    assert row["checkpoint_digest"].startswith("sha256:")


@pytest.mark.parametrize(("asked", "heads", "figures"), [
    ("AP,APr", ["mask AP", "box AP", "mask APr", "box APr"], ["15.0", "30.0", "15.0", "15.0"]),
    ("segm_APf", ["mask APf"], ["45.0"]),
    ("box AP, mask APr,AP", ["box AP", "mask APr", "mask AP"], ["30.0", "15.0", "15.0"])])
def test_the_table_shows_the_columns_that_are_asked_for(capsys, run, asked, heads, figures):
    _, out, _ = call(capsys, run.path, "--checkpoints", "20", "--columns", asked)
    head, row = (re.split("  +", line) for line in out.splitlines()[-3:-1])
    assert (head[2:], row[2:]) == (heads, figures)


@pytest.mark.parametrize("name", ["first", "experiment-of-sixty-characters-with-the-loss-and-the-seed-in-it"])
@pytest.mark.parametrize("room", [60, 80, 100, 160])
def test_the_table_fits_the_terminal(capsys, tmp_path, monkeypatch, name, room):
    monkeypatch.setenv("COLUMNS", str(room))
    made, other = scored_run(tmp_path / name, {10: 0.1, 20: 0.3}), scored_run(tmp_path / "b", {10: 0.1})
    score(made, checkpoints.accepted(made)[-1], 0.25, nms_iou=0.6, max_dets=100, score_thr=0.001)
    _, out, _ = call(capsys, made.path, other.path, "--checkpoints", "all", "--vary", "nms_iou=0.5,0.6", "--vary",
                     "max_dets=300,100", "--vary", "score_thr=0.1,0.001", "--dry-run")
    shown = out.split("\n\n", 1)[1].splitlines()[:-1]
    words = {word.strip(",") for line in shown for word in line.split()}
    assert words >= {"checkpoint", "settings", name, "b", "mask", "box", "AP50", "APr", "nms_iou", "0.6", "max_dets"}
    assert max(map(len, shown)) <= max(room, len(f"{name},")), out
    assert [word for word in ("mask", "box") if word in shown] == (["mask", "box"] if "mask" in shown else [])


def test_only_what_is_missing_would_be_scored(capsys, run):
    newest = checkpoints.accepted(run)[-1]
    score(run, newest, 0.25, nms_iou=0.6, max_dets=100)
    code, out, _ = call(capsys, run.path, "--checkpoints", 30, "--vary", "nms_iou=0.5,0.6,0.7", "--vary",
                        "max_dets=300,100", "--dry-run")
    assert code == 0
    assert "first: 3 to score (on this machine): iteration 30: as configured; iteration 30: nms_iou 0.6; " \
           "iteration 30: nms_iou 0.7" in out
    code, out, _ = call(capsys, run.path, "--checkpoints", 30, "--vary", "nms_iou=0.6", "--vary", "max_dets=100")
    assert "1 of 1 scored already" in out


def test_the_same_figures_under_a_value_that_the_config_has_are_not_made_twice(capsys, run):
    _, out, _ = call(capsys, run.path, "--checkpoints", 30, "--vary", "nms_iou=0.5", "--vary", "temperature=1.0")
    assert "1 of 1 scored already" in out


def test_fixed_ap_is_an_evaluation_of_its_own(capsys, run):
    assert "first is of an earlier version, which does not have Fixed AP" in call(
        capsys, run.path, "--checkpoints", 30, "--fixed", "--dry-run")[2]
    marker = (run.code_dir / processes.module("analysis").replace(".", "/")).with_suffix(".py")
    marker.parent.mkdir(parents=True)
    marker.touch()
    said = "1 to score (on this machine): iteration 30: score_thr 0, max_per_img 1000"
    for asked in (["--fixed"], ["--vary", "fixed=true"]):
        assert said in call(capsys, run.path, "--checkpoints", 30, *asked, "--dry-run")[1]


def test_several_runs_make_one_table(capsys, run, tmp_path):
    scored_run(tmp_path / "second", {10: 0.9})
    _, out, _ = call(capsys, "first", "second", "--runs-dir", tmp_path, "--checkpoints", "all", "--sort", "bbox_AP50")
    assert [line.split()[0] for line in out.splitlines() if " iter " in line] == ["second", "first", "first", "first"]


@pytest.mark.parametrize(("argv", "said"), [
    (["--checkpoints", "last"], "first is not complete (its newest checkpoint is of iteration 30)"),
    (["--checkpoints", "15"], "first has none of iteration 15; it has 10, 20, 30"),
    (["--vary", "nms=0.5"], "setting: 'nms' is unknown"),
    (["--vary", "flip=true", "--vary", "flip=false"], "expected all values together, as flip=V1,V2"),
    (["--vary", "flip=true", "--checkpoints", "10"], "scale, flip: data.test.pipeline has no MultiScaleFlipAug"),
    (["--sweep", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    (["--fixed", "--vary", "fixed=false"], "fixed: given by --fixed and by --vary or --sweep"),
    (["--fixed", "--vary", "max_dets=100"], "max_dets: Fixed AP has no maximum"),
    (["--at-once", "0"], "at-once: invalid value 0"),
    (["--checkpoints", "all", "--columns", "AP,mAP"], "columns: 'mAP' is unknown"),
    (["--checkpoints", "all", "--sort", "mAP"], "metric: 'mAP' is unknown"),
    (["--config", "configs/demo.py"], "is not a file; expected checkpoint"),
])
def test_a_mistake_is_one_line_and_nothing_is_written(capsys, run, argv, said):
    before = sorted(run.path.rglob("*"))
    code, _, err = call(capsys, run.path, *argv)
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err
    assert sorted(run.path.rglob("*")) == before


# ---------------------------------------------------------------------------------------------- on Slurm


@pytest.fixture
def on_slurm(tmp_path) -> Run:
    """A run of Slurm whose training is complete."""
    run = scored_run(tmp_path / "first", {10: 0.1, 20: 0.3}, cluster="slurm", device="cuda", mem_per_gpu="48G")
    last = checkpoints.accepted(run)[-1]
    files.write_json(run.complete_file(1), {"attempt": 1, "time": 1.0, "checkpoint": last.file})
    return run


def options(script: str) -> set[str]:
    """The #SBATCH options of a script."""
    return {line[len("#SBATCH "):] for line in script.splitlines() if line.startswith("#SBATCH ")}


ASKED = ("--vary", "nms_iou=0.7", "--device", "cpu", "--mem-per-gpu", "2G", "--account", "x", "--cpus-per-gpu", 3,
         "--partition", "short", "--time", 20, "--gpus", 2, "--qos", "low")


def test_what_an_evaluation_is_asked_for_reaches_its_script_and_that_of_its_successor(capsys, on_slurm, tmp_path,
                                                                                   monkeypatch):
    answers = Answers(tmp_path, monkeypatch)
    answers(squeue="", sacct=None, scontrol="", sinfo="")

    def sbatch(job_id: int) -> None:
        keeps = f'for script; do :; done; cat "$script" > {tmp_path}/script\n'
        answers.script("sbatch", f"{keeps}echo Submitted batch job {job_id}\n")

    sbatch(31)
    code, out, err = call(capsys, on_slurm.path, *ASKED)
    assert (code, err) == (0, "") and "job 31" in out
    asked = {"--account=x", "--qos=low", "--partition=short", "--time=20", "--cpus-per-task=3"}
    mine = options((tmp_path / "script").read_text())
    assert asked <= mine and any("mem" in o and o.endswith(("4096M", "4G", "2G", "2048M")) for o in mine)
    assert not any("gres" in o or "gpus" in o for o in mine)

    job = on_slurm.job("sweep001")
    assert (job.device, job.mem_per_gpu, job.nodes, job.gpus, job.cpus_per_gpu) == ("cpu", "2G", 1, 2, 3)
    assert on_slurm.threads("sweep001") == 3

    sbatch(32)
    assert successor.evaluation_successor(on_slurm, "sweep001", 0, "31_0") == "32"
    replaced = options((tmp_path / "script").read_text())
    assert asked <= replaced
    own = ("--output", "--error", "--job-name", "--comment", "--dependency", "--array")
    assert {o for o in replaced if not o.startswith(own)} == {o for o in mine if not o.startswith(own)}
    assert on_slurm.job("sweep002") == job


def test_a_sweep_that_slurm_refuses_leaves_nothing_that_keeps_checkpoints(capsys, on_slurm, tmp_path, monkeypatch):
    answers = Answers(tmp_path, monkeypatch)
    answers(sbatch=None, squeue="", sacct=None, scontrol="", sinfo="")
    code, _, err = call(capsys, on_slurm.path, "--checkpoints", 10, "--vary", "nms_iou=0.7")
    assert code == 2 and "refused" in err
    assert on_slurm.links_with_elements() == [] and evaluations.awaited(on_slurm) == set()


# ---------------------------------------------------------------------------------------------- on this machine


def detections(run: Run) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for work in run.evaluations() for path in work.detections_dir.glob("*.npz")}


@pytest.mark.slow
def test_a_run_is_scored_at_every_epoch_and_then_under_a_sweep_in_which_an_element_is_killed(small_data, tmp_path):
    flags = job_flags(small_data, tmp_path, "swept", runner__max_epochs=2)
    verb("submit", *flags, "--cluster", "local", "--eval-epochs", "all")
    run = Run(tmp_path / "swept")
    found = await_state(run, "done")
    assert found["reason"] == "trained and scored (2 evaluations)"
    assert [row.provenance["epoch"] for row in results.rows(run)] == [1, 2]

    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("nms_iou: [0.5, 0.4]\nmax_dets: [300, 3]\nmargin: 0.1\n")
    asked = ["evaluate", run.path, "--sweep", sweep, "--gpus", 2]
    said = verb(*asked)
    assert "2 to score (on this machine)" in said.stdout
    work = evaluations.of_element(run, evaluations.read(run, "sweep001")[0])
    starts = wait_until(lambda: {e["rank"]: e["pid"] for e in work.events() if e.kind == "start"}, "it starts",
                        look=lambda: logs_of(run))
    os.kill(starts[max(starts)], signal.SIGKILL)
    wait_until(lambda: driver.find(run) is None, "the sweep ends", 240, lambda: logs_of(run))
    again = verb(*asked, "--json")
    assert "2 of 2 scored already" in again.stderr
    table = [row["settings"] for row in json.loads(again.stdout)]
    assert len({json.dumps(settings, sort_keys=True) for settings in table}) == len(table) == 4
    assert [e["cause"] for e in work.events() if e.kind == "end"][0] in ("killed", "crashed")

    before = detections(run)
    verb("evaluate", run.path, "--vary", "max_dets=2", "--vary", "min_score=0.2", "--vary", "scorer=lvis", "--wait")
    assert detections(run) == before, "settings that change scoring alone reuse what the model answered"
    assert results.rows(run)[-1].document["provenance"]["checkpoint_digest"] == checkpoints.last(run).digest

    # as of a run on GPUs, of which there are none here: the worker takes the device of the evaluation
    record = files.read_json(run.run_file)
    files.write_json(run.run_file, {**record, "job": {**record["job"], "device": "cuda"}})
    verb("evaluate", run.path, "--vary", "nms_iou=0.3", "--device", "cpu", "--cpus-per-gpu", 1, "--wait")
    assert {row.settings.get("nms_iou") for row in results.rows(run)} >= {0.3, 0.4}


@pytest.mark.slow
def test_a_run_that_counts_iterations_is_scored_at_those_asked_for_although_they_are_inside_steps(small_data, tmp_path):
    config = tmp_path / "by_iteration.py"
    config.write_text(f"_base_ = {str(ROOT / 'configs/demo.py')!r}\n"
                      "runner = dict(_delete_=True, type='IterBasedRunner', max_iters=8)\n"
                      "optimizer_config = dict(type='GradientCumulativeOptimizerHook', cumulative_iters=2)\n")
    job = tmp_path / "job.yaml"
    job.write_text("evaluation: {every: 3}\ndevice: cpu\ncpus_per_gpu: 1\nkeep: 1\n")
    flags = job_flags(small_data, tmp_path, "counted")
    options = [f for pair in zip(flags, flags[1:]) if "num_classes" in pair[1] for f in pair]
    verb("submit", job, *flags[1:9], *options, "--config", config, "--cluster", "local")
    run = Run(tmp_path / "counted")
    found = await_state(run, "done")
    assert found["reason"] == "trained and scored (3 evaluations)"
    assert [row.provenance["iteration"] for row in results.rows(run)] == [4, 6, 8]


@pytest.mark.slow
def test_every_epoch_is_scored_although_epochs_end_inside_steps_and_several_in_one(small_data, tmp_path):
    config = tmp_path / "gathering.py"
    config.write_text(f"_base_ = {str(ROOT / 'configs/demo.py')!r}\n"
                      "optimizer_config = dict(_delete_=True, type='GradientCumulativeOptimizerHook', "
                      "cumulative_iters=16)\n")
    flags = job_flags(small_data, tmp_path, "gathered", runner__max_epochs=4)
    verb("submit", *flags, "--config", config, "--cluster", "local", "--eval-epochs", "all", "--no-check")
    run = Run(tmp_path / "gathered")
    found = await_state(run, "done")
    assert found["reason"] == "trained and scored (4 evaluations)"
    (per_epoch,) = {round((m.iteration - m.position) / m.epoch) for m in checkpoints.accepted(run)}
    ends = [min(-(-n * per_epoch // 16) * 16, 4 * per_epoch) for n in (1, 2, 3, 4)]
    assert [row.provenance["iteration"] for row in results.rows(run)] == sorted(set(ends))


@pytest.mark.slow
def test_a_plain_checkpoint_is_scored_once_and_refused_with_other_classes(small_data, tmp_path):
    flags = job_flags(small_data, tmp_path, "trained")
    verb("submit", *flags, "--cluster", "local", "--wait")
    trained = Run(tmp_path / "trained")
    file = tmp_path / "model.pth"
    file.write_bytes((trained.checkpoints_dir / trained.completion()).read_bytes())
    classes = [part for part in flags if part == "--set" or "num_classes" in part]
    classes = [part for pair in zip(classes, classes[1:]) if "num_classes" in pair[1] for part in pair]
    asked = ["evaluate", file, "--config", "configs/demo.py", "--cluster", "local", "--data-root", small_data,
             "--runs-dir", tmp_path / "plain", "--gpus", 1, "--device", "cpu", *classes]
    first = verb(*asked, "--wait", "--json")
    (row,) = json.loads(first.stdout)
    (own,) = results.rows(trained)
    assert row["figures"] == own.document["figures"]
    assert row["checkpoint_digest"] == checkpoints.last(trained).digest
    assert "1 of 1 scored already" in verb(*asked).stdout

    wait_until(own.work.analysis_file.exists, "the analysis is made afterwards", look=lambda: logs_of(trained))
    made = json.loads(own.work.analysis_file.read_text())
    assert all((own.work.path / entry["image"]).exists() for entry in made["worst"]) and made["worst"]
    fixed = verb("evaluate", trained.path, "--fixed", "--gpus", 1, "--wait", "--json")
    assert [set(row["figures"]) for row in json.loads(fixed.stdout)] == [{"bbox-fixed", "segm-fixed"}]
    ((_, most),) = [(row.settings["max_per_img"], row.document["detections"]) for row in results.rows(trained)
                    if row.settings]
    assert most > own.document["detections"]

    other = verb(*(a for a in asked if a not in classes), code=2)
    assert "num_classes is 24" in other.stderr
    (made,) = (tmp_path / "plain").iterdir()
    state = json.loads(verb("status", made, "--json").stdout)
    assert state["state"] == "done", state


def test_annotations_that_changed_since_the_submission_are_refused(run, tmp_path, monkeypatch):
    from ecm_cluster.node.inference import worker

    annotations = tmp_path / "val.json"
    annotations.write_text("{}")
    files.write_json(run.run_file, {**files.read_json(run.run_file), "annotations": {"test": str(annotations)}})
    run = Run(run.path)
    with pytest.raises(UserError, match="has changed since first was submitted"):
        worker.annotations_digest(run)


def test_code_for_plain_checkpoints_is_kept_with_the_run_and_tells_runs_apart(small_data, tmp_path, capsys, on_slurm):
    code = tmp_path / "modules"
    code.mkdir()
    (code / "my_heads.py").write_text("A = 1\n")
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "model.pth")
    flags = ["--config", "configs/demo.py", "--cluster", "local", "--data-root", small_data, "--runs-dir",
             tmp_path / "plain", "--code", code, "--device", "cpu"]
    for head in ("bbox_head", "mask_head"):
        flags += ["--set", f"model.roi_head.{head}.num_classes=6"]
    args = evaluate.parser().parse_args([str(part) for part in (tmp_path / "model.pth", *flags)])
    run = plain_checkpoints.prepare(tmp_path / "model.pth", args).make()
    assert [path.read_text() for path in run.code_folder(1).rglob("my_heads.py")] == ["A = 1\n"]
    assert plain_checkpoints.prepare(tmp_path / "model.pth", args).make().path == run.path
    (code / "my_heads.py").write_text("A = 2\n")
    assert plain_checkpoints.prepare(tmp_path / "model.pth", args).make().path != run.path
    code_of_a_run, _, err = call(capsys, on_slurm.path, "--code", code)
    assert code_of_a_run == 2 and "a run is scored with the code that it was submitted with" in err


@pytest.fixture
def plain(small_data, tmp_path) -> list[object]:
    """What scores a checkpoint file on this machine."""
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "model.pth")
    classes = [f"model.roi_head.{head}.num_classes=6" for head in ("bbox_head", "mask_head")]
    return [tmp_path / "model.pth", "--config", "configs/demo.py", "--cluster", "local", "--data-root", small_data,
            "--device", "cpu", "--runs-dir", tmp_path / "plain", "--set", classes[0], "--set", classes[1]]


@pytest.mark.slow
@pytest.mark.parametrize(("argv", "said"), [
    (["--checkpoints", "x"], "invalid checkpoints: 'x'"), (["--checkpoints", "7"], "invalid checkpoints: '7'"),
    (["--checkpoints", "best"], "never scored before"), (["--vary", "flip=true", "--vary", "scale=3"], "scale"),
    (["--dry-run"], "dry-run: "), (["--vary", "nms=1"], "setting: 'nms'"), (["--gpus", "0"], "gpus"),
    (["nowhere.pth"], "nowhere.pth is not a file"), (["empty.pth"], "an empty file"), (["text.pth"], "plain text"),
    (["folder.pth"], "is not a file"), (["fifo.pth"], "is not a file"), (["--set", "optimizer=5"], "option optimizer")])
def test_a_checkpoint_file_is_refused_before_anything_is_made(capsys, plain, tmp_path, argv, said):
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "folder.pth").mkdir()
    os.mkfifo(tmp_path / "fifo.pth")
    more = [tmp_path / part for part in argv if part.endswith(".pth")]
    code, _, err = call(capsys, plain[0], *more, *plain[1:], *([] if more else argv))
    assert (code, len(err.splitlines())) == (2, 1) and said in err, err
    assert not (tmp_path / "plain").exists()


@pytest.mark.slow
def test_what_was_made_for_an_evaluation_that_is_refused_in_the_end_is_removed(capsys, plain, tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("sbatch: no such partition")

    monkeypatch.setattr(evaluate.verb, "submit", refuse)
    assert call(capsys, *plain)[0] == 2
    assert not list((tmp_path / "plain").iterdir())


def test_why_something_is_not_scored_is_said_with_its_log(tmp_path):
    run = scored_run(tmp_path / "run", {10: 0.1})
    element = evaluations.Element("iteration 10", {"nms_iou": 0.3})
    work = evaluations.of_element(run, element)
    work.attempts_dir.mkdir(parents=True)
    work.attempt_file(1).write_text("{}")
    work.logs_dir.mkdir()
    work.rank_log(2).write_text("Traceback")
    work.ledger(1, "x").write("end", cause="crashed", detail="UserError: 7.jpg cannot be decoded", rank=2)
    lines = trouble.of_evaluations({run: [element, evaluations.Element("iteration 11", {})]})
    assert lines[0] == ("run: iteration 10 (nms_iou 0.3) is not scored: UserError: 7.jpg cannot be decoded; see "
                        f"{work.rank_log(2)}")
    assert lines[1].endswith("is not scored: the checkpoint does not exist")
