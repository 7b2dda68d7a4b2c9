"""What a run is doing and why, folded from its directory and one answer of Slurm for all runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..attempts import endings, slurm_ends, starts
from ..backends import liveness
from ..backends.base import Known, Life
from ..base.errors import UserError
from ..base.units import size_text
from ..chain import chain, evaluations
from ..rundir import checkpoints
from ..rundir.run import Evaluation, Run
from ..scoring.metrics import LINE, names
from . import trouble
from .seen import Seen

MOST_DAMAGE = 3  # damaged files that are named


@dataclass
class RunState:
    """One run as ``status`` shows it.

    Attributes:
        state: ``submitting``, ``waiting``, ``running``, ``evaluating``, ``done``, ``complete`` (trained, and not
            scored yet), ``stopped``, ``failed``, ``unknown`` (nobody can be asked), or ``unreadable`` (the
            directory is damaged).
        reason: Why it is in this state, in a few words.
        next: What the user may type, if there is something to do.
        refused: Slurm has the training, and refused its evaluation.
        seconds_per_iteration, loss: Of the newest heartbeat.
    """

    run: str
    path: str
    state: str
    reason: str
    next: str | None = None
    attempt: int = 0
    iteration: int | None = None
    iterations: int | None = None
    epoch: int | None = None
    loss: float | None = None
    seconds_per_iteration: float | None = None
    checkpoint: str | None = None
    jobs: dict[str, str | None] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    refused: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fold(runs: Sequence[Run]) -> list[RunState]:
    """The states of many runs, with one question to Slurm for all of the user's, and one for those of others."""
    own = {run.path for run in runs if run.is_own}
    seen = [Seen(run.path) for run in runs]
    known = {mine: liveness.known([run for run in seen if (run.path in own) == mine]) for mine in (True, False)}
    return [_fold_or_say_why_not(run, known[run.path in own]) for run in seen]


def _fold_or_say_why_not(run: Seen, known: Known) -> RunState:
    try:
        state = fold_one(run, known)
    except (UserError, OSError) as error:  # one run that cannot be read must not hide the rest
        return RunState(run.name, str(run.path), "unreadable", " ".join(str(error).replace(f"{run.path}/", "").split()))
    state.reason += "".join(f"; damaged: {what}" for what in list(run.damage)[:MOST_DAMAGE])
    if len(run.damage) > MOST_DAMAGE:
        state.reason += f"; {len(run.damage) - MOST_DAMAGE} more files are damaged"
    return state


def fold_one(run: Run, known: Known) -> RunState:
    """The state of one run, given what Slurm knows; None where it does not answer.

    Raises:
        UserError: run.json cannot be read.
    """
    _ = run.spec
    submissions = {s.stage: s for s in run.submissions()}
    state = RunState(run.name, str(run.path), "", "", jobs={k: s.job_id for k, s in submissions.items()})
    _progress(run, state)
    train = submissions.get("train")
    mark = run.completion()
    if mark is not None:
        last, state.checkpoint = checkpoints.last(run), mark
        state.iteration, state.epoch = (last.iteration, last.epoch) if last else (None, None)
        sweeps = [submission for stage, submission in sorted(submissions.items()) if stage.startswith("sweep")]
        _after_training(run, state, _evaluating(run, submissions, sweeps, known), known)
    elif train is None or train.job_id is None:
        state.state, state.reason = "submitting", "the submission was interrupted"
        state.next = chain.line_to_go_on(run)
    else:
        _scores(run, state)
        life = _life(run, "train", known)
        _unfinished(run, state, life, accounted(train.job_id, known))
        own = submissions.get("evaluate")
        missing = run.job().evaluation.enabled and not (own and own.job_id and _life(run, "evaluate", known).alive)
        refused = chain.refusal(run) if life.alive and missing else None
        if refused:
            state.refused, state.next = True, state.next or chain.resume_line(run)
            state.reason += f"; {chain.half_a_chain(run, refused)}"
    state.reason += trouble.declared(run, state.reason)
    return state


def _evaluating(run: Run, submissions: dict[str, Any], sweeps: list[Any], known: Known) -> Any:
    """The submission that evaluates: the chain's own, or one that is at work in its place."""
    own = submissions.get("evaluate") or submissions.get("train")
    at_work = [s for s in (own, *sweeps) if s and s.job_id and _life(run, s.stage, known).alive]
    return next(iter(at_work), own or (sweeps[-1] if sweeps else None))


