"""The chain on one machine: what Slurm's requeue and dependency do on a cluster, one step after the other.

Started detached by ``submit --cluster local`` as ``python -m ecm_cluster.node.supervise.local_driver LINK RUN``;
LINK is ``chain`` for the training and what stands behind it. It runs each link through submitit's local executor,
the elements of an array one after the other, runs what stopped resumably again, and starts an evaluation only on a
existing checkpoint. SIGTERM or Ctrl-C to it is a cancel: the ranks commit and end, and the run can be resumed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import Any

from ...attempts import endings, starts
from ...backends import driver
from ...base import processes
from ...chain import chain, evaluations, submissions
from ...rundir.run import Run, Work
from ...slurm import launcher
from ...slurm.sbatch import TOKEN_ENV
from ..world import DRIVER_ENV, ELEMENT_ENV
from . import afterwards


class LocalDriver:
    """Runs the chain of one run, or one link of it."""

    def __init__(self, run: Run, link: str) -> None:
        self.run, self.job = run, run.job(chain.TRAIN if link == driver.CHAIN else link)
        self.links = chain.links(self.job) if link == driver.CHAIN else [link]
        self.token = os.environ.get(TOKEN_ENV, "")
        self.on_record = chain.TRAIN if link == driver.CHAIN else link
        self._process: Any = None
        self._cancelled = False

    def run_chain(self) -> int:
        """All links; 0 when the last is done."""
        signal.signal(signal.SIGTERM, self._cancel)
        signal.signal(signal.SIGINT, self._cancel)
        failed = False
        for link in self.links:
            several = 1 if link == chain.TRAIN else len(evaluations.read(self.run, link))
            for index in range(several):
                name = link if several == 1 else f"{link} {index}"
                say(f"{name}: starting")
                decision = self._run_step(link, index)
                say(f"{name}: {decision.action}: {decision.reason}")
                failed |= decision.action != "done"
                if decision.action == "stop" and not self._cancelled:
                    afterwards.carry_out(self.run)  # where it is done, rank 0's supervisor has done so
                if failed and (link == chain.TRAIN or self._cancelled):
                    return 1
        return int(failed)

    def _run_step(self, link: str, index: int) -> endings.Decision:
        asked = chain.request(self.run, self.job, link, token="local")
        os.environ[ELEMENT_ENV] = str(index)
        idle = 0
        while True:
            if self._cancelled or self.run.cancelled(link):
                return endings.Decision("stop", "cancelled")
            stale = submissions.stale(self.run, self.on_record, self.token, "")
            if stale:
                return endings.Decision("stop", stale)
            work: Work = self.run
            if link != chain.TRAIN:
                element = evaluations.read(self.run, link)[index]
                found = evaluations.of_element(self.run, element)
                if found is None:
                    return endings.Decision("stop", f"there is no checkpoint: {element.at}")
                if evaluations.done(self.run, element):
                    return endings.Decision("done", "scored already")
                work = found
            before = work.newest_attempt()
            job_id = self._launch(link, asked.job.world_size)
            newest = work.newest_attempt()
            # the fence: what another machine has begun meanwhile is not this driver's to decide on
            if newest > before and str(work.read_attempt(newest)["job_id"]) != job_id:
                return endings.Decision("stop", f"attempt {newest} of another start carries it on")
            decision = endings.decide(work)
            if self._cancelled:
                return endings.Decision("stop", "cancelled")
            if decision.action != "continue":
                return decision
            # an end counts in its budget once only: a start that began no attempt counts here
            idle = idle + 1 if newest == before else 0
            if idle == endings.NO_PROGRESS_LIMIT:
                why = f"{idle} starts in a row began no attempt; see {self.run.submitit_dir}"
                return endings.Decision("stop", why)
            say(f"{link}: attempt {work.newest_attempt()} ended ({decision.reason}); continuing")

    def _launch(self, link: str, tasks: int) -> str:
        """Run a link's tasks to their end; their job id."""
        os.environ[DRIVER_ENV] = str(os.getpid())
        executor, began = launcher.local_executor(self.run, self.job, tasks), time.time()
        controller = executor.submit(chain.task(self.run, link))
        starts.put_on_record(self.run, str(controller.job_id), "begin", cluster="local", stage=link, time=began)
        self._process = controller._process
        while self._process.poll() is None:
            time.sleep(0.2)  # of a local process: no storage is asked
        self._process = None
        starts.put_on_record(self.run, str(controller.job_id), "left", cluster="local", stage=link, time=time.time())
        return str(controller.job_id)

    def _cancel(self, number: int, frame: object) -> None:
        self._cancelled = True
        # before the signal: by the mark rank 0 tells a cancellation from any other signal
        self.run.mark_cancelled(signal.Signals(number).name)
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)  # submitit's controller passes it on to each task


def say(text: str) -> None:
    line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n"
    with contextlib.suppress(OSError):  # the log may be on a full disk
        os.write(1, line.encode(errors="backslashreplace"))


def tell_owner(run: Run) -> None:
    """Start the process that sends messages about the run; it waits until this one has ended."""
    if run.notify_file.exists():
        with contextlib.suppress(OSError):
            subprocess.Popen(processes.command(sys.executable, "notices", "--wait", run.path), cwd="/",
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)


if __name__ == "__main__":
    try:
        code = LocalDriver(Run(sys.argv[2]), sys.argv[1]).run_chain()
    finally:
        tell_owner(Run(sys.argv[2]))
    sys.exit(code)
