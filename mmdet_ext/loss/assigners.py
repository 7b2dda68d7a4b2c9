"""IoU assignment that does not run out of GPU memory on images with very many boxes.

The overlaps of k ground-truth boxes with n anchors need about nine k x n temporaries besides the result: 3 GB for 300
objects in an 800 x 1333 image, which occurs in LVIS. Published ECM code therefore patches mmdet's assigner to retry
under mmdet's out-of-memory guard, which falls back to half precision (where box areas overflow) and then to the CPU.
Here the overlaps are always computed in pieces, with equal results, and the CPU is used only if even the result does
not fit into GPU memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from mmdet.core.bbox.assigners import AssignResult, MaxIoUAssigner
from mmdet.core.bbox.builder import BBOX_ASSIGNERS
from torch import Tensor


class _InPieces:
    """An IoU calculator that computes its matrix a few rows at a time, with bit-identical results."""

    def __init__(self, calculator: Callable[..., Tensor], max_pairs: int) -> None:
        self.calculator = calculator
        self.max_pairs = max_pairs

    def __call__(self, first: Tensor, second: Tensor, mode: str = "iou", is_aligned: bool = False) -> Tensor:
        m, n = first.size(0), second.size(0)
        if is_aligned or m * n <= self.max_pairs:
            return self.calculator(first, second, mode, is_aligned)
        rows = max(1, self.max_pairs // n)
        overlaps: Tensor | None = None
        for start in range(0, m, rows):
            piece = self.calculator(first[start : start + rows], second, mode)
            if overlaps is None:
                overlaps = piece.new_empty((m, n))
            overlaps[start : start + rows] = piece
        assert overlaps is not None
        return overlaps


@BBOX_ASSIGNERS.register_module()
class MemorySafeMaxIoUAssigner(MaxIoUAssigner):
    """mmdet's ``MaxIoUAssigner`` with a bound on the memory of its IoU computation.

    The results are those of ``MaxIoUAssigner``. If the GPU still runs out of memory, this call runs on the CPU (the
    first time with a warning), and the result is moved back to the boxes' device.

    Args:
        max_pairs: Overlaps computed at once; the temporaries take about 36 bytes each, 0.6 GB by default.
        *args: Those of ``MaxIoUAssigner``.
        **kwargs: The same.
    """

    def __init__(self, *args: Any, max_pairs: int = 1 << 24, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if max_pairs < 1:
            raise ValueError(f"MemorySafeMaxIoUAssigner: invalid max_pairs: {max_pairs}; expected 1 or more")
        whole: Callable[..., Tensor] = self.iou_calculator
        self.iou_calculator: Callable[..., Tensor] = _InPieces(whole, max_pairs)
        self._warned = False

    def assign(
        self,
        bboxes: Tensor,
        gt_bboxes: Tensor,
        gt_bboxes_ignore: Tensor | None = None,
        gt_labels: Tensor | None = None,
    ) -> AssignResult:
        """As ``MaxIoUAssigner.assign``: ``bboxes`` (n, 4), ``gt_bboxes`` (k, 4), ``gt_labels`` (k,)."""
        given = (bboxes, gt_bboxes, gt_bboxes_ignore, gt_labels)
        try:
            return super().assign(*given)
        except torch.cuda.OutOfMemoryError:
            pass  # retry outside of this block: the exception keeps the tensors of its frames alive
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"out of GPU memory when assigning {len(bboxes)} boxes to {len(gt_bboxes)} objects; falling back to "
                "the CPU, which is slow. If this happens often, reduce max_pairs or the images per GPU",
                stacklevel=2,
            )
        result = super().assign(*(None if t is None else t.cpu() for t in given))
        result.gt_inds = result.gt_inds.to(bboxes.device)
        result.max_overlaps = result.max_overlaps.to(bboxes.device)
        if result.labels is not None:
            result.labels = result.labels.to(bboxes.device)
        return result
