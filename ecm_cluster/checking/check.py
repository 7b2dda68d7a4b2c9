"""``submit --check``: whether a job can work, asked before anything of it is submitted."""

from __future__ import annotations

import os
import sys
import time

from ..base.errors import UserError, one_of
from ..freeze import weights
from ..plan import create, planning
from . import here, in_job
from .findings import EVERYTHING, Report

MODE_ENV = "ECM_CLUSTER_CHECK"
HERE, JOB, NONE = MODES = ("here", "job", "none")
SHORT, LONG = 20.0, 180.0  # seconds: by default, and where the user asked for a check


def check(plan: planning.Plan, frozen: create.Frozen, asked: str | None, verbose: bool = False) -> None:
    """Check a plan as asked, or as the environment says, and print what was found.

    Args:
        asked: One of :data:`MODES`; None: check here, for a short time.
        verbose: Show the traceback of a failure.

    Raises:
        UserError: The job cannot work.
    """
    mode = asked or os.environ.get(MODE_ENV) or None
    if mode not in (None, *MODES):
        raise one_of(MODE_ENV, mode, MODES)
    if plan.job.trainer is not None:
        if asked in (HERE, JOB):
            raise UserError("check: only a job of mmdet's trainer can be checked before submission; leave out --check")
        return
    if mode == NONE:
        return
    began = time.monotonic()
    report = in_job.look(plan, frozen) if mode == JOB else here.look(plan, frozen, LONG if asked else SHORT)
    if verbose and report.trace:
        print(report.trace, file=sys.stderr)
    if report.failure:
        raise UserError(report.failure)
    print(describe(report, frozen.missing, time.monotonic() - began))
    for text in report.warnings:
        print(f"warning: {text}", file=sys.stderr)


def describe(report: Report, missing: list[weights.WeightFile], seconds: float) -> str:
    """What was checked and what was not, as lines of the plan."""
    lines = []
    if EVERYTHING in report.skipped:
        lines.append(("check", f"not done: {report.skipped[EVERYTHING]}; the job's first start will tell (--check=job "
                               "checks in a short job)"))
    else:
        seen = [f"{step}: {detail}" if detail else step for step, detail in report.done.items() if detail is not None]
        lines.append(("check", f"nothing wrong found in {seconds:.0f} s with {'; '.join(seen) or 'nothing'}"))
        whys = [f"{step} ({why})" for step, why in report.skipped.items()]
        rest = whys + report.rest + [f"weights of {weight.key} (still to be fetched)" for weight in missing]
        if rest:
            lines.append(("not checked", "; ".join(rest)))
    if report.needs:
        lines.append(("each rank", report.needs))
    return "\n".join(f"  {name:<12}{text}" for name, text in lines)
