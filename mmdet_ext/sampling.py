"""Which sample each rank sees at each position, and with which random draws: functions of seed and position only.

mmdet's samplers keep their place in the process, draw augmentations from generators whose state no checkpoint
holds, and depend on the number of workers. Here the order of an epoch is computed from (seed, epoch), and every
sample is drawn with generators seeded from (seed, epoch, position). So training can go on in the middle of an
epoch in O(1), and neither workers nor their persistence change a single draw.

Covered: group and plain order as mmdet's ``GroupSampler`` and ``DistributedGroupSampler`` (aspect groups, padding
by repeats). Not covered: class-aware sampling.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

ORDER, DRAW, STEP = 1, 2, 3  # what a stream of random numbers is for: two streams never share a seed


def seed_all(*key: int) -> None:
    """Seed Python, NumPy, torch CPU and (lazily) CUDA from a key of non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed((int(words[2]) << 32) | int(words[3]))


class Order:
    """The order of samples, epoch by epoch.

    Args:
        flags: Aspect group of each sample, shape (N,), integers; samples of a batch share theirs.
        samples_per_rank: Batch size of one rank.
        world_size: Number of ranks.
        seed: The run's seed.
        shuffle: False: ascending indices, for checks.

    Raises:
        ValueError: There are no samples: a training would step for ever on nothing.
    """

    def __init__(self, flags: np.ndarray, samples_per_rank: int, world_size: int, seed: int,
                 shuffle: bool = True) -> None:
        self.flags = np.asarray(flags)
        if not len(self.flags):
            raise ValueError("the training set is empty: no image is left after the dataset's own filtering")
        self.samples_per_rank, self.world_size, self.seed = samples_per_rank, world_size, seed
        self.shuffle = shuffle
        step = samples_per_rank * world_size
        self.iterations = int(sum(-(-int(size) // step) for size in np.bincount(self.flags)))
        """Iterations of one epoch, the same for every rank."""
        self._cache: tuple[int, np.ndarray] | None = None

    def epoch(self, epoch: int) -> np.ndarray:
        """Indices of an epoch, shape (iterations, world_size, samples_per_rank), int64.

        Each group is filled up by repeats to whole global batches, as mmdet does, so that every rank steps
        equally often.
        """
        if self._cache is not None and self._cache[0] == epoch:
            return self._cache[1]
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, ORDER, epoch))))
        step = self.samples_per_rank * self.world_size
        parts = []
        for group in range(int(self.flags.max()) + 1):
            members = np.flatnonzero(self.flags == group)
            if len(members):
                members = generator.permutation(members) if self.shuffle else members
                parts.append(np.resize(members, -(-len(members) // step) * step))
        batches = np.concatenate(parts).reshape(-1, self.samples_per_rank)
        if self.shuffle:
            batches = generator.permutation(batches, axis=0)
        order = batches.reshape(self.iterations, self.world_size, self.samples_per_rank)
        self._cache = (epoch, order)
        return order


class PositionedBatchSampler:
    """Batches of one process as lists of (epoch, position, index), from any place of any epoch.

    ``position`` numbers the samples of an epoch over all ranks: the key of a sample's random draws.

    Args:
        rank: The rank whose batches these are, or several (the virtual ranks that a process plays): then each
            iteration of the training takes one batch of each, in this order.
    """

    def __init__(self, order: Order, rank: int | Sequence[int]) -> None:
        self.order, self.ranks = order, [rank] if isinstance(rank, int) else list(rank)
        self._epoch, self._start = 0, 0

    def begin(self, epoch: int, start: int = 0) -> None:
        """The next iteration over this sampler yields ``epoch`` from its iteration ``start`` on."""
        self._epoch, self._start = epoch, start

    def __len__(self) -> int:
        """Iterations of a whole epoch (not batches), wherever the next iteration starts."""
        return self.order.iterations

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        epoch, start = self._epoch, self._start
        size, world = self.order.samples_per_rank, self.order.world_size
        table = self.order.epoch(epoch)
        for iteration in range(start, self.order.iterations):
            for rank in self.ranks:
                base = (iteration * world + rank) * size
                yield [(epoch, base + k, int(index)) for k, index in enumerate(table[iteration, rank])]


class SeededDataset(torch.utils.data.Dataset):
    """The outermost wrapper of a training set: an item is asked for as (epoch, position, index).

    All generators are seeded from the first two before the sample is made, so the repeats of an image that
    repeat-factor sampling asks for are augmented differently, and each of them always the same.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed
        self.CLASSES = getattr(dataset, "CLASSES", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        epoch, position, index = key
        seed_all(self.seed, DRAW, epoch, position)
        return self.dataset[index]


def group_flags(dataset: Any) -> np.ndarray:
    """Aspect group of each sample (mmdet's ``dataset.flag``), or one group where the dataset has none."""
    flags = getattr(dataset, "flag", None)
    return np.zeros(len(dataset), np.int64) if flags is None else np.asarray(flags, np.int64)
