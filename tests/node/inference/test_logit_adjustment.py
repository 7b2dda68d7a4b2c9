"""Scores of a box head under test settings, against what the formulas say."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.losses import CrossEntropyLoss
from torch import nn

from ecm_cluster.base.errors import UserError
from ecm_cluster.node.inference.logit_adjustment import AdjustedLoss, adjust, log_share
from mmdet_ext.loss.ecm_loss import EffectiveClassMarginLoss, EffectiveClassMarginLossNick

COUNTS = [5.0, 20.0, 75.0]


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scores(loss: nn.Module, x: torch.Tensor, margin: float = 0.0, temperature: float = 1.0,
           background: str | None = None) -> torch.Tensor:
    shift = margin * log_share(COUNTS, 3).double() if margin else None
    return AdjustedLoss(loss, shift, temperature, background).get_activation(x)


def test_nothing_asked_for_leaves_the_scores_of_the_loss(x):
    ecm = EffectiveClassMarginLoss(COUNTS)
    assert torch.equal(scores(ecm, x), ecm.get_activation(x))
    assert torch.equal(scores(CrossEntropyLoss(), x), x.softmax(-1))
    assert torch.equal(scores(EffectiveClassMarginLossNick(COUNTS), x), x.softmax(-1)), "as its authors test it"


def test_the_background_can_be_left_out_of_the_scores(x):
    ecm = EffectiveClassMarginLoss(COUNTS)
    torch.testing.assert_close(scores(ecm, x, background="ignore")[:, :3], x[:, :3].sigmoid())
    torch.testing.assert_close(scores(ecm, x, background="softmax"), x.softmax(-1))
    torch.testing.assert_close(scores(CrossEntropyLoss(), x, background="ignore")[:, :3], x[:, :3].softmax(-1))
    torch.testing.assert_close(scores(ecm, x, background="multiply")[:, :3],
                               x[:, :3].sigmoid() * (1 - x[:, 3:].sigmoid()))


def test_the_temperature_divides_every_logit(x):
    torch.testing.assert_close(scores(CrossEntropyLoss(), x, temperature=2.0), (x / 2).softmax(-1))


def test_the_margin_takes_the_share_of_a_class_off_its_logit_and_none_off_the_background(x):
    shares = torch.tensor(COUNTS, dtype=torch.float64) / 100
    moved = torch.cat([x[:, :3] - 0.5 * shares.log(), x[:, 3:]], dim=1)
    torch.testing.assert_close(scores(CrossEntropyLoss(), x, margin=0.5), moved.softmax(-1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("counts", [None, [1.0, 2.0], [1.0, 0.0, 2.0]])
def test_a_margin_without_counts_of_every_class_is_refused(counts):
    with pytest.raises(UserError, match="margin: invalid counts .* expected a positive count for each of 3 classes"):
        log_share(counts, 3)


def test_every_stage_of_a_cascade_is_adjusted():
    def head() -> nn.Module:
        made = nn.Module()
        made.loss_cls, made.num_classes = CrossEntropyLoss(), 3
        return made

    model = nn.Module()
    model.roi_head = nn.Module()
    model.roi_head.bbox_head = nn.ModuleList([head(), head()])
    adjust(model, {"temperature": 2.0, "nms_iou": 0.5}, None)
    assert all(isinstance(h.loss_cls, AdjustedLoss) and h.loss_cls.temperature == 2.0 for h in model.roi_head.bbox_head)
