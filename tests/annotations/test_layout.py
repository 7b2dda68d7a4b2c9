"""Missing and malformed data is reported before anything is submitted: which file, what was expected."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ecm_cluster.annotations import layout
from ecm_cluster.base.errors import UserError
from ecm_cluster.synthetic import dataset

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TRAIN = "annotations/lvis_v1_train.json"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("template") / "lvis"
    dataset.write(root, dataset.Spec(6, 3, 2, image_size=32))
    return root


@pytest.fixture
def root(template, tmp_path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "lvis"))


def content(root: Path) -> dict:
    return json.loads((root / TRAIN).read_text())


def check_root(root: Path) -> dict[str, layout.AnnotationSummary]:
    """Check the annotation files and the images of a data set in the published layout of LVIS v1."""
    found = {}
    for split in ("train", "val"):
        path = root / f"annotations/lvis_v1_{split}.json"
        found[split] = layout.check_annotation_file(path, f"{split} annotations", lvis=True)
        layout.check_images(found[split], root, f"{split} images")
    return found


def refused(call, *words: str) -> str:
    """The message of the refusal, one line with all the words."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# --- what is right passes ----------------------------------------------------------------------------------


def test_a_root_in_the_published_layout_passes(root):
    found = check_root(root)
    train = content(root)
    assert found["train"].categories == train["categories"]
    assert found["train"].first_image == train["images"][0]
    assert found["train"].lvis


def test_the_check_needs_no_numpy(root):
    program = (
        "import sys\n"
        "for name in ('numpy', 'torch', 'cv2', 'pycocotools', 'mmcv'): sys.modules[name] = None\n"
        "from pathlib import Path\nfrom ecm_cluster.annotations.layout import check_annotation_file\n"
        "print(len(check_annotation_file(Path(sys.argv[1])).categories))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(root / TRAIN)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("last", ["info", "annotations", "images", "licenses", "categories"])
def test_the_order_of_the_keys_and_the_spacing_do_not_matter(root, last, indent):
    train = content(root)
    train["info"].update({"images": 3, "annotations": [1, 2], "categories": "images"})
    train["annotations"][0]["categories"] = [{"id": 99, "name": "none"}]
    train["annotations"][-1]["images"] = [{"id": 99}]
    train[last] = train.pop(last)
    (root / TRAIN).write_text(json.dumps(train, indent=indent))
    found = check_root(root)["train"]
    assert found.categories == train["categories"]
    assert found.first_image == train["images"][0]


def test_the_bulk_of_the_annotations_is_not_read(root):
    text, categories = (root / TRAIN).read_text(), content(root)["categories"]
    at = text.index(', "area"')
    second = text.index('{"id": 2', at)
    (root / TRAIN).write_text(text[:second] + "?" * 10 + text[second + 10 :])
    assert check_root(root)["train"].categories == categories


def coco(train: dict) -> dict:
    """The same as plain COCO."""
    keep = {
        "images": ("id", "height", "width", "file_name", "coco_url"),
        "annotations": ("id", "image_id", "category_id", "area", "bbox", "iscrowd"),
        "categories": ("id", "name", "supercategory"),
    }
    for image in train["images"]:
        image["file_name"] = image["coco_url"].rsplit("/", 1)[1]
    return {key: [{f: r[f] for f in keep[key] if f in r} for r in train[key]] for key in keep}


def test_plain_coco_passes_with_what_it_has(root):
    (root / "coco.json").write_text(json.dumps(coco(content(root))))
    found = layout.check_annotation_file(root / "coco.json", "data.train.ann_file")
    assert not found.lvis
    assert layout.check_images(found, root / "train2017").name == "000000000001.jpg"
    refused(lambda: layout.check_annotation_file(root / "coco.json", lvis=True), "'frequency'", "LVIS")


def test_lvis_v05_passes_and_its_images_are_found_as_mmdet_does(root):
    train = content(root)
    for image in train["images"]:
        image["file_name"] = f"COCO_train2014_{image['id']:012d}.jpg"
        del image["coco_url"]
    (root / TRAIN).write_text(json.dumps(train))
    found = layout.check_annotation_file(root / TRAIN)
    assert found.lvis
    assert layout.check_images(found, root / "train2017") == root / "train2017/000000000001.jpg"


def test_a_test_set_may_lack_annotations(root):
    train = content(root)
    del train["annotations"]
    (root / TRAIN).write_text(json.dumps(train))
    assert layout.check_annotation_file(root / TRAIN).categories == train["categories"]


# --- what does not exist -------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_annotation_file_is_named(root, split):
    path = root / f"annotations/lvis_v1_{split}.json"
    text = path.read_bytes()
    path.unlink()
    refused(lambda: check_root(root), f"{split} annotations: {path} does not exist", "lvisdataset.org")
    Path(f"{path}.gz").write_bytes(gzip.compress(text))
    refused(lambda: check_root(root), f"unpack {path}.gz")
    path.mkdir()
    refused(lambda: check_root(root), f"{path} is a directory; expected a JSON file")


@pytest.mark.parametrize("split", ["train", "val"])
def test_missing_images_are_reported_with_what_has_to_be_unpacked(root, split):
    folder = root / f"{split}2017"
    first = sorted(folder.iterdir())[0]
    first.write_bytes(b"")
    refused(lambda: check_root(root), f"{split} images: {first} is empty")
    first.unlink()
    refused(lambda: check_root(root), f"{split} images: {first} does not exist", f"images into {folder}")
    first.mkdir()
    refused(lambda: check_root(root), f"{split} images: {first} is a directory")
    shutil.rmtree(folder)
    refused(lambda: check_root(root), f"{folder} does not exist; expected a directory", f"COCO's {split}2017")
    folder.write_text("")
    refused(lambda: check_root(root), f"{folder} is not a directory; expected a directory")


# --- what is malformed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["annotations", "images", "categories"])
def test_a_file_cut_off_anywhere_is_refused(root, last):
    train = content(root)
    train[last] = train.pop(last)
    text = json.dumps(train)
    # everywhere after a brace, where it is hardest to see, and some places more
    cuts = {m.end() for m in re.finditer("}", text[:-1])} | set(range(0, len(text) - 1, 97))
    for cut in sorted(cuts):
        (root / TRAIN).write_text(text[:cut])
        refused(lambda: layout.check_annotation_file(root / TRAIN, "train annotations"), f"{root / TRAIN} ")


def test_a_large_file_cut_off_between_two_annotations_is_refused(root):
    train = content(root)
    first, *others = (json.dumps(a) for a in train.pop("annotations"))
    far = " " * (17 << 20)  # beyond what is read of either end
    text = json.dumps(train)[:-1] + f', "annotations": [{first}, {far} {", ".join(others)}]' + "}"
    (root / TRAIN).write_text(text)
    assert check_root(root)["train"].categories == train["categories"]
    (root / TRAIN).write_text(text[:-2])
    refused(lambda: check_root(root), TRAIN, "is not valid JSON")


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ("<html>Moved</html>", "starts with '<html>Moved</html>'"),
        ("version https://git-lfs.github.com/spec/v1\n", "is not a JSON object"),
        ("[]", "is not a JSON object: it starts with '[]'"),
        ("{'images': {}}", "is not valid JSON"),
        ("{}", "has no 'images'; expected a JSON object with images, categories"),
        ('{"images": [{}]} {}', "is not valid JSON"),
    ],
)
def test_what_is_not_a_json_object_is_reported_with_its_beginning(root, text, said):
    (root / TRAIN).write_text(text)
    refused(lambda: check_root(root), f"train annotations: {root / TRAIN}", said)


