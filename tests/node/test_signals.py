"""Signals set a flag where they are meant to, and hurt nobody else. Real processes, real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from small import ROOT, wait_until

from ecm_cluster.node import signals


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """This process takes its own handlers and mask back after each test."""
    numbers = (*signals.SIGNALS, signal.SIGCONT)
    before = {n: signal.getsignal(n) for n in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    signals.forward_to(None)
    signals.clear()


def python(program: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, **options)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as handle:
            return handle.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_each_of_the_signals_sets_the_flag_and_nothing_else(number):
    signals.watch()
    assert not signals.asked_to_stop()
    signal.raise_signal(number)
    assert signals.asked_to_stop()
    assert signals.received() == [signal.Signals(number).name]
    signals.clear()
    assert not signals.asked_to_stop()


def test_slurms_sigcont_before_a_signal_means_nothing():
    signal.signal(signal.SIGCONT, lambda *_: pytest.fail("a handler of before"))
    signals.watch()
    signal.raise_signal(signal.SIGCONT)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGUSR2)
    assert signals.received() == ["SIGTERM", "SIGUSR2"]


def test_signals_are_forwarded_until_that_is_ended():
    signals.watch()
    seen: list[int] = []
    signals.forward_to(seen.append)
    signal.raise_signal(signal.SIGUSR2)
    signals.ask_to_stop(signal.SIGTERM)
    signals.forward_to(None)
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGUSR2, signal.SIGTERM]
    assert signals.received() == ["SIGUSR2", "SIGTERM", "SIGTERM"]


def test_a_signal_that_comes_before_the_handlers_stand_is_kept():
    program = ("from ecm_cluster.node import signals\nprint('imported', flush=True)\ninput()\n"
               "signals.watch()\nprint(signals.received())\n")
    child = python(program, preexec_fn=signals.prepare_child)
    # at once, while Python itself is still starting
    child.send_signal(signal.SIGTERM)
    assert line(child) == "imported"
    out, _ = child.communicate("go\n", timeout=30)
    assert (child.returncode, out.strip()) == (0, "['SIGTERM']")


def test_a_child_made_while_they_are_blocked_is_not_hurt_and_the_parent_hears_them_again():
    signals.watch()
    with signals.blocked():
        child = subprocess.Popen(["sleep", "60"])
        signal.raise_signal(signal.SIGTERM)  # in this thread: those of libraries do not block it
        assert not signals.asked_to_stop()
    assert signals.received() == ["SIGTERM"]
    try:
        for number in signals.SIGNALS:
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
    finally:
        child.kill()
    assert child.wait(30) == -signal.SIGKILL


def test_what_was_blocked_before_stays_blocked():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    with signals.blocked():
        pass
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {signal.SIGTERM}
    assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_child_dies_with_its_parent():
    program = ("import subprocess, sys\nfrom ecm_cluster.node import signals\n"
               "child = subprocess.Popen(['sleep', '60'], preexec_fn=signals.prepare_child)\n"
               "print(child.pid, flush=True)\ninput()\n")
    parent = python(program)
    child = int(line(parent))
    assert alive(child)
    parent.kill()
    parent.wait(30)
    wait_until(lambda: not alive(child), "the child dies with its parent", 30)


def test_a_child_is_deaf_to_the_signals_until_it_listens():
    child = subprocess.Popen(["sleep", "60"], preexec_fn=signals.prepare_child)
    try:
        for number in signals.SIGNALS:
            child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.2)
        with open(f"/proc/{child.pid}/status") as handle:
            blocked = int(next(row.split()[1] for row in handle if row.startswith("SigBlk:")), 16)
        assert all(blocked >> (number - 1) & 1 for number in signals.SIGNALS)
    finally:
        child.kill()
        child.wait()


LOADING = """
import os, signal, sys
import torch
from ecm_cluster.node import signals

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 12
    def __getitem__(self, index):
        return torch.tensor([index, os.getpid()])

signals.watch()
loader = torch.utils.data.DataLoader(Data(), num_workers=2, prefetch_factor=1)
seen = []
with signals.blocked():
    batches = iter(loader)
for batch in batches:
    index, pid = batch[0].tolist()
    seen.append(index)
    assert pid != os.getpid()
    for number in signals.SIGNALS:
        os.kill(pid, number)
assert not signals.asked_to_stop()
print(seen)
"""
ABANDONED = """
import os, signal
import torch
from ecm_cluster.node import signals

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4000
    def __getitem__(self, index):
        return torch.zeros(1000)

loader = torch.utils.data.DataLoader(Data(), batch_size=1000, num_workers=2, collate_fn=list,
                                     worker_init_fn=signals.prepare_loader_worker)
batches = iter(loader)
print(*(worker.pid for worker in batches._workers), flush=True)
next(batches)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_of_a_loader_survive_signals_and_still_bring_every_sample():
    done = subprocess.run([sys.executable, "-c", LOADING], cwd=ROOT, capture_output=True, text=True, check=False,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(list(range(12)))


@pytest.mark.slow
def test_workers_of_a_loader_end_with_a_trainer_that_is_killed():
    done = subprocess.run([sys.executable, "-c", ABANDONED], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False,
                          timeout=300)
    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(alive(pid) for pid in pids), "the loader's workers end", 30)


def test_a_pool_of_another_library_ends_although_its_workers_are_of_a_process_that_handles_signals():
    program = ("import multiprocessing, sys\nfrom ecm_cluster.node import signals\nsignals.watch()\n"
               "with signals.ordinary_children():\n"
               "    pool = multiprocessing.get_context('fork').Pool(3)\n"
               "    print(pool.map(abs, [-1, -2]), flush=True)\n"
               "    pool.terminate()\n    pool.join()\n"  # as the collector does it with one that mmdet leaves behind
               "print('over', signals.received())\n")
    process = python(program)
    try:
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert out.splitlines() == ["[1, 2]", "over []"]
