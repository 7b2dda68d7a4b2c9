"""The synthetic data set is LVIS v1 to the letter, the same for the same seed, and can be learned."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import hypothesis.strategies as st
import numpy as np
import pycocotools.mask as mask_api
import pytest
from hypothesis import assume, given
from lvis import LVIS

from ecm_cluster.base.errors import UserError
from ecm_cluster.synthetic import dataset, drawing, long_tail
from ecm_cluster.synthetic.dataset import Spec

# pycocotools 2.0.11 with numpy 2, on every decode
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = Spec(train_images=40, val_images=20, classes=7, seed=5)
# the numbers of the demo; small images, as only counts are looked at
DEMO = Spec(train_images=600, val_images=100, classes=24, seed=1, image_size=32)


def read(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"lvis_v1_{split}.json").read_text())


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("small") / "set"
    dataset.write(root, SMALL)
    return root


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "set"
    dataset.write(root, DEMO)
    return root


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_lvis_api_loads_it_without_a_warning_and_rasterises_the_same_areas(small, split, caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        api = LVIS(str(small / "annotations" / f"lvis_v1_{split}.json"))
        areas = {i: mask_api.area(api.ann_to_rle(ann)) for i, ann in api.anns.items()}
    assert not caplog.records
    assert areas == {i: ann["area"] for i, ann in api.anns.items()}
    assert min(areas.values()) > 0


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_every_record_has_exactly_the_fields_of_lvis_v1(small, split):
    content = read(small, split)
    assert set(content) == {"info", "annotations", "images", "licenses", "categories"}
    fields = {
        "images": "id height width license date_captured flickr_url coco_url neg_category_ids "
        "not_exhaustive_category_ids",
        "annotations": "id image_id category_id segmentation area bbox",
        "categories": "id name synonyms synset def frequency image_count instance_count",
    }
    for key, names in fields.items():
        assert all(set(record) == set(names.split()) for record in content[key]), key
    assert [c["id"] for c in content["categories"]] == list(range(1, SMALL.classes + 1))
    in_order = [c["name"] for c in content["categories"]]
    assert in_order == sorted(set(in_order))


def test_the_same_arguments_give_the_same_bytes_and_another_seed_gives_others(small, tmp_path):
    again = dataset.write(tmp_path / "again", SMALL)
    other = dataset.write(tmp_path / "other", Spec(40, 20, 7, seed=6))
    assert tree(tmp_path / "again") == tree(small)
    assert again["sha256"] != other["sha256"]
    first = "train2017/000000000001.jpg"
    assert tree(tmp_path / "other")[first] != tree(small)[first]


def test_counts_and_frequencies_are_those_of_the_training_annotations(demo):
    train, val = read(demo, "train"), read(demo, "val")
    assert train["categories"] == val["categories"]
    instances = Counter(a["category_id"] for a in train["annotations"])
    images = Counter(c for c, _ in {(a["category_id"], a["image_id"]) for a in train["annotations"]})
    for category in train["categories"]:
        n = images[category["id"]]
        assert (category["instance_count"], category["image_count"]) == (instances[category["id"]], n)
        assert category["frequency"] == ("r" if n <= 10 else "c" if n <= 100 else "f")


def test_the_demo_has_rare_common_and_frequent_classes_all_to_be_found_in_val(demo):
    train, val = read(demo, "train"), read(demo, "val")
    groups = Counter(c["frequency"] for c in train["categories"])
    assert groups["r"] >= 5 and groups["c"] >= 5 and groups["f"] >= 3
    assert min(c["image_count"] for c in train["categories"]) == 5
    positives = Counter(c for c, _ in {(a["category_id"], a["image_id"]) for a in val["annotations"]})
    assert len(positives) == DEMO.classes and min(positives.values()) >= 3


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_an_image_shows_one_to_six_objects(demo, split):
    content = read(demo, split)
    objects = Counter(a["image_id"] for a in content["annotations"])
    assert objects.keys() == {image["id"] for image in content["images"]}
    assert max(objects.values()) == 6


def test_the_frequency_of_a_class_does_not_follow_from_its_id(demo):
    counts = [c["image_count"] for c in read(demo, "train")["categories"]]
    assert counts not in (sorted(counts), sorted(counts, reverse=True))


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_negatives_are_absent_and_incomplete_classes_are_present(demo, split):
    content = read(demo, split)
    shown = defaultdict(set)
    for a in content["annotations"]:
        shown[a["image_id"]].add(a["category_id"])
    for image in content["images"]:
        negative, incomplete = image["neg_category_ids"], image["not_exhaustive_category_ids"]
        assert len(set(negative)) == len(negative) == dataset.NEGATIVES
        assert set(negative) <= set(range(1, DEMO.classes + 1)) - shown[image["id"]]
        assert set(incomplete) <= shown[image["id"]]
    assert any(image["not_exhaustive_category_ids"] for image in content["images"])


def test_a_class_not_exhaustively_annotated_has_an_object_drawn_without_annotation():
    looks = [drawing.look(0), drawing.look(1)]
    spec = Spec(150, 1, 2, image_size=32)
    made = [dataset.make_image(spec, "train", i, [0, 1], looks) for i in range(spec.train_images)]
    listed = [(record, marked) for _, record, marked in made if record["not_exhaustive_category_ids"]]
    assert 1 <= len(listed) < spec.train_images / 4
    for index, (_, record, marked) in enumerate(made):
        # the draws of an image follow from its index alone, so what was drawn can be drawn again
        rng = np.random.default_rng([spec.seed, 0, index])
        dataset._size(rng, spec.image_size)
        drawn = Counter(c + 1 for c in dataset._objects(rng, [0, 1]))
        annotated = Counter(a["category_id"] for a in marked)
        assert drawn - annotated == Counter(record["not_exhaustive_category_ids"])


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_polygons_have_two_decimals_and_are_in_the_image_and_the_box(small, split):
    text = (small / "annotations" / f"lvis_v1_{split}.json").read_text()
    for polygon in re.findall(r'"segmentation": (\[\[.*?\]\])', text):
        assert not re.search(r"\.\d{3}|[eE]", polygon)
    content = json.loads(text)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    parts: Counter[int] = Counter()
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        points = np.concatenate([np.reshape(part, (-1, 2)) for part in a["segmentation"]])
        assert all(len(part) >= 6 for part in a["segmentation"])
        np.testing.assert_allclose(
            [*points.min(axis=0), *points.max(axis=0)], [x, y, x + w, y + h], atol=0.006
        )
        assert x >= 0 and y >= 0 and x + w <= sizes[a["image_id"]][0] and y + h <= sizes[a["image_id"]][1]
        parts[len(a["segmentation"])] += 1
    assert parts[1]


@pytest.mark.parametrize("split", dataset.SPLITS)
def test_the_pictures_are_jpegs_of_the_recorded_size_where_mmdet_looks(small, split):
    images = read(small, split)["images"]
    names = [image["coco_url"].replace("http://images.cocodataset.org/", "") for image in images]
    assert sorted(names) == sorted(str(p.relative_to(small)) for p in (small / f"{split}2017").iterdir())
    shapes = set()
    for name, image in zip(names, images):
        assert (small / name).read_bytes()[:3] == b"\xff\xd8\xff"
        assert np.shape(cv2.imread(str(small / name))) == (image["height"], image["width"], 3)
        assert Path(name).stem == f"{image['id']:012d}"
        shapes.add((image["width"], image["height"]))
    assert shapes == {(128, 96), (96, 128), (128, 128)}  # both aspect groups of mmdet's sampler


def test_ids_of_train_and_val_never_meet(small):
    for key in ("images", "annotations"):
        ids = [record["id"] for split in dataset.SPLITS for record in read(small, split)[key]]
        assert len(set(ids)) == len(ids)


# --- what is drawn -----------------------------------------------------------------------------------------


def test_all_looks_differ_and_few_classes_differ_in_shape_and_colour():
    looks = [drawing.look(k) for k in range(drawing.LOOKS)]
    assert len(set(looks)) == drawing.LOOKS >= 1203
    assert len({(look.shape, look.colour) for look in looks[:24]}) == 24


@pytest.mark.parametrize("colour", drawing.COLOURS)
def test_an_object_has_its_colour_where_its_polygon_is(colour):
    rng = np.random.default_rng(3)
    image, (instance,) = drawing.draw(rng, 128, 96, [drawing.Look("square", colour, "plain")])
    mask = mask_api.decode(mask_api.frPyObjects(instance.segmentation, 96, 128))[:, :, 0]
    inner = cv2.erode(mask, np.ones((5, 5), np.uint8)).astype(bool)
    assert np.abs(image[inner].mean(axis=0) - drawing.COLOURS[colour]).max() < 40
    # no more of it elsewhere: beyond the polygon the picture is another one
    ring = (cv2.dilate(mask, np.ones((9, 9), np.uint8)) - cv2.dilate(mask, np.ones((3, 3), np.uint8))).astype(
        bool
    )
    assert np.abs(image[ring].mean(axis=0) - drawing.COLOURS[colour]).max() > 40


@pytest.mark.parametrize("texture", drawing.TEXTURES)
def test_every_texture_is_seen(texture):
    image, (instance,) = drawing.draw(
        np.random.default_rng(0), 128, 128, [drawing.Look("disc", "red", texture)]
    )
    mask = mask_api.decode(mask_api.frPyObjects(instance.segmentation, 128, 128))[:, :, 0]
    inner = cv2.erode(mask, np.ones((5, 5), np.uint8)).astype(bool)
    spread = image[inner].mean(axis=1).std()
    assert spread < 4 if texture == "plain" else spread > 8


@pytest.mark.parametrize("shape", drawing.SHAPES)
def test_the_smallest_object_still_covers_pixels_and_stays_inside(shape):
    rng = np.random.default_rng(0)
    for _ in range(40):
        _, instances = drawing.draw(rng, 24, 24, [drawing.Look(shape, "red", "plain")] * 2)
        for instance in instances:
            x, y, w, h = instance.bbox
            assert instance.area >= 10
            assert x >= 0 and y >= 0 and x + w <= 24 and y + h <= 24


# --- how often ---------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 120), st.integers(1, 20), st.integers(0, 2**32))
def test_every_class_gets_its_images_and_every_image_one_to_five_classes(classes, images, least, seed):
    least = min(least, images, max(1, 4 * images // classes))
    assume(classes * least <= 4 * images)  # what Spec sees to
    counts = long_tail.image_counts(classes, images, least)
    assert list(counts) == sorted(counts, reverse=True) and counts[-1] == least
    shown = long_tail.assign(np.random.default_rng(seed), counts, images)
    assert all(len(set(c)) == len(c) and 1 <= len(c) <= long_tail.MOST_CLASSES for c in shown)
    given_out = np.bincount(np.concatenate(shown), minlength=classes)
    assert (given_out[1:] == counts[1:]).all() and given_out[0] >= counts[0]


def test_a_val_too_small_for_all_classes_keeps_every_frequency_group():
    spec, order = Spec(300, 5, 30), np.random.default_rng(0).permutation(30)
    frequency = [long_tail.frequency(n) for n in dataset._split_counts(spec, "train", order)]
    in_val = dataset._split_counts(spec, "val", order) > 0
    assert in_val.sum() == 20
    assert {f for f, there in zip(frequency, in_val) if there} == set(frequency) == {"r", "c", "f"}


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"train_images": 0}, "invalid --train-images"),
        ({"val_images": 0}, "invalid --val-images"),
        ({"classes": 1297}, "invalid --classes"),
        ({"seed": -1}, "invalid --seed"),
        ({"image_size": 31}, "invalid --image-size"),
        ({"min_images": 41}, "invalid --min-images"),
        ({"classes": 161}, "use at least 41 images, or fewer classes"),
        ({"min_images": 30}, "--classes 7 with at least 30 images each do not fit into --train-images 40"),
    ],
)
def test_arguments_out_of_range_are_refused_and_named(arguments, named):
    with pytest.raises(UserError, match=re.escape(named)):
        Spec(**{"train_images": 40, "val_images": 20, "classes": 7, **arguments})
