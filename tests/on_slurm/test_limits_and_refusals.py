"""Where Slurm withdraws or refuses what a run needs, on a real Slurm through the real command line: time, memory,
a requeue, its own commands, its memory of how a job ended."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_harness import SlurmCluster, can_limit_memory
from slurm_harness.endings import SHORT, began, ends, job_file, preempt, submit, train_job, trained
from small import await_state, hook, job_flags, logs_of, state_of, verb, wait_until, with_code

from ecm_cluster.chain import evaluations
from ecm_cluster.rundir.run import Run

SLURM_COMMANDS = ("scontrol", "squeue", "sacct", "sbatch", "scancel", "sinfo")


# ---------------------------------------------------------------------------------------------- time


# in two starts, no step ends before Slurm warns
UNTIL_WARNED = """
        from ecm_cluster.node import signals
        while runner.iter < 2 and not signals.asked_to_stop():
            time.sleep(0.1)"""


def test_a_run_longer_than_its_time_limit_takes_as_many_starts_as_it_needs_and_is_then_scored(
    slurm, small_data, tmp_path
):
    run, job_id = submit(slurm, small_data, tmp_path, "long", *with_code(tmp_path, hook(UNTIL_WARNED)),
                         "--time", 2, runner__max_epochs=1, data__samples_per_gpu=12)
    script = (run.submitit_dir / f"{job_id}_submission.sh").read_text()
    assert "--signal=USR2@60" in script, "the warning must not come before half of the time is over"
    found = await_state(run, "done", env=slurm.env, seconds=600)
    assert found["reason"] == "trained and scored"
    assert run.newest_attempt() >= 3, "three steps in less than three starts"
    for attempt in range(1, run.newest_attempt()):
        assert ends(run, attempt)[0] == "time limit"
        assert run.read_attempt(attempt + 1)["from"] is not None, "no state of a start was kept"
    # on a busy machine the limit may pass in the last step, and one more start finds the work done
    assert int(slurm.job(job_id)["Restarts"]) - (run.newest_attempt() - 1) in (0, 1)


# ---------------------------------------------------------------------------------------------- a requeue


def test_where_slurm_refuses_to_requeue_a_successor_continues_and_the_evaluation_waits_for_it(
    slurm, small_data, tmp_path
):
    run, first = submit(slurm, small_data, tmp_path, "refused")
    evaluation = run.submissions()[1].job_id
    slurm.run("scontrol", "update", f"JobId={first}", "Requeue=0")  # as sbatch --no-requeue
    trained(run, 1, 2)
    preempt(slurm, first)
    second = wait_until(lambda: train_job(run) not in (first, "") and train_job(run), "a successor is submitted")
    assert slurm.job(evaluation)["Dependency"].startswith(f"afterok:{second}")
    await_state(run, "evaluating", env=slurm.env)
    work = wait_until(lambda: evaluations.of_element(run, evaluations.Element(evaluations.LAST, {})), "it is complete")
    wait_until(lambda: work.heartbeat(1), "the evaluation begins", look=lambda: logs_of(run))
    slurm.run("scontrol", "update", f"JobId={evaluation}", "Requeue=0")
    preempt(slurm, evaluation)
    third = wait_until(lambda: run.submission("sweep001").get("job_id"), "an evaluation takes its place")
    found = await_state(run, "done", env=slurm.env)
    assert found["reason"] == "trained and scored"
    assert slurm.wait_for(third)["JobState"] == "COMPLETED" and slurm.job(evaluation)["Restarts"] == "0"
    assert ends(run, 1) == ["preempted"]
    assert (run.read_attempt(2)["job_id"], run.newest_attempt()) == (second, 2)
    assert run.read_attempt(2)["from"] is not None
    assert slurm.job(first)["Restarts"] == "0"


def test_a_user_signal_at_a_preemption_is_answered_at_once_no_matter_what_submitit_has_left_behind(
    make_slurm, small_data, tmp_path
):
    slurm = make_slurm(nodes=1, preempt_params="preempt_send_user_signal")
    run, job_id = submit(slurm, small_data, tmp_path, "user-signal", "--no-eval")
    # what a kill leaves while submitit writes its pickle: its own answer to the signal dies of it
    (run.submitit_dir / f"{job_id}_submitted.pkl.save_tmp").write_bytes(b"half")
    trained(run, 1, 2)
    preempt(slurm, job_id)
    await_state(run, "done", env=slurm.env)
    (end,) = [e for e in run.events() if e.kind == "end" and e.attempt == 1]
    assert end["cause"] == "preempted" and "SIGUSR2 received" in end["detail"]
    assert [e["accepted"] for e in run.events() if e.kind == "requeue"] == [True]
    assert run.read_attempt(2)["from"] is not None
    assert run.newest_attempt() == 2


# ---------------------------------------------------------------------------------------------- its commands


@pytest.fixture(scope="module")
def without_scontrol(
    slurm: SlurmCluster, small_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Run, str]]]:
    """Two runs, in partitions of two kinds, on nodes that have no command of Slurm's but srun; both preempted."""
    folder = tmp_path_factory.mktemp("bare")
    commands = folder / "commands"
    commands.mkdir()
    for program in [*Path("/bin").iterdir(), *Path("/usr/bin").iterdir()]:
        if program.name not in SLURM_COMMANDS and not (commands / program.name).is_symlink():
            (commands / program.name).symlink_to(program)
    job = job_file(folder, f"env: {{PATH: {commands}}}", "slurm: {nodelist: n1}")
    runs = {name: submit(slurm, small_data, folder, name, "--no-eval", "--partition", name, job=job)
            for name in ("low", "lowc")}
    for run, _ in runs.values():
        trained(run, 1, 2)
    preempt(slurm, runs["low"][1])
    yield runs


