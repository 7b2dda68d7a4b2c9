"""Why an attempt can end: one row for each cause, with all that is known of it.

A cause that Slurm, or the text of an error, tells is added here and nowhere else; one that the program itself finds is
also named where it is found, by an exception with that ``cause`` or in the event ``end``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .starts import GPU_FAILURES_OF_A_NODE, NODE_LIMIT

# Texts of cudaGetErrorString that a program can bring about on a healthy GPU, whichever node it runs on.
OF_THE_PROGRAM = (
    r"CUDA error: (device-side assert|invalid (argument|configuration|device function|device ordinal|resource handle)|"
    r"no kernel image|operation not (permitted|supported)|too many resources|initialization error)")
# Any other "CUDA error: ...", and what the driver and NCCL report of broken hardware.
OF_THE_GPU = (
    r"CUDA error: |\bXid\b|uncorrectable (NVLink|ECC)|ECC error|fallen off the bus|CUDNN_STATUS_MAPPING_ERROR|"
    r"CUBLAS_STATUS_EXECUTION_FAILED|CUDNN_STATUS_EXECUTION_FAILED|unhandled cuda error|"
    r"CUDA driver error: |cuda(ErrorECCUncorrectable|ErrorHardwareStackError|ErrorDevicesUnavailable)")
# torch's allocator, the CUDA runtime, cuBLAS and cuDNN, in that order
OUT_OF_GPU_MEMORY = (r"CUDA out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation|"
                     r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|OutOfMemoryError: CUDA")


@dataclass(frozen=True)
class Cause:
    """Why an attempt ended, how that is recognised, and what follows.

    Attributes:
        action: ``continue`` (start again), ``wait`` (Slurm starts it again), ``stop``, or ``none``.
        text: In the user's words.
        owner: Who caused it: ``run`` (counts against it), ``place`` (tried elsewhere; a faulty node is excluded), or
            ``scheduler`` (never counted).
        budget: How many ends of this kind since the last new checkpoint are answered by a new start; None: any number.
        requeues: Whether the job itself asks Slurm for its next start.
        states: What Slurm calls such an end in its accounting, and the state of a job that has ended so.
        reasons: The job's reason while tasks are left of it: then its state is COMPLETING, regardless of the end.
        error: What the text of an error says of it; the first row that matches counts.
        remedy: Added to that text.
    """

    action: str
    text: str
    owner: str
    budget: int | None = None
    requeues: bool = False
    states: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    error: str = ""
    remedy: str = ""


CAUSES: dict[str, Cause] = {
    "complete": Cause("none", "the work is complete", "run"),
    "preempted": Cause("continue", "Slurm preempted the job", "scheduler", requeues=True, states=("PREEMPTED",)),
    "time limit": Cause("continue", "the time limit was near", "run", requeues=True, states=("TIMEOUT",),
                        reasons=("TimeLimit",)),
    "signalled": Cause("continue", "a user or process sent a signal", "scheduler"),
    "requeued": Cause("wait", "Slurm had requeued the job already", "scheduler", states=("REQUEUED",)),
    "node failure": Cause("continue", "a node failed", "place", requeues=True, states=("NODE_FAIL", "BOOT_FAIL"),
                          reasons=("NodeDown", "BootFail")),
    "cancelled": Cause("stop", "the job was cancelled", "scheduler", states=("CANCELLED",)),
    "deadline": Cause("stop", "the job's deadline has passed", "run", states=("DEADLINE",), reasons=("DeadLine",)),
    # never taken for a cancellation, nor requeued: nobody knows whether that is wanted
    "ended by Slurm": Cause("stop", "Slurm ended the job and does not say why", "scheduler"),
    "crashed": Cause("continue", "the program failed", "run", budget=2, states=("FAILED",),
                     reasons=("NonZeroExitCode",)),
    "killed": Cause("continue", "a rank was killed", "run", budget=2),
    "out of memory": Cause("continue", "a rank needed more memory than the job has", "run", budget=1,
                           states=("OUT_OF_MEMORY",), reasons=("OutOfMemory",)),
    "out of GPU memory": Cause("continue", "a rank needed more memory than its GPU has", "run", budget=1,
                               error=OUT_OF_GPU_MEMORY, remedy="lower data.samples_per_gpu or the images' size, train "
                                                               "with fp16, or use larger GPUs"),
    "GPU failure": Cause("continue", "a GPU failed", "place", budget=GPU_FAILURES_OF_A_NODE * NODE_LIMIT,
                         error=rf"(?s)\A(?!.*(?:{OF_THE_PROGRAM})).*(?:{OF_THE_GPU})"),
    "hung": Cause("continue", "no heartbeat", "run", budget=2),
    "lost": Cause("continue", "the attempt ended without recording a reason", "run", budget=2),
    "not startable": Cause("stop", "the program cannot start", "run"),
    "diverged": Cause("stop", "the loss is not a finite number", "run"),
    "setup failed": Cause("continue", "a setup line failed", "run", budget=1),
    "start failed": Cause("continue", "the start failed before an attempt began", "place", budget=2,
                          reasons=("JobLaunchFailure", "LaunchFailure")),
}
REQUEUES = {name for name, cause in CAUSES.items() if cause.requeues}
BY_STATE = {state: name for name, cause in CAUSES.items() for state in cause.states}
BY_REASON = {reason: name for name, cause in CAUSES.items() for reason in cause.reasons}
BY_ERROR = {name: re.compile(cause.error) for name, cause in CAUSES.items() if cause.error}


def of_error(text: str) -> str:
    """The cause that an error's text tells; ``crashed`` where it tells none."""
    return next((name for name, pattern in BY_ERROR.items() if pattern.search(text)), "crashed")
