"""The ECM losses on the device: equal to the originals, in every type, in few kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import ecm_originals
from golden.ecm_originals import CASES, NAMES, golden

LAUNCHES = 3  # forward and backward


def built(which: str, data: dict[str, np.ndarray]) -> torch.nn.Module:
    return ecm_originals.built(NAMES[which], data["counts"], fg_bg_ratio=float(data["fg_bg_ratio"]))


def value_and_gradient(module: torch.nn.Module, x: torch.Tensor, labels: torch.Tensor):
    x = x.clone().requires_grad_()
    loss = module(x, labels)
    loss.backward()
    return loss.detach().cpu(), x.grad.cpu()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", NAMES)
def test_in_float32_it_is_the_original(case, which, device):
    data = golden(case)
    x, labels = torch.from_numpy(data["cls_score"]).float().to(device), torch.from_numpy(data["labels"]).to(device)
    loss, gradient = value_and_gradient(built(which, data).to(device), x, labels)
    np.testing.assert_allclose(loss.item(), data[f"{which}_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient.numpy(), data[f"{which}_grad"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("which", NAMES)
def test_in_half_types_it_is_the_original_of_the_rounded_scores(which, dtype, device):
    data = golden("zipf_sixty")
    scores, labels = torch.from_numpy(data["cls_score"]).to(dtype), torch.from_numpy(data["labels"])
    # other tests hold the float64 loss on the CPU to the golden data
    expected = value_and_gradient(built(which, data), scores.double(), labels)
    loss, gradient = value_and_gradient(built(which, data).to(device), scores.to(device), labels.to(device))
    assert loss.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(loss.double(), expected[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), expected[1], rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_it_stays_right_and_is_finite_for_extreme_scores(dtype, device):
    data = golden("zipf_sixty")
    module = built("cho", data).to(device)
    x, labels = torch.from_numpy(data["cls_score"]).float().to(device), torch.from_numpy(data["labels"]).to(device)
    with torch.autocast(device, dtype=dtype):
        loss, gradient = value_and_gradient(module, x, labels)
        assert all(t.isfinite().all() for t in value_and_gradient(module, (1e4 * x.sign()).to(dtype), labels))
    np.testing.assert_allclose(loss.item(), data["cho_loss"], rtol=1e-5)
    np.testing.assert_allclose(gradient.numpy(), data["cho_grad"], rtol=1e-4, atol=1e-7)


def kernels(call) -> list[str]:
    """Names of the kernels that a call launches; copies and fills count as well."""
    for _ in range(2):  # the profiler may miss what its first pass launches
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
    return [event.name for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_forward_and_backward_take_at_most_three_kernels(dtype, device, needs_gpu, say):
    data = golden("zipf_sixty")
    module = built("cho", data).to(device)
    labels = torch.randint(0, len(data["counts"]) + 1, (1024,), device=device)
    scores = torch.randn(1024, len(data["counts"]) + 1, device=device, dtype=dtype)
    upstream = torch.ones((), device=device)

    def step() -> None:
        x = scores.detach().requires_grad_()
        module(x, labels).backward(upstream)

    for _ in range(3):  # compiles, and fills caches
        step()
    if not kernels(lambda: torch.ones(8, device=device)):
        pytest.skip("torch's profiler sees no kernels on this machine")
    launched = kernels(step)
    say("measured", f"{dtype}: {len(launched)} kernels forward and backward: {', '.join(n[:60] for n in launched)}")
    assert len(launched) <= LAUNCHES