def test_without_scontrol_on_the_node_a_preempted_run_stays_until_slurm_brings_it_back(slurm, without_scontrol):
    run, job_id = without_scontrol["low"]
    await_state(run, "done", env=slurm.env)
    assert ends(run, 1) == ["requeued"]
    assert run.read_attempt(2)["from"] is not None
    assert slurm.job(job_id)["Restarts"] == "1"


def test_without_scontrol_a_run_that_slurm_will_not_bring_back_says_what_to_type_and_that_works(
    slurm, without_scontrol
):
    run, job_id = without_scontrol["lowc"]
    assert slurm.wait_for(job_id)["JobState"] == "PREEMPTED"
    found = state_of(run, slurm.env)
    assert found["state"] == "stopped"
    assert found["reason"].startswith(f"Slurm preempted the job: job {job_id} preempted")
    python, *words = shlex.split(found["next"])
    assert (python, words[0]) == ("python", "-m")
    verb(words[1].replace("ecm_cluster.", ""), *words[2:], env=slurm.env)
    await_state(run, "done", env=slurm.env)
    assert run.read_attempt(2)["from"] is not None


# ---------------------------------------------------------------------------------------------- memory


def test_a_run_that_never_fits_into_its_memory_is_tried_twice_and_says_so(make_slurm, small_data, tmp_path):
    # Slurm itself looks at the memory of each step and kills it: supervisor, worker and all
    slurm = make_slurm(nodes=1, extra="JobAcctGatherType=jobacct_gather/linux\nJobAcctGatherFrequency=task=1\n"
                                      "JobAcctGatherParams=OverMemoryKill")
    run, job_id = submit(slurm, small_data, tmp_path, "too-large", "--mem-per-gpu", "200M")
    found = await_state(run, "failed", env=slurm.env)
    assert [ends(run, attempt) for attempt in run.attempts()] == [["out of memory"]] * 2
    assert "out of memory 2 times since the last new checkpoint" in found["reason"]
    assert slurm.wait_for(run.submissions()[1].job_id)["JobState"] == "CANCELLED"


