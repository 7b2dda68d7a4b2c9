"""The ECM loss against BCE-with-logits and the loss as the paper writes it: time of forward and backward.

    python benchmarks/loss.py [--rows 1024] [--classes 1203] [--repeats 30] [--threads 1] [--device cpu]

All take the same float32 logits and integer labels, and turn the labels into targets themselves. They take
turns within one run, so that another load on the machine falls on all alike; the figure is the median of the
turns. The counts are Zipf's law from 50,000 down to 1; logits stay within ±8, where the written-out form is
finite.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout needs no install

from mmdet_ext.ecm_loss import FG_BG_RATIO, EffectiveClassMarginLoss  # noqa: E402

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


def written_out(counts: list[int], device: str) -> Loss:
    """Equations 8 to 11 of the paper, term by term, with constants made beforehand."""
    n = torch.tensor(counts, dtype=torch.float64)
    n = torch.cat([n, n.sum()[None] * FG_BG_RATIO])
    other = n.sum() - n
    w_pos = ((n**0.25 + other**0.25) / other**0.25).float().to(device)
    w_neg = ((n**0.25 + other**0.25) / n**0.25).float().to(device)
    weight = (other / n * torch.log1p(n / other)).float().to(device)

    def loss(x: Tensor, label: Tensor) -> Tensor:
        target = torch.zeros_like(x)
        target[torch.arange(len(x), device=x.device), label] = 1
        positive, negative = w_pos * x.exp(), w_neg * (-x).exp()
        score, rest = positive / (positive + negative), negative / (positive + negative)
        return -((target * score.log() + (1 - target) * rest.log()) * weight).sum() / len(x)

    return loss


def turn(loss: Loss, logits: Tensor, label: Tensor) -> tuple[float, float]:
    """(seconds of one forward and backward, value of the loss)."""
    x = logits.detach().requires_grad_()
    if x.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    value = loss(x, label)
    value.backward()
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, value.item()


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", type=int, default=1024, help="sampled boxes in a batch (default: 1024)")
    parser.add_argument("--classes", type=int, default=1203, help="classes, the background not counted")
    parser.add_argument("--repeats", type=int, default=30, help="turns of each loss (default: 30)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    logits = (2 * torch.randn(args.rows, args.classes + 1)).clamp(-8, 8).to(args.device)
    label = torch.randint(0, args.classes + 1, (args.rows,)).to(args.device)
    counts = zipf_counts(args.classes)
    ecm = EffectiveClassMarginLoss(class_counts=counts)
    losses: dict[str, Loss] = {
        "ECM, mmdet_ext": ecm,
        "ECM, through BCE": through_bce(ecm, logits),
        "ECM, written out": written_out(counts, args.device),
        "BCE with logits": bce,
    }
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    values: dict[str, float] = {}
    for repeat in range(args.repeats + 3):
        for name, loss in losses.items():
            took, values[name] = turn(loss, logits, label)
            if repeat >= 3:  # the first turns warm the allocator and the caches
                seconds[name].append(took)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    ours = median["ECM, mmdet_ext"]
    shape = f"{args.rows} x {args.classes + 1} float32"
    print(
        f"forward and backward, {shape}, {args.device}, {args.threads} thread(s), torch {torch.__version__}"
    )
    print(f"{'loss':<18}{'median ms':>11}{'min ms':>9}{'over mmdet_ext':>16}{'value':>12}")
    for name in losses:
        ms, least = 1e3 * median[name], 1e3 * min(seconds[name])
        print(f"{name:<18}{ms:>11.2f}{least:>9.2f}{median[name] / ours:>15.2f}x{values[name]:>12.4f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
