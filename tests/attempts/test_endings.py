"""Why a signal came, what follows an end, and within which budget."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from steering import SCORED

from ecm_cluster.attempts import causes, endings, slurm_ends
from ecm_cluster.base import files
from ecm_cluster.rundir.run import Run
from ecm_cluster.slurm import commands, site

SET, UNSET = "2024-05-03T11:20:31", "None"


def answer(state: str, restarts: int = 0, reason: str = "None", preempt: str | None = UNSET,
           ended: str | None = None) -> dict[str, str]:
    """The fields of ``scontrol show job`` that matter, spelled as Slurm 22.05 prints them."""
    fields = {"JobId": "7", "JobState": state, "Reason": reason, "Restarts": str(restarts), "Requeue": "1",
              "PreemptEligibleTime": "2024-05-03T11:17:02", "PreemptTime": preempt, "EndTime": ended}
    return {k: v for k, v in fields.items() if v is not None}


# each row of the table of what the first answer after a signal means; R0 = 0 unless said otherwise
ROWS = [
    # RUNNING, PreemptTime set: in its grace period, regardless of anything else
    ("preempted", answer("RUNNING", preempt=SET), 0, 7200.0),
    ("preempted", answer("RUNNING", preempt=SET), 0, 20.0),
    ("preempted", answer("RUNNING", 3, preempt=SET), 3, None),
    # RUNNING near EndTime: the user signal before the time limit, which may come 60 s early
    ("time limit", answer("RUNNING"), 0, 119.0),
    ("time limit", answer("RUNNING"), 0, 180.0),
    ("time limit", answer("RUNNING"), 0, -25.0),
    ("time limit", answer("RUNNING", 2, preempt=None), 2, 60.0),
    # RUNNING otherwise: a user's signal
    ("signalled", answer("RUNNING"), 0, 181.0),
    ("signalled", answer("RUNNING", preempt=None), 0, 7200.0),
    ("signalled", answer("RUNNING"), 0, None),
    ("signalled", answer("RUNNING", 1), 1, 7200.0),
    # requeued already: the counter has gone up
    ("requeued", answer("COMPLETING", 1), 0, 7200.0),
    ("requeued", answer("PENDING", 1, "BeginTime", preempt=None), 0, None),
    ("requeued", answer("COMPLETING", 1, preempt=SET), 0, 7200.0),
    ("requeued", answer("COMPLETING", 4, "TimeLimit"), 3, None),
    ("requeued", answer("PENDING", 3, "NodeDown"), 2, None),
    # COMPLETING for the time limit
    ("time limit", answer("COMPLETING", reason="TimeLimit"), 0, -31.0),
    ("time limit", answer("COMPLETING", 2, "TimeLimit", preempt=None), 2, None),
    # COMPLETING: each end leaves its reason or the time of its preemption, a scancel neither
    ("cancelled", answer("COMPLETING"), 0, 7200.0),
    ("cancelled", answer("COMPLETING", preempt=None), 0, 30.0),
    ("cancelled", answer("COMPLETING", 2), 2, None),
    ("preempted", answer("COMPLETING", preempt=SET), 0, 7200.0),
    ("preempted", answer("COMPLETING", preempt=SET, ended="2024-05-03T11:20:32"), 0, 7200.0),
    ("cancelled", answer("COMPLETING", preempt=SET, ended="2024-05-03T11:20:39"), 0, 7200.0),  # in its grace
    ("node failure", answer("COMPLETING", reason="NodeDown"), 0, 7200.0),
    ("deadline", answer("COMPLETING", reason="DeadLine"), 0, 7200.0),
    ("out of memory", answer("COMPLETING", reason="OutOfMemory"), 0, 7200.0),
    ("killed", answer("COMPLETING", reason="RaisedSignal:9(Killed)"), 0, 7200.0),
    ("ended by Slurm", answer("COMPLETING", reason="SystemFailure"), 0, 7200.0),
    ("ended by Slurm", answer("COMPLETING", reason=""), 0, 7200.0),
    # ended: a rank that asks late, or a task that outlived its job on a node that Slurm took for dead
    ("cancelled", answer("CANCELLED"), 0, None),
    ("cancelled", answer("CANCELLED", 1), 0, None),
    ("preempted", answer("PREEMPTED", preempt=SET), 0, None),
    ("node failure", answer("NODE_FAIL", reason="NodeDown"), 0, None),
    ("node failure", answer("BOOT_FAIL"), 0, None),
    ("time limit", answer("TIMEOUT"), 0, None),
    ("out of memory", answer("OUT_OF_MEMORY"), 0, None),
    ("deadline", answer("DEADLINE"), 0, None),
    ("ended by Slurm", answer("A_STATE_OF_A_LATER_SLURM"), 0, None),
    # held or suspended, it lives
    ("requeued", answer("REQUEUE_HOLD", 1), 0, None),
    ("requeued", answer("SPECIAL_EXIT", 1), 0, None),
    ("requeued", answer("RESV_DEL_HOLD"), 0, None),
    ("signalled", answer("SUSPENDED"), 0, None),
    ("signalled", answer("STOPPED"), 0, 7200.0),
    # no answer
    ("unknown", None, 0, None),
    ("unknown", {}, 0, None),
]


@pytest.mark.parametrize(("cause", "reported", "restarts", "remaining"), ROWS)
def test_each_answer_of_slurm_has_one_meaning(cause, reported, restarts, remaining):
    assert slurm_ends.why_signalled(reported, restarts, lead=120, remaining=remaining) == cause


def test_the_next_start_of_a_requeued_job_does_not_count_as_this_ones():
    """An old attempt on a node that Slurm took for dead asks while its successor runs."""
    assert slurm_ends.why_signalled(answer("RUNNING", 1), 0, 120, 7200.0) == "requeued"


def test_the_time_limit_is_reported_from_the_lead_that_the_job_asked_for():
    assert slurm_ends.why_signalled(answer("RUNNING"), 0, lead=600, remaining=590) == "time limit"
    assert slurm_ends.why_signalled(answer("RUNNING"), 0, lead=60, remaining=590) == "signalled"


def test_only_what_is_meant_to_continue_is_ever_requeued():
    for cause, reported, restarts, remaining in ROWS:
        if cause in ("cancelled", "deadline", "ended by Slurm"):
            assert causes.CAUSES[cause].action == "stop", (reported, restarts, remaining)


# ---------------------------------------------------------------------------------------------- decisions


def attempt(run: Run, number: int, *events: tuple[str, dict]) -> None:
    run.attempts_dir.mkdir(parents=True, exist_ok=True)
    assert files.create_exclusive(run.attempt_file(number), json.dumps({"number": number, "accepts": []}))
    ledger = run.ledger(number, "task000")
    ledger.write("start", rank=0)
    for kind, fields in events:
        ledger.write(kind, **fields)


@pytest.mark.parametrize(("cause", "action"), [
    ("complete", "done"), ("preempted", "continue"), ("time limit", "continue"), ("signalled", "continue"),
    ("requeued", "wait"), ("node failure", "continue"),
    ("ended by Slurm", "stop"), ("deadline", "stop"), ("cancelled", "stop"), ("crashed", "continue"),
    ("killed", "continue"), ("out of memory", "continue"), ("hung", "continue"), ("lost", "continue"),
    ("not startable", "stop")])
def test_what_follows_each_kind_of_end(tmp_path, cause, action):
    run = Run(tmp_path)
    attempt(run, 1, ("commit", {"checkpoint": "x"}), ("end", {"cause": cause, "detail": "what was seen"}))
    decision = endings.decide(run)
    assert decision.action == action
    if cause != "complete":
        assert decision.reason == "what was seen"


def test_an_end_without_words_says_the_causes_own(tmp_path):
    attempt(Run(tmp_path), 1, ("end", {"cause": "preempted"}))
    assert endings.decide(Run(tmp_path)).reason == causes.CAUSES["preempted"].text


def test_every_ending_has_an_action_that_someone_carries_out():
    assert {e.action for e in causes.CAUSES.values()} <= {"none", "continue", "wait", "stop"}


def test_an_attempt_that_ended_without_a_record_is_followed_by_another(tmp_path):
    attempt(Run(tmp_path), 1, ("commit", {"checkpoint": "x"}))
    decision = endings.decide(Run(tmp_path))
    assert (decision.action, decision.reason) == ("continue", causes.CAUSES["lost"].text)


@pytest.mark.parametrize(("cause", "budget"), [("crashed", 2), ("killed", 2), ("hung", 2), ("out of memory", 1)])
def test_each_kind_of_failure_has_its_own_budget_since_the_last_checkpoint(tmp_path, cause, budget):
    run = Run(tmp_path)
    attempt(run, 1, ("commit", {}), ("end", {"cause": "preempted"}))
    for number in range(2, 2 + budget):
        attempt(run, number, ("commit", {}) if number == 2 else ("start", {}), ("end", {"cause": cause, "detail": "x"}))
        assert endings.decide(run).action == "continue", number
    attempt(run, 2 + budget, ("end", {"cause": cause, "detail": "x"}))
    decision = endings.decide(run)
    assert decision.action == "stop"
    assert decision.reason == f"x; {cause} {budget + 1} times since the last new checkpoint, so it is not tried again"


def test_failures_that_each_came_after_progress_are_not_counted_together(tmp_path):
    run = Run(tmp_path)
    for number in range(1, 9):
        attempt(run, number, ("commit", {}), ("end", {"cause": "crashed", "iteration": number, "traceback": "same"}))
        assert endings.decide(run).action == "continue", number


def test_preemptions_do_not_use_up_the_budget_of_crashes(tmp_path):
    run = Run(tmp_path)
    for number, cause in enumerate(["crashed", "preempted"], 1):
        attempt(run, number, ("end", {"cause": cause, "traceback": str(number)}))
    attempt(run, 3, ("commit", {}), ("end", {"cause": "crashed", "traceback": "3"}))
    assert endings.decide(run).action == "continue"


def test_the_same_error_twice_at_the_same_iteration_stops_at_once(tmp_path):
    run = Run(tmp_path)
    for number, address in enumerate(["0x7f12", "0x9a44"], 1):
        attempt(run, number, ("end", {"cause": "crashed", "iteration": 7, "detail": "ValueError",
                                      "traceback": f"ValueError: <object at {address}>"}))
    assert endings.decide(run).reason == "ValueError; the same error twice at iteration 7, so it is not tried again"
    assert endings.decide(run).action == "stop"


@pytest.mark.parametrize("other", [{"iteration": 8, "traceback": "a"}, {"iteration": 7, "traceback": "b"}])
def test_another_error_or_the_same_elsewhere_is_tried_again(tmp_path, other):
    run = Run(tmp_path)
    attempt(run, 1, ("end", {"cause": "crashed", "iteration": 7, "traceback": "a"}))
    attempt(run, 2, ("end", {"cause": "crashed", **other}))
    assert endings.decide(run).action == "continue"


def test_resuming_resets_what_was_before(tmp_path):
    run = Run(tmp_path)
    for number in (1, 2, 3):
        attempt(run, number, ("end", {"cause": "killed"}))
    assert endings.decide(run).action == "stop"
    run.ledger(3, "resume").write("resumed")
    assert endings.no_progress(run) is None
    attempt(run, 4, ("end", {"cause": "killed"}))
    assert endings.decide(run).action == "continue"


@pytest.mark.parametrize(("reported", "code", "cause"), [
    (answer("RUNNING"), 137, "killed"), (answer("RUNNING"), 1, "crashed"), (answer("COMPLETING"), None, "cancelled"),
    (answer("RUNNING"), None, "signalled"), (answer("COMPLETING", reason="NodeDown"), 143, "node failure"),
    (answer("COMPLETING", 1), 143, "requeued"), (answer("COMPLETING", reason="TimeLimit"), None, "time limit"),
    (None, 137, "lost")])
def test_the_batch_shell_knows_why_a_step_ended(reported, code, cause):
    assert slurm_ends.why_step_ended(reported, 0, code) == cause


@pytest.mark.parametrize(("said", "code", "cause"), [
    ("srun: error: n1: task 0: Out Of Memory\n", 1, "out of memory"),
    ("slurmstepd-n1: error: Detected 1 oom-kill event(s) in StepId=1.0.\n", 1, "out of memory"),
    ("slurmstepd-n1: error: StepId=1.0 exceeded memory limit (9 > 8), being killed\n", 137, "out of memory"),
    ("slurmstepd-n1: error: Exceeded job memory limit\n", 137, "killed"),
    ("RuntimeError: CUDA error: Out Of Memory\n", 1, "crashed"),
    ("srun: error: n1: task 0: Killed\n", 137, "killed"),
])
def test_what_slurm_says_of_the_memory_tells_a_step_that_it_killed_from_others(said, code, cause):
    """As Slurm 22.05 says it, with task/cgroup and with OverMemoryKill."""
    assert slurm_ends.why_step_ended(answer("RUNNING"), 0, code, f"a line before\n{said}") == cause
    assert slurm_ends.why_step_ended(answer("COMPLETING"), 0, code, said) == "cancelled"


def test_no_attempt_at_all_stops_too(tmp_path):
    assert endings.decide(Run(tmp_path)).action == "stop"


def test_work_whose_completion_mark_stands_is_done_no_matter_what_became_of_its_processes(tmp_path):
    run = Run(tmp_path)
    attempt(run, 1, ("commit", {}), ("end", {"cause": "killed", "rank": 0}))
    files.write_json(run.complete_file(1), {"attempt": 1, "checkpoint": "iter_0000008-a0001.pth"})
    assert endings.decide(run).action == "done"
    evaluation = run.evaluation("iter_0000008-abc")
    attempt(evaluation, 1, ("end", {"cause": "killed", "rank": 0}))
    assert endings.decide(evaluation).action == "continue"
    files.write_json(evaluation.metrics_file(), SCORED)
    assert endings.decide(evaluation).action == "done"


def test_the_end_of_an_older_attempt_says_none_of_the_newest(tmp_path):
    run = Run(tmp_path)
    attempt(run, 1, ("end", {"cause": "preempted", "detail": "the first"}))
    attempt(run, 2)
    assert endings.decide(run).reason == causes.CAUSES["lost"].text


SKEWS = [0.0, 5.0, -5.0, 3600.0, -3600.0]


@pytest.fixture(params=SKEWS)
def skewed(request, monkeypatch):
    """``skewed(ledger, ...)`` writes an event of a host whose clock differs from the others'."""
    def write(ledger, kind, **fields):
        with monkeypatch.context() as patch:
            patch.setattr("ecm_cluster.rundir.ledger.time.time", lambda: 1e9 + request.param)
            ledger.write(kind, **fields)

    monkeypatch.setattr("ecm_cluster.rundir.ledger.time.time", lambda: 1e9)
    return write


