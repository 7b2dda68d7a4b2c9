"""The shape of each record in a run directory, as :mod:`ecm_cluster.base.reading` checks it before anything is used.

A run directory may belong to another user or be damaged, so its content is untrusted. Keys that this version does not
know are ignored, and keys that earlier versions did not write are optional.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from ..base import fileserver
from ..base.reading import Maybe, Number, OneOf, OptionalKey, Text, Unreadable, read_json

# Errors of the storage that are not temporary: no permission, a loop of links, a socket or device instead of the file,
# a file instead of its directory.
LASTING = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOTDIR)

COUNT = Number(0)
SECONDS = Number(0, 1e12, whole=False)
TIME = Number(-2**31, 2**40, whole=False)  # what datetime can represent
NAME = Text(r"[^\x00-\x1f\x7f]*", 4096, "text without control characters")
JOB_ID = Text(r"[0-9]{1,18}(_[0-9]{1,9})?", 32, "a job ID")
TOKEN = Text(r"(?!\(null\)$)[^\x00-\x1f\x7f/]+", 1024, "a token")  # (null): a job without a comment, as Slurm prints it
USER = Text(r"[^\x00-\x20\x7f,/-][^\x00-\x20\x7f,/]*", 256, "a user name")
CHECKPOINT = Text(r"iter_[0-9]{1,12}-a[0-9]{1,9}\.pth", 64, "a checkpoint's file name")
START = Text(r"[^:\x00-\x1f]*:[^:\x00-\x1f]*:[0-9]{0,9}", 256, "CLUSTER:JOB:RESTART")
CLUSTER = OneOf("slurm", "local")
FIGURE = Maybe(float)

RUN = {"cluster": CLUSTER, "job": dict, OptionalKey("name"): NAME, OptionalKey("run_id"): NAME,
       OptionalKey("submitted"): TIME, OptionalKey("cwd"): NAME, OptionalKey("virtual_ranks"): COUNT,
       OptionalKey("threads"): COUNT, OptionalKey("checkpoint_every"): COUNT, OptionalKey("config"): NAME,
       OptionalKey("batch"): dict, OptionalKey("annotations"): {str: NAME}, OptionalKey("digests"): dict,
       OptionalKey("staging"): Maybe({"pack": Maybe(NAME), "columns": NAME, "annotations": {str: str}}),
       OptionalKey("class_counts"): dict, OptionalKey("code"): dict, OptionalKey("weights"): list,
       OptionalKey("versions"): {str: str}, OptionalKey("group"): {OptionalKey("name"): NAME,
                                                                   OptionalKey("settings"): {str: NAME}}}

GROUP = {"cluster": CLUSTER, "job": dict, "varied": [NAME], "at_once": COUNT,
         "cells": [{"name": Text(r"(?![.])[^/\x00-\x1f\x7f]+", 255, "the name of a run"), "settings": {str: NAME},
                    "digest": NAME}]}

OVERRIDES = {OptionalKey("job"): dict, OptionalKey("from"): Maybe({"iteration": COUNT, "after": COUNT}),
             OptionalKey("virtual_ranks"): Maybe(COUNT), OptionalKey("not_kept"): [str],
             OptionalKey("code"): {OptionalKey("number"): Number(1, 10**6), OptionalKey("digest"): str}}

_ATTEMPT: dict[Any, Any] = {
    OptionalKey("abandoned"): [CHECKPOINT], OptionalKey("identity"): NAME, OptionalKey("host"): NAME,
    OptionalKey("job_id"): Maybe(JOB_ID), OptionalKey("cluster"): CLUSTER, OptionalKey("restart"): Maybe(COUNT),
    OptionalKey("token"): NAME, OptionalKey("from"): Maybe(Text(r"\w[\w.-]*\.pth", 255, "a checkpoint's file name"))}
ATTEMPT = {**_ATTEMPT, "accepts": [CHECKPOINT]}
ATTEMPT_TO_SCORE = {**_ATTEMPT, OptionalKey("ways"): [Text(r"[0-9a-f]{0,64}", 64, "a scoring variant")]}

COMPLETE = {"checkpoint": CHECKPOINT}

# of one message to one URL
NOTICE = {"state": OneOf("sending", "sent", "failed", "unknown", "given up"), "tries": COUNT, "time": TIME,
          OptionalKey("why"): NAME}

CANCELLED = {OptionalKey("id"): str, OptionalKey("time"): TIME, OptionalKey("by"): str}

MANIFEST = {"file": CHECKPOINT, "size": COUNT, "digest": Text(r"sha256:[0-9a-f]{1,64}", 71, "sha256:HEX"),
            "iteration": COUNT, "epoch": COUNT, "position": COUNT, "attempt": COUNT, "epoch_end": bool,
            OptionalKey("step"): Number(1)}

_JOB: dict[Any, Any] = {"token": TOKEN, OptionalKey("job_id"): Maybe(JOB_ID), OptionalKey("user"): Maybe(USER),
        OptionalKey("cluster_name"): Maybe(NAME)}
SUBMISSION: dict[Any, Any] = {**_JOB, "token": Maybe(TOKEN), "cluster": CLUSTER, OptionalKey("former"): [_JOB]}

ELEMENTS = {"elements": [{"at": Text(r"last|(epoch|iteration) [0-9]{1,12}", 32, "last, epoch N or iteration N"),
                          "settings": dict, "scoring": [dict]}],
            OptionalKey("job"): Maybe(dict), OptionalKey("block"): Maybe(dict),
            OptionalKey("instead_of"): Maybe(JOB_ID), OptionalKey("after_cancel"): Maybe(dict)}

CHUNKS = {"chunks": Number(0, 10**6)}

METRICS = {
    "figures": {str: {str: FIGURE}}, "max_dets": Maybe(COUNT),  # null for VOC, which has no such limit
    "per_class": [{"id": object, "name": str, "frequency": Maybe(str), "image_count": Maybe(COUNT),
                   "instance_count": Maybe(COUNT), OptionalKey("bbox"): FIGURE, OptionalKey("segm"): FIGURE}],
    "provenance": {"checkpoint": NAME, "iteration": COUNT, OptionalKey("epoch"): Maybe(COUNT),
                   OptionalKey("checkpoint_digest"): Maybe(str), OptionalKey("annotations"): Maybe(str),
                   OptionalKey("annotations_digest"): Maybe(str), OptionalKey("settings"): Maybe(dict)},
    OptionalKey("notes"): [str]}

HEARTBEAT = {OptionalKey("phase"): NAME, OptionalKey("loss"): FIGURE, OptionalKey("seconds_per_iteration"): FIGURE,
             **{OptionalKey(name): Maybe(COUNT) for name in ("iteration", "iterations", "epoch", "done", "total")},
             OptionalKey("commits_fail"): Maybe({"stands": Maybe(COUNT), "seconds": SECONDS, "reason": str})}

START_NOTE = {"kind": str, OptionalKey("host"): NAME, OptionalKey("nodes"): NAME, OptionalKey("stage"): NAME,
              OptionalKey("code"): int, OptionalKey("phase"): str, OptionalKey("line"): COUNT,
              OptionalKey("date"): NAME, OptionalKey("time"): TIME}

LOG_HEADER = {"starts_after": COUNT, "by_epoch": bool, "epoch": COUNT, "position": COUNT,
              "iterations_this_epoch": COUNT, "iterations_per_epoch": COUNT}
LOG_LINE = {"iter": COUNT, OptionalKey("epoch"): COUNT}

_TEXT = Maybe(NAME)
ENVIRONMENT: dict[Any, Any] = {
    OptionalKey("digest"): str, OptionalKey("torch"): {str: object}, OptionalKey("conda"): Maybe({"name": NAME}),
    OptionalKey("distributions"): [{"name": NAME, "version": NAME, OptionalKey("origin"): {str: object}}],
    **{OptionalKey(name): _TEXT for name in ("python", "implementation", "executable", "platform", "machine",
                                             "glibc")}}

# Events of the ledger by kind: the fields that readers require, and the types of those that they show.
_RANK: dict[Any, Any] = {OptionalKey("rank"): Maybe(int)}
_STAGED = {name: Number(0, 1e18, whole=False) for name in ("copied", "repaired", "found", "seconds", "waited")}
EVENTS: dict[str, dict[Any, Any]] = {
    "submitted": {"stage": str, "job_id": JOB_ID},
    "refused": {"stage": str, "reason": str},
    "resumed": {OptionalKey("stages"): [str], OptionalKey("overrides"): {OptionalKey("job"): dict}},
    "cancelled": {"what": str},
    "start": {"host": str, "rank": COUNT, "pid": Number(1, 2**31)},
    "attempt": {"begin": TIME, "identity": NAME, "host": NAME, "job_id": Maybe(JOB_ID), "restart": Maybe(COUNT),
                "world_size": COUNT, "from": Maybe(NAME)},
    # how far the worker of rank 0 came, as its supervisor saw it: each phase that it entered, and at last `ended`
    "phase": {"phase": str, OptionalKey("iteration"): Maybe(COUNT)},
    "machine": {"host": str, OptionalKey("gpus"): [NAME], OptionalKey("torch"): {str: object},
                **{OptionalKey(name): _TEXT for name in ("driver", "cuda", "cpu", "kernel", "platform", "python",
                                                         "environment")}},
    "left": _RANK,
    "abort": _RANK,
    "end": {"cause": str, **_RANK, OptionalKey("iteration"): Maybe(int),
            **{OptionalKey(name): Maybe(str) for name in ("detail", "next", "node", "traceback")}},
    "commit": {OptionalKey("checkpoint"): str, **{OptionalKey(name): SECONDS for name in (
        "seconds", "write_seconds", "blocked_seconds", "waited_seconds", "slowest_step")}},
    "commit-failed": {"iteration": COUNT, "reason": str, "stands": str},
    "complete": {"checkpoint": str},
    "quarantine": {"checkpoint": str, "reason": str},
    "warning": {"about": str, "text": str},
    "requeue": {"accepted": bool, "cause": str},
    "successor": {"job_id": JOB_ID},
    "stopped": {"detail": str},
    "released": {"mark": str, "at": str},
    "not-started": {"cause": str, "detail": str, "node": Maybe(str), "of_node": bool, "start": START, "cluster": str,
                    "resumes": COUNT, **_RANK},
    "left-out": {"node": str, "reason": str, "resumes": COUNT},
    "staged": {"scratch": str, "host": str, OptionalKey("node"): Maybe(int), OptionalKey("pack"): str, **_STAGED},
    "staging": {"host": str, "detail": str},
}


def read(path: Path, shape: Any) -> Any:
    """Read a record of this shape.

    Raises:
        Unreadable: It is damaged, or only another user may read it.
        OSError: It does not exist, or the storage fails temporarily.
    """
    return fileserver.once((os.fspath(path), id(shape)), lambda: _read(path, shape))


def _read(path: Path, shape: Any) -> Any:
    try:
        return read_json(path, shape)
    except OSError as error:
        if error.errno == errno.ENOENT:
            fileserver.note_missing(path)
        if error.errno in LASTING:
            raise Unreadable(path, "", str(error.strerror)) from None
        raise
