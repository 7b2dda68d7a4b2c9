"""The main job through the real command line on a real Slurm: submit, train, evaluate, status."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from slurm_harness import SlurmCluster
from small import ROOT, await_state, job_flags, logs_of, state_of, verb, wait_until

from ecm_cluster.base import files
from ecm_cluster.rundir.run import Run

FIGURES = ("bbox_AP", "bbox_APr", "bbox_APc", "bbox_APf", "segm_AP")


def submit(
    cluster: SlurmCluster,
    data: Path,
    runs: Path,
    name: str,
    *flags: object,
    code: int = 0,
    source: Path = ROOT,
    **options: object,
) -> Run:
    verb("submit", *job_flags(data, runs, name, **options), *flags, env=cluster.env, code=code, source=source)
    return Run(runs / name)


def job_ids(run: Run) -> dict[str, str | None]:
    return {s.link: s.job_id for s in run.submissions()}


def test_one_node_with_two_ranks_trains_and_is_scored_behind_without_accounting(slurm, small_data, tmp_path):
    run = submit(slurm, small_data, tmp_path, "one-node", "--gpus", 2)
    ids = job_ids(run)
    assert slurm.job(ids["evaluate"])["Dependency"].startswith(f"afterok:{ids['train']}")
    found = await_state(run, "done", env=slurm.env)
    assert set(FIGURES) <= set(found["evaluation"])
    assert found["iteration"] == found["iterations"]
    assert run.read_attempt(1)["world_size"] == 2
    assert "attempt 1: 2 ranks on 1 nodes" in run.train_log.read_text()
    for link in ids:
        assert slurm.wait_for(ids[link])["JobState"] == "COMPLETED"


def test_two_nodes_with_two_ranks_each_train_together_with_accounting(slurm_dbd, small_data, tmp_path):
    run = submit(slurm_dbd, small_data, tmp_path, "two-nodes", "--nodes", 2, "--gpus", 2, "--broadcast")
    await_state(run, "done", env=slurm_dbd.env)
    hosts = {e["host"] for e in run.events() if e.kind == "start"}
    assert hosts == {"n1", "n2"} or os.geteuid() != 0
    assert run.read_attempt(1)["nodes"] == 2
    staged = {e["node"]: e for e in run.events() if e.kind == "staged"}
    assert {node: e["source"] for node, e in staged.items()} == {0: "copied", 1: "copied"}
    assert staged[0]["folder"] != staged[1]["folder"] or os.geteuid() != 0
    # accounting can be asked once squeue has forgotten the job
    assert "COMPLETED" in slurm_dbd.run("sacct", "-n", "-X", "-j", str(job_ids(run)["train"])).stdout


def test_what_the_dry_run_prints_is_what_is_submitted(slurm, small_data, tmp_path):
    flags = job_flags(small_data, tmp_path, "scripts")
    shown = verb("submit", *flags, "--dry-run", env=slurm.env).stdout
    assert not list(tmp_path.iterdir())
    run = submit(slurm, small_data, tmp_path, "scripts", "--set", "runner.max_epochs=1")
    ids = job_ids(run)
    slurm.run("scancel", *ids.values())
    parts = re.split(
        r"# ---- sbatch script: \w+\n", shown.replace("dry run: nothing was written or submitted\n", "")
    )
    for link, text in zip(("train", "evaluate"), parts[1:]):
        token = files.read_json(run.submission_file(link))["token"]
        expected = text.replace(f"ecm-cluster:scripts:{link}:TOKEN", token).replace(
            "TRAIN_JOB_ID", ids["train"]
        )
        submitted = (run.submitit_dir / f"{ids[link]}_submission.sh").read_text()
        assert submitted.strip() == expected.strip()


def test_eight_gpus_are_asked_for_and_given(slurm, small_data, tmp_path):
    seen = tmp_path / "seen"
    job = tmp_path / "job.yaml"
    job.write_text(
        f"config: configs/demo.py\ndevice: cuda\nmem_per_gpu: 1G\ncpus_per_gpu: 1\ntime: 10\n"
        f"setup: ['echo $CUDA_VISIBLE_DEVICES > {seen}', 'exit 3']\n"
    )
    flags = job_flags(small_data, tmp_path, "eight")
    verb("submit", job, *flags[1:], "--gpus", 8, env=slurm.env)
    run = Run(tmp_path / "eight")
    ids = job_ids(run)
    ended = slurm.wait_for(ids["train"])
    assert ended["JobState"] == "FAILED"
    assert ended["TresPerNode"] in ("gres:gpu:8", "gres/gpu:8")  # 24.11 writes the latter
    assert ended["NumTasks"] == "8"
    assert seen.read_text().strip() == "0,1,2,3,4,5,6,7"
    assert slurm.wait_for(ids["evaluate"])["JobState"] == "CANCELLED"
    assert "a setup line ended the shell with exit code 3" in await_state(run, "failed", env=slurm.env)["reason"]


def test_two_runs_at_once_do_not_meet(slurm, small_data, tmp_path):
    runs = [submit(slurm, small_data, tmp_path, f"run{i}", "--seed", i, "--no-eval") for i in (1, 2)]
    for run in runs:
        found = await_state(run, "done", env=slurm.env)
        assert found["reason"] == "trained; no evaluation was requested"
    weights = [files.digest(run.checkpoints_dir / run.completion()) for run in runs]
    assert weights[0] != weights[1]


def test_a_failing_training_says_why_and_its_evaluation_neither_runs_nor_waits(slurm, small_data, tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "breaking.py").write_text(
        "from mmcv.runner import HOOKS, Hook\n\n\n@HOOKS.register_module()\nclass Breaking(Hook):\n"
        "    def after_train_iter(self, runner):\n        if runner.rank == 1:\n"
        "            raise ArithmeticError('the loss is not a number')\n"
    )
    config = tmp_path / "failing.py"
    config.write_text(
        f"_base_ = ['{ROOT}/configs/demo.py']\ncustom_hooks = [dict(type='Breaking')]\n"
        "custom_imports = dict(imports=['mmdet_ext.register', 'breaking'], allow_failed_imports=False)\n"
    )
    run = submit(slurm, small_data, tmp_path, "failing", "--gpus", 2, "--code", code, "--config", config)
    found = await_state(run, "failed", env=slurm.env)
    assert "rank 1: ArithmeticError: the loss is not a number" in found["reason"]
    ids = job_ids(run)
    assert slurm.wait_for(ids["train"])["JobState"] == "FAILED"
    assert slurm.wait_for(ids["evaluate"])["JobState"] == "CANCELLED"
    assert run.evaluations() == []
    assert run.completion() is None


def test_breaking_the_checkout_while_the_job_waits_changes_nothing(slurm, small_data, tmp_path):
    checkout = tmp_path / "checkout"
    for part in ("ecm_cluster", "mmdet_ext", "configs", "jobs"):
        shutil.copytree(ROOT / part, checkout / part)
    held = tmp_path / "job.yaml"
    held.write_text((ROOT / "jobs/demo.yaml").read_text() + "slurm: {hold: true}\n")
    verb(
        "submit",
        held,
        *job_flags(small_data, tmp_path / "runs", "frozen")[1:],
        "--no-eval",
        env=slurm.env,
        source=checkout,
    )
    run = Run(tmp_path / "runs/frozen")
    for broken in checkout.rglob("*.py"):
        broken.write_text("raise SystemExit('the checkout is broken')\n")
    slurm.run("scontrol", "release", job_ids(run)["train"])
    await_state(run, "done", env=slurm.env)


@pytest.mark.parametrize(("link", "point"), [("train", "sbatch-answered"), ("evaluate", "after-sbatch:evaluate.json")])
def test_a_submission_killed_before_the_id_is_recorded_leads_to_one_job_of_each_kind(
    slurm, small_data, tmp_path, link, point
):
    flags = job_flags(small_data, tmp_path, f"crash-{link}")
    env = {**slurm.env, files.KILL_ENV: point}
    assert verb("submit", *flags, env=env, code=None).returncode == -signal.SIGKILL
    run = Run(tmp_path / f"crash-{link}")
    assert job_ids(run)[link] is None
    if link == "train":
        assert not list(run.submitit_dir.glob("[0-9]*_submitted.pkl"))  # the job will have to help itself
    verb("submit", *flags, env=slurm.env)
    names = slurm.run("squeue", "-h", "-o", "%j").stdout.split()
    assert sorted(n for n in names if n.startswith(run.name)) == [run.name, f"{run.name}.evaluate"]
    await_state(run, "done", env=slurm.env)
    assert run.attempts() == [1]


def test_a_submission_killed_before_sbatch_is_submitted_by_the_next_one(slurm, small_data, tmp_path):
    flags = [*job_flags(small_data, tmp_path, "early"), "--no-eval"]
    env = {**slurm.env, files.KILL_ENV: "before-sbatch"}
    assert verb("submit", *flags, env=env, code=None).returncode == -signal.SIGKILL
    run = Run(tmp_path / "early")
    assert state_of(run, slurm.env)["state"] == "submitting"
    verb("submit", *flags, env=slurm.env)
    slurm.run("scancel", job_ids(run)["train"])
    again = verb("submit", *flags, env=slurm.env, code=2)
    assert "a run 'early' already exists" in again.stderr


def test_the_submitting_jobs_own_variables_do_not_reach_the_run(slurm, small_data, tmp_path):
    seen = tmp_path / "seen"
    job = tmp_path / "job.yaml"
    job.write_text((ROOT / "jobs/demo.yaml").read_text() + f"setup: ['env > {seen}', 'exit 3']\n")
    leaking = {
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURM_MEM_PER_CPU": "17",
        "SBATCH_QOS": "none",
        "SLURM_JOB_ID": "1",
        "RANK": "5",
        "WORLD_SIZE": "9",
        "CUDA_VISIBLE_DEVICES": "7",
    }
    verb(
        "submit", job, *job_flags(small_data, tmp_path, "leak")[1:], "--no-eval", env={**slurm.env, **leaking}
    )
    slurm.wait_for(job_ids(Run(tmp_path / "leak"))["train"])
    found = dict(line.split("=", 1) for line in seen.read_text().splitlines() if "=" in line)
    assert not {k: v for k, v in leaking.items() if found.get(k) == v}


def test_a_preempted_run_comes_back_automatically_and_continues(slurm, small_data, tmp_path):
    run = submit(
        slurm, small_data, tmp_path, "preempted", "--partition", "low", "--no-eval", runner__max_epochs=8
    )
    train = job_ids(run)["train"]
    wait_until(
        lambda: (run.heartbeat(1) or {}).get("iteration", 0) >= 2, "training", look=lambda: logs_of(run)
    )
    node = slurm.job(train)["NodeList"]
    high = slurm.submit("-p", "high", "--exclusive", "--nodelist", node, "--time", "5", "--wrap", "sleep 2")
    slurm.wait_for(high)
    found = await_state(run, "done", env=slurm.env)
    assert found["attempt"] == 2
    ended = [e for e in run.events() if e.kind == "end" and e.attempt == 1]
    assert [e["cause"] for e in ended] == ["preempted"]
    assert run.read_attempt(2)["from"] is not None
    staged = [(e.attempt, e["host"], e["source"]) for e in run.events() if e.kind == "staged"]
    assert [(attempt, source) for attempt, _, source in staged][0] == (1, "copied")
    assert staged[1][2] == ("there" if staged[1][1] == staged[0][1] else "copied")
    assert slurm.job(train)["Restarts"] == "1"
