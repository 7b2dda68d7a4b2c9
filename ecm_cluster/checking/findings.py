"""The findings of a check as JSON lines: written by the process that checks, read by the one that submits."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FRAMEWORK = ("torch", "mmcv", "mmdet")
ALONE_ENV = "ECM_CLUSTER_CHECK_PARENT"  # pid of the submission that checks on its own machine
EVERYTHING = "everything"
STEPS = ("imports", "training data", "model", "optimizer, hooks and runner", "load_from", "a batch",
         "forward and backward", "a checkpoint written and read", "a test image")


class Findings:
    """The writing end."""

    def __init__(self, path: Path) -> None:
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def begin(self, step: str) -> None:
        self._write(begun=step, doubt="")

    def done(self, step: str, detail: str | None) -> None:
        """A completed step with its result; None: the job has no such step."""
        self._write(done=step, detail=detail)

    def skip(self, step: str, why: str) -> None:
        """A step that cannot be checked here, although the job may be fine."""
        self._write(skip=step, why=" ".join(why.split()))

    def doubt(self, text: str) -> None:
        """A possible problem in the current step, which is being looked into."""
        self._write(doubt=" ".join(text.split()))

    def warn(self, text: str) -> None:
        self._write(warn=" ".join(text.split()))

    def needs(self, text: str) -> None:
        """The memory that each rank will need."""
        self._write(needs=text)

    def fail(self, text: str, trace: str) -> None:
        """Why the job cannot work: one line with the key or file, the expected value and the remedy."""
        self._write(failure=" ".join(text.split()), trace=trace)

    def end(self) -> None:
        self._write(ended=True)

    def _write(self, **finding: Any) -> None:
        os.write(self._out, (json.dumps(finding) + "\n").encode())


@dataclass
class Report:
    """The reading end: the findings so far.

    Attributes:
        done: Completed steps with their results; None: not a step of this job.
        skipped: Steps that could not be checked, with the reason.
        begun: The current step, or the last one.
        doubt: A possible problem in it.
        failure: Why the job cannot work.
        trace: Its traceback.
        ended: Whether all steps are through.
    """

    done: dict[str, str | None] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    needs: str = ""
    begun: str = ""
    doubt: str = ""
    failure: str = ""
    trace: str = ""
    ended: bool = False

    @property
    def over(self) -> bool:
        """Whether the check has finished without being stopped."""
        return self.ended or bool(self.failure) or EVERYTHING in self.skipped

    @property
    def rest(self) -> list[str]:
        """Steps without any finding."""
        known = {*self.done, *self.skipped}
        return [] if EVERYTHING in known else [step for step in STEPS if step not in known]


def read(path: Path) -> Report:
    """All findings so far; an incomplete last line is left for later."""
    report = Report()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return report
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if "done" in found:
            report.done[found["done"]] = found["detail"]
        elif "skip" in found:
            report.skipped[found["skip"]] = found["why"]
        elif "warn" in found:
            report.warnings.append(found["warn"])
        else:
            vars(report).update(found)
    return report


def finished(report: Report, code: int | None, seconds: float) -> Report:
    """The report with the reason why steps are missing.

    Args:
        code: The process's exit code; None: it was still running at the time limit.
    """
    if report.over:
        return report
    why = f"time limit of {seconds:g} s" if code is None else f"the check ended with exit code {code}"
    if code is not None and code < 0:
        why = f"the check was killed by {signal.Signals(-code).name}"
    if report.doubt:
        why = f"{report.doubt}; {why}"
    report.skipped.update({step: why for step in report.rest[:1]})
    return report
