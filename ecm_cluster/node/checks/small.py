"""Reduces a training so that one step is fast on the CPU of a busy machine: few small images, few proposals."""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.parallel import DataContainer
from mmcv.runner.hooks import Hook
from torch.nn import functional

from mmdet_ext.data import json_walk
from mmdet_ext.data.annotations import columns_of

from ...base import files
from ...mmconfig import config
from ...pack import columns, manifest
from ...rundir.run import Run
from ...staging import planned
from .. import staged_data

IMAGES, LONGEST = 2, 256  # images in a batch; pixels of their longer side
STRIDE = 32  # sizes are multiples of the largest stride of a backbone
PROPOSALS = 64  # samples per image: 1,203 classes take about 30 s an iteration on a CPU with the usual 512
BIG_FILE = 64 << 20  # bytes: larger annotation files are cut, since parsing them takes seconds and gigabytes
# several batches of IMAGES; LVIS v1 has 13 annotations an image, so 4000 name more than 64 images
CUT_IMAGES, CUT_ANNOTATIONS = 64, 4000
KNOWN = {"img", "img_metas", "gt_bboxes", "gt_labels", "gt_bboxes_ignore", "gt_masks", "gt_semantic_seg", "proposals"}


def load_here(cfg: Any, few: bool) -> None:
    """Load batches in this process, with few images each."""
    own = cfg.data.get("train_dataloader") or {}
    for block in (cfg.data, own):
        if "workers_per_gpu" in block or block is cfg.data:
            block["workers_per_gpu"] = 0
        if few and ("samples_per_gpu" in block or block is cfg.data):
            block["samples_per_gpu"] = min(IMAGES, block.get("samples_per_gpu", 1))
    own.pop("persistent_workers", None)


def unstaged(run: Run) -> staged_data.Data:
    """The data without staging: in the data root, which may be a pack; columns only if they already exist."""
    record = run.spec.staging
    if record is None:
        return staged_data.Data()
    plan = planned.Staging.of(record, run.job())
    data = staged_data.Data(pack=Path(plan.pack) if plan.pack else None)
    cfg = config.read_frozen(run.config_file)
    for ann_file in sorted({f for split in ("train", "test") for f in planned.annotation_files(cfg, split)}):
        packed = manifest.read(plan.pack).annotation(plan.within_pack(ann_file)) if plan.pack else None
        kept = columns.kept(Path(plan.columns), plan.annotations.get(ann_file, ""))
        if packed is not None and packed.columns:
            data.columns[ann_file] = str(Path(plan.pack or "") / packed.columns)
        elif ann_file in plan.annotations and manifest.is_pack(kept):
            data.columns[ann_file] = str(kept / manifest.read(kept).files[0].name)
    return data


# ---------------------------------------------------------------------------------------------- annotations


def cut_annotations(cfg: Any, folder: Path) -> str:
    """Make the datasets read a part of each large annotation file without columns; returns a description of it."""
    cut: dict[str, str] = {}
    for number, block in enumerate(config.nested(cfg.data)):
        named = block.get("ann_file")
        if not isinstance(named, str):
            continue
        path = os.path.abspath(os.path.join(block.get("data_root") or "", named))
        if path not in cut and not (_is_big(path) and _cut(path, folder / f"cut{number}-{os.path.basename(path)}")):
            continue
        cut.setdefault(path, str(folder / f"cut{number}-{os.path.basename(path)}"))
        block["ann_file"] = cut[path]
    return f" (from part of {', '.join(os.path.basename(path) for path in cut)})" if cut else ""


def _is_big(path: str) -> bool:
    return columns_of(path) is None and os.path.isfile(path) and os.path.getsize(path) > BIG_FILE


def _cut(path: str, target: Path) -> bool:
    """Write the first annotations and their images; False if the file has an unusual layout."""
    with open(path, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        categories = _records(data, "categories")
        images = _records(data, "images")
        annotations = _records(data, "annotations", CUT_ANNOTATIONS)
    if not categories or not images:
        return False
    wanted = set(itertools.islice(dict.fromkeys(a.get("image_id") for a in annotations or ()), CUT_IMAGES))
    some = [i for i in images if i.get("id") in wanted] or images[:CUT_IMAGES]
    kept = [a for a in annotations or () if a.get("image_id") in wanted]
    files.write_text(target, json.dumps({"info": {}, "licenses": [], "images": some, "annotations": kept,
                                         "categories": categories}))
    return True


def _records(data: mmap.mmap, key: str, most: int | None = None) -> list[Any] | None:
    """The first records of a list, or all of them; None if there is no such list."""
    for at in json_walk.likely_places(data, key):
        with contextlib.suppress(ValueError, RecursionError):
            return list(itertools.islice(json_walk.records(data, at), most))
    return None


# ---------------------------------------------------------------------------------------------- batches


class RepeatedBatch:
    """A loader that returns the same batch again and again."""

    def __init__(self, loader: Any, batch: Any) -> None:
        self._loader, self._batch = loader, batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self._batch, max(1, len(self)))


