"""Selects the implementation of the ECM loss: the three GPU launches of ``ecm_kernels``, or torch's operators.

The environment variable ``ECM_LOSS_FUSED`` selects it: 0: never the kernels; 1: the kernels also on a CPU, where only
Triton's interpreter can run them (``TRITON_INTERPRET=1``; for tests); unset: the kernels on a GPU.

Triton needs a C compiler and Python's headers at run time, and a directory for its cache (``TRITON_CACHE_DIR``). If it
fails, the process warns once and uses torch's operators from then on.
"""

from __future__ import annotations

import os
import warnings
from typing import Any, Callable

import torch
from torch import Tensor

from .ecm_core import LossInputs

Plain = Callable[[Tensor, LossInputs], Tensor]
_TYPES = (torch.float16, torch.bfloat16, torch.float32)

_failed = False


def loss(plain: Plain, x: Tensor, inputs: LossInputs) -> Tensor:
    """``plain(x, inputs)``, by the fused kernels if possible; both agree up to rounding."""
    if serves(x, inputs):
        try:
            return FusedLoss.apply(x, inputs, plain)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler, a driver or a cache directory may raise anything
            _give_up(error)
    return plain(x, inputs)


def serves(x: Tensor, inputs: LossInputs) -> bool:
    """Whether to try the kernels; unusual inputs are left to torch's operators, which report errors."""
    switch = os.environ.get("ECM_LOSS_FUSED")
    if _failed or switch == "0" or not (x.is_cuda or switch == "1"):
        return False
    label, row_weight, average = inputs.label, inputs.row_weight, inputs.avg_factor
    others = [label] + [t for t in (row_weight, average) if isinstance(t, Tensor)]
    return (
        x.dtype in _TYPES
        and x.numel() > 0
        and label.dtype == torch.int64
        and label.shape == x.shape[:1]
        and (row_weight is None or row_weight.shape == label.shape)
        and (not isinstance(average, Tensor) or average.dim() == 0)
        and all(t.device == x.device and not t.requires_grad for t in others)
        and (inputs.reduction in ("mean", "none") or (inputs.reduction == "sum" and average is None))
    )


def _give_up(error: Exception) -> None:
    global _failed
    _failed = True
    reason = str(error).strip().splitlines() or [""]
    warnings.warn(
        f"the fused ECM loss is disabled in this process ({type(error).__name__}: {reason[0]}); using torch's "
        "operators, which are correct but need more kernel launches. ECM_LOSS_FUSED=0 disables it without a warning",
        stacklevel=4,
    )


class FusedLoss(torch.autograd.Function):
    """The loss with its reduction: ``apply(x, inputs, plain)``; keeps the logits and recomputes the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inputs: LossInputs, plain: Plain) -> Tensor:
        from . import ecm_kernels

        ctx.save_for_backward(x)
        ctx.inputs, ctx.plain = inputs, plain
        return ecm_kernels.loss(x, inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        from . import ecm_kernels

        (x,) = ctx.saved_tensors
        if not _failed:
            try:
                return ecm_kernels.gradient(x, ctx.inputs, upstream), None, None
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                _give_up(error)
        with torch.enable_grad():
            again = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(ctx.plain(again, ctx.inputs), again, upstream)
        return gradient, None, None
