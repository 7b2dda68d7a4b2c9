"""A run's record is a job file: the same job again, with its config, its secrets and its place."""

from __future__ import annotations

import json

import former_version
import pytest
from attempts.ledgers import spec

from ecm_cluster import submit
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.job import job as jobs
from ecm_cluster.rundir import job_env, repeat
from ecm_cluster.rundir.run import Run

CONFIG = "model = {}\n"


def asked(*words: object) -> jobs.Job:
    return submit.read_job(submit.parser().parse_args([str(word) for word in words]))


@pytest.fixture
def run(tmp_path) -> Run:
    made = spec(Run(tmp_path / "runs/first"), env={"TOKEN": "(set)"}, seed=7, partition="preempt", setup=["true"],
                data_root="lvis", code="mine", options={"optimizer.lr": 0.5}, evaluation={"epochs": "all"},
                notify={"urls": ["json://(set)"]})
    record = json.loads(made.run_file.read_text())
    made.run_file.write_text(json.dumps({**record, "cwd": str(tmp_path), "digests": {
        "config": files.digest_text(CONFIG)}}))
    made.config_file.write_text(CONFIG)
    (tmp_path / "lvis").mkdir()
    (made.code_folder(1) / "user").mkdir(parents=True)
    made.env_file.write_text(job_env.text({"TOKEN": "it's\na secret", "OTHER": "no more"}))
    made.notify_file.write_text("json://localhost/secret\n")
    return made


def test_the_same_job_again(run):
    job = asked("--like", run.path)
    assert (job.seed, job.partition, job.setup, job.gpus) == (7, "preempt", ["true"], 2)
    assert job.config == str(run.config_file) and job.options == {}, "what --set changed is in that config"
    assert job.env == {"TOKEN": "it's\na secret"} and job.notify["urls"] == ["json://localhost/secret"]
    assert job.data_root == str(run.path.parent.parent / "lvis"), "wherever the caller is"
    assert job.code == str(run.code_folder(1) / "user"), "the original is gone"
    assert (job.name, job.runs_dir) == ("first-001", str(run.path.parent)) and job.evaluation.epochs == "all"


def test_flags_override(run, tmp_path):
    job = asked("--like", run.path, "--seed", 1, "--set", "optimizer.lr=0.1", "--name", "other", "--runs-dir", tmp_path,
                "--no-eval")
    assert (job.seed, job.name, job.runs_dir, job.options) == (1, "other", str(tmp_path), {"optimizer.lr": 0.1})
    assert not job.evaluation.enabled and job.evaluation.epochs == "all"


def test_its_likes_are_numbered(run):
    assert repeat.stem(Run("/x/mask_rcnn-001")) == "mask_rcnn" and repeat.stem(Run("/x/a-b")) == "a-b"
    (run.path.parent / "first-001").mkdir()
    assert asked("--like", "first", "--runs-dir", run.path.parent).name == "first-002"


def test_what_cannot_be_repeated_is_refused(run, monkeypatch):
    with pytest.raises(UserError, match="either JOB or --like"):
        asked("demo", "--like", run.path)
    with pytest.raises(UserError, match="RUN: 'no' is neither"):
        asked("--like", "no", "--runs-dir", run.path.parent)
    run.config_file.write_text("runner = 1\n")
    with pytest.raises(UserError, match=r"like: .*config\.py has changed"):
        asked("--like", run.path)
    run.config_file.write_text(CONFIG)
    run.env_file.unlink()
    with pytest.raises(UserError, match=r"like: .*TOKEN"):
        asked("--like", run.path)
    monkeypatch.setattr("ecm_cluster.base.owners.of", lambda *_: 12345)
    with pytest.raises(UserError, match="only its owner can repeat it"):
        asked("--like", run.path)


def test_a_run_of_the_former_version(tmp_path):
    run = former_version.complete(tmp_path)
    record = json.loads(run.run_file.read_text())
    record["digests"]["config"] = files.digest_text(run.config_file.read_text())  # whose paths the fixture has changed
    run.run_file.write_text(json.dumps(record))
    job = asked("--like", run.path)
    assert job.name == f"{run.name}-001" and job.device == "cpu"


@pytest.mark.slow
def test_a_run_like_another_trains_the_same(small_data, tmp_path):
    from comparing import read
    from small import job_flags, verb

    verb("submit", *job_flags(small_data, tmp_path, "first", optimizer__lr=0.002), "--cluster", "local", "--no-eval",
         "--wait")
    verb("submit", "--like", tmp_path / "first", "--wait")
    first, second = (read(sorted((tmp_path / name / "checkpoints").glob("*.pth"))[-1]) for name in (
        "first", "first-001"))
    assert all((value == second["state_dict"][key]).all() for key, value in first["state_dict"].items())
    report = json.loads(verb("diff", tmp_path / "first", tmp_path / "first-001", "--json").stdout)
    assert report["config"] == [] and [change["key"] for change in report["job"]] == ["config"], report["job"]
