"""What a trainer of one's own logs is a series like mmdet's, and what a resume repeats replaces what is there."""

from __future__ import annotations

import pytest
from small import await_state, trainer_flags, verb, wait_until
from tracked import assert_clean

from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run


@pytest.mark.slow
def test_a_trainer_of_ones_own_logs_for_the_trackers(tmp_path):
    flags = trainer_flags(tmp_path, "mine", "--trackers", "tensorboard", seconds=0.0)
    verb("submit", *flags, "--cluster", "local", "--wait")
    run = Run(tmp_path / "mine")
    await_state(run, "done")
    wait_until(run.tracker_mark("tensorboard").exists, "the record is closed", 60)
    lines = training_log.fold(run)
    assert [line["iteration"] for line in lines] == list(range(1, 201)) and {"loss", "lr"} <= lines[0].keys()
    assert_clean(run, ("tensorboard",))