def size(batch: Any) -> tuple[int, int, int] | None:
    """(images, height, width) of a collated batch; None if it has no single tensor of images."""
    found = _images(batch)
    return (int(found.shape[0]), *map(int, found.shape[-2:])) if found is not None else None  # type: ignore[return-value]


def _images(batch: Any) -> torch.Tensor | None:
    value = batch.get("img") if isinstance(batch, dict) else None
    while isinstance(value, (DataContainer, list, tuple)):
        value = value.data if isinstance(value, DataContainer) else value[0] if value else None
    return value if isinstance(value, torch.Tensor) and value.dim() == 4 else None


def shrink(batch: Any) -> Any:
    """The batch with its images, boxes and masks scaled down; None if it contains anything else."""
    images = _images(batch)
    if images is None or not set(batch) <= KNOWN:
        return None
    before = np.array(images.shape[-2:])
    factor = min(1.0, LONGEST / before.max())
    after = np.maximum(STRIDE * 2, np.round(before * factor / STRIDE).astype(int) * STRIDE)
    y, x = after / before
    return {key: _scaled(value, key, float(x), float(y)) for key, value in batch.items()}


def _scaled(value: Any, key: str, x: float, y: float) -> Any:
    if isinstance(value, DataContainer):
        return type(value)(_scaled(value.data, key, x, y), value.stack, value.padding_value, value.cpu_only,
                           value.pad_dims)
    if isinstance(value, (list, tuple)):
        return type(value)(_scaled(item, key, x, y) for item in value)
    if key == "img_metas":
        return _scaled_meta(value, x, y)
    if isinstance(value, torch.Tensor):
        if key in ("img", "gt_semantic_seg"):
            height, width = (max(1, round(n * f)) for n, f in zip(value.shape[-2:], (y, x)))
            mode = "bilinear" if key == "img" else "nearest"
            return functional.interpolate(value.float(), (height, width), mode=mode).to(value.dtype)
        if key in ("gt_bboxes", "gt_bboxes_ignore", "proposals"):
            return torch.cat([value[..., :4] * value.new_tensor([x, y, x, y]), value[..., 4:]], dim=-1)
    if key == "gt_masks":
        return value.resize((max(1, round(value.height * y)), max(1, round(value.width * x))))
    return value


def _scaled_meta(meta: dict[str, Any], x: float, y: float) -> dict[str, Any]:
    scaled = dict(meta)
    for name in ("img_shape", "pad_shape", "ori_shape", "batch_input_shape"):
        if name in meta:
            height, width, *rest = meta[name]
            scaled[name] = (max(1, round(height * y)), max(1, round(width * x)), *rest)
    if "ori_shape" in meta:
        scaled["ori_shape"] = scaled["img_shape"]
        scaled["scale_factor"] = np.ones(4, np.float32)
    return scaled


class Float32(Hook):
    """Runs after mmcv's hooks for fp16 and disables their casts again: CPUs lack kernels for them."""

    def before_run(self, runner: Any) -> None:
        for module in runner.model.modules():
            if hasattr(module, "fp16_enabled"):
                module.fp16_enabled = False


def few_samples(model: torch.nn.Module) -> None:
    """Limit the model's anchors, boxes and detections: its heads take most of the time and memory of a step."""
    for module in model.modules():
        for block in config.nested(getattr(module, "test_cfg", None) or {}):
            if isinstance(block.get("max_per_img"), int):
                block["max_per_img"] = min(block["max_per_img"], PROPOSALS)
        for held in vars(module).values():
            for one in held if isinstance(held, (list, tuple)) else (held,):
                if isinstance(getattr(one, "num", None), int) and hasattr(one, "pos_fraction"):
                    one.num = min(one.num, PROPOSALS)
