"""``submit --check``: a run is made for the check alone, built in a process of the job's Python, and thrown away."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from .. import config, planning, snapshot, weights
from ..errors import UserError, one_of
from ..plan import create
from ..request import outside_environment, python_of
from ..run import Run
from .findings import ALONE_ENV, EVERYTHING, Report, read

MODULE = "ecm_cluster.node.checks"
MODE_ENV = "ECM_CLUSTER_CHECK"
HERE, JOB, NONE = MODES = ("here", "job", "none")
SHORT, LONG = 20.0, 180.0  # seconds: where nobody asked for a check, and where somebody did


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
    if mode == NONE:
        return
    began = time.monotonic()
    if mode == JOB:
        from . import in_job

        report = in_job.look(plan, frozen)
    else:
        report = look(plan, frozen, LONG if asked else SHORT)
    if verbose and report.trace:
        print(report.trace, file=sys.stderr)
    if report.failure:
        raise UserError(report.failure)
    print(describe(report, frozen.missing, time.monotonic() - began))
    for text in report.warnings:
        print(f"warning: {text}", file=sys.stderr)


def look(plan: planning.Plan, frozen: create.Frozen, seconds: float) -> Report:
    """Check on this machine, on its CPU, within a time."""
    print(f"checking the job here, for {seconds:.0f} s at most (--no-check leaves it out)", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="ecm-cluster-check-") as folder:
        run = made_for_it(plan, frozen, Path(folder))
        findings, python = Path(folder) / "findings", python_of(plan.job)
        env = {**outside_environment(os.environ), **plan.job.env, ALONE_ENV: str(os.getpid()),
               "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(
                   filter(None, [*snapshot.python_path(run.code_dir), os.environ.get("PYTHONPATH")]))}
        try:
            with started([python, "-m", MODULE, str(run.path), str(findings)], env, Path(folder)) as process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                return finished(read(findings), process.poll(), seconds)
        except OSError as error:
            return Report(skipped={EVERYTHING: f"{python} cannot be started here ({error.strerror})"})


@contextlib.contextmanager
def started(command: list[str], env: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, whose end is the end of all that it started."""
    process = subprocess.Popen(command, env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def made_for_it(plan: planning.Plan, frozen: create.Frozen, folder: Path) -> Run:
    """A run of the plan in a folder that is thrown away; without the weights that are still to be fetched."""
    absent = {_without(weight): None for weight in frozen.missing}
    plain = replace(frozen, cfg=config.apply_options(frozen.cfg, absent), missing=[]) if absent else frozen
    return create.create(Run(folder / "run"), replace(plan, job=replace(plan.job, name="run")), plain)


def _without(weight: weights.Weight) -> str:
    """The key that is set to None for a model without these weights."""
    return weight.key.rpartition(".")[0] if weight.key.endswith(".checkpoint") else weight.key


def finished(report: Report, code: int | None, seconds: float) -> Report:
    """The report with the reason for what is missing of it.

    Args:
        code: The process's exit code; None: it was at work when the time was over.
    """
    if report.ended or report.failure or EVERYTHING in report.skipped:
        return report
    why = f"the {seconds:.0f} s were over" if code is None else f"the check's process ended with code {code}"
    if code is not None and code < 0:
        why = f"the check's process was killed by {signal.Signals(-code).name}"
    report.skipped.update({step: why for step in report.rest[:1]})
    return report


def describe(report: Report, missing: list[weights.Weight], seconds: float) -> str:
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
