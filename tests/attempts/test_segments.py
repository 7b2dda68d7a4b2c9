"""What the time that jobs held went into: with a known answer, and for arbitrary ledgers."""

from __future__ import annotations

from typing import Any

from attempts.ledgers import attempt, events, heartbeat, spec, start
from hypothesis import given, settings
from hypothesis import strategies as st

from ecm_cluster.attempts import holds, segments, waits
from ecm_cluster.attempts.history import AttemptRecord
from ecm_cluster.attempts.holds import Hold
from ecm_cluster.rundir.ledger import Event
from ecm_cluster.rundir.run import Run

HELD = [(1000, 1400), (1500, 1900), (2000, 2060), (2100, 2500)]


def phases(*rows: tuple[float, str, int | None]) -> list[tuple[float, str, dict[str, Any]]]:
    return [(when, "phase", {"phase": phase, "iteration": iteration}) for when, phase, iteration in rows]


def known_run(run: Run) -> Run:
    """Four starts of a job on two GPUs: preempted, hung, without an attempt, complete."""
    spec(run)
    for restart, (begin, end) in enumerate(HELD):
        start(run, "7", restart, begin, end)
    events(run, 0, "submit", (900.0, "submitted", {"stage": "train", "job_id": "7"}))
    # attempt 1: 20 s until it begins, 30 s of staging, 50 s more of start-up, 100 iterations at 2 s, of which 20 are
    # redone; a commit blocks for 10 s; then 50 s until the grace period is over
    attempt(run, 1, 1020.0)
    events(run, 1, "phases", *phases((1020.0, "starting", None), (1030.0, "staging", None), (1060.0, "starting", None),
                                     (1108.0, "first iteration", 0), (1112.0, "training", 1)))
    events(run, 1, "train000", (1280.0, "commit", {
        "checkpoint": "iter_0000080-a0001.pth", "iteration": 80, "blocked_seconds": 2.0, "write_seconds": 8.0,
        "waited_seconds": 8.0}))
    events(run, 1, "task000", (1320.0, "phase", {"phase": "ended", "iteration": 100}),
           (1350.0, "end", {"cause": "preempted", "rank": 0, "next": "stay"}))
    # attempt 2: 40 s of start-up, 50 iterations at 4 s that all count, 100 s of silence, 60 s until the job left
    attempt(run, 2, 1520.0, "iter_0000080-a0001.pth")
    events(run, 2, "phases", *phases((1520.0, "starting", None), (1540.0, "first iteration", 80),
                                     (1544.0, "training", 81)))
    events(run, 2, "train000", (1700.0, "commit", {"checkpoint": "iter_0000130-a0002.pth", "iteration": 130}))
    events(run, 2, "task000", (1840.0, "end", {"cause": "hung", "rank": 0, "silence": 100.0}),
           (1842.0, "phase", {"phase": "ended", "iteration": 130}))
    # attempt 3: no phases on record, as of an earlier version: its pace tells when it began to train
    attempt(run, 3, 2110.0, "iter_0000130-a0002.pth", restart=3)
    heartbeat(run, 3, time=2390.0, phase="training", iteration=170, seconds_per_iteration=5.0)
    events(run, 3, "staging000", (2140.0, "staged", {
        "scratch": "/s", "host": "n1", "copied": 5, "repaired": 0, "found": 0, "seconds": 20.0, "waited": 5.0}))
    events(run, 3, "train000", (2440.0, "commit", {"checkpoint": "iter_0000180-a0003.pth", "iteration": 180}),
           (2440.0, "end", {"cause": "complete", "rank": 0}))
    return run


def test_a_run_with_a_known_answer(tmp_path):
    run = known_run(Run(tmp_path / "run"))
    found = holds.holds(run)
    assert [(h.begin, h.end, h.gpus, h.estimated) for h in found] == [(b, e, 2, False) for b, e in HELD]
    per_start = []
    for hold in found:
        own, estimated = segments.of_hold(hold)
        seconds: dict[str, float] = {}
        for segment in own:
            seconds[segment.kind] = seconds.get(segment.kind, 0.0) + segment.seconds / 2
        per_start.append({**seconds, "estimated": estimated})
    assert per_start == [
        {"start-up": 80.0, "staging": 30.0, "productive": 160.0, "redone": 40.0, "saving": 10.0, "idle": 80.0,
         "estimated": False},
        {"start-up": 40.0, "productive": 200.0, "hung": 100.0, "idle": 60.0, "estimated": False},
        {"not started": 60.0, "estimated": False},
        {"start-up": 65.0, "staging": 25.0, "productive": 250.0, "idle": 60.0, "estimated": True}]
    assert [(w.begin, w.end, w.kind) for w in waits.of(run, found)] == [
        (900.0, 1000.0, "first"), (1400.0, 1500.0, "preempted"), (1900.0, 2000.0, "requeued"),
        (2060.0, 2100.0, "requeued")]


