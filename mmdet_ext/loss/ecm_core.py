"""The mathematics of the effective class-margin (ECM) loss; depends only on torch.

Source: Cho and Krähenbühl, "Long-tail Detection with Effective Class-Margins", ECCV 2022. The ranking error of a
detector on a class is bounded by the margins of its positives and negatives; the tightest bound determines a shift of
the score and a weight for each class. With p positives, q negatives and the margin exponent k (1/4 in the paper),

    z     = 2 x + k log(p / q)             the shifted logit; the score is sigmoid(z)
    w     = (q / p) log(1 + p / q)         the class weight
    loss  = sum over classes of w softplus(-z) for the label's class, w softplus(z) for every other
    d loss / d x = 2 w (sigmoid(z) - t)    t = 1 for the label's class, else 0

The paper's score is a quotient of exponentials of x, which is NaN at 60 and overflows half precision beyond 11.
Softplus and sigmoid of z are equal to it, and finite for every finite z.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Above this, softplus(u) equals u exactly, even in float64; below it, exp(u) does not overflow float32.
_LINEAR = 80.0


def margins(positives: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """(shift, weight) of each class, given its positives; the positives of all others are its negatives.

    Args:
        positives: Above zero, shape (C,), C of 2 or more; float64, since in float32 the weights of LVIS's rarest
            classes would be off by up to 11 %.
        exponent: k above.
    """
    odds = positives / (positives.sum() - positives)
    return exponent * odds.log(), odds.log1p() / odds


def published_weights(positives: Tensor) -> Tensor:
    """The class weights as in the authors' code: in float32, as the logarithm of a quotient slightly above 1.

    The rounding changes the weights of LVIS v1's classes by 11 % for a single instance, by 5 % on average for 2 to 10,
    and by less than 0.5 % above 100; their published results were produced with it.

    Args:
        positives: As for :func:`margins`.

    Returns:
        float64 of shape (C,), with float32 values.
    """
    n = positives.float()
    odds = (n.sum() - n) / n
    return (odds * ((1 + odds) / odds).log()).double()


class LossInputs(NamedTuple):
    """The inputs of the loss besides the logits (B, C)."""

    label: Tensor  # (B,), int64; may be anything in a row of weight zero
    row_weight: Tensor | None  # (B,)
    columns: tuple[Tensor, Tensor, Tensor]  # scale, shift and class weight, (C,) each
    reduction: str  # mean, sum or none
    avg_factor: float | Tensor | None  # divisor of a mean; None: B
    loss_weight: float


class ShiftedSigmoidLoss(torch.autograd.Function):
    """The loss of each row, with z = scale x + shift: ``apply(x, label, scale, shift, weight)``, shape (B,).

    ``x`` is (B, C) of float32 or float64, ``label`` (B,) of int64, the others (C,) of the type of ``x``. The gradient
    costs one sigmoid, so it is computed in the forward pass and no B x C intermediates are kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, label: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
        at = label[:, None]
        # negate the label's column: the loss of every column is then softplus(u), without cancellation
        u = torch.addcmul(shift, scale, x)
        u.scatter_(1, at, -u.gather(1, at))
        loss = F.softplus(u, threshold=_LINEAR) @ weight
        if ctx.needs_input_grad[0]:
            slope = u.sigmoid_().mul_(weight * scale)
            slope.scatter_(1, at, -slope.gather(1, at))
            ctx.save_for_backward(slope)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * upstream[:, None], None, None, None, None
