"""Whose fault a failure is, derived from an exception, or from the last output of a process that could not raise one.

A worker that runs out of GPU memory and one whose GPU breaks both die of an exception, but they call for different
answers: see :data:`ecm_cluster.attempts.causes.CAUSES`.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

from ..base.errors import UserError
from . import causes

LAST_WORDS_BYTES = 20_000  # of a log: NCCL's watchdog prints its C++ stack behind the error that is looked for

# What a rank's collective reports when another rank has gone: a consequence, and not why the attempt ended.
LOST_PEER = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|Dist(Backend|Network|Store)Error",
                       re.IGNORECASE)

BAD_SAMPLE = "BadSample"  # of mmdet_ext.data.samples, whose text says which image, and why


class NotStartable(RuntimeError):
    """This job cannot work as it was asked for; the text says where, why, and the remedy."""

    cause = "not startable"


PLAIN = (UserError, NotStartable)  # their texts need no class name


class DeviceStuck(RuntimeError):
    """A GPU does not finish its work."""

    cause = "hung"


def end_of(error: BaseException, rank: int) -> dict[str, Any]:
    """The fields of the ``end`` event of an attempt in which a rank failed with an exception, besides where it was."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    named = text if isinstance(error, PLAIN) or kind == BAD_SAMPLE else f"{kind}: {text}"
    cause = getattr(error, "cause", None) or causes.of_error(named)
    remedy = causes.CAUSES[cause].remedy if cause in causes.CAUSES else ""
    return {"cause": cause, "rank": rank, "detail": f"rank {rank}: {named[:500]}" + (f"; {remedy}" if remedy else ""),
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
    cause = causes.of_error(words)
    if cause != "crashed":
        return {"cause": cause, "how": f"killed by {name} after a {cause}"}
    return {"cause": "killed", "how": f"killed by {name}", "follows": follows_another(words)}


def follows_another(text: str) -> bool:
    """Whether an error is only what is left to say when another rank has gone."""
    return causes.of_error(text) == "crashed" and bool(LOST_PEER.search(text))


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
