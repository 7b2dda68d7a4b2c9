"""Options of sbatch that a site demands or forbids, on a real Slurm: what each job is given, and what is refused."""

from __future__ import annotations

import datetime
import os
from typing import Any

from small import ROOT, job_flags, verb

from ecm_cluster.chain import chain
from ecm_cluster.job import job
from ecm_cluster.rundir import job_env
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import launcher

# what each of 2 × 2 tasks sees: its GPUs, and whether the run's environment has come through
FORMS: dict[str, dict[str, Any]] = {
    "the launcher's own": {},
    "gres": {"slurm": {"gres": "gpu:7"}},
    "gpus per task": {"slurm": {"gpus-per-task": 1}},
    "no environment": {"slurm": {"export": "NONE"}},
    "some of it": {"slurm": {"export": "NIL", "get-user-env": True}},
    "nothing that can be omitted": {"mem_per_gpu": "none", "slurm": dict.fromkeys(
        ["cpus-per-task", "comment", "signal", "requeue", "time", "chdir", "open-mode", "job-name",
         "kill-on-invalid-dep"])},
    "memory in other words": {"slurm": {"mem-per-cpu": "50M"}},
    "options of srun": {"srun": {"task-prolog": "PROLOG", "mem-bind": "none"}},
}


def test_however_a_job_asks_for_gpus_and_no_matter_what_it_omits_its_tasks_see_the_same(slurm, tmp_path):
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\ncase "$*" in *core._submit*) '
                       'echo "$SLURMD_NODENAME:$CUDA_VISIBLE_DEVICES $OWN ${PYTHONPATH%%:*} $PWD";; esac\n')
    program.chmod(0o755)
    prolog = tmp_path / "prolog"
    prolog.write_text(f"#!/bin/sh\ntouch '{tmp_path}/prolog-of-'$SLURM_PROCID\n")
    prolog.chmod(0o755)
    FORMS["options of srun"]["srun"]["task-prolog"] = str(prolog)
    jobs = {}
    for number, (form, values) in enumerate(FORMS.items()):
        run = Run(tmp_path / f"run {number}")
        for folder in (run.logs_dir, run.submitit_dir, run.task_pickle("train").parent):
            folder.mkdir(parents=True)
        run.run_file.write_text("{}")  # the batch shell looks whether its node sees the run
        wanted = chain.request(run, job.make({
            "nodes": 2, "gpus": 2, "cpus_per_gpu": 1, "mem_per_gpu": "100M", "time": "5", "python": str(program),
            "env": {"OWN": "own"}, **values}), "train", "token")
        launcher.write_task(wanted, chain.task(run, "train"))
        job_env.write(run, wanted.job)
        jobs[form] = (run, slurm.submit(script=launcher.render(wanted)))
    for form, (run, job_id) in jobs.items():
        assert slurm.wait_for(job_id)["JobState"] == "COMPLETED", form
        lines = [line.rstrip() for path in run.submitit_dir.glob("*.out") for line in path.read_text().splitlines()
                 if " own " in line]
        assert len(lines) == 4 and all(line.endswith(f" own {run.code_dir} {run.logs_dir}") for line in lines), form
        seen: dict[str, list[str]] = {}
        for node, _, gpus in (line.partition(" ")[0].partition(":") for line in lines):
            seen.setdefault(node, []).append(gpus)
        each = 1 if form == "gpus per task" else 2
        for gpus in seen.values():
            assert [len(names.split(",")) for names in gpus] == [each] * 2, form
            assert len({name for names in gpus for name in names.split(",")}) == 2, form
        assert len(seen) == 2
    assert len(list(tmp_path.glob("prolog-of-*"))) == 4


# ---------------------------------------------------------------------------------------------- refused or queued


def test_what_sbatch_queues_is_queued_and_what_it_refuses_is_refused_before_anything_is_written(
    slurm, small_data, tmp_path
):
    def submit(name: str, *flags: object, code: int = 0) -> str:
        return verb("submit", *job_flags(small_data, tmp_path, name), *flags, env=slurm.env, code=code).stderr

    def waits(name: str) -> dict[str, str]:
        run = Run(tmp_path / name)
        found = slurm.job(run.submissions()[0].job_id)
        verb("cancel", run.path, env=slurm.env)
        assert found["JobState"] == "PENDING", found
        return found

    tomorrow = datetime.datetime.now() + datetime.timedelta(days=1)
    with slurm.drained():
        assert "warning: the train job cannot start now" in submit("drained")
        waits("drained")
        # EnforcePartLimits=NO: Slurm queues it until the partition has grown
        submit("wide", "--nodes", 5, "--no-eval")
        waits("wide")
        slurm.run("scontrol", "create", "reservation", "ReservationName=paper", f"StartTime={tomorrow:%FT%T}",
                  "Duration=60", f"Users={os.environ.get('USER') or 'root'}", "Nodes=ALL")
        try:
            submit("reserved", "--reservation", "paper", "--time", 30, "--no-eval")
            assert waits("reserved")["Reservation"] == "paper"
        finally:
            slurm.run("scontrol", "delete", "ReservationName=paper")
    slurm.wait_idle()
    for flags in (["--cpus-per-gpu", 65], ["--mem-per-gpu", "900G"], ["--reservation", "nope"],
                  ["--constraint", "none"]):
        said = submit("refused", *flags, code=2)
        assert said.splitlines()[-1].startswith("error: sbatch would refuse the train job: "), said
        assert not (tmp_path / "refused").exists()


