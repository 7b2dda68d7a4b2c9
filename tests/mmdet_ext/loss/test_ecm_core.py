"""The core is exact to the last bits: in the constants of the rarest classes, and for every size of logit."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")

from mmdet_ext.loss.ecm_core import ShiftedSigmoidLoss, margins  # noqa: E402


def test_constants_of_the_rarest_classes_are_exact():
    positives = torch.tensor([1.0, 9.0, 1_270_131.0, 8_041_644.0], dtype=torch.float64)
    shift, weight = margins(positives, 0.25)
    odds = (1 / (positives.sum() - 1)).item()
    # log(1 + o) / o as a series; 1 + o in float64 would be wrong in the tenth digit
    assert weight[0].item() == pytest.approx(1 - odds / 2 + odds**2 / 3, rel=1e-15)
    assert shift[0].item() == pytest.approx(0.25 * np.log(odds), rel=1e-15)
    assert (
        (weight > 0).all() and (weight < 1).all() and (weight.diff() < 0).all() and (shift.diff() > 0).all()
    )


@pytest.mark.parametrize(("dtype", "reach"), [(torch.float64, 745.0), (torch.float32, 103.0)])
@pytest.mark.parametrize("label", [0, 1])
def test_every_size_of_logit_is_exact_to_a_few_last_bits(dtype, reach, label):
    """Far tails too: no value is a difference of two large ones, and no threshold cuts one off."""
    x = torch.cat([torch.linspace(-reach, reach, 20_001), torch.tensor([-1e4, 1e4])]).to(dtype)[:, None]
    one, zero = torch.ones(2, dtype=dtype), torch.zeros(2, dtype=dtype)
    logits = torch.cat([x, torch.full_like(x, -1e4)], dim=1).requires_grad_()
    rows = torch.full((len(x),), label)
    if label:  # the second column is the label's: keep it silent, the first stands for the rest
        logits = torch.cat([x, torch.full_like(x, 1e4)], dim=1).requires_grad_()
    loss = ShiftedSigmoidLoss.apply(logits, rows, one, zero, one)
    loss.sum().backward()
    u = x[:, 0].numpy().astype(np.longdouble) * (1 if label else -1)
    exact = np.logaddexp(np.longdouble(0), u)
    slope = np.exp(u - exact) * (1 if label else -1)
    info = torch.finfo(dtype)
    np.testing.assert_allclose(loss.detach().numpy(), exact, rtol=4 * info.eps, atol=info.tiny)
    np.testing.assert_allclose(logits.grad[:, 0].numpy(), slope, rtol=4 * info.eps, atol=info.tiny)
