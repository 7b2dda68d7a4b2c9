"""What Slurm is asked, what its answers mean, and what a job carries with it. The commands: tests/on_slurm."""

from __future__ import annotations

import contextlib
import os
import pickle
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from answers import Answers
from hypothesis import given, settings
from hypothesis import strategies as st
from small import wait_until

from ecm_cluster.backends import driver
from ecm_cluster.base import files
from ecm_cluster.base.errors import UserError
from ecm_cluster.chain import chain, submissions
from ecm_cluster.job import job
from ecm_cluster.rundir import job_env
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import batch_shell, commands, launcher, queue, sbatch, site

FULL: dict[str, Any] = {
    "name": "a run", "nodes": 2, "gpus": 8, "cpus_per_gpu": 6, "mem_per_gpu": "40G", "gpu_type": "a100",
    "partition": "preempt,long", "account": "vision", "qos": "normal", "constraint": "nvlink&ib",
    "exclude": "n[07-08]", "reservation": "paper", "exclusive": True, "time": "2-00:00:00", "signal_lead": 90,
    "python": "/opt/my env/bin/python", "setup": ["module load cuda/12.8", "source '/opt/my env/activate'"],
    "env": {"NCCL_DEBUG": "WARN", "GREETING": "it's a \"test\" of $HOME"},
    "slurm": {"mail_type": "END", "--nice": 100, "hold": True, "spread-job": False, "mail-user": None},
    "evaluation": {"nodes": 1, "gpus": 4, "partition": "short", "time": "4:00:00"},
}
TRAIN_SCRIPT = """\
#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --chdir='/shared/my runs/a run/logs'
#SBATCH --comment='ecm-cluster:a run:train:0123'
#SBATCH --constraint='nvlink&ib'
#SBATCH --cpus-per-task=6
#SBATCH --exclude='n[07-08]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=a100:8
#SBATCH --hold
#SBATCH --job-name='a run'
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=END
#SBATCH --mem=327680M
#SBATCH --nice=100
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=preempt,long
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=paper
#SBATCH --signal=USR2@90
#SBATCH --time=2880

# setup
export ECM_CLUSTER_TOKEN='ecm-cluster:a run:train:0123'
{starts}
. '/shared/my runs/a run/env.sh' || exit 1
trap 'ecm_failed $? $LINENO ${#BASH_SOURCE[@]}' ERR; ecm_first=$((LINENO + 1))
module load cuda/12.8
source '/opt/my env/activate'
trap - ERR
. '/shared/my runs/a run/env.sh' || exit 1
export PYTHONPATH='/shared/my runs/a run/code:/shared/my runs/a run/code/user'${PYTHONPATH:+:$PYTHONPATH}
pickle='/shared/my runs/a run/submitit'/\
"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}"_submitted.pkl
[ -e "$pickle" ] || cp '/shared/my runs/a run/submissions/train.pkl' "$pickle"
srun() { ecm_phase=step; command srun "$@" && step_code=0 || step_code=$?; return "$step_code"; }
trap ecm_after EXIT

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/shared/my runs/a run/submitit/%j_%t_log.out' -K1 --export=ALL \
--cpus-per-task=6 \
sh -c 'trap "" TERM USR2; exec "$0" "$@"' '/opt/my env/bin/python' -u -m submitit.core._submit \
'/shared/my runs/a run/submitit'
"""


def asked(run: Run, values: dict[str, Any], link: str = "train", after: str | None = None) -> sbatch.JobRequest:
    return chain.request(run, job.make(values), link, f"ecm-cluster:{run.name}:{link}:0123", after)


def options(script: str) -> dict[str, str]:
    """The #SBATCH options of a script, unquoted as sbatch does it."""
    lines = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH ")]
    return {name: value for name, _, value in (line[len("--"):].partition("=") for line in lines)}


# ---------------------------------------------------------------------------------------------- scripts


def test_a_job_that_asks_for_everything_becomes_exactly_this_script():
    run = Run("/shared/my runs/a run")
    path = "/shared/my runs/a run/code:/shared/my runs/a run/code/user"
    starts = batch_shell.on_slurm(run, "train", "/opt/my env/bin/python", path, "n[07-08]")
    assert launcher.render(asked(run, FULL)) == TRAIN_SCRIPT.replace("{starts}", "\n".join(starts))


