"""The fused ECM loss on a machine without a GPU: interpreted, compiled for GPUs, and where it cannot run at all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from golden.ecm_originals import COUNTS

torch = pytest.importorskip("torch")
pytest.importorskip("mmdet")

from mmdet.models.builder import build_loss  # noqa: E402

import mmdet_ext.loss  # noqa: E402
import mmdet_ext.register  # noqa: E402, F401
from mmdet_ext.loss import ecm_fused  # noqa: E402

HERE = Path(__file__).parent


@pytest.fixture
def fresh(monkeypatch):
    """As a process that has not tried the kernels yet."""
    monkeypatch.setattr(ecm_fused, "_failed", False)
    monkeypatch.delenv("ECM_LOSS_FUSED", raising=False)
    return monkeypatch


def loss_of(x: torch.Tensor) -> torch.Tensor:
    return build_loss(dict(type="EffectiveClassMarginLoss", class_counts=COUNTS))(x, torch.arange(len(x)))


def has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


needs_triton = pytest.mark.skipif(not has_triton(), reason="torch's CPU builds come without Triton")


@needs_triton
@pytest.mark.slow
def test_the_kernels_are_right_in_tritons_interpreter():
    """A process of its own, as Triton decides once, at its import, whether it interprets."""
    env = {**os.environ, "TRITON_INTERPRET": "1", "ECM_LOSS_FUSED": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-rA"]
    done = subprocess.run([*command, str(HERE / "fused_cases.py")], cwd=HERE.parents[2], env=env,
                          capture_output=True, text=True)
    summary = re.search(r"(\d+) passed(?!.*(failed|skipped|error))", done.stdout)
    assert done.returncode == 0 and summary and int(summary[1]) > 100, done.stdout[-5000:] + done.stderr[-2000:]


OUT = {"_row_losses": "*fp32", "_slopes": "*{x}", "_sum_of_rows": "*fp32"}
TYPES = dict(x="*{x}", label="*i64", row_weight="*fp32", scale="*fp32", shift="*fp32", weight="*fp32",
             row_stride="i32", column_stride="i32", factor="fp32", upstream="*fp32", upstream_stride="i32",
             average="*fp32", divisor="fp32", rows="*fp32", count="i32")


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("optional", [True, False])
@pytest.mark.parametrize(("kernel", "dtype"), [("_sum_of_rows", "fp32")] + [
    (kernel, dtype) for kernel in ("_row_losses", "_slopes") for dtype in ("fp32", "fp16", "bf16")])
def test_the_kernels_compile_for_gpus(kernel, dtype, capability, optional, tmp_path, monkeypatch):
    """To machine code, with the assembler that Triton brings along; no GPU is needed for it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mmdet_ext.loss import ecm_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(ecm_kernels, kernel)
    types = {name: kind.format(x=dtype) for name, kind in {**TYPES, "out": OUT[kernel]}.items()}
    constants = {"columns": 1204, "BLOCK": ecm_kernels._BLOCK}
    if not optional:
        constants.update(row_weight=None, average=None, column_stride=1)  # as Triton does with a stride of 1
    constants = {name: value for name, value in constants.items() if name in function.arg_names}
    signature = {name: "constexpr" if name in constants else types[name] for name in function.arg_names}
    built = triton.compile(ASTSource(function, signature, constants), target=GPUTarget("cuda", capability, 32))
    code = built.asm["ptx"]
    assert built.asm["cubin"] and f".target sm_{capability}" in code
    # neither sums in an order of chance, nor arithmetic that these GPUs are slow at
    assert not re.search(r"\b(atom|red)\.", code) and not re.search(r"\.f64\b", code)


@needs_triton
def test_where_the_kernels_cannot_run_torchs_operators_do_with_one_warning(fresh):
    """Compiled kernels on a CPU: Triton itself refuses, as it does without a compiler or a driver."""
    x = torch.randn(3, 7, requires_grad=True)
    expected = loss_of(x)
    fresh.setenv("ECM_LOSS_FUSED", "1")
    with pytest.warns(UserWarning, match=r"ECM loss is disabled in this process \(\w+: .+ECM_LOSS_FUSED=0") as said:
        assert torch.equal(loss_of(x), expected)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(loss_of(x), expected)


def test_without_triton_torchs_operators_do_it_with_one_warning(fresh):
    fresh.setitem(sys.modules, "triton", None)  # as where it is not installed
    fresh.delitem(sys.modules, "mmdet_ext.loss.ecm_kernels", raising=False)
    fresh.delattr(mmdet_ext.loss, "ecm_kernels", raising=False)
    x = torch.randn(3, 7)
    expected = loss_of(x)
    fresh.setenv("ECM_LOSS_FUSED", "1")
    with pytest.warns(UserWarning, match="disabled in this process .*triton"):
        assert torch.equal(loss_of(x), expected)


@pytest.mark.parametrize("switch", [None, "0"])
def test_a_cpu_neither_tries_the_kernels_nor_imports_triton(fresh, switch):
    fresh.delitem(sys.modules, "mmdet_ext.loss.ecm_kernels", raising=False)
    if switch:
        fresh.setenv("ECM_LOSS_FUSED", switch)
    x = torch.randn(3, 7, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of(x).backward()
    assert x.grad is not None and "mmdet_ext.loss.ecm_kernels" not in sys.modules
