"""Tables of average precision, as text."""

from __future__ import annotations

from ecm_cluster.reporting.tables import metrics_table, per_class_table

FIGURES = {"AP": 0.2689, "AP50": 0.5, "AP75": 0.25, "APs": 0.1, "APm": 0.2, "APl": 1.0, "APr": None,
           "APc": 0.0, "APf": 0.30049, "AR@300": 0.41, "ARs@300": 0.2, "ARm@300": 0.3, "ARl@300": None}
COLUMNS = ("id", "name", "frequency", "image_count", "instance_count", "bbox", "segm")
DOCUMENT = {
    "max_dets": 300,
    "figures": {"bbox": FIGURES, "segm": {**FIGURES, "AP": 0.0004}},
    "per_class": [dict(zip(COLUMNS, row)) for row in (
        (1, "rare", "r", 3, 4, 0.1, None),
        (2, "often", "f", 900, 2000, 0.55, 0.5),
        (3, "unknown", None, None, None, 0.0, 0.0),
        (4, "some", "c", 50, 60, 0.2, 0.2),
    )],
}


def test_figures_are_percent_with_one_decimal_and_a_dash_where_undefined():
    assert metrics_table(DOCUMENT) == (
        "        AP  AP50  AP75   APs   APm    APl  APr  APc   APf  AR@300\n"
        "mask   0.0  50.0  25.0  10.0  20.0  100.0    –  0.0  30.0    41.0\n"
        "box   26.9  50.0  25.0  10.0  20.0  100.0    –  0.0  30.0    41.0")


def test_only_what_was_scored_has_a_row():
    boxes_only = {**DOCUMENT, "figures": {"bbox": FIGURES}}
    assert [line.split()[0] for line in metrics_table(boxes_only).splitlines()] == ["AP", "box"]


def test_classes_are_sorted_by_training_images():
    assert per_class_table(DOCUMENT) == (
        "class    freq  images  instances  mask AP  box AP\n"
        "often    f        900       2000     50.0    55.0\n"
        "some     c         50         60     20.0    20.0\n"
        "rare     r          3          4        –    10.0\n"
        "unknown  –          –          –      0.0     0.0")


def test_a_limit_shows_both_ends_and_says_how_many_are_between():
    lines = per_class_table(DOCUMENT, limit=1).splitlines()
    assert [line.split()[0] for line in lines] == ["class", "often", "(2", "unknown"]
    assert per_class_table(DOCUMENT, limit=2) == per_class_table(DOCUMENT)
