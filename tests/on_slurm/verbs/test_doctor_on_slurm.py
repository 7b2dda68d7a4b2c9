"""The doctor on a real Slurm, with each fault that a cluster or a node can have injected; one cluster for all of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import shims
from conftest import _cluster
from slurm_harness import SlurmCluster
from small import ROOT, verb

# nothing here needs torch but the one visit that looks for it
NO_TORCH = "raise ImportError('no torch here')\n"


@pytest.fixture(scope="module")
def site() -> Iterator[SlurmCluster]:
    """With accounting, limits and accounts enforced, JobRequeue=0, and a partition of each kind."""
    partitions = {
        "low": "Default=YES PriorityTier=1 MaxTime=INFINITE PreemptMode=REQUEUE GraceTime=5",
        "slow": "PriorityTier=1 MaxTime=INFINITE PreemptMode=REQUEUE GraceTime=600",
        "short": "PriorityTier=1 MaxTime=1 PreemptMode=REQUEUE GraceTime=600",
        "high": "PriorityTier=10 MaxTime=INFINITE PreemptMode=OFF",
        "hidden": "PriorityTier=1 MaxTime=INFINITE PreemptMode=CANCEL GraceTime=600 Hidden=YES",
        "theirs": "PriorityTier=1 MaxTime=INFINITE AllowAccounts=physics",
        "booked": "PriorityTier=1 MaxTime=INFINITE ReqResv=YES MaxMemPerNode=512 MinNodes=2",
        "away": "PriorityTier=1 MaxTime=INFINITE State=INACTIVE",
    }
    with _cluster(dbd=True, nodes=2, gpus=4, gpu_type="a100", requeue=False, kill_wait=5, max_array_size=3,
                  qos={"brief": "MaxWall=10"}, partitions=partitions) as cluster:
        yield cluster


@pytest.fixture
def asks(site, small_data, tmp_path):
    """Ask the doctor on the cluster: findings by id, of several with one id the worst."""
    def ask(*flags: object, code: int, job: object = "demo", python: str = "/bin/false") -> dict[str, Any]:
        words = [job, "--data-root", small_data, "--runs-dir", tmp_path / "runs", "--gpus", 1, "--cpus-per-gpu", 1,
                 "--mem-per-gpu", "1G", "--time", 60, "--python", python, *flags, "--json"]
        done = verb("doctor", *words, env={**site.env, "ECM_CLUSTER_WEIGHTS": str(tmp_path / "weights")}, code=code)
        found: dict[str, Any] = {}
        for one in json.loads(done.stdout)["findings"]:
            if one["state"] == "fails" or found.get(one["id"], one)["state"] != "fails":
                found[one["id"]] = one
        return found

    return ask


def states(found: dict[str, Any], *names: str) -> dict[str, str]:
    return {name: found[name]["state"] if name in found else "absent" for name in names}


def test_a_sound_cluster_is_ok_and_a_partition_whose_grace_is_short_or_that_ends_early_is_named(asks):
    found = asks(code=0)
    assert found["slurm.controller"]["text"].startswith("cluster t answers, Slurm ")
    assert set(states(found, "slurm.controller", "slurm.accounting", "slurm.clock", "limits.account", "limits.array",
                      "limits.submission.train", "limits.partition.low", "folder.runs", "job.data").values()) == {"ok"}
    assert found["slurm.requeue"]["text"] == "jobs of a run request --requeue (JobRequeue=0 applies to other jobs)"
    assert found["slurm.killwait"]["state"] == "warning"
    assert "a preempted job of partition low has 5 s" in found["limits.partition.low.stop"]["text"]
    assert "hidden (CANCEL, grace 600 s" in found["limits.partitions"]["text"]
    found = asks("--partition", "slow,short,high,hidden,theirs,away,nope", code=1)
    assert states(found, *(f"limits.partition.{name}" for name in ("slow", "short", "high", "hidden", "theirs", "away",
                                                                   "nope"))) == {
        "limits.partition.slow": "ok", "limits.partition.short": "fails", "limits.partition.high": "ok",
        "limits.partition.hidden": "ok", "limits.partition.theirs": "fails", "limits.partition.away": "fails",
        "limits.partition.nope": "fails"}
    assert found["limits.partition.short"] == {
        "id": "limits.partition.short", "state": "fails", "nodes": [], "remedy": "give --time 00:01:00",
        "text": "the job's time limit 60 is longer than its MaxTime 00:01:00"}
    assert "never preempted" in found["limits.partition.high"]["text"]
    assert "a successor job is submitted" in found["limits.partition.hidden"]["text"]
    assert "AllowAccounts is physics, but yours: root" in found["limits.partition.theirs"]["text"]
    assert "limits.partition.slow.stop" not in found


def test_what_a_job_asks_for_and_may_not_have_is_named_with_what_it_may(asks):
    found = asks("--device", "cuda", "--gpus", 8, "--account", "physics", "--qos", "dear", code=1)
    assert found["limits.gpus.low"]["text"] == "its nodes have 4 × a100; the job requests 8 per node"
    assert found["limits.account"]["text"].endswith("may use root; the job requests physics")
    assert "limits.qos" not in found, "what another account may use is not known"
    assert found["limits.submission.train"]["state"] == "fails"
    found = asks("--device", "cuda", "--gpu-type", "h100", "--qos", "brief", code=1)
    assert found["limits.gpus.low"]["text"] == "its nodes have 4 × a100; the job requests h100"
    assert found["limits.qos.brief"]["text"] == "QOS brief has MaxWall 00:10:00; the job's time limit is 60"
    found = asks("--cpus-per-gpu", 100, "--partition", "low", code=1)
    assert found["limits.nodes.low"]["text"].startswith("its 2 nodes have up to 64 CPUs and 67.1 GB of memory; the job")
    found = asks("--nodes", 3, code=1)
    assert found["limits.nodes.low"]["remedy"] == "give --nodes 2, or another --partition"
    assert asks("--partition", "booked", code=1)["limits.partition.booked"]["state"] == "fails"


def test_an_account_that_is_closed_by_a_limit_of_0_and_nodes_that_are_drained_are_named(asks, site):
    site.run("sacctmgr", "-i", "modify", "account", "root", "set", "GrpJobs=0", "GrpTRES=node=0")
    try:
        found = asks(code=1)
    finally:
        site.run("sacctmgr", "-i", "modify", "account", "root", "set", "GrpJobs=-1", "GrpTRES=node=-1")
    assert found["limits.account.limits"]["remedy"].startswith("give another --account or --qos")
    with site.drained():
        found = asks(code=0)
    assert found["limits.nodes.low"]["text"].endswith("all nodes that fit are drain")
    assert found["limits.nodes.low"]["state"] == found["limits.submission.train"]["state"] == "warning"


def test_a_user_without_an_account_is_reported_so(asks, site):
    user = site.run("whoami").stdout.strip()
    site.run("sacctmgr", "-i", "delete", "user", user)
    try:
        found = asks(code=1)
    finally:
        site.run("sacctmgr", "-i", "add", "user", user, "account=root", "AdminLevel=Administrator")
        site.run("sacctmgr", "-i", "modify", "user", user, "set", "qos=normal,brief")
    assert "no association" in found["limits.account"]["text"]
    assert "Slurm enforces associations" in found["limits.account"]["text"]
    assert states(found, "limits.account", "limits.submission.train") == {
        "limits.account": "fails", "limits.submission.train": "fails"}


@pytest.mark.parametrize("daemon", ["slurmdbd", "slurmctld"])
def test_a_daemon_that_hangs_is_not_waited_for(asks, site, daemon):
    pid = site._daemons[daemon].pid
    began = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        found = asks(code=1 if daemon == "slurmdbd" else 0)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began < 25, "commands have a limit of 5 s each"
    name = "slurm.accounting" if daemon == "slurmdbd" else "slurm.controller"
    assert found[name]["state"] == ("fails" if daemon == "slurmdbd" else "not asked")
    site.wait_idle()


def test_without_slurmdbd_or_slurmctld_it_says_what_it_could_not_ask(asks, site):
    site._end("slurmdbd", 0)
    try:
        found = asks(code=1)
        assert found["slurm.accounting"]["state"] == "fails"
        assert "slurmdbd does not answer" in found["slurm.accounting"]["text"]
        assert "Connection refused" in found["slurm.accounting"]["text"]
        assert states(found, "slurm.controller", "limits.account") == {
            "slurm.controller": "ok", "limits.account": "not asked"}
    finally:
        site._start_slurmdbd()
    site.stop_controller()
    try:
        found = asks("--node", code=0)
        assert found["slurm.controller"]["state"] == found["node.job"]["state"] == "not asked"
        assert "Unable to contact slurm controller" in found["slurm.controller"]["text"]
        assert not [name for name in found if name.startswith("limits.")]
        assert found["folder.runs"]["state"] == "ok"
    finally:
        site.start_controller()
        site.wait_idle()


def test_a_sound_pair_of_nodes_is_ok_from_its_folders_to_its_network(asks, site, tmp_path, root):
    job = tmp_path / "job.yaml"
    job.write_text((root / "jobs" / "demo.yaml").read_text() + """
