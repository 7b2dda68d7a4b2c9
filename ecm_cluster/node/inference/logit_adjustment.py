"""Test settings that act on the logits of box heads: temperature, margin, and what becomes of the background.

Every mmdet box head turns logits into scores through its loss, where that has an activation of its own, and by
softmax otherwise. So the loss of each head is put into :class:`Adjusted`, which changes the logits on the way. In a
cascade mmdet averages the stages' logits first, so the change acts on the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...base.errors import UserError


class Adjusted(nn.Module):
    """The loss of a box head with other scores at test time.

    Args:
        loss: The head's own.
        shift: (C,) what is taken off the classes' logits.
        temperature: What logits are divided by, before the shift.
        background: ``multiply``, ``ignore`` or ``softmax``; None: as the loss does.
    """

    custom_cls_channels = True  # by this mmdet knows that scores are to be had from get_activation
    custom_activation = True

    def __init__(self, loss: nn.Module, shift: Tensor | None, temperature: float, background: str | None) -> None:
        super().__init__()
        self.loss, self.temperature, self.background = loss, temperature, background
        self.margin = shift  # not a buffer: it is in no checkpoint

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores of logits, (…, C + 1) both, the background last."""
        x: Tensor = cls_score / self.temperature
        if self.margin is not None:
            classes = self.margin.numel()
            adjusted: Tensor = x[..., :classes] - self.margin.to(x)
            x = torch.cat([adjusted, x[..., classes:]], dim=-1)
        sigmoid = hasattr(self.loss, "get_activation")  # in training; the scores may be softmax all the same
        own = bool(getattr(self.loss, "custom_activation", False))
        if self.background == "softmax" or (self.background is None and not own):
            return x.softmax(dim=-1)
        if self.background == "ignore":
            scores = x[..., :-1].sigmoid() if sigmoid else x[..., :-1].softmax(dim=-1)
            return torch.cat([scores, torch.zeros_like(x[..., -1:])], dim=-1)
        activation: Callable[[Tensor], Tensor] = self.loss.get_activation  # type: ignore[assignment]
        return activation(x)


def adjust(model: nn.Module, settings: Mapping[str, Any], counts: Sequence[float] | None) -> None:
    """Put the settings into every box head of a detector.

    Args:
        counts: Training instances of each class in label order; needed for ``margin``.

    Raises:
        UserError: ``margin`` without counts, or with counts of zero or of another number of classes.
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
        own.loss_cls = Adjusted(own.loss_cls, shift, wanted.get("temperature", 1.0), wanted.get("background"))


def log_share(counts: Sequence[float] | None, classes: int) -> Tensor:
    """(C,) logarithm of each class's share of all training instances.

    Taking it off the logits is post-hoc logit adjustment (Menon et al., Long-tail learning via logit adjustment,
    ICLR 2021).
    """
    if counts is None or len(counts) != classes or min(counts) <= 0:
        said = "there are none" if counts is None else f"{len(counts)} with a least of {min(counts):g} are there"
        raise UserError(f"margin: needs a positive count of training instances for each of {classes} classes, and "
                        f"{said}; leave it out, or give data.train an LVIS annotation file")
    n = torch.tensor(counts, dtype=torch.float64)
    return (n / n.sum()).log().to(torch.float32)