def test_the_first_cause_counts_as_the_others_follow_from_it_regardless_of_the_clocks(tmp_path, skewed):
    run = Run(tmp_path)
    attempt(run, 1, ("commit", {}))
    run.ledger(1, "task000").write("end", cause="crashed", detail="connection closed by peer", rank=0, follows=True)
    skewed(run.ledger(1, "train001"), "end", cause="crashed", detail="rank 1: the loss is not a number", rank=1)
    assert endings.decide(run).reason == "rank 1: the loss is not a number"
    end = endings.last_end(run.events(), 1)
    assert endings.describe_end(end)["rank"] == 1
    assert endings.describe_end(None) is None


def test_of_two_failures_the_first_is_the_one_that_ended_the_attempt_regardless_of_the_clocks(tmp_path, skewed):
    run = Run(tmp_path)
    attempt(run, 1, ("end", {"cause": "crashed", "detail": "rank 0", "rank": 0}))
    skewed(run.ledger(1, "train002"), "end", cause="killed", detail="rank 2", rank=2)
    skewed(run.ledger(1, "task002"), "abort", rank=2, code=-9)
    assert endings.last_end(run.events(), 1)["detail"] == "rank 2"


def test_what_all_ranks_agreed_on_outranks_a_crash_on_the_way_out_regardless_of_the_clocks(tmp_path, skewed):
    run = Run(tmp_path)
    attempt(run, 1, ("commit", {}), ("end", {"cause": "preempted", "detail": "agreed", "rank": 0, "next": "stay"}))
    skewed(run.ledger(1, "train001"), "end", cause="crashed", detail="rank 1", rank=1)
    skewed(run.ledger(1, "task001"), "abort", rank=1, code=1)
    assert endings.last_end(run.events(), 1)["cause"] == "preempted"


