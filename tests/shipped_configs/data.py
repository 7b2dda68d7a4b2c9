"""Tiny data sets in the form, at the paths, and with the classes that a config names: pictures of drawn shapes."""

from __future__ import annotations

import csv
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecm_cluster.mmconfig.config import nested
from ecm_cluster.synthetic import drawing

TRAIN_IMAGES, TEST_IMAGES = 4, 2
SIZES = ((128, 96), (96, 128))  # width, height: two aspect groups
OBJECTS = 4  # in a picture
MANY = 200  # classes
STUFF = 2  # segments of background in a panoptic picture
FEW = 12  # classes that occur: with so few pictures, most would otherwise have no object in a test


@dataclass
class Scene:
    """One picture: RGB (height, width, 3), and what is drawn with the index of each object's class.

    ``objects`` is what annotations say. A model that has hardly learned answers with boxes and classes of its own, and
    all figures would be zero, by any program: in a test picture each object, and squares of some sizes all over
    it, are annotated as every class.
    """

    name: str
    pixels: np.ndarray
    drawn: list[tuple[int, drawing.Instance]]
    objects: list[tuple[int, drawing.Instance]]

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    def labels(self, values: list[int], background: int) -> np.ndarray:
        """(height, width): the value of the object that covers each pixel, the last one where several do."""
        found = np.full((self.height, self.width), background, np.int32)
        for value, (_, instance) in zip(values, self.drawn):
            for part in instance.segmentation:
                cv2.fillPoly(found, [np.round(np.reshape(part, (-1, 2))).astype(np.int32)], value)
        return found


