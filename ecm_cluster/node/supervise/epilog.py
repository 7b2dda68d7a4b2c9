"""What the batch shell does when its job step is gone: record the end if nobody has, and requeue where that is right.

Run by the batch script's EXIT trap as ``python -m ecm_cluster.node.supervise.epilog RUN LINK CODE``, CODE being what
srun returned, or ``none`` where the shell was ended before srun. Imports nothing heavy: it may have seconds only.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping

from ...attempts import causes, endings, slurm_ends, starts
from ...base import files
from ...base.errors import UserError
from ...chain import chain, evaluations, locks, submissions, successor
from ...rundir import ledger as ledgers
from ...rundir.run import Run, Work
from ...slurm import commands, site
from ...slurm.sbatch import TOKEN_ENV
from .. import world
from . import afterwards

LAST_WORDS_BYTES = 4000  # of the job's log, at whose end srun says what became of its step
LAST_LINES = 3  # of the log, and 500 characters, in the detail of a failed start
NAMED_BY_SRUN = re.compile(r"^srun: error: (\S+): tasks?\b.*: Exited with", re.MULTILINE)
PATIENCE_SECONDS = 60.0  # for slurmctld under load: without an answer nobody requeues the job, and the run stops
STARTED = "Starting with JobEnvironment"  # submitit's first words in each start of the job


def main(run_path: str, link: str, code: str) -> int:
    """Always 0: the script's own exit code stays."""
    run = Run(run_path)
    work = work_of(run, link)
    if work is not None:
        after_step(run, work, link, int(code) if code.isdigit() else None)
    if link == chain.TRAIN and run.completion():
        with contextlib.suppress(UserError):  # `status` and `resume` try it again
            chain.submit_refused(run, locks.PATIENCE_ON_NODES)
    if work is not None and code.isdigit() and endings.decide(work).action == "stop":  # else it has seconds only
        afterwards.carry_out(run)
    return 0


def work_of(run: Run, link: str) -> Work | None:
    """What the link's job works on; None where an evaluation has found no checkpoint."""
    return run if link == chain.TRAIN else evaluations.of_element(run, evaluations.read(run, link)[world.element()])


def after_step(run: Run, work: Work, link: str, code: int | None) -> None:
    """Close the attempt, ask what follows, and do it if this job may."""
    job_id, restart = world.batch_start()
    newest, start = work.newest_attempt(), f"slurm:{job_id}:{restart}"
    took_part = bool(newest) and is_of(work, newest, job_id, restart)
    # the fence: a stale start decides nothing, nor does one that found the work done
    if not took_part and (code == 0 or not still_its_turn(run, work, link, job_id, restart)):
        return
    own = starts.on_record(run, job_id).get(restart)
    # a shell that is being ended itself has seconds; one whose step has ended can wait for slurmctld
    answer = ask(job_id, 0.0 if code is None else PATIENCE_SECONDS)
    if answer is None and code is None and (own is None or own.failure(run) is None):
        return  # nothing is known here: the next start tells from its restart count why this one ended
    ledger = work.ledger(newest, f"batch.{job_id}.{restart}", patient=True)
    refused = starts.failed(work, work.events())
    if refused is not None and (refused["start"] != start or refused.writer == "shell"):
        refused = None
    if not took_part and refused is None:
        if endings.is_done(work) or run.cancelled(link):
            return
        refused = record_failed_start(run, ledger, own, answer, restart, code)
    if took_part and endings.last_end(work.events(newest), newest) is None:
        if refused is not None:
            ledger.write("end", cause=refused["cause"], rank=refused["rank"], detail=refused["detail"])
        else:
            cause = slurm_ends.why_step_ended(answer, restart, code, last_words(run))
            seen = "the batch shell was ended" if code is None else f"the job step ended with code {code}"
            state = (answer or {}).get("JobState", "unknown, as Slurm does not answer")
            ledger.write("end", cause=cause, rank=None, code=code, state=state,
                         detail=f"{causes.CAUSES[cause].text}: {seen}, job state {state}")
    decision = endings.decide(work)
    # a job whose work is done must end well too, as what comes behind it waits for that
    again = decision.action == "continue" or (decision.action == "done" and code != 0)
    if again and may_requeue(answer, restart) and not run.cancelled(link):
        nodes = leave_out(run, work, start, ledger)
        if carry_on(run, work, newest, link, ledger, decision.reason) and nodes:
            commands.leave_out(job_id, nodes)
    elif again and answer is None:
        ledger.write("stopped", detail="Slurm did not answer, so the job could not be requeued",
                     next=chain.resume_line(run))


