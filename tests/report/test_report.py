"""The page about one run: what it says is what the run says, and nothing in a run can change what the page is."""

from __future__ import annotations

import json
import os
import re
import sys
import time

import former_version
import pytest
from pages import Page, analyse, full_run, log
from steering import ended_run

from ecm_cluster import report
from ecm_cluster.base import files
from ecm_cluster.console import cli
from ecm_cluster.report import page
from ecm_cluster.rundir.run import Run

HOSTILE = "\"'><script>document.title='pwned'</script><img src=x onerror=alert(1)>\u202e{{7*7}}"


def call(capsys, *argv: object) -> tuple[int, str, str]:
    code = cli.run(report.main, [str(a) for a in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return full_run(tmp_path_factory.mktemp("runs") / "first", options={"optimizer.lr": 0.02}, gpus=8)


@pytest.fixture(scope="module")
def made(run) -> Page:
    return Page(page.make([run]))


def test_the_scores_stand_on_top_masks_first(made):
    assert re.search(r"mask AP 15\.0 box 30\.0 mask APr 15\.0 .*mask APf 45\.0", made.text)
    assert "Scores of the checkpoint of iteration 4000, in percent" in made.text
    header = next(row for row in made.rows if "APr" in row)
    assert header[:6] == ["iteration", "AP", "APr", "APc", "APf", "AP50"]
    assert ["4000", "15.0", "15.0", "–", "45.0", "60.0"] in made.rows


def test_what_was_trained_stands_there(made):
    assert ["optimizer.lr", "0.02"] in made.rows
    assert ["gpus", "8", "1"] in made.rows
    assert ["digest", "sha256:c0de"] in made.rows
    assert ["git commit of ecm_cluster", "abc123, with changes that are not committed"] in made.rows
    assert ["torch", "2.8.0"] in made.rows
    assert ["test digest", "sha256:a"] in made.rows or ["scored checkpoint"] in [row[:1] for row in made.rows]


def test_the_loss_is_one_series_without_what_was_done_again(made):
    said = next(text for text in made.charts() if text.startswith("Loss over iterations"))
    assert re.match(r"Loss over iterations\. first: 3\.\d+ at iteration 50, 0\.6\d+ at iteration 4000\.", said)
    assert "attempt 2 resumed after iteration 1800" in made.text
    assert "1 logged value is not a finite number, the first at iteration 150" in made.text
    assert "100" not in said  # what only the first attempt logged beyond iteration 1800


def test_errors_stand_there_and_where_the_analysis_is_missing_how_to_get_it(run, made, tmp_path):
    assert "Expected calibration error 0.099" in made.text
    assert ["cat", "dog", "", "7"] in made.rows
    assert ["missed", "12.3 all 24.6 rare 12.3 common 6.2 frequent"] in made.rows
    assert "2 missed, 1 false. Missed: cat × 2" in made.text
    pictures = [a for tag, a in made.tags if tag == "image"]
    assert len(pictures) == 1 and pictures[0]["href"].startswith("data:image/jpeg;base64,/9j/")
    other = full_run(tmp_path / "other", scored=1)
    for work in other.evaluations():
        work.analysis_file.unlink()
    assert "python -m ecm_cluster.evaluate other --analysis makes it" in Page(page.make([other])).text


def test_every_chart_has_a_text_for_those_who_do_not_see_it(made):
    charts = made.charts()
    assert len(charts) >= 10 and all(len(text) > 20 for text in charts)
    assert any(text.startswith("Mask AP of each class against its training images: 39 classes.") for text in charts)


def test_a_page_loads_nothing_and_has_no_script(run, made):
    policy = next(a["content"] for tag, a in made.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src" not in policy
    assert {tag for tag, _ in made.tags} & {"script", "iframe", "object", "embed", "link", "form", "base"} == set()
    loads = [*made.attributes("src"), *made.attributes("href"), *made.attributes("xlink:href")]
    assert [value for value in loads if not value.startswith(("#", "data:image/jpeg"))] == []
    assert not re.search(r"url\(|@import", page.make([run]))
    assert not [name for _, attributes in made.tags for name in attributes if name.startswith("on")]


def test_text_of_a_run_stays_text(tmp_path):
    run = full_run(tmp_path / "runs", classes=6, scored=1, options={HOSTILE: HOSTILE})
    record = files.read_json(run.run_file)
    record.update(name=HOSTILE, config=HOSTILE[:60].replace("\u202e", ""), versions={HOSTILE: HOSTILE})
    record["code"]["packages"] = {HOSTILE: {"commit": HOSTILE, "dirty": False}}
    files.write_json(run.run_file, record)
    run.ledger(2, "train000").write("warning", about="x", text=HOSTILE)
    run.ledger(2, "task000").write("end", cause=HOSTILE, detail=HOSTILE, rank=0)
    for work in run.evaluations():
        text = work.metrics_file().read_text().replace("class_3", json.dumps(HOSTILE)[1:-1])
        work.metrics_file().write_text(text)
    analyse(run, confusions=[{"truth": HOSTILE, "predicted": HOSTILE, "count": 1}],
            worst=[{"image": "../../../../etc/passwd", "width": 1, "height": 1, "image_id": HOSTILE, "missed": 1,
                    "false": 0, "truth": [{"box": [0, 0, 1, 1], "name": HOSTILE}], "detections": []}])
    html = page.make([run, run])
    html += page.make([run])
    assert html.count("pwned") > 10
    assert "<script" not in html and "<img" not in html and "\u202e" not in html
    assert "onerror=alert(1)&gt;" in html and "{{7*7}}" in html and "root:" not in html


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path):
    run = full_run(tmp_path / "run", scored=2)
    newest = max(run.evaluations(), key=lambda e: e.metrics()["provenance"]["iteration"])
    newest.analysis_file.write_text('{"tide": 3}')
    run.json_log(2).write_bytes(b"\xff\xfe\x00garbage\n" * 50)
    (run.ledger_dir / "0002-task001.jsonl").write_text("{not json\n")
    found = Page(page.make([run]))
    assert "Damaged, left out: " in found.text and "analysis.json: tide" in found.text
    assert "mask AP 10.0" in found.text and "at iteration 2000." in " ".join(found.charts())


def test_a_run_that_has_done_nothing_yet_and_one_without_scores_have_a_page(tmp_path):
    run = ended_run(tmp_path / "run", attempts=0)
    text = Page(page.make([run])).text
    for sentence in ("Nothing is logged yet.", "No checkpoint is scored yet.", "No AP of single classes is known yet.",
                     "No job of it has run yet."):
        assert sentence in text
    log(run, 10)


def test_a_run_of_the_former_version_has_a_page(tmp_path):
    run = former_version.complete(tmp_path)
    found = Page(page.make([run]))
    assert f"{run.name} done" in found.text
    assert any(text.startswith(f"Loss over iterations. {run.name}:") for text in found.charts())


def test_the_page_goes_into_an_own_run_and_otherwise_here(tmp_path, capsys, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call(capsys, run.path)
    assert (code, out.split(" (")[0]) == (0, f"page: {run.report_file}")
    assert run.report_file.read_text().startswith("<!doctype html>")
    monkeypatch.setattr(Run, "is_own", False)
    assert call(capsys, run.path)[1].startswith("page: first.html (")
    (tmp_path / "first.html").write_text("something else")
    code, _, err = call(capsys, run.path)
    assert code == 2 and "exists and is not such a page; use -o" in err
    assert call(capsys, run.path, "-o", "other.html")[1].startswith("page: other.html")
    assert call(capsys, run.path, "-o", "-")[1].startswith("<!doctype html>")
    code, _, err = call(capsys, run.path, "-o", tmp_path / "none" / "page.html")
    assert code == 2 and "No such file or directory" in err
    assert "neither a run directory" in call(capsys, "nothing")[2]


def test_without_jinja2_one_line_says_what_to_install(capsys, monkeypatch, run):
    page._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert call(capsys, run.path) == (2, "", "error: the page needs jinja2; `pip install 'ecm-cluster[report]'` "
                                      "installs it\n")


def test_secrets_in_options_are_not_shown(tmp_path):
    run = ended_run(tmp_path / "run", options={"custom_hooks.0.init_kwargs.api_key": "hunter2",
                                               "x.url": "https://me:hunter2@host/p?token=hunter2"})
    html = page.make([run])
    assert "hunter2" not in html and "init_kwargs.api_key" in html


@pytest.mark.slow
def test_a_page_of_a_long_training_is_small_and_quickly_made(tmp_path):
    """75,000 iterations with a line for every 50, 1,203 classes, 12 checkpoints."""
    run = full_run(tmp_path / "run", classes=1203, points=1500, scored=12)
    began = time.process_time()
    html = page.make([run])
    assert time.process_time() - began < 5
    assert len(html.encode()) < 3e6
    assert len(Page(html).rows) > 1203


@pytest.mark.slow
def test_lines_of_every_iteration_are_thinned_to_what_can_be_seen(tmp_path):
    run = full_run(tmp_path / "run", points=90_000, scored=1)
    html = page.make([run])
    assert len(html) < 1.5e6
    assert "Of 90000 logged values those are drawn that can be distinguished" in Page(html).text


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_run_that_cannot_be_read_is_an_error_of_one_line(tmp_path, capsys):
    run = ended_run(tmp_path / "run")
    run.run_file.chmod(0)
    code, _, err = call(capsys, run.path)
    assert code == 2 and len(err.splitlines()) == 1
