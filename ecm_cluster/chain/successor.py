"""What the job of an attempt does for the rest of the chain: a successor in its own place, evaluations let go."""

from __future__ import annotations

import os

from ..base.errors import UserError
from ..job import job as jobs
from ..rundir.run import Run
from ..slurm import commands, queue
from . import chain, evaluations, locks, submissions


def successor(run: Run, attempt: int, job_id: str) -> str | None:
    """Submit a job that carries the training on once this one has ended, where Slurm refuses to requeue it.

    Called on a compute node, by the job of the attempt. Calling it again submits no second job.

    Args:
        attempt: The caller's attempt: only the newest may do this.

    Returns:
        The successor's job id; None if the run must not continue: fenced, cancelled, or complete.

    Raises:
        UserError: Slurm refuses that too; the run is stopped, and can be resumed.
    """
    with locks.run_lock(run, locks.PATIENCE_ON_NODES):
        if run.newest_attempt() != attempt or run.cancel_file.exists() or run.completion():
            return None
        job = run.job()
        if run.submission(chain.TRAIN).get("job_id") == job_id:
            # only in place of the caller's own: called again, submit_link finds the successor on record
            submissions.replace_token(run, chain.TRAIN, queue.cluster_name())
        train = chain.submit_link(run, job, chain.TRAIN, after=f"afterany:{job_id}")
        if chain.EVALUATE in chain.links(job):
            try:
                _evaluate_after(run, job, train)
            except UserError as refused:
                chain.note_refusal(run, refused)
        return train


def evaluation_successor(run: Run, link: str, index: int, job_id: str) -> str | None:
    """Submit a job that does an element of an array once the element's own, which Slurm will not requeue, has ended.

    Called on a compute node, by that job. Calling it again submits no second one.

    Returns:
        The successor's job id; None where nothing is left to do, or it is cancelled.

    Raises:
        UserError: Slurm refuses that too.
    """
    with locks.run_lock(run, locks.PATIENCE_ON_NODES):
        element = evaluations.read(run, link)[index]
        if run.cancelled(link) or evaluations.done(run, element):
            return None
        job = run.job(link)
        new = evaluations.link_instead_of(run, job_id)
        if new is None:
            new = chain.next_sweep(run)
            # before sbatch: a call after a crash finds this stage by `instead_of`, and makes no second one
            evaluations.write(run, new, [element], job, instead_of=job_id)
        return chain.submit_link(run, job, new, after=f"afterany:{job_id}")


def _evaluate_after(run: Run, job: jobs.Job, train: str) -> None:
    """Make the evaluation wait for another training job; its own job is kept where it still waits."""
    record = run.submission(chain.EVALUATE)
    old, token = record.get("job_id"), record.get("token", "")
    if old and commands.depend(old, f"afterok:{train}", token):
        return
    if old:
        commands.cancel(old, token)
        submissions.replace_token(run, chain.EVALUATE, queue.cluster_name())
    chain.submit_link(run, job, chain.EVALUATE, after=train)


def release_due(run: Run) -> list[str]:
    """Let evaluations start whose checkpoints are committed, if they are wanted during the training.

    Until then they wait for the training with Slurm's own dependency. So those that nobody could release (there is no
    scontrol on the node) start behind it, and Slurm ends them if the training fails for good.

    Returns:
        What was released, in the elements' words.
    """
    if not run.job().evaluation.while_training or run.completion():
        return []
    record = run.submission(chain.EVALUATE)
    train, array = run.submission(chain.TRAIN).get("job_id"), record.get("job_id")
    if not train or not array:
        return []
    elements, gone = evaluations.read(run, chain.EVALUATE), []
    known = {e["mark"] for e in run.events() if e.kind == "released"}
    for index, element in enumerate(elements):
        mark = f"{array}_{index}@{train}"  # behind another training job it waits again
        if element.at == evaluations.LAST or mark in known or evaluations.resolve(run, element.at) is None:
            continue
        if commands.release(f"{array}_{index}", record["token"]):
            run.ledger(run.newest_attempt(), f"release{os.getpid()}").write("released", mark=mark, at=element.at)
            gone.append(element.at)
    return gone
