"""The file of annotation columns itself: exact numbers, refusals, files that are not whole, and class counts."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mmdet_ext.data import annotations, column_file
from mmdet_ext.data.annotation_text import decode, encode
from mmdet_ext.data.class_counts import ClassCountError, read_class_counts
from mmdet_ext.data.json_walk import Cursor

IMAGES = [{"id": 5, "width": 64, "height": 48}, {"id": 2, "width": 10, "height": 90}]
BOX = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 10, 12], "area": 9, "segmentation": [[1.5, 2.5]]}
CATEGORIES = [{"id": 3, "name": "b"}, {"id": 1, "name": "a"}]


def text(**changes: Any) -> str:
    return json.dumps({"images": IMAGES, "annotations": [BOX], "categories": CATEGORIES, **changes})


def make(folder: Path, content: str) -> Path:
    """The columns of an annotation file with this content."""
    (folder / "ann.json").write_text(content, encoding="utf-8")
    with open(folder / "columns", "wb") as handle:
        annotations.write(folder / "ann.json", handle)
    return folder / "columns"


def bits(numbers: Any) -> list[bytes]:
    return [struct.pack("d", n) for n in numbers]


def test_every_hundredth_up_to_65535_comes_back_with_every_bit():
    given = [k / 100 for k in range(2**16)]
    numbers, double = encode(np.array(given))
    assert not double and len(numbers) == 2 * len(given)
    assert bits(decode(np.frombuffer(numbers, "<u2")).tolist()) == bits(given)
    assert bits(json.loads(json.dumps([round(n, 2) for n in given]))) == bits(given)


@hypothesis.given(st.lists(st.one_of(st.floats(), st.integers(-9, 70_000).map(lambda k: k / 100)), max_size=5))
def test_any_numbers_come_back_with_every_bit(given):
    numbers, double = encode(np.array(given, np.float64))
    read = np.frombuffer(numbers, "<f8") if double else decode(np.frombuffer(numbers, "<u2"))
    assert bits(read.tolist()) == bits(given)


@pytest.mark.parametrize("given", [-0.0, 655.36, -0.01, 0.001, 1 / 3, float("nan"), 0.1 + 0.2])
def test_what_is_not_a_hundredth_is_kept_whole(given):
    assert encode(np.array([1.5, given]))[1]


json_values = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
                           lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)), max_leaves=4)


@hypothesis.given(st.dictionaries(st.text(max_size=3), st.lists(json_values, max_size=3), max_size=3),
                  st.sampled_from([None, 1]), st.booleans())
@hypothesis.settings(max_examples=40)
def test_walking_a_text_finds_what_the_decoder_finds(content, indent, ascii_only):
    written = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    cursor, found = Cursor(f" {written}\n"), {}
    for key in cursor.members():
        parts = list(cursor.elements())
        found[key] = [value for value, _, _ in parts]
        assert [json.loads(cursor.text[begin:end]) for _, begin, end in parts] == found[key]
    assert found == content


@pytest.mark.parametrize(("content", "said"), [
    ("", "is not a JSON object"),
    ("[1]", "is not a JSON object"),
    (text()[:-1], "is not JSON"),
    (text()[:200], "is not JSON"),
    (text() + "x", "is not JSON (Extra data"),
    (text().replace('"annotations"', "annotations"), "is not JSON"),
    (text(annotations=[]).replace('"annotations": []', '"annotations": [,]'), "is not JSON"),
    ("\ufeff" + text(), "is not a JSON object"),
    ('{"images": []}', "has no list 'categories' of objects"),
    (text(images={}), "has no list 'images' of objects"),
    (text(images=[3]), "has no list 'images' of objects"),
    (text(annotations=None), "has no list 'annotations'"),
    (text(annotations=[1]), "annotation 0 of the list is not an object"),
    (text(annotations=[BOX, {**BOX, "id": "2"}]), "annotation 1 of the list has '2' for id"),
    (text(annotations=[{**BOX, "image_id": None}]), "annotation 0 of the list has None for image_id"),
    (text(annotations=[{**BOX, "category_id": 2**63}]), f"has {2**63} for category_id"),
    (text(images=[{**IMAGES[0], "id": True}]), "image 0 of the list has True for id"),
    (text(images=[{"id": 4, "width": 3}]), "image 4 has no width and height that are numbers"),
    (text(categories=[{"name": "a"}]), "category 0 of the list has None for id"),
])  # fmt: skip
def test_a_file_that_is_not_an_annotation_file_is_refused_in_one_line(content, said, tmp_path):
    with pytest.raises(ValueError) as caught:
        make(tmp_path, content)
    message = str(caught.value)
    assert said in message and message.startswith(str(tmp_path / "ann.json")) and "\n" not in message


def test_bytes_that_are_not_text_are_refused_in_one_line(tmp_path):
    (tmp_path / "ann.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(ValueError, match="is not JSON"):
        annotations.write(tmp_path / "ann.json", io.BytesIO())


def test_the_same_annotations_give_the_same_bytes_in_any_process(tmp_path):
    here = make(tmp_path, text()).read_bytes()
    code = ("import sys; from pathlib import Path; from mmdet_ext.data import annotations; "
            "annotations.write(Path(sys.argv[1]), open(sys.argv[2], 'wb')); "
            "assert not {'torch', 'mmcv', 'mmdet', 'pycocotools', 'lvis'} & set(sys.modules)")
    root = Path(annotations.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, tmp_path / "ann.json", tmp_path / "again"], cwd=root, check=True)
    assert (tmp_path / "again").read_bytes() == here


def test_columns_are_on_boundaries_and_read_only(tmp_path):
    made = annotations.Columns(make(tmp_path, text()))
    for column in (made.image_id, made.box, made.category, made.row_start):
        assert column.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_a_file_that_is_cut_off_anywhere_is_refused_in_one_line(tmp_path):
    path = make(tmp_path, text())
    whole = path.read_bytes()
    for size in (0, 1, 23, 24, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"has {size} bytes") as caught:
            annotations.Columns(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole + b"x")
    with pytest.raises(ValueError, match="has [0-9]+ bytes; expected [0-9]+: remove it"):
        annotations.Columns(path)


@pytest.mark.parametrize(("place", "put", "said"), [
    (0, b"{", "is not a file of annotation columns"),
    (8, b"\7", "has version 7 of the format"),
    (24, b"!", "its table of columns is damaged"),
    (12, b"\xff\xff\xff\x7f", "its table of columns is damaged"),
])  # fmt: skip
def test_a_file_of_another_kind_is_refused_in_one_line(place, put, said, tmp_path):
    path = make(tmp_path, text())
    content = bytearray(path.read_bytes())
    content[place : place + len(put)] = put
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        annotations.Columns(path)
    assert "\n" not in str(caught.value)


def test_columns_that_lack_one_are_refused(tmp_path):
    with open(tmp_path / "columns", "wb") as handle:
        column_file.save(handle, {"image_id": np.arange(3)}, {})
    with pytest.raises(ValueError, match="lacks the column 'width'"):
        annotations.Columns(tmp_path / "columns")


def test_columns_that_do_not_belong_together_or_are_elsewhere_are_refused(tmp_path):
    made, values = column_file.load(make(tmp_path, text()))
    for name in ("width", "row_start", "state", "record_ends"):
        with open(tmp_path / "other", "wb") as handle:
            column_file.save(handle, {**made, name: made[name][:-1]}, values)
        with pytest.raises(ValueError, match="its columns do not match each other"):
            annotations.Columns(tmp_path / "other")
    for entry in (["a", "<i8", -64, 1], ["a", "<i8", 0, -1], ["a", "<i8", 0, 2**40], ["a", "O", 0, 1], ["a", 5, 0, 1],
                  ["a", "<i8", "0", 1], [[], "<i8", 0, 1], ["a"], 5):
        table = json.dumps({"columns": [entry], "values": {}}).encode()
        with open(tmp_path / "other", "wb") as handle:
            handle.write(struct.pack("<8sIIQ", column_file.MAGIC, column_file.VERSION, len(table), 512) + table)
            handle.write(bytes(512 - handle.tell()))
        with pytest.raises(ValueError, match="its table of columns is damaged"):
            column_file.load(tmp_path / "other")


def test_a_key_that_comes_twice_has_its_last_value(tmp_path):
    content = text()[:-1] + ', "annotations": [], "images": [{"id": 9, "width": 1, "height": 1}]}'
    made = annotations.Columns(make(tmp_path, content))
    assert (made.image_id.tolist(), len(made.category)) == ([9], 0)


@pytest.mark.parametrize("field", ["instance_count", "image_count"])
@pytest.mark.parametrize("categories", [
    CATEGORIES,
    [{**c, "instance_count": 7 + c["id"], "image_count": 2.5} for c in CATEGORIES],
    [{**CATEGORIES[0], "image_count": 0, "instance_count": 4}, *CATEGORIES],
    [*CATEGORIES, {"id": 3, "name": "last"}],
])  # fmt: skip
def test_class_counts_are_those_that_are_read_from_the_text(categories, field, tmp_path):
    boxes = [{**BOX, "id": i, "image_id": (5, 2, 8)[i % 3], "category_id": (3, 3, 1)[i % 3]} for i in range(8)]
    made = annotations.Columns(make(tmp_path, text(categories=categories, annotations=boxes)))
    read, found = read_class_counts(tmp_path / "ann.json", field), made.class_counts(field)
    assert (found.counts, found.names) == (read.counts, read.names)
    assert [*map(type, found.counts)] == [*map(type, read.counts)]


@pytest.mark.parametrize("changes", [{"categories": [{"id": 3}]}, {"categories": []}, {"categories": CATEGORIES[1:]}])
def test_counts_that_the_text_does_not_say_are_refused(changes, tmp_path):
    made = annotations.Columns(make(tmp_path, text(**changes)))
    for ask in (lambda: read_class_counts(tmp_path / "ann.json"), made.class_counts):
        with pytest.raises(ClassCountError):
            ask()
    with pytest.raises(ClassCountError, match="expected one of"):
        made.class_counts("frequency")


def test_what_is_in_use_is_replaced_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    annotations.use({str(tmp_path / "a.json"): "x"})
    assert annotations.columns_of("a.json") == "x" and annotations.columns_of(tmp_path / "b.json") is None
    annotations.use({"b.json": "y"})
    assert annotations.columns_of("a.json") is None and annotations.columns_of(str(tmp_path / "b.json")) == "y"
    annotations.use({})
    assert annotations.columns_of("b.json") is None
