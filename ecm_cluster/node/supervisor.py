"""The parent of a rank's worker process: it takes part in the attempt, watches the worker, and records the end.

It imports neither torch nor mmdet, so it answers signals while the worker cannot (imports, rendezvous, staging).
Every task of a job runs one. Rank 0's takes the attempt's number and decides what follows an agreed stop.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from .. import files
from ..run import Run, Work
from . import attempts, batch, closing, memory, preemption, preflight, requeue, watchdog, world
from .attempts import AttemptFailed

EXIT_STOPPED = 75  # of a worker: all ranks agreed to stop at the same step, and committed
JOIN_SECONDS = 600.0
STAY_SECONDS = 3600.0
STACKS_SECONDS = 1.0
STOPPED = "stopped"  # phase of a worker that has agreed to stop and committed, and has nothing to do but end
LEAVE_SECONDS = 20.0  # that it may take to end: what it leaves behind, the GPU's driver clears up
KILL_SECONDS = 10.0  # that a killed worker may take to end; one that waits for a broken GPU may never
ASK_AGAIN_SECONDS = 5.0


class Supervisor:
    """Carries one rank of one piece of work through one start of its job."""

    module = ""  # the worker's module
    stage = "train"

    def __init__(self, work: Work, run: Run) -> None:
        self.work, self.training = work, run
        self.place = world.identify()
        self.generation, self.memory_kills, self.log_begin = 0, 0, 0
        self._stopped_since: float | None = None
        self._stood_in = float("-inf")

    # -- what the two kinds of work answer differently

    def already_done(self) -> bool:
        raise NotImplementedError

    def basis(self, ledger: Any) -> dict[str, Any]:
        """Rank 0: what the attempt starts from, as fields of its file."""
        raise NotImplementedError

    def on_gpu(self) -> bool:
        """Whether the worker will need its GPU."""
        return self.training.job(self.stage).device == "cuda"

    def arguments(self) -> list[str]:
        """What the worker is told besides run and attempt."""
        return []

    def heed(self, attempt: int, ledger: Any) -> None:
        """What this process does about a signal itself, asked twice a second while the worker works."""
        raise NotImplementedError

    # -- the life of a task

    def run(self) -> None:
        """Until the work is done; raises :class:`AttemptFailed` in every other case."""
        self.look_for_missed_signals()
        if self.on_gpu() and not self.already_done():
            preflight.require(self.work, self.training, self.place)
        while not self.already_done():
            if self.training.cancelled(self.stage):
                raise AttemptFailed("not started: the run is cancelled")
            attempt = self.take_attempt()
            if attempt is None:
                return
            ledger = self.work.ledger(attempt, f"task{self.place.rank:03d}")
            ledger.write("start", pid=os.getpid(), host=socket.gethostname(), node=world.node_name(),
                         rank=self.place.rank)
            code = self.watch_worker(attempt, ledger)
            if code != 0 and self.already_done():  # it died after the completion mark, or as rank 0 did
                ledger.write("end" if self.place.rank == 0 else "left", rank=self.place.rank, cause="complete",
                             detail=f"the worker ended with code {code} when the work was done")
                return
            if code == EXIT_STOPPED or (code < 0 and (self._stopped_since or self.stopped_early(attempt))):
                self.after_stop(attempt, ledger)
            elif code != 0:
                self.after_failure(attempt, ledger, code)
            elif not self.already_done() and self.place.rank == 0:
                ledger.write("end", cause="crashed", detail="the worker ended without completing its work",
                             rank=0)
                raise AttemptFailed("the worker ended without completing its work")
            else:
                ledger.write("left", rank=self.place.rank)
                return

    def look_for_missed_signals(self) -> None:
        """A signal that came while Python started was ignored: rank 0 asks Slurm whether there was one."""
        if not self.place.on_slurm or self.place.rank != 0:
            return
        batch.settle(self.training, self.work, self.place.job_id, self.place.restart)
        cause = requeue.missed_signal(self.place)
        if cause == "preempted":
            preemption.ask_to_stop(signal.SIGTERM)
        elif cause == "requeued":
            raise AttemptFailed("Slurm has started this job again: this start is too late")

    def take_attempt(self) -> int | None:
        """The attempt's number: rank 0 creates its file, the others wait for it. None: the work is done."""
        mark = f"{self.place.identity}:{self.generation}"
        if self.place.rank == 0:
            return attempts.create(self.work, self.training, self.place, self.stage, mark, self.basis)
        end, near = time.monotonic() + JOIN_SECONDS, watchdog.Siblings(self.place.world_size)
        while time.monotonic() < end:
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
        self.work.logs_dir.mkdir(parents=True, exist_ok=True)
        self.memory_kills, self._stopped_since = memory.kills(), None
        with open(self.work.rank_log(self.place.rank), "ab") as log:
            self.log_begin = log.tell()
            log.write(f"---- attempt {attempt}, job {self.place.job_id} on {socket.gethostname()}, "
                      f"rank {self.place.rank} of {self.place.world_size}\n".encode())
            log.flush()
            worker = subprocess.Popen(
                [sys.executable, "-m", self.module, str(self.training.path), str(attempt), *self.arguments()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **world.export(self.place), **self._logging()}, preexec_fn=preemption.prepare_child)
        # Slurm signals the worker itself; submitit's local controller and a user's kill reach the supervisor alone
        preemption.forward_to(lambda number: _send(worker, number))
        if preemption.asked_to_stop():
            _send(worker, signal.SIGTERM)
        minutes = self.training.job(self.stage).hang_minutes
        dog = watchdog.Watchdog(self.work, attempt, self.place.rank, self.place.world_size, 60 * minutes)
        near = watchdog.Neighbours(self.work, attempt, self.place.rank, self.place.world_size)
        try:
            while True:
                try:
                    return worker.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    if self._must_end(attempt, ledger, worker, dog, near):
                        return _end(worker)
        finally:
            preemption.forward_to(None)
            watchdog.drop_if_empty(self.work.stacks_file(attempt, self.place.rank))

    def _must_end(self, attempt: int, ledger: Any, worker: subprocess.Popen, dog: watchdog.Watchdog,
                  near: watchdog.Neighbours) -> bool:
        """Whether to end the worker: another rank failed, nothing is heard any more, or it has stopped and stays."""
        if preemption.asked_to_stop() and self._should_have_left(attempt):
            return True
        abort = self.work.abort_file(attempt)
        if not abort.exists():
            silence = dog.silent()
            lost = near.lost() if silence is None and not self.place.on_slurm else None
            if silence is not None:
                ledger.write("end", cause="hung", rank=self.place.rank, detail=f"rank {self.place.rank}: {silence}; "
                             f"see {self.work.stacks_file(attempt, self.place.rank)}")
                closing.abort(self.work, attempt, ledger, rank=self.place.rank, cause="hung")
            elif lost is not None:
                ledger.write("end", cause="killed", rank=lost, detail=f"rank {lost}: its task is gone without a word")
                closing.abort(self.work, attempt, ledger, rank=lost, cause="killed")
            elif world.driver_is_gone() and not preemption.asked_to_stop():
                preemption.ask_to_stop(signal.SIGTERM)
            self.heed(attempt, ledger)
        if abort.exists():
            if files.read_json(abort).get("cause") == "hung":
                _send(worker, signal.SIGUSR1)  # each rank says where it stands: those that wait, and the one that hangs
                time.sleep(STACKS_SECONDS)
            return True
        return False

    def _should_have_left(self, attempt: int) -> bool:
        """Whether the worker has committed, and its end takes too long: NCCL or a GPU must not delay the requeue."""
        if self._stopped_since is None:
            if (self.work.heartbeat(attempt, self.place.rank) or {}).get("phase") != STOPPED:
                return False
            self._stopped_since = time.monotonic()
        return time.monotonic() - self._stopped_since > LEAVE_SECONDS

    def _logging(self) -> dict[str, str]:
        """One run of W&B for all attempts, if the config logs there and the user has not said otherwise."""
        names = {"WANDB_RUN_ID": self.training.spec.run_id, "WANDB_NAME": self.training.name,
                 "WANDB_RESUME": "allow", "WANDB_DIR": str(self.work.logs_dir)}
        return {k: v for k, v in names.items() if k not in os.environ}

    # -- how it ended

    def after_failure(self, attempt: int, ledger: Any, code: int) -> None:
        """Record a crash or kill once, tell the other ranks, and fail the task."""
        requeue.stand_in(self.training, self.work, attempt, self.place, ledger, self.stage)
        if not self.work.abort_file(attempt).exists():
            closing.record_exit(self.work, self.place, attempt, ledger, code, self.log_begin,
                                starved=memory.kills() > self.memory_kills)
            closing.abort(self.work, attempt, ledger, rank=self.place.rank, code=code)
        raise AttemptFailed(f"rank {self.place.rank}: the worker ended with code {code}; "
                            f"see {self.work.rank_log(self.place.rank)}")

    def stand_in(self, attempt: int, ledger: Any) -> None:
        """After a signal, on another node than rank 0's: that one may have failed, and the batch shell with it."""
        due = time.monotonic() - self._stood_in > ASK_AGAIN_SECONDS
        if self.place.node != 0 and preemption.asked_to_stop() and due:
            self._stood_in = time.monotonic()
            requeue.stand_in(self.training, self.work, attempt, self.place, ledger, self.stage)

    def stopped_early(self, attempt: int) -> bool:
        """Whether rank 0's supervisor has ended the workers as a signal came, and not as one of them failed."""
        abort = self.work.abort_file(attempt)
        return abort.exists() and bool(files.read_json(abort).get("stopped"))

    def after_stop(self, attempt: int, ledger: Any) -> None:
        """All ranks have stopped, at the same step or before any: rank 0 finds out why, and they do the same thing."""
        path = self.work.decision_file(attempt)
        heard = preemption.received()
        preemption.clear()  # before Slurm is asked: what comes later is news, and stops the next attempt
        if self.place.rank == 0:
            decision = requeue.after_stop(self.training, self.work, attempt, self.place, ledger, self.stage, heard)
            files.write_json(path, decision)
        else:
            decision = self._await_decision(path)
        if decision["action"] == "again":
            self.generation += 1
            return
        if decision["action"] == "stay":
            if self.place.rank == 0 and decision["cause"] in batch.BROUGHT_BACK:
                refused = requeue.requeue(self.training, self.work, attempt, self.place, ledger, self.stage)
                if refused:
                    raise AttemptFailed(refused)
            self._stay(attempt)
        raise AttemptFailed(f"stopped: {decision['cause']}")

    def _await_decision(self, path: Any) -> dict[str, Any]:
        """Rank 0's answer, waited for as long as it asks: a rank that gave up would fail a job that is to be requeued.

        On one machine nobody but the others notices that rank 0's task has died before it could answer.
        """
        near, end, lost = watchdog.Siblings(self.place.world_size), time.monotonic() + STAY_SECONDS, False
        while time.monotonic() < end and not lost:
            lost = not self.place.on_slurm and near.gone()
            decision = _await_json(path, 1.0)
            if decision is not None:
                return decision
        return {"action": "stop", "cause": "unknown"}

    def _stay(self, attempt: int) -> None:
        """Until Slurm ends the task, or has accepted a requeue: an exit before would be the end of the job."""
        end = time.monotonic() + STAY_SECONDS
        while time.monotonic() < end:
            if any(e.attempt == attempt and e.kind == "requeue" and e["accepted"] for e in self.work.events()):
                return
            time.sleep(1.0)


def _send(worker: subprocess.Popen, number: int) -> None:
    if worker.poll() is None:
        worker.send_signal(number)


def _end(worker: subprocess.Popen) -> int:
    """Kill the worker; its exit code."""
    worker.kill()
    try:
        return worker.wait(timeout=KILL_SECONDS)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL  # it waits in the kernel, for a GPU that does not answer


def _await_json(path: Any, seconds: float) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists():
            return files.read_json(path)
        time.sleep(0.1)
    return None
