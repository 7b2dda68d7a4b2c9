"""The batch shell's last words, and the next start's: an attempt that no task has closed is on record all the same."""

from __future__ import annotations

import json

import pytest
from answers import Answers

from ecm_cluster.attempts import causes, endings
from ecm_cluster.base import files
from ecm_cluster.job import job
from ecm_cluster.node.supervise import epilog, postmortem, requeue
from ecm_cluster.node.world import RankInfo
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import commands


def said(state: str, restarts: int = 0, reason: str = "None", requeue: int = 1) -> str:
    return (f"JobId=77 JobName=run JobState={state} Reason={reason} Requeue={requeue} Restarts={restarts} "
            "PreemptTime=None Partition=low \n")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Answers:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return Answers(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path / "run")
    made.attempts_dir.mkdir(parents=True)
    files.write_json(made.run_file, {"name": "run", "run_id": "ab", "cluster": "slurm",
                                     "job": job.make({"name": "run"}).as_dict()})
    return made


def began(run: Run, number: int, job_id: str = "77", restart: int = 0, where: str = "slurm") -> None:
    assert files.create_exclusive(run.attempt_file(number), json.dumps(
        {"number": number, "identity": f"{where}:{job_id}:{restart}:0", "job_id": job_id, "restart": restart,
         "cluster": where, "accepts": []}))


def found(run: Run, kind: str) -> list:
    return [e for e in run.events() if e.kind == kind]


def requeues(slurm: Answers) -> int:
    return slurm.calls().count("requeue 77")


def test_an_open_attempt_is_closed_with_what_srun_returned_and_the_job_runs_again(run, slurm):
    began(run, 1)
    slurm(scontrol=said("RUNNING"))
    assert epilog.main(str(run.path), "train", "137") == 0
    (end,) = found(run, "end")
    assert (end["cause"], end["code"], end["state"]) == ("killed", 137, "RUNNING")
    assert requeues(slurm) == 1
    assert [e["accepted"] for e in found(run, "requeue")] == [True]


@pytest.mark.parametrize(("code", "again"), [("0", 0), ("137", 1)])
def test_a_job_that_fails_when_its_work_is_done_runs_again_as_others_wait_for_it_to_end_well(run, slurm, code, again):
    began(run, 1)
    run.ledger(1, "task001").write("end", cause="killed", detail="rank 1: its task is gone", rank=1)
    files.write_json(run.complete_file(1), {"attempt": 1, "checkpoint": "iter_0000008-a0001.pth"})
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", code)
    assert requeues(slurm) == again


def test_what_a_task_has_recorded_is_not_recorded_again(run, slurm):
    began(run, 1)
    run.ledger(1, "task000").write("end", cause="crashed", detail="rank 0: ValueError", rank=0)
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "1")
    assert [e.writer for e in found(run, "end")] == ["task000"]
    assert requeues(slurm) == 1


def test_a_shell_that_is_ended_and_cannot_ask_slurm_leaves_the_attempt_to_the_next_start(run, slurm):
    began(run, 1)
    slurm(scontrol=None)
    epilog.main(str(run.path), "train", "none")
    assert found(run, "end") == []


def test_a_shell_whose_step_has_ended_asks_slurm_until_it_answers(run, slurm):
    began(run, 1)
    slurm(scontrol=None)
    answer = slurm.folder / "answer.txt"
    answer.write_text(said("RUNNING"))
    slurm.script("scontrol", f"""echo "$0 $*" >> {slurm.folder}/calls
[ -e {slurm.folder}/asked ] && exec cat {answer}
: > {slurm.folder}/asked
exit 1
""")
    epilog.main(str(run.path), "train", "137")
    assert requeues(slurm) == 1


@pytest.mark.parametrize(("restarts", "asked"), [(0, 2), (1, 1)])
def test_a_requeue_whose_answer_got_lost_is_asked_for_again_unless_it_has_been_done(run, slurm, restarts, asked):
    began(run, 1)
    slurm(scontrol=None)
    before, after = slurm.folder / "before.txt", slurm.folder / "after.txt"
    before.write_text(said("RUNNING"))
    after.write_text(said("COMPLETING" if restarts else "RUNNING", restarts))
    slurm.script("scontrol", f"""echo "$0 $*" >> {slurm.folder}/calls
case "$1" in
  requeue) [ -e {slurm.folder}/lost ] && exit 0; : > {slurm.folder}/lost; exit 1 ;;
esac
[ -e {slurm.folder}/lost ] && exec cat {after}
exec cat {before}
""")
    epilog.main(str(run.path), "train", "137")
    assert [e["accepted"] for e in found(run, "requeue")] == [True]
    assert requeues(slurm) == asked


