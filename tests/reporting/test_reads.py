"""How many files ``status`` reads: each costs round trips to the file server."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from small import ROOT
from steering import done_run

from ecm_cluster.reporting import state as states
from ecm_cluster.reporting import summary
from ecm_cluster.rundir import runs
from ecm_cluster.rundir.run import Run

path = [*sys.path]
sys.path.insert(0, str(ROOT / "benchmarks"))
try:
    import slow_storage
    import status as benchmark
finally:
    sys.path[:] = path  # a benchmark has the name of a folder of tests


@contextmanager
def counted(folder: Path) -> Iterator[Counter[str]]:
    """The calls below a folder that cost a round trip or more, by the path."""
    calls: Counter[str] = Counter()

    def counting(name: str) -> Any:
        real = getattr(os, name)

        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{folder}/"):
                calls[os.fspath(path)] += 1
            return real(path, *args, **kwargs)

        return mock.patch.object(os, name, call)

    with counting("open"), counting("stat"), counting("lstat"), counting("listdir"), counting("scandir"):
        yield calls


def test_a_long_run_takes_no_more_reads_than_a_short_one_and_no_file_is_read_twice(tmp_path):
    found = {}
    for attempts in (3, 12):
        benchmark.make(tmp_path / str(attempts) / "run", ranks=2, attempts=attempts, fold=True)
        with counted(tmp_path) as calls:
            assert states.fold([Run(tmp_path / str(attempts) / "run")])[0].state == "stopped"
        found[attempts] = calls
    assert sum(found[12].values()) == sum(found[3].values())
    more = {path: count for path, count in found[12].items() if count > 1}
    # whose owner is looked at, too
    assert {Path(path).name for path in more} <= {"run.json", "ledger", "run"}, more


def test_runs_that_are_done_take_a_stat_of_each_of_their_records(tmp_path):
    for number in range(3):
        done_run(tmp_path / f"run{number}")
    with mock.patch.object(summary, "SETTLED", 0.01):
        time.sleep(0.03)
        states.fold(runs.list_runs(tmp_path))
    with counted(tmp_path) as calls:
        folded = states.fold(runs.list_runs(tmp_path))
    assert [state.state for state in folded] == ["done"] * 3
    records = json.loads((tmp_path / "run0" / "summary.json").read_text())["stamps"]
    assert sum(calls.values()) <= 3 * (len(records) + 3)


@pytest.mark.slow
def test_status_of_runs_on_slow_storage_takes_few_round_trips(tmp_path):
    folder = tmp_path / "runs"
    for number in range(20):
        done_run(folder / f"run{number:02d}")
    with mock.patch.object(summary, "SETTLED", 0.01):
        time.sleep(0.03)
        states.fold(runs.list_runs(folder))
    shim = slow_storage.build(tmp_path)
    command = ["-m", "ecm_cluster.status", "--runs-dir", str(folder), "--json"]
    found = benchmark.measure(command, ROOT, shim, folder, 0, 1)
    assert {row["state"] for row in json.loads(found["out"])} == {"done"}
    assert found["trips"] <= 20 * 36
    benchmark.make(tmp_path / "long" / "run", ranks=4, attempts=20, fold=True)
    command = ["-c", benchmark.FOLD, str(tmp_path / "long" / "run")]
    found = benchmark.measure(command, ROOT, shim, tmp_path / "long", 0, 1)
    assert found["trips"] <= 160
