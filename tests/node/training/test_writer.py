"""The process that writes checkpoints, with real kills, a real full disk, and files that stock torch reads."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commits import LOG, begin, events, save, state_of
from comparing import read

from ecm_cluster.base import files
from ecm_cluster.chain import evaluations
from ecm_cluster.node.training.saver import Saver
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run

TOO_LARGE = os.strerror(errno.EFBIG)


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other) and one.stride() == other.stride()
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other):
            assert_same(left, right)
    else:
        assert one == other


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "run")
    begin(made, 1)
    return made


@pytest.fixture
def saver(run):
    made = Saver(run, 1, 2, run.ledger(1, "train000"), LOG)
    yield made
    made.writer.close()


def load(run: Run, manifest: checkpoints.Manifest) -> Any:
    return read(manifest.path(run))


def test_the_writer_writes_what_torch_save_would_have_written(run, saver, tmp_path):
    save(saver, 3)
    torch.save(state_of(seed=3), tmp_path / "stock.pth")
    found = load(run, saver.last)
    assert_same(found, read(tmp_path / "stock.pth"))
    shared = found["state_dict"]
    assert shared["weight"].data_ptr() == shared["tied"].data_ptr() == shared["row"].data_ptr() - 40
    assert checkpoints.problem(run, saver.last) is None


def test_a_checkpoint_loads_in_mmcv_and_memory_mapped(run, saver):
    from mmcv.runner import load_checkpoint

    model = torch.nn.Linear(30, 20)
    save(saver, 3, {"meta": {"iter": 3}, "state_dict": model.state_dict()})
    other = torch.nn.Linear(30, 20)
    assert load_checkpoint(other, str(saver.last.path(run)))["meta"] == {"iter": 3}
    assert torch.equal(model.weight, other.weight)
    if not torch.__version__.startswith("1."):  # torch 1 maps nothing
        mapped = read(saver.last.path(run), mmap=True)
        assert torch.equal(mapped["state_dict"]["weight"], model.weight)


def test_the_training_may_change_its_tensors_as_soon_as_they_are_copied(run, saver):
    weight = torch.ones(1 << 20)
    save(saver, 1, {"weight": weight}, wait=False)
    weight.zero_()
    saver.settle(wait=True)
    assert load(run, saver.last)["weight"].min() == 1


def test_a_state_that_has_grown_is_written_whole(run, saver):
    save(saver, 1, {"x": torch.arange(10)})
    large = {"x": torch.arange(1_000_000), "y": torch.ones(3)}
    save(saver, 2, large)
    assert_same(load(run, saver.last), large)
    save(saver, 3, {"x": torch.arange(10)})
    assert_same(load(run, saver.last), {"x": torch.arange(10)})


def test_a_second_commit_waits_for_the_first_and_both_count(run, saver):
    save(saver, 1, {"x": torch.ones(1 << 20)}, wait=False)
    save(saver, 2, {"x": torch.zeros(1 << 20)}, wait=False)
    assert [e["iteration"] for e in events(run, "commit")] == [1]
    saver.settle(wait=True)
    assert [load(run, m)["x"][0].item() for m in checkpoints.accepted(run)] == [1, 0]


def test_a_commit_is_on_record_with_its_cost(run, saver):
    save(saver, 1, slowest_step=0.25)
    event, = events(run, "commit")
    assert event["bytes"] == saver.last.path(run).stat().st_size
    assert event["blocked_seconds"] >= 0 and event["write_seconds"] > 0 and event["slowest_step"] == 0.25
    assert event["digest"] == saver.last.digest


def test_old_checkpoints_go_after_the_new_one_counts_and_those_stay_that_an_evaluation_needs(run, saver):
    files.write_json(run.run_file, {"job": {}, "cluster": "slurm", "digests": {"config": "sha256:0"}})
    evaluations.write(run, "evaluate", [evaluations.Element("iteration 1", {})])
    save(saver, 1)
    save(saver, 2)
    save(saver, 3, epoch_end=True)
    save(saver, 4)
    save(saver, 5)
    save(saver, 6)
    assert [m.iteration for m in checkpoints.accepted(run)] == [1, 3, 5, 6]


def test_the_same_state_gives_the_same_bytes(run, saver):
    save(saver, 1, state_of())
    first = saver.last
    save(saver, 2, state_of())
    assert saver.last.digest == first.digest


# ------------------------------------------------------------------------------------ death, and a full disk


def leftovers(run: Run) -> list[str]:
    known = {name for m in checkpoints.manifests(run) for name in (m.file, Path(m.file).with_suffix(".json").name)}
    return sorted(p.name for p in run.checkpoints_dir.iterdir() if p.name not in known)


POINTS = ["after-data:.pth", "before-fsync:.pth", "before-rename:.pth", "after-rename:.pth", "before-manifest",
          "after-data:.json", "before-rename:.json"]


@pytest.mark.parametrize("point", POINTS)
def test_a_writer_killed_before_the_manifest_leaves_the_checkpoint_before_it_and_no_litter(run, saver, monkeypatch,
                                                                                           caplog, point):
    save(saver, 1)
    before = saver.last
    saver.writer.close()
    monkeypatch.setenv(files.KILL_ENV, point)
    saver.writer.start()
    save(saver, 2)
    assert "SIGKILL" in saver.failure
    assert checkpoints.newest_sound(run) == (before, [])
    assert leftovers(run) == []
    assert [(e["iteration"], "SIGKILL" in e["reason"]) for e in events(run, "commit-failed")] == [(2, True)]
    assert [r.levelname for r in caplog.records] == ["WARNING"] and "iteration 1 stands" in caplog.text
    monkeypatch.delenv(files.KILL_ENV)
    save(saver, 3)  # by a new process
    assert saver.failure is None and checkpoints.newest_sound(run) == (saver.last, [])


@pytest.mark.parametrize("point", ["after-rename:.json", "after-manifest"])
def test_a_checkpoint_whose_writer_died_after_the_manifest_counts(run, saver, monkeypatch, point):
    saver.writer.close()
    monkeypatch.setenv(files.KILL_ENV, point)
    saver.writer.start()
    save(saver, 2)
    assert saver.failure is None
    assert [e["iteration"] for e in events(run, "commit")] == [2]
    assert checkpoints.newest_sound(run) == (saver.last, [])
    assert_same(load(run, saver.last), state_of(seed=2))


def test_a_writer_killed_from_outside_while_it_writes_fails_that_commit_alone(run, saver):
    save(saver, 1)
    os.kill(saver.writer.pid, signal.SIGSTOP)
    save(saver, 2, wait=False)
    os.kill(saver.writer.pid, signal.SIGKILL)
    saver.settle(wait=True)
    assert saver.failure is not None and [m.iteration for m in checkpoints.accepted(run)] == [1]
    saver.again()
    assert saver.failure is None and [m.iteration for m in checkpoints.accepted(run)] == [1, 2]
    assert_same(load(run, saver.last), state_of(seed=2))


def test_a_full_disk_fails_the_commit_and_not_the_training(run, saver, caplog):
    save(saver, 1)
    before = saver.last
    # a limit on the size of files that the writer may write; what it says is what a full disk would say
    hard = resource.prlimit(saver.writer.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(saver.writer.pid, resource.RLIMIT_FSIZE, (1 << 20, hard))
    save(saver, 2, {"x": torch.ones(1 << 20)})
    assert saver.failure == TOO_LARGE
    assert leftovers(run) == [] and checkpoints.newest_sound(run) == (before, [])
    assert len(caplog.records) == 1 and TOO_LARGE in caplog.text
    assert [(e["iteration"], e["reason"]) for e in events(run, "commit-failed")] == [(2, TOO_LARGE)]
    save(saver, 3)
    assert saver.failure is None and [m.iteration for m in checkpoints.accepted(run)] == [1, 3]


def test_a_truly_full_file_system_says_so(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], capture_output=True,
                      check=False).returncode:
        pytest.skip("only root may mount a file system")
    try:
        run = Run(disk / "run")
        begin(run, 1)
        saver = Saver(run, 1, 2, run.ledger(1, "train000"), LOG)
        save(saver, 1)
        save(saver, 2, {"x": torch.ones(1 << 20)})
        assert saver.failure == "No space left on device"
        assert leftovers(run) == [] and [m.iteration for m in checkpoints.accepted(run)] == [1]
        assert events(run, "commit-failed")[0]["reason"] == "No space left on device"
        saver.writer.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_stale_attempt_commits_nothing_and_ends(run, saver):
    save(saver, 1)
    begin(run, 2)
    with pytest.raises(checkpoints.StaleAttempt, match="attempt 2 has begun"):
        save(saver, 2)
    assert [m.iteration for m in checkpoints.accepted(run)] == [1]
    assert leftovers(run) == []


TRAINER = """
import logging, os, sys, torch
from ecm_cluster.node.training.saver import Saver
from ecm_cluster.rundir.run import Run
run = Run(sys.argv[1])
saver = Saver(run, 1, 2, run.ledger(1, "train000"), logging.getLogger("x"))
position = dict(epoch=0, position=1, epoch_end=False)
saver.commit({"x": torch.zeros(10)}, iteration=1, **position)
saver.settle(wait=True)
saver.commit({"x": torch.zeros(30_000_000)}, iteration=2, **position)
print(saver.writer.pid, flush=True)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
def test_a_writer_dies_with_its_trainer_and_the_next_attempt_clears_up(run, root):
    from small import wait_until

    # killed while 120 MB are being written
    program = TRAINER + "os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", program, str(run.path)], env={**os.environ, "PYTHONPATH": str(root)},
                          stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: gone(int(done.stdout)), "the writer ends", 20)
    assert [m.iteration for m in checkpoints.accepted(run)] in ([1], [1, 2])
    assert checkpoints.newest_sound(run)[1] == []
    begin(run, 2)
    Saver(run, 2, 2, run.ledger(2, "train000"), LOG).writer.close()
    assert leftovers(run) == []


def test_signals_that_slurm_sends_to_every_process_do_not_hurt_the_writer(run, saver):
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
        os.kill(saver.writer.pid, number)
    save(saver, 1)
    assert saver.failure is None and saver.last.iteration == 1


def test_the_writer_has_no_torch(saver, run):
    save(saver, 1)
    maps = Path(f"/proc/{saver.writer.pid}/maps").read_text()
    assert "libpython" in maps or "python" in maps
    assert "libtorch" not in maps
