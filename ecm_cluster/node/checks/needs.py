"""The memory that a rank will need, and whether its state can be saved: measured after one training step."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ...base import files
from ...base.errors import UserError
from ...base.units import size_text
from ...pickles import archive
from ..mmdet_trainer import parallel
from ..training import loading, saver, writer
from . import small


def parameters(wrapped: Any) -> str:
    """How many parameters a model has, and how many of them are trained."""
    each = list(wrapped.parameters())
    learning = sum(p.numel() for p in each if p.requires_grad)
    return f"{sum(p.numel() for p in each) / 1e6:.1f} M parameters, {learning / 1e6:.1f} M of them trained"


def fitting(content: Any, runner: Any, source: str) -> str:
    """How many of the model's tensors match the loaded weights.

    Raises:
        UserError: None of them does.
    """
    weights = content.get("state_dict", content)
    own = runner._bare_model().state_dict()
    theirs = {name.partition("module.")[2] or name if name.startswith("module.") else name: value
              for name, value in weights.items()}
    taken = [name for name, value in own.items() if name in theirs and theirs[name].shape == value.shape]
    if not taken:
        raise UserError(f"config: invalid load_from: none of the {len(theirs)} tensors in {source} fits the model, "
                        "which would start from random weights; use a checkpoint of this model, or load_from=None")
    return f"{len(taken)} of the model's {len(own)} tensors"


def unused(wrapped: Any, cfg: Any, ranks: int) -> list[str]:
    """Parameters without a gradient, which make DDP on several ranks fail in the second step."""
    names = [n for n, p in wrapped.module.named_parameters() if p.requires_grad and p.grad is None]
    if not names or ranks == 1 or cfg.get("find_unused_parameters"):
        return []
    return [parallel.unused_parameters(names)]


@dataclass
class Watched:
    """Sizes in bytes, measured in a step."""

    bench: Any
    activations: int = 0
    peak: int = 0

    def describe(self, batch: Any) -> str:
        """The memory that a rank needs, as text."""
        bench = self.bench
        model, optimizer = bench.wrapped, bench.runner.optimizer
        weights = _bytes([*model.parameters(), *model.buffers()])
        gradients = _bytes([p.grad for p in model.parameters() if p.grad is not None])
        each = optimizer.values() if isinstance(optimizer, dict) else [optimizer]
        state = _bytes([v for o in each for s in o.state.values() for v in s.values() if torch.is_tensor(v)])
        text = (f"{parameters(model)}; {size_text(weights)} weights, {size_text(gradients)} gradients, "
                f"{size_text(state)} optimizer state")
        if self.peak:
            return f"{text}; peak of {size_text(self.peak)} of GPU memory in the first step"
        now, full = small.size(batch), bench.size
        if now is None or full is None or not self.activations:
            return text
        per_gpu = bench.run.spec.batch.get("per_gpu") or full[0]
        kept = self.activations * per_gpu * full[1] * full[2] / (now[0] * now[1] * now[2])
        kept /= 2 if bench.cfg.get("fp16") is not None else 1
        total = weights + gradients + state + kept
        return (f"{text}; about {size_text(kept)} of activations for {per_gpu} images of {full[1]}×{full[2]}, "
                f"{size_text(total)} in total")


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@contextlib.contextmanager
def watching(bench: Any) -> Iterator[Watched]:
    """Measure the tensors that a step saves for its backward pass, or on a GPU the peak of its memory."""
    watched = Watched(bench)
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield watched
        watched.peak = torch.cuda.max_memory_allocated()
        return
    own = {p.data_ptr() for p in bench.wrapped.parameters()}
    seen: set[int] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.data_ptr()
        if place not in own and place not in seen:
            seen.add(place)
            watched.activations += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield watched


def round_trip(state: Any) -> tuple[str, list[str]]:
    """Write a state as a checkpoint to memory, and read it back.

    Returns:
        Its size, and the parts of the state that a checkpoint cannot contain.

    Raises:
        UserError: It could not be read back.
    """
    memory = saver.SharedCopy()
    structure, spans = memory.take(state)
    request = writer.CommitRequest(0, 0, 0, False, 1, structure, spans, memory.size, 1)
    descriptor = os.memfd_create("check", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as handle, \
                mmap.mmap(memory.descriptor, memory.size, prot=mmap.PROT_READ) as shared:
            kept = files.Digesting(handle)
            view = memoryview(shared)
            writer.write_archive(kept, request, view)
            view.release()
        try:
            loading.read(f"/proc/self/fd/{descriptor}")
        except archive.InvalidCheckpoint as error:
            raise UserError(f"could not read back a checkpoint of this training ({error})") from error
        return size_text(kept.size), memory.lost
    finally:
        os.close(descriptor)
        os.close(memory.descriptor)
