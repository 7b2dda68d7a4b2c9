"""The state of a run whose training is complete: scored, being evaluated, or why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..attempts import causes, endings
from ..backends import liveness
from ..backends.base import Known, Life
from ..chain import chain, evaluations
from ..rundir.run import Evaluation, Run
from ..scoring.metrics import LINE, names
from .run_state import RunState, accounted, life_of, only_stopped, phase_of, release_line


def add_scores(run: Run, state: RunState) -> tuple[bool, list[Evaluation]]:
    """Add the metrics of the last scored checkpoint to the state.

    Returns:
        Whether everything requested is scored, and the evaluations that have started and are not done.
    """
    wanted = evaluations.read(run, chain.EVALUATE) if run.job().is_evaluated else []
    found = [(work, evaluations.is_done(work, e.scoring)) for e, work in zip(wanted, evaluations.works(run, wanted))
             if work is not None]
    done = [work for work, scored in found if scored]
    for work in reversed(done or run.evaluations()):
        documents = work.all_metrics()
        if documents:  # the metrics of a scored one may be in a damaged file
            file = os.path.relpath(work.metrics_file(), run.path)
            state.evaluation = {"metrics_file": file, **summary(documents[0])}
            break
    if len(wanted) > 1:
        state.evaluation.update(scored=len(done), asked=len(wanted))
    return len(done) == len(wanted), [work for work, scored in found if not scored and work.ledger_dir.exists()]


def add_evaluation(run: Run, state: RunState, evaluating: Callable[[], Any], known: Known) -> None:
    """The state of a run whose training is complete.

    Args:
        evaluating: The submission that evaluates; asked only where the state depends on its job.
    """
    scored, pending = add_scores(run, state)
    if not run.job().is_evaluated:
        state.state, state.reason = "done", "trained; no evaluation was requested"
        return
    if scored:
        several = f" ({state.evaluation['asked']} evaluations)" if "asked" in state.evaluation else ""
        state.state, state.reason = "done", f"trained and scored{several}"
        return
    figures = state.evaluation
    submission = evaluating()
    share = f"{figures['scored']} of {figures['asked']} scored; " if "asked" in figures else ""
    if submission and submission.job_id:
        life = life_of(run, submission.link, known)
    else:
        here = list((liveness.alive(run) or {}).values())
        life = Life(bool(here), here[0] if here else "no evaluation job was recorded")
    refused = None if life.alive else chain.refusal(run)
    if refused:
        state.refused, life = True, Life(False, chain.half_a_chain(run, refused))
    text = life.text
    if life.waiting or life.alive is None:
        state.expected_start = life.start
        state.state, state.reason = "complete", f"trained; evaluation: {share}{text}"
        state.next = release_line(run, submission.link) if life.held else None
    elif life.alive:
        heartbeat = pending[-1].heartbeat(pending[-1].newest_attempt()) if pending else None
        state.state, state.reason = "evaluating", share + phase_of(heartbeat)
    else:
        _ended_unscored(run, state, pending, share + text,
                        accounted(submission.job_id, known) if submission else None)


def _ended_unscored(run: Run, state: RunState, pending: list[Evaluation], text: str, accounted: str | None) -> None:
    if run.cancel_file.exists():
        state.state, state.reason, state.next = "stopped", "trained; evaluation cancelled", chain.resume_line(run)
    else:
        end = endings.newest_end(pending[-1]) if pending else None
        recorded = end if end and end["cause"] != "lost" else None
        known = endings.ending(end) if recorded else causes.CAUSES[accounted or "lost"]
        state.state = "stopped" if only_stopped(known) else "failed"
        state.reason = "evaluation: " + ((end.get("detail") if end else None) or text)
        read = f"less {pending[-1].rank_log((end.get('rank') if end else 0) or 0)}; " if pending else ""
        state.next = read + chain.resume_line(run)


def summary(document: dict[str, Any]) -> dict[str, float | None]:
    """The main metrics of a metrics document, from 0 to 1, unrounded."""
    found: dict[str, float | None] = {}
    for kind in ("bbox", "segm"):
        figures = document.get("figures", {}).get(kind) or {}
        for name in names(LINE):
            if name in figures:
                found[f"{kind}_{name}"] = figures[name]
    return found