@pytest.mark.parametrize("key", layout.LISTS)
def test_a_list_that_is_missing_empty_or_no_list_is_named(root, key):
    train = content(root)
    for wrong, said in (([], "is []"), ({}, "is {}"), (None, "is null"), ("x", 'is "x"'), ([3], "is 3")):
        (root / TRAIN).write_text(json.dumps({**train, key: wrong}))
        refused(lambda: check_root(root), TRAIN, f"'{key}'", said, "expected")
    del train[key]
    (root / TRAIN).write_text(json.dumps(train))
    refused(lambda: check_root(root), TRAIN, f"has no '{key}'")


@pytest.mark.parametrize(
    "key, field",
    [(key, field) for key in layout.LISTS for field in {**layout.FIELDS[key], **layout.LVIS_FIELDS[key]}],
)
def test_a_field_that_is_missing_or_of_another_type_is_named(root, key, field):
    train = content(root)
    for wrong in (None, True, 1 if field == "segmentation" else {"a": 1}):
        train[key][0][field] = wrong
        (root / TRAIN).write_text(json.dumps(train))
        refused(lambda: check_root(root), TRAIN, f"entry 1 of '{key}'", f"'{field}'", "expected")
    del train[key][0][field]
    (root / TRAIN).write_text(json.dumps(train))
    refused(lambda: check_root(root), f"entry 1 of '{key}' has no '{field}'", "expected")


@pytest.mark.parametrize(
    "key, entry, changes, said",
    [
        (
            "categories",
            1,
            {"frequency": "x"},
            "entry 2 of 'categories': 'frequency' is \"x\"; expected r, c or f",
        ),
        ("categories", 1, {"id": 1}, "2 categories have 1 ids"),
        ("images", 0, {"coco_url": 5}, "'coco_url' is 5; expected a string"),
        ("images", 0, {"file_name": 5}, "'file_name' is 5; expected a string"),
    ],
)
def test_values_that_mean_nothing_are_refused(root, key, entry, changes, said):
    train = content(root)
    train[key][entry].update(changes)
    (root / TRAIN).write_text(json.dumps(train))
    refused(lambda: check_root(root), TRAIN, said)


def test_an_image_without_any_name_is_refused(root):
    train = content(root)
    del train["images"][0]["coco_url"]
    (root / TRAIN).write_text(json.dumps(train))
    refused(lambda: check_root(root), "neither 'coco_url' (LVIS v1) nor 'file_name'")
