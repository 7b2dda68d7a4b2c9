"""What a run is doing and why, from its directory and one query to Slurm for all runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..attempts import causes, endings, starts
from ..backends import liveness
from ..backends.base import Known, Life
from ..base import fileserver
from ..base.errors import UserError
from ..chain import chain
from ..rundir import checkpoints
from ..rundir.run import Run
from . import summary, trouble
from .evaluation_state import add_evaluation, add_scores
from .run_state import RunState, accounted, life_of, only_stopped, phase_of, release_line
from .tolerant import TolerantRun

__all__ = ["RunState", "fold", "fold_one"]

MOST_DAMAGE = 3  # damaged files that are listed


def fold(runs: Sequence[Run]) -> list[RunState]:
    """The states of many runs, with one query to Slurm for the user's own, and one for those of other users.

    Args:
        runs: What was read of a :class:`TolerantRun` is not read again.
    """
    readable = [run if isinstance(run, TolerantRun) else TolerantRun(run.path) for run in runs]
    kept = fileserver.each(summary.read, readable)
    left = [run for run, state in zip(readable, kept) if state is None]
    own = {run.path for run, is_own in zip(left, fileserver.each(_prepare, left)) if is_own}
    known = {mine: liveness.known([run for run in left if (run.path in own) == mine]) for mine in (True, False)}
    folded = iter(fileserver.each(lambda run: _fold_noted(run, known[run.path in own], run.path in own), left))
    return [state or next(folded) for state in kept]


def _prepare(run: TolerantRun) -> bool:
    """Read what one query to Slurm for all runs takes; whether a run is the caller's own."""
    run.submissions()
    return run.is_own


def _fold_noted(run: TolerantRun, known: Known, is_own: bool) -> RunState:
    with run.footprint.noting():
        state = _fold_or_unreadable(run, known)
        if is_own:
            summary.write(run, state)
    return state


def _fold_or_unreadable(run: TolerantRun, known: Known) -> RunState:
    try:
        state = fold_one(run, known)
    except (UserError, OSError) as error:  # one unreadable run must not hide the others
        return RunState(run.name, str(run.path), "unreadable", " ".join(str(error).replace(f"{run.path}/", "").split()))
    state.reason += "".join(f"; damaged: {what}" for what in list(run.damage)[:MOST_DAMAGE])
    if len(run.damage) > MOST_DAMAGE:
        state.reason += f"; {len(run.damage) - MOST_DAMAGE} more files are damaged"
    return state


def fold_one(run: Run, known: Known) -> RunState:
    """The state of one run; ``known``: Slurm's answer, None if it did not answer.

    Raises:
        UserError: run.json cannot be read.
    """
    _ = run.spec
    submissions = {s.link: s for s in run.submissions()}
    state = RunState(run.name, str(run.path), "", "", jobs={k: s.job_id for k, s in submissions.items()})
    _progress(run, state)
    train = submissions.get("train")
    mark = run.completion()
    if mark is not None:
        last, state.checkpoint = checkpoints.last(run), mark
        state.iteration, state.epoch = (last.iteration, last.epoch) if last else (None, None)
        sweeps = [submission for link, submission in sorted(submissions.items()) if link.startswith("sweep")]
        add_evaluation(run, state, lambda: _evaluating(run, submissions, sweeps, known), known)
    elif train is None or train.job_id is None:
        state.state, state.reason = "submitting", "the submission was interrupted"
        state.next = chain.continue_line(run)
    else:
        add_scores(run, state)
        life = life_of(run, "train", known)
        _unfinished(run, state, life, accounted(train.job_id, known))
        own = submissions.get("evaluate")
        missing = run.job().is_evaluated and not (own and own.job_id and life_of(run, "evaluate", known).alive)
        refused = chain.refusal(run) if life.alive and missing else None
        if refused:
            state.refused, state.next = True, state.next or chain.resume_line(run)
            state.reason += f"; {chain.half_a_chain(run, refused)}"
    state.reason += trouble.declared(run, state.reason)
    return state


