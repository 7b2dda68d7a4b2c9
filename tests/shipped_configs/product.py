"""A run of the product, each of its processes forked from one that has imported mmdet: submission, training, scores.

What a user's command line does is done by the product's own code: the job is read, planned and refused or frozen, a
rank's supervisor takes the attempt, the worker's ``main`` trains, commits, stops at a signal, resumes and scores. Left
out are the driver that starts the tasks and the start of Python for each of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ecm_cluster import submit
from ecm_cluster.chain import evaluations
from ecm_cluster.plan import create, plan_text, planning
from ecm_cluster.rundir.run import Run

FLAGS = ("--cluster", "local", "--device", "cpu", "--gpus", "1", "--cpus-per-gpu", "1", "--stage", "none",
         "--mem-per-gpu", "none")
SECONDS = 600.0  # that one step of a trial may take


class Failed(Exception):
    """A step ended in another way than it should; the text is the last line of its traceback."""


def forked(step: Callable[[], Any], log: Path, code: int = 0, seconds: float = SECONDS) -> Any:
    """What ``step`` returns, run in a forked process that ends with it; its output goes to ``log``.

    Raises:
        Failed: It raised, ended with another code than ``code``, or took too long.
    """
    answer = log.with_suffix(".answer")
    answer.unlink(missing_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _be_child(step, log, answer)
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Failed(f"not done after {seconds:.0f} s")
        time.sleep(0.05)
    if not answer.exists():
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
        raise Failed(f"ended with status {code}: {last_line(log)}")
    said = json.loads(answer.read_text())
    if "error" in said:
        raise Failed(said["error"])
    return said["value"]


def _be_child(step: Callable[[], Any], log: Path, answer: Path) -> None:
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        try:
            said = {"value": step()}
        except BaseException as error:
            traceback.print_exc()
            first = str(error).strip().partition("\n")[0]
            said = {"error": f"{type(error).__name__}: {first}"}
        sys.stdout.flush()
        sys.stderr.flush()
        answer.write_text(json.dumps(said))
    finally:
        os._exit(0)


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "nothing was printed"


def submitted(config: Path, runs: Path, name: str, *flags: str) -> Run:
    """Plan and freeze a run, as ``submit --cluster local`` does, without starting it.

    Raises:
        UserError: The product refuses it.
    """
    args = submit.parser().parse_args([
        "--config", str(config), "--runs-dir", str(runs), "--name", name, *FLAGS, *flags])
    job = submit.read_job(args)
    plan = planning.make(job, "local")
    if plan.problems:
        raise Failed(plan.problems[0])
    print(plan_text.describe(plan))
    return create.create(Run(Path(job.runs_dir) / name), plan)


def _be_task() -> None:
    """The environment of the only task of a local job."""
    os.environ.update(SUBMITIT_LOCAL_JOB_ID=str(os.getpid()), SUBMITIT_LOCAL_NTASKS="1", SUBMITIT_LOCAL_GLOBALID="0",
                      SUBMITIT_LOCAL_LOCALID="0")
    from mmcv.runner import epoch_based_runner, iter_based_runner

    for module in (epoch_based_runner, iter_based_runner):
        module.time = _NoSleep()


class _NoSleep:
    """mmcv's runners sleep for two seconds at each epoch's start."""

    def __getattr__(self, name: str) -> Any:
        return (lambda seconds: None) if name == "sleep" else getattr(time, name)


def train(run: Run, stop_after: int | None = None) -> int:
    """One attempt of a run, in this process; its worker's exit code.

    Args:
        stop_after: Iteration after which the process sends itself what Slurm sends at a preemption.
    """
    _be_task()
    from ecm_cluster.node.supervise import supervise_training
    from ecm_cluster.node.training import step_hook, worker

    if stop_after is not None:
        original = step_hook.StepHook.__call__

        def signalled(self: Any, epoch_end: bool) -> None:
            if self.trainer.iteration >= stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            original(self, epoch_end)

        step_hook.StepHook.__call__ = signalled  # type: ignore[method-assign]
    supervisor = supervise_training.TrainingSupervisor(run)
    attempt = supervisor.take_attempt()
    assert attempt is not None, "the run is complete already"
    code = worker.main(str(run.path), attempt)
    if code == 1:
        raise Failed(_reason(run))
    return code


def _reason(work: Any) -> str:
    ends = [event for event in work.events() if event.kind == "end"]
    text = str(ends[-1].get("traceback") or ends[-1].get("detail")) if ends else "no reason on record"
    # a message may have several lines, of which the first says what
    last = [line for line in text.strip().splitlines() if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
    return last[-1] if last else text.strip().splitlines()[-1]


def evaluate(run: Run) -> dict[str, Any]:
    """Score the last checkpoint of a complete run, in this process; the figures of ``metrics.json``."""
    _be_task()
    from ecm_cluster.node.inference import worker
    from ecm_cluster.node.supervise import supervise_evaluation

    supervisor = supervise_evaluation.evaluation_supervisor(run, "evaluate")
    attempt = supervisor.take_attempt()
    assert attempt is not None, "it is scored already"
    supervisor.work.logs_dir.mkdir(parents=True, exist_ok=True)
    if worker.main(str(run.path), attempt, *_typed(supervisor.arguments())):
        raise Failed(_reason(supervisor.work))
    element = evaluations.read(run, "evaluate")[0]
    (metrics,) = [supervisor.work.metrics(evaluations.scoring_variant(scoring)) for scoring in element.scoring]
    assert metrics is not None
    return {key: metrics[key] for key in ("scorer", "images", "detections", "figures") if key in metrics}


def _typed(words: list[str]) -> list[Any]:
    return [words[0], int(words[1]), *words[2:]]


@contextlib.contextmanager
def quiet_environment() -> Iterator[None]:
    """No settings of the user's own for runs."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith(("ECM_CLUSTER_", "SLURM_", "SBATCH_", "SUBMITIT_", "MMDET_DATASETS")):
            del os.environ[name]
    os.environ["ECM_CLUSTER_SITE"] = os.devnull
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
