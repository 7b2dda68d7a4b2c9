"""The process that ranks with emulated GPUs are forked from: a line of JSON on stdin, one of exit codes on stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import Any

import emulated_gpu

SECONDS = 120  # that a rank may take


def main() -> None:
    runtime = emulated_gpu.interpose()
    import torch

    # to count GPUs is enough to make CUDA unusable in a fork, so libraries are configured while they are imported
    counting = torch.cuda.is_available, torch.cuda.device_count
    torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1
    from ecm_cluster.node.inference import detect  # noqa: F401, I001
    from ecm_cluster.node.mmdet_trainer import trainer  # noqa: F401
    from ecm_cluster.node.training import step_hook, worker  # noqa: F401
    from emulated_gpu import compute, hooks  # noqa: F401

    compute.activate(runtime)
    for line in sys.stdin:
        request = json.loads(line)
        pids = []
        for rank in range(request["world"]):
            pids.append(os.fork())
            if not pids[-1]:
                torch.cuda.is_available, torch.cuda.device_count = counting
                run_rank(request, rank)
        print(json.dumps([os.WEXITSTATUS(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


def run_rank(request: dict[str, Any], rank: int) -> None:
    """One rank, in a process of its own."""
    code = 1
    try:
        signal.alarm(SECONDS)
        out = os.open(f"{request['run']}/{request['attempt']}-{rank}.out", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(out, stream)
        code = work(request, rank)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def work(request: dict[str, Any], rank: int) -> int:
    """What the launcher's worker does at the place of a rank."""
    from ecm_cluster.node.inference import worker as scoring
    from ecm_cluster.node.training import worker
    from ecm_cluster.rundir.run import Run
    from emulated_gpu.hooks import Signalled

    world = request["world"]
    os.environ.update(SUBMITIT_LOCAL_JOB_ID=str(os.getppid()), SUBMITIT_LOCAL_NTASKS=str(world),
                      SUBMITIT_LOCAL_GLOBALID=str(rank), SUBMITIT_LOCAL_LOCALID=str(rank),
                      EMULATED_GPUS=str(world), FAKE_CUDA_UUIDS="ABCDEFGH"[:world], **request.get("env", {}))
    if request["evaluate"]:
        return scoring.main(request["run"], request["attempt"], "evaluate", 0, Run(request["run"]).completion() or "")
    Signalled.during = request["ends_at"]
    return worker.main(request["run"], request["attempt"])


if __name__ == "__main__":
    main()
