"""The effective class-margin (ECM) loss inside stock mmdet box heads; ``ecm_core`` has the formula.

Three names are registered. They differ in how they take the background, and in the margin exponent's default:

- ``EffectiveClassMarginLoss``, the authors': the background is one more class, with ``fg_bg_ratio`` times the
  foreground's positives; k = 1/4; scores at test time are sigmoid(x), those of the classes times (1 - the
  background's).
- ``EffectiveClassMarginLossNickWAuthorBgHandling``: the same with k = 1.
- ``EffectiveClassMarginLossNick``: margins among the foreground's classes alone; the background's column is a
  plain sigmoid of weight 1 (z = x, so its gradient has no factor 2); k = 1; softmax at test time.

**The margin exponent.** The paper's value, and that of the authors' code, is 1/4. The re-implementation
behind the other two names (github.com/nicholasdehnen/ECM-Loss) means 1/4 too, but writes ``n ** 1./4.``, and
Python reads that as ``(n ** 1) / 4``: the division cancels, and its effective exponent is 1. On LVIS counts
the losses of the two exponents differ by an order of magnitude. Its names therefore default to 1, which
reproduces its runs; give ``margin_exponent=0.25`` for what the paper says.
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
    """Half precision has no room for the sum over 1,203 classes, nor for the rare ones' shifts."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def plain_loss(x: Tensor, inputs: LossInputs) -> Tensor:
    """The loss by torch's operators, on any device; ``ecm_fused`` has fewer launches on a GPU."""
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
    """The authors' loss: the background is one more class, with a margin of its own.

    Args:
        class_counts: positives of each class in label order, or the path of a text file with one count a
            line, or of an LVIS annotation file (see :mod:`mmdet_ext.data.class_counts`).
        stats_file: what the re-implementation's configs call ``class_counts``; give one of the two.
        count_field: what is read of an annotation file, ``instance_count`` or ``image_count``. The authors'
            file is called image_count but holds instance counts.
        clamp_zero_counts: count classes without positives as 1 instead of refusing them.
        class_weights: ``exact``, or ``published``: rounded in float32 as in the authors' code, with which their
            published figures were reached. 327 of LVIS v1's 1,203 classes then have a weight that is off by more than
            1 %, those with a single instance by 11 %, and the loss of the first step by 0.5 %
            (:func:`mmdet_ext.loss.ecm_core.published_weights`). The re-implementation's weights are the exact ones.
        num_classes: checked against the counts if given.
        fg_bg_ratio: the background's positives over the sum of ``class_counts``.
        margin_exponent: k; None is the default of the name (1/4 here).
        reduction: ``mean`` over the rows, ``sum`` or ``none`` (one value a row).
        loss_weight: a factor on the loss.
        use_sigmoid: as in published configs; changes nothing, the scores are always sigmoids.
        dataset: as in published configs, where it chose a count file; changes nothing.

    Raises:
        ValueError: counts that are missing, unreadable, zero, or not as many as ``num_classes``.
    """

    default_exponent = 0.25
    weights_known: tuple[str, ...] = ("exact", "published")
    # mmdet's box heads look for these three names on their loss
    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    # persistent buffers of the authors' module, to be found in their released checkpoints
    _authors_buffers = ("sample_n", "detection_cls_weight")

    def __init__(
        self,
        class_counts: str | os.PathLike[str] | Sequence[float] | None = None,
        stats_file: str | os.PathLike[str] | None = None,
        count_field: str = "instance_count",
        clamp_zero_counts: bool = False,
        class_weights: str = "exact",
        num_classes: int | None = None,
        fg_bg_ratio: float = FG_BG_RATIO,
        margin_exponent: float | None = None,
        reduction: str = "mean",
        loss_weight: float = 1.0,
        use_sigmoid: bool = True,
        dataset: str = "lvis",
    ) -> None:
        super().__init__()
        self._kind = type(self).__name__
        given = stats_file if class_counts is None else class_counts
        if given is None or (class_counts is not None and stats_file is not None):
            raise ValueError(
                f"{self._kind}: give class_counts (or stats_file, not both): a list of the positives of each "
                "class, a text file with one count a line, or the LVIS annotation file of the training set"
            )
        counts = read_class_counts(given, count_field)
        self.num_classes = len(counts)
        if num_classes not in (None, self.num_classes):
            raise ValueError(
                f"{self._kind}: num_classes is {num_classes} but {counts.source} has {self.num_classes} "
                "counts; give the counts of the classes that the model has"
            )
        if class_weights not in self.weights_known:
            raise ValueError(f"{self._kind}: invalid class_weights: {class_weights!r}; expected one of: "
                             f"{', '.join(self.weights_known)}")
        self.class_weights = class_weights
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"{self._kind}: reduction: {reduction!r} is unknown; legal are: mean, sum, none")
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.use_sigmoid = use_sigmoid
        self.dataset = dataset
        self.fg_bg_ratio = float(fg_bg_ratio)
        self.margin_exponent = self.default_exponent if margin_exponent is None else float(margin_exponent)
        # plain float64 tensors rather than buffers: in no checkpoint, and out of reach of model.half()
        self._counts = torch.tensor(counts.positive(clamp_zero_counts), dtype=torch.float64)
        self._exact = self._columns(self._counts)
        self._cast: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    def _columns(self, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(scale, shift, class weight) of each column, each of shape (C + 1,), float64."""
        if self.fg_bg_ratio <= 0:
            raise ValueError(f"{self._kind}: fg_bg_ratio is {self.fg_bg_ratio}; it must be above 0")
        n = torch.cat([counts, counts.sum()[None] * self.fg_bg_ratio])
        shift, weight = margins(n, self.margin_exponent)
        return torch.full_like(n, 2.0), shift, published_weights(n) if self.class_weights == "published" else weight

    def constants(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(scale, shift, class weight), each of shape (C + 1,), on the device of ``x``; float32 at least."""
        key = (x.device, _computed_in(x))
        if key not in self._cast:
            scale, shift, weight = (c.to(*key) for c in self._exact)
            self._cast[key] = (scale, shift, weight)
        return self._cast[key]

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        label_weights: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss, float32 at least, under autocast too.

        Args:
            cls_score: logits, shape (B, C + 1), the background last; finite.
            label: shape (B,), 0…C; C is the background. Rows of weight zero may hold anything.
            label_weights: weight of each row, shape (B,).
            avg_factor: what a mean is divided by; without it, by B (also where rows have weight zero).
            reduction_override: takes the place of ``reduction``.
        """
        if cls_score.dim() != 2 or cls_score.size(1) != self.num_classes + 1:
            raise ValueError(
                f"{self._kind}: logits of shape {tuple(cls_score.shape)} for {self.num_classes} class "
                f"counts; expected (rows, {self.num_classes + 1}), the background last"
            )
        reduction = reduction_override or self.reduction
        if reduction == "mean" and avg_factor is None and not len(cls_score):
            reduction = "sum"  # the mean over no rows: zero rather than NaN
        inputs = LossInputs(
            label, label_weights, self.constants(cls_score), reduction, avg_factor, self.loss_weight
        )
        return ecm_fused.loss(plain_loss, cls_score, inputs)

    # --- what mmdet's box heads ask of a loss with custom channels and activation ---

    def get_cls_channels(self, num_classes: int) -> int:
        """Outputs of the classifier: the classes and the background."""
        if num_classes != self.num_classes:
            raise ValueError(
                f"{self._kind}: the head has {num_classes} classes but the loss has counts for "
                f"{self.num_classes}; give the counts of the classes that the model has"
            )
        return num_classes + 1

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Scores of logits, (…, C + 1) both: sigmoid(x) (1 - sigmoid(background)); last, sigmoid(background).

        The margins shape training only: as in the authors' code, the test-time score is unshifted.
        """
        score = cls_score.sigmoid()
        return torch.cat([score[..., :-1] * (-cls_score[..., -1:]).sigmoid(), score[..., -1:]], dim=-1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Per cent right: foreground against background (at a score of 1/2), and classes in the foreground.

        Not the authors' figure for objectness, which compares x with 1 - x of the logit x.
        """
        foreground = labels < self.num_classes
        background = cls_score[:, -1:]
        return {
            "acc_objectness": accuracy(torch.cat([-background, background], dim=1), (~foreground).long()),
            "acc_classes": accuracy(cls_score[:, :-1][foreground], labels[foreground]),
        }

    # --- checkpoints ---

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        """Take the authors' buffers out of a checkpoint, with a warning if their counts are not ours."""
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
            said = (
                f"has other counts for {int(wrong.sum())} of {self.num_classes} classes, for example "
                f"{theirs[i]:g} for class {i}, not {self._counts[i]:g}"
            )
        warnings.warn(
            f"{self._kind}: the checkpoint {said}; the loss keeps its own. To train on with the margins of "
            "the checkpoint, give class_counts as it has them",
            stacklevel=2,
        )

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, margin_exponent={self.margin_exponent:g}"


@takes_its_name(LOSSES)
class EffectiveClassMarginLossNickWAuthorBgHandling(EffectiveClassMarginLoss):
    """The re-implementation with the authors' background: :class:`EffectiveClassMarginLoss` with k = 1."""

    default_exponent = 1.0
    weights_known = ("exact",)


@takes_its_name(LOSSES)
class EffectiveClassMarginLossNick(EffectiveClassMarginLoss):
    """The re-implementation: margins from the foreground alone, the background a plain sigmoid, k = 1.

    ``fg_bg_ratio`` changes nothing here. The head has mmdet's own channels, and softmax scores at test time,
    as in the published code.
    """

    default_exponent = 1.0
    weights_known = ("exact",)
    custom_cls_channels = False
    custom_activation = False
    custom_accuracy = False

    def _columns(self, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if len(counts) < 2:
            raise ValueError(f"{self._kind}: needs two classes or more; a single one has no negatives")
        shift, weight = margins(counts, self.margin_exponent)
        one, zero = counts.new_ones(1), counts.new_zeros(1)
        scale = torch.cat([torch.full_like(counts, 2.0), one])
        return scale, torch.cat([shift, zero]), torch.cat([weight, one])
