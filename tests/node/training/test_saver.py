"""Copies of a state from a device: nothing that CUDA reports on the way is left for the training to stumble over.

There is no GPU here; these few calls of the CUDA runtime are simulated.
"""

from __future__ import annotations

import types

import pytest
import torch

from ecm_cluster.attempts.failures import DeviceStuck
from ecm_cluster.node.training import saver


class Runtime:
    """The CUDA runtime's record of its last error: set by a call that fails, raised and cleared by the next launch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, result: int) -> None:
        self.pending, self.calls, self.result = 0, [], result
        monkeypatch.setattr(torch.cuda, "cudart", lambda: self)
        zeros = torch.zeros
        monkeypatch.setattr(torch, "zeros", lambda *size, device="cpu": self.launch(zeros(*size)))

    def cudaHostRegister(self, *args: int) -> int:
        return self.call("register")

    def cudaHostUnregister(self, *args: int) -> int:
        return self.call("unregister")

    def call(self, name: str) -> int:
        self.calls.append(name)
        self.pending = self.result
        return self.result

    def launch(self, value: torch.Tensor) -> torch.Tensor:
        if self.pending:
            self.pending = 0
            raise RuntimeError("CUDA error: out of memory")
        return value


@pytest.mark.parametrize("result", [0, 2])
def test_memory_that_cannot_be_pinned_leaves_no_error_behind(monkeypatch, result):
    runtime = Runtime(monkeypatch, result)
    memory = saver.SharedCopy()
    memory._reserve(100, pin=True)
    assert memory._pinned is (result == 0)
    assert runtime.pending == 0, "the next kernel launch would raise it"
    memory._reserve(saver.GRAIN + 1, pin=True)
    assert runtime.pending == 0
    assert runtime.calls == (["register", "unregister", "register"] if result == 0 else ["register"] * 2)


def test_a_device_that_does_not_become_idle_is_not_waited_for_without_a_limit(monkeypatch):
    class Event:
        def record(self) -> None: ...

        def query(self) -> bool:
            return False

    monkeypatch.setattr(torch, "cuda", types.SimpleNamespace(Event=Event))
    with pytest.raises(DeviceStuck, match="within 0 s, so this iteration could not be saved; the previous checkpoint"):
        saver.await_device(0.05)
