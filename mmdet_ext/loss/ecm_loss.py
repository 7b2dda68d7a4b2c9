"""The effective class-margin (ECM) loss for stock mmdet box heads; ``ecm_core`` has the formula.

Three names are registered. They differ in the treatment of the background and in the default margin exponent:

- ``EffectiveClassMarginLoss``, the authors': the background is one more class, with ``fg_bg_ratio`` times the
  foreground's positives; k = 1/4; scores at test time are sigmoid(x), those of the classes times (1 - the
  background's).
- ``EffectiveClassMarginLossNickWAuthorBgHandling``: the same with k = 1.
- ``EffectiveClassMarginLossNick``: margins among foreground classes only; the background column is a plain sigmoid of
  weight 1 (z = x, so its gradient has no factor 2); k = 1; softmax at test time.

**The margin exponent.** It is 1/4 in the paper and in the authors' code. The re-implementation behind the other two
names (github.com/nicholasdehnen/ECM-Loss) intends 1/4, too, but has ``n ** 1./4.``, which Python evaluates as
``(n ** 1) / 4``: the division cancels out, and its effective exponent is 1. With LVIS counts the losses of the two
exponents differ by an order of magnitude. Its names therefore default to 1, which reproduces its runs;
``margin_exponent=0.25`` is the paper's value.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.builder import LOSSES
from mmdet.models.losses import accuracy
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from ..data.class_counts import read_class_counts
from . import ecm_fused
from .ecm_core import LossInputs, ShiftedSigmoidLoss, margins, published_weights
from .registration import takes_its_name

# Background over foreground boxes among the samples of a Mask R-CNN's box head, measured by the authors.
FG_BG_RATIO = 6.3313


def _computed_in(x: Tensor) -> torch.dtype:
    """Half precision cannot represent the sum over 1,203 classes, nor the shifts of rare ones."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def plain_loss(x: Tensor, inputs: LossInputs) -> Tensor:
    """The loss in torch's operators, on any device; ``ecm_fused`` needs fewer kernel launches on a GPU."""
    x = x.to(_computed_in(x))
    label, row_weight = inputs.label, inputs.row_weight
    if row_weight is not None:
        row_weight = row_weight.to(x.dtype)
        label = label.masked_fill(row_weight == 0, 0)
    with torch.autocast(x.device.type, enabled=False):
        rows = ShiftedSigmoidLoss.apply(x, label, *inputs.columns)
        return inputs.loss_weight * weight_reduce_loss(rows, row_weight, inputs.reduction, inputs.avg_factor)