def test_the_evaluation_waits_for_the_training_and_asks_for_what_its_block_says():
    shown = options(launcher.render(asked(Run("/shared/my runs/a run"), FULL, "evaluate", after="77")))
    expected = {**options(TRAIN_SCRIPT), "dependency": "afterok:77", "gpus-per-node": "a100:4", "partition": "short",
                "ntasks-per-node": "4", "nodes": "1", "time": "240", "mem": "163840M", "job-name": "a run.evaluate",
                "comment": "ecm-cluster:a run:evaluate:0123"}
    assert shown == expected


def test_an_evaluation_without_words_of_its_own_takes_one_node_as_the_training_has():
    values = {**FULL, "evaluation": {}}
    shown = options(launcher.render(asked(Run("/shared/a"), values, "evaluate", after="77")))
    assert (shown["nodes"], shown["ntasks-per-node"], shown["partition"], shown["time"]) == ("1", "8", "preempt,long",
                                                                                           "2880")


def test_a_small_job_asks_for_nothing_that_it_was_not_reported():
    shown = options(launcher.render(asked(Run("/shared/a"), {"name": "a"})))
    assert not set(shown) & {"partition", "account", "qos", "constraint", "exclude", "reservation", "exclusive",
                             "dependency", "array", "error"}
    assert shown["gpus-per-node"] == "1"


def test_cpu_ranks_ask_for_no_gpu():
    shown = options(launcher.render(asked(Run("/shared/a"), {"name": "a", "device": "cpu", "gpus": 4})))
    assert not any("gpu" in name or name == "gres" for name in shown)
    assert (shown["ntasks-per-node"], shown["mem"]) == ("4", f"{4 * 48 * 1024}M")


@pytest.mark.parametrize("key", ["chdir", "requeue", "no_requeue", "--job-name", "kill_on_invalid_dep", "clusters",
                                 "wait", "ntasks", "gpus"])
def test_what_a_run_needs_to_come_back_cannot_be_overridden(key):
    with pytest.raises(UserError, match="is set by the launcher itself"):
        job.make({"slurm": {key: "x"}})


@pytest.mark.parametrize("key", ["part", "p", "M", "cluster", "--out", "sig", "depend", "gpus-per-n", "gre", "wck"])
def test_an_abbreviation_does_not_pass_for_another_option(key):
    """sbatch takes its long options by their beginnings."""
    with pytest.raises(UserError, match="is an abbreviation; spell it out"):
        job.make({"slurm": {key: "x"}})


@pytest.mark.parametrize("value", ["a\nreboot", [1], {"a": 1}, "\x1b[0m"])
def test_a_value_that_is_more_than_one_line_is_refused(value):
    with pytest.raises(UserError, match="slurm: option 'comment': invalid value"):
        job.make({"slurm": {"comment": value}})


LINES = ("mem", "cpus-per-task", "comment", "gpus-per-node", "signal", "requeue", "time", "chdir", "open-mode",
         "job-name", "kill-on-invalid-dep", "exclusive", "account", "partition", "qos")


@pytest.mark.parametrize("link", ["train", "evaluate"])
@pytest.mark.parametrize("name", LINES)
def test_every_line_that_the_launcher_writes_can_be_omitted(name, link):
    values = {**FULL, "slurm": {name.replace("-", "_"): None}}
    before = options(launcher.render(asked(Run("/shared/a"), {**FULL, "slurm": {}}, link, after="7")))
    after = options(launcher.render(asked(Run("/shared/a"), values, link, after="7")))
    assert name in before and after == {k: v for k, v in before.items() if k != name}


@pytest.mark.parametrize("name", ["output", "array", "dependency", "nodes", "ntasks-per-node"])
def test_lines_that_no_run_can_do_without_cannot_be_omitted(name):
    with pytest.raises(UserError, match=f"slurm: option '{name}' cannot be omitted"):
        job.make({"slurm": {name: None}})


def test_a_job_without_a_folder_of_its_own_goes_there_automatically():
    script = launcher.render(asked(Run("/shared/my a"), {"slurm": {"chdir": None}}))
    assert "\ncd '/shared/my a/logs'\n" in script


