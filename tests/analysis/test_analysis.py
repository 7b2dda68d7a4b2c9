"""Where a model goes wrong: against known answers, the scorers' AP50, and hotcoco where it means the same."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecm_cluster.analysis import summary, tide, verdicts
from ecm_cluster.scoring import score
from ecm_cluster.scoring.detections import Detections, concatenate, of_image

SIZE, IMAGES, CLASSES = 100, 3, 3
HERE, THERE, ASIDE = [0, 0, 20, 20], [50, 50, 20, 20], [0, 8, 20, 20]  # the last overlaps the first by 0.43
GRID = [HERE, THERE, ASIDE, [0, 0, 20, 10], [2, 1, 20, 20], [48, 52, 22, 19], [0, 16, 20, 20], [80, 0, 10, 10]]


def document(objects: list[tuple], absent: dict[int, list[int]] | None = None,
             unfinished: dict[int, list[int]] | None = None, lvis: bool = True) -> dict[str, Any]:
    """Objects are (image, class, box), with a fourth member a crowd or ignored."""
    lists = [{field: (listed or {}).get(i, []) for field, listed in (
        ("neg_category_ids", absent), ("not_exhaustive_category_ids", unfinished))} for i in range(IMAGES)]
    return {"images": [{"id": i, "height": SIZE, "width": SIZE, **(lists[i] if lvis else {})} for i in range(IMAGES)],
            "categories": [{"id": k, "name": f"class {k}", **({"frequency": "rcf"[k]} if lvis else {})}
                           for k in range(CLASSES)],
            "annotations": [{"id": n, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3],
                             "segmentation": [[box[0], box[1], box[0] + box[2], box[1], box[0] + box[2],
                                               box[1] + box[3], box[0], box[1] + box[3]]],
                             "iscrowd": int(bool(more) and not lvis), "ignore": int(bool(more) and lvis)}
                            for n, (i, k, box, *more) in enumerate(objects, 1)]}


def detections(rows: list[tuple]) -> Detections:
    """Rows are (image, class, box, score)."""
    parts = []
    for image in range(IMAGES):
        own = [row for row in rows if row[0] == image]
        parts.append(of_image(image, [r[1] for r in own], [r[3] for r in own], [r[2] for r in own]))
    return concatenate(parts)


def judged(content: dict[str, Any], rows: list[tuple], rule: str = "lvis", limit: int = 300) -> verdicts.Verdicts:
    return verdicts.judge(content, detections(rows), "bbox", rule, limit)


def gains(content: dict[str, Any], rows: list[tuple], rule: str = "lvis") -> dict[str, float]:
    return {name: gain for name, gain in tide.delta_ap(judged(content, rows, rule), {})["all"].items() if gain}


ONE, OTHER = (0, 0, HERE), (0, 1, THERE)


@pytest.mark.parametrize(("objects", "rows", "expected"), [
    ([ONE], [(0, 0, HERE, 0.9)], {}),
    ([ONE], [(0, 0, ASIDE, 0.9)], {"Loc": 1.0}),
    ([ONE], [(0, 0, THERE, 0.9), (0, 0, HERE, 0.8)], {"Bkg": 0.5}),
    ([ONE, OTHER], [(0, 1, HERE, 0.9), (0, 1, THERE, 0.8)], {"Cls": 0.75}),
    ([ONE, OTHER], [(0, 1, ASIDE, 0.9), (0, 1, THERE, 0.8), (0, 0, HERE, 0.8)], {"Both": 0.25}),
    ([ONE, (0, 0, THERE)], [(0, 0, HERE, 0.9), (0, 0, HERE, 0.8), (0, 0, THERE, 0.7)],
     {"Dupe": (1 - 2 / 3) * 50 / 101}),
    ([ONE, (0, 0, THERE)], [(0, 0, HERE, 0.9)], {"Miss": 50 / 101}),
])
def test_each_kind_of_error_costs_what_it_does(objects, rows, expected):
    assert gains(document(objects), rows) == pytest.approx(expected)


@pytest.mark.parametrize(("content", "rows", "expected"), [
    (document([ONE, OTHER]), [(0, 2, HERE, 0.9)], None),  # nobody knows whether class 2 is there
    (document([ONE], {0: [2]}), [(0, 2, HERE, 0.9)], verdicts.CLS),
    (document([ONE], {0: [2]}), [(0, 2, THERE, 0.9)], verdicts.BKG),
    (document([ONE, OTHER], unfinished={0: [1]}), [(0, 1, HERE, 0.9)], verdicts.IGNORED),
    (document([ONE, OTHER], unfinished={0: [1]}), [(0, 1, THERE, 0.9)], verdicts.RIGHT),
    (document([(*ONE, "ignored"), (0, 0, THERE)]), [(0, 0, HERE, 0.9)], verdicts.IGNORED),
])
def test_what_lvis_ignores_is_not_an_error(content, rows, expected):
    assert judged(content, rows).verdict.tolist() == ([] if expected is None else [expected])


def test_a_crowd_takes_any_number_of_detections():
    content = document([(0, 0, [0, 0, 40, 40], "crowd"), (0, 0, THERE)], lvis=False)
    found = judged(content, [(0, 0, HERE, 0.9), (0, 0, [15, 15, 20, 20], 0.8), (0, 0, THERE, 0.7)], "coco")
    assert found.verdict.tolist() == [verdicts.IGNORED, verdicts.IGNORED, verdicts.RIGHT]


def test_a_second_detection_of_an_object_with_two_labels_is_not_a_confusion():
    found = judged(document([ONE, (0, 1, HERE)]), [(0, 0, HERE, 0.9), (0, 1, HERE, 0.8), (0, 1, HERE, 0.7)])
    assert found.verdict.tolist() == [verdicts.RIGHT, verdicts.RIGHT, verdicts.CLS]  # as TIDE has it
    assert found.doubled.tolist() == [False, False, True]


def test_a_rare_class_confused_with_a_frequent_one_costs_both():
    content = document([(0, 0, HERE), (1, 2, HERE)])
    split = tide.delta_ap(judged(content, [(0, 2, HERE, 0.9), (1, 2, HERE, 0.8)]), {"r": [0], "c": [1], "f": [2]})
    assert set(split) == {"all", "r", "f"}  # the common class has no objects
    assert (split["all"]["Cls"], split["r"]["Cls"], split["f"]["Cls"]) == (0, 0, 0)  # class 2 is not listed on image 0
    content["images"][0]["neg_category_ids"] = [2]
    split = tide.delta_ap(judged(content, [(0, 2, HERE, 0.9), (1, 2, HERE, 0.8)]), {"r": [0], "c": [1], "f": [2]})
    assert (split["r"]["Cls"], split["f"]["Cls"], split["all"]["Cls"]) == pytest.approx((1.0, 0.5, 0.75))


boxes = st.sampled_from(GRID)
objects_of = st.lists(st.tuples(st.integers(0, IMAGES - 1), st.integers(0, CLASSES - 1), boxes), min_size=1, max_size=8)
rows_of = st.lists(st.tuples(st.integers(0, IMAGES - 1), st.integers(0, CLASSES - 1), boxes,
                             st.integers(1, 10_000).map(lambda n: n / 10_000)), min_size=1, max_size=14,
                   unique_by=lambda row: row[3])  # hotcoco breaks ties by other orders
lists_of = st.dictionaries(st.integers(0, IMAGES - 1), st.lists(st.integers(0, CLASSES - 1), unique=True))


def apart(objects: list[tuple]) -> list[tuple]:
    """No two with equal overlaps, between which hotcoco chooses otherwise than TIDE."""
    return [(i, k, [x + 0.013 * n, y + 0.007 * n * n, w, h]) for n, (i, k, (x, y, w, h)) in enumerate(objects)]


def by_hotcoco(content: dict[str, Any], rows: list[tuple], rule: str) -> Any:
    hotcoco = pytest.importorskip("hotcoco")
    truth = hotcoco.COCO()
    truth.dataset = content
    found = truth.load_res([dict(image_id=i, category_id=k, bbox=box, score=value) for i, k, box, value in rows])
    evaluation = hotcoco.COCOeval(truth, found.cap_detections_per_image(None), "bbox", lvis_style=rule == "lvis")
    evaluation.evaluate()
    return evaluation


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(objects=objects_of, rows=rows_of, absent=lists_of, unfinished=lists_of, rule=st.sampled_from(["lvis", "coco"]))
def test_the_split_over_all_classes_is_hotcocos(objects, rows, absent, unfinished, rule):
    content = document(apart(objects), absent, unfinished, rule == "lvis")
    expected = by_hotcoco(content, rows, rule).tide_errors()
    found = judged(content, rows, rule)
    base = tide.of_classes(found)
    assert np.mean(base[base >= 0]) == pytest.approx(expected["ap_base"], abs=1e-12)
    counted = {name: int((found.verdict == error).sum()) for name, error in verdicts.ERRORS.items()}
    assert counted == {name: expected["counts"][name] for name in counted}
    for name, gain in tide.delta_ap(found, {})["all"].items():
        assert gain == pytest.approx(max(expected["delta_ap"][name], 0), abs=1e-12), name


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(objects=objects_of, rows=rows_of, absent=lists_of, unfinished=lists_of, rule=st.sampled_from(["lvis", "coco"]))
def test_without_repairs_it_is_ap50_as_it_is_scored(objects, rows, absent, unfinished, rule):
    content, found = document(objects, absent, unfinished, rule == "lvis"), detections(rows)
    figures = score.score_document(content, "x.json", found, ["bbox"], rule=rule)["figures"]["bbox"]
    base = tide.of_classes(verdicts.judge(content, found, "bbox", rule, 300))
    assert np.mean(base[base >= 0]) == pytest.approx(figures["AP50"], abs=1e-12)


# ---------------------------------------------------------------------------------------------- the summary

NAMES = ["lynx", "dog", "cat"]


def test_the_most_frequent_confusion_stands_first_and_only_at_scores_that_matter():
    content = document([(0, 0, HERE), (0, 0, THERE), (1, 1, HERE)], {0: [2], 1: [2]})
    rows = [(0, 2, HERE, 0.9), (0, 2, THERE, 0.8), (1, 2, HERE, 0.7), (0, 0, HERE, 0.6)]
    found = summary.confusions(judged(content, rows), NAMES, 0.7)
    assert [tuple(pair.values()) for pair in found] == [("lynx", "cat", 2), ("dog", "cat", 1)]
    assert len(summary.confusions(judged(content, rows), NAMES, 0.75)) == 1


def test_scores_that_say_how_often_they_are_right_are_calibrated():
    content = document([(0, 0, HERE), (1, 0, HERE)])
    found = summary.calibration(judged(content, [(0, 0, HERE, 0.75), (1, 0, THERE, 0.25), (0, 0, THERE, 0.75)]))
    assert found["ece"] == pytest.approx((2 * 0.25 + 0.25) / 3)
    (low,), (high,) = ([b for b in found["bins"] if b["low"] == low] for low in (0.2, 0.7))
    assert [low[name] for name in ("count", "precision")] == [1, 0]
    assert [high[name] for name in ("count", "precision", "confidence")] == [2, 0.5, 0.75]
    assert summary.calibration(judged(content, []))["ece"] is None


def test_the_image_with_the_most_faults_stands_first_with_what_is_on_it():
    content = document([(0, 0, HERE), (1, 0, HERE), (1, 1, THERE)])
    rows = [(0, 0, HERE, 0.9), (1, 0, THERE, 0.8), (1, 1, THERE, 0.3)]
    found = judged(content, rows)
    (entry,) = summary.worst(found, detections(rows), NAMES, 0.5)
    assert (entry["image_id"], entry["missed"], entry["false"], entry["image"]) == (1, 2, 1, None)
    assert [(t["name"], t["found"]) for t in entry["truth"]] == [("lynx", False), ("dog", False)]
    assert entry["detections"] == [{"box": THERE, "score": 0.8, "name": "lynx", "right": False}]


def test_the_threshold_balances_finds_and_false_alarms():
    content = document([(0, 0, HERE), (1, 0, HERE)])
    rows = [(0, 0, HERE, 0.9), (1, 0, HERE, 0.6), (0, 0, THERE, 0.5), (1, 0, THERE, 0.4)]
    assert summary.best_threshold(judged(content, rows)) == 0.6
    assert summary.best_threshold(judged(content, [(0, 0, THERE, 0.5)])) == 0.0


@pytest.mark.parametrize("lvis", [True, False])
def test_it_can_be_written_and_has_no_frequencies_where_the_data_have_none(lvis):
    content = document([(0, 0, HERE)], lvis=lvis)
    for rows in ([(0, 0, THERE, 0.9)], []):
        made = summary.analyse(content, detections(rows), "bbox", "lvis" if lvis else "coco", 300)
        assert json.loads(json.dumps(made)) == made
        assert set(made["tide"]) == ({"all", "r"} if lvis else {"all"})
    nothing = summary.analyse(document([], lvis=lvis), detections([]), "bbox", "lvis" if lvis else "coco", 300)
    assert (nothing["tide"], nothing["worst"], nothing["confusions"]) == ({}, [], [])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(objects=objects_of, rows=rows_of, absent=lists_of, unfinished=lists_of)
def test_calibration_is_hotcocos(objects, rows, absent, unfinished):
    content = document(apart(objects), absent, unfinished)
    expected = by_hotcoco(content, rows, "lvis").calibration()
    found = summary.calibration(judged(content, rows))
    assert (found["ece"] or 0.0) == pytest.approx(expected["ece"], abs=1e-9)
    assert [b["count"] for b in found["bins"]] == [b["count"] for b in expected["bins"]]
