"""The plan says of the place what Slurm has said, and of the rest that nobody was asked."""

from __future__ import annotations

import pytest
from answers import Answers
from small import CLASSES

from ecm_cluster import submit
from ecm_cluster.base.errors import UserError
from ecm_cluster.job import job
from ecm_cluster.plan import plan_text, planning

HEADS = {f"model.roi_head.{head}.num_classes": CLASSES for head in ("bbox_head", "mask_head")}
CLAIMS = ("when preempted", "never preempted", "requeue, continue; when out", "the default)")
DOWN = "echo 'slurm_load_partitions: Unable to contact slurm controller (connect failure)' >&2\nexit 1\n"
# Slurm's client without a slurm.conf, as 22.05 says it
NO_CONFIG = ("echo 'sinfo: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host' >&2\n"
             "echo 'sinfo: fatal: Could not establish a configuration source' >&2\nexit 1\n")


def place(data, **values) -> tuple[planning.Plan, str]:
    plan = planning.make(job.make({"config": "configs/demo.py", "device": "cpu", "data_root": str(data),
                                   "options": HEADS, **values}), "slurm")
    text = plan_text.describe(plan)
    return plan, next(line for line in text.splitlines() if line.startswith("  where"))


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Answers:
    return Answers(tmp_path, monkeypatch)


@pytest.mark.parametrize(("commands", "reason"), [
    ({}, "no sbatch in PATH"),
    ({"sbatch": "exit 1\n", "scontrol": DOWN, "sinfo": DOWN}, "Unable to contact slurm controller (connect failure)"),
    ({"sbatch": "exit 1\n", "scontrol": NO_CONFIG, "sinfo": NO_CONFIG}, "Could not establish a configuration source"),
    ({"sbatch": "exit 1\n"}, "scontrol and sinfo do not answer"),
    ({"sbatch": "exit 1\n", "scontrol": "exit 1\n", "sinfo": "exit 1\n"}, "scontrol and sinfo do not answer"),
    ({"sbatch": "exit 1\n", "scontrol": "exit 0\n"}, "scontrol lists no partitions"),
])
@pytest.mark.parametrize("partition", [None, "gpu"])
def test_where_slurm_was_not_asked_the_plan_claims_none_of_the_partition(small_data, slurm, commands, reason,
                                                                            partition):
    for name, lines in commands.items():
        slurm.script(name, lines)
    plan, line = place(small_data, partition=partition)
    assert (plan.partition, plan.preemption) == (None, [])
    assert "not asked (" in line and reason in line
    assert not any(claim in line for claim in CLAIMS), line
    assert ("partition gpu, time limit 24:00:00" if partition else "the cluster's default partition") in line


def test_a_controller_that_hangs_is_not_waited_for(small_data, slurm, monkeypatch):
    from ecm_cluster.slurm import commands as cluster

    asked = []
    monkeypatch.setattr(cluster, "run_command", lambda *words, timeout: asked.append((words, timeout)))
    slurm.script("sbatch", "exit 1\n")
    _, line = place(small_data)
    assert "not asked (Slurm is not reachable: scontrol and sinfo do not answer)" in line
    assert [words[0] for words, _ in asked] == ["scontrol", "sinfo"], "what does not answer is not asked for more"
    assert sum(timeout for _, timeout in asked) <= 10


def test_a_client_without_a_cluster_is_not_a_slurm_and_submit_says_what_to_do(slurm, capsys, small_data, tmp_path):
    from small import job_flags

    slurm.script("sbatch", "echo 'sbatch: error: Batch job submission failed' >&2\nexit 1\n")
    for name in ("scontrol", "sinfo"):
        slurm.script(name, DOWN)
    with pytest.raises(UserError) as caught:
        submit.main(job_flags(small_data, tmp_path / "runs", "a-run"))
    assert str(caught.value) == (
        "cluster: Slurm is not reachable: slurm_load_partitions: Unable to contact slurm controller (connect failure); "
        "use --cluster local to run here, or submit from a login node")
    assert not (tmp_path / "runs").exists()


def test_a_cluster_without_a_default_partition_wants_one_to_be_named(small_data, slurm):
    slurm(sbatch="", scontrol="PartitionName=a100 Default=NO PreemptMode=OFF State=UP\n")
    plan, line = place(small_data)
    assert "partition not given, and no default" in line
    assert plan.problems == ["partition: none is given, and this cluster has no default; use --partition, one of: "
                             "a100"]
