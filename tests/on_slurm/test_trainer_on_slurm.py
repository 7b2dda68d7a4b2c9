"""A trainer that is not mmdet's, preempted by a real Slurm, ends bit-identical to one that nothing interrupted."""

from __future__ import annotations

import json

from comparing import bits, read
from slurm_harness.endings import ends, preempt, trained
from small import TRAINER_EPOCH, await_state, trainer_flags, verb

from ecm_cluster.rundir.run import Run


def test_a_trainer_in_plain_pytorch_is_preempted_requeued_and_resumed_bit_identically(slurm, tmp_path):
    straight, broken = Run(tmp_path / "straight"), Run(tmp_path / "broken")
    verb("submit", *trainer_flags(tmp_path, "straight", "--gpus", 2, seconds=0), "--cluster", "local", "--wait")
    verb("submit", *trainer_flags(tmp_path, "broken", "--gpus", 2, "--partition", "low"), env=slurm.env)
    assert [s.link for s in broken.submissions()] == ["train"], "no evaluation is chained"
    trained(broken, 1, 2)
    preempt(slurm, str(broken.submissions()[0].job_id))
    assert await_state(broken, "done", env=slurm.env)["attempt"] == 2
    assert ends(broken, 1) == ["preempted"] and broken.read_attempt(2)["from"] is not None
    one, other = (read(run.checkpoints_dir / str(run.completion())) for run in (straight, broken))
    assert len(one["losses"]) == 2 * TRAINER_EPOCH and bits(one) == bits(other)
    loaded = json.loads((broken.logs_dir / "modules-1.json").read_text())
    assert not {"mmcv", "mmdet", "mmdet_ext"} & set(loaded)
