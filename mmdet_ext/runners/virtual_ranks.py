"""The ranks that a training was submitted for, assigned to any number of processes that divides theirs.

A training laid out for V ranks is a function of V: order, random draws, learning rate and per-rank buffers follow
from it. W processes run it with V/W micro-batches each, whose gradients they accumulate in a fixed order: the
weights differ from those of V processes by the order of summation only.

Not covered: what the ranks of a model exchange within one forward pass (SyncBN, losses that average their number of
positives over the ranks) is exchanged among W processes then, and not among V.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.modules.batchnorm import _NormBase

from .effects import Attributes
from .plain import differ


@dataclass(frozen=True)
class Share:
    """Which virtual ranks are assigned to a process.

    Attributes:
        virtual: Virtual ranks in total.
        world_size: Processes in total.
        rank: This process.

    Raises:
        ValueError: The processes cannot share the virtual ranks equally.
    """

    virtual: int = 1
    world_size: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.virtual % self.world_size:
            valid = [n for n in range(1, self.virtual + 1) if self.virtual % n == 0]
            raise ValueError(f"invalid number of ranks {self.world_size} for a run submitted for {self.virtual}; "
                             f"expected one of {', '.join(map(str, valid))}, or rescale it")

    @property
    def count(self) -> int:
        """Micro-batches of this process in each optimizer step."""
        return self.virtual // self.world_size

    @property
    def ranks(self) -> range:
        """The virtual ranks of this process, in the order of their micro-batches."""
        return range(self.rank * self.count, (self.rank + 1) * self.count)


def gpus_of(config: str) -> int:
    """How many GPUs mmdet noted in the text of a config (``gpu_ids = range(0, 8)``); 0 where it did not."""
    for node in ast.parse(config).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "gpu_ids":
            value = node.value
            if isinstance(value, ast.Call):  # of range: nothing is executed
                return len(range(*[ast.literal_eval(argument) for argument in value.args]))
            return len(ast.literal_eval(value) or ())
    return 0


def _persistent(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, torch.Tensor]]:
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), module, buffer


class RankBuffers:
    """What a forward pass changes in a model, for each virtual rank its own.

    That is buffers (running statistics, seesaw's counts) and plain attributes (:class:`.effects.Attributes`).

    Between optimizer steps the model holds those of the first virtual rank of this process, as it would if that one
    were alone. Which buffers a forward pass changes is seen from torch's version counters; statistics of a
    normalisation in training mode are taken to change, since its kernels do not count.

    Args:
        model: The model itself, not its wrapper.
        count: Virtual ranks of this process.
    """

    def __init__(self, model: torch.nn.Module, count: int) -> None:
        self.model = model
        self._own: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
        self._shared: dict[str, torch.Tensor] = {}  # copies of what has been the same for all so far
        self._marks: dict[str, tuple[int, int]] = {}
        self.attributes = Attributes(model)
        self._plain: list[dict[str, Any]] = [{} for _ in range(count)]
        self._plain_at_end: dict[str, Any] = {}

    def _live(self) -> dict[str, torch.Tensor]:
        return {name: buffer for name, _, buffer in _persistent(self.model)}

    def give(self, buffers: Sequence[dict[str, torch.Tensor]]) -> None:
        """Take up the buffers of each virtual rank of this process, as :meth:`each` returned them.

        Those of the first are the restored model's own already.
        """
        device = next(self.model.parameters()).device  # those that hooks add (EMA) are not in the model yet
        self._own = [{name: value.to(device, copy=True) for name, value in own.items()} for own in buffers]
        self._shared, self._marks = {}, {}

    def each(self) -> list[dict[str, torch.Tensor]]:
        """For each virtual rank of this process the persistent buffers, copied to the CPU."""
        live = self._live()
        return [{name: own.get(name, buffer).detach().cpu().clone() if i else buffer.detach().cpu().clone()
                 for name, buffer in live.items()} for i, own in enumerate(self._own)]

    def plain_of_each(self) -> list[dict[str, Any]]:
        """For each virtual rank of this process the plain attributes that have changed since the model was built."""
        return [self.attributes.by_name(), *self._plain[1:]]

    def give_plain(self, plain: Sequence[dict[str, Any]]) -> None:
        """Take up the plain attributes of each virtual rank of this process, as :meth:`plain_of_each` returned them."""
        self._plain = [dict(own) for own in plain]
        self.attributes.put_by_name(plain[0])
        self._plain_at_end = self.attributes.by_name()

    @torch.no_grad()
    def begin_step(self) -> None:
        """Before the first micro-batch: what hooks have changed since the last one is taken note of."""
        now, before = self.attributes.by_name(), self._plain_at_end
        by_hooks = {name: value for name, value in now.items() if name not in before or differ(before[name], value)}
        self._plain = [{**{k: v for k, v in own.items() if k in now or k not in before}, **by_hooks}
                       for own in self._plain]
        live = self._live()
        for name in self._own[0]:
            self._own[0][name].copy_(live[name])
        for name, buffer in live.items():
            mark = (id(buffer), buffer._version)
            if name not in self._own[0] and self._marks.get(name) != mark:
                self._shared[name], self._marks[name] = buffer.detach().clone(), mark

    @torch.no_grad()
    def enter(self, i: int) -> None:
        """Before the forward pass of the i-th micro-batch."""
        self._put(i)
        self.attributes.put_by_name(self._plain[i])
        self._before = {name: (id(b), b._version) for name, b in self._live().items()}

    @torch.no_grad()
    def leave(self, i: int) -> None:
        """After the forward pass of the i-th micro-batch."""
        self._plain[i] = self.attributes.by_name()
        for name, module, buffer in _persistent(self.model):
            counts = isinstance(module, _NormBase) and module.training
            if not counts and self._before.get(name) == (id(buffer), buffer._version):
                continue
            if name not in self._own[0]:
                for own in self._own:
                    own[name] = self._shared[name].clone()
                del self._shared[name], self._marks[name]
            self._own[i][name].copy_(buffer)

    @torch.no_grad()
    def end_step(self) -> None:
        """After the last micro-batch."""
        self._put(0)
        self.attributes.put_by_name(self._plain[0])
        self._plain_at_end = self._plain[0]

    @torch.no_grad()
    def _put(self, i: int) -> None:
        if self._own[i]:
            live = self._live()
            for name, value in self._own[i].items():
                live[name].copy_(value)


def mean_of_logs(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each logged value over the micro-batches of a step."""
    return {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
