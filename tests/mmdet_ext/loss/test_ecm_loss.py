"""The ECM loss: equal to the originals where they are finite, and finite where they are not."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmdet")

from golden.ecm_originals import CASES, COUNTS, NAMES, built, golden  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from mmdet.models.builder import build_loss  # noqa: E402

import mmdet_ext.register  # noqa: E402, F401


def value_and_gradient(loss_module, x, labels, **kwargs):
    x = x.clone().requires_grad_()
    loss = loss_module(x, labels, **kwargs)
    loss.sum().backward()
    return loss.detach(), x.grad


def written_out(x, labels, counts, ratio=6.3313, k=0.25):
    """Equations 8 to 11 of the paper as they stand, background as a class; for moderate float64 logits."""
    n = torch.as_tensor(counts, dtype=torch.float64)
    n = torch.cat([n, n.sum()[None] * ratio])
    n_neg = n.sum() - n
    w_pos = (n**k + n_neg**k) / n_neg**k
    w_neg = (n**k + n_neg**k) / n**k
    score = w_pos * x.exp() / (w_pos * x.exp() + w_neg * (-x).exp())
    target = torch.nn.functional.one_hot(labels, len(n))
    weight = n_neg / n * torch.log(1 + n / n_neg)
    return -(weight * (target * score.log() + (1 - target) * (1 - score).log())).sum() / len(x)


# --- equal to the originals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", NAMES)
def test_it_is_the_originals_in_float64(case, which):
    data = golden(case)
    module = built(NAMES[which], data["counts"], fg_bg_ratio=float(data["fg_bg_ratio"]))
    x, labels = torch.from_numpy(data["cls_score"]), torch.from_numpy(data["labels"])
    loss, grad = value_and_gradient(module, x, labels)
    assert loss.dtype == torch.float64
    np.testing.assert_allclose(loss.item(), data[f"{which}_loss"], rtol=1e-9, atol=0)
    np.testing.assert_allclose(grad.numpy(), data[f"{which}_grad"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", NAMES)
def test_it_is_the_originals_within_rounding_in_float32(case, which):
    data = golden(case)
    module = built(NAMES[which], data["counts"], fg_bg_ratio=float(data["fg_bg_ratio"]))
    x, labels = torch.from_numpy(data["cls_score"]).float(), torch.from_numpy(data["labels"])
    loss, grad = value_and_gradient(module, x, labels)
    eps = np.finfo(np.float32).eps
    # an error of one rounding in z changes a far tail, exp(-|z|), by |z| roundings
    z = 2 * np.abs(data["cls_score"]).max() + 12
    np.testing.assert_allclose(loss.item(), data[f"{which}_loss"], rtol=16 * eps)
    np.testing.assert_allclose(grad.numpy(), data[f"{which}_grad"], rtol=4 * z * eps, atol=1e-30)


@pytest.mark.parametrize("exponent", [0.25, 1.0, 0.5])
def test_it_is_the_paper_written_out_for_any_exponent(exponent):
    torch.manual_seed(0)
    x = torch.randn(9, len(COUNTS) + 1, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(9) % (len(COUNTS) + 1)
    expected = written_out(x, labels, COUNTS, k=exponent)
    (gradient,) = torch.autograd.grad(expected, x)
    loss, grad = value_and_gradient(built(NAMES["cho"], margin_exponent=exponent), x.detach(), labels)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-11, atol=0)
    torch.testing.assert_close(grad, gradient, rtol=1e-10, atol=1e-14)


def test_the_reimplementations_names_mean_an_exponent_of_one():
    torch.manual_seed(1)
    x, labels = torch.randn(5, len(COUNTS) + 1, dtype=torch.float64), torch.arange(5)
    nick = built(NAMES["nick_bg"])(x, labels)
    assert nick == built(NAMES["cho"], margin_exponent=1)(x, labels)
    assert built(NAMES["nick_bg"], margin_exponent=0.25)(x, labels) == built(NAMES["cho"])(x, labels) != nick


@pytest.mark.parametrize("name", NAMES.values())
def test_the_gradient_is_that_of_the_loss(name):
    torch.manual_seed(2)
    module = built(name)
    x = (3 * torch.randn(4, len(COUNTS) + 1, dtype=torch.float64)).requires_grad_()
    labels, weights = torch.tensor([0, 6, 3, 5]), torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    for reduction in ("none", "mean", "sum"):
        assert torch.autograd.gradcheck(
            lambda t, r=reduction: module(t, labels, weights, reduction_override=r), x
        )


# --- finite everywhere --------------------------------------------------------------------------------------

LOGITS = st.one_of(
    st.floats(-1e4, 1e4, width=32),
    st.sampled_from([1e4, -1e4, 60.0, -60.0, 88.8, -88.8, 44.4, 0.0, 1e-40, 11.1, 745.2]),
)


# on the CPU torch 1 and 2.0 compute in bfloat16 alone
AUTOCAST = [torch.bfloat16, *([torch.float16] if hasattr(torch.amp, "GradScaler") else [])]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(NAMES.values())),
    rows=st.lists(
        st.tuples(st.lists(LOGITS, min_size=7, max_size=7), st.integers(0, 6)), min_size=1, max_size=5
    ),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    autocast=st.sampled_from([None, *AUTOCAST]),
    exponent=st.sampled_from([None, 0.25, 1.0]),
)
def test_loss_and_gradient_are_finite_for_every_finite_logit(name, rows, dtype, autocast, exponent):
    x = torch.tensor([r for r, _ in rows], dtype=torch.float64).to(dtype)
    labels = torch.tensor([label for _, label in rows])
    module = built(name, margin_exponent=exponent)
    with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        loss, grad = value_and_gradient(module, x, labels)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert loss.isfinite() and loss >= 0
    assert grad.dtype == dtype and grad.isfinite().all()
    # the gradient pushes the label's logit up and every other down, by 2 / B at most
    target = torch.nn.functional.one_hot(labels, 7).bool()
    assert (grad[target] <= 0).all() and (grad[~target] >= 0).all()
    assert grad.abs().max() <= 2 / len(rows) * (1 + torch.finfo(dtype).eps)
    # and the value is the float64 one, up to the rounding of the logits' own type
    exact, exact_grad = value_and_gradient(module, x.double(), labels)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=1e-30)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("dtype", AUTOCAST)
def test_autocast_changes_nothing(dtype):
    torch.manual_seed(3)
    x, labels = 30 * torch.randn(8, len(COUNTS) + 1), torch.arange(8) % 7
    module = built(NAMES["cho"])
    plain = value_and_gradient(module, x, labels)
    with torch.autocast("cpu", dtype=dtype):
        mixed = value_and_gradient(module, x, labels)
    assert torch.equal(plain[0], mixed[0]) and torch.equal(plain[1], mixed[1])


def test_half_of_a_model_leaves_the_constants_exact():
    data = golden("zipf_sixty")
    module = built(NAMES["cho"], data["counts"]).half()
    loss = module(torch.from_numpy(data["cls_score"]), torch.from_numpy(data["labels"]))
    np.testing.assert_allclose(loss.item(), data["cho_loss"], rtol=1e-9)


# --- weights, averages, reductions --------------------------------------------------------------------------


@pytest.fixture
def batch():
    torch.manual_seed(4)
    return torch.randn(6, len(COUNTS) + 1, dtype=torch.float64), torch.tensor([0, 6, 5, 6, 2, 1])


@pytest.mark.parametrize("name", NAMES.values())
def test_rows_of_weight_zero_contribute_nothing(name, batch):
    x, labels = batch
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    kept = weights > 0
    loss, grad = value_and_gradient(built(name), x, labels, label_weights=weights, avg_factor=4)
    changed, anything = x.clone(), labels.clone()
    changed[~kept] = torch.tensor([1e4, -1e4] * 4, dtype=torch.float64)[:7]
    anything[~kept] = torch.tensor([-1, 9999])
    again, grad_again = value_and_gradient(
        built(name), changed, anything, label_weights=weights, avg_factor=4
    )
    assert torch.equal(loss, again) and torch.equal(grad[kept], grad_again[kept])
    assert (grad_again[~kept] == 0).all() and grad[kept].abs().min() > 0
    alone = built(name)(x[kept], labels[kept], label_weights=weights[kept], avg_factor=4)
    torch.testing.assert_close(loss, alone, rtol=1e-12, atol=0)


def test_weights_average_and_reduction_work_as_in_mmdets_own_losses(batch):
    x, labels = batch
    module = built(NAMES["cho"], loss_weight=0.5)
    rows = module(x, labels, reduction_override="none")
    assert rows.shape == (6,)
    weights = torch.tensor([1, 2, 0, 1, 1, 3])
    torch.testing.assert_close(module(x, labels), rows.mean())
    torch.testing.assert_close(module(x, labels, reduction_override="sum"), rows.sum())
    torch.testing.assert_close(module(x, labels, weights), (rows * weights).mean())
    torch.testing.assert_close(
        module(x, labels, weights, avg_factor=5.0), (rows * weights).sum() / 5, rtol=1e-6, atol=0
    )
    assert torch.equal(built(NAMES["cho"], reduction="sum", loss_weight=0.5)(x, labels), rows.sum())
    assert torch.equal(rows, 0.5 * built(NAMES["cho"])(x, labels, reduction_override="none"))
    with pytest.raises(ValueError, match="avg_factor"):
        module(x, labels, avg_factor=5, reduction_override="sum")


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows_give_a_loss_of_zero(reduction):
    x = torch.zeros(0, len(COUNTS) + 1, requires_grad=True)
    loss = built(NAMES["cho"], reduction=reduction)(x, torch.zeros(0, dtype=torch.long))
    loss.sum().backward()
    assert loss.sum() == 0 and x.grad.shape == x.shape


# --- arguments ----------------------------------------------------------------------------------------------


def test_the_published_arguments_are_accepted(tmp_path):
    path = tmp_path / "lvis_v1_class_dist.txt"
    path.write_text("\n".join(map(str, COUNTS)))
    common = dict(use_sigmoid=True, num_classes=6, loss_weight=1.0)
    for name in NAMES.values():
        by_file = build_loss(
            dict(type=name, stats_file=str(path), fg_bg_ratio=6.3313, dataset="lvis", **common)
        )
        x, labels = torch.ones(2, 7), torch.tensor([0, 6])
        assert by_file(x, labels) == built(name)(x, labels)


def test_counts_of_zero_are_refused_and_named_or_clamped_on_request():
    with pytest.raises(
        ValueError, match=r"2 of 6 classes have a count of zero.*: 1, 4; .*clamp_zero_counts=True"
    ):
        built(NAMES["cho"], [5, 0, 3, 2, 0, 9])
    x, labels = torch.ones(2, 7), torch.tensor([1, 6])
    clamped = built(NAMES["cho"], [5, 0, 3, 2, 0, 9], clamp_zero_counts=True)
    assert clamped(x, labels) == built(NAMES["cho"], [5, 1, 3, 2, 1, 9])(x, labels)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        (dict(), "expected either class_counts"),
        (dict(class_counts=[1, 2], stats_file="x.txt"), "expected either class_counts or stats_file"),
        (dict(class_counts=[1, 2], num_classes=3), "num_classes is 3 but class_counts has 2"),
        (dict(class_counts=[1, 2], reduction="max"), "invalid reduction: 'max'; expected one of: mean, sum, none"),
        (dict(class_counts=[1, 2], fg_bg_ratio=0), "invalid fg_bg_ratio: 0.0; expected"),
        (dict(class_counts="nowhere.txt"), "nowhere.txt cannot be read"),
    ],
)
def test_a_bad_argument_is_one_line_with_its_remedy(kwargs, match):
    with pytest.raises(ValueError, match=match) as caught:
        mmdet_ext.loss.ecm_loss.EffectiveClassMarginLoss(**kwargs)
    assert "\n" not in str(caught.value)


def test_a_single_class_has_no_margin_against_the_foreground_alone():
    with pytest.raises(ValueError, match="expected two or more"):
        built(NAMES["nick"], [5])
    assert built(NAMES["cho"], [5])(torch.zeros(1, 2), torch.tensor([0])).isfinite()


def test_logits_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 6\) for 6 class counts; expected \(rows, 7\)"):
        built(NAMES["cho"])(torch.zeros(2, 6), torch.tensor([0, 1]))


def test_published_weights_are_the_authors_alone_and_change_the_weights_alone():
    counts = [*COUNTS, 1_270_141]
    exact, rounded = built(NAMES["cho"], counts), built(NAMES["cho"], counts, class_weights="published")
    x = torch.zeros(1, len(counts) + 1)
    (scale, shift, weight), (scale_, shift_, weight_) = exact.constants(x), rounded.constants(x)
    assert torch.equal(scale, scale_) and torch.equal(shift, shift_)
    assert (weight_ / weight - 1)[5] > 0.05 and (weight_ / weight - 1)[0].abs() < 1e-4
    for name, value in ((NAMES["cho"], "float32"), (NAMES["nick"], "published"), (NAMES["nick_bg"], "published")):
        with pytest.raises(ValueError, match=f"{name}: invalid class_weights: '{value}'; expected one of: exact"):
            built(name, class_weights=value)


# --- checkpoints --------------------------------------------------------------------------------------------


def authors_buffers(counts) -> dict[str, torch.Tensor]:
    n = torch.tensor([*counts, sum(counts) * 6.3313], dtype=torch.float32)
    odds = n / (n.sum() - n)
    return {"sample_n": n, "detection_cls_weight": (odds.log1p() / odds)[None]}


@pytest.mark.parametrize("name", NAMES.values())
def test_the_authors_checkpoints_load_without_complaint(name):
    module, buffers = built(name), authors_buffers(COUNTS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.load_state_dict(buffers, strict=True)
        torch.nn.Sequential(module).load_state_dict({f"0.{k}": v for k, v in buffers.items()}, strict=True)
    assert set(buffers) == {"sample_n", "detection_cls_weight"}  # the caller's dict is left alone
    assert not module.state_dict()


def test_other_unknown_entries_of_a_checkpoint_are_still_reported():
    with pytest.raises(RuntimeError, match="sample_m"):
        built(NAMES["cho"]).load_state_dict({"sample_m": torch.zeros(1)}, strict=True)


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ([*COUNTS[:-2], 3, 1], "other counts for 1 of 6 classes, e.g. 3 instead of 2 for class 4"),
        (COUNTS[:-1], "counts for 5 classes, this loss for 6"),
    ],
)
def test_a_checkpoint_of_other_counts_is_warned_about(counts, match):
    module, x, labels = built(NAMES["cho"]), torch.ones(1, 7), torch.tensor([4])
    before = module(x, labels)
    with pytest.warns(UserWarning, match=match):
        module.load_state_dict(authors_buffers(counts), strict=True)
    assert module(x, labels) == before


def test_a_copy_or_pickle_of_it_gives_the_same():
    module, x, labels = built(NAMES["cho"]), torch.ones(1, 7), torch.tensor([4])
    assert (
        copy.deepcopy(module)(x, labels) == pickle.loads(pickle.dumps(module))(x, labels) == module(x, labels)
    )
