"""Resuming: from where, on what, and when not. On one machine; see tests/on_slurm for the rest."""

from __future__ import annotations

import signal

import pytest
from small import await_state, job_flags, logs_of, state_of, verb, wait_until
from steering import ended_run

from ecm_cluster.attempts.endings import attempts_without_progress
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import chain, submissions, successor
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run
from ecm_cluster.rundir.spec import Overrides


def snapshot(run: Run) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def test_the_dry_run_says_from_where_and_on_what_and_writes_nothing(tmp_path):
    run = ended_run(tmp_path / "run", iterations=(5, 10))
    before = snapshot(run)
    output = verb("resume", run.path, "--dry-run", "--time", "2:00:00").stdout
    assert "from iter_0000010-a0001.pth: iteration 10, epoch 0" in output
    assert "time limit 2:00:00 (changed: time)" in output
    assert output.endswith("dry run: nothing was written or submitted\n")
    assert snapshot(run) == before


@pytest.mark.slow
def test_ranks_that_cannot_share_the_work_evenly_are_refused_with_those_that_can(tmp_path):
    run = ended_run(tmp_path / "run", gpus=4)
    before = snapshot(run)
    output = verb("resume", run.path, "--gpus", 3, code=2).stderr
    assert "4 ranks of run cannot be divided evenly among 3" in output and "out of 1, 2, 4, or --rescale" in output
    assert snapshot(run) == before
    output = verb("resume", run.path, "--gpus", 3, "--rescale", "--dry-run").stdout
    assert ("rescaled from 4 to 3 ranks: batch 12 = 3 × 4 instead of 16; learning rate 0.1 and max_epochs 2 stay the "
            "same\n" in output and "the rest of the current epoch is divided among the 3" in output)
    output = verb("resume", run.path, "--gpus", 2, "--dry-run").stdout
    assert "the run's 4 virtual ranks are assigned to 2 processes, with 2 batches each in every optimizer " in output
    assert "ranks  " not in verb("resume", run.path, "--nodes", 2, "--gpus", 2, "--dry-run").stdout


def test_a_model_that_reckons_over_its_processes_is_not_given_another_number_of_them_unasked(tmp_path):
    from ecm_cluster.job import job as jobs
    from ecm_cluster.plan import elastic

    run = ended_run(tmp_path / "run", gpus=4)
    run.config_file.write_text("model = {'norm_cfg': {'type': 'SyncBN'}}\ndata = {}\n")
    begun, fewer = (jobs.make({"name": "run", "gpus": number}) for number in (4, 2))
    with pytest.raises(UserError, match="run with 2 ranks would differ from those with 4: SyncBN computes"):
        elastic.check(run, begun, fewer, False, Overrides())
    record = Overrides()
    assert "changed: SyncBN computes its statistics" in elastic.check(run, begun, fewer, True, record)[-1]
    assert record.not_kept == ["SyncBN computes its statistics over the processes of one forward pass"]
    assert elastic.check(run, begun, begun, False, Overrides()) == []


def test_what_has_no_meaning_on_one_machine_is_refused(tmp_path):
    run = ended_run(tmp_path / "run")
    assert "partition: has no meaning" in verb("resume", run.path, "--partition", "low", code=2).stderr


def test_an_iteration_without_a_checkpoint_is_refused_and_those_there_are_named(tmp_path):
    run = ended_run(tmp_path / "run", iterations=(5, 10))
    assert "no checkpoint of iteration 7; it has 5, 10" in verb("resume", run.path, "--from", 7, code=2).stderr


def test_a_resume_point_holds_for_the_next_attempt_and_for_no_other(tmp_path):
    run = ended_run(tmp_path / "run", attempts=2, iterations=(5, 10))
    files.write_json(run.overrides_file, {"from": {"iteration": 5, "after": 2}})
    assert chain.resume_point(run) == 5
    newest, broken = checkpoints.newest_sound(run, chain.resume_point(run))
    assert newest is not None and newest.iteration == 5 and broken == []
    accepts = [m.file for m in checkpoints.accepted(run, 5)]
    files.write_json(run.attempt_file(3), {"number": 3, "accepts": accepts})
    assert chain.resume_point(run) is None
    # what lies beyond counts no more, for any later attempt
    assert [m.iteration for m in checkpoints.accepted(run)] == [5]


def test_other_resources_are_read_by_all_and_the_work_is_still_cut_for_the_submitted_ranks(tmp_path):
    run = ended_run(tmp_path / "run", gpus=4)
    files.write_json(run.overrides_file, {"job": {"nodes": 2, "gpus": 1}})
    assert (run.job().nodes, run.job().gpus) == (2, 1)
    assert chain.virtual_ranks(run) == 4
    files.write_json(run.overrides_file, {"virtual_ranks": 3})
    assert chain.virtual_ranks(run) == 3


def test_attempts_before_a_resume_do_not_count_against_the_run(tmp_path):
    run = ended_run(tmp_path / "run", attempts=3)
    assert attempts_without_progress(run, run.events()) == 3
    run.ledger(3, "resume").write("resumed", stages=["train"], overrides={}, cancelled=False)
    assert attempts_without_progress(run, run.events()) == 0


