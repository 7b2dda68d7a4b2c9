"""Figures are those that mmdet's own datasets give for the same answers of a model, for any dataset."""

from __future__ import annotations

import copy
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mmdet = pytest.importorskip("mmdet")
from mmcv import Config  # noqa: E402 (after the check that the training stack is there)
from mmdet.core import encode_mask_results  # noqa: E402
from mmdet.datasets import DATASETS, CocoDataset  # noqa: E402
from pycocotools import mask as mask_utils  # noqa: E402

from ecm_cluster.base.errors import UserError  # noqa: E402
from ecm_cluster.mmclasses.evaluation import protocol  # noqa: E402
from ecm_cluster.node.inference import detect, score_parts, scored_set  # noqa: E402
from ecm_cluster.scoring.detections import concatenate  # noqa: E402
from ecm_cluster.scoring.parts import ScoredSet  # noqa: E402

DIGITS = 3 if importlib.metadata.version("mmdet").startswith("2.25.") else 4  # to which mmdet rounds

NAMES = ["ant", "bee", "cat", "dog", "eel"]
IDS = [31, 4, 900, 17, 5]
COCO_NAMES = {"mAP": "AP", "mAP_50": "AP50", "mAP_75": "AP75", "mAP_s": "APs", "mAP_m": "APm", "mAP_l": "APl"}


class OwnCoco(CocoDataset):
    """A user's dataset: its classes, and fewer images than the file has."""

    CLASSES = ("cat", "ant")

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        infos = super().load_annotations(ann_file)
        self.img_ids = self.img_ids[::2]
        return infos[::2]


class OwnRule(CocoDataset):
    """A user's dataset with an evaluation of its own."""

    CLASSES = tuple(NAMES)

    def evaluate(self, results: list[Any], metric: str = "count", logger: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {"count": sum(len(of_class) for boxes, _ in results for of_class in boxes), "note": "text"}


@pytest.fixture(autouse=True)
def registered():
    for kind in (OwnCoco, OwnRule):
        DATASETS.register_module(module=kind, force=True)
    yield
    for kind in (OwnCoco, OwnRule):
        DATASETS.module_dict.pop(kind.__name__)


def truth(rng: np.random.Generator, images: int = 7, lvis: bool = False, text: bool = False) -> dict[str, Any]:
    """Annotations with crowds and categories that nothing is of; ids that are neither sorted nor without gaps."""
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": i, "name": n, "frequency": "rcfff"[k], "image_count": 3, "instance_count": 4} if lvis else
        {"id": i, "name": n} for k, (i, n) in enumerate(zip(IDS, NAMES))]}
    for number in rng.permutation(500)[:images].tolist():
        image: dict[str, Any] = {"id": f"image {number}" if text else number, "height": 120, "width": 150,
                                 "file_name": f"{number}.jpg"}
        present = rng.choice(4, rng.integers(0, 4), replace=False)  # nothing is of the last category
        if lvis:
            image.update(neg_category_ids=[IDS[k] for k in range(4) if k not in present][:2],
                         not_exhaustive_category_ids=[IDS[k] for k in present if rng.random() < 0.3],
                         coco_url=f"http://images.cocodataset.org/val2017/{number}.jpg")
        document["images"].append(image)
        for label in np.repeat(present, rng.integers(1, 4, len(present))):
            x, y, w, h = rng.uniform([0, 0, 8, 8], [90, 70, 60, 50]).tolist()
            crowd = not lvis and rng.random() < 0.15
            bitmap = np.zeros((120, 150), np.uint8, order="F")
            bitmap[int(y):int(y + h), int(x):int(x + w)] = 1
            rle = mask_utils.encode(bitmap)
            document["annotations"].append({
                "id": len(document["annotations"]) + 1, "image_id": image["id"], "category_id": IDS[label],
                "iscrowd": int(crowd), "area": w * h, "bbox": [x, y, w, h],
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()} if crowd or rng.random() < 0.3
                else [[x, y, x + w, y, x + w, y + h, x, y + h]]})
    return document


def answers(rng: np.random.Generator, dataset: Any, labels: dict[Any, int], masks: bool = True) -> list[Any]:
    """What a model could say of a dataset's images: near its objects and anywhere, with ties."""
    results = []
    for info in dataset.data_infos:
        boxes: list[list[Any]] = [[] for _ in dataset.CLASSES]
        encoded: list[list[Any]] = [[] for _ in dataset.CLASSES]
        near = [(labels[a["category_id"]], a["bbox"]) for a in info["objects"] if a["category_id"] in labels]
        near += [(int(rng.integers(len(boxes))), rng.uniform([0, 0, 5, 5], [100, 80, 50, 40])) for _ in range(12)]
        for label, box in near * 2:
            x, y, w, h = np.asarray(box) + rng.normal(0, 2, 4)
            bitmap = np.zeros((120, 150), np.uint8, order="F")
            bitmap[max(int(y), 0):int(y + h), max(int(x), 0):int(x + w)] = 1
            boxes[label].append([x, y, x + w, y + h, round(float(rng.random()), 1)])
            encoded[label].append(bitmap.astype(bool))
        stacked = [np.array(b, np.float32).reshape(-1, 5) for b in boxes]
        results.append((stacked, encoded) if masks else stacked)
    return results