@takes_its_name(LOSSES)
class EffectiveClassMarginLoss(nn.Module):
    """The authors' loss: the background is an additional class with its own margin.

    Args:
        class_counts: Positives of each class in label order, or the path of a text file with one count per line, or of
            an LVIS annotation file (see :mod:`mmdet_ext.data.class_counts`).
        stats_file: The name of ``class_counts`` in the re-implementation's configs; use only one of them.
        count_field: The field read from an annotation file, ``instance_count`` or ``image_count``. The authors' file
            is named image_count but contains instance counts.
        clamp_zero_counts: Count classes without positives as 1 instead of refusing them.
        class_weights: ``exact``, or ``published``: rounded in float32 as in the authors' code, which produced their
            published results. The weights of 327 of LVIS v1's 1,203 classes are then off by more than 1 %, those of
            classes with a single instance by 11 %, and the loss of the first step by 0.5 %
            (:func:`mmdet_ext.loss.ecm_core.published_weights`). The re-implementation's weights are exact.
        num_classes: Checked against the counts, if given.
        fg_bg_ratio: Positives of the background divided by the sum of ``class_counts``.
        margin_exponent: k; None: the default of the class (1/4 here).
        reduction: ``mean`` over the rows, ``sum`` or ``none`` (one value per row).
        loss_weight: Factor of the loss.
        use_sigmoid: As in published configs; has no effect, since scores are always sigmoids.
        dataset: As in published configs, where it selects a count file; has no effect.

    Raises:
        ValueError: Counts are missing, unreadable, zero, or of another number than ``num_classes``.
    """

    default_exponent = 0.25
    weights_known: tuple[str, ...] = ("exact", "published")
    # mmdet's box heads look for these three names on their loss
    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    # persistent buffers of the authors' module, which their released checkpoints contain
    _authors_buffers = ("sample_n", "detection_cls_weight")

    def __init__(self, class_counts: str | os.PathLike[str] | Sequence[float] | None = None,
                 stats_file: str | os.PathLike[str] | None = None, count_field: str = "instance_count",
                 clamp_zero_counts: bool = False, class_weights: str = "exact", num_classes: int | None = None,
                 fg_bg_ratio: float = FG_BG_RATIO, margin_exponent: float | None = None, reduction: str = "mean",
                 loss_weight: float = 1.0, use_sigmoid: bool = True, dataset: str = "lvis") -> None:
        super().__init__()
        self._kind = type(self).__name__
        if (class_counts is None) == (stats_file is None):
            raise ValueError(f"{self._kind}: expected either class_counts or stats_file: a list of the positives of "
                             "each class, a text file with one count per line, or the LVIS annotation file of the "
                             "training set")
        given = stats_file if class_counts is None else class_counts
        assert given is not None  # for type checkers: one of them was given
        counts = read_class_counts(given, count_field)
        self.num_classes = len(counts)
        if num_classes not in (None, self.num_classes):
            raise ValueError(f"{self._kind}: num_classes is {num_classes} but {counts.source} has {self.num_classes} "
                             "counts; use the counts of the model's classes")
        for name, value, valid in (("class_weights", class_weights, self.weights_known),
                                   ("reduction", reduction, ("mean", "sum", "none"))):
            if value not in valid:
                raise ValueError(f"{self._kind}: invalid {name}: {value!r}; expected one of: {', '.join(valid)}")
        self.class_weights = class_weights
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.use_sigmoid = use_sigmoid
        self.dataset = dataset
        self.fg_bg_ratio = float(fg_bg_ratio)
        self.margin_exponent = self.default_exponent if margin_exponent is None else float(margin_exponent)
        # plain float64 tensors, not buffers: those would be in checkpoints and be converted by model.half()
        self._counts = torch.tensor(counts.positive(clamp_zero_counts), dtype=torch.float64)
        self._exact = self._columns(self._counts)
        self._cast: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def _columns(self, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(scale, shift, class weight) of each column, each of shape (C + 1,), float64."""
        if self.fg_bg_ratio <= 0:
            raise ValueError(f"{self._kind}: invalid fg_bg_ratio: {self.fg_bg_ratio}; expected a number above 0")
        n = torch.cat([counts, counts.sum()[None] * self.fg_bg_ratio])
        shift, weight = margins(n, self.margin_exponent)
        return torch.full_like(n, 2.0), shift, published_weights(n) if self.class_weights == "published" else weight

    def constants(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(scale, shift, class weight), each of shape (C + 1,), on the device of ``x``, in float32 or float64."""
        key = (x.device, _computed_in(x))
        if key not in self._cast:
            scale, shift, weight = (c.to(*key) for c in self._exact)
            self._cast[key] = (scale, shift, weight)
        return self._cast[key]

    def forward(self, cls_score: Tensor, label: Tensor, label_weights: Tensor | None = None,
                avg_factor: float | Tensor | None = None, reduction_override: str | None = None) -> Tensor:
        """The loss, in float32 or float64 also under autocast.

        Args:
            cls_score: Logits, shape (B, C + 1), the background last; finite.
            label: Shape (B,), 0…C; C is the background. May be anything in rows of weight zero.
            label_weights: Weight of each row, shape (B,).
            avg_factor: Divisor of a mean; default: B (even if rows have weight zero).
            reduction_override: Replaces ``reduction``.
        """
        if cls_score.dim() != 2 or cls_score.size(1) != self.num_classes + 1:
            raise ValueError(f"{self._kind}: invalid logits of shape {tuple(cls_score.shape)} for {self.num_classes} "
                             f"class counts; expected (rows, {self.num_classes + 1}), the background last")
        reduction = reduction_override or self.reduction
        if reduction == "mean" and avg_factor is None and not len(cls_score):
            reduction = "sum"  # the mean over no rows: zero rather than NaN
        inputs = LossInputs(label, label_weights, self.constants(cls_score), reduction, avg_factor, self.loss_weight)
        return ecm_fused.loss(plain_loss, cls_score, inputs)

    # --- methods that mmdet's box heads call on a loss with custom channels and activation ---

    def get_cls_channels(self, num_classes: int) -> int:
        """Outputs of the classifier: the classes and the background."""
        if num_classes != self.num_classes:
            raise ValueError(f"{self._kind}: the head has {num_classes} classes but the loss has counts for "
                             f"{self.num_classes}; use the counts of the model's classes")
        return num_classes + 1

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores of logits, (…, C + 1) both: sigmoid(x) (1 - sigmoid(background)); last, sigmoid(background).

        The margins shape training only: as in the authors' code, the test-time score is unshifted.
        """
        score = cls_score.sigmoid()
        return torch.cat([score[..., :-1] * (-cls_score[..., -1:]).sigmoid(), score[..., -1:]], dim=-1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Accuracy in per cent: foreground or background (at a score of 1/2), and classes of the foreground.

        Differs from the authors' objectness, which compares the logit x with 1 - x.
        """
        foreground = labels < self.num_classes
        background = cls_score[:, -1:]
        return {"acc_objectness": accuracy(torch.cat([-background, background], dim=1), (~foreground).long()),
                "acc_classes": accuracy(cls_score[:, :-1][foreground], labels[foreground])}

    # --- checkpoints ---

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Ignore the authors' buffers in a checkpoint, with a warning if their counts differ."""
        theirs = {prefix + name for name in self._authors_buffers}
        if prefix + "sample_n" in state_dict:
            self._compare_counts(state_dict[prefix + "sample_n"])
        super()._load_from_state_dict({k: v for k, v in state_dict.items() if k not in theirs}, prefix, *args)

    def _compare_counts(self, sample_n: Tensor) -> None:
        theirs = sample_n.detach().double().cpu().flatten()[:-1]  # the last is the background
        if len(theirs) != len(self._counts):
            said = f"has counts for {len(theirs)} classes, this loss for {self.num_classes}"
        else:
            wrong = (theirs - self._counts).abs() > 1e-6 * self._counts  # the checkpoint holds float32
            if not wrong.any():
                return
            i = int(wrong.nonzero()[0])
            said = (f"has other counts for {int(wrong.sum())} of {self.num_classes} classes, e.g. {theirs[i]:g} "
                    f"instead of {self._counts[i]:g} for class {i}")
        warnings.warn(f"{self._kind}: the checkpoint {said}; the loss keeps its own. To continue training with the "
                      "checkpoint's margins, give its class_counts", stacklevel=2)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, margin_exponent={self.margin_exponent:g}"


@takes_its_name(LOSSES)
class EffectiveClassMarginLossNickWAuthorBgHandling(EffectiveClassMarginLoss):
    """The re-implementation with the authors' background: :class:`EffectiveClassMarginLoss` with k = 1."""

    default_exponent = 1.0
    weights_known = ("exact",)


@takes_its_name(LOSSES)
class EffectiveClassMarginLossNick(EffectiveClassMarginLoss):
    """The re-implementation: margins from the foreground only, a plain sigmoid for the background, k = 1.

    ``fg_bg_ratio`` has no effect. The head has mmdet's own channels and softmax scores at test time, as in the
    published code.
    """

    default_exponent = 1.0
    weights_known = ("exact",)
    custom_cls_channels = False
    custom_activation = False
    custom_accuracy = False

    def _columns(self, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(counts) < 2:
            raise ValueError(f"{self._kind}: invalid class_counts: 1 class; expected two or more, since a single one "
                             "has no negatives")
        shift, weight = margins(counts, self.margin_exponent)
        one, zero = counts.new_ones(1), counts.new_zeros(1)
        scale = torch.cat([torch.full_like(counts, 2.0), one])
        return scale, torch.cat([shift, zero]), torch.cat([weight, one])
