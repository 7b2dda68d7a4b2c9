"""Weights & Biases: one run, whose history has a row for each point, with the iteration as its step.

Offline a history that has to change is written into a new folder with the same run ID, which replaces the older one.
The service keeps what it has: online only what follows is sent, and later scores as rows of their own, drawn over
``iteration`` like all others. The values that a resumed training repeats are the same ones.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..base.errors import brief
from ..job.tracker_options import OFFLINE, ONLINE
from ..mmconfig.config import read_literals
from . import wandb_file
from .series import Point
from .tracker import LASTING, Tracker

SCORED = "scored_iterations"  # in the run's summary: whose scores the service has
# for every version since 0.16: no output, hardware statistics, source code or packages of this process, which does
# not train
QUIET = {name: "true" for name in (
    "WANDB_SILENT", "WANDB_DISABLE_GIT", "WANDB_DISABLE_CODE", "WANDB__DISABLE_STATS", "WANDB__DISABLE_META",
    "WANDB_X_DISABLE_STATS", "WANDB_X_DISABLE_META", "WANDB_X_DISABLE_MACHINE_INFO")}
# seconds between looks at a file: on a busy machine W&B's own process still writes when ``finish`` has returned
FLUSH_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 0.0)
IN_USE, GIVE_UP_PAUSES = "is in use", (1.0, 2.0, 4.0, 8.0, 0.0)  # what W&B says of the ID, and seconds until it is free
INIT = ("project", "entity", "name", "group", "job_type", "notes", "tags")


class WeightsAndBiases(Tracker):
    """Writes by W&B's own library."""

    _run: Any = None
    _rows = 0
    _online = False

    @property
    def run_id(self) -> str:
        return os.environ.get("WANDB_RUN_ID") or self.run.spec.run_id

    @property
    def _mode(self) -> str:
        return self.options.get("mode") or os.environ.get("WANDB_MODE") or OFFLINE

    @property
    def _folders(self) -> set[Path]:
        """This run's, of offline and online records."""
        return set(self.run.tracker_dir("wandb").glob(f"*run-*-{self.run_id}"))

    def rewrite(self, points: Sequence[Point]) -> None:
        self._drop()
        mode = self._mode
        if mode == ONLINE:
            try:
                self._open(ONLINE)
            except Exception as error:  # no network, no key, no such entity, …
                self.warn(f"{LASTING} ({brief(str(error), 200)}); writing offline, for `wandb sync`")
                self._give_up()
                mode = OFFLINE
        if mode == ONLINE:
            self._send(points)  # also what an older folder has of a time without network
        else:
            if self._folders:
                time.sleep(1.1)  # the name of a folder has the second in which it began
            self._open_offline()
            self._log(points)
        for folder in self._folders - {Path(self._run.dir).parent}:
            shutil.rmtree(folder, ignore_errors=True)

    def append(self, points: Sequence[Point]) -> None:
        self._send(points) if self._online else self._log(points)

    def _open(self, mode: str) -> None:
        # some versions run git nevertheless, which locks the index of the user's checkout
        os.environ.update({**QUIET, "WANDB_CONSOLE": "off", "GIT_DIR": os.devnull})
        import wandb

        self.run.trackers_dir.mkdir(parents=True, exist_ok=True)
        given: dict[str, Any] = {"project": os.environ.get("WANDB_PROJECT") or "ecm-cluster", "name": self.run.name,
                                 **{key: self.options[key] for key in INIT if key in self.options}}
        given.update(id=self.run_id, mode=mode, config=self._config(), dir=str(self.run.trackers_dir),
                     resume="allow" if mode == ONLINE else None)
        # settings that a job has for its own use of the library
        for name in ("WANDB_RESUME", "WANDB_DIR", "WANDB_NAME"):
            os.environ.pop(name, None)
        if mode == OFFLINE:  # a limit for the network; on a busy machine a few seconds are too short
            os.environ.pop("WANDB_INIT_TIMEOUT", None)
        self._run = wandb.init(**given)
        self._rows, self._online = 0, mode == ONLINE
        if self.run.trackers_dir not in Path(self._run.dir).parents:
            raise OSError(f"{self.run.trackers_dir} is not writable for W&B, which writes to {self._run.dir}")
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def _open_offline(self) -> None:
        for pause in GIVE_UP_PAUSES:
            try:
                return self._open(OFFLINE)
            except Exception as error:
                # a busy W&B may take seconds to end what could not go online
                if IN_USE not in str(error) or not pause:
                    raise
                self._give_up()
                time.sleep(pause)

    @staticmethod
    def _give_up() -> None:
        """End W&B's own process, in which a run that could not begin keeps its ID."""
        import wandb

        with contextlib.suppress(Exception):
            wandb.teardown()

    def _config(self) -> Mapping[str, Any]:
        spec = self.run.spec
        return {"job": self.run.job().as_record(), "batch": spec.batch, "versions": spec.versions,
                "config": read_literals(self.run.config_file)}

    def _log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log({"iteration": point.iteration, **point.values, "_timestamp": point.time},
                          step=point.iteration, commit=True)
            self._rows += 1

    def _send(self, points: Sequence[Point]) -> None:
        """What the service does not have."""
        known = set(self._run.summary.get(SCORED) or ())
        first = self._run.step
        self._log([point for point in points if point.iteration >= first])
        late = [point for point in points if point.iteration < first and point.scores
                and point.iteration not in known]
        # each takes a step, which a line that is still to come must not need
        gap = points[-1].iteration - points[-2].iteration if len(points) > 1 else 0
        if len(late) < gap or self.run.completion() is not None:
            for point in late:
                self._run.log({"iteration": point.iteration, **{name: point.values[name] for name in point.scores},
                               "_timestamp": point.time})
        else:
            late = []
        new = [point for point in points if point.scores and point.iteration >= first]
        has = known | {point.iteration for point in new + late}
        if has != known:
            self._run.summary[SCORED] = sorted(has)

    def close(self) -> None:
        run, self._run = self._run, None
        if run is None:
            return
        file = Path(run.dir).parent / f"run-{self.run_id}.wandb"
        run.finish()
        if self._online:
            return
        for pause in FLUSH_PAUSES:
            if (rows := wandb_file.rows(file)) == self._rows:
                return
            time.sleep(pause)
        raise OSError(f"{file} has {rows} rows of {self._rows}: is the disk full, or over quota?")

    def _drop(self) -> None:
        with contextlib.suppress(Exception):  # it is replaced
            self.close()

    def exists(self) -> bool:
        return self._mode == ONLINE or bool(self._folders)
