"""The page of a run that was really trained, made at its end by its own frozen code."""

from __future__ import annotations

import json

import pytest
from pages import Page
from small import await_state, job_flags, make_data, verb, wait_until

from ecm_cluster.reporting.tables import percent
from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run

pytestmark = pytest.mark.slow


def test_a_training_ends_with_its_page_which_says_what_the_run_says(tmp_path):
    data = make_data(tmp_path / "data")
    verb("submit", *job_flags(data, tmp_path / "runs", "trained"), "--cluster", "local", "--wait", timeout=600)
    run = Run(tmp_path / "runs/trained")
    assert list((run.code_folder(1) / "ecm_cluster/report/templates").glob("*.html"))
    wait_until(lambda: run.afterwards_log.exists() and f"page: {run.report_file}" in run.afterwards_log.read_text(),
               "the page", 60)
    made = Page(run.report_file.read_text())
    assert "trained done trained and scored" in made.text
    (work,) = run.evaluations()
    figures = work.metrics()["figures"]
    for kind, word in (("segm", "mask"), ("bbox", "box")):
        shown = [percent(figures[kind][name]) for name in ("AP", "APr", "APc", "APf")]
        assert any(row[1:5] == shown for row in made.rows if len(row) > 5), (kind, shown)
        assert f"{word} {percent(figures[kind]['AP'])}" in made.text or f"{word} AP {shown[0]}" in made.text
    lines = training_log.fold(run)
    loss = next(text for text in made.charts() if text.startswith("Loss over iterations"))
    assert not any("timestamp" in text for text in made.charts())  # of each line of the log, and no curve
    assert f"{lines[0]['loss']:.4g} at iteration {lines[0]['iteration']}" in loss
    assert f"{lines[-1]['loss']:.4g} at iteration {lines[-1]['iteration']}" in loss
    for row in work.metrics()["per_class"]:
        ap = percent(row["segm"])
        assert any(cells[0] == row["name"] and cells[-2] == ap for cells in made.rows if len(cells) == 6), row
    assert run.spec.code["digest"] in made.text and run.spec.digests["config"] in made.text
    assert f"page: {run.report_file}" in verb("status", run.path).stdout


def test_a_training_that_fails_for_good_ends_with_its_page(tmp_path):
    data = make_data(tmp_path / "data")
    flags = job_flags(data, tmp_path / "runs", "failing", optimizer__lr=10.0**12, lr_config__warmup_iters=1)
    verb("submit", *flags, "--cluster", "local", "--on-nan", "stop")
    run = Run(tmp_path / "runs/failing")
    found = await_state(run, "failed")
    made = Page(wait_until(lambda: run.report_file.exists() and run.report_file.read_text(), "the page", 60))
    assert "failing failed" in made.text and "No checkpoint is scored yet." in made.text
    assert json.dumps(found["reason"])[1:20] in json.dumps(made.text)