def test_without_cores_from_sbatch_srun_asks_for_none_either():
    script = launcher.render(asked(Run("/shared/a"), {"slurm": {"cpus-per-task": None}}))
    assert "cpus-per-task" not in script


@pytest.mark.parametrize("link", ["train", "evaluate"])
@pytest.mark.parametrize(("given", "expected"), [
    ({"mem_per_gpu": "none"}, {"mem": None}),
    ({"slurm": {"mem": 0}}, {"mem": "0"}),
    ({"slurm": {"mem-per-cpu": "4G"}}, {"mem": None, "mem-per-cpu": "4G"}),
    ({"slurm": {"mem_per_gpu": "40G"}}, {"mem": None, "mem-per-gpu": "40G"}),
    ({"slurm": {"comment": "project x", "wckey": "paper"}}, {"comment": "project x", "wckey": "paper"}),
    ({"slurm": {"gres": "nvme:1"}}, {"gres": "nvme:1", "gpus-per-node": "a100:8"}),
    ({"slurm": {"gres": "gpu:a100:8,nvme:1"}}, {"gres": "gpu:a100:8,nvme:1", "gpus-per-node": None}),
    ({"slurm": {"gres": "gpu"}}, {"gres": "gpu:8", "gpus-per-node": None}),
    ({"slurm": {"gpus_per_task": "a100:1"}}, {"gpus-per-task": "a100:1", "gpus-per-node": None}),
    ({"slurm": {"gpus_per_task": 4}}, {"gpus-per-task": "1", "gpus-per-node": None}),
    ({"slurm": {"exclusive": "user"}}, {"exclusive": "user"}),
    ({"slurm": {"export": "NONE"}}, {"export": "NONE"}),
])
def test_what_a_job_file_says_in_sbatchs_words_takes_the_place_of_the_launchers_line(given, expected, link):
    values = {**FULL, "slurm": {}, **given, "evaluation": {"nodes": 2}}
    shown = options(launcher.render(asked(Run("/shared/a"), values, link, after="7")))
    assert {name: shown.get(name) for name in expected} == expected


def test_the_number_of_gpus_is_that_of_the_link_however_they_are_asked_for():
    values = {**FULL, "slurm": {"gres": "gpu:a100:8"}, "evaluation": {"gpus": 2}}
    assert options(launcher.render(asked(Run("/shared/a"), values, "evaluate")))["gres"] == "gpu:a100:2"
    values = {**FULL, "device": "cpu", "slurm": {"gres": "gpu:a100:8", "gpus-per-task": 1}}
    given = options(launcher.render(asked(Run("/shared/a"), values)))
    assert not any("gpu" in name or name == "gres" for name in given)


def test_nothing_that_the_user_did_not_ask_for_is_charged_to_submitit():
    assert "wckey" not in launcher.render(asked(Run("/shared/a"), {}))
    wide = chain.request(Run("/shared/a"), job.make({}), "sweep001", "t", elements=3)
    assert "wckey" not in launcher.render(wide) and "--array=0-2%3" in launcher.render(wide)


# ---------------------------------------------------------------------------------------------- sbatch's answer


@pytest.mark.parametrize(("answer", "found"), [
    ("77\n", "77"), ("77;cluster\n", "77"), ("this is job 7 of 20\n77\n", "77"), ("77\nquota: job 3 of 10\n", "77"),
    ("* job 7 *\n  77;c1  \nbye 8\n", "77"), ("Submitted batch job 77\n", "77"),
    ("Submitted batch job 77 on cluster c1\n", "77"), ("job 7 of 20\nSubmitted batch job 77\nnext: job 8", "77"),
])
def test_a_banner_of_the_sites_is_not_taken_for_the_job_id(answer, found):
    assert launcher.job_id_in(answer) == found


@pytest.mark.parametrize("answer", ["", "this is job 7 of 20\n", "7\n8\n", "Submitted batch job\n", "-7", "7 8"])
def test_an_answer_with_no_id_or_with_two_is_not_guessed_at(answer):
    assert launcher.job_id_in(answer) is None


