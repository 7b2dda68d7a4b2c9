"""Datasets from columns against mmdet's own from the JSON file, field by field, down to the type of each number."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from mmcv.fileio import FileClient
from mmcv.fileio.file_client import HardDiskBackend
from mmdet.datasets import CustomDataset, build_dataset

import mmdet_ext.register  # noqa: F401 (registers the datasets)
from mmdet_ext.data import annotations
from mmdet_ext.data.records import Records

HAS_SUFFIX = "seg_suffix" in inspect.signature(CustomDataset.__init__).parameters  # since mmdet 2.26
SUFFIX = {"seg_suffix": ".gif"} if HAS_SUFFIX else {}

CATEGORIES = [{"id": i, "name": name} for i, name in ((30, "banner"), (3, "acorn"), (1203, "zebra"), (7, "apple"))]
TYPES = ("LVISV1Dataset", "LVISV05Dataset", "LVISDataset", "CocoDataset", "LVISFromFile")


@pytest.fixture(autouse=True)
def _nothing_in_use():
    yield
    annotations.use({})


def image(number: int, width: Any = 64, height: Any = 48, **more: Any) -> dict[str, Any]:
    name = f"{number:012d}.jpg"
    return {"id": number, "width": width, "height": height, "file_name": f"COCO_val2014_{name}",
            "coco_url": f"http://images.cocodataset.org/val2017/{name}", "neg_category_ids": [3], **more}


def box(number: int, image_id: int, category: int = 30, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category, "bbox": [1.25, 2.5, 10.01, 12.99],
            "area": 99.5, "segmentation": [[1.25, 2.5, 11.26, 2.5, 11.26, 15.49]], **more}


def write(folder: Path, images: list[Any], boxes: list[Any], categories: list[Any] = CATEGORIES) -> str:
    """An annotation file and, beside it, its columns."""
    path = folder / "ann.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    with open(columns_beside(path), "wb") as handle:
        annotations.write(path, handle)
    return str(path)


def columns_beside(path: str | Path) -> str:
    return str(path) + ".columns"


def build(kind: str, ann_file: str, *, mapped: bool, **options: Any) -> Any:
    """A dataset as a config makes it, stock or from columns; or the exception that it ends with."""
    annotations.use({ann_file: columns_beside(ann_file)} if mapped else {})
    if kind == "CocoDataset":
        options.setdefault("classes", ("zebra", "acorn", "apple"))
    name = annotations.SUBSTITUTES.get(kind, kind) if mapped else kind
    try:
        return build_dataset({"type": name, "ann_file": ann_file, "pipeline": [], **options})
    except Exception as err:
        return err


def exact(value: Any) -> Any:
    """Something that is equal for values of equal type and bits only."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [exact(inner) for inner in value]
    return (float, struct.pack("d", value)) if type(value) is float else (type(value), value)


def outcome(function: Any, *args: Any) -> Any:
    """What a call gives, in exact terms, or the type of what it raises."""
    try:
        return exact(function(*args))
    except Exception as err:
        return type(err)


def assert_same(stock: Any, ours: Any, columns: bool | None = True) -> None:
    if isinstance(stock, Exception):
        said = [str(err).partition("Dataset: ")[2] or str(err).partition("Columns: ")[2] or str(err)
                for err in (stock, ours)]  # mmcv puts the name of the class before the message
        assert type(ours) is type(stock) and said[0] == said[1]
        return
    assert not isinstance(ours, Exception), repr(ours)
    if columns is not None:
        assert (ours._columns is not None) is columns
    assert len(ours) == len(stock)
    for name in ("CLASSES", "cat_ids", "cat2label", "img_ids", "proposals", "test_mode", "ann_file", "img_prefix"):
        assert exact(getattr(ours, name)) == exact(getattr(stock, name)), name
    assert hasattr(ours, "flag") == hasattr(stock, "flag")
    if hasattr(stock, "flag"):
        assert exact(ours.flag) == exact(stock.flag)
    assert exact(list(ours.data_infos)) == exact(stock.data_infos)
    assert ours.data_infos == stock.data_infos and stock.data_infos == ours.data_infos
    for i in range(-len(stock), len(stock)):
        assert outcome(ours.get_ann_info, i) == outcome(stock.get_ann_info, i)
        assert outcome(ours.get_cat_ids, i) == outcome(stock.get_cat_ids, i)


