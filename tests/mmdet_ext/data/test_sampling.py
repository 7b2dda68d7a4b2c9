"""Order, positions and draws: functions of seed, epoch and position, regardless of the caller."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_ext.data.sampling import ClassAwareOrder, Order, PositionedBatchSampler, SeededDataset, group_flags, seed_all

# group sizes: any may be empty, or smaller than one global batch
FEW = settings(max_examples=40)
GROUPS = st.lists(st.integers(0, 23), min_size=1, max_size=4).filter(any)


def flags_of(sizes: list[int], shuffled_by: int = 0) -> np.ndarray:
    flags = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(shuffled_by).permutation(flags)


@FEW
@given(GROUPS, st.integers(1, 4), st.integers(1, 5), st.integers(0, 3), st.integers(0, 9))
def test_every_sample_comes_in_every_epoch_and_the_rest_is_padding_of_its_group(
        sizes, per_rank, world, epoch, seed):
    flags = flags_of(sizes, seed)
    order = Order(flags, per_rank, world, seed)
    table = order.epoch(epoch)
    assert table.shape == (order.iterations, world, per_rank)
    times = Counter(table.ravel().tolist())
    assert set(times) == set(range(len(flags)))
    for group, size in enumerate(sizes):
        of_group = [times[i] for i in np.flatnonzero(flags == group).tolist()]
        step = per_rank * world
        assert sum(of_group) == -(-size // step) * step, "more than what fills up the last global batch"
        assert max(of_group, default=0) - min(of_group, default=0) <= 1, "one sample is repeated before another"


@FEW
@given(GROUPS, st.integers(1, 4), st.integers(1, 5), st.integers(0, 9))
def test_no_batch_of_a_rank_mixes_aspect_groups(sizes, per_rank, world, seed):
    flags = flags_of(sizes, seed)
    of_batch = flags[Order(flags, per_rank, world, seed).epoch(0)]
    assert (of_batch == of_batch[..., :1]).all()


@FEW
@given(GROUPS, st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31), st.integers(0, 1000))
def test_the_order_is_a_function_of_seed_and_epoch_alone(sizes, per_rank, world, seed, epoch):
    flags = flags_of(sizes)
    used = Order(flags, per_rank, world, seed)
    for before in (epoch + 1, 0, epoch):
        used.epoch(before)
    np.random.seed(3)
    assert (used.epoch(epoch) == Order(flags.astype(np.uint8), per_rank, world, seed).epoch(epoch)).all()


def test_epochs_and_seeds_differ():
    flags = flags_of([50, 50])
    tables = [Order(flags, 2, 2, seed).epoch(epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert all((a != b).any() for i, a in enumerate(tables) for b in tables[:i])


def test_groups_are_mixed_over_an_epoch():
    flags = flags_of([200, 200])
    first_half = flags[Order(flags, 1, 1, 0).epoch(0)].ravel()[:200]
    assert 50 < first_half.sum() < 150


def test_an_empty_training_set_is_refused():
    with pytest.raises(ValueError, match="empty"):
        Order(np.zeros(0, np.int64), 2, 2, 0)


def test_the_group_of_a_sample_is_mmdets_flag_and_one_for_all_where_there_is_none():
    class Flagged(list):
        flag = np.array([0, 1, 1], np.uint8)

    assert group_flags(Flagged("abc")).tolist() == [0, 1, 1]
    assert group_flags([7, 7]).tolist() == [0, 0]


# ---------------------------------------------------------------------------------------------- batches of a rank


@FEW
@given(GROUPS, st.integers(1, 3), st.integers(1, 4), st.data())
def test_a_sampler_that_begins_in_the_middle_gives_exactly_the_tail(sizes, per_rank, world, data):
    order = Order(flags_of(sizes), per_rank, world, 5)
    rank = data.draw(st.integers(0, world - 1))
    epoch = data.draw(st.integers(0, 3))
    start = data.draw(st.integers(0, order.iterations))
    sampler, whole = PositionedBatchSampler(order, rank), PositionedBatchSampler(order, rank)
    whole.begin(epoch)
    sampler.begin(epoch, start)
    assert list(sampler) == list(whole)[start:]
    assert len(sampler) == len(whole) == order.iterations


@FEW
@given(GROUPS, st.integers(1, 3), st.integers(1, 4))
def test_the_ranks_share_the_positions_of_an_epoch_out_among_them(sizes, per_rank, world):
    order = Order(flags_of(sizes), per_rank, world, 5)
    seen: dict[int, int] = {}
    for rank in range(world):
        sampler = PositionedBatchSampler(order, rank)
        sampler.begin(4)
        for batch in sampler:
            assert len(batch) == per_rank
            for epoch, position, index in batch:
                assert epoch == 4
                assert position not in seen
                seen[position] = index
    table = order.epoch(4).ravel()
    assert [seen[p] for p in range(len(table))] == table.tolist()


@FEW
@given(GROUPS, st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 6]), st.data())
def test_an_epoch_run_by_changing_numbers_of_processes_draws_the_same_multiset(sizes, per_rank, virtual, data):
    order = Order(flags_of(sizes), per_rank, virtual, 5)
    whole = Counter(key for rank in range(virtual) for batch in from_(order, [rank]) for key in batch)
    stops = data.draw(st.lists(st.integers(0, order.iterations), max_size=3).map(sorted))
    found: Counter[tuple[int, int, int]] = Counter()
    for start, stop in zip([0, *stops], [*stops, order.iterations]):
        count = data.draw(st.sampled_from([n for n in range(1, virtual + 1) if virtual % n == 0]))
        for first in range(0, virtual, count):
            batches = from_(order, range(first, first + count), start=start)
            found.update(key for batch in batches[:(stop - start) * count] for key in batch)
    assert found == whole


def from_(order: Order, ranks: Any, epoch: int = 2, start: int = 0, earlier: Any = ()) -> list[Any]:
    sampler = PositionedBatchSampler(order, list(ranks))
    sampler.begin(epoch, start, earlier)
    return list(sampler)


@FEW
@given(GROUPS, st.integers(1, 3), st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=3),
       st.integers(1, 5))
def test_the_rest_of_an_epoch_is_dealt_out_again_and_only_the_last_iteration_repeats_any(sizes, per_rank, earlier, now):
    flags = flags_of(sizes)
    done: list[tuple[int, int]] = []
    seen: list[tuple[int, int, int]] = []
    for ranks, iterations in earlier:  # as rescaled again and again within one epoch
        order = Order(flags, per_rank, ranks, 5)
        begun = sum(n for _, n in done)
        batches = from_(order, range(ranks), start=begun, earlier=done)
        iterations = min(iterations, len(batches) // ranks - 1)  # an epoch that has ended cannot be continued
        seen += [key for batch in batches[:iterations * ranks] for key in batch]
        done += [(ranks, iterations)] if iterations else []
    order = Order(flags, per_rank, now, 5)
    rest = from_(order, range(now), start=sum(n for _, n in done), earlier=done)
    seen += [key for batch in rest for key in batch]
    whole = {key for batch in from_(Order(flags, per_rank, (done or [(now, 0)])[0][0], 5), range(
        (done or [(now, 0)])[0][0])) for key in batch}
    assert whole <= set(seen), "each sample of the epoch, with the draws that it would have had"
    assert len(seen) == len(set(seen)), "no draw comes twice"
    assert len(seen) - len(whole) < now * per_rank
    assert len(rest) == (order.length(done) - sum(n for _, n in done)) * now


def test_a_begun_iteration_is_not_disturbed_by_the_next_begin():
    sampler = PositionedBatchSampler(Order(flags_of([8]), 2, 1, 0), 0)
    sampler.begin(0)
    running = iter(sampler)
    taken = [next(running)]
    sampler.begin(1, 3)
    taken += running
    assert [epoch for batch in taken for epoch, _, _ in batch] == [0] * 8
    assert len(list(sampler)) == 1


# ---------------------------------------------------------------------------------------------- draws


class Drawing(torch.utils.data.Dataset):
    """What an augmentation can see of the generators, and the sample it is for."""

    CLASSES = ("cat",)

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> list[float]:
        return [float(index), random.random(), float(np.random.rand()), float(torch.rand(()))]


def draws(order: Order, workers: int, persistent: bool, epochs: int = 2, start: int = 0) -> list[list[list[float]]]:
    """All items of some epochs, in order; the first epoch from ``start``."""
    sampler = PositionedBatchSampler(order, 0)
    loader: Any = torch.utils.data.DataLoader(
        SeededDataset(Drawing(), 3), batch_sampler=sampler, num_workers=workers, collate_fn=list,
        persistent_workers=persistent)
    found = []
    for epoch in range(epochs):
        sampler.begin(epoch, start if epoch == 0 else 0)
        found += [item for batch in loader for item in batch]
    return found


ORDER = Order(flags_of([6, 5]), 2, 1, 0)  # 3 + 3 iterations: the second group is filled up by a repeat


def test_draws_depend_on_seed_epoch_and_position_only():
    dataset = SeededDataset(Drawing(), 3)
    there = dataset[(2, 17, 4)]
    seed_all(99)
    dataset[(0, 0, 0)]
    assert dataset[(2, 17, 4)] == there
    assert dataset[(2, 17, 5)][1:] == there[1:]
    others = [dataset[(2, 18, 4)], dataset[(3, 17, 4)], SeededDataset(Drawing(), 4)[(2, 17, 4)]]
    for other in others:
        assert not set(other[1:]) & set(there[1:])


def test_two_repeats_of_one_image_are_drawn_differently_and_the_next_epoch_again():
    items = draws(ORDER, 0, False)
    repeated = Counter(item[0] for item in items)
    assert max(repeated.values()) > 2  # within one epoch, too
    values = [tuple(item[1:]) for item in items]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(("workers", "persistent"), [(1, False), (2, False), (2, True)])
def test_workers_change_no_draw(workers, persistent):
    assert draws(ORDER, workers, persistent) == draws(ORDER, 0, False)


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_of_a_resumed_epoch_are_those_of_the_whole_one(workers):
    whole = draws(ORDER, 0, False)
    assert draws(ORDER, workers, workers > 0, start=4) == whole[8:]


KEYS = st.tuples(*[st.integers(0, 2**32 - 1)] * 3)


@FEW
@given(KEYS, KEYS)
def test_different_keys_seed_different_streams(one, other):
    seed_all(*one)
    first = (random.random(), np.random.rand(), torch.rand(4).tolist())
    seed_all(*other)
    second = (random.random(), np.random.rand(), torch.rand(4).tolist())
    assert (first == second) == (one == other)


def test_the_streams_of_one_seed_are_apart():
    values = []
    for purpose in (1, 2, 3, 4):
        seed_all(0, purpose, 0, 0)
        values.append(random.random())
    assert len(set(values)) == len(values)


def test_a_seed_draws_what_torchs_own_seeding_draws():
    seed_all(3, 1, 4)
    drawn = torch.rand(5)
    words = np.random.SeedSequence((3, 1, 4)).generate_state(4)
    torch.manual_seed((int(words[2]) << 32) | int(words[3]))
    assert torch.equal(drawn, torch.rand(5))


@FEW
@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 5))
def test_without_shuffling_each_rank_gets_the_samples_that_mmdets_sampler_deals_out(size, per_rank, world):
    samplers = pytest.importorskip("mmdet.datasets.samplers")
    order = Order(flags_of([size - size // 3, size // 3], 1), per_rank, world, 0, shuffle=False)
    table = order.epoch(0)
    assert np.array_equal(table, order.epoch(1))
    for rank in range(world):
        theirs = list(samplers.DistributedSampler(range(size), world, rank, shuffle=False, seed=0))
        mine = table[:, rank].ravel().tolist()
        whole = size // world  # behind them is what fills up
        assert mine[:whole] == theirs[:whole] and set(theirs) <= set(mine)


class ByClass:
    """Ten images of four classes, one of which has none."""

    def __len__(self):
        return 10

    def get_cat2imgs(self):
        return {0: [0, 1, 2, 3, 4, 5, 6], 1: [7, 0], 2: [], 3: [8, 9]}


@pytest.mark.parametrize(("per_rank", "world", "per_class"), [(1, 1, 1), (2, 1, 2), (2, 3, 1), (3, 2, 2)])
def test_a_class_aware_order_is_that_of_mmdets_sampler(per_rank, world, per_class):
    samplers = pytest.importorskip("mmdet.datasets.samplers")
    order = ClassAwareOrder(ByClass(), per_rank, world, 5, per_class)
    for epoch in (0, 2):
        for rank in range(world):
            theirs = samplers.ClassAwareSampler(ByClass(), per_rank, world, rank, 5, per_class)
            theirs.set_epoch(epoch)
            assert order.epoch(epoch)[:, rank].ravel().tolist() == list(theirs)
    rest, _ = order.rest(0, [(world + 1, 1)])
    assert rest.shape[1:] == (world, per_rank), "rescaled, the rest of the epoch is dealt out among these"