def test_failures_that_nothing_orders_are_reported_by_the_lowest_rank_regardless_of_the_clocks(tmp_path, skewed):
    run = Run(tmp_path)
    attempt(run, 1)
    skewed(run.ledger(1, "batch.7.0"), "end", cause="lost", rank=None)
    skewed(run.ledger(1, "train003"), "end", cause="hung", rank=3)
    run.ledger(1, "train001").write("end", cause="crashed", rank=1)
    assert endings.last_end(run.events(), 1)["rank"] == 1


@pytest.mark.parametrize("cause", [c for c, ending in causes.CAUSES.items() if ending.owner != "run"])
def test_what_the_scheduler_or_a_node_does_never_stops_a_run(tmp_path, cause):
    run = Run(tmp_path)
    for number in range(1, 8):
        attempt(run, number, ("end", {"cause": cause, "node": f"n{number}"}))
    assert endings.no_progress(run) is None
    if cause in ("preempted", "signalled", "node failure"):
        assert endings.decide(run).action == "continue"


def test_status_warns_where_starts_end_in_a_row_before_a_new_checkpoint(tmp_path):
    run = Run(tmp_path)
    attempt(run, 1, ("commit", {}), ("end", {"cause": "preempted"}))
    for number in range(2, 4):
        attempt(run, number, ("end", {"cause": "requeued"}))
    assert endings.interruptions(run) is None
    attempt(run, 4, ("end", {"cause": "preempted"}))
    assert endings.interruptions(run) == \
        "3 starts in a row ended before a new checkpoint (requeued 2x, preempted 1x)"