@pytest.mark.parametrize("name", ["A B", "1A", "A-B", "", "A=1", "A;reboot"])
def test_a_variable_with_a_name_that_no_shell_takes_is_refused(name):
    with pytest.raises(UserError, match="env: .* is not a name of a variable"):
        job.make({"env": {name: "x"}})


# ---------------------------------------------------------------------------------------------- under bash


def execute(run: Run, values: dict[str, Any], tmp_path: Path, **env: str) -> tuple[dict[str, str], list[str]]:
    """Run the rendered script under bash: the environment and the arguments that srun sees.

    ``srun`` cannot exist here: in its place stands a script that writes both down.
    """
    binaries = tmp_path / "bin"
    binaries.mkdir(exist_ok=True)
    srun = binaries / "srun"
    srun.write_text(f'#!/bin/bash\nenv -0 > {shlex.quote(str(tmp_path))}/env\n'
                    f'printf "%s\\0" "$@" > {shlex.quote(str(tmp_path))}/arguments\n')
    srun.chmod(0o755)
    run.submitit_dir.mkdir(parents=True, exist_ok=True)
    run.run_file.touch()
    wanted = asked(run, values)
    run.task_pickle("train").parent.mkdir(exist_ok=True)
    launcher.write_task(wanted, chain.task(run, "train"))
    job_env.write(run, wanted.job)
    script = tmp_path / "script.sh"
    script.write_text(launcher.render(wanted))
    subprocess.run(["bash", str(script)], check=True, timeout=60, cwd=tmp_path,
                   env={"PATH": f"{binaries}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", **env})
    seen = dict(pair.split("=", 1) for pair in (tmp_path / "env").read_text().split("\0") if pair)
    return seen, (tmp_path / "arguments").read_text().split("\0")[:-1]


NASTY = {"PLAIN": "x", "SPACES": " two  words ", "QUOTES": "it's \"quoted\"",
         "SHELL": "$HOME `id` $(id) \\n !! * ~ ; &", "LINES": "one\ntwo\n",
         "EMPTY": "", "UNICODE": "Köln 北京", "NUMBER": "7"}


def test_every_value_reaches_the_program_as_it_was_written(tmp_path):
    run = Run(tmp_path / "my runs" / "it's a run; $HOME")
    values = {"name": run.name, "env": NASTY, "setup": ["export FROM_SETUP='a  b'", "export PLAIN=overridden"],
              "python": "/opt/my env/python"}
    seen, arguments = execute(run, values, tmp_path)
    assert {name: seen.get(name) for name in NASTY} == NASTY
    assert seen["FROM_SETUP"] == "a  b"
    assert seen["PYTHONPATH"] == f"{run.code_dir}:{run.code_dir}/user"
    assert arguments == ["--unbuffered", "--output", f"{run.submitit_dir}/%j_%t_log.out", "-K1", "--export=ALL",
                         "--cpus-per-task=8", "sh", "-c", 'trap "" TERM USR2; exec "$0" "$@"', "/opt/my env/python",
                         "-u", "-m", "submitit.core._submit", str(run.submitit_dir)]


def test_a_pythonpath_of_the_users_stays_behind_the_runs_own_code(tmp_path):
    run = Run(tmp_path / "run")
    own = f"{run.code_dir}:{run.code_dir}/user"
    seen, _ = execute(run, {"name": "run", "setup": ["export PYTHONPATH=/module:$PYTHONPATH"]}, tmp_path,
                      PYTHONPATH="/shell")
    assert seen["PYTHONPATH"] == f"{own}:/module:/shell"
    seen, _ = execute(run, {"name": "run", "env": {"PYTHONPATH": "/job file"}}, tmp_path, PYTHONPATH="/shell")
    assert seen["PYTHONPATH"] == f"{own}:/job file"


def test_a_job_whose_submitter_died_helps_itself_to_its_task(tmp_path):
    run = Run(tmp_path / "a run")
    execute(run, {"name": "a run"}, tmp_path)
    assert (run.submitit_dir / "77_submitted.pkl").read_bytes() == run.task_pickle("train").read_bytes()


