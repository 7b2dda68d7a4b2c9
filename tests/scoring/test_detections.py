"""Columns of detections: in memory, on disk, and back in the order of the data set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from ecm_cluster.base.errors import UserError
from ecm_cluster.scoring.detection_files import DetectionWriter, read_shards
from ecm_cluster.scoring.detections import Detections, concatenate, of_image

IMAGE_IDS = [70, 3, 41, 12, 99]


def detections_on(position: int, with_masks: bool = True, with_mask_scores: bool = False) -> Detections:
    """A few detections, ``position`` of them, that tell which image they are of."""
    rng = np.random.default_rng(position)
    bitmaps = rng.random((position, 6, 5 + position)) > 0.5
    rles = [mask_utils.encode(np.asfortranarray(b, np.uint8)) for b in bitmaps]
    return of_image(IMAGE_IDS[position], rng.integers(1, 9, position), rng.random(position).round(1),
                    rng.random((position, 4)), rles if with_masks else None,
                    rng.random(position) if with_mask_scores else None)


def shards(folder: Path, shares: list[list[int]], size: int = 5, **kwargs: bool) -> list[Path]:
    paths = []
    for rank, share in enumerate(shares):
        writer = DetectionWriter(size)
        for position in share:
            writer.add(position, detections_on(position, **kwargs))
        paths.append(writer.write(folder / f"{len(shares)}-{rank}.npz"))
    return paths


def same(a: Detections, b: Detections) -> bool:
    return a.images.tolist() == b.images.tolist() and a.iou_types == b.iou_types and all(
        a.to_lvis_results(t) == b.to_lvis_results(t) for t in a.iou_types)


@pytest.mark.parametrize("kwargs", [{}, {"with_masks": False}, {"with_mask_scores": True}])
@pytest.mark.parametrize("shares", [[[0, 3], [1, 4], [2]], [[4, 3, 2, 1, 0]], [[1, 2, 3, 4], [0], []]])
def test_what_is_read_back_does_not_depend_on_how_the_images_were_shared(tmp_path, shares, kwargs):
    whole = read_shards(shards(tmp_path, [[0, 1, 2, 3, 4]], **kwargs))
    assert whole.images.tolist() == IMAGE_IDS
    assert [len(whole.take(whole.image_id == i)) for i in IMAGE_IDS] == [0, 1, 2, 3, 4]
    assert same(read_shards(shards(tmp_path, shares, **kwargs), expected=sorted(IMAGE_IDS)), whole)


def test_numbers_and_masks_come_back_exactly(tmp_path):
    found = read_shards(shards(tmp_path, [[2, 1], [0], [4, 3]], with_mask_scores=True))
    given = [detections_on(position, with_mask_scores=True) for position in range(5)]
    for name in ("image_id", "category_id", "score", "bbox"):
        column = getattr(found, name)
        assert np.array_equal(column, np.concatenate([getattr(g, name) for g in given]))
    assert found.scores("segm").tolist() == [s for g in given for s in g.scores("segm").tolist()]
    assert [r["segmentation"] for r in found.to_lvis_results("segm")] == [
        r["segmentation"] for g in given for r in g.to_lvis_results("segm")]


def test_a_mask_model_that_finds_nothing_can_still_be_scored_by_masks(tmp_path):
    assert read_shards(shards(tmp_path, [[0]], size=1)).iou_types == ("bbox", "segm")
    assert read_shards(shards(tmp_path, [[0]], size=1, with_masks=False)).iou_types == ("bbox",)


def test_boxes_without_masks_cannot_be_scored_by_masks():
    with pytest.raises(UserError, match="no masks"):
        detections_on(2, with_masks=False).to_lvis_results("segm")
    with pytest.raises(UserError, match="did you mean segm"):
        detections_on(2).to_lvis_results("segn")


@pytest.mark.parametrize(("shares", "size", "complaint"), [
    ([[0, 1], [3, 4]], 5, "1 of 5 images are covered by no shard"),
    ([[0, 1, 2], [2, 3, 4]], 5, r"1 images are covered by two shards \(the first is image 41\)"),
    ([[0, 1, 2, 3, 4]], 3, "image number 4 of a data set of 3"),
])
def test_images_that_are_missing_or_covered_twice_are_refused_and_named(tmp_path, shares, size, complaint):
    with pytest.raises(UserError, match=complaint):
        read_shards(shards(tmp_path, shares, size=size))


def test_shards_of_another_annotation_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="lack 1 of the expected images and hold 1 others .the first is 98"):
        read_shards(shards(tmp_path, [[0, 1, 2, 3, 4]]), expected=[70, 3, 41, 12, 98])
    two = [*shards(tmp_path, [[0, 1, 2, 3, 4]]), *shards(tmp_path, [[0, 1, 2], []], size=3)]
    with pytest.raises(UserError, match=r"different data sets, with \[3, 5\] images"):
        read_shards(two)


@pytest.mark.parametrize("other", [{"with_masks": False}, {"with_mask_scores": True}])
def test_detections_with_and_without_masks_are_not_of_one_model(other):
    with pytest.raises(ValueError, match="not from one model"):
        concatenate([detections_on(1), detections_on(2, **other)])


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage", "flipped", "empty", "other"])
def test_a_damaged_shard_is_named_with_the_remedy(tmp_path, damage):
    first, second = shards(tmp_path, [[0, 1, 2], [3, 4]])
    data = bytearray(second.read_bytes())
    if damage == "missing":
        second.unlink()
    elif damage == "other":
        np.savez(second, a=np.zeros(3))
    else:
        middle = data.find(b"NUMPY", len(data) // 2) + 130  # in a column's numbers, not in its header
        data[middle] ^= 0xFF
        contents = {"truncated": data[:-100], "garbage": b"x" * 500, "flipped": data, "empty": b""}
        second.write_bytes(contents[damage])
    with pytest.raises(UserError, match=f"{second.name}.*run inference for this evaluation again"):
        read_shards([first, second])


def test_a_kill_while_a_shard_is_written_leaves_the_previous_one(tmp_path):
    path, = shards(tmp_path, [[0, 1, 2, 3, 4]])
    before = path.read_bytes()
    code = ("import sys; from ecm_cluster.scoring.detections import of_image; "
            "from ecm_cluster.scoring.detection_files import DetectionWriter; w = DetectionWriter(1); "
            "w.add(0, of_image(1, [], [], [])); w.write(sys.argv[1])")
    killed = subprocess.run([sys.executable, "-c", code, path],
                            env={**os.environ, "ECM_CLUSTER_KILL_AT": "before-rename"}, check=False)
    assert killed.returncode == -9 and path.read_bytes() == before


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="image 5: 2 category ids"):
        of_image(5, [1, 2], [0.5], np.zeros((2, 4)))