def test_what_others_ended_between_neither_counts_nor_resets(tmp_path):
    run = Run(tmp_path)
    for number, cause in enumerate(["hung", "preempted", "crashed", "requeued", "time limit"], 1):
        attempt(run, number, ("end", {"cause": cause}))
    assert endings.decide(run).reason.endswith("3 attempts in a row ended without a new checkpoint")


def test_three_attempts_in_a_row_without_a_commit_stop_a_run_for_causes_of_its_own(tmp_path):
    run = Run(tmp_path)
    for number, cause in enumerate(["killed", "time limit", "hung"], 1):
        attempt(run, number, ("end", {"cause": cause}))
        if number < endings.NO_PROGRESS_LIMIT:
            assert endings.decide(run).action == "continue"
    decision = endings.decide(run)
    assert decision.action == "stop"
    assert decision.reason.endswith("3 attempts in a row ended without a new checkpoint")


def test_a_commit_between_begins_the_count_again(tmp_path):
    run = Run(tmp_path)
    for number in range(1, 9):
        events = [("commit", {"checkpoint": "x"})] if number % 3 == 0 else []
        attempt(run, number, *events, ("end", {"cause": "preempted"}))
        assert endings.decide(run).action == "continue", number


def test_an_evaluation_commits_nothing_and_is_not_stopped_for_it(tmp_path):
    work = Run(tmp_path).evaluation("key")
    for number in range(1, 6):
        attempt(work, number, ("end", {"cause": "preempted"}))
    assert endings.decide(work).action == "continue"


