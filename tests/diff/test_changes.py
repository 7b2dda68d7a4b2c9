"""Differences of nested values by key; blocks of lists are compared where they belong together."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from ecm_cluster.diff.changes import MISSING, Change, between, config_diff

PIPELINE = [{"type": "Load"}, {"type": "Resize", "img_scale": (1333, 800)}, {"type": "Flip", "flip_ratio": 0.5}]


def test_each_key_that_differs_is_one_change():
    a = {"optimizer": {"type": "SGD", "lr": 0.02}, "seed": 1, "only": True, "same": [1, 2], "number": 1}
    b = {"optimizer": {"type": "SGD", "lr": 0.01}, "seed": 1, "same": (1, 2), "number": 1.0, "more": None}
    assert between(a, b) == [Change("optimizer.lr", 0.02, 0.01), Change("only", True, MISSING),
                             Change("more", MISSING, None)]
    assert [str(change) for change in between(a, b)] == ["optimizer.lr: 0.02 -> 0.01", "- only: True", "+ more: None"]
    assert between({"x": True}, {"x": 1}) and between({"x": 1}, {"x": "1"}), "other types are other values"


def test_the_config_is_what_has_changed_against_its_base():
    change, = config_diff({"lr": 1}, {"lr": 2})
    assert (change.a, change.b, change.as_dict()) == (2, 1, {"key": "lr", "a": 2, "b": 1})
    assert Change("x", MISSING, 1).as_dict() == {"key": "x", "b": 1}


def test_a_step_of_a_pipeline_that_was_added_moves_no_other():
    longer = copy.deepcopy(PIPELINE)
    longer.insert(1, {"type": "Mosaic"})
    assert between({"p": PIPELINE}, {"p": longer}) == [Change("p[1]", MISSING, {"type": "Mosaic"})]
    assert between({"p": longer}, {"p": PIPELINE}) == [Change("p[1]", {"type": "Mosaic"}, MISSING)]
    scaled = copy.deepcopy(PIPELINE)
    scaled[1]["img_scale"] = (640, 480)
    assert between({"p": PIPELINE}, {"p": scaled}) == [Change("p[1].img_scale", (1333, 800), (640, 480))]


def test_a_long_value_is_shortened_in_text_only():
    change = Change("counts", "a/file.json", list(range(1203)))
    assert len(str(change)) < 120 and change.as_dict()["b"][-1] == 1202


VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(
    inner, max_size=4) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=4), max_leaves=12)


@settings(max_examples=30)
@given(VALUES)
def test_a_value_does_not_differ_from_its_copy(value):
    assert between(value, copy.deepcopy(value)) == []