def test_a_task_that_submit_put_there_is_left_alone(tmp_path):
    run = Run(tmp_path / "a run")
    run.submitit_dir.mkdir(parents=True)
    (run.submitit_dir / "77_submitted.pkl").write_bytes(b"by submit")
    execute(run, {"name": "a run"}, tmp_path)
    assert (run.submitit_dir / "77_submitted.pkl").read_bytes() == b"by submit"


@settings(max_examples=25)  # each runs a shell
@given(st.dictionaries(st.from_regex(r"X[A-Z_]{0,5}", fullmatch=True),
                       st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=4))
def test_any_text_survives_as_the_value_of_a_variable(env):
    with tempfile.TemporaryDirectory() as folder:
        run, wanted = Run(folder), job.make({"env": env})
        job_env.write(run, wanted)
        lines = [*sbatch.environment_lines(run, wanted), "env -0"]
        done = subprocess.run(["bash", "-c", "\n".join(lines)], env={"PATH": os.environ["PATH"]}, check=True,
                              capture_output=True)
    seen = dict(pair.split("=", 1) for pair in done.stdout.decode().split("\0") if pair)
    assert {name: seen.get(name) for name in env} == env


# ---------------------------------------------------------------------------------------------- environment, pickle


def test_the_traces_of_a_surrounding_job_stay_outside():
    inside = {"SLURM_JOB_ID": "1", "SLURM_CPU_BIND": "quiet", "SBATCH_QOS": "x", "SUBMITIT_EXECUTOR": "slurm",
              "SRUN_CPUS_PER_TASK": "2", "PMIX_RANK": "0", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1",
              "MASTER_ADDR": "n1", "MASTER_PORT": "1", "CUDA_VISIBLE_DEVICES": "7"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/nowhere", "PATH": "/bin", "RANKING": "1", "MY_SLURM_X": "1",
            "OMP_NUM_THREADS": "4"}
    assert sbatch.outside_environment({**inside, **kept}) == kept


@pytest.mark.parametrize("link", ["train", "evaluate"])
def test_a_pickle_holds_a_path_and_the_name_of_its_link(tmp_path, link):
    run = Run(tmp_path / "it's a run")
    path = run.task_pickle(link)
    path.parent.mkdir(parents=True)
    wanted = asked(run, {"name": run.name, "time": "90"}, link)
    launcher.write_task(wanted, chain.task(run, link))
    stored = path.read_bytes()
    delayed = pickle.loads(stored)
    assert vars(delayed.function) == {"run": str(run.path), **({} if link == "train" else {"stage": link})}
    assert type(delayed.function).__module__ == "ecm_cluster.node.task"
    assert (delayed.args, delayed.kwargs) == ((), {})
    assert delayed._timeout_min == 90
    assert len(stored) < 700 + len(str(run.path)), "the class itself is pickled, not its name"
    assert [p.name for p in path.parent.iterdir()] == [path.name]


# ---------------------------------------------------------------------------------------------- Slurm's answers

RUNNING = (
    "JobId=1 JobName=a run of lr=0.1 UserId=me(0) GroupId=me(0) MCS_label=N/A Priority=4294901759 Nice=0 Account=root "
    "QOS=normal JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=00:00:03 TimeLimit=00:10:00 TimeMin=N/A SubmitTime=2026-11-23T01:39:15 EligibleTime=2026-11-23T01:39:15 "
    "AccrueTime=2026-11-23T01:39:15 StartTime=2026-11-23T01:39:15 EndTime=2026-11-23T01:49:15 Deadline=N/A "
    "PreemptEligibleTime=2026-11-23T01:39:15 PreemptTime=None SuspendTime=None SecsPreSuspend=0 "
    "LastSchedEval=2026-11-23T01:39:15 Scheduler=Backfill Partition=low AllocNode:Sid=localhost:5982 "
    "ReqNodeList=(null) ExcNodeList=(null) NodeList=n1 BatchHost=n1 NumNodes=1 NumCPUs=1 NumTasks=1 CPUs/Task=1 "
    "ReqB:S:C:T=0:0:*:* TRES=cpu=1,mem=100M,node=1,billing=1,gres/gpu=2 Socks/Node=* NtasksPerN:B:S:C=0:0:*:* "
    "CoreSpec=* MinCPUsNode=1 MinMemoryCPU=100M MinTmpDiskNode=0 Features=(null) DelayBoot=00:00:00 OverSubscribe=OK "
    "Contiguous=0 Licenses=(null) Network=(null) Command=(null) WorkDir=/shared/my runs "
    "Comment=ecm-cluster:a run of lr=0.1:train:0123ab  StdErr=/shared/my runs/slurm-1.out StdIn=/dev/null "
    "StdOut=/shared/my runs/slurm-1.out Power= TresPerNode=gres:gpu:2 \n")


