"""``submit --check``: checks that a job can work before anything is submitted."""

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
SHORT, LONG = 20.0, 180.0  # time limits in seconds: by default, and if --check was given


def check(plan: planning.Plan, frozen: create.Frozen, asked: str | None, verbose: bool = False) -> None:
    """Check a plan as requested, or as the environment variable says, and print the result.

    Args:
        asked: One of :data:`MODES`; None: check here, for a short time.

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
    """The checked and the skipped steps, as lines of the plan."""
    lines = []
    if EVERYTHING in report.skipped:
        lines.append(("check", f"skipped: {report.skipped[EVERYTHING]}; errors will appear when the job starts "
                               "(--check=job checks in a short job)"))
    else:
        seen = [f"{step}: {detail}" if detail else step for step, detail in report.done.items() if detail is not None]
        lines.append(("check", f"passed in {seconds:.0f} s: {'; '.join(seen) or 'nothing was checked'}"))
        whys = [f"{step} ({why})" for step, why in report.skipped.items()]
        rest = whys + report.rest + [f"weights of {weight.key} (not downloaded yet)" for weight in missing]
        if rest:
            lines.append(("not checked", "; ".join(rest)))
    if report.needs:
        lines.append(("each rank", report.needs))
    return "\n".join(f"  {name:<12}{text}" for name, text in lines)