def test_a_new_job_keeps_the_ids_of_the_previous_ones(tmp_path):
    run = ended_run(tmp_path / "run", "slurm")
    submissions.replace_token(run, "train", None)
    first = run.submission("train")
    assert first.get("job_id") is None and submissions.job_ids(run, "train") == ["4194304"]
    submissions.replace_token(run, "train", None)  # as after a crash before sbatch
    assert submissions.job_ids(run, "train") == ["4194304"]
    files.write_json(run.submission_file("train"), {**run.submission("train"), "job_id": "9"})
    assert submissions.job_ids(run, "train") == ["4194304", "9"]
    assert chain.continue_line(run) == f"python -m ecm_cluster.resume {run.path}"


def test_a_stale_attempt_and_that_of_a_cancelled_run_submit_no_successor(tmp_path):
    run = ended_run(tmp_path / "run", "slurm", attempts=2)
    before = snapshot(run)
    assert successor.successor(run, 1, "4194304") is None
    files.write_json(run.cancel_file, {"time": 1.0})
    assert successor.successor(run, 2, "4194304") is None
    run.cancel_file.unlink()
    assert snapshot(run) == before


def test_where_slurm_does_not_answer_nothing_is_resumed(tmp_path, monkeypatch):
    from answers import Answers

    from ecm_cluster import resume

    run = ended_run(tmp_path / "run", "slurm")
    run.write_heartbeat(1, phase="training", iteration=1)
    answers = Answers(tmp_path, monkeypatch)
    answers(sbatch=None, squeue=None, sacct=None, scontrol=None)
    with pytest.raises(UserError, match=r"unknown whether run is alive \(its last sign of life is \d+ s old\)"):
        resume.main([str(run.path)])
    assert not run.overrides_file.exists()


def test_an_attempt_that_beats_on_another_machine_is_alive(tmp_path):
    run = ended_run(tmp_path / "run")
    files.write_json(run.attempt_file(2), {"number": 2, "host": "elsewhere", "accepts": []})
    run.write_heartbeat(2, phase="training", iteration=1)
    assert "run is alive (attempt 2 on elsewhere)" in verb("resume", run.path, code=2).stderr


@pytest.mark.slow
def test_a_run_resumes_from_an_older_checkpoint_with_fewer_ranks(small_data, tmp_path):
    flags = [*job_flags(small_data, tmp_path, "run", runner__max_epochs=4), "--no-eval", "--checkpoint-every", "2",
             "--keep", "20", "--gpus", "2"]
    verb("submit", *flags, "--cluster", "local")
    run = Run(tmp_path / "run")
    wait_until(lambda: any(m.iteration >= 4 for m in checkpoints.manifests(run)), "training", look=lambda: logs_of(run))
    verb("cancel", run.path)
    abandoned = [m for m in checkpoints.accepted(run) if m.iteration > 2]
    done = verb("resume", run.path, "--from", 2, "--gpus", 1)
    assert "from iter_0000002-a0001.pth" in done.stdout
    await_state(run, "done")
    attempt = run.read_attempt(2)
    assert attempt["from"] == "iter_0000002-a0001.pth" and attempt["world_size"] == 1
    assert not {m.file for m in abandoned} & set(attempt["accepts"])
    output = verb("status", run.path).stdout
    assert "resumed: train with from {'iteration': 2, 'after': 1}, gpus 1" in output


@pytest.mark.slow
@pytest.mark.parametrize("point", ["overridden", "after-driver"])
def test_a_resume_killed_half_way_is_taken_up_by_the_next_with_all_that_was_asked(small_data, tmp_path, point):
    flags = [*job_flags(small_data, tmp_path, "run", runner__max_epochs=2), "--no-eval", "--checkpoint-every", "2"]
    verb("submit", *flags, "--cluster", "local")
    run = Run(tmp_path / "run")
    wait_until(lambda: any(m.iteration >= 2 for m in checkpoints.manifests(run)), "training", look=lambda: logs_of(run))
    verb("cancel", run.path)
    env = {files.KILL_ENV: point}
    done = verb("resume", run.path, "--time", "30", env=env, code=None)
    assert done.returncode == -signal.SIGKILL
    if point == "after-driver":
        assert "is alive" in verb("resume", run.path, code=2).stderr or state_of(run)["state"] == "done"
    else:
        verb("resume", run.path)
    wait_until(lambda: run.completion() is not None, "the end", look=lambda: logs_of(run))
    assert run.attempts() == [1, 2]
    assert run.job().time == "30"


@pytest.mark.slow
def test_a_complete_run_whose_evaluation_failed_is_only_scored_again(small_data, tmp_path):
    flags = job_flags(small_data, tmp_path, "run")
    held = small_data / "annotations" / "lvis_v1_val.json"
    verb("submit", *flags, "--cluster", "local")
    run = Run(tmp_path / "run")
    content = held.read_bytes()
    try:
        wait_until(lambda: run.heartbeat(1), "training", look=lambda: logs_of(run))
        held.write_text("{")
        found = await_state(run, "failed")
    finally:
        held.write_bytes(content)
    assert found["reason"].startswith("evaluation: ") and found["next"].endswith(f"ecm_cluster.resume {run.path}")
    done = verb("resume", run.path)
    assert "the training is complete" in done.stdout
    assert await_state(run, "done")["attempt"] == 1
