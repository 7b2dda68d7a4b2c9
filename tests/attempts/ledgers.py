"""Attempts, ledgers and notes of starts, written by hand as a run would have written them."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ecm_cluster.rundir.run import Run, Work


def attempt(run: Work, number: int, begin: float, source: str | None = None, **more: Any) -> None:
    run.attempts_dir.mkdir(parents=True, exist_ok=True)
    run.attempt_file(number).write_text(json.dumps({
        "number": number, "identity": f"slurm:7:{number - 1}:0", "time": begin, "host": "n1", "job_id": "7",
        "cluster": "slurm", "restart": number - 1, "world_size": 2, "from": source, "accepts": [], **more}))
    age(run.attempt_file(number))


def events(run: Work, number: int, writer: str, *rows: tuple[float, str, dict[str, Any]]) -> None:
    run.ledger_dir.mkdir(exist_ok=True)
    (run.ledger_dir / f"{number:04d}-{writer}.jsonl").write_text("".join(
        json.dumps({"sequence": i, "kind": kind, "time": time, **fields}) + "\n"
        for i, (time, kind, fields) in enumerate(rows, 1)))


def heartbeat(run: Work, number: int, **fields: Any) -> Path:
    path = run.heartbeat_file(number)
    path.write_text(json.dumps(fields))
    return age(path)


def age(path: Path) -> Path:
    os.utime(path, (1.6e9, 1.6e9))
    return path


def spec(run: Run, **job: Any) -> Run:
    """The record of a run on Slurm."""
    run.path.mkdir(parents=True, exist_ok=True)
    run.run_file.write_text(json.dumps({
        "cluster": "slurm", "name": run.name, "run_id": "ab", "job": {"name": run.name, "gpus": 2, **job}}))
    return run


def start(run: Run, job: str, restart: int, begin: float, end: float | None, link: str = "train") -> None:
    """What a batch shell notes: in whole seconds, and with its zone."""
    run.starts_dir.mkdir(exist_ok=True)
    notes = [("begin", begin)] + ([] if end is None else [("end", end - 1), ("left", end)])
    dates = [datetime.fromtimestamp(int(when), timezone.utc).strftime("%Y-%m-%dT%H:%M:%S%z") for _, when in notes]
    lines = [json.dumps({"kind": kind, "host": "n1", "nodes": "n1", "stage": link, "code": 0, "date": date})
             for (kind, _), date in zip(notes, dates)]
    (run.starts_dir / f"{job}.{restart}.json").write_text("\n".join(lines) + "\n")