def rows(*lines: str) -> str:
    """Lines of squeue or sacct, written here with ; between the fields."""
    return "".join(line.replace(";", queue.SEPARATOR) + "\n" for line in lines)


QUEUE = rows("3;FAILED;NonZeroExitCode;2026-11-23T01:39:15;(null);/shared/3.sh",
             "2;PENDING;Dependency;N/A;tok|en;(null)",
             "1;RUNNING;None;2026-11-23T01:39:15;ecm-cluster:a run of lr=0.1:train:0123ab;/shared/1.sh")
ACCOUNTS = rows("1;CANCELLED by 0;None;2026-11-23T01:39:15;;sbatch 1.sh",
                "4;PENDING;DependencyNeverSatisfied;Unknown;;", "5;NODE_FAIL;None;2026-11-23T01:39:15;;")


@pytest.fixture
def answers(tmp_path, monkeypatch):
    return Answers(tmp_path, monkeypatch)


def test_a_jobs_fields_are_read_with_blanks_and_equal_signs_in_them(answers):
    answers(scontrol=RUNNING)
    said = commands.show_job("1")
    assert said is not None
    expected = {"JobId": "1", "JobState": "RUNNING", "Reason": "None", "Restarts": "2", "PreemptTime": "None",
                "EndTime": "2026-11-23T01:49:15", "NodeList": "n1", "ReqB:S:C:T": "0:0:*:*", "Power": "",
                "TRES": "cpu=1,mem=100M,node=1,billing=1,gres/gpu=2", "StdOut": "/shared/my runs/slurm-1.out",
                "WorkDir": "/shared/my runs", "TresPerNode": "gres:gpu:2"}
    assert {name: said.get(name) for name in expected} == expected


@pytest.mark.parametrize("text", [None, ""])
def test_no_answer_is_none(answers, text):
    answers(scontrol=text)
    assert commands.show_job("1") is None
    assert (site.partitions(), site.configuration()) == ([], {})


def test_an_answer_that_does_not_come_is_none(answers):
    answers.script("scontrol", "exec sleep 60\n")
    began = time.monotonic()
    assert commands.show_job("1", timeout=0.2) is None
    assert time.monotonic() - began < 30


def test_states_come_from_the_queue_and_from_accounting_where_it_has_forgotten(answers):
    answers(squeue=QUEUE.replace(f"1{queue.SEPARATOR}", f"7{queue.SEPARATOR}"), sacct=ACCOUNTS)
    found = queue.query(["1", "2", "3", "4", "5", "999"])
    assert {k: (v.state, v.reason) for k, v in found.items()} == {
        "1": ("CANCELLED", "None"), "2": ("PENDING", "Dependency"), "3": ("FAILED", "NonZeroExitCode"),
        "4": ("PENDING", "DependencyNeverSatisfied"), "5": ("NODE_FAIL", "None")}
    assert found["2"].comment == "tok|en"
    assert answers.calls().count("squeue") == 1
    assert "-j 1,4,5,999" in answers.calls()


def test_accounting_is_not_asked_where_the_queue_knows_all(answers):
    answers(squeue=QUEUE, sacct=ACCOUNTS)
    queue.query(["1", "2"])
    assert "sacct" not in answers.calls()


def test_a_state_with_words_after_it_is_the_state(answers):
    answers(squeue="", sacct=ACCOUNTS)
    assert queue.query(["1"])["1"].state == "CANCELLED"


def test_without_accounting_and_queue_nothing_is_known(answers):
    answers(squeue="", sacct=None)
    assert queue.query(["1"]) == {}


