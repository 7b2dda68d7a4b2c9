"""A real detector on real ranks, stopped anywhere and taken up again, ends in the same bits; on fewer ranks, too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import bits, log_lines, state_in
from processes.ranks import detector, notes, state_file, train
from small import first_images

from ecm_cluster.rundir.run import Run

pytestmark = pytest.mark.slow

IMAGES = 10  # of both orientations


@pytest.fixture(scope="module")
def few(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first images of the small data: an epoch of a few iterations."""
    return first_images(small_data, tmp_path_factory.mktemp("few"), IMAGES)


def end(run: Run) -> dict[str, Any]:
    """The last state of a run, without what the clock and the attempts decide."""
    return state_in(state_file(run, run.newest_attempt()))


def hooks(kind: str) -> list[dict[str, Any]]:
    # before the logger, after the optimizer: as mmdet's configs place it
    return [{"type": kind, "momentum": 0.1, "priority": 49}]


CASES: dict[str, tuple[int, list[int], str, dict[str, Any]]] = {
    "1 rank, ECM, two workers that stay": (1, [1, 9], "ecm", {
        "data__workers_per_gpu": 2, "data__train_dataloader": {"persistent_workers": True}}),
    "2 ranks, seesaw, EMA": (2, [2, 6], "seesaw", {"custom_hooks": hooks("ExpMomentumEMAHook")}),
    "3 ranks, cross-entropy, two workers": (3, [1, 4], "ce", {"data__workers_per_gpu": 2}),
    "4 ranks, ECM, EMA": (4, [2], "ecm", {"custom_hooks": hooks("LinearMomentumEMAHook")}),
    "3 ranks, seesaw, by iterations": (3, [3], "seesaw", {"iterations": True}),
    "2 ranks, ECM, EMA, by iterations": (2, [4], "ecm", {
        "iterations": True, "custom_hooks": hooks("ExpMomentumEMAHook")}),
}


def config_of(data: Path, loss: str, options: dict[str, Any]) -> dict[str, Any]:
    options = {**options, "data__train__oversample_thr": 0.6}
    by_iteration = options.pop("iterations", False)
    cfg = detector(data, loss, **options)
    if by_iteration:
        cfg["runner"] = {"type": "IterBasedRunner", "max_iters": 9}
    return cfg


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_taken_up_again_it_ends_in_the_same_bits_and_logs_the_same(few, tmp_path, case):
    ranks, stops, loss, options = CASES[case]
    cfg = config_of(few, loss, options)
    through = train(cfg, tmp_path / "through", [(ranks, None)], ranks)
    broken = train(cfg, tmp_path / "broken", [(ranks, at) for at in stops] + [(ranks, None)], ranks)
    assert bits(end(broken)) == bits(end(through))
    assert notes(broken, "losses") == notes(through, "losses")
    assert log_lines(broken) == log_lines(through)
    assert len(log_lines(through)) > 1
    drawn = Counter(map(tuple, notes(through, "samples"))) if not options.get("data__workers_per_gpu") else Counter()
    assert Counter(map(tuple, notes(broken, "samples"))) == drawn
    if loss == "seesaw":
        assert len(end(broken)["rank_buffers"]) == ranks


def test_four_ranks_one_and_two_learn_the_same_up_to_the_order_of_summation(few, tmp_path):
    cfg = config_of(few, "seesaw", {"optimizer": {"_delete_": True, "type": "SGD", "lr": 0.01, "momentum": 0.9},
                                    "optimizer_config": {}})
    runs = {name: train(cfg, tmp_path / name, parts, virtual=4) for name, parts in {
        "four": [(4, None)], "one": [(1, None)], "changing": [(4, 1), (2, 3), (1, 4), (4, None)]}.items()}
    four = end(runs.pop("four")), notes(Run(tmp_path / "four"), "samples"), notes(Run(tmp_path / "four"), "losses")
    assert len(four[0]["rank_buffers"]) == 4
    for name, run in runs.items():
        state = end(run)
        assert Counter(map(tuple, notes(run, "samples"))) == Counter(map(tuple, four[1])), name
        assert [(i, lr) for i, lr, _ in notes(run, "losses")] == [(i, lr) for i, lr, _ in four[2]], name
        for (i, _, one), (_, _, other) in zip(notes(run, "losses"), four[2]):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-4), f"{name}, iteration {i}"
        close(state["state_dict"], four[0]["state_dict"], name)
        for mine, theirs in zip(state["rank_buffers"], four[0]["rank_buffers"]):
            close(mine, theirs, name)
            counts = next(key for key in mine if key.endswith("cum_samples"))
            assert torch.equal(mine[counts], theirs[counts])


def test_rescaled_in_mid_epoch_each_sample_comes_with_its_own_draws_and_the_end_does_not_hang_on_further_stops(
        few, tmp_path):
    cfg = config_of(few, "seesaw", {"runner__max_epochs": 1})
    whole = train(cfg, tmp_path / "whole", [(2, None)], 2)
    epoch = {tuple(note) for note in notes(whole, "samples") if note[0] == 0}
    ends = {}
    for name, stops in {"once": [2], "twice": [2, 3]}.items():
        run = train(cfg, tmp_path / name, [(2, 2), *[(3, at) for at in stops[1:]], (3, None)], 2, rescaled=[3])
        drawn = [tuple(note) for note in notes(run, "samples") if note[0] == 0]
        assert epoch <= set(drawn) and len(drawn) == len({note[:2] for note in drawn})
        assert len(drawn) - len(epoch) < 3, "only the last iteration is filled up"
        ends[name] = bits(end(run)), log_lines(run), Counter(map(tuple, notes(run, "samples")))
    assert ends["once"] == ends["twice"]
    assert len(end(run)["rank_buffers"]) == 3


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], name: str) -> None:
    assert one.keys() == other.keys()
    for key, value in other.items():
        torch.testing.assert_close(one[key], value, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{name}: {k}: {m}")
