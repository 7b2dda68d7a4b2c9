"""Reads what trackers wrote, by their own readers and without any that repairs or drops something."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run
from ecm_cluster.trackers import wandb_file


def logged(run: Run) -> dict[str, list[tuple[int, float]]]:
    """What the folded log says, by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in training_log.fold(run):
        for key, value in line.items():
            if isinstance(value, (int, float)) and key not in ("epoch", "iter", "iteration", "attempt", "timestamp"):
                tag = "learning_rate" if key == "lr" else f"train/{key}"
                found.setdefault(tag, []).append((line["iteration"], float(value)))
    return found


def scored(run: Run) -> dict[str, list[tuple[int, float]]]:
    """What the evaluations say, by tag."""
    found: dict[str, list[tuple[int, float]]] = {}
    for work in run.evaluations():
        document = work.metrics()
        assert document is not None
        for kind, figures in document["figures"].items():
            for name, value in figures.items():
                if value is not None and value >= 0:
                    found.setdefault(f"val/{kind}_{name}", []).append((document["provenance"]["iteration"], value))
    return {tag: sorted(points) for tag, points in found.items()}


def events(folder: Path) -> list[Any]:
    """Every event of every file, in their order."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    return [Event.FromString(raw) for path in sorted(folder.glob("events.out.tfevents.*"))
            for raw in RawEventFileLoader(str(path)).Load()]


def in_tensorboard(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All points; also checks that TensorBoard's own reader, which drops what was superseded, finds the same ones."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    own = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=True)
    own.Reload()
    assert {tag: [(e.step, e.value) for e in own.Scalars(tag)] for tag in own.Tags()["scalars"]} == found
    return found


def offline_files(run: Run) -> list[Path]:
    return sorted(run.tracker_dir("wandb").glob("offline-run-*/*.wandb"))


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of an offline file, read by W&B's own reader where its version has one in Python."""
    from wandb.proto.wandb_internal_pb2 import Record

    for raw in raw_records(path):
        record = Record.FromString(raw)
        if record.HasField("history"):
            yield {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}


def raw_records(path: Path) -> Iterator[bytes]:
    try:
        from wandb.sdk.internal.datastore import DataStore
    except ImportError:
        yield from wandb_file.records(path.read_bytes())
        return
    store = DataStore()
    store.open_for_scan(str(path))
    while (raw := store.scan_data()) is not None:
        yield raw


def in_wandb(path: Path) -> dict[str, list[tuple[int, float]]]:
    """All points of an offline file, whose rows must be in the order of their steps."""
    found: dict[str, list[tuple[int, float]]] = {}
    last = -1
    for row in rows(path):
        assert row["_step"] == row["iteration"] > last
        last = row["iteration"]
        for key, value in row.items():
            if key != "iteration" and not key.startswith("_"):
                found.setdefault(key, []).append((last, value))
    return found


def close_to(points: dict[str, list[tuple[int, float]]]) -> Any:
    """The same points at the precision of TensorBoard's files, for a comparison."""
    import pytest

    return {tag: [(step, pytest.approx(value, rel=1e-6, nan_ok=True)) for step, value in values]
            for tag, values in points.items()}


def assert_clean(run: Run, trackers: tuple[str, ...] = ("tensorboard", "wandb")) -> None:
    """Every logged step and every score once, at its step, and nothing else."""
    expected = {**logged(run), **scored(run)}
    assert expected["train/loss"]
    if "tensorboard" in trackers:
        assert in_tensorboard(run.tracker_dir("tensorboard")) == close_to(expected)
    if "wandb" in trackers:
        (path,) = offline_files(run)
        assert path.name == f"run-{run.spec.run_id}.wandb"
        assert in_wandb(path) == expected
