"""A tracker that cannot do its work gives a warning; the training does not notice."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from comparing import log_lines, state_in
from small import ROOT, await_state, job_flags, verb, wait_until
from steering import ended_run
from tracked import assert_clean, in_tensorboard, in_wandb, offline_files

from ecm_cluster.base import files, processes
from ecm_cluster.node import companion
from ecm_cluster.node.companion import Companion
from ecm_cluster.reporting import trouble
from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run

KEY = "a" * 40
BROKEN = {  # what stands for a tracker's package
    "missing": "",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "raises": "raise RuntimeError('incompatible with numpy')",
}


@pytest.fixture
def logged(tmp_path) -> Run:
    """A run with a log, as a training leaves it."""
    run = ended_run(tmp_path / "run", attempts=0, trackers={"tensorboard": {}, "wandb": {}})
    files.write_json(run.attempt_file(1), {"number": 1, "from": None, "accepts": []})
    grow(run, 1, 2000)
    return run


def grow(run: Run, first: int, last: int) -> None:
    for iteration in range(first, last + 1):
        training_log.append(run, 1, iteration, {"loss": 1 / iteration, "acc": iteration / 7})


def sync(run: Run, limit: int = 0, **env: str) -> str:
    def prepare() -> None:
        if limit:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(processes.command(sys.executable, "tracker sync", run.path), text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env}, preexec_fn=prepare, check=True,
                          capture_output=True)
    return done.stdout


def warnings(run: Run) -> list[str]:
    return [e["text"] for e in run.events() if e.kind == "warning"]


@pytest.mark.slow
def test_where_the_disk_is_full_both_say_so_and_the_next_one_that_has_room_completes_them(logged):
    said = sync(logged, limit=30_000)
    assert "tensorboard: OSError: [Errno 27] File too large" in said
    assert "rows of 2000: is the disk full, or over quota?" in said and len(warnings(logged)) == 2
    assert not list(logged.tracker_dir("tensorboard").glob("*events*")), "nothing truncated is left"
    assert "disk full" in trouble.declared(logged)
    assert sync(logged) == ""
    assert_clean(logged)
    assert trouble.declared(logged) == "", "what is complete now needs no warning"


@pytest.mark.slow
def test_the_checkout_in_which_a_job_runs_is_left_alone(logged, tmp_path):
    """``git describe --dirty`` locks its index, and a process that is killed meanwhile leaves the lock."""
    asked = tmp_path / "asked"
    git = tmp_path / "git"
    git.write_text(f'#!/bin/sh\necho "$GIT_DIR $*" >> {asked}\n')
    git.chmod(0o755)
    asked.touch()
    sync(logged, PATH=f"{tmp_path}:{os.environ['PATH']}")
    calls = [line for line in asked.read_text().splitlines() if not line.endswith(" version")]
    assert all(line.startswith(f"{os.devnull} ") for line in calls)


@pytest.mark.slow
def test_what_wandb_writes_after_it_says_that_it_has_finished_is_awaited(logged):
    """On a busy machine its own process is late."""
    from ecm_cluster.trackers.series import TrackedSeries
    from ecm_cluster.trackers.weights_and_biases import WeightsAndBiases

    tracker = WeightsAndBiases(logged, {"mode": "offline"}, pytest.fail)
    tracker.rewrite(TrackedSeries(logged).points()[:50])
    finish, late = tracker._run.finish, []

    def finish_early() -> None:
        finish()
        (path,) = offline_files(logged)
        whole = path.read_bytes()
        path.write_bytes(whole[:1000])
        late.append(threading.Timer(1.0, path.write_bytes, [whole]))
        late[0].start()

    tracker._run.finish = finish_early
    tracker.close()
    assert len(in_wandb(offline_files(logged)[0])["train/loss"]) == 50


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_no_truncated_event(logged):
    from ecm_cluster.trackers.series import TrackedSeries
    from ecm_cluster.trackers.tensorboard import TensorBoard

    points = TrackedSeries(logged).points()
    board = TensorBoard(logged, {}, print)
    board.rewrite(points[:10])
    size = next(logged.tracker_dir("tensorboard").iterdir()).stat().st_size
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            board.append(points[10:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(in_tensorboard(logged.tracker_dir("tensorboard"))["train/loss"]) == 10
    board.append(points[10:20])
    board.close()
    assert [step for step, _ in in_tensorboard(logged.tracker_dir("tensorboard"))["train/acc"]] == [*range(1, 21)]


@pytest.mark.slow
@pytest.mark.parametrize("env", [
    {"HOME": "/nonexistent", "WANDB_API_KEY": ""},
    {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "10"}], ids=["key", "network"])
def test_without_a_key_or_a_network_wandb_writes_offline_and_says_so(logged, env):
    said = sync(logged, WANDB_MODE="online", **env)
    assert "wandb: online failed (" in said and "writing offline, for `wandb sync`" in said
    assert KEY not in said and len(said.splitlines()) == 1, said
    assert_clean(logged)
    sync(logged)
    assert "writing offline" in trouble.declared(logged), "this stays"
    assert len(list(logged.tracker_dir("wandb").glob("*run-2*"))) == 1, "the one that failed has left nothing"


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_a_package_that_is_missing_or_broken_is_a_warning_and_the_other_tracker_has_everything(logged, kind, tmp_path):
    said = sync_with(logged, broken(tmp_path, "wandb", kind))
    if kind == "missing":
        assert f"wandb: it is not installed for {sys.executable}; pip install 'ecm-cluster[trackers]' there" in said
    elif kind == "raises":
        assert "warning: wandb: RuntimeError: incompatible with numpy" in said
    assert_clean(logged, ("tensorboard",))


def broken(folder: Path, package: str, kind: str) -> str:
    """A PYTHONPATH on which a package is missing or broken."""
    modules = folder / "modules"
    modules.mkdir()
    if kind == "missing":
        (modules / "sitecustomize.py").write_text(f"import sys; sys.modules[{package!r}] = None\n")
    else:
        (modules / f"{package}.py").write_text(BROKEN[kind])
    return os.pathsep.join((str(modules), str(ROOT)))


def sync_with(run: Run, path: str) -> str:
    done = subprocess.run(processes.command(sys.executable, "tracker sync", run.path), text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": path}, check=False, capture_output=True)
    return done.stdout


@pytest.mark.slow
def test_several_that_end_at_once_lose_nothing(logged):
    """As evaluations on several nodes: each gives up where another one holds the lock, which then looks again."""
    started = []
    for number in range(4):
        grow(logged, 2001 + number, 2001 + number)
        started.append(subprocess.Popen(processes.command(sys.executable, "tracker sync", logged.path),
                                        env={**os.environ, "PYTHONPATH": str(ROOT)}))
        time.sleep(0.4)
    assert [process.wait(120) for process in started] == [0] * 4
    assert_clean(logged)
    assert in_wandb(offline_files(logged)[0])["train/acc"][-1] == (2004, 2004 / 7)


@pytest.mark.slow
def test_a_late_change_is_followed_and_a_second_reader_of_the_same_run_does_nothing(logged):
    sync(logged)
    (before,) = offline_files(logged)
    sync(logged)
    assert offline_files(logged) == [before], "it is complete"
    before.unlink()
    before.parent.rename(before.parent.with_name("elsewhere"))
    sync(logged)
    assert_clean(logged)


@pytest.mark.slow
def test_a_tracker_cannot_end_delay_or_change_a_training(small_data, tmp_path):
    """One package is missing and the other crashes the process that imports it; the training is as without them."""
    path = broken(tmp_path, "wandb", "crashes")
    (tmp_path / "modules" / "sitecustomize.py").write_text("import sys; sys.modules['tensorboard'] = None\n")
    job = tmp_path / "job.yaml"
    job.write_text(f"{(ROOT / 'jobs/demo.yaml').read_text()}\nenv: {{PYTHONPATH: '{path}'}}\n"
                   "trackers: {tensorboard: {}, wandb: {}}\n")
    plain, bad = Run(tmp_path / "plain"), Run(tmp_path / "bad")
    flags = job_flags(small_data, tmp_path, "plain", runner__max_epochs=3)
    verb("submit", *flags, "--cluster", "local", "--no-eval")
    flags = [str(job), *job_flags(small_data, tmp_path, "bad", runner__max_epochs=3)[1:]]
    verb("submit", *flags, "--cluster", "local", "--no-eval")
    for run in (plain, bad):
        assert await_state(run, "done")["attempt"] == 1
    first, second = (state_in(run.checkpoints_dir / str(run.completion())) for run in (plain, bad))
    for key, value in first["state_dict"].items():
        assert (value == second["state_dict"][key]).all(), key
    assert log_lines(plain) == log_lines(bad)
    said = "\n".join(warnings(bad))
    assert "tensorboard: it is not installed" in said and "wandb: its process ended with code -11" in said


# -- the process beside the training


@pytest.fixture
def beside(tmp_path, monkeypatch) -> Callable[[str], tuple[Companion, list[str]]]:
    monkeypatch.setattr(companion, "PAUSES", (0.05, 0.05))
    monkeypatch.setattr(companion, "SILENT_SECONDS", 1.0)

    def start(body: str) -> tuple[Companion, list[str]]:
        said: list[str] = []
        return Companion([sys.executable, "-c", body], tmp_path / "log", said.append), said

    return start


def test_each_line_is_a_warning_and_the_end_of_its_input_ends_the_process(beside):
    body = "import sys; print('first\\x1b', flush=True); print(flush=True); sys.stdin.read(); print('last')"
    made, said = beside(body)
    wait_until(lambda: said, "a line", 10)
    made.close()
    made.join(10)
    assert said == ["first", "last"]


@pytest.mark.slow
def test_a_process_that_dies_is_started_again_and_one_that_always_does_is_left_alone(beside):
    made, said = beside("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    made.join(20)
    assert [text.split("; ")[:2] for text in said] == [
        ["its process ended with code -9", "it is started again in 0 s"]] * 2 + [
        ["its process ended with code -9", "it is not started again"]]


@pytest.mark.slow
def test_a_process_that_hangs_is_killed_with_what_it_started(beside, tmp_path):
    body = "import os, subprocess, time; p = subprocess.Popen(['sleep', '60']); " \
           f"open({str(tmp_path / 'pid')!r}, 'a').write(f'{{p.pid}} '); time.sleep(60)"
    made, said = beside(body)
    made.join(20)
    assert [text.split(";")[0] for text in said] == ["its process gave no sign of life for 1 s"] * 3
    pids = (tmp_path / "pid").read_text().split()
    assert len(pids) == 3 and not any(is_alive(pid) for pid in pids)


@pytest.mark.slow
def test_closing_returns_at_once_and_one_that_does_not_end_is_killed(beside, monkeypatch):
    monkeypatch.setattr(companion, "LAST_SECONDS", 0.5)
    made, said = beside("import time\nwhile True: print(flush=True); time.sleep(0.1)")
    time.sleep(0.5)
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 0.1
    made.join(10)
    assert time.monotonic() - began < 5 and said == []


def is_alive(pid: str) -> bool:
    try:
        return "(sleep) Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_what_a_service_has_is_not_sent_again_and_later_scores_take_no_step_of_a_line(tmp_path, monkeypatch):
    from ecm_cluster.trackers.series import Point
    from ecm_cluster.trackers.weights_and_biases import WeightsAndBiases

    run = ended_run(tmp_path / "run", attempts=0)
    service = Service(str(run.trackers_dir / "wandb" / "run-1" / "files"))
    monkeypatch.setitem(sys.modules, "wandb", service)
    tracker = WeightsAndBiases(run, {"mode": "online", "project": "p"}, pytest.fail)
    points = [Point(i, 1.0, {"train/loss": i}) for i in (10, 20, 30)]
    tracker.rewrite(points[:2])
    tracker.append(points[2:])
    scored = Point(20, 1.0, {"train/loss": 20, "val/bbox_AP": 0.5}, ("val/bbox_AP",))
    for again in range(2):  # a second process finds in the service what the first one sent
        tracker.rewrite([points[0], scored, points[2], Point(40, 1.0, {"train/loss": 40})])
        assert [(row["_step"], row["iteration"], row.get("val/bbox_AP")) for row in service.rows] == [
            (10, 10, None), (20, 20, None), (30, 30, None), (40, 40, None), (41, 20, 0.5)], again
    assert service.given["id"] == run.spec.run_id and service.given["resume"] == "allow"


class Service:
    """W&B with its service, as far as it is asked."""

    def __init__(self, folder: str) -> None:
        self.dir, self.rows, self.summary, self.given = folder, [], {}, {}  # type: ignore[var-annotated]

    def init(self, **given: Any) -> Service:
        self.given = given
        return self

    @property
    def step(self) -> int:
        return self.rows[-1]["_step"] + 1 if self.rows else 0

    def log(self, row: dict[str, Any], step: int | None = None, commit: bool = True) -> None:
        step = self.step if step is None else step
        assert step >= self.step, "W&B drops it"
        self.rows.append({**row, "_step": step})

    def define_metric(self, *names: str, **given: str) -> None:
        """As W&B's."""

    def finish(self) -> None:
        """As W&B's."""
