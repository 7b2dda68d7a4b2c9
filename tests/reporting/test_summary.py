"""A summary never says anything else than the records that it stands for, regardless of what happens to them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from steering import SCORED, done_run, ended_run, evaluation_of

from ecm_cluster.base import files, fileserver
from ecm_cluster.base.errors import UserError
from ecm_cluster.reporting import state as states
from ecm_cluster.reporting import summary
from ecm_cluster.reporting.run_state import RunState
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

TICK = 0.012  # seconds; more than the kernel's clock for file times takes to advance


@pytest.fixture(autouse=True)
def settled_soon() -> Iterator[None]:
    with mock.patch.object(summary, "SETTLED", TICK), mock.patch.object(os, "fsync"):
        yield


def shown(run: Run) -> RunState:
    return states.fold([Run(run.path)])[0]


def truth(run: Run) -> RunState:
    """What the records say, without any summary."""
    with mock.patch.object(summary, "read", return_value=None), mock.patch.object(summary, "write"):
        return shown(run)


def is_kept(run: Run) -> bool:
    """Whether the summary answers for the run."""
    return summary.read(states.TolerantRun(run.path)) is not None


def test_a_run_that_is_done_is_shown_from_its_summary(tmp_path):
    run = done_run(tmp_path / "run")
    expected = truth(run)
    assert (expected.state, expected.iteration, expected.loss) == ("done", 30, 0.5)
    assert expected.evaluation["bbox_AP"] == 0.25
    assert "slow storage" in expected.reason
    with mock.patch.object(summary, "SETTLED", 60.0):
        shown(run)
    assert not is_kept(run), "it has just changed"
    time.sleep(2.5 * TICK)
    assert shown(run) == expected
    assert is_kept(run)
    with mock.patch.object(states, "fold_one", side_effect=AssertionError):
        assert shown(run) == expected
        os.rename(run.path, tmp_path / "moved")
        assert shown(Run(tmp_path / "moved")) == replace(expected, run="moved", path=str(tmp_path / "moved"))


# ---------------------------------------------------------------------------------------------- changes


def _in_place(path: Path, change: Callable[[bytes], bytes]) -> None:
    """As an editor, a failing disk or a late writer changes a file; the time of the change is hidden."""
    before = path.stat()
    with path.open("r+b") as handle:
        data = change(handle.read())
        handle.seek(0)
        handle.write(data)
        handle.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _toggle(path: Path, value: Any) -> None:
    if path.exists():
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, value)


def _damage(path: Path) -> None:
    """Damage the first byte, or repair it."""
    if path.exists():
        _in_place(path, lambda data: (b"{" if data[:1] == b"#" else b"#") + data[1:])


def _begin(run: Run) -> None:
    files.write_json(run.attempt_file(run.newest_attempt() + 1),
                     {"accepts": [m.file for m in checkpoints.manifests(run)]})


def _complete(run: Run) -> None:
    with contextlib.suppress(UserError):
        found = checkpoints.accepted(run)
        if not found:
            return
        files.write_json(run.complete_file(run.newest_attempt()), checkpoints.describe(found[-1]))


def _drop_newest_attempt(run: Run) -> None:
    for path in run.attempts_dir.glob(f"{run.newest_attempt():04d}.*"):
        path.unlink()


def _evaluate_more(run: Run) -> None:
    run.evaluations_dir.mkdir(exist_ok=True)
    _toggle(run.elements_file("evaluate"), {"elements": [
        {"at": "last", "settings": {}, "scoring": [{}]}, {"at": "iteration 20", "settings": {}, "scoring": [{}]}]})


def _edit_metrics(run: Run) -> None:
    for path in run.evaluations_dir.glob("*/metrics.json"):
        _in_place(path, lambda data: data.replace(*(b"0.25", b"0.75")[::1 if b"0.25" in data else -1]))


def _score_again(run: Run) -> None:
    with contextlib.suppress(UserError, AssertionError):
        work = evaluation_of(run)
        work.path.mkdir(parents=True, exist_ok=True)
        files.write_json(work.metrics_file(), {**SCORED, "figures": {"bbox": {"AP": 0.5}}})


def _replace_by_link(run: Run) -> None:
    """A record elsewhere, which then changes there."""
    elsewhere = run.path.parent / "elsewhere.json"
    if not run.overrides_file.is_symlink():
        files.write_json(elsewhere, {"job": {"name": "a"}})
        run.overrides_file.unlink(missing_ok=True)
        run.overrides_file.symlink_to(elsewhere)
    else:
        _in_place(elsewhere, lambda data: data.replace(b'"name"', b'"nome"'))


def _copy_back(run: Run) -> None:
    """Restored from a backup that keeps the times."""
    backup = run.path.with_name("backup")
    shutil.copytree(run.path, backup, symlinks=True)
    shutil.rmtree(run.path)
    os.rename(backup, run.path)


def _newest(run: Run) -> int:
    return run.newest_attempt()


CHANGES: dict[str, Callable[[Run], object]] = {
    "an event in an existing file": lambda run: run.ledger(2, "train000").write("warning", about="x", text="new"),
    "an event in a new file": lambda run: run.ledger(_newest(run), "late").write("warning", about="y", text="late"),
    "an invalid line": lambda run: run.ledger(2, "task000").path.open("a").write('{"kind": "end"}\n'),
    "the ledger folded": lambda run: run.fold_ledger(_newest(run)),
    "an attempt begins": _begin,
    "an attempt completes": _complete,
    "an attempt is taken back": _drop_newest_attempt,
    "a heartbeat": lambda run: run.write_heartbeat(_newest(run), phase="training", iteration=7, loss=time.time() % 1),
    "the completion mark damaged": lambda run: _damage(run.complete_file(_newest(run))),
    "an attempt's file damaged": lambda run: _damage(run.attempt_file(_newest(run))),
    "a manifest damaged": lambda run: [_damage(path) for path in sorted(run.checkpoints_dir.glob("*.json"))[-1:]],
    "a checkpoint deleted": lambda run: [checkpoints.delete([path]) for path in sorted(
        run.checkpoints_dir.glob("*.json"))[:1]],
    "metrics edited": _edit_metrics,
    "metrics damaged": lambda run: [_damage(path) for path in run.evaluations_dir.glob("*/metrics.json")],
    "metrics deleted": lambda run: [path.unlink() for path in run.evaluations_dir.glob("*/metrics.json")],
    "scored again": _score_again,
    "more to evaluate, or not": _evaluate_more,
    "a sweep submitted, or not": lambda run: _toggle(run.submission_file("sweep001"), {
        "token": "ecm-cluster:s", "cluster": "local", "job_id": "4194304"}),
    "a sweep of a submitter that died": lambda run: _toggle(run.submission_file("sweep002"), {
        "token": "ecm-cluster:s", "cluster": "slurm", "job_id": None}),
    "another job": lambda run: files.write_json(run.submission_file("train"), {
        "token": "ecm-cluster:t", "cluster": "local", "job_id": str(4_000_000 + int(1e6 * (time.time() % 100)))}),
    "overrides, or none": lambda run: _toggle(run.overrides_file, {"job": {"gpus": 2}}),
    "a record behind a link": _replace_by_link,
    "cancelled, or not": lambda run: _toggle(run.cancel_file, {"id": "x"}),
    "run.json edited": lambda run: _in_place(run.run_file, lambda data: data.replace(b'"gpus": 1', b'"gpus": 2')),
    "run.json damaged": lambda run: _damage(run.run_file),
    "restored from a backup": _copy_back,
    "nothing": lambda run: None,
}

LASTING = ("an attempt begins", "an attempt is taken back", "an invalid line", "a record behind a link",
           *(name for name in CHANGES if "damaged" in name or "deleted" in name or "died" in name))


def check_sequence(folder: Path, names: list[str]) -> int:
    """Make these changes one after the other; the number of times that a summary answered."""
    run, answered = done_run(folder), 0
    made: list[str] = []
    for name in names:
        CHANGES[name](Run(run.path))
        made.append(name)
        assert shown(run) == truth(run), made
        time.sleep(2.5 * TICK)
        assert shown(run) == truth(run), made
        answered += is_kept(run)
        assert shown(run) == truth(run), made
    return answered


def test_each_change_is_seen_at_once(tmp_path):
    runs = {name: done_run(tmp_path / str(number) / "run") for number, name in enumerate(CHANGES)}
    time.sleep(2.5 * TICK)
    states.fold(list(runs.values()))
    for name, run in runs.items():
        assert is_kept(run), name
        CHANGES[name](Run(run.path))
        assert shown(run) == truth(run), name


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_no_sequence_of_changes_makes_a_summary_differ_from_the_records(tmp_path, seed):
    draw, answered = random.Random(seed), 0
    for number in range(10):  # half of each without what keeps a run from being shown as done for good
        names = [*draw.choices([n for n in CHANGES if n not in LASTING], k=6), *draw.choices(list(CHANGES), k=6)]
        answered += check_sequence(tmp_path / str(number) / "run", names)
    assert answered > 10


@pytest.mark.slow
def test_sequences_leave_summaries_to_be_checked(tmp_path):
    harmless = ["nothing", "a heartbeat", "an event in a new file", "the ledger folded", "metrics edited", "nothing"]
    assert check_sequence(tmp_path / "run", harmless) == len(harmless)


# ---------------------------------------------------------------------------------------------- what it rests on


def test_everything_that_a_fold_reads_is_noted(tmp_path):
    run = done_run(tmp_path / "run")
    read: set[str] = set()

    def wrapped(name: str) -> Any:
        real = getattr(os, name)

        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{run.path}/"):
                read.add(os.fspath(path))
            return real(path, *args, **kwargs)

        return mock.patch.object(os, name, call)

    made = states.TolerantRun(run.path)
    with made.footprint.noting(), wrapped("open"), wrapped("stat"), wrapped("lstat"), wrapped("listdir"), \
            wrapped("scandir"):
        assert states.fold_one(made, {}).state == "done"
    assert len(read) > 10
    assert read - made.footprint.stamps.keys() <= {str(run.ledger_dir)}, "whose owner is looked at"
    assert str(run.ledger_dir) in made.footprint.stamps


def test_a_summary_in_which_nothing_can_be_trusted_is_not_used(tmp_path):
    run = done_run(tmp_path / "run")
    time.sleep(2.5 * TICK)
    expected = shown(run)
    record = json.loads(run.summary_file.read_text())
    state = record["state"]
    for wrong in ({**record, "by": "0.0.1"}, {**record, "stamps": {"/etc/passwd": None, **record["stamps"]}},
                  {**record, "stamps": {"../run/run.json": [1, 2, 3], **record["stamps"]}}, {**record, "state": {}},
                  {**record, "state": {**state, "attempt": "1"}}, {**record, "state": {**state, "jobs": {"train": 7}}},
                  {**record, "state": {**state, "evaluation": {"bbox_AP": "0.9"}}}, [record], None,
                  {**record, "state": {**state, "evaluation": {"metrics_file": 7}}},
                  {**record, "stamps": {"a\0b": None}}):
        run.summary_file.write_text(json.dumps(wrong))
        assert not is_kept(run), wrong
        assert shown(run) == expected, wrong
    run.summary_file.unlink()
    os.mkfifo(run.summary_file)
    assert shown(run) == expected
    assert run.summary_file.is_file(), "replaced by a regular one"


def test_only_what_is_done_without_any_damage_has_a_summary(tmp_path):
    run = done_run(tmp_path / "run")
    _damage(run.submission_file("train"))
    time.sleep(2.5 * TICK)
    assert "damaged" in shown(run).reason
    stopped = ended_run(tmp_path / "stopped")
    time.sleep(2.5 * TICK)
    assert shown(stopped).state == "failed"
    assert not run.summary_file.exists()
    assert not stopped.summary_file.exists()


def test_nobody_writes_a_summary_into_the_run_of_another_user(tmp_path):
    run = done_run(tmp_path / "run")
    time.sleep(2.5 * TICK)
    with mock.patch.object(os, "geteuid", return_value=os.geteuid() + 1):
        assert shown(run).state == "done"
    assert not run.summary_file.exists()


def test_each_field_of_a_state_has_a_shape():
    assert all(shape is not None for shape in summary.STATE.values()), summary.STATE


def test_a_directory_that_cannot_be_written_is_shown_all_the_same(tmp_path):
    run = done_run(tmp_path / "run")
    time.sleep(2.5 * TICK)
    with mock.patch.object(files, "replacing", side_effect=OSError(30, "Read-only file system")):
        assert shown(run).state == "done"
    assert fileserver.names_in(run.path).count("summary.json") == 0
