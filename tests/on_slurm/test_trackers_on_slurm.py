"""A tracked run on a real Slurm: writers on several nodes, in turn and at once, and one clean record."""

from __future__ import annotations

from slurm_harness.endings import ends, preempt, submit, trained
from small import await_state, verb
from tracked import assert_clean, in_wandb, offline_files

from ecm_cluster.rundir import training_log


def test_preempted_on_a_failed_node_and_scored_on_others_it_is_one_clean_line(slurm, small_data, tmp_path):
    run, job_id = submit(slurm, small_data, tmp_path, "tracked", "--nodes", 2, "--trackers", "tensorboard,wandb",
                         "--checkpoint-every", 5, "--keep", 50, "--eval-epochs", "all", "--eval-while-training",
                         runner__max_epochs=8)
    trained(run, 1, 7)
    first = slurm.job(job_id)["BatchHost"]
    slurm.kill_node(first)
    slurm.node_down(first)
    slurm.start_node(first)
    trained(run, 2, 14)
    preempt(slurm, job_id)
    found = await_state(run, "done", env=slurm.env, seconds=500)
    slurm.wait_idle()
    assert (ends(run, 2)[0], found["attempt"]) == ("preempted", 3)
    assert len({line["attempt"] for line in training_log.fold(run)}) == 3
    assert_clean(run)
    per_epoch = found["iteration"] // 8
    expected = [per_epoch * epoch for epoch in range(1, 9)]
    assert [step for step, _ in in_wandb(offline_files(run)[0])["val/segm_AP"]] == expected
    # two elements of an array at the same time, on a run that has ended
    verb("evaluate", run.path, "--checkpoints", "5,10", "--wait", env=slurm.env)
    slurm.wait_idle()
    assert_clean(run)
    assert [step for step, _ in in_wandb(offline_files(run)[0])["val/segm_AP"]] == sorted({5, 10, *expected})
