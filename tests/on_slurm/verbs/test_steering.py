"""Cancel and resume on a real Slurm: one job of each kind, regardless of what happens in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_harness import SlurmCluster
from small import ROOT, await_state, job_flags, logs_of, state_of, verb, wait_until

from ecm_cluster.base import files
from ecm_cluster.rundir.run import Run


def submit(slurm: SlurmCluster, data: Path, runs: Path, name: str, *flags: object, job: Path | None = None,
           **options: object) -> Run:
    given = job_flags(data, runs, name, **options)
    verb("submit", *([job, *given[1:]] if job else given), *flags, env=slurm.env)
    return Run(runs / name)


def held_job(folder: Path) -> Path:
    """A job that Slurm keeps until a user releases it: what is submitted stays to be looked at."""
    path = folder / "held.yaml"
    path.write_text((ROOT / "jobs/demo.yaml").read_text() + "slurm: {hold: true}\n")
    return path


def present(run: Run) -> dict[str, str]:
    return {link: run.submission(link)["job_id"] for link in ("train", "evaluate")}


def in_queue(slurm: SlurmCluster, run: Run) -> list[tuple[str, str]]:
    """(name, id) of the run's jobs that wait or run."""
    rows = [line.split() for line in slurm.run("squeue", "-h", "-t", "PD,R,CF,CG", "-o", "%j %i").stdout.splitlines()]
    return sorted((name, job_id) for name, job_id in rows if name.split(".")[0] == run.name)


def test_a_cancelled_run_stays_cancelled_and_a_resume_on_other_nodes_brings_it_to_its_scores(
    slurm, small_data, tmp_path
):
    run = submit(slurm, small_data, tmp_path, "steered", "--gpus", 2, runner__max_epochs=6)
    first = present(run)
    wait_until(lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 1, "training", look=lambda: logs_of(run))
    said = verb("resume", run.path, env=slurm.env, code=2).stderr
    assert "steered is alive" in said and len(said.splitlines()) == 1

    said = verb("cancel", run.path, env=slurm.env).stdout
    assert f"cancelled train {first['train']}, evaluate {first['evaluate']}" in said
    assert slurm.wait_for(first["train"])["JobState"] == "CANCELLED"
    # even where the job itself is requeued manually
    slurm.run("scontrol", "requeue", first["train"])
    slurm.wait_for(first["train"])
    assert run.attempts() == [1]
    found = state_of(run, slurm.env)
    assert found["state"] == "stopped" and found["reason"].startswith("cancelled")
    assert "nothing to cancel" in verb("cancel", run.path, env=slurm.env).stdout

    said = verb("resume", run.path, "--nodes", 2, "--gpus", 1, env=slurm.env).stdout
    second = present(run)
    assert f"submitted: train {second['train']}, evaluate {second['evaluate']}" in said
    assert not set(first.values()) & set(second.values())
    found = await_state(run, "done", env=slurm.env)
    assert found["reason"] == "trained and scored"
    assert (run.read_attempt(2)["nodes"], run.read_attempt(2)["world_size"]) == (2, 2)
    assert run.read_attempt(2)["job_id"] == second["train"]
    assert "nothing to do" in verb("resume", run.path, env=slurm.env).stdout


def test_a_run_that_failed_continues_once_what_failed_is_repaired(slurm, small_data, tmp_path):
    repaired = tmp_path / "repaired"
    code = tmp_path / "code"
    code.mkdir()
    (code / "breaking.py").write_text(
        "import os\nfrom mmcv.runner import HOOKS, Hook\n\n\n@HOOKS.register_module()\nclass Breaking(Hook):\n"
        "    def after_train_iter(self, runner):\n"
        f"        if not os.path.exists({str(repaired)!r}):\n            raise ArithmeticError('not a number')\n")
    config = tmp_path / "failing.py"
    config.write_text(
        f"_base_ = ['{ROOT}/configs/demo.py']\ncustom_hooks = [dict(type='Breaking')]\n"
        "custom_imports = dict(imports=['mmdet_ext.register', 'breaking'], allow_failed_imports=False)\n")
    run = submit(slurm, small_data, tmp_path, "failing", "--code", code, "--config", config)
    found = await_state(run, "failed", env=slurm.env)
    assert found["next"].endswith(f"python -m ecm_cluster.resume {run.path}")
    repaired.touch()
    verb("resume", run.path, env=slurm.env)
    await_state(run, "done", env=slurm.env)


@pytest.mark.parametrize("point", [
    "renewed:evaluate.json", "renewed:train.json", "before-sbatch:train.json", "sbatch-answered",
    "after-sbatch:train.json", "after-sbatch:evaluate.json"])