def test_a_job_is_found_by_its_token_alone(answers):
    answers(squeue=QUEUE)
    known = ["ecm-cluster:a run of lr=0.1:train:0123ab", "tok|en"]
    assert queue.find([*known, "ecm-cluster:a run of lr=0.1:train"]) == dict(zip(known, ["1", "2"]))


def test_a_queue_that_does_not_answer_is_not_taken_for_an_empty_one(answers):
    answers(squeue=None)
    with pytest.raises(UserError, match="squeue does not answer"):
        queue.find(["x"])


def test_slurm_is_there_where_sbatch_is(answers):
    assert not commands.slurm_available()
    answers(sbatch="")
    assert commands.slurm_available()


# ---------------------------------------------------------------------------------------------- a chain that breaks


def made(tmp_path: Path) -> tuple[Run, job.Job]:
    run, wanted = Run(tmp_path / "run"), job.make({"name": "run", "evaluation": {"enabled": False}})
    run.path.mkdir()
    files.write_json(run.run_file, {"cluster": "slurm", "job": wanted.as_dict()})
    return run, wanted


def interrupted(run: Run) -> str:
    path = run.submission_file("train")
    path.parent.mkdir(parents=True)
    files.write_json(path, {"token": "ecm-cluster:run:train:ab", "cluster": "slurm"})
    return "ecm-cluster:run:train:ab"


def test_nothing_is_submitted_while_it_is_unknown_whether_something_was(answers, tmp_path):
    run, wanted = made(tmp_path)
    token = interrupted(run)
    answers(squeue=None, sbatch="Submitted batch job 9\n")
    with pytest.raises(UserError, match="squeue does not answer"):
        chain.submit(run, wanted)
    assert "sbatch" not in answers.calls()
    assert [s.token for s in run.submissions()] == [token]
    submissions.try_adopt(run)
    assert [s.token for s in run.submissions()] == [token]


def test_a_job_whose_id_was_never_recorded_is_found_instead_of_submitted(answers, tmp_path):
    run, wanted = made(tmp_path)
    token = interrupted(run)
    answers(squeue=rows(f"41;PENDING;None;N/A;{token};"), sbatch="Submitted batch job 9\n")
    assert chain.submit(run, wanted) == {"train": "41"}
    assert "sbatch" not in answers.calls()
    assert [s.job_id for s in run.submissions()] == ["41"]
    assert chain.submit(run, wanted) == {"train": "41"}


def test_a_refused_job_leaves_no_token_and_says_slurms_words(answers, tmp_path):
    run, wanted = made(tmp_path)
    answers(squeue=QUEUE, sbatch=None)
    with pytest.raises(UserError, match="sbatch refused the train job: Unable to contact slurm controller"):
        chain.submit(run, wanted)
    assert run.submissions() == []


def test_a_refusal_that_may_be_none_keeps_the_token(answers, tmp_path):
    """sbatch gives up after its own time-out; slurmctld may have taken the job all the same."""
    run, wanted = made(tmp_path)
    answers(squeue=None, sbatch=None)
    with pytest.raises(UserError, match="sbatch refused"):
        chain.submit(run, wanted)
    assert [s.job_id for s in run.submissions()] == [None]


def test_a_job_that_slurm_took_although_sbatch_gave_up_is_recorded(answers, tmp_path):
    run, wanted = made(tmp_path)
    answers(sbatch=None)
    # the queue shows the comment of the script that sbatch was given
    comment = "s/^#SBATCH --comment=/" + rows("12;PENDING;None;N\\/A;").rstrip("\n") + "/p"
    answers.script("squeue", f"sed -n '{comment}' {run.submitit_dir}/.sub*.sh\n")
    assert chain.submit(run, wanted) == {"train": "12"}
    assert [s.job_id for s in run.submissions()] == ["12"]


# ---------------------------------------------------------------------------------------------- one machine


def started(run: Run, values: dict[str, Any]) -> str:
    """A local driver that stays in the job's own setup lines."""
    return driver.start(run, job.make({"name": run.name, **values}))


@pytest.fixture
def ending():
    pids: list[str] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.killpg(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)