def compare(ann_file: str, columns: bool | None = True, kinds: tuple[str, ...] = TYPES, **options: Any) -> None:
    for kind in kinds:
        stock, ours = (build(kind, ann_file, mapped=mapped, **options) for mapped in (False, True))
        assert_same(stock, ours, columns)


# -- files of any shape


hundredths = st.integers(0, 70_000).map(lambda k: k / 100)
numbers = st.one_of(hundredths, st.integers(-5, 80), st.sampled_from([0.0, -0.0, 1.0, 0.99, 1e-3, -3.5, 1e16, 2**60]),
                    st.floats(allow_nan=False))
polygon = st.one_of(st.lists(hundredths, min_size=6, max_size=8),
                    st.lists(st.one_of(st.integers(0, 700), st.sampled_from([0.5, 1.25, 3.99])), max_size=7),
                    st.lists(numbers, max_size=6))
run_lengths = st.sampled_from([{"counts": [3, 5, 1000], "size": [48, 64]}, {"counts": "0<é", "size": [48, 64]}])
segmentation = st.one_of(st.lists(polygon, max_size=3), run_lengths, st.none(), st.just("?"), st.just([[True, 2]]))
sides = st.sampled_from([10, 31, 32, 33, 64, 64.5, 640])


@st.composite
def files(draw: Any) -> tuple[list[Any], list[Any]]:
    """(images, annotations): ids in no order and, now and then, twice; images and categories that are not listed."""
    once = draw(st.booleans())
    ids = draw(st.lists(st.integers(0, 6), max_size=6, unique=once))
    images = [image(i, draw(sides), draw(sides), extra=draw(st.one_of(st.none(), numbers))) for i in ids]
    boxes = []
    for number in draw(st.lists(st.integers(0, 9) if not once else st.integers(), max_size=9, unique=once)):
        if not -(2**63) <= number < 2**63:
            continue
        one = box(number, draw(st.integers(0, 7)), draw(st.sampled_from([30, 3, 1203, 7, 99])))
        if draw(st.booleans()):
            one["bbox"] = draw(st.lists(numbers, min_size=4, max_size=4))
        if draw(st.booleans()):
            one["segmentation"] = draw(segmentation)
        for key, valid in (("iscrowd", [0, 1, True]), ("ignore", [0, 1]), ("area", [0, -1.5, 7, 0.1])):
            if draw(st.integers(0, 3)) == 0:
                one[key] = draw(st.sampled_from(valid))
        for key in ("bbox", "segmentation", "area"):
            if draw(st.integers(0, 20)) == 0:
                del one[key]
        boxes.append(one)
    return images, boxes


