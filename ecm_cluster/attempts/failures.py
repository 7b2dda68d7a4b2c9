"""Whose fault a failure is, told from an exception or from the last words of a process that could not raise one.

A worker that runs out of GPU memory and one whose GPU breaks both die of an exception, but they call for different
answers: see :data:`ecm_cluster.attempts.endings.ENDINGS`.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

from ..base.errors import UserError

LAST_WORDS_BYTES = 20_000

# torch's allocator, the CUDA runtime, cuBLAS and cuDNN, in that order
OUT_OF_GPU_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|"
    r"CUDNN_STATUS_ALLOC_FAILED|OutOfMemoryError: CUDA")

# Texts of cudaGetErrorString that a program can bring about on a healthy GPU, whichever node it runs on.
OF_THE_PROGRAM = re.compile(
    r"CUDA error: (device-side assert|invalid (argument|configuration|device function|device ordinal|resource handle)|"
    r"no kernel image|operation not (permitted|supported)|too many resources|initialization error)")

# Any other "CUDA error: ...", and what the driver and NCCL report of broken hardware.
OF_THE_GPU = re.compile(
    r"CUDA error: |\bXid\b|uncorrectable (NVLink|ECC)|ECC error|fallen off the bus|CUDNN_STATUS_MAPPING_ERROR|"
    r"CUBLAS_STATUS_EXECUTION_FAILED|CUDNN_STATUS_EXECUTION_FAILED|unhandled cuda error|"
    r"CUDA driver error: |cuda(ErrorECCUncorrectable|ErrorHardwareStackError|ErrorDevicesUnavailable)")

# What a rank's collective reports when another rank has gone: a consequence, and not why the attempt ended.
LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|Dist(Backend|Network|Store)Error",
                       re.IGNORECASE)

# What to do about it, added to the error's own text.
REMEDY = {
    "out of GPU memory": "lower data.samples_per_gpu or the images' size, train with fp16, or use larger GPUs",
}


BAD_SAMPLE = "BadSample"  # of mmdet_ext.data.samples, whose text says which image, and why


class NotStartable(RuntimeError):
    """This job cannot work as it was asked for; the text says where, why, and the remedy."""

    cause = "not startable"


PLAIN = (UserError, NotStartable)  # their texts say all by themselves


class DeviceStuck(RuntimeError):
    """A GPU does not come to the end of what it was given."""

    cause = "hung"


def end_of(error: BaseException, rank: int) -> dict[str, Any]:
    """The fields of the ``end`` event of an attempt in which a rank failed with an exception, besides where it was."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    named = text if isinstance(error, PLAIN) or kind == BAD_SAMPLE else f"{kind}: {text}"
    cause = getattr(error, "cause", None) or cause_of(named)
    remedy = f"; {REMEDY[cause]}" if cause in REMEDY else ""
    return {"cause": cause, "rank": rank, "detail": f"rank {rank}: {named[:500]}{remedy}",
            "follows": cause == "crashed" and follows_another(named)}


def of_exit(code: int, log: Path, begin: int) -> dict[str, Any]:
    """The same for a worker that has recorded nothing, from its exit code, negative for a signal.

    NCCL's watchdog ends a process whose GPU fails, or which waits for one that has, from a thread of its own.

    Args:
        log: What it printed, from ``begin`` on.
    """
    if code >= 0:
        return {"cause": "crashed", "how": f"exit code {code}"}
    name = signal.Signals(-code).name
    words = last_words(log, begin) if code == -signal.SIGABRT else ""
    cause = cause_of(words)
    if cause != "crashed":
        return {"cause": cause, "how": f"killed by {name} after a {cause}"}
    return {"cause": "killed", "how": f"killed by {name}", "follows": follows_another(words)}


def cause_of(text: str) -> str:
    """The cause of an attempt's end in an error's text: a key of :data:`ecm_cluster.attempts.endings.ENDINGS`."""
    if OUT_OF_GPU_MEMORY.search(text):
        return "out of GPU memory"
    if OF_THE_GPU.search(text) and not OF_THE_PROGRAM.search(text):
        return "GPU failure"
    return "crashed"


def follows_another(text: str) -> bool:
    """Whether an error is only what is left to say when another rank has gone."""
    return cause_of(text) == "crashed" and bool(LOST_PEER.search(text))


def last_words(log: Path, begin: int) -> str:
    """The end of what a process wrote into its log; empty where it cannot be read.

    Args:
        begin: Size of the log when the process was started.
    """
    try:
        with open(log, "rb") as handle:
            size = handle.seek(0, 2)
            handle.seek(max(begin, size - LAST_WORDS_BYTES))
            return handle.read().decode(errors="replace")
    except OSError:
        return ""
