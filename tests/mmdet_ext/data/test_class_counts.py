"""Class counts: every source, mmdet's label order, and messages that name the remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_ext.data import class_counts, json_walk
from mmdet_ext.data.class_counts import ClassCountError, read_class_counts

CATEGORIES = [
    {"id": 7, "name": "zebra", "instance_count": 30, "image_count": 12},
    {"id": 2, "name": "ant", "instance_count": 5, "image_count": 5},
    {"id": 9, "name": "mölk", "instance_count": 1, "image_count": 1},
]
ANNOTATIONS = [
    {"id": i, "image_id": image, "category_id": category, "bbox": [0, 0, 1, 1]}
    for i, (image, category) in enumerate([(1, 7), (1, 7), (2, 7), (2, 2), (3, 9), (3, 2)])
]


def without_counts() -> list[dict]:
    return [{"id": c["id"], "name": c["name"]} for c in CATEGORIES]


def written(path: Path, order: str = "info images annotations categories", **parts: object) -> Path:
    """An annotation file with its keys in the given order; ``indent`` makes it a spread-out one."""
    content = {
        "info": {"description": 'says "categories": [1] and "categories" again, {["'},
        "images": [{"id": i, "width": 8, "height": 8, "coco_url": f"x/{i}.jpg"} for i in (1, 2, 3)],
        "annotations": ANNOTATIONS,
        "categories": CATEGORIES,
        "licenses": [{"id": 1, "name": "none"}],
    }
    indent = parts.pop("indent", None)
    content.update(parts)
    path.write_text(json.dumps({k: content[k] for k in order.split()}, indent=indent), encoding="utf-8")
    return path


@pytest.fixture
def no_whole_parse(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise AssertionError("the whole file was parsed")

    monkeypatch.setattr(class_counts, "_whole", refuse)


def test_a_list_is_taken_as_it_is():
    counts = read_class_counts([3, 1.0, 2.5])
    assert counts.counts == (3, 1, 2.5) and isinstance(counts.counts[1], int) and counts.names is None


def test_a_text_file_has_one_count_a_line_and_comments(tmp_path):
    path = tmp_path / "counts.txt"
    path.write_text("# positives\n12\n\n 7 # rare\n1\n")
    assert read_class_counts(path).counts == (12, 7, 1)


@pytest.mark.parametrize(
    "order",
    [
        "info annotations images licenses categories",
        "info images annotations categories licenses",
        "categories info images annotations",
        "info licenses categories images annotations",
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_counts_come_from_the_categories_wherever_they_stand(tmp_path, order, indent):
    path = written(tmp_path / "a.json", order, indent=indent)
    counts = read_class_counts(str(path))
    assert counts.counts == (30, 5, 1) and counts.names == ("zebra", "ant", "mölk")
    assert read_class_counts(path, "image_count").counts == (12, 5, 1)


@pytest.mark.parametrize("order", ["images annotations categories licenses", "categories images annotations"])
def test_a_large_file_is_not_parsed_for_categories_near_an_end(tmp_path, monkeypatch, no_whole_parse, order):
    monkeypatch.setattr(json_walk, "NEAR", 1 << 14)
    path = written(tmp_path / "a.json", order, annotations=ANNOTATIONS * 2000)
    assert path.stat().st_size > 10 * (1 << 14)
    assert read_class_counts(path).counts == (30, 5, 1)


def test_categories_in_the_middle_of_a_large_file_are_found_by_parsing_it(tmp_path, monkeypatch):
    monkeypatch.setattr(json_walk, "NEAR", 1 << 12)
    images = [{"id": i, "coco_url": "x" * 100} for i in range(1000)]
    path = written(
        tmp_path / "a.json", "images categories annotations", images=images, annotations=ANNOTATIONS * 500
    )
    assert read_class_counts(path).counts == (30, 5, 1)


def test_a_list_of_categories_inside_something_else_is_not_taken_for_the_files_own(tmp_path):
    nested = {"categories": [{"id": 1, "name": "wrong", "instance_count": 99, "image_count": 99}]}
    for order in ("categories images annotations", "images categories annotations"):
        path = written(tmp_path / "a.json", order, annotations=[*ANNOTATIONS, nested])
        assert read_class_counts(path).counts == (30, 5, 1)
    path = written(tmp_path / "a.json", "info images annotations categories", info=nested)
    assert read_class_counts(path).counts == (30, 5, 1)
    path = written(tmp_path / "a.json", "info images annotations", info=nested)
    with pytest.raises(ClassCountError, match='no list "categories"'):
        read_class_counts(path)


def test_annotations_are_counted_where_the_file_says_no_counts(tmp_path):
    path = written(tmp_path / "a.json", categories=without_counts())
    assert read_class_counts(path).counts == (3, 2, 1)
    assert read_class_counts(path, "image_count").counts == (2, 2, 1)


def test_annotations_are_counted_where_one_category_lacks_its_count(tmp_path):
    path = written(tmp_path / "a.json", categories=[*CATEGORIES[:2], {"id": 9, "name": "mölk"}])
    assert read_class_counts(path).counts == (3, 2, 1)


def test_the_order_is_that_of_mmdets_labels(tmp_path):
    datasets = pytest.importorskip("mmdet.datasets")
    path = written(tmp_path / "a.json", categories=[*CATEGORIES, dict(CATEGORIES[0], instance_count=31)])
    dataset = datasets.LVISV1Dataset(str(path), pipeline=[], test_mode=True)
    label_of = {cat_id: label for cat_id, label in dataset.cat2label.items()}
    assert label_of == {7: 0, 2: 1, 9: 2}
    counts = read_class_counts(path)
    for cat_id, n in {7: 31, 2: 5, 9: 1}.items():
        assert counts.counts[label_of[cat_id]] == n


def test_counts_of_zero_are_refused_and_named(tmp_path):
    path = written(
        tmp_path / "a.json", categories=[dict(CATEGORIES[0]), dict(CATEGORIES[1], instance_count=0)]
    )
    counts = read_class_counts(path)
    with pytest.raises(
        ClassCountError, match=r"a\.json: 1 of 2 classes .* 1 \(ant\).*clamp_zero_counts=True"
    ):
        counts.positive()
    assert counts.positive(clamp=True) == (30, 1)


def test_many_counts_of_zero_name_the_first_ten():
    with pytest.raises(ClassCountError, match=r"30 of 31 classes .*: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …;"):
        read_class_counts([0] * 30 + [1]).positive()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("3\nmany\n", "class 1 is 'many'"),
        ("3\n-2\n", "class 1 is '-2'"),
        ("nan\n", "class 0 is 'nan'"),
        ("3 4\n", "line 1: '3 4' is not one count"),
        ("# nothing\n", "has no class counts"),
        ('{"images": []}', 'no list "categories"'),
        (
            '{"categories": [{"id": 1, "name": "a"}]}',
            "lack 'instance_count' and it has no list 'annotations'",
        ),
        ('{"categories": [{"id": 1', "is not JSON"),
        (
            '{"categories": [{"id": 1, "name": "a"}], "annotations": [{"category_id": 5, "image_id": 1}]}',
            r"category ids not listed there: \[5\]",
        ),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, text, match):
    path = tmp_path / "counts"
    path.write_text(text)
    with pytest.raises(ClassCountError, match=match) as caught:
        read_class_counts(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_says_where_a_relative_path_starts():
    with pytest.raises(ClassCountError, match="nowhere.json cannot be read .No such file.*working directory"):
        read_class_counts("nowhere.json")
    with pytest.raises(ClassCountError, match="x cannot be read .File name too long"):
        read_class_counts("x" * 300)


def test_an_unknown_field_lists_the_valid_ones():
    with pytest.raises(
        ClassCountError, match="invalid value 'instances'; expected one of: instance_count, image_count"
    ):
        read_class_counts([1], field="instances")


@settings(max_examples=60, deadline=None)
@given(
    st.permutations(["info", "images", "annotations", "categories", "licenses"]),
    st.sampled_from([None, 0, 3]),
    st.integers(min_value=64, max_value=4096),
)
def test_the_short_way_never_disagrees_with_parsing(tmp_path_factory, order, indent, window):
    """For any order and window: the answer, or none."""
    path = written(tmp_path_factory.mktemp("order") / "a.json", " ".join(order), indent=indent)
    before, json_walk.NEAR = json_walk.NEAR, window
    try:
        found = class_counts.categories_near_an_end(path)
    finally:
        json_walk.NEAR = before
    assert found is None or found == CATEGORIES


def test_it_needs_the_standard_library_only():
    """The login node has no numpy and no torch."""
    code = (
        "import sys; from mmdet_ext.data.class_counts import read_class_counts; read_class_counts([1]); "
        "sys.exit(bool({'numpy', 'torch', 'mmcv', 'mmdet'} & sys.modules.keys()))"
    )
    root = Path(class_counts.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
