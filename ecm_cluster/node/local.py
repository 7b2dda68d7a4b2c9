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
        idle = 0
        while True:
            if self._cancelled or self.run.cancel_file.exists():
                return recovery.Decision("stop", "cancelled")
            work: Work = self.run if stage == chain.TRAIN else chain.last_evaluation(self.run)
            before = work.newest_attempt()
            job_id = self._launch(stage, asked.tasks)
            newest = work.newest_attempt()
            # the fence: what another machine has begun meanwhile is not this driver's to decide on
            if newest > before and str(work.read_attempt(newest)["job_id"]) != job_id:
                return recovery.Decision("stop", f"attempt {newest} of another start carries it on")
            decision = recovery.decide(work)
            if self._cancelled:
                return recovery.Decision("stop", "cancelled")
            if decision.action != "continue":
                return decision
            # an end counts in its budget once only: a start that began no attempt counts here
            idle = idle + 1 if newest == before else 0
            if idle == recovery.BARREN_LIMIT:
                why = f"{idle} starts in a row began no attempt; see {self.run.submitit_dir}"
                return recovery.Decision("stop", why)
            say(f"{stage}: attempt {work.newest_attempt()} ended ({decision.reason}); going on")

    def _launch(self, stage: str, tasks: int) -> str:
        """Run a stage's tasks to their end; their job id."""
        os.environ[DRIVER_ENV] = str(os.getpid())
        executor = cluster.local_executor(self.run, self.job, tasks)
        controller = executor.submit(chain.task(self.run, stage))
        self._process = controller._process
        while self._process.poll() is None:
            time.sleep(0.2)
        self._process = None
        return str(controller.job_id)

    def _cancel(self, number: int, frame: object) -> None:
        self._cancelled = True
        files.write_json(self.run.cancel_file, {"time": time.time(), "by": signal.Signals(number).name})
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)  # submitit's controller passes it on to each task


def say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(Driver(Run(sys.argv[1])).play())
