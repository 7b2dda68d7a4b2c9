"""What Slurm says of its partitions and of preemption, and of which refusals sbatch itself would make."""

from __future__ import annotations

import pytest
from answers import Answers

from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import chain
from ecm_cluster.job import job
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import site

PARTITIONS = (
    "PartitionName=low AllowGroups=ALL Default=YES QoS=N/A DefaultTime=01:00:00 GraceTime=5 Hidden=NO "
    "MaxTime=UNLIMITED PreemptMode=REQUEUE State=UP TotalCPUs=256 TotalNodes=4 "
    "TRES=cpu=256,mem=250G,node=4,billing=256,gres/gpu=32\n"
    "PartitionName=short Default=NO GraceTime=0 MaxTime=00:01:00 PreemptMode=OFF State=UP\n")
CONFIG = ("Configuration data as of 2026-11-23T01:39:15\nClusterName             = t\n"
          "PreemptMode             = {mode}\nPreemptType             = preempt/{kind}\n"
          "PreemptExemptTime       = 00:00:00\n\nSlurmctld(primary) at localhost is UP\n")
QOS = "normal|cluster|00:00:00\nscav|cancel|00:01:30\nmild|requeue|00:00:10\n"


@pytest.fixture
def answers(tmp_path, monkeypatch):
    return Answers(tmp_path, monkeypatch)


def test_partitions_say_what_they_do_on_preemption_and_how_large_they_are(answers):
    answers(scontrol=PARTITIONS)
    assert site.partitions() == [site.Partition("low", True, "REQUEUE", 5, "UNLIMITED", 4, 256),
                                 site.Partition("short", False, "OFF", 0, "00:01:00")]
    assert " -a " in answers.calls(), "hidden partitions are partitions"


def slurm(answers: Answers, mode: str, kind: str = "partition_prio", **accounts: str | None) -> None:
    answers(scontrol=CONFIG.format(mode=mode, kind=kind))
    words = " ".join(f"{name}) cat {answers.folder}/{name};;" for name in accounts)
    for name, text in accounts.items():
        (answers.folder / name).write_text(text or "")
    answers.script("sacctmgr", f'case "$3" in {words} *) exit 1;; esac\n' if words else "exit 1\n")


def preempted(mode: str, name: str = "low", grace: int = 5, **asked: str) -> list[str]:
    found = site.preemption(job.make(asked), [site.Partition(name, True, mode, grace, "UNLIMITED")])
    return [one.describe() for one in found]


@pytest.mark.parametrize(("mode", "everywhere", "said"), [
    ("REQUEUE", "REQUEUE", "when preempted (partition low, grace 5 s): commit, requeue, continue"),
    ("CANCEL", "REQUEUE", "when preempted (partition low, grace 5 s): commit, then a successor job is submitted"),
    ("GANG,SUSPEND", "GANG,SUSPEND",
     "when preempted (partition low): stopped in memory and continued; nothing is lost"),
    ("OFF", "REQUEUE", "never preempted (partition low)"),
    ("", "CANCEL", "when preempted (partition low, grace 5 s): commit, then a successor job is submitted"),
    ("GANG,REQUEUE", "GANG,REQUEUE", "when preempted (partition low, grace 5 s): commit, requeue, continue"),
])
def test_what_a_partition_does_on_preemption_is_said_as_it_is(answers, mode, everywhere, said):
    slurm(answers, everywhere)
    assert preempted(mode) == [said]


@pytest.mark.parametrize(("mode", "said"), [
    ("OFF", "never preempted (on this cluster)"),
    ("GANG", "when preempted (gang scheduling): stopped in memory and continued; nothing is lost")])
def test_without_preemption_no_partition_preempts_no_matter_what_its_mode(answers, mode, said):
    slurm(answers, mode, "none")
    assert preempted("REQUEUE") == [said]


def test_where_qos_preempt_the_mode_and_grace_of_the_jobs_qos_count(answers):
    slurm(answers, "REQUEUE", "qos", qos=QOS)
    assert preempted("OFF", grace=7, qos="scav") == [
        "when preempted (QOS scav, grace 90 s): commit, then a successor job is submitted"]
    assert preempted("CANCEL", qos="normal") == ["when preempted (QOS normal, grace 0 s): commit, requeue, continue"]
    slurm(answers, "GANG,SUSPEND", "qos", qos=QOS)
    assert "stopped in memory" in preempted("OFF", qos="normal")[0]


