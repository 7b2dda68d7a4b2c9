"""The Slurm that the other tests run on: it is real, its parts fail as asked, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_harness import SlurmCluster, missing_packages, processes

HERE = Path(__file__).parent
STAY = "trap '' TERM; echo restart ${SLURM_RESTART_COUNT:-0}; sleep 1000"


def until(holds: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


def test_a_batch_job_runs_on_a_node_and_its_output_comes_back(slurm: SlurmCluster) -> None:
    job = slurm.submit("--wrap", "echo on $SLURMD_NODENAME; exit 3")
    assert slurm.wait_for(job)["ExitCode"] == "3:0"
    assert slurm.job(job)["JobState"] == "FAILED"
    assert slurm.output(job) == "on n1\n"


def test_a_step_over_two_nodes_gets_all_eight_gpus_of_each(slurm: SlurmCluster) -> None:
    show = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    asked = ("-N2", "--ntasks-per-node=1", "--gpus-per-node=8")
    assert sorted(slurm.run("srun", *asked, "sh", "-c", show).stdout.splitlines()) == [
        "n1 0,1,2,3,4,5,6,7",
        "n2 0,1,2,3,4,5,6,7",
    ]


def test_two_jobs_on_one_node_get_different_gpus_and_a_third_waits(slurm: SlurmCluster) -> None:
    show = "echo $CUDA_VISIBLE_DEVICES; sleep 1000"
    jobs = [slurm.submit("--nodelist=n3", "--gpus-per-node=4", "--wrap", show) for _ in range(3)]
    for job in jobs[:2]:
        slurm.wait_for(job, "RUNNING")
    until(lambda: all(slurm.output(job) for job in jobs[:2]), "both write their devices")
    assert [slurm.output(job).strip() for job in jobs[:2]] == ["0,1,2,3", "4,5,6,7"]
    assert slurm.job(jobs[2])["JobState"] == "PENDING"
    slurm.clear()


def test_each_node_has_its_own_name_and_disk(slurm: SlurmCluster) -> None:
    if not slurm.namespaces:
        pytest.skip("needs root or user namespaces")
    mark = f"hostname > {slurm.local}/mark; cat {slurm.local}/mark; getent hosts n4 | cut -d' ' -f1"
    shown = slurm.run("srun", "-l", "-N2", "sh", "-c", mark).stdout
    assert sorted(shown.splitlines()) == ["0: 127.0.0.1", "0: n1", "1: 127.0.0.1", "1: n2"]
    assert (slurm.folder / "disk" / "n2" / "mark").read_text() == "n2\n"


def test_a_job_of_the_high_partition_preempts_one_without_grace_which_runs_again_under_its_id(
    slurm: SlurmCluster,
) -> None:
    script = "#!/bin/sh\necho restart ${SLURM_RESTART_COUNT:-0}\nexec sleep 1000\n"
    low = slurm.submit("-plown", "-N4", "--gpus-per-node=8", "--open-mode=append", script=script)
    slurm.wait_for(low, "RUNNING")
    until(lambda: slurm.output(low) == "restart 0\n", "the first start")
    high = slurm.submit("-phigh", "-N4", "--gpus-per-node=8", "--wrap", "true")
    slurm.wait_for(high, "COMPLETED")
    assert slurm.wait_for(low, "RUNNING", Restarts="1")["JobId"] == low
    until(lambda: slurm.output(low).endswith("restart 1\n"), "the second start")
    slurm.clear()


def test_with_grace_a_preempted_job_runs_on_until_the_grace_ends(
    make_slurm: Callable[..., SlurmCluster],
) -> None:
    slurm = make_slurm(nodes=1, grace=5, kill_wait=1, message_timeout=4)
    low = slurm.submit("-plow", "--exclusive", "--wrap", STAY)
    slurm.wait_for(low, "RUNNING")
    high = slurm.submit("-phigh", "--exclusive", "--wrap", "true")
    until(lambda: slurm.job(low).get("PreemptTime", "None") != "None", "the preemption is on record")
    assert slurm.job(low)["JobState"] == "RUNNING"
    assert slurm.job(high)["JobState"] == "PENDING"
    slurm.wait_for(high, "COMPLETED")
    slurm.wait_for(low, ("PENDING", "RUNNING"), Restarts="1")


def test_a_node_that_is_declared_down_fails_its_job_which_runs_again(slurm: SlurmCluster) -> None:
    job = slurm.submit("--nodelist=n4", "--wrap", "sleep 1000")
    slurm.wait_for(job, "RUNNING")
    slurm.node_down("n4")
    assert slurm.wait_for(job, "RUNNING", Restarts="1")["NodeList"] == "n4"
    slurm.clear()


def test_a_node_whose_power_is_cut_loses_its_tasks_and_its_job_at_once(slurm: SlurmCluster) -> None:
    job = slurm.submit("-N2", "--no-requeue", "--wrap", "srun sleep 1000")
    slurm.wait_for(job, "RUNNING")
    until(lambda: sum(name == "sleep" for name in slurm.pids().values()) == 2, "a task on each node")
    slurm.kill_node("n2")
    assert sum(name == "sleep" for name in slurm.pids().values()) == 1
    slurm.node_down("n2")
    slurm.wait_for(job, "NODE_FAIL")
    slurm.clear()


def test_a_node_whose_power_is_cut_is_noticed_without_being_reported(
    make_slurm: Callable[..., SlurmCluster],
) -> None:
    slurm = make_slurm(nodes=1, slurmd_timeout=5)
    job = slurm.submit("--wrap", STAY)
    slurm.wait_for(job, "RUNNING")
    slurm.kill_node("n1")
    slurm.wait_for(job, "PENDING", Restarts="1")


def test_clearing_ends_stubborn_jobs_and_resumes_drained_nodes(slurm: SlurmCluster) -> None:
    job = slurm.submit("--nodelist=n3", "--open-mode=append", "--wrap", STAY)
    slurm.wait_for(job, "RUNNING")
    until(lambda: slurm.output(job) != "", "the job ignores SIGTERM")
    slurm.run("scontrol", "update", "NodeName=n3", "State=DRAIN", "Reason=test")
    slurm.clear()
    assert slurm.job(job)["JobState"] == "CANCELLED"
    assert slurm.run("sinfo", "-h", "-n", "n3", "-p", "low", "-o", "%T").stdout == "idle\n"


def test_a_job_runs_on_while_the_controller_is_away_and_is_known_to_the_next_one(slurm: SlurmCluster) -> None:
    job = slurm.submit("--wrap", "sleep 2; echo done")
    slurm.wait_for(job, "RUNNING")
    slurm.stop_controller()
    assert "slurmctld" not in slurm.pids().values()
    slurm.start_controller()
    slurm.wait_for(job, "COMPLETED")
    assert slurm.output(job) == "done\n"


def test_sacct_knows_finished_jobs_with_accounting_and_is_refused_without(
    slurm: SlurmCluster, slurm_dbd: SlurmCluster
) -> None:
    job = slurm_dbd.submit("--wrap", "exit 7")
    slurm_dbd.wait_for(job, "FAILED")
    ask = ("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode", "-j", job)
    until(lambda: slurm_dbd.run(*ask).stdout == f"{job}|FAILED|7:0\n", "sacct shows the end of the job")
    refused = slurm.run(*ask, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "Slurm accounting storage is disabled\n"


def test_with_preemption_by_qos_the_qos_decide_what_becomes_of_a_job_and_their_limits_hold(
    make_slurm: Callable[..., SlurmCluster],
) -> None:
    qos = {"cheap": "PreemptMode=cancel", "dear": "Preempt=cheap", "one": "MaxSubmitJobsPerUser=1"}
    slurm = make_slurm(nodes=1, dbd=True, preempt="qos", qos=qos, requeue=False, max_array_size=4)
    low = slurm.submit("--qos=cheap", "--exclusive", "--wrap", "sleep 1000")
    slurm.wait_for(low, "RUNNING", Requeue="0")
    slurm.wait_for(slurm.submit("--qos=dear", "--exclusive", "--wrap", "true"), "COMPLETED")
    assert slurm.wait_for(low)["JobState"] == "PREEMPTED"
    hold = ("sbatch", "--qos=one", "--hold", "--wrap", "true")
    slurm.run(*hold)
    assert "QOSMaxSubmitJobPerUserLimit" in slurm.run(*hold, check=False).stderr
    assert "Invalid job array" in slurm.run("sbatch", "--array=0-4", "--wrap", "true", check=False).stderr


def test_a_job_over_the_time_limit_of_its_partition_waits_forever(slurm: SlurmCluster) -> None:
    job = slurm.submit("-pshort", "--time=2", "--wrap", "true")
    assert slurm.job(job)["JobState"] == "PENDING"
    slurm.wait_for(job, "PENDING", Reason="PartitionTimeLimit")
    slurm.clear()


def test_a_wait_without_effect_tells_the_state_of_the_job_and_the_logs(slurm: SlurmCluster) -> None:
    job = slurm.submit("--hold", "--wrap", "true")
    with pytest.raises(TimeoutError, match=r"JobState=PENDING, Reason=JobHeldUser[\s\S]*slurmctld.log"):
        slurm.wait_for(job, "COMPLETED", timeout=0.2)
    with pytest.raises(KeyError, match="Invalid job id"):
        slurm.job(999999)
    slurm.clear()


def test_stopping_ends_every_daemon_step_and_task(make_slurm: Callable[..., SlurmCluster]) -> None:
    slurm = make_slurm(nodes=2, dbd=True)
    # tasks that ignore the polite signal, and one that has left its session, parent and environment
    slurm.submit("-N2", "--wrap", f'srun sh -c "{STAY}"')
    slurm.submit("--wrap", "(env -i setsid sleep 1000 &); " + STAY)
    # without namespaces nothing tells whose the last one is
    tasks = 4 if slurm.namespaces else 3
    until(lambda: sum(name == "sleep" for name in slurm.pids().values()) == tasks, "all tasks run")
    pids = slurm.pids()
    expected = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd", "srun", "sleep"}
    assert expected <= set(pids.values())
    slurm.stop()
    assert [f"{name} {pid}" for pid, name in pids.items() if processes.is_alive(pid)] == []
    assert slurm.pids() == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_a_cluster_whose_owner_is_killed_ends_automatically_and_removes_its_folder(
    number: signal.Signals, slurm: SlurmCluster
) -> None:
    # the fixture is only for its skip where packages are missing
    script = "sbatch -Q --wrap 'sleep 1000'; sleep 2; echo; exec sleep 1000"
    words = [sys.executable, "-m", "slurm_harness", "--nodes=1", "--", "sh", "-c", script]
    with subprocess.Popen(words, cwd=HERE, env=slurm.env, stdout=-1, stderr=-1, text=True) as owner:
        assert owner.stderr is not None
        assert owner.stdout is not None
        slurm_conf = Path(owner.stderr.readline().strip().partition("=")[2])
        owner.stdout.readline()
        before = processes.members(slurm_conf)
        assert {"slurmctld", "slurmd", "slurmstepd"} <= {processes.command(pid) for pid in before}
        owner.send_signal(number)
    folder = slurm_conf.parents[1]
    until(lambda: not folder.exists(), "the folder is gone")
    assert [pid for pid in before if processes.is_alive(pid)] == []


def test_a_whole_cluster_of_a_plain_user_runs_his_jobs(slurm: SlurmCluster) -> None:
    script = (
        "id -u; sbatch -Q --wait -N2 --gpus-per-node=8 --output=out"
        " --wrap 'srun sh -c \"id -u; echo \\$SLURMD_NODENAME \\$CUDA_VISIBLE_DEVICES\"'; sort out"
    )
    become = ["--user", "nobody"] if os.geteuid() == 0 else []
    words = [sys.executable, "-m", "slurm_harness", *become, "--nodes=2", "--", "sh", "-c", script]
    done = subprocess.run(words, cwd=HERE, env=slurm.env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    uid, *shown = done.stdout.splitlines()
    assert uid != "0"
    assert shown == [uid, uid, "n1 0,1,2,3,4,5,6,7", "n2 0,1,2,3,4,5,6,7"]


def test_the_packages_that_a_bare_machine_lacks_are_named() -> None:
    assert missing_packages(path="/nonexistent") == ["munge", "slurm-client", "slurm-wlm"]
    assert {"mariadb-server", "slurmdbd"} <= set(missing_packages(dbd=True, path="/nonexistent"))
