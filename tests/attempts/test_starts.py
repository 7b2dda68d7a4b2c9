"""A start that could not work, and the nodes that a run leaves out after it: where else, how often, until when."""

from __future__ import annotations

import json

import pytest

from ecm_cluster import resume
from ecm_cluster.attempts import endings, starts
from ecm_cluster.backends import base
from ecm_cluster.base import files
from ecm_cluster.chain import chain
from ecm_cluster.job import job
from ecm_cluster.reporting import state
from ecm_cluster.rundir.run import Run


@pytest.fixture
def run(tmp_path) -> Run:
    made = Run(tmp_path / "run")
    made.attempts_dir.mkdir(parents=True)
    files.write_json(made.run_file, {"name": "run", "cluster": "slurm",
                                     "job": job.make({"name": "run", "exclude": "n[8-9]"}).as_dict()})
    return made


def refused(run: Run, node: str, restart: int, of_node: bool = True, cluster: str = "slurm", rank: int = 0) -> None:
    resumes = starts.resumes_of(run.events())
    run.ledger(run.newest_attempt(), f"start{rank:03d}.77.{restart}").write(
        "not-started", cause="not startable", node=node, rank=rank, detail=f"{node}: no GPU is visible",
        of_node=of_node, start=f"{cluster}:77:{restart}", cluster=cluster, resumes=resumes)


def attempt(run: Run, number: int, restart: int = 0, **end: object) -> None:
    assert files.create_exclusive(run.attempt_file(number), json.dumps(
        {"number": number, "identity": f"slurm:77:{restart}:0", "accepts": []}))
    if end:
        run.ledger(number, "train000").write("end", **end)


def test_a_start_that_a_node_could_not_make_is_made_on_other_nodes_so_many_times(run):
    for restart in range(starts.NODE_LIMIT):
        refused(run, f"n{restart}", restart)
        assert endings.decide(run) == endings.Decision("continue", f"not startable: n{restart}: no GPU is visible")
    refused(run, "n7", 7)
    assert endings.decide(run) == endings.Decision(
        "stop", "not startable: n7: no GPU is visible; it could not start on 4 nodes, so no other is tried")


def test_the_same_node_again_counts_once(run):
    for restart in range(8):
        refused(run, "n1", restart)
        assert endings.decide(run).action == "continue"


@pytest.mark.parametrize(("of_node", "cluster"), [(False, "slurm"), (True, "local")])
def test_what_no_other_node_would_repair_stops_the_run_at_once(run, of_node, cluster):
    refused(run, "n1", 0, of_node, cluster)
    assert endings.decide(run) == endings.Decision("stop", "not startable: n1: no GPU is visible")


def test_a_start_that_another_one_has_followed_counts_no_more(run):
    refused(run, "n1", 0, of_node=False)
    attempt(run, 1, 1, cause="preempted")
    assert endings.decide(run).action == "continue"


def test_a_rank_that_cannot_start_is_why_the_attempt_ended_that_rank_0_had_taken(run):
    refused(run, "n1", 2, of_node=False, rank=3)
    attempt(run, 1, 2, cause="killed", detail="rank 0 on n1: killed by SIGKILL")
    assert endings.decide(run) == endings.Decision("stop", "not startable: n1: no GPU is visible")


def test_resuming_gives_all_nodes_another_chance(run):
    for restart in range(4):
        refused(run, f"n{restart}", restart)
        run.ledger(0, f"batch.77.{restart}").write("left-out", node=f"n{restart}", reason="x", resumes=0)
    assert endings.decide(run).action == "stop"
    assert chain.excluded(run, run.job()) == "n[8-9],n0,n1,n2,n3"
    run.ledger(0, "resume").write("resumed", stages=["train"])
    assert chain.excluded(run, run.job()) == "n[8-9]"
    refused(run, "n0", 5)
    assert endings.decide(run).action == "continue"


def test_what_a_run_leaves_out_is_asked_for_in_each_of_its_jobs(run):
    assert chain.request(run, run.job(), chain.TRAIN, "token").job.exclude == "n[8-9]"
    run.ledger(0, "batch.77.0").write("left-out", node="n1", reason="x", resumes=0)
    assert chain.request(run, run.job(), chain.TRAIN, "token").job.exclude == "n[8-9],n1"


def test_a_resume_asks_for_the_nodes_again_in_its_dry_run_as_in_its_jobs(run):
    run.ledger(0, "batch.77.0").write("left-out", node="n1", reason="x", resumes=0)
    plan = resume.ResumePlan([chain.TRAIN], run.job(), run.overrides())
    assert [asked.job.exclude for asked in resume.requests(run, plan)] == ["n[8-9]"]


def test_status_says_what_kept_the_run_from_starting(run):
    refused(run, "n1", 0, of_node=False)
    assert starts.failed(run, run.events())["detail"] == "n1: no GPU is visible"
    found = state.RunState("run", str(run.path), "", "")
    state._unfinished(run, found, base.Life(False, "job 77 failed"), None)
    assert (found.state, found.reason) == ("failed", "not startable: n1: no GPU is visible")
    assert found.next == chain.resume_line(run), "there is no log to read"


# ---------------------------------------------------------------------------------------------- GPUs that fail


def gpu_failure(run: Run, number: int, node: str, text: str = "ECC", iteration: int | None = None) -> None:
    attempt(run, number, number, cause="GPU failure", node=node, detail=f"rank 0: CUDA error: {text}",
            iteration=number if iteration is None else iteration, traceback=f"CUDA error: {text}")


def test_a_node_whose_gpus_fail_twice_is_left_out(run):
    gpu_failure(run, 1, "n1")
    assert starts.nodes_at_fault(run.events(), "slurm:77:1") == {}
    gpu_failure(run, 2, "n2")
    assert starts.nodes_at_fault(run.events(), "slurm:77:2") == {}
    gpu_failure(run, 3, "n1")
    assert endings.no_progress(run) is None, "GPU failures are not the run's failures"
    assert starts.nodes_at_fault(run.events(), "slurm:77:3") == {"n1": "its GPUs failed 2 times"}
    assert endings.decide(run).action == "continue"


def test_several_ranks_of_an_attempt_are_one_failure_of_their_node(run):
    gpu_failure(run, 1, "n1")
    run.ledger(1, "train001").write("end", cause="GPU failure", node="n1", rank=1)
    assert starts.nodes_at_fault(run.events(), "slurm:77:1") == {}


def test_an_error_of_cuda_that_follows_the_program_to_another_node_is_the_programs(run):
    gpu_failure(run, 1, "n1", "an illegal memory access was encountered at 0x7f12", iteration=7)
    assert endings.decide(run).action == "continue"
    gpu_failure(run, 2, "n2", "an illegal memory access was encountered at 0x7a99", iteration=7)
    decision = endings.decide(run)
    assert decision.action == "stop"
    assert decision.reason.endswith("the same error on two nodes at iteration 7, so it is the program's, and it is not "
                                    "tried again")


def test_a_run_stops_where_gpus_fail_wherever_it_goes(run):
    for number in range(1, 8):
        if number > 1:
            run.ledger(number - 1, "train000").write("commit", checkpoint="x")
        gpu_failure(run, number, f"n{number}")
        assert endings.decide(run).action == "continue", "each came after progress"