def scenes(split: str, classes: int) -> list[Scene]:
    """The pictures of a split; the same ones each time."""
    made = []
    for index in range(TRAIN_IMAGES if split == "train" else TEST_IMAGES):
        rng = np.random.default_rng([len(split), index])
        width, height = SIZES[index % len(SIZES)]
        which = [int(c) * max(1, classes // FEW) for c in rng.integers(0, min(FEW, classes), OBJECTS)]
        pixels, instances = drawing.draw(rng, width, height, [drawing.look(c % drawing.LOOKS) for c in which])
        drawn = list(zip(which, instances))
        objects = drawn
        if split != "train":
            objects = [(c, i) for i in [*instances, *_squares(width, height, classes)] for c in range(classes)]
        made.append(Scene(f"{index + 1 + 1000 * (split != 'train'):012d}", pixels, drawn, objects))
    return made


def _squares(width: int, height: int, classes: int) -> list[drawing.Instance]:
    """Squares that cover a picture, its middle and the whole; fewer of them where there are many classes."""
    boxes = [(0, 0, width, height), (width // 4, height // 4, width // 2, height // 2)]
    for size, step in ((64, 32), *(((32, 16), (16, 16)) if classes < MANY else ())):
        boxes += [(x, y, size, size) for x in range(0, width - size + 1, step)
                  for y in range(0, height - size + 1, step)]
    return [drawing.Instance([[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]], float(w * h),
                             [float(v) for v in (x, y, w, h)]) for x, y, w, h in boxes]


def furnish(cfg: dict[str, Any]) -> None:
    """Write what every dataset of a config names by absolute paths: annotations, pictures, label maps, proposals."""
    for split in ("train", "val", "test"):
        for dataset in leaves(cfg["data"].get(split)):
            write = WRITERS.get(dataset["type"], _write_coco)
            files, prefixes = (_listed(dataset[key]) for key in ("ann_file", "img_prefix"))
            for at, file in enumerate(files):
                one = {**dataset, "ann_file": file, "img_prefix": prefixes[min(at, len(prefixes) - 1)]}
                write(one, scenes("train" if split == "train" else "test", len(classes_of(one, cfg))), cfg)
    for hook in cfg.get("custom_hooks") or []:
        if hook.get("rfstructure_file"):
            _write_structure(hook["rfstructure_file"], cfg)


def _write_structure(file: str, cfg: dict[str, Any]) -> None:
    """What a search for receptive fields leaves: the dilation of each convolution, here 1 and 2 in turn."""
    from mmcv import Config
    from mmcv.utils import import_modules_from_strings
    from mmdet.models import build_detector
    from torch.nn import Conv2d

    import_modules_from_strings(**cfg.get("custom_imports") or {"imports": []})
    detector = build_detector(Config(cfg).model)
    names = [f"module.{name}" for name, module in detector.named_modules() if isinstance(module, Conv2d)]
    _put_json(file, {"structure": {name: [1 + n % 2] * 2 for n, name in enumerate(names)}})


def leaves(value: Any) -> Iterator[dict[str, Any]]:
    """The datasets with files of their own in a data block."""
    return (block for block in nested(value) if "ann_file" in block)


def _listed(value: Any) -> list[str]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def classes_of(dataset: dict[str, Any], cfg: dict[str, Any]) -> list[str]:
    """The names of a dataset's classes: given, the class's own, or as many as the heads have."""
    from mmdet.datasets import DATASETS

    given = dataset.get("classes") or DATASETS.get(dataset["type"]).CLASSES
    if given is None:
        number = max(block["num_classes"] for block in nested(cfg["model"]) if "num_classes" in block)
        given = [f"class {n}" for n in range(number)]
    return list(given)


def _put_image(path: Path, scene: Scene) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), scene.pixels[:, :, ::-1])


def _put_labels(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), labels if labels.ndim == 2 else labels[:, :, ::-1])


def _put_json(path: str | Path, document: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(document))


def _category_id(index: int) -> int:
    return index + 1 + index // 8  # with gaps, as COCO's have


def _write_coco(dataset: dict[str, Any], pictures: list[Scene], cfg: dict[str, Any],
                name: Callable[[Scene], str] = lambda scene: f"{scene.name}.jpg", **more: Any) -> None:
    names = classes_of(dataset, cfg)
    document = coco_document(names, pictures, name)
    for scene in pictures:
        _put_image(Path(dataset["img_prefix"], name(scene)), scene)
        if dataset.get("seg_prefix"):
            _put_labels(Path(dataset["seg_prefix"], f"{scene.name}.png"),
                        scene.labels([c for c, _ in scene.drawn], 255).astype(np.uint8))
    if dataset.get("proposal_file"):
        _write_proposals(dataset["proposal_file"], pictures)
    _put_json(dataset["ann_file"], document)


def coco_document(names: list[str], pictures: list[Scene], name: Callable[[Scene], str]) -> dict[str, Any]:
    """The annotation file of COCO's instances."""
    return {
        "images": [{"id": int(s.name), "file_name": name(s), "height": s.height, "width": s.width} for s in pictures],
        "annotations": [{"id": 100_000 * n + k, "image_id": int(s.name), "category_id": _category_id(c), "iscrowd": 0,
                         "segmentation": i.segmentation, "bbox": i.bbox, "area": i.area}
                        for n, s in enumerate(pictures, 1) for k, (c, i) in enumerate(s.objects)],
        "categories": [{"id": _category_id(c), "name": n, "supercategory": "thing"} for c, n in enumerate(names)]}


def _write_proposals(file: str, pictures: list[Scene]) -> None:
    """As mmdet's ``rpn`` configs leave them: for each picture (n, 5) float32, the objects' boxes and others."""
    found = []
    for scene in pictures:
        x, y, w, h = np.array([i.bbox for _, i in scene.drawn], np.float32).T
        boxes = np.stack([x, y, x + w, y + h], axis=1)
        moved = np.concatenate([boxes + shift for shift in (0, 3, -5, 12, 20)]).clip(0)
        found.append(np.concatenate([moved, np.linspace(1, 0.1, len(moved))[:, None]], axis=1).astype(np.float32))
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_bytes(pickle.dumps(found))


def _write_lvis(dataset: dict[str, Any], pictures: list[Scene], cfg: dict[str, Any]) -> None:
    first = dataset["type"] == "LVISV05Dataset"
    folder = "" if first else ("train2017/" if "train" in dataset["ann_file"] else "val2017/")
    names = classes_of(dataset, cfg)
    document = coco_document(names, pictures, lambda s: f"{s.name}.jpg")
    own = {_category_id(n): n + 1 for n in range(len(names))}
    for category in document["categories"]:
        category["id"] = own[category["id"]]
    for a in document["annotations"]:
        a["category_id"] = own[a["category_id"]]
    for image, scene in zip(document["images"], pictures):
        shown = {c + 1 for c, _ in scene.objects}
        image.update(neg_category_ids=[c for c in range(1, 60) if c not in shown], not_exhaustive_category_ids=[])
        if not first:
            del image["file_name"]
            image["coco_url"] = f"http://images.cocodataset.org/{folder}{scene.name}.jpg"
        _put_image(Path(dataset["img_prefix"], f"{folder}{scene.name}.jpg"), scene)
    instances = Counter(c for scene in pictures for c, _ in scene.objects)
    holders = Counter(c for scene in pictures for c in {c for c, _ in scene.objects})
    for c, category in enumerate(document["categories"]):
        category.update(frequency="rcf"[c % 3], image_count=holders[c], instance_count=instances[c])
    _put_json(dataset["ann_file"], document)


def _write_objects365(dataset: dict[str, Any], pictures: list[Scene], cfg: dict[str, Any]) -> None:
    if dataset["type"] == "Objects365V1Dataset":
        return _write_coco(dataset, pictures, cfg)
    # the second version names folders of which mmdet keeps the last one
    _write_coco(dataset, pictures, cfg, name=lambda s: f"patch8/{s.name}.jpg")
    document = json.loads(Path(dataset["ann_file"]).read_text())
    for image in document["images"]:
        image["file_name"] = f"images/v1/{image['file_name']}"
    _put_json(dataset["ann_file"], document)


def _write_cityscapes(dataset: dict[str, Any], pictures: list[Scene], cfg: dict[str, Any]) -> None:
    _write_coco(dataset, pictures, cfg, name=lambda s: f"town/town_{s.name}_leftImg8bit.jpg")
    document = json.loads(Path(dataset["ann_file"]).read_text())
    for image in document["images"]:
        image["segm_file"] = image["file_name"].replace("leftImg8bit.jpg", "gtFine_instanceIds.png")
    _put_json(dataset["ann_file"], document)


def _write_panoptic(dataset: dict[str, Any], pictures: list[Scene], cfg: dict[str, Any]) -> None:
    from mmdet.datasets import DATASETS

    names, things = classes_of(dataset, cfg), len(DATASETS.get(dataset["type"]).THING_CLASSES)
    document: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": _category_id(c), "name": n, "isthing": int(c < things)} for c, n in enumerate(names)]}
    for n, scene in enumerate(pictures, 1):
        objects = [(c % things, i) for c, i in scene.drawn]
        ids = [1000 * n + k for k in range(len(objects))]
        background = 1000 * n + 500
        labels = scene.labels(ids, background)
        labels[: scene.height // STUFF][labels[: scene.height // STUFF] == background] += 1
        segments = []
        for segment, category in [*zip(ids, [c for c, _ in objects]), (background, things),
                                  (background + 1, things + 5)]:
            rows, columns = np.nonzero(labels == segment)
            if len(rows):
                box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
                segments.append({"id": segment, "category_id": _category_id(category), "iscrowd": 0, "bbox": box,
                                 "area": len(rows)})
        document["images"].append({"id": int(scene.name), "file_name": f"{scene.name}.jpg", "height": scene.height,
                                   "width": scene.width})
        document["annotations"].append({"image_id": int(scene.name), "file_name": f"{scene.name}.png",
                                        "segments_info": segments})
        _put_image(Path(dataset["img_prefix"], f"{scene.name}.jpg"), scene)
        colours = np.stack([labels >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
        _put_labels(Path(dataset["seg_prefix"], f"{scene.name}.png"), colours)
    _put_json(dataset["ann_file"], document)
    if dataset.get("ins_ann_file"):
        _put_json(dataset["ins_ann_file"], coco_document(names[:things], pictures, lambda s: f"{s.name}.jpg"))


def _write_voc(dataset: dict[str, Any], pictures: list[Scene], cfg: dict[str, Any]) -> None:
    names = classes_of(dataset, cfg)
    faces = dataset["type"] == "WIDERFaceDataset"
    for scene in pictures:
        folder = "0--Parade" if faces else "JPEGImages"
        _put_image(Path(dataset["img_prefix"], folder, f"{scene.name}.jpg"), scene)
        objects = ""
        for c, i in scene.objects:
            x, y, w, h = (round(v) + 1 for v in i.bbox)
            objects += (f"<object><name>{names[c]}</name><difficult>0</difficult><bndbox><xmin>{x}</xmin>"
                        f"<ymin>{y}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>")
        file = Path(dataset["img_prefix"], "Annotations", f"{scene.name}.xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<annotation><folder>{folder}</folder><size><width>{scene.width}</width><height>{scene.height}"
                        f"</height><depth>3</depth></size>{objects}</annotation>")
    listed = Path(dataset["ann_file"])
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{scene.name}\n" for scene in pictures))


def _write_openimages(dataset: dict[str, Any], pictures: list[Scene], cfg: dict[str, Any]) -> None:
    names = classes_of(dataset, cfg)
    challenge = dataset["type"] == "OpenImagesChallengeDataset"
    for key in ("ann_file", "label_file", "hierarchy_file", "meta_file", "image_level_ann_file"):
        if dataset.get(key):
            Path(dataset[key]).parent.mkdir(parents=True, exist_ok=True)
    labels = [f"/m/{n:05d}" for n in range(len(names))]
    with open(dataset["label_file"], "w") as file:
        csv.writer(file).writerows([label, name, *([n + 1] if challenge else [])]
                                   for n, (label, name) in enumerate(zip(labels, names)))
    # every twelfth class stands above the next one
    above = {n: n + 1 for n in range(0, len(names) - 1, 12)}
    if challenge:
        tree = np.eye(len(names) + 1, dtype=object)
        for parent, child in above.items():
            tree[child + 1, parent + 1] = 1
        with open(dataset["hierarchy_file"], "wb") as handle:
            np.save(handle, tree)
    else:
        children = {child: parent for parent, child in above.items()}
        _put_json(dataset["hierarchy_file"], {"LabelName": "/m/0bl9f", "Subcategory": [
            {"LabelName": labels[n], **({"Subcategory": [{"LabelName": labels[above[n]]}]} if n in above else {})}
            for n in range(len(names)) if n not in children]})
    for scene in pictures:
        _put_image(Path(dataset["img_prefix"], f"{scene.name}.jpg"), scene)
    if challenge:
        text = ""
        for n, scene in enumerate(pictures):
            text += f"{scene.name}.jpg\n{n}\n{len(scene.objects)}\n"
            for c, i in scene.objects:
                x, y, w, h = _relative(i.bbox, scene)
                text += f"{c + 1} {x} {y} {x + w} {y + h} 0\n"
        Path(dataset["ann_file"]).write_text(text)
    else:
        with open(dataset["ann_file"], "w") as file:
            writer = csv.writer(file)
            writer.writerow(["ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax",
                             "IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"])
            for scene in pictures:
                for c, i in scene.objects:
                    x, y, w, h = _relative(i.bbox, scene)
                    writer.writerow([scene.name, "xclick", labels[c], 1, x, x + w, y, y + h, 0, 0, 0, 0, 0])
    if dataset.get("meta_file"):
        Path(dataset["meta_file"]).write_bytes(pickle.dumps(
            [{"filename": f"{s.name}.jpg", "ori_shape": s.pixels.shape} for s in pictures]))
    if dataset.get("image_level_ann_file"):
        with open(dataset["image_level_ann_file"], "w") as file:
            writer = csv.writer(file)
            source = [] if challenge else ["verification"]  # a column that the challenge's file does not have
            writer.writerow(["ImageID", *(["Source"] if source else []), "LabelName", "Confidence"])
            writer.writerows([s.name, *source, labels[n], int(any(n == c for c, _ in s.objects))]
                             for s in pictures for n in range(len(labels)))


def _relative(bbox: list[float], scene: Scene) -> list[float]:
    return [bbox[0] / scene.width, bbox[1] / scene.height, bbox[2] / scene.width, bbox[3] / scene.height]


WRITERS: dict[str, Callable[..., None]] = {
    "LVISV1Dataset": _write_lvis, "LVISV05Dataset": _write_lvis, "LVISDataset": _write_lvis,
    "CocoPanopticDataset": _write_panoptic, "CityscapesDataset": _write_cityscapes, "VOCDataset": _write_voc,
    "WIDERFaceDataset": _write_voc, "OpenImagesDataset": _write_openimages,
    "OpenImagesChallengeDataset": _write_openimages, "Objects365V1Dataset": _write_objects365,
    "Objects365V2Dataset": _write_objects365,
}