def still_its_turn(run: Run, work: Work, link: str, job_id: str, restart: int) -> bool:
    """Whether a start that took no attempt is its link's newest: of the job on record, and no later start of it."""
    newest = work.newest_attempt()
    record = work.read_attempt(newest) if newest else {}
    if str(record.get("job_id")) == job_id:
        return int(record.get("restart") or 0) < restart
    token, recorded = os.environ.get(TOKEN_ENV, ""), run.submission(link)
    known = bool(token or recorded.get("job_id") or not newest)
    # less than OUTDATED_SECONDS: a shell that is being ended has KillWait, 30 s by default
    return known and submissions.stale(run, link, token, job_id, patience=5.0) is None


def record_failed_start(run: Run, ledger: ledgers.Ledger, own: starts.Start | None, answer: Mapping[str, str] | None,
                        restart: int, code: int | None) -> ledgers.Event:
    """Put on record why this start began no attempt: as its batch shell saw it, as Slurm says it, as its log ends."""
    words = last_words(run)
    cause = slurm_ends.why_step_ended(answer, restart, code, words)
    node, of_node = world.node_name(), own is not None and own.on_one_node
    seen = own.failure(run) if own else None
    if seen is not None and cause in ("signalled", "crashed", "killed", "lost"):  # as far as Slurm knows, it runs
        cause, detail = seen
    elif cause in ("crashed", "killed", "lost"):
        cause, named = "start failed", set(NAMED_BY_SRUN.findall(words))
        # of several nodes srun names the one whose task failed; those that it ended for that come without their name
        node, of_node = (named.pop(), True) if len(named) == 1 else (node, of_node)
        log = "; its log ends: " + " | ".join(words.split("\n")[-LAST_LINES:])[-500:] if words else ""
        detail = f"{node}: the job step ended with code {code} before an attempt began{log}"
    else:
        detail = f"{causes.CAUSES[cause].text} before an attempt began"
    job_id, _ = world.batch_start()
    return ledger.write("not-started", cause=cause, rank=None, node=node, detail=detail,
                        of_node=of_node and cause in ("setup failed", "start failed"),
                        start=f"slurm:{job_id}:{restart}", cluster="slurm", resumes=starts.resumes_of(run.events()))


def settle(run: Run, work: Work, job_id: str, restart: int) -> None:
    """Put on record which earlier starts of this job could not work, as far as nobody there could.

    A node that does not see the run directory leaves no record, and only its name among those that the job leaves out.
    """
    known = starts.on_record(run, job_id)
    events = work.events()
    recorded = {e["start"] for e in events if e.kind == "not-started"}
    open_ones = [r for r in range(restart)
                 if f"slurm:{job_id}:{r}" not in recorded and (r not in known or known[r].broken)]
    if restart not in known or not open_ones:
        return
    job = commands.show_job(job_id) or {}
    before = [*site.hosts(run.job().exclude or ""), *starts.left_out(run.events()),
              *(known[r].host for r in known)]
    unseen = [node for node in site.hosts(job.get("ExcNodeList", "")) if node not in before]
    ledger = work.ledger(work.newest_attempt(), f"settled.{job_id}.{restart}")
    for number in open_ones:
        start = known.get(number)
        failure = start.failure(run) if start else None
        node = start.host if start else unseen.pop(0) if unseen else ""
        cause, detail = failure or ("start failed", f"{node or 'a node'}: its batch script left no record; the node "
                                    f"does not see {run.path}, or its Prolog failed")
        ledger.write("not-started", cause=cause, rank=None, node=node, detail=detail, of_node=bool(node),
                     start=f"slurm:{job_id}:{number}", cluster="slurm", resumes=starts.resumes_of(run.events()))
        leave_out(run, work, f"slurm:{job_id}:{number}", ledger)


