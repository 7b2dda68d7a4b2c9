"""Batches on their way from the data loader to the model's device.

Copies to a GPU are asynchronous only from pinned memory, and a loader with ``pin_memory`` pins what it knows: tensors,
and objects with a method ``pin_memory``. mmcv 1.7's ``DataContainer`` has none, so the containers of a batch are
replaced by ones that have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmcv import parallel
from mmcv.parallel import DataContainer
from mmcv.parallel.scatter_gather import scatter_kwargs


class PinnableContainer(DataContainer):
    """mmcv's container, with the method that ``torch.utils.data`` calls to pin a batch."""

    def pin_memory(self) -> PinnableContainer:
        """The same container with its tensors in pinned memory; what stays on the CPU is left as it is."""
        if self.cpu_only:
            return self
        return PinnableContainer(_each(self.data, torch.Tensor, torch.Tensor.pin_memory), self.stack,
                                 self.padding_value, pad_dims=self.pad_dims)


def collate(samples: Sequence[Any], samples_per_gpu: int) -> Any:
    """mmcv's ``collate``, in containers that can be pinned."""
    return _each(parallel.collate(samples, samples_per_gpu), DataContainer, _pinnable)


def unpack(inputs: Any, kwargs: Any, device: torch.device) -> tuple[Any, Any]:
    """Take a batch out of its containers, on ``device``; copies from pinned memory are not waited for.

    mmcv 1.7 scatters to a GPU through a private function of torch that takes no device number since torch 2.1, so
    it is asked to scatter to the CPU, which only unpacks.
    """
    args, named = scatter_kwargs(inputs, kwargs, [-1], dim=0)
    if device.type == "cpu":  # where a loader's batches are
        return args[0], named[0]
    return moved(args[0], device), moved(named[0], device)


def moved(value: Any, device: torch.device) -> Any:
    """The same structure with its tensors on ``device``."""
    return _each(value, torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True))


def _pinnable(container: DataContainer) -> PinnableContainer:
    return PinnableContainer(container.data, container.stack, container.padding_value, container.cpu_only,
                             container.pad_dims)


def _each(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The same nested structure with each object of a kind replaced."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _each(item, kind, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_each(item, kind, change) for item in value)
    return value
