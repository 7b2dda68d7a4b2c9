"""The ECM loss against the authors' formula as written and BCE-with-logits: time of forward and backward.

    python benchmarks/loss.py [--rows 1024] [--classes 1203] [--repeats 30] [--threads 1] [--device cpu]
                              [--dtype float32]

All take the same logits and integer labels, and turn the labels into targets themselves. The ECM loss of
`mmdet_ext` is called as mmdet's box head calls it, with label weights and avg_factor, on logits of `--dtype`;
the others get half-precision logits as float32, which is what mmcv's fp16 training does for a box head's loss.
They take turns within one run, so that another load on the machine falls on all alike; the figure is the median
of the turns, in CPU time on a CPU (of all threads), in wall-clock time on a GPU. The counts are Zipf's law from
50,000 down to 1; logits stay within ±8, where the written-out form is finite.

With `--device cuda` the launches of one forward and backward pass are counted, and their time on the device is
summed up; the wall-clock time includes waiting for the device. ECM_LOSS_FUSED=0 shows the loss without Triton.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

from mmdet_ext.loss.ecm_loss import FG_BG_RATIO, EffectiveClassMarginLoss  # noqa: E402

Loss = Callable[[Tensor, Tensor], Tensor]


def zipf_counts(classes: int) -> list[int]:
    return [max(1, round(50_000 / (rank + 1) ** 1.5)) for rank in range(classes)]


def bce(x: Tensor, label: Tensor) -> Tensor:
    """The cheapest stable peer: sigmoid cross-entropy, no margins, no class weights."""
    target = torch.zeros_like(x)
    target[torch.arange(len(x), device=x.device), label] = 1
    return F.binary_cross_entropy_with_logits(x, target, reduction="sum") / len(x)


def through_bce(loss: EffectiveClassMarginLoss, like: Tensor) -> Loss:
    """The ECM loss by way of BCE-with-logits on the shifted logits: stable too, the gradient by autograd."""
    scale, shift, weight = loss.constants(like)

    def value(x: Tensor, label: Tensor) -> Tensor:
        target = torch.zeros_like(x)
        target[torch.arange(len(x), device=x.device), label] = 1
        z = torch.addcmul(shift, scale, x)
        return F.binary_cross_entropy_with_logits(z, target, weight=weight, reduction="sum") / len(x)

    return value


def as_written(counts: list[int], device: str, exponent: float = 0.25) -> Loss:
    """The authors' formula evaluated as in their code: the two margins and all tensors of the logits' shape are made in
    each call, the score and its complement are quotients of exponentials, the class weight is float32."""
    n = torch.tensor(counts, dtype=torch.float32, device=device)
    n = torch.cat([n, n.sum()[None] * FG_BG_RATIO])
    odds_against = (n.sum() - n) / n
    weight = odds_against * ((1 + odds_against) / odds_against).log()

    def loss(x: Tensor, label: Tensor) -> Tensor:
        target = torch.zeros_like(x)
        target[torch.arange(len(x), device=x.device), label] = 1
        p, q = n**exponent, (n.sum() - n) ** exponent
        margin = torch.ones_like(x) * ((p + q) / q).log()
        other_margin = torch.ones_like(x) * ((p + q) / p).log()
        positive, negative = (x + margin).exp(), (-x + other_margin).exp()
        score, rest = positive / (positive + negative), negative / (positive + negative)
        return ((-(score.log() * target + rest.log() * (1 - target))) * weight).sum() / len(x)

    return loss


def in_float32(loss: Loss) -> Loss:
    return lambda x, label: loss(x.float(), label)


def as_a_box_head_calls(module: EffectiveClassMarginLoss, rows: int, device: str) -> Loss:
    ones = torch.ones(rows, device=device)
    return lambda x, label: module(x, label, ones, avg_factor=float(rows))


def kernel_launches(loss: Loss, logits: Tensor, label: Tensor) -> list[tuple[str, float]]:
    """(name, microseconds) of all that the GPU ran for one forward and backward pass: kernels, copies, fills.

    The first pass, which compiles and copies the constants to the device, is not counted. The gradient of the
    loss is made beforehand, as in training it comes from the sum of all losses.

    Raises:
        RuntimeError: the profiler saw nothing, so nothing can be said.
    """
    x = logits.detach().requires_grad_()
    upstream = torch.ones_like(loss(x, label))

    def step() -> None:
        x.grad = None
        loss(x, label).backward(upstream)
        torch.cuda.synchronize()

    for _ in range(2):  # the profiler's own first pass may miss events
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            step()
    launches = [(event.name, event.time_range.elapsed_us()) for event in profiler.events() or []
                if event.device_type == torch.autograd.DeviceType.CUDA]
    if not launches:
        raise RuntimeError("torch's profiler saw no kernel on the GPU; is CUPTI installed and allowed here?")
    return launches


def turn(loss: Loss, logits: Tensor, label: Tensor) -> tuple[float, float]:
    """(seconds of one forward and backward, value of the loss)."""
    x = logits.detach().requires_grad_()
    clock = time.perf_counter if x.is_cuda else time.process_time
    if x.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    value = loss(x, label)
    value.backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - start, value.item()


def timed(losses: dict[str, Loss], logits: Tensor, label: Tensor, repeats: int) -> None:
    """Print a line for each loss; the first one is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    values: dict[str, float] = {}
    for repeat in range(repeats + 3):
        for name, loss in losses.items():
            took, values[name] = turn(loss, logits, label)
            if repeat >= 3:  # the first turns warm the allocator and the caches
                seconds[name].append(took)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    ours = next(iter(median.values()))
    print(f"{'loss':<18}{'median ms':>11}{'min ms':>9}{'over mmdet_ext':>16}{'value':>12}")
    for name in losses:
        ms, least = 1e3 * median[name], 1e3 * min(seconds[name])
        print(f"{name:<18}{ms:>11.2f}{least:>9.2f}{median[name] / ours:>15.2f}x{values[name]:>12.4f}")
    for name, loss in losses.items() if logits.is_cuda else ():
        launches = kernel_launches(loss, logits, label)
        print(f"{name}: {len(launches)} launches, {sum(us for _, us in launches):.1f} us on the device")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", type=int, default=1024, help="sampled boxes in a batch (default: 1024)")
    parser.add_argument("--classes", type=int, default=1203, help="classes, the background not counted")
    parser.add_argument("--repeats", type=int, default=30, help="turns of each loss (default: 30)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"],
                        help="type of the logits (default: float32)")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device {args.device}: torch finds no GPU here; use --device cpu")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    logits = (2 * torch.randn(args.rows, args.classes + 1)).clamp(-8, 8)
    logits = logits.to(args.device, getattr(torch, args.dtype))
    label = torch.randint(0, args.classes + 1, (args.rows,)).to(args.device)
    counts = zipf_counts(args.classes)
    ecm = EffectiveClassMarginLoss(class_counts=counts)
    shape = f"{args.rows} x {args.classes + 1} {args.dtype}"
    where = torch.cuda.get_device_name(args.device) if logits.is_cuda else f"cpu, {args.threads} thread(s)"
    print(f"forward and backward, {shape}, {where}, torch {torch.__version__}")
    timed({
        "ECM, mmdet_ext": as_a_box_head_calls(ecm, args.rows, args.device),
        "ECM, through BCE": in_float32(through_bce(ecm, logits)),
        "ECM, as written": in_float32(as_written(counts, args.device)),
        "BCE with logits": in_float32(bce),
    }, logits, label, args.repeats)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
