"""Inference into shards is mmdet's own testing, however the images are shared out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mmdet = pytest.importorskip("mmdet")
import cv2  # noqa: E402 (after the check that the training stack is there)
import torch  # noqa: E402
from mmcv import Config  # noqa: E402
from mmcv.parallel import MMDataParallel  # noqa: E402
from mmcv.runner import save_checkpoint  # noqa: E402
from mmdet.apis import single_gpu_test  # noqa: E402
from mmdet.datasets import build_dataloader  # noqa: E402
from mmdet.models import build_detector  # noqa: E402

from ecm_cluster.base.errors import UserError  # noqa: E402
from ecm_cluster.chain import evaluations  # noqa: E402
from ecm_cluster.node.inference import detect, scored_set  # noqa: E402
from ecm_cluster.rundir.run import Evaluation  # noqa: E402
from ecm_cluster.scoring import score  # noqa: E402
from ecm_cluster.scoring.detection_files import read_shards  # noqa: E402

CLASSES = ("ant", "bee", "cat", "dog")
CATEGORY_IDS = [4, 2, 9, 1]
SIZES = [(64, 48), (40, 70), (64, 64), (33, 50), (48, 64), (64, 40), (56, 56)]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and threads that wait for a busy machine's cores cost much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven noisy pictures of several sizes, and their annotation file."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "val2017").mkdir()
    rng = np.random.default_rng(0)
    images = []
    for k, (height, width) in enumerate(SIZES):
        name = f"{k:012d}.jpg"
        cv2.imwrite(str(folder / "val2017" / name), rng.integers(0, 255, (height, width, 3), np.uint8))
        images.append({"id": 100 - k, "height": height, "width": width, "neg_category_ids": CATEGORY_IDS,
                       "not_exhaustive_category_ids": [],
                       "coco_url": f"http://images.cocodataset.org/val2017/{name}"})
    categories = [{"id": c, "name": name, "frequency": "f"} for c, name in zip(CATEGORY_IDS, CLASSES)]
    document = {"images": images, "annotations": [], "categories": categories}
    (folder / "val.json").write_text(json.dumps(document))
    return folder


def config(data: Path, masks: bool = True, classes: int = 4) -> Config:
    """A Mask R-CNN of some ten thousand weights."""
    def bbox_head() -> dict[str, Any]:
        return dict(type="Shared2FCBBoxHead", in_channels=8, fc_out_channels=16, roi_feat_size=3,
                    num_classes=classes)

    def roi(size: int) -> dict[str, Any]:
        layer = dict(type="RoIAlign", output_size=size, sampling_ratio=0)
        return dict(type="SingleRoIExtractor", roi_layer=layer, out_channels=8, featmap_strides=[4, 8])

    mask_head = dict(mask_roi_extractor=roi(4), mask_head=dict(
        type="FCNMaskHead", num_convs=1, in_channels=8, conv_out_channels=8, roi_feat_size=4,
        num_classes=classes))
    model = dict(
        type="MaskRCNN" if masks else "FasterRCNN",
        backbone=dict(type="ResNet", depth=18, base_channels=4, num_stages=2, out_indices=(0, 1),
                      strides=(1, 2), dilations=(1, 1)),
        neck=dict(type="FPN", in_channels=[4, 8], out_channels=8, num_outs=2),
        rpn_head=dict(type="RPNHead", in_channels=8, feat_channels=8, anchor_generator=dict(
            type="AnchorGenerator", scales=[4], ratios=[1.0], strides=[4, 8])),
        roi_head=dict(type="StandardRoIHead", bbox_roi_extractor=roi(3), bbox_head=bbox_head(),
                      **(mask_head if masks else {})),
        test_cfg=dict(
            rpn=dict(nms_pre=50, max_per_img=20, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
            rcnn=dict(score_thr=0.29, nms=dict(type="nms", iou_threshold=0.3), max_per_img=10,
                      mask_thr_binary=0.5)))
    pipeline = [dict(type="LoadImageFromFile"), dict(
        type="MultiScaleFlipAug", img_scale=(64, 64), flip=False, transforms=[
            dict(type="Resize", keep_ratio=True), dict(type="RandomFlip"),
            dict(type="Normalize", mean=[127.0] * 3, std=[60.0] * 3, to_rgb=True),
            dict(type="Pad", size_divisor=8), dict(type="ImageToTensor", keys=["img"]),
            dict(type="Collect", keys=["img"])])]
    test = dict(type="LVISV1Dataset", ann_file=f"{data}/val.json", img_prefix=f"{data}/", pipeline=pipeline,
                classes=CLASSES)
    return Config(dict(model=model, data=dict(workers_per_gpu=0, test=test)))


def checkpoint(folder: Path, cfg: Config, **meta: Any) -> Path:
    """Random weights, with heads strong enough to prefer some class somewhere."""
    torch.manual_seed(0)
    model = build_detector(copy.deepcopy(cfg.model))  # mmdet writes into what it builds from
    model.init_weights()
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.weight.mul_(60)
    save_checkpoint(model, str(folder / "weights.pth"), meta={"CLASSES": CLASSES, **meta})
    return folder / "weights.pth"


def shards(folder: Path, cfg: Config, weights: Path, world_size: int, name: str = "", settings: Any = None,
           **kwargs: Any) -> list[Path]:
    """The chunks of an evaluation by ``world_size`` ranks, one rank after the other."""
    work = Evaluation(folder / (name or f"by-{world_size}-{len(list(folder.iterdir()))}"))
    for rank in range(world_size):
        detect.infer(cfg, weights, work, rank, world_size, "cpu", settings or {}, **kwargs)
    assert evaluations.has_detections(work)
    return sorted(work.detections_dir.glob("*.npz"))


@pytest.mark.parametrize("masks", [True, False])
def test_detections_are_mmdets_own_on_one_rank_and_on_three(tmp_path, data, masks):
    cfg = config(data, masks)
    weights = checkpoint(tmp_path, cfg)
    dataset, _, _ = scored_set.build(cfg)
    model = MMDataParallel(detect.build_model(cfg, weights, scored_set.describe(dataset), "cpu"), device_ids=[-1])
    results = single_gpu_test(model, build_dataloader(dataset, 1, 0, dist=False, shuffle=False))
    written = dataset.results2json(results, str(tmp_path / "mmdet"))
    for world_size in (1, 3):
        found = read_shards(shards(tmp_path, cfg, weights, world_size), expected=dataset.img_ids)
        assert found.iou_types == (("bbox", "segm") if masks else ("bbox",))
        assert 10 < len(found) < 70 and len(set(found.category_id.tolist())) > 1
        for iou_type in found.iou_types:
            assert found.to_lvis_results(iou_type) == json.loads(Path(written[iou_type]).read_text())


def test_a_detector_whose_eval_gives_nothing_back_is_scored(tmp_path, data, monkeypatch):
    """As mmdet's detectors with a teacher, which override ``train`` and leave its answer out."""
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    build = detect.build_detector

    def without_an_answer(*args: Any, **kwargs: Any) -> Any:
        model = build(*args, **kwargs)
        kind = type(model)
        model.__class__ = type(kind.__name__, (kind,), {
            "train": lambda self, mode=True: kind.train(self, mode) and None})
        return model

    monkeypatch.setattr(detect, "build_detector", without_an_answer)
    assert len(read_shards(shards(tmp_path, cfg, weights, 1))) > 10


