"""The fused ECM loss against the golden data and torch's operators: on a GPU, or on a CPU in Triton's interpreter.

Not collected on its own: ``test_ecm_fused.py`` runs it in a process of its own, with ``TRITON_INTERPRET=1`` and
``ECM_LOSS_FUSED=1``. On a machine with a GPU, ``pytest tests/mmdet_ext/loss/fused_cases.py`` runs the compiled kernels.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from golden import ecm_originals
from golden.ecm_originals import CASES, COUNTS, NAMES, golden
from torch.utils._python_dispatch import TorchDispatchMode

import mmdet_ext.register  # noqa: F401
from mmdet_ext.loss import ecm_fused, ecm_kernels
from mmdet_ext.loss.ecm_core import LossInputs
from mmdet_ext.loss.ecm_loss import plain_loss

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def a_failure_is_not_hidden_by_the_fallback():
    """Any warning of the package is an error here, the one of the fallback above all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*fused ECM loss.*")
        yield
    assert not ecm_fused._failed


def built(name: str, counts=COUNTS, **kwargs):
    return ecm_originals.built(NAMES[name], counts, **kwargs)


def value_and_gradient(compute, x: torch.Tensor, upstream: float = 1.0, fused: bool = True):
    x = x.detach().requires_grad_()
    loss = compute(x)
    assert (loss.grad_fn.name() == "FusedLossBackward") == fused
    loss.backward(torch.full_like(loss, upstream))
    return loss.detach(), x.grad


def both(module, x, label, upstream: float = 1.0, **kwargs):
    """(value, gradient) of the kernels, and of torch's operators in float64 on the same logits."""
    reduction = kwargs.pop("reduction_override", None) or module.reduction
    ours = value_and_gradient(lambda t: module(t, label, reduction_override=reduction, **kwargs), x, upstream)
    inputs = LossInputs(label, kwargs.get("label_weights"), module.constants(x.double()), reduction,
                        kwargs.get("avg_factor"), module.loss_weight)
    theirs = value_and_gradient(lambda t: plain_loss(t, inputs), x.double(), upstream, fused=False)
    return ours, theirs


def agrees(ours, theirs, dtype) -> None:
    """The sum to float32's rounding; each slope to that of its type, and of exp far out (|z| times as much)."""
    (loss, grad), (exact, exact_grad) = ours, theirs
    assert loss.dtype == torch.float32 and grad.dtype == dtype and grad.is_contiguous()
    torch.testing.assert_close(loss.double(), exact, rtol=4e-6, atol=1e-30)
    info = torch.finfo(dtype)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=max(info.eps, 4e-5), atol=info.smallest_normal)


def batch(dtype=torch.float32, rows: int = 7, columns: int = 7, size: float = 3.0):
    generator = torch.Generator().manual_seed(rows + columns)
    x = (size * torch.randn(rows, columns, generator=generator)).to(dtype)
    label = torch.randint(0, columns, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator) * (torch.rand(rows, generator=generator) > 0.3)
    return x.to(DEVICE), label.to(DEVICE), weight.to(DEVICE)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", NAMES)
