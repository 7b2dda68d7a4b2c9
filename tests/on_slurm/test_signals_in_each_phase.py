"""A signal in each phase of a run on a real Slurm: before the training can answer, in a commit, in the evaluation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from slurm_harness.endings import began, ends, job_file, preempt, submit, trained, worker_of
from small import await_state, hook, logs_of, verb, wait_until, with_code

from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run


def in_phase(run: Run, attempt: int, phase: str) -> None:
    wait_until(lambda: (run.heartbeat(attempt) or {}).get("phase") == phase, f"attempt {attempt} is in {phase}",
               seconds=400, look=lambda: logs_of(run))


def causes(run: Run) -> list[str]:
    return [ends(run, attempt)[0] for attempt in run.attempts()]


def test_a_signal_while_it_imports_meets_begins_or_commits_costs_a_run_nothing(slurm, small_data, tmp_path):
    order = tmp_path / "stop-at"
    job = job_file(tmp_path, f"env: {{{files.STOP_ENV}: '@{order}'}}")
    slow = with_code(tmp_path, hook("time.sleep(1)"))
    run, job_id = submit(slurm, small_data, tmp_path, "phases", *slow, "--gpus", 2, "--no-eval", job=job,
                         runner__max_epochs=2)
    began(run, 1)
    preempt(slurm, job_id)  # while it imports

    began(run, 2)
    late = worker_of(run, 2, 1)
    os.kill(late, signal.SIGSTOP)
    wait_until(run.rendezvous_file(2).exists, "rank 0 waits for rank 1", 400, look=lambda: logs_of(run))
    slurm.run("scancel", "--signal=USR2", job_id)  # while the ranks meet
    os.kill(late, signal.SIGCONT)

    in_phase(run, 3, "first iteration")
    slurm.run("scancel", "--signal=TERM", job_id)

    began(run, 4)  # what attempt 3 commits is written
    order.write_text("before-rename:.pth")
    trained(run, 4, 1)
    slurm.run("scancel", "--signal=USR2", job_id)
    wait_until(Path(f"{order}{files.TAKEN}").exists, "the writer stands still in its commit")
    before = [m.iteration for m in checkpoints.accepted(run)]
    preempt(slurm, job_id)  # Slurm lets the writer continue: a SIGCONT comes before each SIGTERM
    await_state(run, "done", env=slurm.env, seconds=400)

    said = causes(run)
    assert said[0] in ("preempted", "requeued"), "in the import"
    assert said[1] == "signalled", "in the rendezvous"
    assert said[2] == "signalled", "in the first iteration"
    assert said[3] in ("preempted", "requeued"), "in a commit"
    assert said[4:] == ["complete"]
    committed = [e["iteration"] for e in run.events() if e.kind == "commit" and e.attempt == 4]
    assert run.read_attempt(5)["from"] == run.checkpoint_file(max(committed), 4).name
    assert max(committed) > max(before, default=0), "the commit under way was lost"


def test_a_preemption_while_it_imports_is_answered_by_the_supervisor_where_slurm_would_not_bring_the_run_back(
    slurm, small_data, tmp_path
):
    run, job_id = submit(slurm, small_data, tmp_path, "early", "--partition", "lowc", "--no-eval")
    began(run, 1)
    preempt(slurm, job_id)
    began(run, 2)
    assert ends(run, 1) == ["preempted"]
    assert [e["accepted"] for e in run.events() if e.kind == "requeue"] == [True]
    assert slurm.job(job_id)["Restarts"] == "1"
    verb("cancel", run.path, env=slurm.env)
    wait_until(lambda: ends(run, 2), "the end is on record")
    assert ends(run, 2)[0] == "cancelled"


# slow images: so there is time for signals
SLOW_INFERENCE = """
import time
from mmdet.datasets.pipelines import LoadImageFromFile

load = LoadImageFromFile.__call__


def load_slowly(self, results):
    time.sleep(1.0 if "val2017" in str(results["img_info"]) else 0.0)
    return load(self, results)


LoadImageFromFile.__call__ = load_slowly
"""


def test_an_evaluation_continues_after_a_signal_and_comes_back_after_a_preemption_and_a_kill(
    slurm, small_data, tmp_path
):
    slow = with_code(tmp_path, SLOW_INFERENCE)
    run, _ = submit(slurm, small_data, tmp_path, "scored", *slow, "--partition", "lowc", runner__max_epochs=1)
    job_id = run.submissions()[1].job_id
    await_state(run, "evaluating", env=slurm.env, seconds=400)

    def infers(attempt: int) -> None:
        wait_until(lambda: (work.heartbeat(attempt) or {}).get("done", 0) >= 1, f"attempt {attempt} infers",
                   seconds=400, look=lambda: logs_of(run))

    work = evaluations.of_element(run, evaluations.Element(evaluations.LAST, {}))
    assert work is not None
    infers(1)
    preempt(slurm, job_id)
    infers(2)
    os.kill(worker_of(work, 2, 0), signal.SIGKILL)
    infers(3)
    slurm.run("scancel", "--signal=USR2", job_id)
    found = await_state(run, "done", env=slurm.env)
    assert found["reason"] == "trained and scored"
    said = [ends(work, attempt)[0] for attempt in work.attempts()]
    assert said == ["preempted", "killed", "complete"]
    assert slurm.job(job_id)["Restarts"] == "2"
    assert run.attempts() == [1], "the training ran once"
