"""Evaluation settings for the logits of box heads: temperature, margin, and treatment of the background.

An mmdet box head converts logits to scores by its loss, if that has an activation, else by softmax. So the loss of
each head is wrapped in :class:`AdjustedLoss`, which changes the logits first. In a cascade, mmdet averages the logits
of the stages first, so the mean is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UserError


class AdjustedLoss(nn.Module):
    """The loss of a box head with other scores at test time.

    Args:
        loss: The head's loss.
        shift: (C,) subtracted from the classes' logits.
        temperature: Divides the logits before the shift.
        background: ``multiply``, ``ignore`` or ``softmax``; None: as in the loss.
    """

    custom_cls_channels = True  # makes mmdet call get_activation
    custom_activation = True

    def __init__(self, loss: nn.Module, shift: Tensor | None, temperature: float, background: str | None) -> None:
        super().__init__()
        self.loss, self.temperature, self.background = loss, temperature, background
        self.margin = shift  # not a buffer, which would be expected in checkpoints

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores of logits, (…, C + 1) both, the background last."""
        x: Tensor = cls_score / self.temperature
        if self.margin is not None:
            classes = self.margin.numel()
            adjusted: Tensor = x[..., :classes] - self.margin.to(x)
            x = torch.cat([adjusted, x[..., classes:]], dim=-1)
        sigmoid = hasattr(self.loss, "get_activation")  # in training, even if scores are softmax
        own = bool(getattr(self.loss, "custom_activation", False))
        if self.background == "softmax" or (self.background is None and not own):
            return x.softmax(dim=-1)
        if self.background == "ignore":
            scores = x[..., :-1].sigmoid() if sigmoid else x[..., :-1].softmax(dim=-1)
            return torch.cat([scores, torch.zeros_like(x[..., -1:])], dim=-1)
        activation: Callable[[Tensor], Tensor] = self.loss.get_activation  # type: ignore[assignment]
        return activation(x)


def adjust(model: nn.Module, settings: Mapping[str, Any], counts: Sequence[float] | None) -> None:
    """Apply the settings to every box head of a detector.

    Args:
        counts: Training instances of each class in label order; required for ``margin``.

    Raises:
        UserError: ``margin`` without counts, or with a count of zero, or with counts for other classes.
    """
    wanted = {name: settings[name] for name in ("temperature", "margin", "background") if name in settings}
    if not wanted:
        return
    heads = model.roi_head.bbox_head  # type: ignore[union-attr]
    for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
        shift = None
        if wanted.get("margin"):
            shift = wanted["margin"] * log_share(counts, head.num_classes)  # type: ignore[union-attr, arg-type]
        own: Any = head
        own.loss_cls = AdjustedLoss(own.loss_cls, shift, wanted.get("temperature", 1.0), wanted.get("background"))


def log_share(counts: Sequence[float] | None, classes: int) -> Tensor:
    """(C,) logarithm of each class's share of all training instances.

    Subtracting it from the logits is post-hoc logit adjustment (Menon et al., Long-tail learning via logit adjustment,
    ICLR 2021).
    """
    if counts is None or len(counts) != classes or min(counts) <= 0:
        found = "none" if counts is None else f"{len(counts)} with a minimum of {min(counts):g}"
        raise UserError(f"margin: invalid counts of training instances: {found}; expected a positive count for each of "
                        f"{classes} classes: remove margin, or set data.train to an LVIS annotation file")
    n = torch.tensor(counts, dtype=torch.float64)
    return (n / n.sum()).log().to(torch.float32)