def test_more_ranks_than_images_leave_some_without_work(tmp_path, data):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    seen = []
    found = read_shards(shards(tmp_path, cfg, weights, 9, on_progress=lambda *state: seen.append(state)))
    assert found.images.tolist() == [100 - k for k in range(7)]
    assert seen == [(1, 1)] * 7


def test_several_images_a_batch_and_loader_processes_are_taken_from_the_config(tmp_path, data):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    cfg.data.test_dataloader = dict(samples_per_gpu=3, workers_per_gpu=1)
    seen = []
    found = read_shards(shards(tmp_path, cfg, weights, 1, on_progress=lambda *state: seen.append(state)))
    assert seen == [(done, 7) for done in range(1, 8)] and found.images.tolist() == [100 - k for k in range(7)]


def test_a_later_start_of_other_ranks_does_what_is_missing_and_nothing_else(tmp_path, data):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    whole = shards(tmp_path, cfg, weights, 2, name="whole")
    begun = Evaluation(tmp_path / "begun")
    detect.infer(cfg, weights, begun, 0, 2, "cpu", {})  # rank 1 was killed before it wrote anything
    there = {path: path.stat().st_mtime_ns for path in begun.detections_dir.glob("*.npz")}
    assert 0 < len(there) < len(whole)
    chunks = shards(tmp_path, cfg, weights, 3, name="begun")
    assert [path.name for path in chunks] == [path.name for path in whole]
    assert all(path.stat().st_mtime_ns == then for path, then in there.items())
    for one, other in zip(chunks, whole):
        assert read_columns(one) == read_columns(other)