def leave_out(run: Run, work: Work, start: str, ledger: ledgers.Ledger) -> str:
    """Put on record which nodes the run excludes from now on, before Slurm is asked to: a successor reads it, too.

    Returns:
        All that the job must exclude, the user's own ``exclude`` included, as Slurm takes it; empty where nothing
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
        answer = commands.show_job(job_id)
        if answer is not None or time.monotonic() >= end or not commands.can_ask():
            return answer
        time.sleep(1.0)


def last_words(run: Run) -> str:
    """The end of this start's log, where srun says what became of its step; empty where it cannot be read."""
    job_id, _ = world.batch_start()
    try:
        with open(run.submitit_dir / f"{job_id}_0_log.out", "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LAST_WORDS_BYTES))
            return log.read().decode(errors="replace").rpartition(STARTED)[2].strip()
    except OSError:
        return ""


def may_requeue(answer: Mapping[str, str] | None, restart: int) -> bool:
    """Whether the job is still this start's, and not one that its user has cancelled.

    Slurm also takes back a job that is ending or has ended, as after a preemption by ``PreemptMode=CANCEL``.
    """
    job = answer or {}
    ended = job.get("JobState") not in slurm_ends.ALIVE and \
        slurm_ends.why_signalled(job, restart, 0, None) in causes.REQUEUES
    return (job.get("JobState") == "RUNNING" or ended) and int(job.get("Restarts") or 0) == restart


def is_of(work: Work, attempt: int, job_id: str, restart: int) -> bool:
    """Whether an attempt belongs to this start of this job."""
    record = work.read_attempt(attempt)
    return str(record.get("job_id")) == job_id and int(record.get("restart") or 0) == restart


def carry_on(run: Run, work: Work, attempt: int, link: str, ledger: ledgers.Ledger, reason: str) -> bool:
    """Requeue this job; where Slurm refuses, submit a successor; where that fails too, say what the user can type.

    Returns:
        Whether something will continue the work.
    """
    job_id, restart = world.batch_start()
    # of a start that began no attempt the newest attempt is another start's, and so is what followed it
    own = is_of(work, attempt, job_id, restart) if attempt else False
    done = {e.kind for e in work.events(attempt) if own or e.writer == ledger.writer}
    if work.newest_attempt() != attempt or done & {"requeue", "successor", "stopped"}:
        return False  # stale, or a task has done it
    accepted = commands.requeue(job_id, restart, os.environ.get(TOKEN_ENV, ""))
    files.kill_point("after-requeue", run.path)
    ledger.write("requeue", accepted=accepted, cause=reason)
    return accepted or succeed(run, attempt, link, job_id, ledger)


def succeed(run: Run, attempt: int, link: str, job_id: str, ledger: ledgers.Ledger) -> bool:
    """Submit a job in place of this one, which Slurm will not run again; behind a training, with its evaluation."""
    try:
        new = successor.successor(run, attempt, job_id) if link == chain.TRAIN else \
            successor.evaluation_successor(run, link, world.element(), job_id)
    except (UserError, OSError, subprocess.SubprocessError) as error:
        ledger.write("stopped", detail=f"no job could be submitted in place of job {job_id}: {error}",
                     next=chain.resume_line(run))
        return False
    if new is not None:
        ledger.write("successor", job_id=new)
    return new is not None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
