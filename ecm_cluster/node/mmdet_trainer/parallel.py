"""What stands between mmcv's runner and the detector: DDP for several ranks, a plain wrapper for one."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from mmcv.cnn.utils import revert_sync_batchnorm
from mmcv.parallel import MMDistributedDataParallel
from mmcv.parallel.registry import MODULE_WRAPPERS
from torch import nn

from ...attempts.failures import NotStartable
from .batches import unpack

NAMED = 5  # parameters in a message


@MODULE_WRAPPERS.register_module()
class Parallel(MMDistributedDataParallel):
    """mmcv's DDP, on CUDA over NCCL and on the CPU over gloo, with the same settings and the same failures.

    Two things differ from it. The layout of its buckets is settled before the first step and depends on the model
    alone: DDP would reduce the first step of a process in one bucket, and all others in the order in which that step's
    gradients came, so with three ranks or more a resumed training would sum in another order than an uninterrupted
    one. And a parameter without a gradient is reported in the step where it is missing, before the optimizer steps.

    Args:
        module: On its device already.
        find_unused_parameters: As DDP's.
    """

    def __init__(self, module: nn.Module, find_unused_parameters: bool = False) -> None:
        checkpoint_without_reentry()
        device = next(module.parameters()).device
        # with device_ids the wrapper has an output_device, where mmcv's hooks make the tensors that they reduce
        super().__init__(module, device_ids=None if device.index is None else [device.index], broadcast_buffers=False,
                         find_unused_parameters=find_unused_parameters)
        if not find_unused_parameters:
            self._settle_buckets()

    def _settle_buckets(self) -> None:
        """A backward pass over nothing but the parameters, last ones first: DDP lays its buckets out after it."""
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        with torch.enable_grad():
            self.reducer.prepare_for_backward([])
            torch.stack([p.sum().float() for p in parameters]).sum().backward()
        self.reducer._rebuild_buckets()
        for p in parameters:
            p.grad = None

    # mmcv 1.7 has its own ways to take a batch apart, which pass a device number where torch >= 2.1 wants a device

    def scatter(self, inputs: Any, kwargs: Any, device_ids: Any) -> tuple[Any, Any]:
        args, named = unpack(inputs, kwargs, self.device)
        return [args], [named]

    def to_kwargs(self, inputs: Any, kwargs: Any, device_id: Any) -> tuple[Any, Any]:
        return self.scatter(inputs, kwargs, None)

    def _run_ddp_forward(self, *inputs: Any, **kwargs: Any) -> Any:
        args, named = unpack(inputs, kwargs, self.device)
        return self.module(*args, **named)

    def train_step(self, *inputs: Any, **kwargs: Any) -> Any:
        if not self.device_ids:  # then mmcv does not scatter
            inputs, kwargs = unpack(inputs, kwargs, self.device)
        outputs = super().train_step(*inputs, **kwargs)
        if self.require_backward_grad_sync and torch.is_grad_enabled():
            outputs["loss"].register_hook(self._check_after_backward)
        return outputs

    def val_step(self, *inputs: Any, **kwargs: Any) -> Any:
        if not self.device_ids:
            inputs, kwargs = unpack(inputs, kwargs, self.device)
        return super().val_step(*inputs, **kwargs)

    def _check_after_backward(self, _: torch.Tensor) -> None:
        queue = torch.autograd.Variable._execution_engine.queue_callback
        queue(lambda: queue(self._check_reduced))  # behind DDP's own, which is queued when the last gradient has come

    def _check_reduced(self) -> None:
        """After a backward pass: all gradients have been reduced.

        Raises:
            NotStartable: Some have not, for want of a parameter's gradient.
        """
        try:
            self.reducer._rebuild_buckets()  # checks first, and has nothing else to do
        except RuntimeError as error:
            if "finished reduction" not in str(error):
                raise
            unused = [n for n, p in self.module.named_parameters() if p.requires_grad and p.grad is None]
            raise NotStartable(unused_parameters(unused)) from error


def checkpoint_without_reentry() -> None:
    """Have ``with_cp=True`` recompute activations in a way that DDP can follow.

    In torch's older way, the default where ``use_reentrant`` is not given, a backward pass runs inside another: with
    ``find_unused_parameters`` DDP takes all that is recomputed for unused, and fails. The modules of mmdet call the
    same function under names of their own, so its default is changed.
    """
    from torch.utils import checkpoint

    defaults = inspect.unwrap(checkpoint.checkpoint).__kwdefaults__
    if defaults and "use_reentrant" in defaults:
        defaults["use_reentrant"] = False


def unused_parameters(names: list[str]) -> str:
    """What to do about parameters without a gradient, in one line."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    which = f"{', '.join(names[:NAMED])}{more}" if names else "a part of its parameters"
    return (f"model: the loss does not depend on {which}, so the ranks cannot average the gradients; set "
            "find_unused_parameters = True in the config, or remove these parameters from the model")


@MODULE_WRAPPERS.register_module()
class OneProcess(nn.Module):
    """The wrapper of a single rank, which needs no DDP: what mmcv's hooks ask of a wrapper it answers likewise."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module: Any = module
        self.device = next(module.parameters()).device
        self.output_device = self.device.index  # None on the CPU, as DDP's

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        args, named = unpack(inputs, kwargs, self.device)
        return self.module(*args, **named)

    def train_step(self, *inputs: Any, **kwargs: Any) -> Any:
        args, named = unpack(inputs, kwargs, self.device)
        return self.module.train_step(*args, **named)

    def val_step(self, *inputs: Any, **kwargs: Any) -> Any:
        args, named = unpack(inputs, kwargs, self.device)
        return self.module.val_step(*args, **named)


@contextlib.contextmanager
def sync_batchnorm_alone() -> Iterator[None]:
    """``MMSyncBN`` can be built without a process group, to be reverted later: its initial weights are its own."""
    from mmcv.ops import sync_bn

    dist = sync_bn.dist
    sync_bn.dist = SimpleNamespace(group=SimpleNamespace(WORLD=None), get_world_size=lambda group: 1)
    try:
        yield
    finally:
        sync_bn.dist = dist


def without_sync_batchnorm(model: nn.Module, logger: Any) -> nn.Module:
    """A model whose SyncBatchNorm layers are plain ones, for where they cannot run or have nobody to talk to."""
    from mmcv.ops import SyncBatchNorm

    kinds = (nn.SyncBatchNorm, SyncBatchNorm)
    count = sum(isinstance(module, kinds) for module in model.modules())
    if not count:
        return model
    logger.info("%d SyncBN layers act as plain BN: synchronised statistics need several GPU ranks", count)
    return revert_sync_batchnorm(model)
