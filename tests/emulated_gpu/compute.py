"""Operators on emulated CUDA tensors, computed on the CPU in the same memory; see :mod:`emulated_gpu`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# what needs no kernel on a GPU either: memory, views, and what goes to a process group
NATIVE = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "alias", "lift_fresh",
          "set_", "record_stream", "is_pinned", "_pin_memory", "resize_", "is_same_size", "_has_same_storage_numel"}
# where a GPU takes tensors of the CPU, too
MIXED = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "_local_scalar_dense"}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from tensors(inner)


def replaced(value: Any, by: Callable[[torch.Tensor], Any]) -> Any:
    """The same structure with other tensors."""
    if isinstance(value, torch.Tensor):
        return by(value)
    if isinstance(value, dict):
        return {key: replaced(inner, by) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replaced(inner, by) for inner in value)
    return value


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a CUDA tensor as a tensor of the CPU."""
    if not tensor.is_cuda:
        return tensor
    storage = tensor.untyped_storage()
    host = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), torch.device("cpu"), storage.nbytes())
    alias = torch.empty(0, dtype=tensor.dtype).set_(host, tensor.storage_offset(), tensor.size(), tensor.stride())
    return alias


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a CPU tensor on a GPU."""
    made = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
    on_host(made).copy_(tensor)
    return made


@functools.lru_cache(maxsize=None)
def is_native(func: Any) -> bool:
    returns = func._schema.returns
    view = bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    return view or func.namespace == "c10d" or func._schema.name.split("::")[1] in NATIVE


@functools.lru_cache(maxsize=None)
def returned_arguments(func: Any) -> list[int | str | None]:
    """For each result of an operator the argument that it is, if it is one."""
    found: list[int | str | None] = []
    for result in func._schema.returns:
        sets = result.alias_info.before_set if result.alias_info is not None else set()
        found.append(next((a.name if a.kwarg_only else i for i, a in enumerate(func._schema.arguments)
                           if a.alias_info is not None and a.alias_info.before_set & sets), None))
    return found


class Computing(TorchDispatchMode):
    """Runs each operator that has a CUDA tensor, or makes one, on the CPU."""

    runtime: Any = None

    def raise_pending(self) -> None:
        """What PyTorch does after each launch: an error that an earlier call left behind surfaces here."""
        error = self.runtime.cudaGetLastError()
        if error:
            raise RuntimeError(f"CUDA error: {error}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = list(tensors((args, kwargs)))
        devices = {t.device for t in given if t.is_cuda}
        named = kwargs.get("device")
        wanted = torch.device(named) if named is not None else None
        name = func._schema.name.split("::")[1]
        if name == "_allgather_base_":  # NCCL takes any shape of the output, gloo cuts it along its first dimension
            return args[0], func(args[0].view(-1), args[1].reshape(-1), *args[2:], **kwargs)[1]
        if not (devices or (wanted is not None and wanted.type == "cuda")) or is_native(func):
            return func(*args, **kwargs)
        if name not in MIXED:
            devices |= {t.device for t in given if not t.is_cuda and t.dim()}
            if len(devices) > 1:
                raise RuntimeError("Expected all tensors to be on the same device, but found at least two devices, "
                                   f"{' and '.join(sorted(map(str, devices)))}! ({name})")
            self.raise_pending()
        target = wanted if wanted is not None else next(t.device for t in given if t.is_cuda)
        host_kwargs = replaced(kwargs, on_host)
        if wanted is not None:
            host_kwargs["device"] = torch.device("cpu")
        results = KERNELS.get(name, func)(*replaced(args, on_host), **host_kwargs)
        if results is None:
            return None
        many = isinstance(results, (list, tuple)) and len(func._schema.returns) > 1
        originals = returned_arguments(func)
        out = []
        for result, source in zip(results if many else [results], originals):
            if source is not None:
                out.append(args[source] if isinstance(source, int) else kwargs[source])
            else:
                out.append(replaced(result, lambda t: on_device(t, target) if target.type == "cuda" else t))
        return type(results)(out) if many else out[0]


# ------------------------------------------------------------- what PyTorch has for GPUs alone: SyncBatchNorm


def _channels(x: torch.Tensor) -> tuple[list[int], list[int]]:
    return [d for d in range(x.dim()) if d != 1], [-1 if d == 1 else 1 for d in range(x.dim())]


def batch_norm_stats(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    dims, _ = _channels(x)
    return x.float().mean(dims), (x.float().var(dims, unbiased=False) + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
        x: torch.Tensor, mean: torch.Tensor, invstd: torch.Tensor, running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None, momentum: float, eps: float, counts: torch.Tensor) -> Any:
    n = counts.reshape(-1, 1).float()
    total = n.sum()
    center = (mean * n).sum(0) / total
    variance = ((invstd.pow(-2) - eps + (mean - center).square()) * n).sum(0) / total
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(center.to(running_mean), momentum)
        running_var.lerp_((variance * total / (total - 1)).to(running_var), momentum)
    return center, (variance + eps).rsqrt()


def batch_norm_elemt(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, mean: torch.Tensor,
                     invstd: torch.Tensor, eps: float) -> torch.Tensor:
    _, shape = _channels(x)
    out = (x - mean.view(shape)) * invstd.view(shape)
    return (out if weight is None else out * weight.view(shape) + bias.view(shape)).to(x.dtype)  # type: ignore


def batch_norm_backward_reduce(grad: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, invstd: torch.Tensor,
                               weight: torch.Tensor | None, input_g: bool, weight_g: bool, bias_g: bool) -> Any:
    dims, shape = _channels(x)
    sum_dy, sum_dy_xmu = grad.float().sum(dims), (grad * (x - mean.view(shape))).float().sum(dims)
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def batch_norm_backward_elemt(grad: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, invstd: torch.Tensor,
                              weight: torch.Tensor | None, sum_dy: torch.Tensor, sum_dy_xmu: torch.Tensor,
                              counts: torch.Tensor) -> torch.Tensor:
    _, shape = _channels(x)
    total = counts.sum()
    centred = (x - mean.view(shape)) * (invstd.square() * sum_dy_xmu / total).view(shape)
    scale = invstd if weight is None else invstd * weight
    return ((grad - (sum_dy / total).view(shape) - centred) * scale.view(shape)).to(x.dtype)


KERNELS: dict[str, Any] = {f.__name__: f for f in (
    batch_norm_stats, batch_norm_gather_stats_with_counts, batch_norm_elemt, batch_norm_backward_reduce,
    batch_norm_backward_elemt)}


# ------------------------------------------------------------- libraries that do not go through the dispatcher


class Nccl(distributed_c10d.ProcessGroupGloo):
    """Stands for ProcessGroupNCCL: PyTorch gives it CUDA tensors alone, and gloo carries them."""

    Options = distributed_c10d.ProcessGroupNCCL.Options
    made: list[Any] = []  # PyTorch's C++ keeps the gloo group alone

    def __init__(self, store: Any, rank: int, size: int, options: Any) -> None:
        super().__init__(store, rank, size, options._timeout)
        self.made.append(self)

    def _shutdown(self) -> None:
        pass


def wrap_mmcv_operators() -> None:
    """mmcv's compiled operators: their CPU versions on the memory of CUDA tensors."""
    from mmcv import _ext

    def computed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = list(tensors((args, kwargs)))
            devices = {t.device for t in given}
            if not any(t.is_cuda for t in given):
                return function(*args, **kwargs)
            if len(devices) > 1:
                raise RuntimeError(f"{function.__name__}: tensors on {' and '.join(sorted(map(str, devices)))}")
            result = function(*replaced(args, on_host), **replaced(kwargs, on_host))
            return replaced(result, lambda t: on_device(t, given[0].device))
        return call

    for name, function in vars(_ext).items():
        if callable(function) and not name.startswith("get_"):
            setattr(_ext, name, computed(function))


MODE = Computing()  # PyTorch keeps no reference to it where it sets modes aside for a while


def activate(runtime: Any) -> None:
    """From now on this thread, and the threads of its backward passes, compute CUDA tensors.

    Args:
        runtime: What :func:`emulated_gpu.interpose` returned.
    """
    MODE.runtime = runtime
    torch.backends.cudnn.enabled = False  # its batch normalisation is an operator of its own
    dist.distributed_c10d.ProcessGroupNCCL = Nccl  # type: ignore
    wrap_mmcv_operators()
    MODE.__enter__()