def test_a_resume_killed_at_any_point_leads_to_one_job_of_each_kind(slurm, small_data, tmp_path, point):
    run = submit(slurm, small_data, tmp_path, "crash", job=held_job(tmp_path))
    verb("cancel", run.path, env=slurm.env)
    assert in_queue(slurm, run) == []
    env = {**slurm.env, files.KILL_ENV: point}
    assert verb("resume", run.path, "--time", 20, env=env, code=None).returncode == -signal.SIGKILL
    again = verb("resume", run.path, env=slurm.env, code=None)
    if again.returncode:
        assert "crash is alive" in again.stderr
    ids = present(run)
    assert in_queue(slurm, run) == [("crash", ids["train"]), ("crash.evaluate", ids["evaluate"])]
    assert slurm.job(ids["evaluate"])["Dependency"].startswith(f"afterok:{ids['train']}")
    assert slurm.job(ids["train"])["TimeLimit"] == "00:20:00"
    verb("cancel", run.path, env=slurm.env)
    assert in_queue(slurm, run) == []


def test_a_cancel_killed_after_its_mark_is_taken_up_by_the_next(slurm, small_data, tmp_path):
    run = submit(slurm, small_data, tmp_path, "marked", job=held_job(tmp_path))
    env = {**slurm.env, files.KILL_ENV: "cancel-marked"}
    assert verb("cancel", run.path, env=env, code=None).returncode == -signal.SIGKILL
    assert len(in_queue(slurm, run)) == 2 and run.cancel_file.exists()
    verb("cancel", run.path, env=slurm.env)
    assert in_queue(slurm, run) == []


def test_a_lost_evaluation_is_armed_again_behind_a_training_that_lives(slurm, small_data, tmp_path):
    run = submit(slurm, small_data, tmp_path, "rearmed", job=held_job(tmp_path))
    first = present(run)
    slurm.run("scancel", first["evaluate"])
    said = verb("resume", run.path, env=slurm.env).stdout
    second = present(run)
    assert second["train"] == first["train"] and f"submitted: evaluate {second['evaluate']}\n" in said
    assert slurm.job(second["evaluate"])["Dependency"].startswith(f"afterok:{first['train']}")
    verb("cancel", run.path, env=slurm.env)


def test_what_sbatch_refuses_leaves_the_run_as_it_was(slurm, small_data, tmp_path):
    run = submit(slurm, small_data, tmp_path, "refused", job=held_job(tmp_path))
    verb("cancel", run.path, env=slurm.env)
    records = {link: run.submission(link) for link in ("train", "evaluate")}
    assert "sbatch would refuse" in verb("resume", run.path, "--constraint", "none", env=slurm.env, code=2).stderr
    assert "partition" in verb("resume", run.path, "--partition", "lwo", env=slurm.env, code=2).stderr
    assert {link: run.submission(link) for link in records} == records
    assert run.cancel_file.exists() and not run.overrides_file.exists()


def successor(slurm: SlurmCluster, run: Run, attempt: int, job_id: str) -> str:
    """What successor.successor answers inside a job of Slurm's, whose variables must not reach the new one."""
    line = (f"from ecm_cluster.chain import successor; from ecm_cluster.rundir import run; "
            f"print(successor.successor(run.Run({str(run.path)!r}), {attempt}, {job_id!r}))")
    leaking = {"SLURM_JOB_ID": job_id, "SLURM_NTASKS": "7", "SBATCH_PARTITION": "none", "SLURM_CPU_BIND": "none"}
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True,
                          env={**os.environ, **slurm.env, **leaking, "PYTHONPATH": str(ROOT)})
    return done.stdout.strip()


def test_a_successor_waits_for_its_job_takes_the_evaluation_over_and_comes_once(slurm, small_data, tmp_path):
    run = submit(slurm, small_data, tmp_path, "heir", job=held_job(tmp_path))
    first = present(run)
    files.write_json(run.attempt_file(1), {"number": 1, "job_id": first["train"], "accepts": []})
    assert successor(slurm, run, 0, first["train"]) == "None"  # fenced: a newer attempt has begun
    heir = successor(slurm, run, 1, first["train"])
    assert slurm.job(heir)["Dependency"].startswith(f"afterany:{first['train']}")
    assert slurm.job(heir)["NumTasks"] == "1"
    assert slurm.job(first["evaluate"])["Dependency"].startswith(f"afterok:{heir}")
    assert present(run) == {"train": heir, "evaluate": first["evaluate"]}
    assert successor(slurm, run, 1, first["train"]) == heir
    assert len(in_queue(slurm, run)) == 3
    # cancel ends the previous job too, and what is cancelled gets no successor
    verb("cancel", run.path, env=slurm.env)
    assert in_queue(slurm, run) == []
    assert successor(slurm, run, 1, heir) == "None"


def test_a_successor_brings_a_new_evaluation_where_the_old_one_is_gone(slurm, small_data, tmp_path):
    run = submit(slurm, small_data, tmp_path, "heir", job=held_job(tmp_path))
    first = present(run)
    files.write_json(run.attempt_file(1), {"number": 1, "job_id": first["train"], "accepts": []})
    slurm.run("scancel", first["train"], first["evaluate"])
    heir = successor(slurm, run, 1, first["train"])
    ids = present(run)
    assert ids["train"] == heir and ids["evaluate"] != first["evaluate"]
    assert slurm.job(ids["evaluate"])["Dependency"].startswith(f"afterok:{heir}")
    verb("cancel", run.path, env=slurm.env)