env: {KEPT: a b}
setup: ['[ "$KEPT" = "a b" ]']
""")
    found = asks("--node", "--nodes", 2, "--scratch", site.local, job=job, python=sys.executable, code=0)
    names = ("folder.runs", "folder.weights", "folder.annotations", "data", "scontrol", "scratch", "python", "packages",
             "import", "network")
    assert states(found, *(f"node.{name}" for name in names)) == dict.fromkeys((f"node.{name}" for name in names), "ok")
    assert found["node.folder.runs"]["nodes"] == ["n1", "n2"]
    assert "2 ranks on 2 nodes reduce 64 MiB with gloo" in found["node.network"]["text"]
    assert "outlives a job" in found["node.scratch.kept"]["text"]
    assert not (tmp_path / "runs").exists() and not (tmp_path / "weights").exists()
    assert [p.name for node in site.nodes for p in (site.folder / "disk" / node).iterdir() if "doctor" in p.name] == \
        [p.name for p in (site.folder / "disk" / "n2").iterdir() if "doctor" in p.name]
    assert site.run("squeue", "-h").stdout == ""


def test_everything_that_a_node_lacks_is_named_with_the_node(asks, site, tmp_path):
    shim, fake = shims.build(tmp_path), tmp_path / "fake"
    (fake / "torch").mkdir(parents=True)
    (fake / "torch" / "__init__.py").write_text(NO_TORCH)
    (fake / "submitit-0.9.dist-info").mkdir()
    (fake / "submitit-0.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: submitit\nVersion: 0.9\n")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "sleep", "date", "mkdir", "cp", "hostname", "srun"):
        (tools / name).symlink_to(str(shutil.which(name)))
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({
        "config": str(ROOT / "configs/demo.py"), "device": "cpu", "evaluation": {"enabled": False},
        "slurm": {"nodelist": "n2"}, "scratch": "/nowhere/at/all",
        "setup": [f"export LD_PRELOAD={shim}"],
        "env": {"SHIM_SKEW": "900", "SHIM_FLOCK": "0", "PYTHONPATH": str(fake), "PATH": str(tools)}}))
    found = asks("--node", job=job, python=sys.executable, code=1)
    assert found["node.folder.runs.lock"]["text"].endswith("the lock that the login node holds is not seen here")
    assert found["node.folder.runs.lock"]["nodes"] == ["n2"]
    assert "-900 s against this node's" in found["node.folder.runs.clock"]["text"]
    assert states(found, "node.scontrol", "node.scratch", "node.packages.submitit", "node.import") == {
        "node.scontrol": "warning", "node.scratch": "fails", "node.packages.submitit": "fails", "node.import": "fails"}
    assert "submitit 0.9 is installed" in found["node.packages.submitit"]["text"]
    assert "cannot import torch: ImportError: no torch here" in found["node.import"]["text"]


def test_a_folder_that_nodes_do_not_see_and_a_python_that_is_missing_are_named(asks, site, tmp_path):
    found = asks("--node", "--runs-dir", site.local / "runs", code=1)
    assert found["node.job"]["state"] == "fails"
    assert f"n1: {site.local}/runs is not shared" in found["node.job"]["text"]
    assert not list(site.local.iterdir())
    found = asks("--node", python=str(tmp_path / "no-python"), code=1)
    assert "no-python" in found["node.job"]["text"]
    assert site.run("squeue", "-h").stdout == ""


def test_a_job_that_does_not_start_is_cancelled_when_it_never_will_when_its_time_is_up_and_on_ctrl_c(
        asks, site, small_data, tmp_path):
    found = asks("--node", "--partition", "short", code=1)
    assert "PartitionTimeLimit" in found["node.job"]["text"] and "would never start" in found["node.job"]["text"]
    with site.drained():
        found = asks("--node", "--patience", 0.02, code=1)
        assert "did not start within" in found["node.job"]["text"]
        command = [sys.executable, "-m", "ecm_cluster.doctor", "demo", "--node", "--data-root", str(small_data),
                   "--runs-dir", str(tmp_path / "runs"), "--mem-per-gpu", "1G", "--cpus-per-gpu", "1", "--gpus", "1",
                   "--python", "/bin/false"]
        with subprocess.Popen(command, env={**os.environ, **site.env, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
                              # what a shell starts in the background ignores it
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
            assert process.stderr is not None
            said = ""  # it says what it waits for some time after the job is queued
            while "pending" not in said and (line := process.stderr.readline()):
                said += line
            process.send_signal(signal.SIGINT)
            said += process.stderr.read()
        assert process.returncode == 130, said
        assert "pending" in said and said.endswith("interrupted\n")
    assert site.run("squeue", "-h").stdout == ""
    assert not (tmp_path / "runs").exists()
