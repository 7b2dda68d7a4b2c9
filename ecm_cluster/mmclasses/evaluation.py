"""What a config's ``evaluation`` requests of scoring: metrics, limits of detections, thresholds.

Source: mmdet 2.x ``tools/test.py`` and ``core/evaluation/eval_hooks.py``: arguments that are not the hook's go to the
dataset's ``evaluate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..base.errors import UserError, one_of

HOOK = ("type", "interval", "start", "by_epoch", "save_best", "rule", "dynamic_intervals", "test_fn", "greater_keys",
        "less_keys", "out_dir", "file_client_args", "tmpdir", "gpu_collect", "broadcast_bn_buffer", "priority")
PLAIN = ("bbox", "segm")  # scored here; the rest of METRICS by mmdet
METRICS = (*PLAIN, "proposal", "proposal_fast")  # of mmdet's COCO and LVIS datasets
OF_PROPOSALS = ("proposal_fast", "recall")  # which mmdet computes from boxes without a class
PROPOSAL_NUMS = (100, 300, 1000)  # mmdet's default


@dataclass(frozen=True)
class Protocol:
    """How detections are scored.

    Attributes:
        metrics: As ``evaluation.metric`` names them; empty: all that the detections allow.
        proposal_nums: Limits of detections for each image and class in COCO's rule, ascending.
        iou_thrs: Overlaps to average over; empty: 0.5 to 0.95.
        options: Every argument for a dataset's own ``evaluate``.
    """

    metrics: tuple[str, ...] = ()
    proposal_nums: tuple[int, ...] = PROPOSAL_NUMS
    iou_thrs: tuple[float, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def protocol(cfg: Mapping[str, Any]) -> Protocol:
    """The protocol of a resolved config, not validated, since a dataset may have arguments of its own."""
    options = {name: value for name, value in (cfg.get("evaluation") or {}).items() if name not in HOOK}
    return Protocol(tuple(_several(options.get("metric"))),
                    tuple(sorted(_several(options.get("proposal_nums", PROPOSAL_NUMS)))),
                    tuple(_several(options.get("iou_thrs"))), options)


def check_protocol(found: Protocol) -> None:
    """Reject what COCO's and LVIS's rules do not have.

    Raises:
        UserError: It names the key.
    """
    for metric in found.metrics:
        if metric not in METRICS:
            raise one_of("config: evaluation.metric", metric, METRICS)
    nums = found.proposal_nums
    if not nums or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in nums):
        raise UserError(f"config: invalid evaluation.proposal_nums: {list(nums)}; expected whole numbers, 1 or more")
    if "proposal" in found.metrics and len(nums) < len(PROPOSAL_NUMS):
        raise UserError(f"config: invalid evaluation.proposal_nums: {list(nums)}; expected three numbers, which metric "
                        "proposal takes recalls at")
    if any(isinstance(t, bool) or not isinstance(t, (int, float)) or not 0 < t <= 1 for t in found.iou_thrs):
        raise UserError(f"config: invalid evaluation.iou_thrs: {list(found.iou_thrs)}; expected overlaps above 0, up "
                        "to 1")


def _several(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