def _evaluating(run: Run, submissions: dict[str, Any], sweeps: list[Any], known: Known) -> Any:
    """The submission that evaluates: the chain's own, or a sweep that is active instead."""
    own = submissions.get("evaluate") or submissions.get("train")
    at_work = [s for s in (own, *sweeps) if s and s.job_id and life_of(run, s.link, known).alive]
    return next(iter(at_work), own or (sweeps[-1] if sweeps else None))


def _progress(run: Run, state: RunState) -> None:
    state.attempt = run.newest_attempt()
    committed = checkpoints.accepted(run)
    if committed:
        newest = committed[-1]
        state.checkpoint, state.iteration, state.epoch = newest.file, newest.iteration, newest.epoch
    heartbeat = run.heartbeat(state.attempt) if state.attempt else None
    if heartbeat:
        state.iteration = heartbeat.get("iteration", state.iteration)
        state.iterations, state.epoch = heartbeat.get("iterations"), heartbeat.get("epoch", state.epoch)
        state.loss, state.seconds_per_iteration = heartbeat.get("loss"), heartbeat.get("seconds_per_iteration")


def _unfinished(run: Run, state: RunState, life: Life, accounted: str | None) -> None:
    end, text = endings.newest_end(run), life.text
    if life.alive is False and accounted and (end is None or end["cause"] == "lost"):
        _ended_for_slurm(run, state, accounted, text)
        return
    why = (end.get("detail") or end["cause"]) if end else ""
    if life.waiting:
        state.state, state.expected_start = "waiting", life.start
        state.reason = text + (f", after attempt {state.attempt}: {why}" if why else "")
        state.reason += trouble.of_waiting(run)
        if "launch failed" in text:
            state.reason += "; a Prolog failed, or slurmd could not start the batch script: ask an administrator"
        state.next = release_line(run, "train") if life.held else None
    elif life.vouched:
        state.state, state.reason = "running", text + trouble.of_running(run)
    elif life.alive:
        heartbeat = run.heartbeat(state.attempt) if state.attempt else None
        phase = phase_of(heartbeat)
        after = f", after: {why}" if end else ""
        state.state, state.reason = "running", f"{phase}{after}{trouble.of_running(run)}"
    elif life.alive is None:
        state.state, state.reason = "unknown", text + (f"; attempt {state.attempt} ended: {why}" if why else "")
    elif run.cancel_file.exists() or (end is not None and end["cause"] == "cancelled"):
        state.state, state.reason = "stopped", "cancelled" + (f"; {why}" if why else "")
        state.next = chain.resume_line(run)
    else:
        known = endings.ending(end)
        stopped = only_stopped(known)
        state.state = "stopped" if stopped else "failed"
        state.reason = endings.decide(run).reason if end else (text or known.text) + _unrecorded(run)
        log = run.rank_log(end.get("rank") or 0) if end else _log_of(run)
        # a failure should be read, and perhaps fixed, before the run is resumed
        nothing_to_read = stopped or log is None or (end is not None and end.kind == "not-started")
        state.next = chain.resume_line(run) if nothing_to_read else f"less {log}; {chain.resume_line(run)}"


def _ended_for_slurm(run: Run, state: RunState, cause: str, text: str) -> None:
    """An end whose reason none of the job's processes could record."""
    known, stopped = causes.CAUSES[cause], only_stopped(causes.CAUSES[cause]) or cause == "cancelled"
    state.state = "stopped" if stopped else "failed"
    state.reason = f"{known.text}: {text}" if cause != "cancelled" else f"cancelled; {text}"
    log = None if stopped else _log_of(run)
    state.next = f"less {log}; {chain.resume_line(run)}" if log else chain.resume_line(run)


def _log_of(run: Run) -> Any:
    """The newest log of the job; None if it has printed nothing."""
    logs = sorted(run.submitit_dir.glob("*_log.out"), key=lambda p: p.lstat().st_mtime)
    return logs[-1] if logs else run.local_log if run.local_log.exists() else None


def _unrecorded(run: Run) -> str:
    """The likely reason if a job has ended whose batch script should have recorded its start, and did not."""
    job_id = run.submission("train").get("job_id")
    if not job_id or starts.newest(run, job_id) or not starts.records(run, job_id):
        return ""
    return f"; its batch script left no record: a node's Prolog failed, or the nodes do not see {run.path}"
