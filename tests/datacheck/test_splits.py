"""What evaluation will need of the data is known before anything is submitted."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecm_cluster.datacheck import entries, splits
from ecm_cluster.mmclasses.class_names import TABLE
from ecm_cluster.staging.planned import Staging

STAGING = Staging("none", None, None, False, False, "")
NAMES = ["ant", "bee", "cat"]


def coco(images: int = 3, lvis: bool = False) -> dict[str, Any]:
    """Two objects on each image."""
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": 10 + k, "name": name, **({"frequency": "rcf"[k]} if lvis else {})} for k, name in enumerate(NAMES)]}
    for k in range(images):
        image = {"id": 7 * k, "height": 40, "width": 50, "file_name": f"{k}.jpg"}
        if lvis:
            image.update(neg_category_ids=[], not_exhaustive_category_ids=[], coco_url=f"http://x/{k}.jpg")
        document["images"].append(image)
        document["annotations"] += [
            {"id": 2 * k + n + 1, "image_id": 7 * k, "category_id": 10 + n, "area": 20.0, "bbox": [1, 1, 5, 4],
             "iscrowd": 0, "segmentation": [[1, 1, 6, 1, 6, 5]]} for n in range(2)]
    return document


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for k in range(3):
        (tmp_path / f"{k}.jpg").write_bytes(b"picture")
    for name in ("train", "test", "other"):
        save(tmp_path, name, coco())
    return tmp_path


def save(folder: Path, name: str, document: Any) -> str:
    (folder / f"{name}.json").write_text(json.dumps(document))
    return str(folder / f"{name}.json")


def section(data: Path, name: str, kind: str = "CocoDataset", masks: bool = False, **more: Any) -> dict[str, Any]:
    found = {"type": kind, "ann_file": str(data / f"{name}.json"), "img_prefix": str(data), "pipeline": [
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks}], "classes": NAMES, **more}
    return {key: value for key, value in found.items() if value is not None}


def config(data: Path, test: Any = None, train: Any = None, **more: Any) -> dict[str, Any]:
    return {"model": {"type": "FasterRCNN"}, "data": {
        "train": train or section(data, "train"), "test": test or section(data, "test")}, **more}


def checked(cfg: dict[str, Any], scored: bool = True) -> tuple[list[str], list[str]]:
    found = splits.check(cfg, STAGING, scored)
    return found.problems, found.warnings


def change(kind: str, number: int, **fields: Any) -> Callable[[dict[str, Any]], None]:
    """Set fields of an entry; a None takes one away."""
    def apply(document: dict[str, Any]) -> None:
        entry = document[kind][number]
        entry.update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del entry[name]

    return apply


LATER = {
    "no area": (change("annotations", 4, area=None), "entry 5 of 'annotations' (id 5) has no 'area'"),
    "area in words": (change("annotations", 4, area="20"), "entry 5 of 'annotations' (id 5) has 'area' \"20\""),
    "no box": (change("annotations", 3, bbox=None), "entry 4 of 'annotations' (id 4) has no 'bbox'"),
    "half a box": (change("annotations", 3, bbox=[1, 2]), "has 'bbox' [1, 2]; expected x, y, width, height"),
    "box of words": (change("annotations", 3, bbox=["1", 2, 3, 4]), "expected x, y, width, height"),
    "no image": (change("annotations", 5, image_id=None), "entry 6 of 'annotations' (id 6) has no 'image_id'"),
    "no category": (change("annotations", 5, category_id=None), "(id 6) has no 'category_id'"),
    "one id twice": (change("annotations", 2, id=1), "entry 3 of 'annotations' (id 1) has the id of another"),
    "one image twice": (change("images", 2, id=0), "entry 3 of 'images' (id 0) has the id of another entry"),
    "an empty mask": (change("annotations", 4, segmentation=[]), "(id 5) has 'segmentation' []; expected polygons"),
    "a polygon of two points": (change("annotations", 4, segmentation=[[1, 1, 5, 5]]), "polygons of at least 6"),
    "a point that is none": (change("annotations", 4, segmentation=[[1, 1, 5, None, 5, 6]]), "polygons of at least 6"),
    "a mask without end": (change("annotations", 4, segmentation=[[1, 1, 5, math.nan, 5, 6]]), "polygons of at least"),
    "a box without end": (change("annotations", 3, bbox=[1, 1, math.inf, 4]), "expected x, y, width, height"),
    "a nameless area": (change("annotations", 4, area=math.nan), "(id 5) has 'area' NaN; expected a finite number"),
    "a huge number": (change("annotations", 3, bbox=[1, 1, 10**400, 4]), "expected x, y, width, height"),
    "a huge area": (change("annotations", 4, area=10**30), "(id 5) has 'area' 1000000000"),
    "a huge mask": (change("annotations", 4, segmentation=[[1, 1, 5, 10**400, 5, 6]]), "polygons of at least"),
    "an empty polygon": (change("annotations", 4, segmentation=[[]]), "has 'segmentation' [[]]; expected polygons"),
    "no size of a mask": (change("annotations", 4, segmentation={"counts": "a"}), "an encoding with counts and size"),
    "no name": (change("images", 2, file_name=None), "entry 3 of 'images' (id 14) has no 'file_name'"),
    "no height": (change("images", 1, height=None), "entry 2 of 'images' (id 7) has no 'height'"),
    "not an object": (lambda d: d["annotations"].append([1]), "entry 7 of 'annotations' is [1]"),
}


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("case", LATER)
@pytest.mark.parametrize("whole", [True, False])
def test_a_later_entry_that_lacks_something_is_named(data, monkeypatch, split, case, whole):
    if not whole:
        monkeypatch.setattr(entries, "PARSED", 0)  # as of a file that is searched as text first
        if any(word in case for word in (
                "twice", "half a box", "box of words", "huge", "not an object",
                "empty", "no size", "points", "point that")):
            pytest.skip("a large file is not searched for it")
    corrupt, said = LATER[case]
    document = coco()
    corrupt(document)
    path = save(data, split, document)
    problems, _ = checked(config(data, train=section(data, "train", masks=True), evaluation={"metric": "segm"}))
    assert any(p.startswith(f"data.{split}.ann_file: {path}: ") and said in p for p in problems), problems
    assert len(problems) == 1


def test_a_file_that_is_searched_as_text_passes_where_it_is_right(data, monkeypatch):
    monkeypatch.setattr(entries, "PARSED", 0)
    monkeypatch.setattr(entries.outline, "parse", lambda *_: pytest.fail("it was parsed"))
    monkeypatch.setattr(entries, "CHUNK", 300)
    for masks in (False, True):
        cfg = config(data, train=section(data, "train", masks=masks))
        needs = splits.needs_of(splits.leaves(cfg, "train")[0], "train", cfg, False)
        assert entries.check(data / "train.json", "it", needs, [10, 11, 12]) == ([], [])


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_of_two_objects_is_refused(data, monkeypatch, whole):
    if not whole:
        monkeypatch.setattr(entries, "PARSED", 0)
    for between in ("", "\n"):
        (data / "train.json").write_text(json.dumps(coco()) + between + json.dumps(coco()))
        (problem,) = checked(config(data), scored=False)[0]
        assert problem.startswith("data.train.ann_file: ") and "not valid JSON (Extra data" in problem


@pytest.mark.parametrize(("make", "said"), [
    (lambda p: p.write_bytes(b'{"a":' * 100_000 + b"}"), "nested too deeply"),
    (lambda p: p.write_bytes(b"[" * 100_000), "is not a JSON object"),
    (lambda p: p.write_bytes(b'{"images": [{"id": "\xe4"}], "categories": []}'), "not valid JSON ('utf-8' codec"),
    (os.mkfifo, "is not a regular file"), (lambda p: p.symlink_to("/dev/zero"), "is not a regular file"),
    (lambda p: p.mkdir(), "is a directory"), (lambda p: p.symlink_to(p), "")])
def test_what_is_not_an_annotation_file_is_refused_in_one_line(data, make, said):
    path = data / "train.json"
    path.unlink()
    make(path)
    (problem,) = checked(config(data), scored=False)[0]
    assert problem.startswith("data.train.ann_file: ") and said in problem and "\n" not in problem


def test_faults_of_a_kind_are_counted_and_what_mmdet_skips_is_not_a_fault(data):
    document = coco()
    for annotation in document["annotations"][2:5]:
        del annotation["area"]
    document["annotations"][2].update(ignore=1)
    document["annotations"][5].update(image_id=12345, category_id=99)
    document["images"].append(document["images"][0])
    save(data, "train", document)
    (problem,), warnings = checked(config(data))
    assert "(id 4) has no 'area'" in problem and "and 1 more of 'annotations'" in problem
    assert [w.partition(" has ")[2] for w in warnings] == [
        "category_id 99, which is not listed in 'categories': it is ignored",
        "image_id 12345, which is not listed in 'images': it is ignored"]
    save(data, "test", document)  # COCO's and LVIS's own code reads them
    assert [p for p in checked(config(data))[0] if "data.test" in p and "(id 3) has no 'area'" in p]


def test_masks_that_mmdet_never_reads_may_be_empty(data):
    document = coco()
    for annotation, unread in zip(document["annotations"], ({"area": 0}, {"iscrowd": 1}, {"bbox": [1, 1, 0, 4]})):
        annotation.update(segmentation=[], **unread)
    save(data, "train", document)
    assert checked(config(data, train=section(data, "train", masks=True)))[0] == []
    save(data, "test", document)  # what scores reads every one
    (problem,) = checked(config(data, evaluation={"metric": "segm"}))[0]
    assert "(id 1) has 'segmentation' []" in problem and "and 2 more of" in problem


@pytest.mark.parametrize(("kind", "said"), [
    ("images", "no annotation has an image_id that is listed in 'images'; expected the same ids"),
    ("categories", "no annotation has a category_id that is listed in 'categories'; expected the same ids")])
def test_annotations_of_images_or_categories_that_are_all_unlisted_are_refused(data, kind, said):
    document = coco()
    for entry in document[kind]:
        entry["id"] = str(entry["id"])
    save(data, "test", document)
    (problem,) = checked(config(data))[0]
    assert said in problem


@pytest.mark.parametrize("kind", ["images", "categories"])
def test_ids_of_two_kinds_are_refused_where_they_are_sorted(data, kind):
    document, key = coco(), {"images": "image_id", "categories": "category_id"}[kind]
    own = document[kind][0]["id"]
    document[kind][0]["id"] = "first"
    for annotation in document["annotations"]:
        annotation[key] = "first" if annotation[key] == own else annotation[key]
    save(data, "train", document)
    assert checked(config(data))[0] == []
    save(data, "test", document)
    (problem,) = checked(config(data))[0]
    assert f"{kind!r} has ids that are numbers and ids that are text" in problem


def test_data_without_annotations_is_refused_where_nothing_would_be_left_of_it(data):
    document = coco()
    del document["annotations"]
    empty = save(data, "empty", document)
    (problem,) = checked(config(data, section(data, "empty")))[0]
    assert "empty.json has no annotations, so nothing can be scored; " in problem and "--no-eval" in problem
    assert checked(config(data, [section(data, "test"), section(data, "empty")])) == ([], [])
    save(data, "empty", {**document, "annotations": []})
    (problem,) = checked(config(data, train=section(data, "empty")))[0]
    assert problem.endswith("set data.train.filter_empty_gt=False to train on such images") and empty in problem
    assert checked(config(data, train=section(data, "empty", filter_empty_gt=False))) == ([], [])
    assert checked(config(data, train=[section(data, "train"), section(data, "empty")])) == ([], [])
    save(data, "empty", {**document, "annotations": 3})
    (problem,) = checked(config(data, section(data, "empty")))[0]
    assert "'annotations' is 3; expected a list" in problem


def test_a_dataset_of_mmdet_without_an_annotation_file_is_refused(data):
    (problem,) = checked(config(data, train=section(data, "train", ann_file=None)))[0]
    assert problem.startswith("config: data.train.ann_file is missing; expected the annotation file")


@pytest.mark.parametrize("whole", [True, False])
def test_an_image_of_lvis_without_either_name_is_named(data, monkeypatch, whole):
    monkeypatch.setattr(entries, "PARSED", 1 << 20 if whole else 0)
    document = coco(lvis=True)
    for image in document["images"]:
        del image["file_name"]
    for name in ("train", "test"):
        save(data, name, document)
    train, test = (section(data, name, "LVISFromFile", classes=None, img_prefix=None) for name in ("train", "test"))
    assert checked(config(data, test, train))[0] == []
    del document["images"][2]["coco_url"]
    save(data, "test", document)
    (problem,) = checked(config(data, test, train))[0]
    assert "entry 3 of 'images' (id 14) has no coco_url or file_name" in problem


LVIS_LATER = {
    "no negatives": (change("images", 1, neg_category_ids=None), "entry 2 of 'images' (id 7) has no 'neg_cat"),
    "negatives in words": (change("images", 1, neg_category_ids="none"), "has 'neg_category_ids' \"none\""),
    "no list of unfinished categories": (change("images", 2, not_exhaustive_category_ids=None),
                                    "has no 'not_exhaustive_category_ids'"),
    "no frequency": (change("categories", 1, frequency=None), "entry 2 of 'categories' has no 'frequency'"),
}


@pytest.mark.parametrize("case", LVIS_LATER)
@pytest.mark.parametrize("whole", [True, False])
def test_a_later_entry_of_lvis_that_lacks_something_is_named_where_it_is_scored(data, monkeypatch, case, whole):
    if not whole:
        monkeypatch.setattr(entries, "PARSED", 0)
    corrupt, said = LVIS_LATER[case]
    document = coco(lvis=True)
    save(data, "train", document)
    corrupt(document)
    save(data, "test", document)
    kinds = [section(data, name, "LVISFromFile", classes=None) for name in ("train", "test")]
    problems, _ = checked(config(data, kinds[1], kinds[0]))
    assert len(problems) == 1 and said in problems[0], problems
    assert checked(config(data, kinds[1], kinds[1]), scored=False)[0] == []  # training reads none of it


def test_lvis_with_boxes_only_or_with_encoded_masks_is_accepted(data):
    boxes, encoded = coco(lvis=True), coco(lvis=True)
    for annotation in boxes["annotations"]:
        del annotation["segmentation"]
    for annotation in encoded["annotations"]:
        annotation["segmentation"] = {"size": [40, 50], "counts": "abc"}
    for document, masks in ((boxes, False), (encoded, True)):
        for name in ("train", "test"):
            save(data, name, document)
        kinds = [section(data, name, "LVISFromFile", masks, classes=None) for name in ("train", "test")]
        metric = ["bbox", "segm"] if masks else "bbox"
        assert checked(config(data, kinds[1], kinds[0], evaluation={"metric": metric})) == ([], [])
    save(data, "train", boxes)
    problems, _ = checked(config(data, kinds[1], kinds[0]))
    assert "has no 'segmentation'" in problems[0] and len(problems) == 1


@pytest.mark.parametrize("kind", ["CocoDataset", "LVISFromFile"])
@pytest.mark.parametrize("other", ["text", float])
def test_ids_that_are_text_or_fractions_are_accepted(data, kind, other):
    document, of = coco(lvis=kind == "LVISFromFile"), "id {}".format if other == "text" else other
    for entry in document["images"] + document["categories"]:
        entry["id"] = of(entry["id"])
    for image in document["images"]:
        image["height"] = 40.0  # as some tools write all numbers
    for annotation in document["annotations"]:
        annotation.update({key: of(annotation[key]) for key in ("image_id", "category_id")})
    for name in ("train", "test"):
        save(data, name, document)
    classes = NAMES if kind == "CocoDataset" else None
    both = [section(data, name, kind, classes=classes) for name in ("test", "train")]
    assert checked(config(data, *both)) == ([], [])
    masked = section(data, "train", kind, True, classes=classes)
    (problem,) = checked(config(data, both[0], masked))[0]  # mmdet makes bitmaps of that size
    assert "has 'height' 40.0; expected a whole number" in problem


def test_the_second_objects365_is_looked_for_where_mmdet_keeps_the_last_folder_of_its_names(data):
    document = coco()
    (data / "patch8").mkdir()
    for image in document["images"]:
        (data / image["file_name"]).rename(data / "patch8" / image["file_name"])
        image["file_name"] = f"images/v1/patch8/{image['file_name']}"
    for name in ("train", "test"):
        save(data, name, document)
    kinds = [section(data, name, "Objects365V2Dataset") for name in ("test", "train")]
    assert checked(config(data, *kinds)) == ([], [])
    (data / "patch8/0.jpg").unlink()
    assert f"{data}/patch8/0.jpg does not exist" in checked(config(data, *kinds))[0][0]


@pytest.mark.parametrize("form", ["concatenated", "a list", "a list of files"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_second_member_that_is_missing_is_named(data, form, split):
    good, bad = section(data, split), section(data, "nowhere")
    made = {"concatenated": {"type": "ConcatDataset", "datasets": [good, bad]}, "a list": [good, bad],
            "a list of files": {**good, "ann_file": [good["ann_file"], bad["ann_file"]]}}[form]
    cfg = config(data, **{split: made})
    where = {"concatenated": ".datasets.1.ann_file", "a list": ".1.ann_file", "a list of files": ".ann_file.1"}[form]
    (problem,) = checked(cfg)[0]
    assert problem.startswith(f"data.{split}{where}: {bad['ann_file']} does not exist; ")
    made = copy.deepcopy(good)
    made.update(ann_file=[good["ann_file"]] * 2, img_prefix=[str(data), str(data / "elsewhere")])
    (problem,) = checked(config(data, **{split: made}))[0]
    assert problem.startswith(f"data.{split}.img_prefix.1: {data / 'elsewhere'}")


CLASSES = {
    "a class that the file lacks": ({"classes": [*NAMES, "dog"]}, "lacks 1 of the 4 classes", "'dog'"),
    "the default of mmdet": ({"classes": None}, "lacks 79 of the 80 classes that CocoDataset has", "'person'"),
    "text in place of names": ({"classes": "ant"}, "data.test.classes: cannot read ant", "a list of names"),
    "no names": ({"classes": ()}, "invalid data.test.classes", "a list of names"),
    "names for what takes the file's": ({"kind": "LVISFromFile"}, "LVISFromFile takes all categories", "remove it"),
    "a name twice": ({"classes": ["ant", "ant"]}, "has 1 categories that are called 'ant'", "names 2"),
    "fewer than training": ({"classes": ["ant"]}, "has 1 classes, and training has 3", "same order"),
    "LVIS of another size": ({"kind": "LVISV1Dataset", "classes": None}, "has 3 categories, and LVISV1Dataset has 1203",
                             "LVISFromFile (without classes)"),
    "LVIS with other names": ({"kind": "LVISV1Dataset", "classes": ["bee", "ant", "cat"]}, "in the file's order",
                              "LVISFromFile (without classes)"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_that_do_not_go_with_the_file_are_refused(data, case):
    options, *said = CLASSES[case]
    save(data, "test", coco(lvis="LVIS" in case or "kind" in options))
    problems, _ = checked(config(data, section(data, "test", **options)))
    assert len(problems) == 1 and all(text in problems[0] for text in said), problems


def test_categories_of_one_name_are_labels_of_their_own(data):
    document = coco()
    document["categories"][1]["name"] = "ant"
    for name in ("train", "test"):
        save(data, name, document)
    once, twice = ([section(data, name, classes=classes) for name in ("test", "train")] for classes in (
        ["ant", "cat"], ["ant", "ant", "cat"]))
    assert checked(config(data, *twice)) == ([], [])
    problems = checked(config(data, *once))[0]
    assert len(problems) == 2 and "2 categories that are called 'ant', and data.test.classes names 1" in problems[1]


def test_an_empty_file_of_classes_is_refused(data):
    (data / "names.txt").write_text("")
    (problem,) = checked(config(data, section(data, "test", classes=str(data / "names.txt"))))[0]
    assert problem.startswith("data.test.classes: ") and "names.txt is empty" in problem


def test_the_same_classes_in_another_order_of_the_file_are_refused(data):
    document = coco()
    document["categories"].reverse()
    save(data, "test", document)
    (problem,) = checked(config(data))[0]
    assert "label 0 is 'cat', and in training 'ant'" in problem
    assert checked(config(data), scored=False)[0] == []


def test_a_config_without_test_data_trains_and_is_not_scored(data):
    cfg = config(data)
    del cfg["data"]["test"]
    (problem,) = checked(cfg)[0]
    assert "data.test is missing" in problem and "data.val" in problem and "--no-eval" in problem
    assert checked(cfg, scored=False) == ([], [])


@pytest.mark.parametrize(("options", "said"), [
    ({"test": {"type": "RepeatDataset", "times": 2}}, "inside a RepeatDataset"),
    ({"evaluation": {"metric": "mAP"}}, "evaluation.metric: 'mAP' is unknown"),
    ({"evaluation": {"proposal_nums": (0,)}}, "invalid evaluation.proposal_nums"),
    ({"evaluation": {"iou_thrs": [50]}}, "invalid evaluation.iou_thrs"),
    ({"model": {"type": "RPN"}}, "set evaluation.metric=proposal_fast"),
    ({"model": {"type": "RPN"}, "evaluation": {"metric": ["bbox", "proposal_fast"]}}, "metric=proposal_fast"),
    ({"evaluation": {"metric": ["bbox", "proposal_fast"]}}, "FasterRCNN gives boxes by class"),
    ({"evaluation": {"metric": "proposal", "proposal_nums": (1, 100)}}, "[1, 100]; expected three numbers"),
])
def test_what_cannot_be_scored_is_refused_at_submission(data, options, said):
    if "test" in options:
        options = {"test": {**options["test"], "dataset": section(data, "test")}}
    cfg = config(data, **{k: v for k, v in options.items() if k == "test"})
    cfg.update({k: v for k, v in options.items() if k != "test"})
    (problem,) = checked(cfg)[0]
    assert said in problem
    assert checked(cfg, scored=False)[0] == []


def test_panoptic_annotations_train_and_are_not_scored(data):
    document = coco()
    document["annotations"] = [{"image_id": 7 * k, "file_name": f"{k}.png", "segments_info": [
        {"id": 5, "category_id": 10, "area": 3, "bbox": [1, 1, 2, 2], "iscrowd": 0}]} for k in range(3)]
    save(data, "train", document)
    kind = section(data, "train", "CocoPanopticDataset")
    assert checked(config(data, kind, kind), scored=False) == ([], [])
    (problem,) = checked(config(data, kind, kind))[0]
    assert "panoptic maps are not kept here" in problem and "--no-eval" in problem


# ---------------------------------------------------------------------------------------------- VOC


XML = """<annotation><folder>{folder}</folder><size><width>50</width><height>40</height></size><object><name>cat</name>
<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{xmax}</xmax><ymax>20</ymax></bndbox></object></annotation>"""


def voc(folder: Path, year: str = "VOC2007") -> dict[str, Any]:
    root = folder / year
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for k in range(3):
        (root / f"Annotations/{k}.xml").write_text(XML.format(folder="x", xmax=30))
        (root / f"JPEGImages/{k}.jpg").write_bytes(b"picture")
    (root / "ImageSets/Main/test.txt").write_text("0\n1\n2\n")
    return {"type": "VOCDataset", "ann_file": str(root / "ImageSets/Main/test.txt"), "img_prefix": f"{root}/",
            "pipeline": []}


def test_voc_is_accepted_and_what_it_lacks_is_named(tmp_path):
    test = voc(tmp_path)
    cfg = config(tmp_path, test, {"type": "RepeatDataset", "times": 3, "dataset": test}, evaluation={"metric": "mAP"})
    assert checked(cfg) == ([], [])
    for metric in ("bbox", ["mAP", "recall"]):
        (problem,) = checked({**cfg, "evaluation": {"metric": metric}})[0]
        assert "invalid evaluation.metric" in problem and "mAP, recall" in problem
    (problem,) = checked({**cfg, "evaluation": {"metric": "recall"}})[0]
    assert "FasterRCNN gives boxes by class; set evaluation.metric=mAP" in problem
    assert checked({**cfg, "evaluation": {"metric": "recall"}, "model": {"type": "RPN"}}) == ([], [])
    (problem,) = checked({**cfg, "model": {"type": "RPN"}})[0]
    assert "set evaluation.metric=recall" in problem
    root = tmp_path / "VOC2007"
    (root / "Annotations/2.xml").write_text(XML.format(folder="x", xmax="wide"))
    assert "2.xml: object 1 has xmax 'wide'" in checked(cfg)[0][0]
    (root / "Annotations/2.xml").write_text("<annotation>")
    assert "2.xml is not a readable XML file" in checked(cfg)[0][0]
    (root / "Annotations/2.xml").unlink()
    os.mkfifo(root / "Annotations/2.xml")
    assert "2.xml is not a readable XML file" in checked(cfg)[0][0] and "not a regular file" in checked(cfg)[0][0]
    names = Path(test["ann_file"]).read_bytes()
    Path(test["ann_file"]).write_bytes(b"a\0b\n")
    assert "names 'a\\x00b'" in checked(cfg)[0][1] or "is not a readable XML file" in checked(cfg)[0][1]
    Path(test["ann_file"]).write_bytes(names)
    (root / "JPEGImages/1.jpg").unlink()
    assert "names '1'" in checked(cfg)[0][0] and "1.jpg does not exist" in checked(cfg)[0][0]
    (root / "Annotations/0.xml").unlink()
    assert "0.xml does not exist" in checked(cfg)[0][0]
    Path(test["ann_file"]).unlink()
    assert "data.test.ann_file: " in checked(cfg)[0][1] and "does not exist" in checked(cfg)[0][1]
    other = voc(tmp_path, "pictures")
    assert "names neither VOC2007 nor VOC2012" in checked(config(tmp_path, other, other))[0][0]
    assert checked(config(tmp_path, {**other, "type": "XMLDataset", "classes": NAMES}, {
        **other, "type": "XMLDataset", "classes": NAMES})) == ([], [])


def test_a_dataset_of_the_users_own_is_read_as_far_as_it_is_known(data):
    own = section(data, "train", "MyDataset", classes=None)
    assert checked(config(data, own, own)) == ([], [])
    (data / "own.txt").write_text("a format of its own")
    document = coco()
    del document["annotations"][0]["area"], document["annotations"][4]["bbox"]
    save(data, "train", document)
    problems, warnings = checked(config(data, own, own))
    assert problems == [] and len(warnings) == 4 and "(id 5) has no 'bbox'" in warnings[1]
    own = {**own, "ann_file": str(data / "own.txt")}
    assert checked(config(data, own, own)) == ([], [])
    problems, _ = checked(config(data, {**own, "ann_file": "/nowhere.txt"}, own))
    assert problems == ["data.test.ann_file: /nowhere.txt does not exist; expected the annotations of data.test"]


def test_the_table_of_class_names_is_mmdets():
    if not hasattr(pytest.importorskip("mmdet.datasets"), "Objects365V1Dataset"):
        pytest.skip("the table is that of a newer mmdet, which has more datasets")
    from tools.class_names import table

    assert TABLE.read_text(encoding="utf-8") == table()


def test_a_name_that_no_file_can_have_is_a_problem_of_its_dataset(data):
    (problem,) = checked(config(data, train={**section(data, "train"), "ann_file": "/x" * 4000}), scored=False)[0]
    assert problem.startswith("data.train") and "File name too long" in problem