def read_columns(path: Path) -> dict[str, Any]:
    with np.load(path) as archive:
        return {name: archive[name].tolist() for name in archive.files}


def test_a_rank_holds_no_more_than_a_chunk_regardless_of_the_size_of_the_set(tmp_path, data, monkeypatch):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    held = []
    write = detect.DetectionWriter.write
    monkeypatch.setattr(detect.DetectionWriter, "write",
                        lambda self, path: (held.append(len(self._parts)), write(self, path))[1])
    monkeypatch.setattr(detect, "CHUNK", 1)
    found = read_shards(shards(tmp_path, cfg, weights, 1))
    assert held == [1] * 7 and len(found.images) == 7


def test_a_data_set_that_changed_meanwhile_is_refused(tmp_path, data):
    cfg = config(data)
    work = Evaluation(tmp_path / "work")
    detect.divide(work, 9, 1)
    with pytest.raises(UserError, match="7 images, but had 9 when this evaluation started"):
        detect.infer(cfg, checkpoint(tmp_path, cfg), work, 0, 1, "cpu", {})


def test_settings_of_the_logits_change_scores_and_usual_ones_change_nothing(tmp_path, data):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    plain = read_shards(shards(tmp_path, cfg, weights, 1)).to_lvis_results("bbox")
    same = shards(tmp_path, cfg, weights, 1, settings={"temperature": 1.0, "background": "softmax"})
    assert read_shards(same).to_lvis_results("bbox") == plain
    hot = read_shards(shards(tmp_path, cfg, weights, 1, settings={"temperature": 0.5}))
    assert max(hot.score) > max(result["score"] for result in plain)
    with pytest.raises(UserError, match="margin: invalid counts of training instances: none"):
        shards(tmp_path, cfg, weights, 1, settings={"margin": 1.0})
    margin = shards(tmp_path, cfg, weights, 1, settings={"margin": 3.0}, counts=[1.0, 1e6, 1e6, 1e6])
    assert set(read_shards(margin).category_id.tolist()) != {result["category_id"] for result in plain}


def test_the_config_is_left_as_it_was(tmp_path, data):
    cfg = config(data)
    cfg.data.test.samples_per_gpu = 2
    before = copy.deepcopy(cfg._cfg_dict)
    shards(tmp_path, cfg, checkpoint(tmp_path, cfg), 1)
    assert cfg._cfg_dict == before


@pytest.mark.parametrize(("trained", "complaint"), [
    (("ant", "bee", "cat"), "trained for 3 classes, but the test dataset has 4"),
    (("ant", "cat", "bee", "dog"), "class 1 was 'cat' in training but is 'bee' in the test dataset"),
])
def test_a_checkpoint_of_other_classes_is_refused(tmp_path, data, trained, complaint):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg, CLASSES=trained)
    with pytest.raises(UserError, match=f"weights.pth: {complaint}"):
        shards(tmp_path, cfg, weights, 1)


def test_a_checkpoint_of_another_model_is_refused(tmp_path, data):
    weights = checkpoint(tmp_path, config(data))
    with pytest.raises(UserError, match="does not match this model .*size mismatch"):
        shards(tmp_path, config(data, classes=5), weights, 1)
    weights = checkpoint(tmp_path, config(data, masks=False))
    with pytest.raises(UserError, match="6 weights of this model are missing .the first is roi_head.mask_head"):
        shards(tmp_path, config(data), weights, 1)
    assert not list(tmp_path.rglob("*.npz"))


