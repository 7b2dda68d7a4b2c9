"""What the batch shell does when its job step is gone: record the end if nobody has, and requeue where that is right.

Run by the batch script's EXIT trap as ``python -m ecm_cluster.node.batch RUN STAGE CODE``, CODE being what srun
returned, or ``none`` where the shell was ended before srun. Imports nothing heavy: it may have seconds only.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping

from .. import chain, cluster, evaluations, files, handover, recovery, slurm_ends, starts, submissions
from .. import ledger as ledgers
from ..errors import UserError
from ..request import TOKEN_ENV
from ..run import Run, Work
from . import world

LAST_WORDS_BYTES = 4000
PATIENCE_SECONDS = 60.0
BROUGHT_BACK = ("preempted", "time limit", "node failure")  # ends after which this job asks for its next start
STARTED = "Starting with JobEnvironment"  # submitit's first words in each start of the job


def main(run_path: str, stage: str, code: str) -> int:
    """Always 0: the script's own exit code stays."""
    run = Run(run_path)
    work = work_of(run, stage)
    if work is not None:
        after_step(run, work, stage, int(code) if code.isdigit() else None)
    if stage == chain.TRAIN and run.completion():
        with contextlib.suppress(UserError):  # `status` and `resume` try it again
            chain.submit_refused(run, submissions.PATIENCE_ON_NODES)
    return 0


def work_of(run: Run, stage: str) -> Work | None:
    """What the stage's job works on; None where an evaluation has found no checkpoint."""
    if stage == chain.TRAIN:
        return run
    return evaluations.of_element(run, evaluations.read(run, stage)[world.element()])


def after_step(run: Run, work: Work, stage: str, code: int | None) -> None:
    """Close the attempt, ask what follows, and do it if this job may."""
    job_id, restart = world.batch_start()
    newest, start = work.newest_attempt(), f"slurm:{job_id}:{restart}"
    refused = starts.failed(work, work.events())
    if refused is not None and refused["start"] != start:
        refused = None
    took_part = bool(newest) and is_of(work, newest, job_id, restart)
    # the fence: a start that took part in nothing, or that a later one has overtaken, decides nothing
    if not took_part and refused is None:
        return
    # a shell that is being ended itself has seconds; one whose step has ended can wait for slurmctld
    answer = ask(job_id, 0.0 if code is None else PATIENCE_SECONDS)
    if answer is None and code is None:
        return  # nothing is known here: the next start tells from its restart count why this one ended
    ledger = work.ledger(newest, f"batch.{job_id}.{restart}")
    if took_part and recovery.last_end(work.events(), newest) is None:
        if refused is not None:
            ledger.write("end", cause=refused["cause"], rank=refused["rank"], detail=refused["detail"])
        else:
            cause = slurm_ends.why_step_ended(answer, restart, code, last_words(answer))
            seen = "the batch shell was ended" if code is None else f"the job step ended with code {code}"
            state = (answer or {}).get("JobState", "unknown, as Slurm does not answer")
            ledger.write("end", cause=cause, rank=None, code=code, state=state,
                         detail=f"{recovery.ENDINGS[cause].text}: {seen}, job state {state}")
    decision = recovery.decide(work)
    # a job whose work is done must end well too, as what comes behind it waits for that
    again = decision.action == "continue" or (decision.action == "done" and code != 0)
    if again and may_requeue(answer, restart) and not run.cancelled(stage):
        nodes = leave_out(run, work, start, ledger)
        if go_on(run, work, newest, stage, ledger, decision.reason) and nodes:
            cluster.leave_out(job_id, nodes)
    elif again and answer is None:
        ledger.write("stopped", detail="Slurm did not answer, so the job could not be requeued",
                     next=chain.resume_line(run))