@pytest.mark.slow
@hypothesis.given(made=files(), test_mode=st.booleans(), filter_empty_gt=st.booleans(), kind=st.sampled_from(TYPES))
@hypothesis.settings(max_examples=150, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_file_gives_what_mmdet_gives(made, test_mode, filter_empty_gt, kind, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    ann_file = write(folder, *made)
    compare(ann_file, None, (kind,), test_mode=test_mode, filter_empty_gt=filter_empty_gt)
    stock, ours = (balanced(kind, ann_file, mapped, test_mode=test_mode) for mapped in (False, True))
    assert_same_balance(stock, ours)


def test_a_synthetic_data_set_gives_what_mmdet_gives(small_data):
    original = small_data / "annotations" / "lvis_v1_train.json"
    content = json.loads(original.read_text())
    folder = small_data / "beside"
    folder.mkdir(exist_ok=True)
    ann_file = write(folder, content["images"], content["annotations"], content["categories"])
    compare(ann_file, True, ("LVISV1Dataset", "LVISFromFile"))


# -- cases by hand


@pytest.mark.parametrize("boxes", [
    [],
    [box(1, 1), box(2, 1, 99), box(3, 8)],
    [box(2, 1), box(1, 1), box(5, 2, 7), box(4, 1, 3)],
    [box(1, 1, bbox=[60, 40, 30, 30]), box(2, 1, bbox=[64, 0, 5, 5]), box(3, 1, bbox=[-20, 3, 20, 5])],
    [box(1, 1, bbox=[5, 5, 0, 9]), box(2, 1, bbox=[5, 5, 0.5, 9]), box(3, 1, area=0), box(4, 2, area=0)],
    [box(1, 1, iscrowd=1, segmentation={"counts": [1, 2, 3], "size": [48, 64]}), box(2, 1, iscrowd=0)],
    [box(1, 1, ignore=True), box(2, 1, ignore=False), box(3, 1, ignore=1, bbox=None)],
    [box(1, 1, segmentation={"counts": "abc", "size": [48, 64]}), box(2, 1)],
    [box(1, 1, segmentation=None), box(2, 1), box(3, 1, segmentation=[])],
    [box(1, 1, segmentation=[[1, 2, 3.5, 4, 5, 6]]), box(2, 1, segmentation=[[1.5, 2.5, 3.5, 0.01]])],
    [box(1, 1, segmentation=[[1, 2, 3.5, 4, 5, 6]]), box(2, 1, segmentation=[[1.0, 2.5, 3.5, 0.01]])],
    [box(1, 1, segmentation=[[655.35, 655.36, 0.1, 1 / 3]]), box(2, 1)],
    [box(1, 1, segmentation=[[655.35, 0.07, 0.29, 1.1], [], [5.0, 6.0]]), box(2, 1)],
    [box(1, 1, segmentation=[[-0.0, 2.0, 3.0, 4.0]])],
    [box(1, 1, segmentation=[[float("nan"), 2.0, float("inf"), 4.0]])],
    [{k: v for k, v in box(1, 1).items() if k != "area"}, box(2, 2)],
    [box(1, 1), box(1, 2, 7), box(2, 1, 3)],
])  # fmt: skip
@pytest.mark.parametrize("test_mode", [False, True])
def test_what_annotations_may_have(boxes, test_mode, tmp_path):
    images = [image(2, 30, 70), image(1), image(5, 31, 90), image(3, 48, 64)]
    compare(write(tmp_path, images, boxes), None, test_mode=test_mode)
    compare(write(tmp_path, images, boxes), None, test_mode=test_mode, filter_empty_gt=False)


def test_columns_are_used_and_not_the_json_file(tmp_path):
    ann_file = write(tmp_path, [image(1)], [box(1, 1, 3), box(2, 1, 3, segmentation={"counts": [9], "size": [3, 3]})])
    Path(ann_file).write_text("not any more")
    for kind in TYPES:
        dataset = build(kind, ann_file, mapped=True)
        assert dataset.get_ann_info(0)["masks"][1] == {"counts": [9], "size": [3, 3]}


def test_an_image_that_comes_twice_keeps_its_first_place_and_last_content(tmp_path):
    images = [image(4), image(2), image(4, 50, 90)]
    compare(write(tmp_path, images, [box(1, 4), box(2, 2), box(3, 4)]))


def test_a_category_that_comes_twice_is_taken_as_each_api_takes_it(tmp_path):
    categories = [*CATEGORIES, {"id": 3, "name": "apple"}, {"id": 30, "name": "acorn"}]
    compare(write(tmp_path, [image(1), image(2)], [box(1, 1, 3), box(2, 2, 30)], categories))


def test_names_of_images_follow_each_version_of_the_format(tmp_path):
    images = [image(1), image(2, file_name="COCO_train2014_x_000000000002.jpg"), image(3, file_name="a/ü \ud800.png"),
              image(4, coco_url="http://elsewhere.example/a.jpg", filename="old")]
    compare(write(tmp_path, images, [box(i, i) for i in range(1, 5)]))


@pytest.mark.parametrize("missing", [{"file_name": None}, {"coco_url": None}, {"coco_url": ""},
                                     {"file_name": None, "coco_url": None}])
def test_images_without_a_name_end_as_they_end_in_mmdet(missing, tmp_path):
    without = {k: v for k, v in image(2).items() if k not in missing}
    for second in (without, image(2, **missing)):
        for images in ([image(1), second], [second]):
            compare(write(tmp_path, images, [box(1, 1), box(2, 2)]), None)


def test_a_name_of_a_class_that_is_missing_ends_as_in_mmdet(tmp_path):
    compare(write(tmp_path, [image(1)], [box(1, 1)], [{"id": 30}, *CATEGORIES]), None)


@pytest.mark.parametrize("options", [
    {"data_root": "FOLDER", "ann_file": "ann.json", "img_prefix": "images", "seg_prefix": "s", **SUFFIX},
    {"classes": ["zebra"]}, {"classes": ()}, {"filter_empty_gt": False}, {"proposal_file": "PROPOSALS"},
    {"proposal_file": "PROPOSALS", "test_mode": True}, {"file_client_args": {"backend": "disk"}},
])  # fmt: skip
def test_arguments_mean_what_they_mean_in_mmdet(options, tmp_path):
    ann_file = write(tmp_path, [image(1), image(2, 20), image(3), image(4)], [box(1, 1, 3), box(2, 4, 1203)])
    (tmp_path / "proposals.pkl").write_bytes(pickle.dumps([10, 20, 30, 40]))
    put = {"FOLDER": str(tmp_path), "PROPOSALS": str(tmp_path / "proposals.pkl")}
    given = {key: put.get(value, value) if isinstance(value, str) else value for key, value in options.items()}
    kinds = TYPES[:-1] if "classes" in options else TYPES
    if "ann_file" not in given:
        compare(ann_file, True, kinds, **given)
        return
    for kind in kinds:
        annotations.use({})
        more = {"pipeline": [], **({"classes": ("zebra", "acorn")} if kind == "CocoDataset" else {}), **given}
        stock = build_dataset({"type": kind, **more})
        annotations.use({ann_file: columns_beside(ann_file)})
        assert_same(stock, build_dataset({"type": annotations.SUBSTITUTES.get(kind, kind), **more}))


def test_a_twin_without_columns_is_the_stock_dataset(tmp_path):
    ann_file = write(tmp_path, [image(1), image(2), image(3, 20)], [box(1, 1, 3)])
    for kind in TYPES[:-1]:
        stock = build(kind, ann_file, mapped=False)
        more = {"classes": ("zebra", "acorn", "apple")} if kind == "CocoDataset" else {}
        ours = build_dataset({"type": annotations.SUBSTITUTES[kind], "ann_file": ann_file, "pipeline": [], **more})
        assert_same(stock, ours, columns=False)
        assert exact(ours.coco.dataset) == exact(stock.coco.dataset)


def test_the_api_object_is_there_when_it_is_asked_for(tmp_path):
    ann_file = write(tmp_path, [image(1), image(2, 20)], [box(1, 1, 3), box(2, 1, 7)])
    for kind in TYPES:
        stock, ours = (build(kind, ann_file, mapped=mapped) for mapped in (False, True))
        annotations.use({})
        assert type(ours.coco) is type(stock.coco) and ours.coco is ours.coco
        assert exact(ours.coco.dataset) == exact(stock.coco.dataset)
        assert_same(stock, ours)
        assert "_coco" not in pickle.loads(pickle.dumps(ours)).__dict__


def test_columns_are_found_where_a_file_client_makes_a_copy(tmp_path):
    @FileClient.register_backend("copies", force=True)
    class Copies(HardDiskBackend):
        @contextlib.contextmanager
        def get_local_path(self, filepath: Any) -> Any:
            copied = tmp_path / "copy.json"
            copied.write_bytes(Path(filepath).read_bytes())
            yield str(copied)
            copied.unlink()

    ann_file = write(tmp_path, [image(1), image(2, 20)], [box(1, 1, 3), box(2, 1, 7)])
    for kind in TYPES:
        compare(ann_file, True, (kind,), file_client_args={"backend": "copies"})
        ours = build(kind, ann_file, mapped=True, file_client_args={"backend": "copies"})
        assert exact(ours.coco.dataset) == exact(build(kind, ann_file, mapped=False).coco.dataset)


def test_the_api_object_is_found_from_another_folder(tmp_path, monkeypatch):
    ann_file = write(tmp_path, [image(1)], [box(1, 1)])
    monkeypatch.chdir(tmp_path)
    annotations.use({ann_file: columns_beside(ann_file)})
    dataset = build_dataset({"type": "LVISV1FromColumns", "ann_file": "ann.json", "pipeline": []})
    monkeypatch.chdir("/")
    assert dataset._columns is not None and list(dataset.coco.anns) == [1]


def test_results_are_scored_as_in_mmdet(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis-api is older than numpy 1.24
    images = [image(i, not_exhaustive_category_ids=[]) for i in range(3)]
    ann_file = write(tmp_path, images, [box(i, i % 3, (30, 3, 7)[i // 3]) for i in range(8)],
                     [{**category, "frequency": "f"} for category in CATEGORIES])
    found = np.array([[1.25, 2.5, 11.26, 15.49, 0.9], [0, 0, 5, 5, 0.3]], np.float32)
    results = [[found[: (label + i) % 3] for label in range(4)] for i in range(3)]
    scored = []
    for mapped in (False, True):
        dataset = build("LVISV1Dataset", ann_file, mapped=mapped, test_mode=True)
        scored.append(dataset.evaluate(results, metric=["bbox", "proposal"]))
    assert scored[0]["bbox_AP"] > 0 and exact(dict(scored[1])) == exact(dict(scored[0]))


def test_a_subclass_that_parses_annotations_its_own_way_is_asked(tmp_path):
    from mmdet_ext.data.datasets import LVISV1FromColumns

    class Own(LVISV1FromColumns):
        def _parse_ann_info(self, img_info: Any, ann_info: Any) -> Any:
            return len(ann_info)

    ann_file = write(tmp_path, [image(1)], [box(1, 1), box(2, 1)])
    annotations.use({ann_file: columns_beside(ann_file)})
    assert Own(ann_file, []).get_ann_info(0) == 2


def test_what_users_put_into_a_dataset_is_followed(tmp_path):
    ann_file = write(tmp_path, [image(i) for i in range(1, 6)], [box(i, i, (30, 3, 7, 30)[i % 4]) for i in range(1, 6)])
    stock, ours = (build("LVISV1Dataset", ann_file, mapped=mapped) for mapped in (False, True))
    for dataset in (stock, ours):
        dataset.data_infos, dataset.img_ids = dataset.data_infos[3:0:-2], dataset.img_ids[3:0:-2]
    assert_same(stock, ours)
    for dataset in (stock, ours):
        dataset.cat2label = {i: 3 - label for i, label in dataset.cat2label.items()}
    assert_same(stock, ours)
    for dataset in (stock, ours):
        dataset.cat_ids = dataset.cat_ids[1:]
        dataset.data_infos = [info for info in dataset.data_infos if info["id"] != 2]
    assert_same(stock, ours)


def test_records_behave_as_a_list(tmp_path):
    ann_file = write(tmp_path, [image(i) for i in range(4)], [])
    stock, ours = (build("LVISV1Dataset", ann_file, mapped=mapped, test_mode=True).data_infos
                   for mapped in (False, True))
    assert isinstance(ours, Records)
    assert ours[-1] == stock[-1] and ours[np.int64(1)] == stock[1] and list(reversed(ours)) == stock[::-1]
    assert ours[1:3] == stock[1:3] and ours != stock[:3] and ours != 3 and stock[2] in ours
    assert [] + ours == stock and ours + stock == stock + stock and ours.index(stock[2]) == 2
    assert repr(ours) == repr(stock) and bool(ours[:0]) is False
    for index in (4, -5):
        with pytest.raises(IndexError):
            ours[index]
    ours[0]["filename"] = "changed"
    assert ours[0]["filename"] == stock[0]["filename"]


def test_arrays_of_an_image_may_be_written_to(tmp_path):
    ann_file = write(tmp_path, [image(1)], [box(1, 1), box(2, 1)])
    dataset = build("LVISV1Dataset", ann_file, mapped=True)
    before = exact(dataset.get_ann_info(0))
    info = dataset.get_ann_info(0)
    info["bboxes"] += 1
    info["labels"][:] = 9
    info["masks"][0][0][0] = 5.0
    assert exact(dataset.get_ann_info(0)) == before


# -- class balance


def balanced(kind: str, ann_file: str, mapped: bool, threshold: float = 0.5, wrap: Any = None, **options: Any) -> Any:
    annotations.use({ann_file: columns_beside(ann_file)} if mapped else {})
    if kind == "CocoDataset":
        options.setdefault("classes", ("zebra", "acorn", "apple"))
    inner = {"type": annotations.SUBSTITUTES.get(kind, kind) if mapped else kind, "ann_file": ann_file, "pipeline": [],
             **options}
    name = annotations.SUBSTITUTES["ClassBalancedDataset"] if mapped else "ClassBalancedDataset"
    try:
        return build_dataset({"type": name, "oversample_thr": threshold, "filter_empty_gt": False,
                              "dataset": inner if wrap is None else wrap(inner)})
    except Exception as err:
        return err


def assert_same_balance(stock: Any, ours: Any) -> None:
    if isinstance(stock, Exception):
        assert type(ours) is type(stock)
        return
    assert exact(ours.repeat_indices) == exact(stock.repeat_indices)
    assert exact(ours.flag) == exact(stock.flag)
    for name in ("CLASSES", "PALETTE", "oversample_thr", "filter_empty_gt"):
        assert getattr(ours, name) == getattr(stock, name)
    assert len(ours) == len(stock)
    assert all(outcome(ours.get_ann_info, i) == outcome(stock.get_ann_info, i) for i in range(len(stock)))


NESTED = {
    "alone": None,
    "repeated": lambda inner: {"type": "RepeatDataset", "times": 3, "dataset": inner},
    "joined": lambda inner: {"type": "ConcatDataset", "datasets": [inner, {**inner, "filter_empty_gt": False}]},
    "files": lambda inner: {**inner, "ann_file": [inner["ann_file"]] * 2},
    "both": lambda inner: {"type": "RepeatDataset", "times": 2, "dataset": [inner, inner]},
}


def many(folder: Path) -> str:
    boxes = [box(i, i % 17, (30, 30, 30, 30, 30, 3, 3, 1203, 7)[i * i % 9]) for i in range(60)]
    return write(folder, [image(i, 64, 40 + i * 2) for i in range(20)], boxes)


@pytest.mark.parametrize("shape", NESTED)
@pytest.mark.parametrize("kind", TYPES)
def test_images_of_rare_classes_are_repeated_as_in_mmdet(kind, shape, tmp_path):
    ann_file = many(tmp_path)
    for threshold in (1e-9, 0.3, 0.9, 7):
        stock, ours = (balanced(kind, ann_file, mapped, threshold, NESTED[shape]) for mapped in (False, True))
        assert not isinstance(stock, Exception)
        assert_same_balance(stock, ours)


def test_files_with_other_categories_are_balanced_together(tmp_path):
    made = []
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", [image(1), image(2)], [box(1, 1, 7), box(2, 2, 55)], CATEGORIES[::-1])
    first = many(tmp_path)
    for mapped in (False, True):
        annotations.use({path: columns_beside(path) for path in (first, other)} if mapped else {})
        names = annotations.SUBSTITUTES if mapped else {name: name for name in annotations.SUBSTITUTES}
        inner = [{"type": names["LVISV1Dataset"], "ann_file": path, "pipeline": []} for path in (first, other)]
        made.append(build_dataset({"type": names["ClassBalancedDataset"], "oversample_thr": 0.6, "dataset": inner}))
    assert_same_balance(*made)


@pytest.mark.parametrize("filter_empty_gt", [True, False])
def test_images_without_objects_are_a_class_where_that_is_asked_for(filter_empty_gt, tmp_path):
    from mmdet.datasets import ClassBalancedDataset

    from mmdet_ext.data.balanced import ClassBalancedFromColumns

    ann_file = many(tmp_path)
    for classes in (1203, 7):  # the number of classes may be the id of one
        made = []
        for mapped, wrapper in ((False, ClassBalancedDataset), (True, ClassBalancedFromColumns)):
            inner = build("LVISV1Dataset", ann_file, mapped=mapped, filter_empty_gt=False,
                          classes=[str(i) for i in range(classes)])
            made.append(wrapper(inner, 0.9, filter_empty_gt))
        assert_same_balance(*made)


def test_a_dataset_that_reads_json_is_balanced_by_mmdet(tmp_path):
    from mmdet_ext.data.balanced import ClassBalancedFromColumns, distinct_categories

    inner = build("LVISV1Dataset", many(tmp_path), mapped=False)
    assert distinct_categories(inner) is None
    stock = balanced("LVISV1Dataset", inner.ann_file, mapped=False)
    assert_same_balance(stock, ClassBalancedFromColumns(inner, 0.5))


# -- processes


def test_a_pickled_dataset_is_small_and_gives_the_same(tmp_path):
    ann_file = write(tmp_path, [image(i) for i in range(300)], [box(i, i % 300) for i in range(3000)])
    dataset = build("LVISV1Dataset", ann_file, mapped=True, classes=["a"])
    annotations.use({})  # a worker that is not forked does not have it
    written = pickle.dumps(dataset)
    assert len(written) < 15_000 < os.path.getsize(columns_beside(ann_file)) / 10
    assert_same(build("LVISV1Dataset", ann_file, mapped=False, classes=["a"]), pickle.loads(written))
    assert exact(copy.deepcopy(dataset).get_ann_info(7)) == exact(dataset.get_ann_info(7))


def test_workers_of_a_loader_read_the_same(tmp_path):
    from torch.utils.data import DataLoader

    ann_file = write(tmp_path, [image(i) for i in range(6)], [box(i, i) for i in range(6)])
    dataset = build("LVISV1Dataset", ann_file, mapped=True)
    loader: Any = DataLoader(dataset, num_workers=2, collate_fn=lambda batch: batch[0])
    read = [exact({**item["ann_info"], "name": item["img_info"]}) for item in loader]
    assert read == [exact({**dataset.get_ann_info(i), "name": dataset.data_infos[i]}) for i in range(6)]


def own_memory() -> int:
    """Bytes in memory that are of no file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


@pytest.mark.slow
def test_a_process_that_reads_columns_has_little_memory_of_its_own(tmp_path):
    shape = [[k / 100 for k in range(i, i + 4000)] for i in (1, 7)]
    boxes = [box(i, i % 40, segmentation=shape) for i in range(400)]
    ann_file = write(tmp_path, [image(i) for i in range(40)], boxes)
    size = os.path.getsize(columns_beside(ann_file))
    assert size > 6 << 20
    end, other = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = own_memory()
            columns = annotations.Columns(columns_beside(ann_file))
            touched = [int(part.max()) for part in columns._points if len(part)]
            os.write(other, json.dumps([own_memory() - before, touched]).encode())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    grown, touched = json.loads(os.read(end, 100))
    assert touched == [4006] and grown < size / 3