def test_it_is_the_originals_within_rounding(case, which):
    data = golden(case)
    module = built(which, data["counts"], fg_bg_ratio=float(data["fg_bg_ratio"]))
    x = torch.from_numpy(data["cls_score"]).float().to(DEVICE)
    label = torch.from_numpy(data["labels"]).to(DEVICE)
    loss, grad = value_and_gradient(lambda t: module(t, label), x)
    np.testing.assert_allclose(loss.item(), data[f"{which}_loss"], rtol=4e-6)
    np.testing.assert_allclose(grad.cpu().numpy(), data[f"{which}_grad"], rtol=4e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("columns", [7, 1204])
def test_it_agrees_with_torchs_operators_on_the_same_logits(dtype, which, columns):
    counts = [max(1, 50_000 // (rank + 1) ** 2) for rank in range(columns - 1)]
    x, label, weight = batch(dtype, rows=5, columns=columns)
    module = built(which, counts, loss_weight=0.7)
    agrees(*both(module, x, label, label_weights=weight, avg_factor=3.0), dtype)


AVERAGES = [None, 4, 4.5, 0.0, torch.tensor(4.5), torch.tensor(4)]


@pytest.mark.parametrize("weighted", [None, torch.float32, torch.float16, torch.int64])
@pytest.mark.parametrize(
    ("reduction", "average"), [("mean", a) for a in AVERAGES] + [("none", a) for a in AVERAGES] + [("sum", None)]
)
def test_weights_averages_and_reductions_are_those_of_torchs_operators(reduction, weighted, average):
    x, label, weight = batch()
    average = average.to(DEVICE) if isinstance(average, torch.Tensor) else average
    weight = None if weighted is None else (4 * weight).to(weighted)
    agrees(*both(built("cho", loss_weight=0.3), x, label, upstream=7.0, label_weights=weight,
                 avg_factor=average, reduction_override=reduction), x.dtype)


def test_an_average_with_a_sum_is_refused_as_by_mmdet():
    x, label, _ = batch()
    with pytest.raises(ValueError, match="avg_factor"):
        built("cho")(x, label, avg_factor=5, reduction_override="sum")


@pytest.mark.parametrize("dtype", TYPES)
def test_a_scaled_loss_has_a_scaled_gradient(dtype):
    """As under a GradScaler: the scale comes in with the upstream gradient, before anything is rounded."""
    x, label, weight = batch(dtype, size=1.0)
    agrees(*both(built("cho"), x, label, upstream=65536.0 / 1024, label_weights=weight, avg_factor=5), dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("which", NAMES)
@pytest.mark.parametrize("size", [1e-40, 11.1, 60.0, 88.8, 745.2, 1e4])
def test_loss_and_gradient_are_finite_and_right_for_every_size_of_logit(dtype, which, size):
    x = torch.tensor([[size] * 7, [-size] * 7, [size, -size] * 3 + [size]], dtype=dtype, device=DEVICE)
    ours, theirs = both(built(which), x, torch.tensor([0, 6, 3], device=DEVICE))
    assert ours[0].isfinite() and ours[0] >= 0 and ours[1].isfinite().all()
    agrees(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_of_weight_zero_contribute_nothing_no_matter_what_their_label(dtype):
    x, label, _ = batch(dtype)
    weight = torch.tensor([1.0, 0, 2, 0, 1, 1, 0], device=DEVICE)
    garbage = label.clone()
    garbage[weight == 0] = torch.tensor([-1, 9999, 1 << 40], device=DEVICE)
    module = built("cho")
    one = value_and_gradient(lambda t: module(t, label, weight, avg_factor=4), x)
    two = value_and_gradient(lambda t: module(t, garbage, weight, avg_factor=4), x)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert (two[1][weight == 0] == 0).all() and (two[1][weight != 0] != 0).all()


def test_a_label_that_is_out_of_range_shows_as_nan():
    x, label, _ = batch()
    label[2] = 7
    loss, grad = value_and_gradient(lambda t: built("cho")(t, label), x)
    assert loss.isnan() and grad[2].isnan().all() and grad[[0, 1, 3, 4, 5, 6]].isfinite().all()


def test_logits_labels_and_weights_need_not_be_contiguous():
    x, label, weight = batch(rows=6)
    module = built("cho")
    expected = value_and_gradient(lambda t: module(t, label, weight), x)
    wide = torch.zeros(6, 14, device=DEVICE)
    wide[:, ::2] = x
    for strided in (x.t().contiguous().t(), wide[:, ::2]):
        assert not strided.is_contiguous()
        leaf = strided.detach().requires_grad_()
        apart = torch.stack([label, label], 1)[:, 0], torch.stack([weight, weight], 1)[:, 1]
        loss = module(leaf, *apart)
        (grad,) = torch.autograd.grad(loss, leaf)
        assert torch.equal(loss, expected[0]) and torch.equal(grad, expected[1])


def test_an_upstream_gradient_without_memory_of_its_own_is_read_right():
    x, label, weight = batch()
    module = built("cho")
    _, expected = value_and_gradient(lambda t: module(t, label, weight, reduction_override="sum"), x, upstream=3.0)
    x.requires_grad_()
    rows = module(x, label, weight, reduction_override="none")
    (3 * rows.sum()).backward()  # the rows get one number, expanded
    assert torch.equal(x.grad, expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_rows_give_a_loss_of_zero(reduction):
    x = torch.zeros(0, 7, device=DEVICE, requires_grad=True)
    loss = built("cho")(x, torch.zeros(0, dtype=torch.long, device=DEVICE), reduction_override=reduction)
    loss.sum().backward()
    assert loss.sum() == 0 and x.grad.shape == x.shape


def test_equal_inputs_give_equal_bits():
    x, label, weight = batch(rows=1100 if DEVICE == "cuda" else 40)
    module = built("cho")
    first, *others = [value_and_gradient(lambda t: module(t, label, weight), x) for _ in range(3)]
    assert all(torch.equal(first[0], o[0]) and torch.equal(first[1], o[1]) for o in others)


@pytest.mark.parametrize("dtype", TYPES[1:])
def test_autocast_changes_nothing(dtype):
    for given in (torch.float32, dtype):
        x, label, weight = batch(given)
        module = built("cho")
        plain = value_and_gradient(lambda t: module(t, label, weight, avg_factor=3.0), x)  # noqa: B023
        with torch.autocast(DEVICE, dtype=dtype):
            mixed = value_and_gradient(lambda t: module(t, label, weight, avg_factor=3.0), x)  # noqa: B023
        assert torch.equal(plain[0], mixed[0]) and torch.equal(plain[1], mixed[1])


def test_a_second_derivative_is_refused():
    x, label, _ = batch()
    x.requires_grad_()
    upstream = torch.ones((), device=DEVICE, requires_grad=True)
    (grad,) = torch.autograd.grad(built("cho")(x, label), x, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


class Operators(TorchDispatchMode):
    """Names of torch's operators that run, except those that only make or look at memory."""

    HARMLESS = {"empty", "detach", "view", "alias", "new_empty", "empty_strided"}

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name not in self.HARMLESS:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU benchmarks/loss.py counts what the device saw")
@pytest.mark.parametrize("dtype", TYPES)
def test_forward_and_backward_are_three_launches_and_none_of_torchs_operators(dtype, monkeypatch):
    from triton.runtime.interpreter import GridExecutor

    launched = []
    launch = GridExecutor.__call__

    def counted(executor, *args, **kwargs):
        launched.append(executor.fn.__name__)
        with torch.utils._python_dispatch._disable_current_modes():  # the interpreter is not part of the loss
            return launch(executor, *args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", counted)
    x, label, weight = batch(dtype)
    module, upstream = built("cho"), torch.ones((), device=DEVICE)
    module.constants(x)  # made once
    x.requires_grad_()
    for average in (4.0, torch.tensor(4.0, device=DEVICE), None):
        x.grad = None
        launched.clear()
        with Operators() as operators, torch.autocast(DEVICE, dtype=torch.bfloat16):
            module(x, label, weight, avg_factor=average).backward(upstream)
        assert len(launched) == 3 and operators.seen == [], (launched, operators.seen)


def test_a_failure_in_the_backward_pass_leaves_it_to_torchs_operators(monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    x, label, weight = batch(torch.float16)
    module = built("cho")
    expected = value_and_gradient(lambda t: module(t, label, weight), x, upstream=3.0)
    monkeypatch.setattr(ecm_kernels, "gradient", full)
    monkeypatch.setattr(ecm_fused, "_failed", False)
    with pytest.warns(UserWarning, match="fused ECM loss is disabled in this process .OSError: no space left"):
        loss, grad = value_and_gradient(lambda t: module(t, label, weight), x, upstream=3.0)
    assert torch.equal(loss, expected[0])
    torch.testing.assert_close(grad, expected[1], rtol=1e-3, atol=1e-7)
    value_and_gradient(lambda t: module(t, label, weight), x, fused=False)  # off, without another warning
    monkeypatch.undo()