def test_section(path: Path, kind: str = "CocoDataset", **more: Any) -> dict[str, Any]:
    return {"type": kind, "ann_file": str(path), "pipeline": [], "img_prefix": "", **more}


test_section.__test__ = False  # type: ignore[attr-defined]  # named for data.test


def scored_both_ways(test: Any, rng: np.random.Generator, masks: bool = True, **evaluation: Any) -> tuple[Any, Any]:
    """(figures here, what mmdet's `evaluate` returns) for the same answers."""
    cfg = Config({"data": {"test": test}, "evaluation": {"interval": 1, **evaluation}})
    dataset, _, _ = scored_set.build(cfg)
    results, found, position = [], [], 0
    scored = ScoredSet(**vars(scored_set.describe(dataset)))
    for part, member in zip(scored.parts, scored_set.members(dataset)):
        objects: dict[Any, list[Any]] = {}
        for a in json.loads(Path(part.ann_file).read_text())["annotations"]:
            objects.setdefault(a["image_id"], []).append(a)
        for info in member.data_infos:
            info["objects"] = objects.get(info["id"], [])
        mine = answers(rng, member, {c: k for k, c in enumerate(member.cat_ids)}, masks)
        for image, result in zip(part.images, mine):
            ids = (position, None) if scored.by_position else (image, part.categories)
            found.append(detect.columns_of(*ids, result, len(part.categories)))
            position += 1
        results += [(r[0], encode_mask_results(r[1])) if masks else r for r in mine]
    asked = protocol(dict(cfg))
    identical(score_parts.results_of(scored, concatenate(found)), results)
    ours = score_parts.score(scored, concatenate(found), asked, {}, lambda: dataset)
    arguments = dict(asked.options)
    if "metric" not in arguments:
        arguments["metric"] = ["bbox", "segm"] if masks else "bbox"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        return ours, dataset.evaluate(copy.deepcopy(results), **arguments)


def identical(ours: list[Any], theirs: list[Any]) -> None:
    """The model's answers, as they come out of columns again."""
    for mine, original in zip(ours, theirs):
        masked = isinstance(original, tuple)
        for one, other in zip(*(r[0] if masked else r for r in (mine, original))):
            assert np.array_equal(one, other) and one.dtype == other.dtype
        for one, other in zip(*(r[1] for r in (mine, original))) if masked else ():
            assert one == other
    assert len(ours) == len(theirs)


def same(ours: dict[str, Any], theirs: dict[str, Any], kinds: tuple[str, ...] = ("bbox", "segm"), before: str = "",
         behind: str = "", without: str = "") -> None:
    """Every figure that mmdet gives, which it rounds."""
    assert any(0 < theirs[f"{before}{kind}_mAP"] < 1 for kind in kinds)  # the comparison is not trivial
    for kind in kinds:
        for name, mine in COCO_NAMES.items():
            value, expected = ours["figures"][kind + behind][mine], theirs[f"{before}{kind}_{name}"]
            if without == mine:
                assert expected == -1
                continue
            assert round(-1 if value is None else value, DIGITS) == pytest.approx(expected, abs=1e-9)


def written(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


def classes_file(folder: Path) -> str:
    (folder / "classes.txt").write_text("bee\ncat\n")
    return str(folder / "classes.txt")


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "all": lambda folder: {"classes": NAMES},
    "a subset": lambda folder: {"classes": ["dog", "ant"]},
    "one class": lambda folder: {"classes": ("bee",)},
    "another order": lambda folder: {"classes": NAMES[::-1]},
    "classes in a file": lambda folder: {"classes": classes_file(folder)},
    "a class of nothing": lambda folder: {"classes": ["eel", "ant"]},
    "own dataset": lambda folder: {"kind": "OwnCoco"},
    "cityscapes": lambda folder: {"kind": "CityscapesDataset", "classes": ["cat", "bee", "ant"]},
    "deep fashion": lambda folder: {"kind": "DeepFashionDataset", "classes": NAMES[1:]},
}


