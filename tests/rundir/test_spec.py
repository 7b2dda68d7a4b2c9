"""What is on record of a run, typed: the submission, what resumes changed, what a link of evaluations is."""

from __future__ import annotations

import dataclasses

import pytest
from steering import ended_run

from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import chain, evaluations
from ecm_cluster.job import job as jobs
from ecm_cluster.job.evaluation_options import EvaluationOptions
from ecm_cluster.rundir.run import Run
from ecm_cluster.rundir.spec import Element, Overrides, RunSpec

JOB = jobs.make({"config": "c.py", "mem_per_gpu": "10G", "gpus": 4, "evaluation": {"gpus": 2, "time": "30"}})


@pytest.fixture
def run(tmp_path) -> Run:
    return ended_run(tmp_path / "run", **{**JOB.as_dict(), "evaluation": {"gpus": 2, "time": "30"}})


def test_a_record_comes_back_as_it_was_written():
    spec = RunSpec(cluster="slurm", job=JOB, run_id="ab", cwd="/tmp", virtual_ranks=4)
    assert RunSpec.from_dict(spec.as_dict()) == spec


def test_a_record_without_later_keys_and_with_unknown_ones_is_read():
    job = {"gpus": 3, "later": 1, "evaluation": {"later": 2}}
    spec = RunSpec.from_dict({"cluster": "local", "job": job, "later": 3})
    assert (spec.job.gpus, spec.virtual_ranks, spec.staging) == (3, 3, None)
    assert spec.job.evaluation == EvaluationOptions()


def test_what_was_valid_at_submission_stays_readable():
    assert RunSpec.from_dict({"cluster": "slurm", "job": {"env": {"1x": "a"}, "gpus": 0}}).job.env == {"1x": "a"}


@pytest.mark.parametrize("record", [[], {}, {"job": {}}, {"cluster": "slurm"}, {"cluster": "slurm", "job": 3},
                                    {"cluster": "slurm", "job": {"gpus": "two"}},
                                    {"cluster": "slurm", "job": {"evaluation": [1]}}])
def test_an_invalid_record_of_a_run_is_one_clear_line(tmp_path, record):
    run = Run(tmp_path)
    files.write_json(run.run_file, record)
    with pytest.raises(UserError, match=r"run\.json is not a readable record of a run \(.+\)$"):
        _ = run.spec


def test_the_job_is_that_of_the_submission_with_what_resumes_have_changed(run):
    assert run.job() == run.spec.job
    files.write_json(run.overrides_file, Overrides(job={"mem_per_gpu": "20G"}).as_dict())
    assert run.job() == dataclasses.replace(run.spec.job, mem_per_gpu="20G"), "read at each call"


def test_overrides_come_back_as_they_were_written_and_are_those_of_an_earlier_version(run):
    earlier = {"job": {"nodes": 2}, "from": {"iteration": 5, "after": 1}, "virtual_ranks": 3, "not_kept": ["a"],
              "code": {"number": 2, "digest": "d"}}
    files.write_json(run.overrides_file, earlier)
    assert run.overrides().as_dict() == earlier
    assert Overrides().as_dict() == {}


def test_the_evaluation_of_the_chain_follows_the_job_as_it_is_now(run):
    evaluations.write(run, "evaluate", [Element("last", {})])
    job = run.job("evaluate")
    assert (job.nodes, job.gpus, job.time, job.mem_per_gpu) == (1, 2, "30", "10G")
    files.write_json(run.overrides_file, {"job": {"mem_per_gpu": "20G", "nodes": 3}})
    job = run.job("evaluate")
    assert (job.nodes, job.gpus, job.mem_per_gpu) == (1, 2, "20G")


def test_a_sweep_keeps_the_whole_job_that_it_was_submitted_with(run):
    job = dataclasses.replace(run.job(), device="cpu", mem_per_gpu="2G", account="x", cpus_per_gpu=3)
    evaluations.write(run, "sweep001", [Element("last", {})], job)
    files.write_json(run.overrides_file, {"job": {"mem_per_gpu": "20G"}})
    kept = run.job("sweep001")
    assert (kept.device, kept.mem_per_gpu, kept.account, kept.gpus, kept.nodes) == ("cpu", "2G", "x", 2, 1)
    assert run.threads("sweep001") == 3 and run.threads("train") == run.spec.threads
    assert files.read_json(run.elements_file("sweep001"))["block"]["gpus"] == 2, "for code of an earlier version"
    asked = chain.request(run, kept, "sweep001", "token")
    assert (asked.job.nodes, asked.job.gpus, asked.job.time) == (1, 2, "30"), "resolved once, and not again"


def test_a_sweep_of_an_earlier_version_has_the_evaluation_block_on_record(run):
    block = dataclasses.asdict(EvaluationOptions(gpus=3, partition="short"))
    run.evaluations_dir.mkdir()
    files.write_json(run.elements_file("sweep001"), {
        "block": block, "elements": [{"at": "last", "settings": {}, "scoring": [{}]}], "instead_of": "7"})
    job = run.job("sweep001")
    assert (job.gpus, job.partition, job.time, job.mem_per_gpu) == (3, "short", "24:00:00", "10G")
    assert evaluations.read(run, "sweep001") == [Element("last", {})]
    assert evaluations.link_instead_of(run, "7") == "sweep001"