def slow_sbatch(folder: Path, slurm: SlurmCluster) -> dict[str, str]:
    """The user's environment, with an sbatch that a busy slurmctld keeps waiting for four seconds."""
    (folder / "bin").mkdir()
    real = shutil.which("sbatch", path=slurm.env["PATH"])
    script = folder / "bin/sbatch"
    script.write_text(f'#!/bin/sh\ncase "$*" in *--test-only*) ;; *) touch {folder}/inside; sleep 4 ;; esac\n'
                      f'exec {real} "$@"\n')
    script.chmod(0o755)
    return {**slurm.env, "PATH": f"{folder}/bin:{slurm.env['PATH']}"}


def start(flags: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "ecm_cluster.submit", *flags], env={
        **os.environ, **env, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("killed", [False, True])
def test_of_two_submissions_of_a_name_one_submits_also_when_it_dies_inside_sbatch(slurm, small_data, tmp_path, killed):
    env = slow_sbatch(tmp_path, slurm)
    given = job_flags(small_data, tmp_path / "runs", "twin")
    flags = [str(held_job(tmp_path)), *given[1:]]
    first = start(flags, env)
    wait_until((tmp_path / "inside").exists, "the first is inside sbatch")
    if killed:
        first.kill()
    second = start(flags, env)
    said = [process.communicate(timeout=120) for process in (first, second)]
    run = Run(tmp_path / "runs/twin")
    ids = present(run)
    assert in_queue(slurm, run) == [("twin", ids["train"]), ("twin.evaluate", ids["evaluate"])], said
    assert second.returncode == (0 if killed else 2), said
    if not killed:
        assert first.returncode == 0 and "already exists" in said[1][1] and "waiting for another" in said[1][1]
    verb("cancel", run.path, env=slurm.env)
    assert in_queue(slurm, run) == []


def test_an_old_start_that_wakes_up_after_its_node_was_given_up_takes_no_attempt(slurm, small_data, tmp_path):
    order = tmp_path / "order"
    order.write_text("before-link:0001.json")
    path = tmp_path / "stalls.yaml"
    path.write_text((ROOT / "jobs/demo.yaml").read_text() + f"env: {{ECM_CLUSTER_STOP_AT: '@{order}'}}\n")
    run = submit(slurm, small_data, tmp_path, "stalled", job=path, runner__max_epochs=3)
    job_id = present(run)["train"]
    wait_until(Path(f"{order}.taken").exists, "rank 0 stands still", look=lambda: logs_of(run))
    (stopped,) = [pid for pid in slurm.pids() if "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()]
    node = slurm.job(job_id)["NodeList"]
    slurm.kill_node(node, only_slurmd=True)
    slurm.node_down(node)
    wait_until(lambda: run.attempts() == [1], "it begins elsewhere", look=lambda: logs_of(run))
    os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: not Path(f"/proc/{stopped}").exists() or "\nState:\tZ" in
               Path(f"/proc/{stopped}/status").read_text(), "the old one ends", look=lambda: logs_of(run))
    assert "stale start" in logs_of(run)
    await_state(run, "done", env=slurm.env)
    assert run.attempts() == [1] and run.read_attempt(1)["restart"] == 1
    assert [e["cause"] for e in run.events() if e.kind == "end" and e.attempt == 1] == ["complete"]
    slurm.start_node(node)


def test_where_a_user_may_submit_one_job_the_evaluation_is_submitted_once_slurm_takes_it(
    make_slurm, small_data, tmp_path
):
    slurm = make_slurm(dbd=True, qos={"one": "MaxSubmitJobsPerUser=1"})
    given = job_flags(small_data, tmp_path, "half")
    said = verb("submit", held_job(tmp_path), *given[1:], "--qos", "one", env=slurm.env)
    run = Run(tmp_path / "half")
    train = run.submission("train")["job_id"]
    assert f"train {train} is submitted; its evaluation is not submitted (sbatch refused" in said.stderr
    found = state_of(run, slurm.env)
    assert found["state"] == "waiting" and "its evaluation is not submitted" in found["reason"]
    slurm.run("sacctmgr", "-i", "modify", "qos", "one", "set", "MaxSubmitJobsPerUser=5")
    wait_until(lambda: "not submitted" not in state_of(run, slurm.env)["reason"], "Slurm takes it", 60)
    ids = present(run)
    assert in_queue(slurm, run) == [("half", train), ("half.evaluate", ids["evaluate"])]
    assert slurm.job(ids["evaluate"])["Dependency"].startswith(f"afterok:{train}")
    verb("cancel", run.path, env=slurm.env)
