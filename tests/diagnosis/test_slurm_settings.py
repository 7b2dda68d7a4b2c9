"""What Slurm's settings mean for a job, from what a real Slurm once printed; each fault's own line and remedy."""

from __future__ import annotations

import getpass
import time
from datetime import datetime

import pytest
from answers import Answers
from small import ROOT

from ecm_cluster.diagnosis import asked, limits, slurm
from ecm_cluster.diagnosis.finding import carried_out, page, summary
from ecm_cluster.job import job

CONFIG = {"ClusterName": "t", "SLURM_VERSION": "22.05.8", "AccountingStorageType": "accounting_storage/slurmdbd",
          "AccountingStorageEnforce": "associations,limits,qos", "AccountingStoreFlags": "job_comment",
          "JobRequeue": "1", "KillWait": "30 sec", "MaxArraySize": "1001", "MaxJobCount": "10000",
          "MinJobAge": "300 sec", "PreemptMode": "REQUEUE", "PreemptType": "preempt/partition_prio",
          "PreemptExemptTime": "00:10:00", "SlurmctldParameters": "(null)"}
PARTITION = ("PartitionName=gpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES QoS=N/A GraceTime=600 "
             "Hidden=NO MaxNodes=UNLIMITED MaxTime=2-00:00:00 PreemptMode=REQUEUE State=UP TotalCPUs=128 "
             "TotalNodes=2\n")
