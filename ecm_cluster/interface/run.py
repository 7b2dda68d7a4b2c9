"""A run as a Python object: what the verbs show and do, as values instead of text."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..job.flags import runs_dir_of
from ..reporting import results
from ..reporting import state as states
from ..reporting.run_state import ENDED, PATIENCE, RunState
from ..rundir import run as internal
from ..rundir import runs, training_log
from . import verbs


class RunHandle:
    """A run, by its name or directory; importable as ``ecm_cluster.Run``.

    Nothing is cached: each call reads the run directory, so it also shows what others do with the run.

    Args:
        run: A run directory, or the name of a run.
        runs_dir: The directory that holds the runs; None: that of the user's site file, else ``runs``.

    Raises:
        UserError: There is no such run.
    """

    def __init__(self, run: str | os.PathLike[str], runs_dir: str | os.PathLike[str] | None = None) -> None:
        self._run = runs.find(os.fspath(run), runs_dir_of(runs_dir))
        _ = self._run.spec

    @classmethod
    def submit(cls, job: str | None = None, *, cluster: str = "slurm", options: Mapping[str, Any] | None = None,
               check: bool = True, **keys: Any) -> RunHandle:
        """Submit a training and its evaluation, as the verb ``submit`` does; ``ecm_cluster.submit`` is the same.

        Args:
            job: A job file, or its name in ``jobs/``; None: the defaults.
            cluster: ``slurm``, or ``local``: this machine.
            options: mmdet options, e.g. ``{"optimizer.lr": 0.01}``, laid over those of the job file.
            check: Whether to build the model and take a step before anything is submitted, where torch is installed.
            keys: Any key of a job file, e.g. ``name="first"``, ``gpus=2``, ``evaluation={"epochs": "all"}``.

        Raises:
            UserError: Something is invalid; its text is the line that the verb prints. Nothing was submitted.
        """
        return cls(verbs.submit(job, {**keys, **({"options": dict(options)} if options else {})}, cluster, check))

    @property
    def name(self) -> str:
        return self._run.name

    @property
    def path(self) -> Path:
        return self._run.path

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _fresh(self) -> internal.Run:
        return internal.Run(self.path)

    def state(self) -> RunState:
        """What the run is doing, and why: ``.state`` is ``running``, ``done``, …, ``.reason`` a text for people."""
        return states.fold([self._fresh()])[0]

    def wait(self, timeout: float | None = None, interval: float = 2.0) -> RunState:
        """Wait until the run is done, stopped, or failed; the state in which it ended.

        Args:
            timeout: Seconds; None: no limit.
            interval: Seconds between two looks.

        Raises:
            TimeoutError: It has not ended by then.
        """
        end = None if timeout is None else time.monotonic() + timeout
        since = None
        while True:
            state, now = self.state(), time.monotonic()
            since = (since or now) if state.state in ENDED else None
            if state.state == "done" or (since is not None and now - since >= PATIENCE):
                return state
            if end is not None and now >= end:
                raise TimeoutError(f"{self.name} is {state.state} after {timeout:g} s: {state.reason}")
            time.sleep(interval if end is None else max(0.0, min(interval, end - now)))

    def scores(self) -> list[dict[str, Any]]:
        """A row for each checkpoint and set of test settings that was scored, in the order of the training.

        Each has ``checkpoint``, ``iteration``, ``epoch``, ``settings``, and figures from 0 to 1 such as ``segm_AP``,
        ``segm_APr`` and ``bbox_AP``; None where one is undefined.
        """
        rows = []
        for record in results.as_records(results.rows(self._fresh())):
            figures = record.pop("figures")
            flat = {f"{kind}_{name}": value for kind, values in figures.items() for name, value in values.items()}
            rows.append({**record, **flat})
        return rows

    def log(self) -> list[dict[str, Any]]:
        """The logged lines of the training over all attempts, each iteration once: ``loss``, ``lr``, …"""
        return training_log.fold(self._fresh())

    def cancel(self) -> RunHandle:
        """End its jobs, as the verb ``cancel`` does; it stays resumable.

        Raises:
            UserError: It is another user's, or its jobs could not be ended.
        """
        verbs.call("cancel", str(self.path))
        return self

    def resume(self, *, iteration: int | None = None, rescale: bool = False, **changes: Any) -> RunHandle:
        """Resume a run that has ended, as the verb ``resume`` does; it does not wait.

        Args:
            iteration: Resume from the checkpoint of this iteration, not from the newest.
            rescale: Allow a number of ranks with which the run cannot stay identical.
            changes: Resources, e.g. ``gpus=4``, ``partition="preempt"``; None removes a value.

        Raises:
            UserError: It is alive, or the request cannot be fulfilled.
        """
        words = [f"--from={iteration}"] if iteration is not None else []
        verbs.call("resume", str(self.path), *words, *(["--rescale"] if rescale else []), *verbs.flags(changes))
        return self


Run = RunHandle  # as it is imported from the package; within it, Run is the directory