def test_a_start_without_an_end_ends_with_its_last_sign(tmp_path):
    run = spec(Run(tmp_path / "run"))
    start(run, "7", 0, 1000.0, None)
    attempt(run, 1, 1010.0)
    heartbeat(run, 1, time=1100.0, phase="training", iteration=5, seconds_per_iteration=10.0)
    hold, = holds.holds(run)
    assert (hold.begin, hold.end, hold.estimated, hold.alive) == (1000.0, 1100.0, True, False)
    kinds = [(s.begin, s.end, s.kind) for s in segments.of_hold(hold)[0]]
    assert kinds == [(1000.0, 1050.0, "start-up"), (1050.0, 1100.0, "redone")], "no checkpoint of it is left"


def test_evaluations_wait_for_their_training_and_hold_time_of_their_own(tmp_path):
    run = spec(Run(tmp_path / "run"))
    events(run, 0, "submit", (900.0, "submitted", {"stage": "train", "job_id": "7"}),
           (901.0, "submitted", {"stage": "evaluate", "job_id": "8"}))
    start(run, "7", 0, 1000.0, 1200.0)
    attempt(run, 1, 1010.0)
    events(run, 1, "train000", (1190.0, "complete", {"checkpoint": "iter_0000080-a0001.pth", "iteration": 80}))
    for element in (0, 1):
        start(run, f"8_{element}", 0, 1250.0 + element, 1300.0, link="evaluate")
    found = holds.holds(run)
    assert [(h.evaluates, segments.of_hold(h)[0][0].kind) for h in found] == [
        (False, "start-up"), (True, "evaluation"), (True, "evaluation")]
    assert [(w.begin, w.end, w.kind) for w in waits.of(run, found)] == [
        (900.0, 1000.0, "first"), (1190.0, 1250.0, "evaluation"), (1190.0, 1251.0, "evaluation")]


class GivenRun(Run):
    """A run whose ledger and heartbeats are given."""

    def __init__(self, given: list[Event], beat: dict[str, Any]) -> None:
        super().__init__("/nowhere")
        self.given, self.beat = given, beat

    def events(self, attempt: int | None = None, writer: str | None = None) -> list[Event]:
        return [e for e in self.given if attempt in (None, e.attempt)]

    def heartbeat(self, attempt: int) -> dict[str, Any]:
        return self.beat


MOMENT = st.integers(-50, 1300).map(float)
NUMBER = st.integers(0, 60)
PHASE = st.sampled_from(["starting", "staging", "waiting for data", "first iteration", "training", "stopped", "failed",
                         "ended"])


@st.composite
def event(draw: Any) -> Event:
    kind = draw(st.sampled_from(["phase", "commit", "staged", "end"]))
    fields = {"phase": {"phase": draw(PHASE), "iteration": draw(st.none() | NUMBER)},
              "commit": {"iteration": draw(NUMBER), "write_seconds": draw(MOMENT), "blocked_seconds": draw(MOMENT),
                         "waited_seconds": draw(MOMENT)},
              "staged": {"seconds": draw(MOMENT), "waited": draw(MOMENT)},
              "end": {"cause": "hung", "silence": draw(MOMENT)}}[kind]
    return Event(draw(st.integers(1, 3)), "w", 1, kind, draw(MOMENT), fields)


@st.composite
def record(draw: Any, number: int) -> AttemptRecord:
    first, last, lost = draw(NUMBER), draw(NUMBER), draw(NUMBER)
    return AttemptRecord(number, draw(MOMENT), draw(st.none() | MOMENT), seen=draw(MOMENT), first=first, last=last,
                         lost=lost, cause=draw(st.sampled_from(["hung", "complete", "lost", "preempted"])))


@settings(max_examples=60)
@given(st.data())
def test_segments_cover_what_a_start_held_for_any_ledger(data):
    beat = {"time": data.draw(MOMENT), "iteration": data.draw(NUMBER), "seconds_per_iteration": data.draw(NUMBER)}
    run = GivenRun(data.draw(st.lists(event(), max_size=12)), beat)
    attempts = tuple((run, data.draw(record(number))) for number in range(1, data.draw(st.integers(1, 4))))
    hold = Hold("7", 0, "train", 100.0, 100.0 + data.draw(st.integers(0, 1000)), 4, attempts=attempts)
    found, _ = segments.of_hold(hold)
    edges = [hold.begin, *(segment.end for segment in found)]
    assert [segment.begin for segment in found] == edges[:-1], "each begins where the one before it ends"
    assert edges[-1] == hold.end
    assert all(segment.end > segment.begin and segment.kind in segments.CAUSES for segment in found)