def test_where_slurm_never_answers_that_is_on_record(run, slurm, monkeypatch):
    monkeypatch.setattr(epilog, "PATIENCE_SECONDS", 0.5)
    began(run, 1)
    slurm(scontrol=None)
    epilog.main(str(run.path), "train", "137")
    (stopped,) = found(run, "stopped")
    assert "Slurm did not answer" in stopped["detail"] and "ecm_cluster.resume" in stopped["next"]


@pytest.mark.parametrize(("before", "now", "cause"), [("", "srun: error: n1: task 0: Out Of Memory\n", "out of memory"),
                                                      ("srun: error: n1: task 0: Out Of Memory\n", "", "crashed")])
def test_only_what_this_start_of_the_job_has_printed_says_why_it_ended(run, slurm, before, now, cause):
    began(run, 1)
    run.submitit_dir.mkdir()
    (run.submitit_dir / "77_0_log.out").write_text(
        f"submitit INFO - Starting with JobEnvironment(job_id=77)\n{before}"
        f"submitit INFO - Starting with JobEnvironment(job_id=77)\n{now}")
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "1")
    assert [e["cause"] for e in found(run, "end")] == [cause]


@pytest.mark.parametrize("state", [said("COMPLETING"), said("COMPLETING", 1), said("PENDING", 1), said("RUNNING", 1)])
def test_a_job_that_is_being_ended_or_runs_again_already_is_left_alone(run, slurm, state):
    began(run, 1)
    slurm(scontrol=state)
    epilog.main(str(run.path), "train", "none")
    assert requeues(slurm) == 0
    assert len(found(run, "end")) == 1


def test_a_job_at_its_time_limit_runs_again_unless_the_run_is_cancelled(run, slurm):
    began(run, 1)
    slurm(scontrol=said("COMPLETING", reason="TimeLimit"))
    files.write_json(run.cancel_file, {"time": 1.0})
    epilog.main(str(run.path), "train", "none")
    assert requeues(slurm) == 0
    run.cancel_file.unlink()
    epilog.main(str(run.path), "train", "none")
    assert requeues(slurm) == 1


@pytest.mark.parametrize(("job_id", "restart"), [("76", 0), ("77", 1)])
def test_a_start_that_is_not_the_newest_attempts_decides_nothing(run, slurm, job_id, restart):
    began(run, 1)
    began(run, 2, job_id, restart)
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "137")
    assert requeues(slurm) == 0
    assert run.events() == []


def test_a_spent_budget_is_not_requeued(run, slurm):
    for number in (1, 2, 3):
        began(run, number)
        run.ledger(number, "task000").write("end", cause="killed", rank=0)
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "137")
    assert requeues(slurm) == 0


def test_where_requeue_and_submission_are_refused_the_line_to_type_is_on_record(run, slurm):
    began(run, 1)
    slurm.script("scontrol", f'case "$*" in requeue*) exit 1;; esac\necho "{said("RUNNING", requeue=0).strip()}"\n')
    slurm.script("sbatch", "echo 'sbatch: error: Access/permission denied' >&2\nexit 1\n")
    slurm(squeue="")
    epilog.main(str(run.path), "train", "137")
    (stopped,) = found(run, "stopped")
    assert stopped["next"] == f"python -m ecm_cluster.resume {run.path}"
    epilog.main(str(run.path), "train", "137")
    assert len(found(run, "requeue")) == 1


# ---------------------------------------------------------------------------------------------- starts that failed


def refused(run: Run, node: str, restart: int = 0, of_node: bool = True) -> None:
    run.ledger(run.newest_attempt(), f"start000.77.{restart}").write(
        "not-started", cause="not startable", node=node, rank=0, detail=f"{node}: no GPU is visible", of_node=of_node,
        start=f"slurm:77:{restart}", cluster="slurm", resumes=0)


