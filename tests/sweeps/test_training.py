"""A group that is really trained: two losses and two seeds of a tiny detector on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small import ROOT, await_state, job_flags, logs_of, state_of, verb, wait_until

from ecm_cluster.backends import driver
from ecm_cluster.rundir.run import Run

pytestmark = pytest.mark.slow
LOSS = "model.roi_head.bbox_head.loss_cls"
VARIED = ("--vary", "seed=0,1", "--vary", f"{LOSS}=@ecm,@ce", "--cluster", "local")
NAMES = ("two-seed0-ecm", "two-seed0-ce", "two-seed1-ecm", "two-seed1-ce")


@pytest.fixture
def tried(small_data: Path, tmp_path: Path) -> list[str]:
    return ["submit", *job_flags(small_data, tmp_path, "two"), *VARIED]


def test_a_group_is_trained_one_after_the_other_continued_after_a_kill_and_compared(tried, tmp_path):
    runs = {name: Run(tmp_path / name) for name in NAMES}
    # killed during the first training, which continues; nothing further is started
    asking = subprocess.Popen([sys.executable, "-m", f"ecm_cluster.{tried[0]}", *tried[1:]], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    first, second, third, _ = runs.values()
    wait_until(lambda: first.newest_attempt() and not second.submissions(), "the first begins")
    assert all(run.run_file.exists() for run in runs.values()), "all have the code of now"
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    await_state(first, "done")
    assert not second.submissions()
    said = verb("status", "two", "--runs-dir", tmp_path).stdout
    assert re.search(r"two-seed0-ecm +0 +@ecm +done", said) and said.count("not submitted") == 4  # 3 and the sum

    # asked again: the second is cancelled meanwhile, the others are trained
    asking = subprocess.Popen([sys.executable, "-m", f"ecm_cluster.{tried[0]}", *tried[1:]], cwd=ROOT,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: driver.find(second) and second.newest_attempt(), "the second begins")
    assert driver.find(third) is None, "one at a time"
    verb("cancel", second.path)
    out, _ = asking.communicate(timeout=400)
    assert asking.returncode == 0, out
    assert "4 runs, 1 of them submitted already" in out
    for name in (*NAMES[:1], *NAMES[2:]):
        await_state(runs[name], "done")
    assert state_of(second)["state"] == "stopped", logs_of(second)

    shown = json.loads(verb("compare", "two", "--runs-dir", tmp_path, "--json").stdout)
    assert [(s["setting"], len(s["runs"])) for s in shown["settings"]] == [("ecm", 2), ("ce", 1)]
    assert shown["missing"][0].startswith("two-seed0-ce: stopped: cancelled")
    said = verb("resume", "two", "--runs-dir", tmp_path).stdout
    assert "1 of 4 runs resumed" in said
    await_state(second, "done")
    shown = json.loads(verb("compare", "two", "--runs-dir", tmp_path, "--json", "--against", "ce").stdout)
    assert shown["missing"] == [] and shown["against"] == "ce"
    difference = shown["settings"][0]["figures"]["bbox"]["AP"]["difference"]
    assert difference["runs"] == 2 and difference["seeds"] is not None
    if sys.version_info >= (3, 10):  # hotcoco
        assert difference["images"] is not None and not shown["notes"]
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.json")}
        assert len(kept) == 1 + 2 * 4, "the record, and each run's boxes and masks resampled"
        assert json.loads(verb("compare", "two", "--runs-dir", tmp_path, "--json", "--against", "ce").stdout) == shown
        assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "two").rglob("*.json")}
    losses = {name: re.search(r"'loss_cls': \{'type': '(\w+)'", _head(run))[1] for name, run in runs.items()}
    assert set(losses.values()) == {"EffectiveClassMarginLoss", "CrossEntropyLoss"}
    assert {run.spec.job.seed for run in runs.values()} == {0, 1}


def _head(run: Run) -> str:
    return re.sub(r"\s+", " ", run.config_file.read_text()).partition("'roi_head'")[2]


def test_a_group_that_is_cancelled_starts_no_further_run(small_data, tmp_path):
    words = [*job_flags(small_data, tmp_path, "two", runner__max_epochs=50), *VARIED]
    asking = subprocess.Popen([sys.executable, "-m", "ecm_cluster.submit", *words], cwd=ROOT, stdout=subprocess.PIPE,
                              text=True)
    first = Run(tmp_path / NAMES[0])
    wait_until(lambda: first.newest_attempt(), "the first begins")
    verb("cancel", "two", "--runs-dir", tmp_path)
    out, _ = asking.communicate(timeout=100)
    assert asking.returncode == 0 and out.count("cancelled, not submitted") == 3
    assert not any(driver.find(Run(tmp_path / name)) for name in NAMES)
    assert os.path.exists(first.cancel_file)
