"""The ECM loss and its gradient as GPU kernels, in Triton: two launches forward, one backward.

Importing this module imports Triton, which comes with torch's CUDA builds; ``ecm_fused`` does so only for logits that
the kernels support. The formula is that of ``ecm_core``. Logits are read in their own type, all arithmetic is in
float32, the gradient is written in the type of the logits, and no other tensor of their size is stored. Sums have a
fixed order without atomics, so results are reproducible bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ecm_core import LossInputs

# columns processed at once: the 1,204 of LVIS take three passes with little waste
_BLOCK = 512
_EPS = torch.finfo(torch.float32).eps


@triton.jit
def _row_factor(label, row_weight, row, columns):
    """The row's weight; NaN if it is not zero and the label is out of range, since a kernel cannot raise."""
    factor = 1.0
    if row_weight is not None:
        factor = tl.load(row_weight + row).to(tl.float32)
    at = tl.load(label + row)
    return tl.where((factor != 0.0) & ((at < 0) | (at >= columns)), float("nan"), factor)


@triton.jit
def _signed_logit(x, label, scale, shift, row, column, inside, row_stride, column_stride):
    """u = z, and -z in the label's column: the loss of every column is softplus(u), its slope sigmoid(u)."""
    logit = tl.load(x + row * row_stride + column * column_stride, mask=inside, other=0.0).to(tl.float32)
    scale_of_column = tl.load(scale + column, mask=inside, other=0.0)
    z = scale_of_column * logit + tl.load(shift + column, mask=inside, other=0.0)
    return tl.where(column == tl.load(label + row), -z, z)


@triton.jit
def _divisor(constant, average):
    if average is not None:
        constant += tl.load(average).to(tl.float32)
    return constant


@triton.jit
def _row_losses(
    out, x, label, row_weight, scale, shift, weight, row_stride, column_stride,
    factor, columns: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row: out[row] = factor * row weight * sum over columns of weight * softplus(u)."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        u = _signed_logit(x, label, scale, shift, row, column, inside, row_stride, column_stride)
        e = tl.exp(-tl.abs(u))
        # log(1 + e) as e log(y) / (y - 1) with y = 1 + e rounded: the quotient corrects the rounding of a small e
        y = 1.0 + e
        tiny = y == 1.0
        log1p = e * (tl.where(tiny, 1.0, tl.log(y)) / tl.where(tiny, 1.0, y - 1.0))
        total += tl.load(weight + column, mask=inside, other=0.0) * (tl.maximum(u, 0.0) + log1p)
    tl.store(out + row, tl.sum(total, axis=0) * (factor * _row_factor(label, row_weight, row, columns)))


@triton.jit(do_not_specialize=["count"])
def _sum_of_rows(out, rows, average, count, factor, divisor, BLOCK: tl.constexpr):
    """One program: out = factor * sum of rows / (divisor + average)."""
    total = tl.zeros([BLOCK], dtype=tl.float32)
    start = 0
    while start < count:
        row = start + tl.arange(0, BLOCK)
        total += tl.load(rows + row, mask=row < count, other=0.0)
        start += BLOCK
    tl.store(out, tl.sum(total, axis=0) * factor / _divisor(divisor, average))


@triton.jit
def _slopes(
    out, x, label, row_weight, scale, shift, weight, row_stride, column_stride,
    upstream, upstream_stride, average, factor, divisor, columns: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row: out[row, :] = d loss / d x[row, :]; recomputes the sigmoid from the logits."""
    row = tl.program_id(0).to(tl.int64)
    factor *= tl.load(upstream + row * upstream_stride).to(tl.float32) / _divisor(divisor, average)
    factor *= _row_factor(label, row_weight, row, columns)
    at = tl.load(label + row)
    for start in range(0, columns, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < columns
        u = _signed_logit(x, label, scale, shift, row, column, inside, row_stride, column_stride)
        e = tl.exp(-tl.abs(u))
        sigmoid = tl.where(u < 0.0, e, 1.0) / (1.0 + e)
        slope = sigmoid * tl.load(weight + column, mask=inside, other=0.0)
        slope *= tl.load(scale + column, mask=inside, other=0.0)
        slope = tl.where(column == at, -slope, slope) * factor
        tl.store(out + row * columns + column, slope.to(out.dtype.element_ty), mask=inside)


def _arguments(x: Tensor, inputs: LossInputs) -> tuple[Any, ...]:
    """The common arguments of both kernels over rows."""
    row_weight = None if inputs.row_weight is None else inputs.row_weight.contiguous()
    return x, inputs.label.contiguous(), row_weight, *inputs.columns, *x.stride()


def _average(x: Tensor, inputs: LossInputs) -> tuple[Tensor | None, float]:
    """(tensor, number) whose sum is the divisor; as in mmdet, a given average may be zero."""
    if inputs.reduction != "mean":
        return None, 1.0
    if inputs.avg_factor is None:
        return None, float(len(x))
    if isinstance(inputs.avg_factor, Tensor):
        return inputs.avg_factor, _EPS
    return None, float(inputs.avg_factor) + _EPS


def loss(x: Tensor, inputs: LossInputs) -> Tensor:
    """The loss, float32: of shape (B,) for the reduction ``none``, else a scalar."""
    by_row = inputs.reduction == "none"
    factor = float(inputs.loss_weight)
    with torch.cuda.device_of(x):  # Triton launches on the current device, regardless of its arguments
        rows = torch.empty(len(x), dtype=torch.float32, device=x.device)
        _row_losses[(len(x),)](rows, *_arguments(x, inputs), factor if by_row else 1.0, x.size(1), BLOCK=_BLOCK)
        if by_row:
            return rows
        total = torch.empty((), dtype=torch.float32, device=x.device)
        average, divisor = _average(x, inputs)
        _sum_of_rows[(1,)](total, rows, average, len(x), factor, divisor, BLOCK=_BLOCK)
        return total


def gradient(x: Tensor, inputs: LossInputs, upstream: Tensor) -> Tensor:
    """The gradient of :func:`loss` times ``upstream``, with the shape and type of ``x``."""
    average, divisor = _average(x, inputs)
    stride = upstream.stride(0) if upstream.dim() else 0
    with torch.cuda.device_of(x):
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _slopes[(len(x),)](  # fmt: skip
            out, *_arguments(x, inputs), upstream, stride, average, float(inputs.loss_weight), divisor, x.size(1),
            BLOCK=_BLOCK,
        )
        return out