def test_a_driver_is_known_by_the_runs_path_however_it_is_spelled(tmp_path, ending):
    run = Run(tmp_path / "my runs" / "it's 1")
    assert driver.find(run) is None
    ending.append(started(run, {"setup": ["exec sleep 60 # a comment with 'one quote"]}))
    # sleep has taken the shell's place, so this is not a driver any more
    wait_until(lambda: driver._command_line(ending[0]).startswith("sleep"), "the shell becomes sleep", 30)
    assert not driver.alive(run, ending[0])
    ending.append(started(run, {"setup": ["echo 'in the shell", "of the setup'", "sleep 60 # isn't over"]}))
    wait_until(lambda: driver.alive(run, ending[1]), "the shell has a command line", 30)
    (tmp_path / "link").symlink_to(tmp_path / "my runs")
    for spelled in (run, Run(tmp_path / "link" / "it's 1"), Run(tmp_path / "my runs" / ".." / "my runs" / "it's 1")):
        assert driver.alive(spelled, ending[1])
        assert driver.find(spelled) == ending[1]
    other = Run(tmp_path / "my runs" / "it's 10")
    assert driver.find(other) is None
    assert not driver.alive(run, str(os.getpid()))
    assert not driver.alive(run, "999999999")


def test_a_local_job_has_the_environment_that_it_would_have_on_slurm(tmp_path, ending, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/shell")
    monkeypatch.setenv("SLURM_CPU_BIND", "quiet")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    run, seen = Run(tmp_path / "a run"), tmp_path / "seen"
    # in the interpreter's place a program that writes its environment down
    program = tmp_path / "my python"
    program.write_text(f"#!/bin/bash\nenv -0 > {seen}.new\nmv {seen}.new {seen}\nexec sleep 60\n")
    program.chmod(0o755)
    ending.append(started(run, {"env": {"A": "two words", "PYTHONPATH": "/job"}, "python": str(program)}))
    wait_until(seen.exists, "the program has begun", 30)
    found = dict(pair.split("=", 1) for pair in seen.read_text().split("\0") if pair)
    assert found["PYTHONPATH"] == f"{run.code_dir}:{run.code_dir}/user:/job"
    assert (found["A"], found["CUDA_VISIBLE_DEVICES"]) == ("two words", "3")
    assert "SLURM_CPU_BIND" not in found


@pytest.mark.parametrize(("shell", "ranks", "seen"), [
    (None, 2, "0,1"), ("3,5,7", 2, "3,5"), ("5", 2, "5"), ("", 2, ""),
    ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6, GPU-1ab", 2, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,GPU-1ab"),
    ("MIG-b7e0/11/0,GPU-1ab", 1, "MIG-b7e0/11/0"), ("0,-1,1", 3, "0,-1,1")])
def test_a_local_job_sees_the_gpus_that_the_shell_names_in_its_words(tmp_path, monkeypatch, shell, ranks, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shell is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shell)
    run = Run(tmp_path / "run")
    given = job.make({"name": "run", "gpus": ranks})
    controller = launcher.local_executor(run, given, ranks).submit(print, "here")
    try:
        environ = Path(f"/proc/{controller.job_id}/environ")
        # until the controller is executed the process is a copy of this one
        wait_until(lambda: b"SUBMITIT_LOCAL_NTASKS" in environ.read_bytes(), "the controller starts", 30)
        found = dict(pair.split("=", 1) for pair in environ.read_text().split("\0") if pair)
        assert found["CUDA_VISIBLE_DEVICES"] == seen
    finally:
        controller._process.kill()
        controller._process.wait()


def test_a_local_job_on_cpus_sees_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    executor = launcher.local_executor(Run(tmp_path / "run"), job.make({"name": "run", "device": "cpu"}), 2)
    assert (executor.parameters["gpus_per_node"], executor.parameters["visible_gpus"]) == (0, [])


def test_a_failing_setup_line_ends_a_local_run_and_is_in_its_log(tmp_path):
    run = Run(tmp_path / "run")
    started(run, {"setup": ["echo no such module >&2", "false", "echo and on"], "python": "/bin/echo"})
    wait_until(lambda: run.local_log.stat().st_size and driver.find(run) is None, "it has ended", 30)
    assert run.local_log.read_text() == "no such module\n"