def test_slurm_does_not_depend_on_the_values_of_env(slurm, small_data, tmp_path):
    secret, job, seen = "s3cret-for-one-service", tmp_path / "job.yaml", tmp_path / "seen"
    job.write_text((ROOT / "jobs/demo.yaml").read_text() + f"env: {{API_KEY: {secret}}}\n"
                   f"setup: ['printf %s \"$API_KEY\" > {seen}', 'exit 3']\n")
    run = Run(tmp_path / "secretive")
    verb("submit", job, *job_flags(small_data, tmp_path, run.name)[1:], "--no-eval", env=slurm.env)
    job_id = run.submissions()[0].job_id
    reported = slurm.run("scontrol", "-dd", "show", "job", job_id).stdout
    reported += slurm.run("scontrol", "write", "batch_script", job_id, "-").stdout
    slurm.wait_for(job_id)
    assert "env.sh" in reported and secret not in reported
    assert seen.read_text() == secret
    kept = [path for folder in (run.path, slurm.folder) for path in folder.rglob("*")
            if path.is_file() and secret.encode() in path.read_bytes()]
    assert kept == [run.env_file]
    assert run.path.stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------------------------------------- the user's shell

BANNER = """#!/bin/sh
echo "this is job 7 of 20"; echo "quota: 3" >&2
{sbatch} "$@"; code=$?
echo "next is job 8"; echo "good luck with job 9" >&2
exit $code
"""


def test_a_site_with_a_banner_and_a_user_with_an_account_get_what_they_asked_for(slurm, small_data, tmp_path):
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    real = slurm.run("sh", "-c", "command -v sbatch").stdout.strip()
    wrapper.write_text(BANNER.format(sbatch=real))
    wrapper.chmod(0o755)
    env = {**slurm.env, "PATH": f"{wrapper.parent}:{slurm.env['PATH']}", "SBATCH_ACCOUNT": "vision",
           "SBATCH_PARTITION": "lown", "SBATCH_WCKEY": "paper", "SBATCH_GRES": "gpu:8", "SBATCH_EXPORT": "NONE"}
    held = tmp_path / "held.yaml"
    held.write_text((ROOT / "jobs/demo.yaml").read_text() + "slurm: {hold: true, comment: project x}\n")
    run = Run(tmp_path / "own")
    said = verb("submit", held, *job_flags(small_data, tmp_path, "own")[1:], env=env)
    assert "from shell  account vision (SBATCH_ACCOUNT), partition lown (SBATCH_PARTITION)" in said.stdout
    assert "warning: ignored: SBATCH_EXPORT, SBATCH_GRES, because" in said.stderr
    for submission in run.submissions():
        found = slurm.job(submission.job_id)
        assert found["JobName"].startswith("own")
        assert (found["Account"], found["Partition"], found["Comment"]) == ("vision", "lown", "project x")
        assert "TresPerNode" not in found
        script = (run.submitit_dir / f"{submission.job_id}_submission.sh").read_text()
        assert "#SBATCH --wckey=paper\n" in script
    # in another shell, by another session: what was submitted stays what it is
    verb("cancel", run.path, env=slurm.env)
    verb("resume", run.path, env={**slurm.env, "SBATCH_ACCOUNT": "nlp"})
    for submission in run.submissions():
        found = slurm.job(submission.job_id)
        assert (found["Account"], found["Partition"]) == ("vision", "lown")
    verb("cancel", run.path, env=slurm.env)


def test_where_qos_preempt_the_plan_says_what_the_jobs_qos_does(make_slurm, small_data, tmp_path):
    slurm = make_slurm(nodes=1, dbd=True, preempt="qos", qos={
        "cheap": "PreemptMode=cancel GraceTime=90", "mild": "PreemptMode=requeue GraceTime=2", "dear": "Preempt=cheap"})

    def plan(*flags: object) -> str:
        said = verb("submit", *job_flags(small_data, tmp_path, "planned"), *flags, "--dry-run", env=slurm.env)
        return said.stdout + said.stderr

    assert "when preempted (QOS cheap, grace 90 s): commit, then a successor job" in plan("--qos", "cheap")
    said = plan("--qos", "mild", "--partition", "high")
    assert "when preempted (QOS mild, grace 2 s): commit, requeue, continue" in said
    assert "a preempted job of QOS mild has 2 s" in said
    assert "when preempted (QOS normal, the default, grace 0 s): commit, requeue, continue" in plan()