# ---------------------------------------------------------------------------------------------- the code's causes


def literals(node: ast.expr) -> list[str]:
    """The strings that an expression may be, as far as it is written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return literals(node.body) + literals(node.orelse)
    return []


def causes_in(path: Path) -> list[tuple[int, str]]:
    """Every string that a file gives as ``cause=…``, ``cause = …`` or ``{"cause": …}``, with its line."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        values: list[ast.expr] = []
        if isinstance(node, ast.keyword):
            values = [node.value] if node.arg == "cause" else []
        elif isinstance(node, ast.Assign):
            values = [node.value] if any(isinstance(t, ast.Name) and t.id == "cause" for t in node.targets) else []
        elif isinstance(node, ast.Dict):
            values = [v for k, v in zip(node.keys, node.values) if isinstance(k, ast.Constant) and k.value == "cause"]
        found += [(value.lineno, text) for value in values for text in literals(value)]
    return found


def test_every_cause_that_the_code_writes_has_an_ending(root):
    found = {(str(path.relative_to(root)), line, cause) for path in (root / "ecm_cluster").rglob("*.py")
             for line, cause in causes_in(path)}
    assert {"crashed", "killed", "complete", "cancelled", "signalled"} <= {cause for _, _, cause in found}
    # what Slurm did not answer is never an end: it is asked again
    assert {(f, n, c) for f, n, c in found if c not in causes.CAUSES and c != "unknown"} == set()