def test_weights_beyond_the_model_are_named_in_a_warning(tmp_path, data):
    weights = checkpoint(tmp_path, config(data))
    with pytest.warns(UserWarning, match="ignoring 6 weights that are not in this model"):
        shards(tmp_path, config(data, masks=False), weights, 1)


def test_buffers_of_a_loss_in_the_checkpoint_do_not_matter(tmp_path, data):
    weights = checkpoint(tmp_path, config(data))
    before = read_shards(shards(tmp_path, config(data), weights, 1)).to_lvis_results("segm")
    content = torch.load(weights)
    content["state_dict"] = {f"module.{name}": value for name, value in content["state_dict"].items()}
    content["state_dict"]["module.roi_head.bbox_head.loss_cls.sample_n"] = torch.ones(77)
    torch.save(content, weights)
    assert read_shards(shards(tmp_path, config(data), weights, 1)).to_lvis_results("segm") == before


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_an_unreadable_checkpoint_is_named(tmp_path, data, content):
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    complaint = "weights.pth: (invalid checkpoint|does not exist)"
    with pytest.raises(UserError, match=complaint) as error:
        shards(tmp_path, config(data), path, 1)
    assert "\n" not in str(error.value)


def test_a_data_set_that_cannot_be_scored_is_refused(tmp_path, data):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    cfg.data.test.classes = CLASSES[:3]
    with pytest.raises(UserError, match="val.json has 4 categories, the dataset names 3 classes"):
        shards(tmp_path, cfg, weights, 1)
    cfg.data.test = None
    with pytest.raises(UserError, match="data.test: the config has none"):
        shards(tmp_path, cfg, weights, 1)


def test_several_datasets_are_one_row_of_positions_and_labels(tmp_path, data):
    cfg = config(data)
    weights = checkpoint(tmp_path, cfg)
    one = read_shards(shards(tmp_path, cfg, weights, 1))
    cfg.data.test = [cfg.data.test, cfg.data.test]
    both = read_shards(shards(tmp_path, cfg, weights, 3))
    assert both.images.tolist() == list(range(14))
    twice = [100 - position % 7 for position in both.image_id.tolist()]
    labels = [CATEGORY_IDS[label] for label in both.category_id.tolist()]
    assert len(both) == 2 * len(one) and twice == 2 * one.image_id.tolist() and labels == 2 * one.category_id.tolist()


def test_a_model_without_known_classes_has_to_answer_for_as_many(tmp_path, data):
    cfg = config(data, classes=5)
    weights = checkpoint(tmp_path, cfg, CLASSES=None)
    with pytest.raises(UserError, match="boxes for 5 classes, but the test dataset has 4 categories"):
        shards(tmp_path, cfg, weights, 1)


@pytest.mark.slow
def test_the_demo_scores_the_same_on_one_rank_and_on_three(tmp_path, root, small_data):
    def relocate(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: relocate(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(relocate(v) for v in value)
        return value.replace(data_root, f"{small_data}/") if isinstance(value, str) else value

    cfg = Config.fromfile(str(root / "configs" / "demo.py"))
    data_root = cfg.data_root
    cfg = Config(relocate(cfg._cfg_dict.to_dict()))
    for head in (cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head):
        head.num_classes = 6
    cfg.data.test.pipeline[1].img_scale = (64, 64)
    dataset, _, _ = scored_set.build(cfg)
    weights = checkpoint(tmp_path, cfg, CLASSES=dataset.CLASSES)
    one, three = (read_shards(shards(tmp_path, cfg, weights, n), expected=dataset.img_ids) for n in (1, 3))
    assert one.to_lvis_results("segm") == three.to_lvis_results("segm") and len(one) > 8
    metrics = score.score(cfg.data.test.ann_file, three)
    assert metrics == score.score(cfg.data.test.ann_file, one)
    assert metrics["images"] == 8 and len(metrics["per_class"]) == 6
    assert metrics["figures"]["bbox"]["AP"] is not None