def test_a_node_that_cannot_run_the_job_is_left_out_when_it_runs_again(run, slurm):
    refused(run, "n1")
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "1")
    assert [(e["node"], e["reason"]) for e in found(run, "left-out")] == [("n1", "n1: no GPU is visible")]
    calls = slurm.calls().splitlines()
    asked = [call.split("/")[-1] for call in calls if "requeue" in call or "update" in call]
    # in this order: Slurm changes the list of a job that waits only
    assert asked == ["scontrol requeue 77", "scontrol update JobId=77 ExcNodeList=n1"]
    assert [e["accepted"] for e in found(run, "requeue")] == [True]


def test_all_nodes_that_were_left_out_before_are_left_out_still(run, slurm, monkeypatch):
    slurm(scontrol=said("RUNNING"))
    refused(run, "n1")
    epilog.main(str(run.path), "train", "1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    slurm(scontrol=said("RUNNING", 1))
    refused(run, "n2", 1)
    epilog.main(str(run.path), "train", "1")
    assert "ExcNodeList=n1,n2" in slurm.calls()
    assert requeues(slurm) == 2


def test_what_no_node_can_run_ends_the_job(run, slurm):
    refused(run, "n1", of_node=False)
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "1")
    assert requeues(slurm) == 0
    assert found(run, "left-out") == []


def test_a_start_that_failed_after_a_requeued_attempt_runs_again(run, slurm, monkeypatch):
    """What followed the attempt before is not what followed this start."""
    began(run, 1)
    run.ledger(1, "task000").write("end", cause="preempted", rank=0)
    run.ledger(1, "task000").write("requeue", accepted=True, cause="preempted")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    refused(run, "n1", 1)
    slurm(scontrol=said("RUNNING", 1))
    epilog.main(str(run.path), "train", "1")
    assert requeues(slurm) == 1


def test_an_attempt_that_began_beside_a_rank_that_could_not_ends_for_that_reason(run, slurm):
    refused(run, "n1")
    began(run, 1)
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "137")
    (end,) = found(run, "end")
    assert (end["cause"], end["detail"]) == ("not startable", "n1: no GPU is visible")
    assert requeues(slurm) == 1


def test_a_node_whose_gpus_have_failed_twice_is_left_out(run, slurm):
    slurm(scontrol=said("RUNNING"))
    for number in (1, 2):
        began(run, number)
        run.ledger(number, "train000").write("end", cause="GPU failure", node="n1", rank=0, detail="CUDA error: ECC")
        epilog.main(str(run.path), "train", "1")
        assert ("ExcNodeList=n1" in slurm.calls()) == (number == 2)
    assert [e["node"] for e in found(run, "left-out")] == ["n1"]


# ---------------------------------------------------------------------------------------------- the next start


PLACE = RankInfo(rank=0, world_size=1, local_rank=0, node=0, nodes=1, job_id="77", restart=1, cluster="slurm")


@pytest.mark.parametrize(("states", "cause"), [
    ("NODE_FAIL", "node failure"), ("PREEMPTED", "preempted"), ("REQUEUED", "requeued"), (None, "requeued")])
def test_an_attempt_of_an_earlier_start_of_this_job_is_closed_from_accounting_or_as_requeued(run, slurm, states, cause):
    began(run, 1)
    rows = None if states is None else f"77|{states}|2024-01-01T00:00:00\n77|RUNNING|2024-01-01T00:05:00\n"
    slurm(sacct=rows, scontrol=said("RUNNING", 1))
    postmortem.close_open(run, PLACE)
    postmortem.close_open(run, PLACE)
    assert [e["cause"] for e in found(run, "end")] == [cause]


@pytest.mark.parametrize(("state", "cause"), [
    ("OUT_OF_MEMORY", "out of memory"), ("TIMEOUT", "time limit"), ("CANCELLED", "cancelled"), (None, "lost")])
def test_an_attempt_of_another_job_is_closed_as_slurm_remembers_that_job(run, slurm, state, cause):
    began(run, 1, "70")
    slurm(sacct=None, scontrol=said(state) if state else None)
    postmortem.close_open(run, PLACE)
    (end,) = found(run, "end")
    assert end["cause"] == cause
    assert end["detail"].startswith(causes.CAUSES[cause].text)


