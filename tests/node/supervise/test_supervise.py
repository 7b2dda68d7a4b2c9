"""What the supervisors themselves answer to a signal: of a training before its ranks can, and of an evaluation."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import Answers

from ecm_cluster.attempts import endings
from ecm_cluster.attempts.failures import NotStartable
from ecm_cluster.base import files
from ecm_cluster.job import job
from ecm_cluster.node import signals
from ecm_cluster.node.supervise.supervise_evaluation import EvaluationSupervisor, evaluation_supervisor
from ecm_cluster.node.supervise.supervise_training import TrainingSupervisor
from ecm_cluster.node.supervise.supervisor import AttemptFailed
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.checkpoints import Manifest
from ecm_cluster.rundir.run import Run, Work

LATER = "2999-01-01T00:00:00"
REFUSES = 'case "$*" in requeue*) exit 1;; esac\n'


def said(state: str, restarts: int = 0, preempted: bool = False, mode: str = "REQUEUE", end: str = LATER) -> str:
    """Shell that answers as scontrol does, of the job and of its partition."""
    when = LATER if preempted else "None"
    return (f'case "$*" in *partition*) echo PartitionName=low PreemptMode={mode} GraceTime=5;;\n'
            "*config*) echo Configuration data as of 2999-01-01T00:00:00;;\n"
            f"*) echo 'JobId=77 JobState={state} Reason=None Requeue=1 Restarts={restarts} PreemptTime={when} "
            f"EndTime={end} Partition=low ';; esac\n")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    place = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0",
             "SLURM_NODEID": "0", "SLURM_JOB_NUM_NODES": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    made = Run(tmp_path / "run")
    files.write_json(_folder(made.run_file), {"name": "run", "run_id": "ab", "cluster": "slurm",
                                              "job": job.make({"name": "run"}).as_dict()})
    return made


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Iterator[Any]:
    """``slurm(script)`` is what scontrol answers from then on; ``slurm.calls()`` what it was asked."""
    answers = Answers(tmp_path, monkeypatch)

    class Scontrol:
        def __call__(self, script: str) -> None:
            answers.script("scontrol", f'echo "$*" >> {answers.folder}/calls\n{script}')

        def requeues(self) -> int:
            return answers.calls().count("requeue 77")

        def calls(self) -> str:
            return answers.calls()

    yield Scontrol()
    signals.clear()


def began(work: Work) -> None:
    files.create_exclusive(_folder(work.attempt_file(1)), json.dumps({"number": 1, "job_id": "77"}))


def signalled(supervisor: Any) -> tuple[list[str], dict[str, Any] | None]:
    """Let it look at a signal; the ends that are on record then, and the order to the workers to end."""
    signals.ask_to_stop(signal.SIGTERM)
    supervisor.poll_signals(1, supervisor.work.ledger(1, "task000"))
    abort = supervisor.work.abort_file(1)
    ends = [e["cause"] for e in supervisor.work.events() if e.kind == "end"]
    return ends, files.read_json(abort) if abort.exists() else None


# ---------------------------------------------------------------------------------------------- evaluation


@pytest.fixture
def evaluation(run) -> EvaluationSupervisor:
    work = run.evaluation("iter_0000006-ab")
    began(work)
    return EvaluationSupervisor(work, run, "evaluate", 0, Manifest("x", 0, "sha256:0", 6, 1, 0, 1, True))


@pytest.mark.parametrize("script", [
    said("RUNNING"), said("RUNNING", end="2000-01-01T00:00:00"), said("RUNNING", preempted=True)],
    ids=["a user's signal", "near its time limit", "preempted, and Slurm brings it back"])
def test_an_evaluation_continues_where_nothing_has_to_be_done_for_it_to_come_back(evaluation, slurm, script):
    slurm(script)
    assert signalled(evaluation) == ([], None)
    assert slurm.requeues() == 0 and not signals.asked_to_stop()


def test_an_evaluation_that_was_preempted_ends_as_such_when_its_grace_is_over(evaluation, slurm):
    slurm(said("RUNNING", preempted=True))
    signalled(evaluation)
    slurm(said("COMPLETING", restarts=1))
    assert signalled(evaluation) == (["preempted"], {"rank": 0, "cause": "preempted"})


def test_an_evaluation_requeues_its_job_where_slurm_would_not(evaluation, slurm):
    slurm(said("RUNNING", preempted=True, mode="CANCEL"))
    assert signalled(evaluation) == (["preempted"], {"rank": 0, "cause": "preempted"})
    assert slurm.requeues() == 1


@pytest.mark.slow
def test_an_evaluation_that_slurm_will_not_run_again_uses_its_grace(evaluation, slurm):
    slurm(REFUSES + said("RUNNING", preempted=True, mode="CANCEL"))
    assert signalled(evaluation) == (["preempted"], None)


@pytest.mark.parametrize("marked", [True, False])
def test_a_cancelled_evaluation_ends_at_once(run, evaluation, slurm, marked):
    slurm(said("RUNNING") if marked else said("COMPLETING"))
    if marked:
        files.write_json(run.cancel_file, {"time": 1.0})
    assert signalled(evaluation) == (["cancelled"], {"rank": 0, "cause": "cancelled"})
    assert slurm.requeues() == 0


def test_an_evaluation_continues_while_slurm_does_not_answer_and_asks_again_later(evaluation, slurm):
    slurm("exit 1\n")
    assert signalled(evaluation) == ([], None)
    asked = len(slurm.calls().splitlines())
    assert signalled(evaluation) == ([], None)
    assert len(slurm.calls().splitlines()) == asked == 1 and signals.asked_to_stop()


@pytest.fixture
def complete(run) -> Run:
    """A run whose training is complete, with a checkpoint of 64 KB."""
    run.attempts_dir.mkdir(parents=True)
    files.write_json(run.attempt_file(1), {"number": 1, "accepts": []})
    manifest = checkpoints.commit(run, 1, lambda f: f.write(b"weights." * 8192), iteration=9, epoch=1, position=0,
                                  epoch_end=True)
    files.write_json(run.complete_file(1), {"attempt": 1, "time": 1.0, "checkpoint": manifest.file})
    record = {"digests": {"config": "sha256:0"}, "job": {"device": "cpu"}}
    files.write_json(run.run_file, {**files.read_json(run.run_file), **record})
    return Run(run.path)


def zero_half_of(path: Path) -> None:
    with open(path, "r+b") as handle:
        handle.seek(path.stat().st_size // 2)
        handle.write(bytes(path.stat().st_size // 2))


def test_a_damaged_last_checkpoint_is_not_scored_and_the_evaluation_says_why(complete):
    path = complete.checkpoints_dir / complete.completion()
    zero_half_of(path)
    supervisor = evaluation_supervisor(complete, "evaluate")
    with pytest.raises(NotStartable, match=f"{path.name} is damaged: its content does not match its digest; restore"):
        supervisor.run()
    decision = endings.decide(supervisor.work)
    assert decision.action == "stop" and f"{path.name} is damaged" in decision.reason, "no start would repair that"
    assert supervisor.work.attempts() == [] and supervisor.work.all_metrics() == []


def test_a_sound_checkpoint_is_verified_once_and_named_to_the_worker(complete, monkeypatch):
    supervisor = evaluation_supervisor(complete, "evaluate")
    asked, read = [], files.digest
    monkeypatch.setattr(files, "digest", lambda path: (asked.append(path), read(path))[1])
    monkeypatch.setattr(supervisor, "watch_worker", lambda attempt, ledger: 1)
    with pytest.raises(AttemptFailed, match="code 1"):
        supervisor.run()
    path = complete.checkpoints_dir / complete.completion()
    assert asked == [path] and supervisor.arguments() == ["evaluate", "0", path.name]
    assert supervisor.work.read_attempt(1)["from"] == path.name


def test_a_plain_checkpoint_file_that_has_changed_since_is_not_scored(complete, tmp_path):
    linked = complete.checkpoints_dir / complete.completion()
    linked.rename(tmp_path / "model.pth")
    linked.symlink_to(tmp_path / "model.pth")
    assert "from" in evaluation_supervisor(complete, "evaluate").basis(None)
    zero_half_of(tmp_path / "model.pth")
    with pytest.raises(NotStartable, match="does not match its digest"):
        evaluation_supervisor(complete, "evaluate").basis(None)


def test_scores_that_need_the_answers_alone_need_no_checkpoint(complete):
    supervisor = evaluation_supervisor(complete, "evaluate")
    files.write_json(_folder(supervisor.work.chunks_file), {"chunks": 1, "images": 0})
    supervisor.work.chunk_file(0).touch()
    (complete.checkpoints_dir / complete.completion()).unlink()
    assert supervisor.basis(None)["from"] == complete.completion()


# ---------------------------------------------------------------------------------------------- training


def test_an_evaluation_needs_its_gpu_only_while_images_are_left_to_infer(evaluation, run):
    assert evaluation.on_gpu()
    files.write_json(_folder(evaluation.work.chunks_file), {"chunks": 1, "images": 0})
    evaluation.work.chunk_file(0).touch()
    assert not evaluation.on_gpu(), "scores alone are wanted of the detections"


@pytest.fixture
def training(run) -> TrainingSupervisor:
    began(run)
    return TrainingSupervisor(run)


@pytest.mark.parametrize(("script", "cause"), [
    (said("RUNNING", preempted=True, mode="CANCEL"), "preempted"), (said("COMPLETING"), "cancelled"),
    (said("COMPLETING", restarts=1), "requeued")])
@pytest.mark.parametrize("phase", [None, "starting", "first iteration"])
def test_before_its_first_step_a_training_is_ended_where_waiting_for_it_brings_nothing(
    run, training, slurm, script, cause, phase
):
    slurm(script)
    if phase:
        training.memory.write(phase=phase)
    assert signalled(training) == ([], {"rank": 0, "cause": cause, "stopped": True})
    assert training.stopped_early(1)


@pytest.mark.parametrize("script", [
    said("RUNNING"), said("RUNNING", end="2000-01-01T00:00:00"), said("RUNNING", preempted=True), "exit 1\n"],
    ids=["a user's signal", "near its time limit", "preempted, and Slurm brings it back", "no answer"])
def test_before_its_first_step_a_training_is_left_alone_otherwise(training, slurm, script):
    slurm(script)
    assert signalled(training) == ([], None)
    assert signals.asked_to_stop() and not training.stopped_early(1)


def test_once_it_trains_the_ranks_agree_on_the_answer(run, training, slurm):
    slurm(said("COMPLETING"))
    training.memory.write(phase="training", iteration=1)
    assert signalled(training) == ([], None)
    assert slurm.calls() == ""
