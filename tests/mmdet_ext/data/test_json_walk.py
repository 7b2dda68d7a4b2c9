"""The walker over annotation files, and the rule from an image's record to its path."""

from __future__ import annotations

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from mmdet_ext.data import image_names, json_walk

records = st.lists(st.dictionaries(st.text(max_size=3), st.one_of(st.text(), st.floats(allow_nan=False), st.integers()),
                                   max_size=3), max_size=4)


@hypothesis.given(records, st.sampled_from([None, 2]), st.booleans(), st.integers(1, 40))
@hypothesis.settings(max_examples=40)
def test_a_list_read_in_windows_is_what_the_decoder_finds(content, indent, ascii_only, window):
    text = json.dumps({"info": {"x": "images"}, "images": content}, indent=indent, ensure_ascii=ascii_only).encode()
    (place,) = json_walk.places(text, "images")
    before, json_walk.WINDOW = json_walk.WINDOW, window
    try:
        assert list(json_walk.records(text, place)) == content
    finally:
        json_walk.WINDOW = before


def test_nan_is_read_and_numbers_are_not_cut_by_a_window(monkeypatch):
    monkeypatch.setattr(json_walk, "WINDOW", 1)
    (first, second) = json_walk.records(b'[{"a": 1234}, {"a": NaN}]', 0)
    assert first == {"a": 1234} and second["a"] != second["a"]


@pytest.mark.parametrize("text", [b"[1]", b'[{"a": 1}', b'{"a": 1}', b'[{"a": 1} {"a": 2}]', b'[{"a": "\xff"}]'])
def test_what_is_not_a_list_of_objects_is_refused(text):
    with pytest.raises(ValueError):
        list(json_walk.records(text, 0))


@pytest.mark.parametrize("record", [
    {"file_name": "000000391895.jpg", "coco_url": f"{image_names.SERVER}train2017/000000391895.jpg"},
    {"coco_url": f"{image_names.SERVER}train2017/000000391895.jpg"},
    {"file_name": "COCO_val2014_000000391895.jpg"}, {"file_name": "patch8/v1/1.jpg"},
])
def test_every_path_that_a_dataset_takes_is_a_candidate(record):
    rules = {"file_name": (image_names.of_coco, image_names.of_lvis_v05, image_names.of_any),
             "coco_url": (image_names.of_lvis_v1, image_names.of_any)}
    taken = {rule(record) for field in record for rule in rules[field]}
    assert taken == set(image_names.candidates(record))
    assert image_names.candidates(record, "Objects365V2Dataset")[0] == record.get(
        "file_name", "train2017/000000391895.jpg").replace("patch8/", "")