def test_every_answer_to_a_signal_has_an_ending(root):
    tree = ast.parse((root / "ecm_cluster/attempts/slurm_ends.py").read_text())
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "why_signalled")
    answers = {text for n in ast.walk(function) if isinstance(n, ast.Return) and n.value for text in literals(n.value)}
    assert answers - {"unknown"} <= set(causes.CAUSES)
    assert len(answers) >= 3
    tables = (causes.BY_STATE, causes.BY_REASON)
    assert {cause for table in tables for cause in table.values()} <= set(causes.CAUSES)


def test_slurms_end_time_is_read_as_seconds_from_its_own_now(monkeypatch):
    said = "Configuration data as of 2998-12-31T23:59:00\nAccountingStorageHost   = localhost\n"
    monkeypatch.setattr(commands, "ask", lambda *_, timeout: said)
    assert site.seconds_left({"EndTime": "2999-01-01T00:00:00"}) == 60
    for none in (None, {}, {"EndTime": "Unknown"}, {"EndTime": "NONE"}, {"EndTime": ""}):
        assert site.seconds_left(none) is None


def test_a_row_of_the_table_is_all_that_a_cause_needs_which_slurm_or_an_error_tells():
    states, reasons = ([s for c in causes.CAUSES.values() for s in one(c)] for one in (lambda c: c.states,
                                                                                     lambda c: c.reasons))
    assert len(states) == len(set(states)) and len(reasons) == len(set(reasons)), "each tells one cause"
    assert {"preempted", "time limit", "node failure"} == causes.REQUEUES
    for text, cause in (("RuntimeError: CUDA out of memory. Tried", "out of GPU memory"), ("Xid 79", "GPU failure"),
                        ("line one\nCUDA error: unspecified launch failure", "GPU failure"),
                        ("CUDA error: device-side assert triggered\nXid", "crashed"), ("KeyError: 3", "crashed")):
        assert causes.of_error(text) == cause
