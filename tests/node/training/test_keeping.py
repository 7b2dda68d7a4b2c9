"""What of a state goes into a checkpoint: all that can be read back, and the rest by name."""

from __future__ import annotations

import collections
import enum
import io
import logging
from typing import Any

import numpy as np
import pytest
import torch
from commits import LOG, begin, events, save, state_of

from ecm_cluster.attempts.failures import NotStartable
from ecm_cluster.node.training import keeping, loading, writer
from ecm_cluster.node.training.saver import Saver
from ecm_cluster.pickles import restricted
from ecm_cluster.rundir import checkpoints
from ecm_cluster.rundir.run import Run


class Best:
    """What a hook of the user's code may keep."""

    def __init__(self, score: float) -> None:
        self.score = score


class Mode(enum.IntEnum):
    MAX = 1


class Broken:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


LOST = {"best": Best(0.3), "rule": lambda x: x, "mode": Mode.MAX, "draws": torch.Generator(), "broken": Broken(),
        "when": np.datetime64("2024-01-01"), "objects": np.array([Best(1)], object), "lines": iter([1]),
        "quantized": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.quint8),
        "default": collections.defaultdict(lambda: 0), "recent": collections.deque([Best(1)]),
        "error": ValueError("x"), "pair": (1, Best(2))}


@pytest.fixture
def saver(tmp_path):
    run = Run(tmp_path / "run")
    begin(run, 1)
    made = Saver(run, 1, 2, run.ledger(1, "train000"), LOG)
    yield made
    made.writer.close()


def with_meta(**meta: Any) -> dict[str, Any]:
    state = state_of()
    return {**state, "meta": {**state["meta"], **meta}}


def read(saver: Saver) -> Any:
    assert saver.last is not None
    return loading.read(saver.last.path(saver.run))


def test_what_mmcvs_evaluation_hook_keeps_is_committed_and_read_back(saver):
    best = {"best_score": np.float64(0.25), "curve": np.arange(3.0), "key": np.str_("bbox_mAP")}
    save(saver, 3, with_meta(hook_msgs=best))
    found = read(saver)["meta"]["hook_msgs"]
    assert type(found["best_score"]) is np.float64 and found["best_score"] == 0.25
    assert np.array_equal(found["curve"], best["curve"]) and found["key"] == "bbox_mAP"
    assert not events(saver.run, "warning")


def test_what_no_checkpoint_can_hold_is_named_by_its_key_and_the_rest_is_committed(saver, caplog):
    caplog.set_level(logging.WARNING)
    save(saver, 3, with_meta(hook_msgs={**LOST, "score": np.float64(0.3)}, CLASSES=["a"]))
    found = read(saver)
    assert found["meta"]["hook_msgs"] == {"score": 0.3} and found["meta"]["CLASSES"] == ["a"]
    assert torch.equal(found["state_dict"]["weight"], state_of()["state_dict"]["weight"])
    event, = events(saver.run, "warning")
    assert "meta.hook_msgs.best (tests.node.training.test_keeping.Best)" in event["text"]
    assert "and 8 more" in event["text"]
    assert event["iteration"] == 3 and event["about"] == "not kept" and "\n" not in event["text"]
    assert sum("meta.hook_msgs.best" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("key", LOST)
def test_each_kind_is_named(key):
    structure, _, lost = keeping.pickled({"meta": {"hook_msgs": {key: LOST[key], "kept": 1}}})
    assert len(lost) == 1 and lost[0].startswith(f"meta.hook_msgs.{key}")
    assert restricted.Unpickler(io.BytesIO(structure)).load() == {"meta": {"hook_msgs": {"kept": 1}}}


def test_a_list_goes_as_a_whole_and_dicts_in_it_lose_their_own(saver):
    state = with_meta(rows=[1, Best(2)], groups=[{"rule": len, "lr": 0.1}])
    _, _, lost = keeping.pickled(state)
    assert [one.partition(" ")[0] for one in lost] == ["meta.rows.1", "meta.groups.0.rule"]
    save(saver, 3, state)
    assert "rows" not in read(saver)["meta"] and read(saver)["meta"]["groups"] == [{"lr": 0.1}]


def test_what_holds_itself_or_is_a_thousand_deep_does_not_end_a_training(saver):
    circle: dict[str, Any] = {"lr": 1}
    circle["self"] = circle
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    save(saver, 3, with_meta(circle=circle))
    assert read(saver)["meta"]["circle"]["self"]["lr"] == 1
    save(saver, 4, with_meta(circle=circle, deep=deep, keys={Best(1): 1, 2: 3}))
    found = read(saver)["meta"]
    assert found["circle"] == {"lr": 1} and "deep" not in found and found["keys"] == {2: 3}


def test_it_is_said_once_and_again_when_it_has_changed(saver):
    save(saver, 1, with_meta())
    for iteration, lost in enumerate([{"best": Best(1)}, {"best": Best(2)}, {"best": Best(2), "rule": len}], 2):
        save(saver, iteration, with_meta(**lost))
    assert [e["iteration"] for e in events(saver.run, "warning")] == [2, 4]


def test_an_optimizer_that_cannot_be_kept_ends_the_training_at_its_first_commit_and_not_later(saver):
    state = state_of()
    state["optimizer"]["param_groups"][0]["rule"] = len
    with pytest.raises(NotStartable, match=r"cannot hold optimizer.param_groups.0.rule \(builtins.len\)"):
        save(saver, 1, state)
    assert not checkpoints.accepted(saver.run)
    save(saver, 2, state_of())
    save(saver, 3, state)
    assert saver.last is not None and saver.last.iteration == 3


def test_nothing_is_committed_that_cannot_be_read_back(saver, monkeypatch, tmp_path):
    run = saver.run
    structure, _, _ = keeping.pickled({"x": 1})
    bad = structure.replace(b"X\x01\x00\x00\x00x", b"cos\nsystem\n")
    assert bad != structure
    for broken in (bad, structure[:-3]):
        request = writer.CommitRequest(5, 0, 5, False, 1, broken, [], saver._memory.size or 1, 2)
        monkeypatch.setattr(writer.mmap, "mmap", lambda *args, **options: b"")
        outcome = writer.serve(run, 1, request, saver._memory.descriptor)
        assert outcome.manifest is None and ("os.system" in outcome.reason or "invalid checkpoint" in outcome.reason)
    assert not checkpoints.accepted(run) and not list(run.checkpoints_dir.glob("*"))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "uint16", "bfloat16", "complex64", "bool"])
def test_weights_of_any_dtype_are_kept(saver, dtype):
    if not hasattr(torch, dtype):
        pytest.skip(f"torch {torch.__version__} has no {dtype}")
    weights = torch.ones(5).to(getattr(torch, dtype))
    save(saver, 3, {"state_dict": {"w": weights}})
    found = read(saver)["state_dict"]["w"]
    assert found.dtype == weights.dtype and torch.equal(found.view(torch.uint8), weights.view(torch.uint8))