def test_the_qos_of_a_job_that_names_none_is_that_of_its_association(answers):
    asked = {"qos": QOS, "user": "vision\n", "assoc": "short||normal\n|scav|normal,scav,mild\n"}
    slurm(answers, "REQUEUE", "qos", **asked)
    assert preempted("OFF") == [
        "when preempted (QOS scav, the default, grace 90 s): commit, then a successor job is submitted"]
    slurm(answers, "REQUEUE", "qos", **{**asked, "assoc": "||scav,normal\n"})
    assert "QOS normal, the default" in preempted("OFF")[0]


def test_where_it_cannot_be_reported_it_depends_on_the_qos(answers):
    slurm(answers, "REQUEUE", "qos", qos=QOS, user="vision\n", assoc="||scav,mild\n")
    assert preempted("REQUEUE") == ["when preempted: depends on the job's QOS"]
    slurm(answers, "REQUEUE", "qos")  # no accounting, or none that answers
    assert preempted("REQUEUE") == ["when preempted: depends on the job's QOS"]
    assert preempted("REQUEUE", qos="x") == ["when preempted: depends on QOS x"]


@pytest.mark.parametrize(("text", "found"), [("5", 5), ("00:00:05", 5), ("00:01:30", 90), ("1-00:00:01", 86401),
                                             ("", 0), ("N/A", 0)])
def test_a_grace_time_is_read_however_slurm_writes_it(text, found):
    assert site.seconds(text) == found


# ---------------------------------------------------------------------------------------------- refused or queued


def sbatch(answers: Answers, words: str, states: str = "idle\nmix\nidle\nalloc\n") -> None:
    answers(scontrol=PARTITIONS, sinfo=states)
    answers.script("sbatch", f"echo '{words}' >&2\nexit 1\n")


def check(**values: object) -> None:
    run = Run("/shared/run")
    site.check([chain.request(run, job.make({"name": "run", **values}), "train", "token")], "fix it")


REFUSED = ("sbatch: error: invalid partition specified: x", "allocation failure: Invalid qos specification",
           "allocation failure: Access denied to requested reservation", "sbatch: unrecognized option --x",
           "allocation failure: Required partition not available (inactive or drain)",
           "allocation failure: Requested time limit is invalid (missing or exceeds some limit)",
           "allocation failure: Node count specification invalid")
UNAVAILABLE = "allocation failure: Requested node configuration is not available"


@pytest.mark.parametrize("words", REFUSED)
def test_what_sbatch_refuses_is_refused_before_anything_is_written(answers, words):
    sbatch(answers, words)
    with pytest.raises(UserError, match="sbatch would refuse the train job: .*; fix it"):
        check()


@pytest.mark.parametrize(("words", "states"), [
    ("allocation failure: Invalid time specified", "idle\n"),  # a reservation that begins later
    (UNAVAILABLE, "drain\ndrain\ndown*\ndown\n"), (UNAVAILABLE, "idle\ndrain\nidle\nidle\n"),
    (UNAVAILABLE, "maint\nresv\nmaint\nmaint\n"), (UNAVAILABLE, "idle*\nidle\nidle\nidle\n"), (UNAVAILABLE, ""),
    ("allocation failure: Requested nodes are busy", "alloc\n"),
])
def test_what_sbatch_would_queue_is_a_warning_and_sbatch_decides(answers, capsys, words, states):
    sbatch(answers, words, states=states)
    check()
    assert "warning: the train job cannot start now:" in capsys.readouterr().err


def test_what_no_node_has_is_refused_and_what_a_partition_is_too_small_for_is_left_to_sbatch(answers):
    sbatch(answers, UNAVAILABLE)
    with pytest.raises(UserError, match="Requested node configuration is not available"):
        check(gpus=9)
    check(nodes=5)  # EnforcePartLimits=NO queues it
    check(cpus_per_gpu=257)


def test_a_job_that_sbatch_takes_is_not_a_matter(answers, capsys):
    answers(sbatch="sbatch: Job 1 to start at 2026-11-23T01:39:15\n")
    check()
    assert capsys.readouterr().err == ""