def leave_out(run: Run, work: Work, start: str, ledger: ledgers.Ledger) -> str:
    """Put on record which nodes the run shall not start on again, before Slurm is told: a successor reads it, too.

    Returns:
        All that the job shall leave out, the user's own ``exclude`` included, as Slurm takes it; empty where nothing
        new came on record.
    """
    known = run.events()
    before = starts.left_out(known)
    found = starts.nodes_at_fault(work.events(), start)
    room = max(0, starts.NODE_LIMIT - len(before))  # where GPUs fail wherever it goes, the run's budget decides
    new = dict([(node, why) for node, why in found.items() if node not in before][:room])
    record = ledger if work is run else run.ledger(ledger.attempt, ledger.writer)
    for node, reason in new.items():
        record.write("left-out", node=node, reason=reason, resumes=starts.resumes_of(known))
    return chain.excluded(run, run.job()) or "" if new else ""


def ask(job_id: str, patience: float) -> dict[str, str] | None:
    """What Slurm says of the job; asked again for ``patience`` seconds where there is no answer, as under load."""
    end = time.monotonic() + patience
    while True:
        answer = cluster.show_job(job_id)
        if answer is not None or time.monotonic() >= end or not cluster.can_ask():
            return answer
        time.sleep(1.0)


def last_words(answer: Mapping[str, str] | None) -> str:
    """The end of this start's log, where srun says what became of its step; empty where it cannot be read."""
    try:
        with open((answer or {}).get("StdErr", ""), "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LAST_WORDS_BYTES))
            return log.read().decode(errors="replace").rpartition(STARTED)[2]
    except OSError:
        return ""


def may_requeue(answer: Mapping[str, str] | None, restart: int) -> bool:
    """Whether the job is still this start's, and not one that its user has cancelled.

    Slurm also takes back a job that is ending, as after a preemption by ``PreemptMode=CANCEL``.
    """
    told = answer or {}
    ended = told.get("JobState") == "COMPLETING" and slurm_ends.why_signalled(told, restart, 0, None) in BROUGHT_BACK
    return (told.get("JobState") == "RUNNING" or ended) and int(told.get("Restarts") or 0) == restart


def is_of(work: Work, attempt: int, job_id: str, restart: int) -> bool:
    """Whether an attempt belongs to this start of this job."""
    record = work.read_attempt(attempt)
    return str(record.get("job_id")) == job_id and int(record.get("restart") or 0) == restart


def go_on(run: Run, work: Work, attempt: int, stage: str, ledger: ledgers.Ledger, reason: str) -> bool:
    """Requeue this job; where Slurm refuses, submit a successor; where that fails too, say what the user can type.

    Returns:
        Whether something will go on.
    """
    job_id, restart = world.batch_start()
    # of a start that began no attempt the newest attempt is another start's, and so is what followed it
    own = is_of(work, attempt, job_id, restart) if attempt else False
    done = {e.kind for e in work.events() if e.attempt == attempt and (own or e.writer == ledger.writer)}
    if work.newest_attempt() != attempt or done & {"requeue", "successor", "stopped"}:
        return False  # overtaken, or a task has seen to it
    accepted = cluster.requeue(job_id, restart, os.environ.get(TOKEN_ENV, ""))
    files.kill_point("after-requeue", run.path)
    ledger.write("requeue", accepted=accepted, cause=reason)
    return accepted or succeed(run, attempt, stage, job_id, ledger)


def succeed(run: Run, attempt: int, stage: str, job_id: str, ledger: ledgers.Ledger) -> bool:
    """Submit a job in place of this one, which Slurm will not run again; behind a training, with its evaluation."""
    try:
        successor = handover.successor(run, attempt, job_id) if stage == chain.TRAIN else \
            handover.evaluation_successor(run, stage, world.element(), job_id)
    except (UserError, OSError, subprocess.SubprocessError) as error:
        ledger.write("stopped", detail=f"no job could be submitted in place of job {job_id}: {error}",
                     next=chain.resume_line(run))
        return False
    if successor is not None:
        ledger.write("successor", job_id=successor)
    return successor is not None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
