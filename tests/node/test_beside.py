"""What is done beside the loop that watches a worker holds up nobody."""

from __future__ import annotations

import threading
import time

import pytest
from small import wait_until

from ecm_cluster.node.beside import Beside, Quiet, patiently


def test_a_call_that_fails_is_said_once_and_tried_again(capsys):
    answers = iter([OSError(116, "Stale file handle"), OSError(116, "Stale file handle"), KeyError("x"), 7])

    def call():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    beside = Beside(call, 0.01)
    wait_until(lambda: beside.value == 7, "it is tried again", 10)
    beside.close()
    assert capsys.readouterr().err.startswith("warning: OSError: [Errno 116] Stale file handle; it is tried again\n"
                                              "warning: KeyError: 'x'; it is tried again\n")


def test_a_call_that_hangs_holds_up_nobody_and_is_known_to_hang():
    lets_go, called = threading.Event(), []
    beside = Beside(lambda: (called.append(1), lets_go.wait()), 0.01)
    wait_until(lambda: beside.stuck > 0.2, "it hangs", 10)
    before = time.monotonic()
    beside.soon()
    beside.close(patience=0.1)
    assert time.monotonic() - before < 5
    assert called == [1], "one call at a time"
    lets_go.set()


def test_the_last_call_is_made_at_the_end_where_it_is_waited_for():
    called = []
    beside = Beside(lambda: called.append(1), 600)
    wait_until(lambda: called, "the first call", 10)
    beside.close(patience=10)
    assert called == [1, 1]
    assert beside.stuck == 0


def test_what_is_to_be_called_once_is():
    called = []
    beside = Beside(lambda: called.append(1), None)
    wait_until(lambda: not beside._thread.is_alive(), "it ends", 10)
    beside.close()
    assert called == [1]


def test_storage_is_asked_again_for_a_while():
    answers = iter([OSError(116, "Stale file handle"), ValueError("half a file"), 7])

    def call():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patiently(call, 30) == 7
    with pytest.raises(StopIteration):
        patiently(call, 30)


def test_what_ends_the_process_is_not_kept_quiet():
    with pytest.raises(SystemExit), Quiet():
        raise SystemExit