if can_limit_memory():

    def test_a_rank_that_the_kernel_kills_for_its_memory_is_reported_from_others_and_the_run_continues(
        make_slurm, small_data, tmp_path
    ):
        slurm = make_slurm(nodes=1, memory_limits=True, prefix=f"m{Path('/proc/self').resolve().name}x")
        once = tmp_path / "once"
        greedy = with_code(tmp_path, hook(f"if runner.iter == 3 and not os.path.exists({str(once)!r}): "
                                          f"open({str(once)!r}, 'w'), bytearray(2 << 30)"))
        run, _ = submit(slurm, small_data, tmp_path, "greedy", *greedy, "--no-eval", "--mem-per-gpu", "1500M",
                        "--checkpoint-every", 1)
        await_state(run, "done", env=slurm.env)
        (end,) = [e for e in run.events() if e.kind == "end" and e.attempt == 1]
        assert end["cause"] == "out of memory" and "--mem-per-gpu" in end["detail"]
        assert run.read_attempt(2)["from"] is not None


# ---------------------------------------------------------------------------------------------- how a job ended


def cut_power(slurm: SlurmCluster, job_id: str) -> str:
    """A node dies with all that ran on it, and Slurm notices at once."""
    node = slurm.job(job_id)["NodeList"]
    slurm.kill_node(node)
    slurm.node_down(node)
    return node


@pytest.mark.parametrize("accounting", [False, True])
def test_an_attempt_whose_end_nobody_could_record_is_closed_by_the_next_start(
    request, small_data, tmp_path, accounting
):
    slurm = request.getfixturevalue("slurm_dbd" if accounting else "slurm")
    run, job_id = submit(slurm, small_data, tmp_path, "power-cut", "--no-eval")
    began(run, 1)
    node = cut_power(slurm, job_id)
    # Slurm may have started it again by the time that it is asked
    assert state_of(run, slurm.env)["state"] in ("waiting", "running")
    began(run, 2)
    (end,) = [e for e in run.events() if e.kind == "end" and e.attempt == 1]
    assert end["found_by"] == f"slurm:{job_id}:1"
    if accounting:
        assert end["cause"] == "node failure" and "accounting says NODE_FAIL" in end["detail"]
    else:
        assert end["cause"] == "requeued" and "Slurm restarted the job" in end["detail"]
    slurm.start_node(node)
    verb("cancel", run.path, env=slurm.env)


def test_an_attempt_that_ended_for_good_without_a_record_is_reported_in_slurms_and_closed_when_it_is_resumed(
    slurm, small_data, tmp_path
):
    run, job_id = submit(slurm, small_data, tmp_path, "gone", "--no-eval")
    slurm.run("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    began(run, 1)
    node = cut_power(slurm, job_id)
    assert slurm.wait_for(job_id)["JobState"] == "NODE_FAIL"
    found = state_of(run, slurm.env)
    assert found["state"] == "stopped" and found["reason"].startswith(f"a node failed: job {job_id} node_fail")
    verb("resume", run.path, env=slurm.env)
    began(run, 2)
    (end,) = [e for e in run.events() if e.kind == "end" and e.attempt == 1]
    assert end["cause"] == "node failure" and f"Slurm says NODE_FAIL of job {job_id}" in end["detail"]
    slurm.start_node(node)
    verb("cancel", run.path, env=slurm.env)


# ---------------------------------------------------------------------------------------------- what a plan warns of


def test_a_grace_too_short_for_the_measured_commit_is_warned_of_before_anything_is_submitted(
    slurm, without_scontrol
):
    run, _ = without_scontrol["low"]
    await_state(run, "done", env=slurm.env)

    def warnings(partition: str) -> list[str]:
        data = run.spec.job.data_root
        flags = job_flags(Path(data), run.path.parent, "planned", **SHORT)
        said = verb("submit", *flags, "--partition", partition, "--dry-run", env=slurm.env)
        return [line for line in (said.stdout + said.stderr).splitlines() if "a preempted job of" in line]

    (warning,) = warnings("lown")
    assert "has 0 s" in warning and "measured in low" in warning
    assert warnings("high") == []