def test_the_starts_of_a_job_are_distinguished_by_their_time(slurm):
    slurm(sacct="77|RUNNING|2024-01-03T00:00:00\n77|PREEMPTED|2024-01-01T00:00:00\n77|NODE_FAIL|2024-01-02T00:00:00\n")
    assert commands.past_states("77") == ["PREEMPTED", "NODE_FAIL", "RUNNING"]


# ---------------------------------------------------------------------------------------------- starts without attempts


def started(run: Run, restart: int = 0, nodes: str = "n1", phase: str = "step", **end: object) -> None:
    """What a batch shell on n1 has recorded of a start, and that the job is the run's."""
    run.starts_dir.mkdir(exist_ok=True)
    files.write_json(_made(run.submission_file("train")), {"token": "t", "cluster": "slurm", "job_id": "77"})
    common = {"stage": "train", "host": "n1", "nodes": nodes}
    notes = [{"kind": "begin", **common}, {"kind": "end", "phase": phase, "code": 1, **common, **end}]
    (run.starts_dir / f"77.{restart}.json").write_text("".join(json.dumps(note) + "\n" for note in notes))


def _made(path):
    path.parent.mkdir(exist_ok=True)
    return path


def starts_of(run: Run) -> list:
    return [(e["cause"], e["of_node"]) for e in found(run, "not-started")]


def test_a_start_that_srun_could_not_make_is_tried_elsewhere_three_times_in_all(run, slurm, monkeypatch):
    run.submitit_dir.mkdir()
    (run.submitit_dir / "77_0_log.out").write_text("srun: error: task 0 launch failed: Slurmd could not launch\n")
    for restart in range(3):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        started(run, restart)
        slurm(scontrol=said("RUNNING", restart))
        epilog.main(str(run.path), "train", "1")
    assert starts_of(run) == [("start failed", True)] * 3
    assert requeues(slurm) == 2
    reason = endings.decide(run).reason
    assert "Slurmd could not launch" in reason and reason.endswith("3 starts in a row, so it is not tried again")


def test_of_several_nodes_srun_names_the_one_at_fault(run, slurm):
    run.submitit_dir.mkdir()
    (run.submitit_dir / "77_0_log.out").write_text("srun: error: n2: task 1: Exited with exit code 127\n")
    started(run, nodes="n[1-2]")
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "127")
    assert [(e["node"], e["of_node"]) for e in found(run, "not-started")] == [("n2", True)]
    assert [e["node"] for e in found(run, "left-out")] == ["n2"]


def test_where_no_one_node_is_known_to_be_at_fault_none_is_left_out(run, slurm):
    started(run, nodes="n[1-2]")
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "1")
    assert starts_of(run) == [("start failed", False)]
    assert requeues(slurm) == 1 and not found(run, "left-out")


def test_a_setup_line_that_fails_is_tried_on_one_more_node(run, slurm, monkeypatch):
    for restart in range(2):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        started(run, restart, phase="setup", code=5)
        slurm(scontrol=said("RUNNING", restart))
        epilog.main(str(run.path), "train", "none")
    assert starts_of(run) == [("setup failed", True)] * 2
    assert requeues(slurm) == 1


@pytest.mark.parametrize(("answer", "cause", "again"), [
    (said("COMPLETING", 1), "requeued", 0), (said("COMPLETING"), "cancelled", 0),
    (said("COMPLETING", reason="NodeDown"), "node failure", 1),
    (said("NODE_FAIL", reason="NodeDown"), "node failure", 1),
    (said("CANCELLED"), "cancelled", 0), (said("PREEMPTED"), "preempted", 1),
    (said("COMPLETING").replace("PreemptTime=None", "PreemptTime=2024-05-03T11:20:31"), "preempted", 1)])
def test_a_start_that_others_ended_is_theirs_however_often(run, slurm, answer, cause, again):
    for _ in range(5):
        started(run)
        slurm(scontrol=answer)
        epilog.main(str(run.path), "train", "143")
    assert starts_of(run)[0] == (cause, False)
    assert endings.decide(run).action == causes.CAUSES[cause].action
    assert min(requeues(slurm), 1) == again


