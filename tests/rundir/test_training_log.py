"""The logs of several attempts read as one: what came after the checkpoint that an attempt went back to is void."""

from __future__ import annotations

import json

from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run


def attempt(run: Run, number: int, starts_after: int, iterations: range, by_epoch: bool = True,
            per_epoch: int = 10) -> None:
    """An attempt's JSON log as mmcv writes it: a header, and a line for each iteration."""
    run.logs_dir.mkdir(parents=True, exist_ok=True)
    run.attempts_dir.mkdir(exist_ok=True)
    run.attempt_file(number).write_text("{}")
    rows = [{"seed": 0, "attempt": number, "starts_after": starts_after, "epoch": starts_after // per_epoch,
             "position": starts_after % per_epoch, "iterations_per_epoch": per_epoch,
             "iterations_this_epoch": per_epoch, "by_epoch": by_epoch}]
    for i in iterations:
        place = {"epoch": (i - 1) // per_epoch + 1, "iter": (i - 1) % per_epoch + 1 if by_epoch else i}
        rows.append({"mode": "train", **place, "loss": number + i / 1000})
    run.json_log(number).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_lines_after_the_checkpoint_that_an_attempt_goes_back_to_count_once(tmp_path):
    for by_epoch in (True, False):
        run = Run(tmp_path / str(by_epoch))
        attempt(run, 1, 0, range(1, 18), by_epoch)
        attempt(run, 2, 12, range(13, 25), by_epoch)
        attempt(run, 3, 9, range(10, 12), by_epoch)
        folded = training_log.fold(run)
        assert [line["iteration"] for line in folded] == list(range(1, 12))
        assert [line["attempt"] for line in folded] == [1] * 9 + [3] * 2


def test_the_epoch_in_which_a_run_was_rescaled_has_a_length_of_its_own(tmp_path):
    run = Run(tmp_path)
    attempt(run, 1, 0, range(1, 5))
    attempt(run, 2, 4, range(0))
    header = json.loads(run.json_log(2).read_text())
    lines = [{"mode": "train", "epoch": epoch, "iter": i, "loss": 1.0} for epoch, i in
             [(1, 5), (1, 12), (2, 1), (2, 20), (3, 1)]]
    rows = [{**header, "iterations_this_epoch": 12, "iterations_per_epoch": 20}, *lines]
    run.json_log(2).write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [line["iteration"] for line in training_log.fold(run)] == [1, 2, 3, 4, 5, 12, 13, 32, 33]


def test_a_line_truncated_by_a_kill_and_an_attempt_without_lines_are_skipped(tmp_path):
    run = Run(tmp_path / "run")
    attempt(run, 1, 0, range(1, 5))
    with run.json_log(1).open("a") as handle:
        handle.write('{"mode": "train", "epoch": 1, "it')
    attempt(run, 2, 4, range(0))
    run.json_log(2).unlink()
    attempt(run, 3, 4, range(5, 7))
    assert [line["iteration"] for line in training_log.fold(run)] == [1, 2, 3, 4, 5, 6]


def test_a_line_that_was_written_again_as_storage_failed_at_its_end_counts_once(tmp_path):
    run = Run(tmp_path / "run")
    attempt(run, 1, 0, range(1, 5))
    whole = run.json_log(1).read_text()
    second = whole.splitlines()[2]
    run.json_log(1).write_text(whole.replace(second, f"{second}\n{second}"))
    assert [(line["iteration"], line["loss"]) for line in training_log.fold(run)] == [
        (1, 1.001), (2, 1.002), (3, 1.003), (4, 1.004)]


def test_the_readable_log_says_which_iterations_are_repeated(tmp_path):
    run = Run(tmp_path / "run")
    attempt(run, 1, 0, range(1, 116))
    run.write_heartbeat(1, phase="training", iteration=117)
    attempt(run, 2, 100, range(0))
    assert training_log.repeated(run, 1, 0) == []
    assert training_log.repeated(run, 2, 100) == [
        "attempt 2 resumes after iteration 100",
        "iterations 101 to 117 of attempt 1 are repeated; ignore its lines"]
    assert training_log.repeated(run, 2, 117) == ["attempt 2 resumes after iteration 117"]