def _progress(run: Run, state: RunState) -> None:
    state.attempt = run.newest_attempt()
    committed = checkpoints.accepted(run)
    if committed:
        newest = committed[-1]
        state.checkpoint, state.iteration, state.epoch = newest.file, newest.iteration, newest.epoch
    beat = run.heartbeat(state.attempt) if state.attempt else None
    if beat:
        state.iteration = beat.get("iteration", state.iteration)
        state.iterations, state.epoch = beat.get("iterations"), beat.get("epoch", state.epoch)
        state.loss, state.seconds_per_iteration = beat.get("loss"), beat.get("seconds_per_iteration")


def accounted(job_id: str, known: Known) -> str | None:
    """The cause of a job's end in Slurm's own words: where its nodes have no scontrol, only they tell why it ended."""
    told = (known or {}).get(job_id)
    cause = slurm_ends.ACCOUNTED.get(told.state) if told else None
    return None if cause == "crashed" else cause  # a job that the run itself has ended is FAILED too


def _life(run: Run, stage: str, known: Known) -> Life:
    """Of the present job of a stage."""
    return liveness.of_job(run, run.submissions_of(stage)[-1], known)


def _unfinished(run: Run, state: RunState, life: Life, accounted: str | None) -> None:
    end, text = endings.newest_end(run), life.text
    if life.alive is False and accounted and (end is None or end["cause"] == "lost"):
        _ended_for_slurm(run, state, accounted, text)
        return
    why = (end.get("detail") or end["cause"]) if end else ""
    if life.waiting:
        state.state, state.reason = "waiting", text + (f", after attempt {state.attempt}: {why}" if why else "")
        state.reason += trouble.of_waiting(run)
        if "launch failed" in text:
            state.reason += "; a Prolog failed, or slurmd could not start the batch script: ask an administrator"
        state.next = release_line(run, "train") if life.held else None
    elif life.vouched:
        state.state, state.reason = "running", text + trouble.of_running(run)
    elif life.alive:
        beat = run.heartbeat(state.attempt) if state.attempt else None
        phase = phase_of(beat)
        going_on = f", after: {why}" if end else ""
        state.state, state.reason = "running", f"{phase}{going_on}{trouble.of_running(run)}"
    elif life.alive is None:
        state.state, state.reason = "unknown", text + (f"; attempt {state.attempt} ended: {why}" if why else "")
    elif run.cancel_file.exists() or (end is not None and end["cause"] == "cancelled"):
        state.state, state.reason = "stopped", "cancelled" + (f"; {why}" if why else "")
        state.next = chain.resume_line(run)
    else:
        known = endings.ending(end)
        stopped = _only_stopped(known)
        state.state = "stopped" if stopped else "failed"
        state.reason = endings.decide(run).reason if end else (text or known.text) + _unrecorded(run)
        log = run.rank_log(end.get("rank") or 0) if end else _log_of(run)
        # what failed wants to be read, and perhaps fixed, before it is tried again
        nothing_to_read = stopped or log is None or (end is not None and end.kind == "not-started")
        state.next = chain.resume_line(run) if nothing_to_read else f"less {log}; {chain.resume_line(run)}"


def _only_stopped(ending: endings.Ending) -> bool:
    """Whether nothing of the run has failed: what has a budget would have been started again if it could."""
    return ending.budget is None and ending.action in ("continue", "wait")


def _ended_for_slurm(run: Run, state: RunState, cause: str, text: str) -> None:
    """An end that none of the job's processes could tell the reason of."""
    known, stopped = endings.ENDINGS[cause], _only_stopped(endings.ENDINGS[cause]) or cause == "cancelled"
    state.state = "stopped" if stopped else "failed"
    state.reason = f"{known.text}: {text}" if cause != "cancelled" else f"cancelled; {text}"
    log = None if stopped else _log_of(run)
    state.next = f"less {log}; {chain.resume_line(run)}" if log else chain.resume_line(run)


def _log_of(run: Run) -> Any:
    """The newest log of the job itself; None where it has printed nothing."""
    logs = sorted(run.submitit_dir.glob("*_log.out"), key=lambda p: p.lstat().st_mtime)
    return logs[-1] if logs else run.local_log if run.local_log.exists() else None


def _unrecorded(run: Run) -> str:
    """What may be the matter where a job has ended whose batch script records its starts, and has recorded none."""
    job_id = run.submission("train").get("job_id")
    if not job_id or starts.on_record(run, job_id) or not starts.records(run, job_id):
        return ""
    return f"; its batch script left no record: a node's Prolog failed, or the nodes do not see {run.path}"


