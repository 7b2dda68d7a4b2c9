"""The parent of a rank's worker process: it takes part in the attempt, watches the worker, and records the end.

It imports neither torch nor mmdet, so it answers signals while the worker cannot (imports, rendezvous, staging).
Every task of a job runs one. Rank 0's takes the attempt's number and decides what follows an agreed stop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from typing import Any

from ...attempts import causes
from ...base import files, processes
from ...rundir.run import Run, Work
from .. import heartbeat, signals, world
from ..beside import Beside, Quiet, patiently
from ..companion import Closing
from ..gpu import machine, preflight
from . import attempts, decision, epilog, oom, postmortem, requeue, watchdog, watching
from .attempts import AttemptFailed

EXIT_STOPPED = 75  # of a worker: all ranks agreed to stop at the same step, and committed
JOIN_SECONDS = 600.0  # that rank 0 may take before an attempt: it checks its GPU, and reads checkpoints to verify them
ASK_AGAIN_SECONDS = 5.0  # between questions to Slurm, and for last writes: the least that it leaves after SIGTERM
STORAGE_SECONDS = 30.0  # that storage which answers with errors is asked again


class Supervisor:
    """Carries one rank of one piece of work through one start of its job."""

    process = ""  # the worker's name in `processes`
    link = "train"

    def __init__(self, work: Work, run: Run) -> None:
        self.work, self.training = work, run
        self.place = world.identify()
        self.generation, self.memory_kills, self.log_begin = 0, 0, 0
        self.agreed = False  # whether the worker has stopped as all ranks agreed, and committed
        self.memory = heartbeat.HeartbeatMemory()
        self._stood_in = float("-inf")

    # -- what the two kinds of work answer differently

    def already_done(self) -> bool:
        raise NotImplementedError

    def basis(self, ledger: Any) -> dict[str, Any]:
        """Rank 0: what the attempt starts from, as fields of its file."""
        raise NotImplementedError

    def on_gpu(self) -> bool:
        """Whether the worker will need its GPU."""
        return self.training.job(self.link).device == "cuda"

    def arguments(self) -> list[str]:
        """The worker's arguments besides run and attempt."""
        return []

    def poll_signals(self, attempt: int, ledger: Any) -> None:
        """What this process does about a signal itself, asked twice a second while the worker works."""
        raise NotImplementedError

    def aside(self, attempt: int) -> list[Closing]:
        """What rank 0 does beside that, in threads of their own."""
        return [Beside(partial(self.work.fold_ledger, attempt - 1), None),
                Beside(partial(machine.put_on_record, self.work, self.training, attempt, self.link), None)]

    # -- the life of a task

    def run(self) -> None:
        """Until the work is done; raises :class:`AttemptFailed` in every other case."""
        self.look_for_missed_signals()
        if self.on_gpu() and not self.already_done():
            preflight.require(self.work, self.training, self.place)
        while not self._done():
            if patiently(partial(self.training.cancelled, self.link), STORAGE_SECONDS):
                raise AttemptFailed("not started: the run is cancelled")
            attempt = self.take_attempt()
            if attempt is None:
                return
            ledger = self.work.ledger(attempt, f"task{self.place.rank:03d}", patient=True)
            try:
                ledger.write("start", pid=os.getpid(), host=socket.gethostname(), node=world.node_name(),
                             rank=self.place.rank)
                if self._carry(attempt, ledger):
                    return
            finally:
                with Quiet():
                    patiently(ledger.retry, ASK_AGAIN_SECONDS)

    def _done(self) -> bool:
        return patiently(self.already_done, STORAGE_SECONDS)

    def _carry(self, attempt: int, ledger: Any) -> bool:
        """One attempt of this rank; whether that was the last."""
        code = self.watch_worker(attempt, ledger)
        if code != 0 and self._done():  # it died after the completion mark, or as rank 0 did
            ledger.write("end" if self.place.rank == 0 else "left", rank=self.place.rank, cause="complete",
                         detail=f"the worker ended with code {code} when the work was done")
        elif code == EXIT_STOPPED or (code < 0 and (self.agreed or self.stopped_early(attempt))):
            self.after_stop(attempt, ledger)
            return False
        elif code != 0:
            self.after_failure(attempt, ledger, code)
        elif self.place.rank == 0 and not self._done():
            ledger.write("end", cause="crashed", detail="the worker ended without completing its work", rank=0)
            raise AttemptFailed("the worker ended without completing its work")
        else:
            ledger.write("left", rank=self.place.rank)
        if self.place.rank == 0:
            with Quiet():
                self.work.fold_ledger(attempt)
        return True

    def look_for_missed_signals(self) -> None:
        """A signal that came while Python started was ignored: rank 0 asks Slurm whether there was one."""
        if not self.place.on_slurm or self.place.rank != 0:
            return
        epilog.settle(self.training, self.work, self.place.job_id, self.place.restart)
        cause = requeue.missed_signal(self.place)
        if cause == "preempted":
            signals.ask_to_stop(signal.SIGTERM)
        elif cause == "requeued":
            raise AttemptFailed("Slurm has started this job again: this incarnation is stale")

    def take_attempt(self) -> int | None:
        """The attempt's number: rank 0 creates its file, the others wait for it. None: the work is done."""
        mark = f"{self.place.identity}:{self.generation}"
        if self.place.rank == 0:
            return attempts.create(self.work, self.training, self.place, self.link, mark, self.basis)
        end, near, quiet = time.monotonic() + JOIN_SECONDS, watchdog.Siblings(self.place.world_size), Quiet()
        while time.monotonic() < end:
            with quiet:
                newest = self.work.newest_attempt()
                if newest and self.work.read_attempt(newest).get("identity") == mark:
                    return newest
                if self.already_done():
                    return None
            if not self.place.on_slurm and near.gone():
                raise AttemptFailed("another rank's task is gone, and no attempt began")
            time.sleep(0.1)
        raise AttemptFailed(f"rank 0 began no attempt within {JOIN_SECONDS:.0f} s")

    def watch_worker(self, attempt: int, ledger: Any) -> int:
        """Start the worker and wait for its end; ends it when another rank has failed.

        Returns:
            Its exit code, negative for a signal.
        """
        self.memory_kills, self.agreed = oom.kills(), False
        self.memory.close()
        self.memory = heartbeat.HeartbeatMemory()  # the last worker's progress is not this one's
        worker = self._start_worker(attempt)
        # Slurm signals the worker itself; submitit's local controller and a user's kill reach the supervisor alone
        signals.forward_to(partial(watching.send, worker))
        # one that came between the start and forward_to has reached this process alone
        if signals.asked_to_stop():
            watching.send(worker, signal.SIGTERM)
        minutes = self.training.job(self.link).hang_minutes
        watch = watching.Watch(self.work, self.place, attempt, ledger, self.memory, 60 * minutes,
                               partial(self.poll_signals, attempt, ledger))
        aside = self.aside(attempt) if self.place.rank == 0 else []
        try:
            return watch.until_it_ends(worker)
        finally:
            self.agreed = watch.stopped_since is not None
            for each in aside:
                each.close()
            signals.forward_to(None)
            watchdog.drop_if_empty(self.work.stacks_file(attempt, self.place.rank))

    def _start_worker(self, attempt: int) -> subprocess.Popen:
        self.work.logs_dir.mkdir(parents=True, exist_ok=True)
        with open(self.work.rank_log(self.place.rank), "ab", buffering=0) as log:
            self.log_begin = log.tell()
            with contextlib.suppress(OSError):  # a full disk takes no line
                log.write(f"---- attempt {attempt}, job {self.place.job_id} on {socket.gethostname()}, "
                          f"rank {self.place.rank} of {self.place.world_size}\n".encode())
            return subprocess.Popen(
                processes.command(sys.executable, self.process, self.training.path, attempt, *self.arguments()),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(self.memory.descriptor,),
                env={"PYTHONUTF8": "1", **os.environ, **world.export(self.place), **self._for_libraries(),
                     heartbeat.ENV: str(self.memory.descriptor)}, preexec_fn=signals.prepare_child)

    def _for_libraries(self) -> dict[str, str]:
        """A home if there is none; one run of W&B for all attempts, if the config logs there. The user's own stand."""
        names = {"WANDB_RUN_ID": self.training.spec.run_id, "WANDB_NAME": self.training.name,
                 "WANDB_RESUME": "allow", "WANDB_DIR": str(self.work.logs_dir)}
        if os.path.expanduser("~") == "~":  # no HOME, and no passwd entry: what mmcv imports keeps caches there
            names["HOME"] = str(self.work.logs_dir)
        return {k: v for k, v in names.items() if k not in os.environ}

    # -- how it ended

    def after_failure(self, attempt: int, ledger: Any, code: int) -> None:
        """Record a crash or kill once, tell the other ranks, and fail the task."""
        with Quiet():
            stood_in = requeue.stand_in(self.training, self.work, attempt, self.place, ledger, self.link)
            if not stood_in and postmortem.only_follows(self.work, self.place, attempt, code, self.log_begin):
                requeue.outlive(self.training, self.work, attempt, self.place, ledger, self.link)
        with Quiet():
            if not patiently(self.work.abort_file(attempt).exists, STORAGE_SECONDS):
                patiently(partial(postmortem.record_exit, self.work, self.place, attempt, ledger, code, self.log_begin,
                                  starved=oom.kills() > self.memory_kills), STORAGE_SECONDS)
                postmortem.abort(self.work, attempt, ledger, rank=self.place.rank, code=code)
        raise AttemptFailed(f"rank {self.place.rank}: the worker ended with code {code}; "
                            f"see {self.work.rank_log(self.place.rank)}")

    def stand_in(self, attempt: int, ledger: Any) -> None:
        """After a signal, on another node than rank 0's: that one may have failed, and the batch shell with it."""
        due = time.monotonic() - self._stood_in > ASK_AGAIN_SECONDS
        if self.place.node != 0 and signals.asked_to_stop() and due:
            self._stood_in = time.monotonic()
            requeue.stand_in(self.training, self.work, attempt, self.place, ledger, self.link)

    def stopped_early(self, attempt: int) -> bool:
        """Whether rank 0's supervisor has ended the workers as a signal came, and not as one of them failed."""
        abort = patiently(partial(postmortem.read_abort, self.work, attempt), STORAGE_SECONDS)
        return abort is not None and bool(abort.get("stopped"))

    def after_stop(self, attempt: int, ledger: Any) -> None:
        """All ranks have stopped, at the same step or before any: rank 0 finds out why, and they all do the same."""
        received = signals.received()
        signals.clear()  # before Slurm is asked: a signal that comes later is news, and stops the next attempt
        if self.place.rank == 0:
            # what it reads may fail, and comes before what it does
            decided = patiently(partial(requeue.after_stop, self.training, self.work, attempt, self.place, ledger,
                                        self.link, received), STORAGE_SECONDS)
            with Quiet():  # on a full disk the others do not learn it, and end with this task
                patiently(partial(files.write_json, self.work.decision_file(attempt), decided), ASK_AGAIN_SECONDS)
        else:
            decided = decision.await_decision(self.work, attempt, self.place)
        if decided["action"] == "again":
            self.generation += 1
            return
        if decided["action"] == "stay":
            if self.place.rank == 0 and decided["cause"] in causes.REQUEUES:
                refused = patiently(partial(requeue.requeue, self.training, self.work, attempt, self.place, ledger,
                                            self.link), STORAGE_SECONDS)
                if refused:
                    raise AttemptFailed(refused)
            decision.stay(self.work, attempt)
        raise AttemptFailed(f"stopped: {decided['cause']}")
