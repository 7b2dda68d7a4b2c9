"""A trainer that is not mmdet's goes through the same door: submitted, preempted, resumed bit-identically."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from comparing import bits, read
from small import TRAINER_EPOCH, await_state, logs_of, trainer_flags, verb, wait_until

from ecm_cluster import submit
from ecm_cluster.base.errors import UserError
from ecm_cluster.rundir.run import Run


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert submit.main([*words, "--cluster", "local", "--dry-run"]) == 0
    said = capsys.readouterr()
    return said.out + said.err


def test_the_plan_says_that_nothing_will_be_scored_and_that_exactness_is_the_trainers(capsys, tmp_path):
    said = plan(capsys, *trainer_flags(tmp_path, "tiny", "--gpus", 2))
    assert "trainer     tiny_trainer:make; seed 0" in said
    assert "evaluation  none: tiny_trainer:make offers none" in said
    assert "exact       not checked" in said and "would be refused" not in said
    assert "batch " not in said and "staging " not in said


@pytest.mark.parametrize(("given", "expected"), [
    ("tiny_trainer", "trainer: invalid value 'tiny_trainer'; expected MODULE:FUNCTION"),
    ("tiny_trainer:no_such", "tiny_trainer.py has no 'no_such'; expected a function of this name"),
    ("no_such_module:make", "trainer: there is no module 'no_such_module' in --code")])
def test_a_trainer_that_no_rank_could_import_is_refused_in_one_line(capsys, tmp_path, given, expected):
    words = [*trainer_flags(tmp_path, "tiny"), "--trainer", given, "--cluster", "local"]
    with pytest.raises(UserError) as refused:
        submit.main(words)
    assert expected in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "tiny").exists()


@pytest.mark.slow
def test_the_door_imports_neither_mmcv_nor_mmdet(root):
    code = ("import sys; sys.modules.update(dict.fromkeys(['mmcv', 'mmdet', 'mmdet_ext', 'cv2']));"
            "from ecm_cluster.node.training import divergence, loading, saver, step_hook, trainable, worker;"
            "from ecm_cluster.node.gpu import devices")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=60)


def weights(run: Run) -> dict:
    mark = run.completion()
    assert mark is not None
    return read(run.checkpoints_dir / mark)


def preempt(run: Run) -> None:
    """Signal one rank in the middle of its first epoch, as Slurm or a user does."""
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 12, "training", look=lambda: logs_of(run))
    task = next(e["pid"] for e in run.events() if e.kind == "start" and e["rank"] == 1)
    os.kill(task, signal.SIGTERM)


@pytest.mark.slow
def test_it_is_submitted_preempted_resumed_bit_identically_and_completed_on_one_machine(tmp_path):
    straight, broken = Run(tmp_path / "straight"), Run(tmp_path / "broken")
    verb("submit", *trainer_flags(tmp_path, "straight", "--gpus", 2, seconds=0), "--cluster", "local", "--wait")
    verb("submit", *trainer_flags(tmp_path, "broken", "--gpus", 2, "--checkpoint-every", 4), "--cluster", "local")
    preempt(broken)
    assert await_state(broken, "done")["attempt"] == 2
    committed = [e["iteration"] for e in broken.events() if e.kind == "commit" and e.attempt == 1]
    assert 12 <= committed[-1] < TRAINER_EPOCH, "it was stopped in the middle of an epoch"
    assert broken.read_attempt(2)["from"] == f"iter_{committed[-1]:07d}-a0001.pth"
    one, other = weights(straight), weights(broken)
    assert len(one["losses"]) == 2 * TRAINER_EPOCH and bits(one) == bits(other)
    for rank in (0, 1):
        loaded = json.loads((broken.logs_dir / f"modules-{rank}.json").read_text())
        assert not {"mmcv", "mmdet", "mmdet_ext", "cv2"} & set(loaded) and "torch" in loaded
    assert broken.evaluations() == [] and [s.link for s in broken.submissions()] == ["train"]
    refused = verb("evaluate", broken.path, code=None)
    assert refused.returncode == 2 and "was trained by tiny_trainer:make" in refused.stderr
