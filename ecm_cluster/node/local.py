"""The chain on one machine: what Slurm's requeue and dependency do on a cluster, one step after the other.

Started detached by ``submit --cluster local`` as ``python -m ecm_cluster.node.local RUN``. It runs each stage
through submitit's local executor, runs a stage again when it stopped resumably, and starts the evaluation only on a
complete run. SIGTERM or Ctrl-C to it is a cancel: the ranks commit and end, and the run can be resumed.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from .. import chain, cluster, files, recovery
from ..run import Run, Work
from .world import DRIVER_ENV


class Driver:
    """Plays the chain of one run."""

    def __init__(self, run: Run) -> None:
        self.run, self.job = run, chain.frozen_job(run)
        self._process: Any = None
        self._cancelled = False

    def play(self) -> int:
        """All stages; 0 when the last is done."""
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGINT, self._cancel)
        for stage in chain.stages(self.job):
            say(f"{stage}: starting")
            decision = self._stage(stage)
            say(f"{stage}: {decision.action}: {decision.reason}")
            if decision.action != "done":
                return 1
        return 0

    def _stage(self, stage: str) -> recovery.Decision:
        asked = chain.request(self.run, self.job, stage, token="local")
        while True:
            if self._cancelled or self.run.cancel_file.exists():
                return recovery.Decision("stop", "cancelled")
            self._launch(stage, asked.tasks)
            work: Work = self.run
            if stage == chain.EVALUATE:
                work = chain.last_evaluation(self.run)
            decision = recovery.decide(work)
            if self._cancelled:
                return recovery.Decision("stop", "cancelled")
            if decision.action != "continue":
                return decision
            say(f"{stage}: attempt {work.newest_attempt()} ended ({decision.reason}); going on")

    def _launch(self, stage: str, tasks: int) -> None:
        os.environ[DRIVER_ENV] = str(os.getpid())
        executor = cluster.local_executor(self.run, self.job, tasks)
        controller = executor.submit(chain.task(self.run, stage))
        self._process = controller._process
        while self._process.poll() is None:
            time.sleep(0.2)
        self._process = None

    def _cancel(self, number: int, frame: object) -> None:
        self._cancelled = True
        files.write_json(self.run.cancel_file, {"time": time.time(), "by": signal.Signals(number).name})
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)  # submitit's controller passes it on to each task


def say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(Driver(Run(sys.argv[1])).play())
