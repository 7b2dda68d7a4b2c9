"""The process that ranks with emulated GPUs are forked from: a line of JSON on stdin, a line of exit codes on stdout."""

from __future__ import annotations

import emulated_gpu

RUNTIME = emulated_gpu.interpose()  # before torch is imported

import torch

# counting GPUs is enough to make CUDA unusable in a fork
COUNTING = torch.cuda.is_available, torch.cuda.device_count
torch.cuda.is_available, torch.cuda.device_count = lambda: True, lambda: 1

import json
import os
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Any

import mmdet.apis  # noqa: F401
from mmcv.runner import epoch_based_runner, iter_based_runner

import mmdet_ext.register  # noqa: F401
from ecm_cluster.node import boundary, building, inference, staging, train  # noqa: F401
from ecm_cluster.run import Run
from emulated_gpu import compute
from emulated_gpu.hooks import Signalled

compute.activate(RUNTIME)
SECONDS = 120


def main() -> None:
    # mmcv sleeps a second at the end of each run
    epoch_based_runner.time = iter_based_runner.time = types.SimpleNamespace(sleep=lambda seconds: None)  # type: ignore
    for line in sys.stdin:
        request = json.loads(line)
        pids = [fork(request, rank) for rank in range(request["world"])]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


def fork(request: dict[str, Any], rank: int) -> int:
    pid = os.fork()
    if pid:
        return pid
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
    """What a worker of the launcher does, told by its supervisor and by its place."""
    world = request["world"]
    os.environ.update(SUBMITIT_LOCAL_JOB_ID=str(os.getppid()), SUBMITIT_LOCAL_NTASKS=str(world),
                      SUBMITIT_LOCAL_GLOBALID=str(rank), SUBMITIT_LOCAL_LOCALID=str(rank),
                      EMULATED_GPUS=str(world), FAKE_CUDA_UUIDS="ABCDEFGH"[:world], **request.get("env", {}))
    torch.cuda.is_available, torch.cuda.device_count = COUNTING
    if "checkpoint" in request:
        return detect(request, rank)
    Signalled.during = request["ends_at"]
    return train.main(request["run"], request["attempt"])


def detect(request: dict[str, Any], rank: int) -> int:
    """A rank's inference, on its GPU or on the CPU."""
    device = f"cuda:{rank}" if request["device"] == "cuda" else "cpu"
    run = Run(request["run"])
    inference.infer(train.load_config(run), Path(request["checkpoint"]), run.evaluation(request["device"]), rank,
                    request["world"], device, {"temperature": 2.0, "margin": 0.5}, request["counts"])
    return 0


if __name__ == "__main__":
    main()