OTHERS = "PartitionName=debug Default=NO GraceTime=0 MaxTime=00:30:00 PreemptMode=OFF State=UP\n"
SIZE = "128|1031000|1\n"
NODES = f"gpu|gpu:a100:8(S:0-1)|idle|{SIZE}gpu|gpu:a100:8(S:0-1)|mix|{SIZE}"
ASSOCIATION = "vision||normal|dear,normal|||||\n"
QOSES = "normal|||||||\ndear||1-00:00:00||||||\n"


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Findings by id for a cluster that differs from a sound one as specified, and a job."""
    answers = Answers(tmp_path, monkeypatch)

    def look(config=(), partitions=PARTITION, gres=NODES, association=ASSOCIATION, qoses=QOSES, sbatch="exit 0\n",
             sacct="exit 0\n", behind=0, whole="", **values):
        now = f"Configuration data as of {datetime.fromtimestamp(time.time() - behind):%FT%T}\n"
        texts = {"config": now + "".join(f"{k:24}= {v}\n" for k, v in {**CONFIG, **dict(config)}.items()),
                 "partition": partitions, "assoc": association, "qos": qoses, "gres": gres,
                 "whole": whole}
        for name, text in texts.items():
            (answers.folder / name).write_text(text)
        folder = answers.folder
        answers.script("scontrol", f'case "$*" in *partition*) cat {folder}/partition;; *) cat {folder}/config; esac\n')
        answers.script("sacctmgr", f'case "$*" in *" user= "*) cat {folder}/whole;; *) cat {folder}/$3; esac\n')
        answers.script("sinfo", f"cat {folder}/gres\n")
        answers.script("sbatch", sbatch)
        answers.script("sacct", sacct)
        given = job.make({"config": str(ROOT / "configs/demo.py"), "runs_dir": str(tmp_path / "runs"), "gpus": 8,
                          "account": "vision", **values})
        asks = asked.Asked(given, "slurm", True, elements=[None, None])
        known = slurm.ask(asks)
        every = [*carried_out("slurm", lambda: slurm.check(asks, known)),
                 *carried_out("limits", lambda: limits.check(asks, known))]
        by_id = {}
        for one in every:
            if one.state == "fails" or by_id.get(one.id, one).state != "fails":
                by_id[one.id] = one
        return by_id

    return look


def test_a_sound_cluster_is_ok_in_every_line(found):
    every = found()
    assert {one.state for one in every.values()} == {"ok"}, every
    assert every["slurm.preemption"].text == ("PreemptType=partition_prio, PreemptMode=REQUEUE; a job is exempt for "
                                              "its first 600 s")
    assert every["limits.gpus.gpu"].text == "its nodes have 8 × a100"
    assert every["limits.account"].text == f"{getpass.getuser()} may use vision"
    assert "slurm" in page(every.values()) and summary(every.values()) == f"{len(every)} ok"


@pytest.mark.parametrize(("changed", "name", "state", "text"), [
    ({"config": {"SLURM_VERSION": "20.11.9"}}, "slurm.controller",
     "warning", "20.11.9, which is not among the tested versions, 22.05 to 24.11"),
    ({"config": {"SLURM_VERSION": "25.05.1"}}, "slurm.controller", "warning", "25.05.1, which is not among the tested"),
    ({"config": {"SLURM_VERSION": "24.11.5"}}, "slurm.controller", "ok", "24.11.5"),
    ({"config": {"AccountingStorageType": "accounting_storage/none"}}, "slurm.accounting", "warning",
     "forgets how a job ended after 300 sec"),
    ({"sacct": "echo 'sacct: error: Problem talking to the database: Connection refused' >&2\nexit 1\n"},
     "slurm.accounting", "fails", "Problem talking to the database: Connection refused"),
    ({"config": {"AccountingStoreFlags": "(null)"}}, "slurm.comments", "ok", "the name of its batch script"),
    ({"config": {"JobRequeue": "0"}}, "slurm.requeue", "ok", "(JobRequeue=0 applies to other jobs)"),
    ({"config": {"JobRequeue": "0"}, "slurm": {"requeue": None}}, "slurm.requeue", "warning", "a successor job"),
    ({"config": {"KillWait": "2 sec"}}, "slurm.killwait", "warning", "2 s from the last SIGTERM"),
    ({"config": {"MaxArraySize": "1"}}, "limits.array", "fails", "the run has 2 evaluations, but MaxArraySize is 1"),
    ({"config": {"PreemptMode": "OFF", "PreemptType": "preempt/none"}}, "limits.partition.gpu",
     "ok", "never preempted"),
    ({"partitions": PARTITION.replace("GraceTime=600", "GraceTime=1")}, "limits.partition.gpu.stop", "warning",
     "a preempted job of partition gpu has 1 s"),
    ({"partitions": PARTITION.replace("State=UP", "State=DRAIN")}, "limits.partition.gpu", "fails", "it is DRAIN"),
    ({"partitions": PARTITION.replace("Nodes=UNLIMITED", "Nodes=1"), "nodes": 2}, "limits.partition.gpu", "fails",
     "the job requests 2 nodes, but MaxNodes is 1"),
    ({"partitions": PARTITION.replace("Groups=ALL", "Groups=no-such")}, "limits.partition.gpu", "fails",
     "it is restricted to the groups no-such"),
    ({"partitions": PARTITION + "PartitionName=x DenyAccounts=vision State=UP\n", "partition": "x"},
     "limits.partition.x", "fails", "DenyAccounts is vision"),
    ({"partitions": PARTITION.replace("Default=YES", "Default=NO")}, "limits.partition", "fails", "no default"),
    ({"partitions": ""}, "limits.partition", "not asked", "scontrol lists no partitions"),
    ({"time": "3-00:00:00"}, "limits.partition.gpu", "fails", "longer than its MaxTime 2-00:00:00"),
    ({"gres": f"gpu|(null)|idle|{SIZE}"}, "limits.gpus.gpu", "fails", "have no GPU; the job requests 8 per node"),
    ({"gres": NODES.replace("idle", "down*").replace("mix", "drain")}, "limits.nodes.gpu", "warning", "down*, drain"),
    ({"gpu_type": "h100"}, "limits.gpus.gpu", "fails", "the job requests h100"),
    ({"association": ""}, "limits.account", "fails", "and Slurm enforces associations"),
    ({"association": "", "config": {"AccountingStorageEnforce": "none"}}, "limits.account",
     "ok", "does not enforce associations"),
    ({"account": "physics"}, "limits.account", "fails", "may use vision; the job requests physics"),
    ({"qos": "cheap"}, "limits.qos", "fails", "dear, normal; the job requests cheap"),
    ({"qos": "dear", "time": "2-00:00:00"}, "limits.qos.dear", "fails", "MaxWall 1-00:00:00; the job's time limit"),
    ({"qoses": "normal||||2|||\n"}, "limits.qos.normal", "fails", "MaxSubmitJobsPerUser 2; the run submits 3"),
    ({"qoses": "normal|||||gres/gpu=4||\n"}, "limits.qos.normal",
     "fails", "gres/gpu=4; the job requests 8 GPUs and would never start"),
    ({"association": "vision||normal|normal||2|||\n"}, "limits.account.limits",
     "fails", "MaxSubmitJobs 2; the run submits 3"),
    ({"sbatch": "echo 'sbatch: error: Invalid qos specification' >&2\nexit 1\n"}, "limits.submission.train", "fails",
     "sbatch would reject the train job: Invalid qos specification"),
    ({"sbatch": "echo 'allocation failure: Requested nodes are busy' >&2\nexit 1\n"}, "limits.submission.train",
     "warning", "cannot start now"),
])
def test_what_is_wrong_has_a_line_and_a_remedy(found, changed, name, state, text):
    one = found(**changed)[name]
    assert (one.state, text in one.text) == (state, True), one
    assert bool(one.remedy) is (state in ("warning", "fails"))


@pytest.mark.slow
@pytest.mark.parametrize(("changed", "name", "state", "text"), [
    ({"gres": f"gpu|gpu:a100:4,gpu:v100:4|idle|{SIZE}"}, "limits.gpus.gpu", "ok", "4 × a100, 4 × v100"),
    ({"gres": f"gpu|gpu:a100:4,gpu:v100:4|idle|{SIZE}", "gpu_type": "a100"}, "limits.gpus.gpu", "fails",
     "the job requests 8 per node"),
    ({"gres": NODES.replace("128", "48")}, "limits.nodes.gpu", "fails",
     "its 2 nodes have up to 48 CPUs and 1.1 TB of memory; the job requests 64 CPUs and 412.3 GB of memory per node"),
    ({"gres": f"gpu|gpu:8|idle|{SIZE}gpu|gpu:8|idle|64|64000|9\n", "nodes": 2}, "limits.nodes.gpu", "fails",
     "which 1 of them have, but it needs 2 nodes"),
    ({"gres": f"gpu|gpu:8|down|{SIZE}gpu|(null)|idle|{SIZE}"}, "limits.nodes.gpu", "warning", "that fit are down"),
    ({"gres": "gpu|(null)|n/a|0|0|0\n", "device": "cpu", "partitions": PARTITION.replace("Nodes=2", "Nodes=0")},
     "limits.nodes.gpu", "fails", "it has no nodes"),
    ({"gres": ""}, "limits.nodes.gpu", "not asked", "sinfo lists none of its nodes"),
    ({"gres": NODES.replace("idle", "down").replace("mix", "down"), "device": "cpu"}, "limits.nodes.gpu", "warning",
     "are down"),
    ({"partitions": PARTITION.replace("MaxNodes", "ReqResv=YES MaxNodes")}, "limits.partition.gpu", "fails",
     "only accepts jobs of a reservation"),
    ({"partitions": PARTITION.replace("MaxNodes", "MinNodes=2 MaxNodes")}, "limits.partition.gpu", "fails",
     "the job requests 1 nodes, but MinNodes is 2"),
    ({"partitions": PARTITION.replace("MaxNodes", "MaxMemPerNode=1000 MaxNodes")}, "limits.partition.gpu", "fails",
     "the job requests 393216 MiB per node, but MaxMemPerNode is 1000"),
    ({"config": {"MaxMemPerNode": "1000"}}, "limits.partition.gpu", "fails", "MaxMemPerNode is 1000"),
    ({"partitions": PARTITION.replace("MaxNodes", "MaxCPUsPerNode=32 MaxNodes")}, "limits.partition.gpu", "fails",
     "the job requests 64 CPUs per node, but MaxCPUsPerNode is 32"),
    ({"association": "vision||normal|normal|0||||\n"}, "limits.account.limits", "fails", "MaxJobs 0: it accepts no"),
    ({"association": "vision||normal|normal||0|||\n"}, "limits.account.limits", "fails", "MaxSubmitJobs 0: it accepts"),
    ({"whole": "vision|||||||gres/gpu=0||\n"}, "limits.account.limits", "fails", "GrpTRES gres/gpu=0; the job"),
    ({"whole": "vision|||||||||0|\n"}, "limits.account.limits", "fails", "GrpJobs 0: it accepts no jobs"),
    ({"qoses": "normal||||||cpu=32,node=1|\n"}, "limits.qos.normal", "fails", "GrpTRES cpu=32; the job requests 64 CP"),
    ({"qoses": "normal||||||mem=32G,billing=1||\n"}, "limits.account", "ok", "may use vision"),
])
def test_what_no_node_partition_or_account_has_for_the_job_is_named(found, changed, name, state, text):
    test_what_is_wrong_has_a_line_and_a_remedy(found, changed, name, state, text)


def test_a_clock_of_slurmctld_that_differs_is_a_warning(found):
    one = found(behind=90)["slurm.clock"]
    assert one.state == "warning" and "-9" in one.text


def test_the_sample_in_the_docs_is_what_is_printed(found):
    every = found(partitions=PARTITION.replace("GraceTime=600", "GraceTime=10") + OTHERS,
                  nodes=2, config={"SLURM_VERSION": "22.05.8"})
    text = page(every.values()).replace(getpass.getuser(), "ada")
    sample = (ROOT / "docs" / "guide" / "doctor.md").read_text().split("```text\n")[1].split("```")[0]
    assert text + "\n" == sample


def test_a_check_that_breaks_says_so_and_hides_no_other():
    def broken():
        raise KeyError("x")
        yield

    assert [(one.id, one.state) for one in carried_out("limits", broken)] == [("limits", "not asked")]