@pytest.mark.slow
def test_a_start_of_a_job_that_is_not_a_longer_the_runs_decides_nothing(run, slurm):
    started(run)
    files.write_json(run.submission_file("train"), {"token": "u", "cluster": "slurm", "job_id": "78"})
    slurm(scontrol=said("RUNNING"))
    epilog.main(str(run.path), "train", "1")
    assert not run.events() and not requeues(slurm)


def test_the_next_start_puts_on_record_which_nodes_could_record_nothing(run, slurm):
    started(run, 2)
    slurm(scontrol=said("RUNNING", 2).rstrip() + " ExcNodeList=n3,n4 \n")
    answers = f'case "$*" in *hostnames*) echo n3; echo n4;; *) cat {slurm.folder}/scontrol.txt;; esac\n'
    slurm.script("scontrol", answers)
    for _ in range(2):
        epilog.settle(run, run, "77", 2)
    events = found(run, "not-started")
    assert [(e["start"], e["cause"], e["node"]) for e in events] == [
        ("slurm:77:0", "start failed", "n3"), ("slurm:77:1", "start failed", "n4")]
    assert all(f"does not see {run.path}" in e["detail"] for e in events)
    assert [e["node"] for e in found(run, "left-out")] == ["n3", "n4"]


def test_a_job_whose_script_records_no_starts_has_none_missing(run, slurm):
    slurm(scontrol=said("RUNNING", 2))
    epilog.settle(run, run, "77", 2)
    assert not run.events()


# ---------------------------------------------------------------------------------------------- on another node


def elsewhere(local_rank: int = 0, node: int = 1) -> RankInfo:
    return RankInfo(rank=2, world_size=4, local_rank=local_rank, node=node, nodes=2, job_id="77", restart=0,
                 cluster="slurm")


@pytest.mark.parametrize(("reason", "cause"), [("NodeDown", "node failure"), ("RaisedSignal:9(Killed)", "killed")])
def test_where_the_first_node_is_gone_a_task_of_another_one_does_its_last_work_once(run, slurm, reason, cause):
    began(run, 1)
    run.ledger(1, "train003").write("end", cause="crashed", rank=3, follows=True)
    postmortem.abort(run, 1, run.ledger(1, "task003"), rank=3, code=1)
    slurm(scontrol=said("COMPLETING", reason=reason))
    assert requeue.stand_in(run, run, 1, elsewhere(), run.ledger(1, "task002"), "train")
    assert not requeue.stand_in(run, run, 1, elsewhere(), run.ledger(1, "task002"), "train")
    assert requeues(slurm) == 1
    assert endings.last_end(run.events(), 1)["cause"] == cause


def test_a_rank_that_failed_with_another_node_stays_until_slurm_knows_of_that_node(run, slurm, monkeypatch):
    began(run, 1)
    slurm(scontrol=said("RUNNING"))
    monkeypatch.setattr(requeue.time, "sleep", lambda _: slurm(scontrol=said("COMPLETING", reason="NodeDown")))
    requeue.outlive(run, run, 1, elsewhere(), run.ledger(1, "task002"), "train")
    assert requeues(slurm) == 1
    assert endings.last_end(run.events(), 1)["cause"] == "node failure"


def test_it_does_not_stay_where_another_rank_has_said_why_the_attempt_ends(run, slurm):
    began(run, 1)
    slurm(scontrol=said("RUNNING"))
    postmortem.abort(run, 1, run.ledger(1, "task000"), rank=0, code=1)
    requeue.outlive(run, run, 1, elsewhere(), run.ledger(1, "task002"), "train")
    assert slurm.calls() == ""


@pytest.mark.parametrize(("answer", "place"), [
    (said("RUNNING"), elsewhere()), (said("COMPLETING", 1), elsewhere()), (said("COMPLETING"), elsewhere()),
    (said("COMPLETING", reason="NodeDown"), elsewhere(local_rank=1)),
    (said("COMPLETING", reason="NodeDown"), elsewhere(node=0))])
def test_no_other_task_does_that_and_for_no_other_end(run, slurm, answer, place):
    began(run, 1)
    slurm(scontrol=answer)
    assert not requeue.stand_in(run, run, 1, place, run.ledger(1, "task002"), "train")
    assert not requeues(slurm) and not found(run, "end")