@pytest.mark.parametrize("case", CASES)
def test_coco_figures_are_those_of_the_dataset_as_configured(tmp_path, case):
    rng = np.random.default_rng(len(case))
    path = written(tmp_path / "val.json", truth(rng))
    section = test_section(path, **CASES[case](tmp_path))
    # Cityscapes' thresholds are of np.arange, which does not meet 0.75
    same(*scored_both_ways(section, rng), without="AP75" if case == "cityscapes" else "")


@pytest.mark.parametrize("case", ["all", "a subset"])
def test_ids_that_are_text_are_scored_as_in_mmdet(tmp_path, case):
    rng = np.random.default_rng(3)
    path = written(tmp_path / "val.json", with_text_for_categories(truth(rng, text=True)))
    ours, theirs = scored_both_ways(test_section(path, **CASES[case](tmp_path)), rng)
    same(ours, theirs)
    assert [row["name"] for row in ours["per_class"]] != []


def with_text_for_categories(document: dict[str, Any]) -> dict[str, Any]:
    for category in document["categories"]:
        category["id"] = f"category {category['id']}"
    for annotation in document["annotations"]:
        annotation["category_id"] = f"category {annotation['category_id']}"
    for image in document["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            if key in image:
                image[key] = [f"category {i}" for i in image[key]]
    return document


def test_an_image_listed_twice_and_annotations_of_nothing_listed_count_as_in_mmdet(tmp_path):
    rng = np.random.default_rng(3)
    document = truth(rng)
    document["images"].append(document["images"][0])
    document["annotations"] += [{**document["annotations"][0], "id": 98, "category_id": 12},
                                {**document["annotations"][0], "id": 99, "image_id": 501}]
    same(*scored_both_ways(test_section(written(tmp_path / "val.json", document), classes=NAMES), rng))


def test_thresholds_limits_and_metrics_are_the_configs(tmp_path):
    rng = np.random.default_rng(4)
    path = written(tmp_path / "val.json", truth(rng))
    section = test_section(path, classes=NAMES)
    ours, theirs = scored_both_ways(section, rng, metric="bbox", iou_thrs=np.array([0.5, 0.75]))
    assert set(ours["figures"]) == {"bbox"}
    assert round(ours["figures"]["bbox"]["AP"], DIGITS) == theirs["bbox_mAP"]
    ours, theirs = scored_both_ways(section, rng, metric=["bbox"], proposal_nums=(1, 3, 100), metric_items=[
        "mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR@100", "AR@300", "AR@1000", "AR_l@1000"])
    same(ours, theirs, ("bbox",))
    figures = ours["figures"]["bbox"]  # mmdet keeps the names of its default limits
    for mine, name in (("AR@1", "AR@100"), ("AR@3", "AR@300"), ("AR@100", "AR@1000"), ("ARl@100", "AR_l@1000")):
        assert round(-1 if figures[mine] is None else figures[mine], DIGITS) == theirs[f"bbox_{name}"]


def test_metrics_that_no_scorer_here_knows_are_mmdets(tmp_path):
    rng = np.random.default_rng(5)
    path = written(tmp_path / "val.json", truth(rng))
    ours, theirs = scored_both_ways(test_section(path, classes=NAMES), rng, metric=["proposal"])
    assert ours["figures"] == {"mmdet": theirs} and 0 < theirs["AR@100"] < 1
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        del annotation["iscrowd"]
    bare = test_section(written(tmp_path / "bare.json", document), classes=NAMES)
    cfg = Config({"data": {"test": bare}, "evaluation": {"metric": "proposal", "iou_thrs": [0.5]}})  # mmdet fails
    dataset, _, _ = scored_set.build(cfg)
    scored = scored_set.describe(dataset)
    found = concatenate([detect.columns_of(i, scored.parts[0].categories, [np.array([[1, 1, 60, 50, 0.5]])] * 5, 5)
                         for i in scored.parts[0].images])
    assert score_parts.score(scored, found, protocol(cfg), {}, lambda: dataset)["figures"]["mmdet"]["AR@100"] >= 0
    ours, theirs = scored_both_ways(test_section(path, classes=NAMES), rng, metric=["bbox", "proposal"])
    same(ours, theirs, ("bbox",))
    assert 0 < ours["figures"]["mmdet"]["AR@100"] < 1


def test_a_dataset_with_an_evaluation_of_its_own_keeps_it(tmp_path):
    rng = np.random.default_rng(6)
    path = written(tmp_path / "val.json", truth(rng))
    ours, theirs = scored_both_ways(test_section(path, "OwnRule"), rng, metric="count")
    assert ours["figures"] == {"mmdet": {"count": theirs["count"]}} and theirs["count"] > 50
    assert ours["scorer"] == "mmdet"


@pytest.mark.parametrize("form", ["a ConcatDataset", "a list", "a list of files"])
def test_several_datasets_are_scored_each_and_as_one(tmp_path, form):
    rng = np.random.default_rng(7)
    paths = [written(tmp_path / f"{k}.json", truth(rng, text=bool(k))) for k in range(2)]
    sections = [test_section(path, classes=NAMES) for path in paths]
    test = {"a ConcatDataset": {"type": "ConcatDataset", "datasets": sections}, "a list": sections,
            "a list of files": {**sections[0], "ann_file": [str(path) for path in paths]}}[form]
    ours, theirs = scored_both_ways(test, rng, metric=["bbox", "segm"])
    for number in range(2):
        same(ours, theirs, before=f"{number}_", behind=f"@{number}")
    assert list(ours["figures"]) == (["bbox", "segm"] if form else []) + ["bbox@0", "segm@0", "bbox@1", "segm@1"]
    assert [part["images"] for part in ours["parts"]] == [7, 7] and ours["images"] == 14


@pytest.mark.parametrize("kind", ["LVISV1Dataset", "LVISV05Dataset", "text for ids"])
def test_lvis_figures_are_mmdets(tmp_path, kind):
    rng, text = np.random.default_rng(8), kind == "text for ids"
    kind, document = "LVISV1Dataset" if text else kind, truth(rng, images=12, lvis=True, text=text)
    path = written(tmp_path / "val.json", with_text_for_categories(document) if text else document)
    ours, theirs = scored_both_ways(test_section(path, kind, classes=NAMES), rng, metric=["bbox", "segm"])
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"):
        for iou in ("bbox", "segm"):
            value = ours["figures"][iou][name]
            assert round(-1 if value is None else value, DIGITS) == pytest.approx(theirs[f"{iou}_{name}"], abs=1e-9)
    assert 0.02 < theirs["bbox_AP"] < 0.9


def test_masks_that_cannot_be_scored_leave_boxes(tmp_path):
    rng = np.random.default_rng(9)
    document = truth(rng)
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    path = written(tmp_path / "val.json", document)
    section = test_section(path, classes=NAMES)
    ours, theirs = scored_both_ways(section, rng, metric="bbox")
    same(ours, theirs, ("bbox",))
    scored = scored_set.describe(scored_set.build(Config({"data": {"test": section}}))[0])
    nothing = concatenate([detect.columns_of(i, scored.parts[0].categories, [np.zeros((0, 5))] * 5, 5)
                           for i in scored.parts[0].images])
    ours = score_parts.score(scored, nothing, protocol({"evaluation": {"metric": ["bbox", "segm"]}}), {}, lambda: None)
    assert ours["figures"]["bbox"]["AP"] == 0 and "the model gives no masks" in ours["notes"][0]
    document["annotations"][0]["segmentation"] = [[1, 1, 9, 1, 9, 9]]  # one of them is not enough
    masked = detect.columns_of(1, None, ([np.zeros((0, 5))], [[]]), 1)
    kinds, (note,) = score_parts.kinds_of(document, masked, ())
    assert kinds == ["bbox"] and "annotations have no usable segmentation (the first is 2)" in note


def test_proposals_are_scored_by_mmdet(tmp_path):
    rng = np.random.default_rng(10)
    path = written(tmp_path / "val.json", truth(rng))
    dataset, _, _ = scored_set.build(Config({"data": {"test": test_section(path, classes=NAMES)}}))
    scored = scored_set.describe(dataset)
    boxes = [np.hstack([rng.uniform(0, 60, (30, 2)), rng.uniform(60, 120, (30, 2)), rng.random((30, 1))]).astype(
        np.float32) for _ in scored.parts[0].images]
    found = concatenate([detect.columns_of(i, scored.parts[0].categories, b, 5)
                         for i, b in zip(scored.parts[0].images, boxes)])
    asked = protocol({"evaluation": {"metric": "proposal_fast", "interval": 3}})
    ours = score_parts.score(scored, found, asked, {}, lambda: dataset)
    with score_parts.numpy_as_it_was():  # mmdet 2.x fails on newer ones
        assert ours["figures"]["mmdet"] == dataset.evaluate(boxes, metric="proposal_fast")
    assert ours["figures"]["mmdet"]["AR@100"] > 0.02


def test_classes_that_the_file_lacks_are_refused(tmp_path):
    path = written(tmp_path / "val.json", truth(np.random.default_rng(0)))
    cfg = Config({"data": {"test": test_section(path, classes=[*NAMES, "fox"])}})
    with pytest.raises(UserError, match="has 5 categories, the dataset names 6 classes"):
        scored_set.describe(scored_set.build(cfg)[0])
