"""Which sample each rank sees at each position, and with which random draws: functions of seed and position only.

mmdet's samplers keep their place in the process, draw augmentations from generators whose state no checkpoint
holds, and depend on the number of workers. Here the order of an epoch is computed from (seed, epoch), and every
sample is drawn with generators seeded from (seed, epoch, position). So training can continue in the middle of an
epoch in O(1), and neither workers nor their persistence change a single draw.

Covered: group and plain order as mmdet's ``GroupSampler`` and ``DistributedGroupSampler`` (aspect groups, padding
by repeats), no shuffling, and class-aware sampling.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .samples import bad_sample

ORDER, DRAW, STEP = 1, 2, 3  # what a stream of random numbers is for: two streams never share a seed


def seed_all(*key: int) -> None:
    """Seed Python, NumPy, torch CPU and (lazily) CUDA from a key of non-negative integers."""
    words = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    # not torch.manual_seed: for each kind of device that is not in use it takes note of the whole stack, which costs
    # more than all the rest here, and this is called for each sample and each step
    seed = (int(words[2]) << 32) | int(words[3])
    torch.default_generator.manual_seed(seed)
    if not torch.cuda._is_in_bad_fork() and _has_cuda():
        torch.cuda.manual_seed_all(seed)


@functools.lru_cache(maxsize=None)
def _has_cuda() -> bool:
    return torch.cuda.is_available()


class Order:
    """The order of samples, epoch by epoch.

    Args:
        flags: Aspect group of each sample, shape (N,), integers; samples of a batch share theirs.
        samples_per_rank: Batch size of one rank.
        world_size: Number of ranks.
        seed: The run's seed.
        shuffle: False: ascending indices without regard to groups, as mmdet's ``DistributedSampler`` deals them out;
            only the last batches are filled up by repeats.

    Raises:
        ValueError: There are no samples: a training would step indefinitely on nothing.
    """

    def __init__(self, flags: np.ndarray, samples_per_rank: int, world_size: int, seed: int,
                 shuffle: bool = True) -> None:
        self.flags = np.asarray(flags) if shuffle else np.zeros(len(flags), np.int64)
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
        self._cache = (epoch, self._make(epoch))
        return self._cache[1]

    def _make(self, epoch: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, ORDER, epoch))))
        step = self.samples_per_rank * self.world_size
        if not self.shuffle:
            ascending = np.resize(np.arange(len(self.flags)), self.iterations * step)
            return ascending.reshape(self.iterations, self.samples_per_rank, self.world_size).transpose(0, 2, 1)
        parts = []
        for group in range(int(self.flags.max()) + 1):
            members = np.flatnonzero(self.flags == group)
            if len(members):
                members = generator.permutation(members)
                parts.append(np.resize(members, -(-len(members) // step) * step))
        batches = generator.permutation(np.concatenate(parts).reshape(-1, self.samples_per_rank), axis=0)
        return batches.reshape(self.iterations, self.world_size, self.samples_per_rank)

    def length(self, earlier: Sequence[Sequence[int]] = ()) -> int:
        """Iterations of an epoch that other numbers of ranks have begun; see :meth:`rest`."""
        left = self._first(earlier).batches - sum(ranks * iterations for ranks, iterations in earlier)
        return sum(iterations for _, iterations in earlier) + -(-left // self.world_size)

    def rest(self, epoch: int, earlier: Sequence[Sequence[int]] = ()) -> tuple[np.ndarray, np.ndarray]:
        """What is left of an epoch that other numbers of ranks have begun, dealt out among those of this order.

        Every batch keeps its place in the order that the epoch began with, and so its samples their draws. What fills
        up the last iteration repeats some, at places behind all others.

        Args:
            earlier: (ranks, iterations) of each number of ranks before this one; none: all of the epoch is left.

        Returns:
            Indices, shape (iterations, world_size, samples_per_rank), and the position in the epoch of the first
            sample of each batch, shape (iterations, world_size); both int64.
        """
        batches = self._first(earlier).epoch(epoch).reshape(-1, self.samples_per_rank)
        done = sum(ranks * iterations for ranks, iterations in earlier)
        fill = -(len(batches) - done) % self.world_size
        left = np.concatenate([batches[done:], np.resize(batches[done:], (fill, self.samples_per_rank))])
        places = np.arange(done, len(batches) + fill) * self.samples_per_rank
        return left.reshape(-1, self.world_size, self.samples_per_rank), places.reshape(-1, self.world_size)

    def _first(self, earlier: Sequence[Sequence[int]]) -> Order:
        """The order that an epoch began with."""
        ranks = earlier[0][0] if earlier else self.world_size
        return self if ranks == self.world_size else self._for(ranks)

    def _for(self, ranks: int) -> Order:
        return Order(self.flags, self.samples_per_rank, ranks, self.seed, self.shuffle)

    @property
    def batches(self) -> int:
        """Batches of one epoch, of all ranks together."""
        return self.iterations * self.world_size


class ClassAwareOrder(Order):
    """The order of mmdet's ``ClassAwareSampler``, epoch by epoch: classes take turns, images without regard to groups.

    Args:
        dataset: It has ``get_cat2imgs``, as mmdet's.
        per_class: Images of a class in each of its turns (``num_sample_class``).
    """

    def __init__(self, dataset: Any, samples_per_rank: int, world_size: int, seed: int, per_class: int = 1) -> None:
        super().__init__(np.zeros(len(dataset), np.int64), samples_per_rank, world_size, seed)
        self.dataset, self.per_class = dataset, per_class

    def _make(self, epoch: int) -> np.ndarray:
        from mmdet.datasets.samplers import ClassAwareSampler

        # one replica with the batch of all ranks: it draws the same list, and each rank has a stretch of it
        sampler = ClassAwareSampler(self.dataset, self.samples_per_rank * self.world_size, 1, 0, self.seed,
                                    self.per_class)
        sampler.set_epoch(epoch)
        drawn = np.fromiter(sampler, np.int64)
        return drawn.reshape(self.world_size, self.iterations, self.samples_per_rank).transpose(1, 0, 2)

    def _for(self, ranks: int) -> Order:
        return ClassAwareOrder(self.dataset, self.samples_per_rank, ranks, self.seed, self.per_class)


class PositionedBatchSampler:
    """Batches of one process as lists of (epoch, position, index), from any place of any epoch.

    ``position`` numbers the samples of an epoch over all ranks: the key of a sample's random draws.

    Args:
        rank: The rank whose batches these are, or several (the virtual ranks that are assigned to a process): then each
            iteration of the training takes one batch of each, in this order.
    """

    def __init__(self, order: Order, rank: int | Sequence[int]) -> None:
        self.order, self.ranks = order, [rank] if isinstance(rank, int) else list(rank)
        self.sampler = self  # hooks look for the sampler in a batch sampler, to tell it of the epoch
        self.batch_size, self.drop_last = order.samples_per_rank, False
        self.begin(0)

    def begin(self, epoch: int, start: int = 0, earlier: Sequence[Sequence[int]] = ()) -> None:
        """The next iteration over this sampler yields ``epoch`` from its iteration ``start`` on.

        Args:
            earlier: (ranks, iterations) of each other number of ranks that has had a part of this epoch.
        """
        self._epoch, self._start, self._earlier = epoch, start, tuple(earlier)
        self._length = self.order.length(self._earlier)

    @property
    def per_epoch(self) -> int:
        """Iterations of an epoch that begins with these ranks."""
        return self.order.iterations

    def __len__(self) -> int:
        """Iterations of the whole epoch (not batches), wherever the next iteration starts."""
        return self._length

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        epoch = self._epoch
        table, places = self.order.rest(epoch, self._earlier)
        for iteration in range(self._start - sum(iterations for _, iterations in self._earlier), len(table)):
            for rank in self.ranks:
                base = int(places[iteration, rank])
                yield [(epoch, base + k, int(index)) for k, index in enumerate(table[iteration, rank])]


class SeededDataset(torch.utils.data.Dataset):
    """The outermost wrapper of a training set: an item is asked for as (epoch, position, index).

    All generators are seeded from the first two before the sample is made, so the repeats of an image that
    repeat-factor sampling asks for are augmented differently, and each of them always the same.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, int]) -> Any:
        epoch, position, index = key
        seed_all(self.seed, DRAW, epoch, position)
        try:
            return self.dataset[index]
        except Exception as error:
            raise bad_sample(error, self.dataset, index) from error


def group_flags(dataset: Any) -> np.ndarray:
    """Aspect group of each sample (mmdet's ``dataset.flag``), or one group where the dataset has none."""
    flags = getattr(dataset, "flag", None)
    return np.zeros(len(dataset), np.int64) if flags is None else np.asarray(flags, np.int64)