def release_line(run: Run, stage: str) -> str:
    """What lets a held job start."""
    return f"scontrol release {run.submission(stage).get('job_id')}"


def _scores(run: Run, state: RunState) -> tuple[bool, list[Evaluation]]:
    """Put the figures of the last scored checkpoint into the state.

    Returns:
        Whether all that was asked for is scored, and the evaluations that have begun and are not done.
    """
    wanted = evaluations.read(run, chain.EVALUATE) if run.job().evaluation.enabled else []
    found = [(work, evaluations.is_done(work, e.scoring)) for e, work in zip(wanted, evaluations.works(run, wanted))
             if work is not None]
    done = [work for work, scored in found if scored]
    # of one that counts as scored, its figures may be in a file that is damaged
    works = [work for work in done or run.evaluations() if work.all_metrics()]
    if works:
        document = works[-1].all_metrics()[0]
        state.evaluation = {"metrics_file": os.path.relpath(works[-1].metrics_file(), run.path), **summary(document)}
    if len(wanted) > 1:
        state.evaluation.update(scored=len(done), asked=len(wanted))
    return len(done) == len(wanted), [work for work, scored in found if not scored and work.ledger_dir.exists()]


def _after_training(run: Run, state: RunState, submission: Any, known: Known) -> None:
    scored, pending = _scores(run, state)
    if not run.job().evaluation.enabled:
        state.state, state.reason = "done", "trained; no evaluation was asked for"
        return
    if scored:
        several = f" ({state.evaluation['asked']} evaluations)" if "asked" in state.evaluation else ""
        state.state, state.reason = "done", f"trained and scored{several}"
        return
    figures = state.evaluation
    share = f"{figures['scored']} of {figures['asked']} scored; " if "asked" in figures else ""
    if submission and submission.job_id:
        life = _life(run, submission.stage, known)
    else:
        here = list((liveness.alive(run) or {}).values())
        life = Life(bool(here), here[0] if here else "no evaluation job was recorded")
    refused = None if life.alive else chain.refusal(run)
    if refused:
        state.refused, life = True, Life(False, chain.half_a_chain(run, refused))
    text = life.text
    if life.waiting:
        state.state, state.reason = "complete", f"trained; evaluation: {share}{text}"
        state.next = release_line(run, submission.stage) if life.held else None
    elif life.alive:
        state.state, state.reason = "evaluating", share + _evaluation_phase(pending)
    elif life.alive is None:
        state.state, state.reason = "complete", f"trained; evaluation: {share}{text}"
    else:
        _ended_unscored(run, state, pending, share + text,
                        accounted(submission.job_id, known) if submission else None)


def _ended_unscored(run: Run, state: RunState, pending: list[Evaluation], text: str, accounted: str | None) -> None:
    if run.cancel_file.exists():
        state.state, state.reason, state.next = "stopped", "trained; evaluation cancelled", chain.resume_line(run)
    else:
        end = endings.newest_end(pending[-1]) if pending else None
        recorded = end if end and end["cause"] != "lost" else None
        known = endings.ending(end) if recorded else endings.ENDINGS[accounted or "lost"]
        state.state = "stopped" if _only_stopped(known) else "failed"
        state.reason = "evaluation: " + ((end.get("detail") if end else None) or text)
        read = f"less {pending[-1].rank_log((end.get('rank') if end else 0) or 0)}; " if pending else ""
        state.next = read + chain.resume_line(run)


def _evaluation_phase(pending: list[Evaluation]) -> str:
    beat = pending[-1].heartbeat(pending[-1].newest_attempt()) if pending else None
    return phase_of(beat)


def phase_of(beat: dict[str, Any] | None) -> str:
    """What a rank is at, and how far: ``staging 8.1 of 19.3 GB``, ``inference 300/5000``."""
    if not beat:
        return "starting"
    phase = beat.get("phase", "starting")
    if not beat.get("total"):
        return phase
    if phase == "staging":
        return f"staging {size_text(beat['done'])} of {size_text(beat['total'])}"
    return f"{phase} {beat['done']}/{beat['total']}"


def summary(document: dict[str, Any]) -> dict[str, float | None]:
    """The headline figures of a metrics document, 0 to 1, unrounded."""
    found: dict[str, float | None] = {}
    for kind in ("bbox", "segm"):
        figures = document.get("figures", {}).get(kind) or {}
        for name in names(LINE):
            if name in figures:
                found[f"{kind}_{name}"] = figures[name]
    return found
