"""The mathematics of the effective class-margin (ECM) loss, in torch alone.

Source: Cho and Krähenbühl, "Long-tail Detection with Effective Class-Margins", ECCV 2022. A detector's
ranking error on a class is bounded by the margins of its positives and negatives; the tightest bound gives
each class a shift of its score and a weight. With p positives, q negatives and the margin exponent k (1/4 in
the paper),

    z     = 2 x + k log(p / q)             the shifted logit; the score is sigmoid(z)
    w     = (q / p) log(1 + p / q)         the class weight
    loss  = sum over classes of w softplus(-z) for the label's class, w softplus(z) for every other
    d loss / d x = 2 w (sigmoid(z) - t)    t = 1 for the label's class, else 0

The paper's score is a quotient of exponentials of x, which gives NaN at 60 and overflows half precision
beyond 11. Softplus and sigmoid of z are the same numbers, and finite for every finite z.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Beyond this softplus(u) is u to the last bit, in float64 too; below it exp(u) does not overflow float32.
_LINEAR = 80.0


def margins(positives: Tensor, exponent: float) -> tuple[Tensor, Tensor]:
    """(shift, weight) of each class, given its positives; the positives of all others are its negatives.

    Args:
        positives: above zero, shape (C,), C of 2 or more; float64, since in float32 the weights of LVIS's
            rarest classes come out up to 11 % wrong.
        exponent: k above.
    """
    odds = positives / (positives.sum() - positives)
    return exponent * odds.log(), odds.log1p() / odds


def published_weights(positives: Tensor) -> Tensor:
    """The class weights as the authors' code computes them: in float32, with a quotient just above 1 in a logarithm.

    Their rounding changes the weights of LVIS v1's classes by 11 % for a single instance, by 5 % on average for 2 to
    10, and by less than 0.5 % above 100; their published figures were reached with them.

    Args:
        positives: as for :func:`margins`.

    Returns:
        float64 of shape (C,), each value one of float32.
    """
    n = positives.float()
    odds = (n.sum() - n) / n
    return (odds * ((1 + odds) / odds).log()).double()


class LossInputs(NamedTuple):
    """What the loss takes besides the logits (B, C)."""

    label: Tensor  # (B,), int64; that of a row of weight zero may be anything
    row_weight: Tensor | None  # (B,)
    columns: tuple[Tensor, Tensor, Tensor]  # scale, shift and class weight, (C,) each
    reduction: str  # mean, sum or none
    avg_factor: float | Tensor | None  # what a mean is divided by; None is B
    loss_weight: float


class ShiftedSigmoidLoss(torch.autograd.Function):
    """The loss of each row, with z = scale x + shift: ``apply(x, label, scale, shift, weight)``, shape (B,).

    ``x`` is (B, C) of float32 or float64, ``label`` (B,) of int64, the others (C,) of the type of ``x``. The
    gradient costs one sigmoid, so it is made in the forward pass and no graph of B x C intermediates is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, label: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Tensor:
        at = label[:, None]
        # the label's column with its sign turned: every column is then softplus(u), and nothing cancels
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
