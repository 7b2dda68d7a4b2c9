"""What trackers get: the folded log, and the scores of the checkpoints that count."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from steering import ended_run

from ecm_cluster.base import files
from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run
from ecm_cluster.trackers.series import Point, Series


def attempt(run: Run, number: int, after: int, until: int, **more: Any) -> None:
    """An attempt that resumed after an iteration and logged each of those up to ``until``."""
    source = f"iter_{after:07d}-a{number - 1:04d}.pth" if after else None
    files.write_json(run.attempt_file(number), {"number": number, "from": source, "accepts": []})
    os.utime(run.attempt_file(number), (1000 * number, 1000 * number))
    for iteration in range(after + 1, until + 1):
        training_log.append(run, number, iteration, {"loss": number + iteration / 100, **more})


def score(run: Run, iteration: int, number: int, ap: float, **settings: Any) -> None:
    work = run.evaluation(f"iter_{iteration:07d}-{number}{len(settings)}")
    work.path.mkdir(parents=True)
    files.write_json(work.metrics_file(), {
        "figures": {"bbox": {"AP": ap, "APr": -1}, "segm": {"AP": None, "APf": ap}}, "max_dets": 300, "per_class": [],
        "provenance": {"checkpoint": f"iter_{iteration:07d}-a{number:04d}.pth", "iteration": iteration,
                       "settings": settings}})


def of(points: list[Point], name: str) -> dict[int, float]:
    return {point.iteration: point.values[name] for point in points if name in point.values}


def empty(folder: Path) -> Run:
    return ended_run(folder / "run", attempts=0)


def test_iterations_that_an_attempt_repeats_count_once_and_names_are_mmcvs(tmp_path):
    run = empty(tmp_path)
    attempt(run, 1, 0, 8, lr=0.1, time=2.0, epoch=1, mode="train", note="text", ok=True)
    attempt(run, 2, 5, 9, lr={"backbone": 0.1, "head": 0.2})
    points = Series(run).points()
    assert of(points, "train/loss") == {i: (1 if i <= 5 else 2) + i / 100 for i in range(1, 10)}
    assert points[0].values.keys() == {"train/loss", "learning_rate", "train/time"}
    assert points[-1].values.keys() == {"train/loss", "learning_rate/backbone", "learning_rate/head"}


def test_lines_without_a_time_of_their_own_are_placed_by_the_seconds_of_their_iterations(tmp_path):
    run = empty(tmp_path)
    attempt(run, 1, 0, 4, time=2.0)
    lines = [json.loads(line) for line in run.json_log(1).read_text().splitlines()]
    run.json_log(1).write_text("".join(json.dumps({k: v for k, v in line.items() if k != "timestamp"}) + "\n"
                                       for line in lines))
    assert [point.time for point in Series(run).points()] == [1002, 1004, 1006, 1008]


def test_an_interval_thins_the_log_and_leaves_scores(tmp_path):
    run = empty(tmp_path)
    attempt(run, 1, 0, 10)
    score(run, 7, 1, 0.5)
    points = Series(run).points(4)
    assert [point.iteration for point in points] == [4, 7, 8]
    assert points[1].values == {"val/bbox_AP": 0.5, "val/segm_APf": 0.5}
    assert Series(run).points(3)[1].values == {"train/loss": 1.06}


def test_scores_are_at_their_step_beside_its_losses_and_other_settings_are_left_out(tmp_path):
    run = empty(tmp_path)
    attempt(run, 1, 0, 4)
    score(run, 4, 1, 0.5)
    score(run, 2, 1, 0.9, nms_iou=0.6)
    points = Series(run).points()
    assert of(points, "val/bbox_AP") == {4: 0.5}
    assert points[-1].values["train/loss"] == 1.04 and points[-1].scores == ("val/bbox_AP", "val/segm_APf")


def test_scores_of_a_branch_that_was_left_do_not_count(tmp_path):
    run, series = empty(tmp_path), None
    attempt(run, 1, 0, 8)
    series = Series(run)
    for iteration in (4, 8):
        score(run, iteration, 1, iteration / 10)
    assert of(series.points(), "val/bbox_AP") == {4: 0.4, 8: 0.8}
    attempt(run, 2, 4, 6)  # resume --from 4
    assert of(series.points(), "val/bbox_AP") == {4: 0.4}
    attempt(run, 2, 6, 8)
    score(run, 8, 2, 0.9)
    assert of(series.points(), "val/bbox_AP") == {4: 0.4, 8: 0.9}
    assert series.points() == Series(run).points(), "what is kept of earlier looks changes nothing"


def test_a_loss_that_is_not_a_number_equals_itself_at_the_next_look(tmp_path):
    run = empty(tmp_path)
    attempt(run, 1, 0, 2, grad_norm=math.nan)
    series = Series(run)
    before = series.points()
    attempt(run, 1, 2, 3)
    assert series.points()[:2] == before


def test_a_line_of_a_trainer_of_ones_own_comes_behind_a_truncated_one(tmp_path):
    run = empty(tmp_path)
    attempt(run, 1, 0, 2)
    with run.json_log(1).open("a") as log:
        log.write('{"mode": "tra')
    training_log.append(run, 1, 3, {"loss": 1.0})
    assert list(of(Series(run).points(), "train/loss")) == [1, 2, 3]
    run.json_log(2).mkdir()  # a log that cannot be written ends no training
    training_log.append(run, 2, 1, {"loss": 1.0})
