"""Inference of one rank: runs a stock mmdet model on its share of the test images and writes chunks of columns.

The images are divided into chunks when an evaluation first starts, and each rank takes every world-size-th chunk: no
image is processed twice, ranks need not communicate, and a restart with any number of ranks processes what is missing.
A rank keeps the detections of one chunk in memory, however large the test set is. With ``samples_per_gpu`` above 1,
images are padded to the largest one of their batch, which slightly affects results: batches do not cross chunks, so
they are the same after any restart.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from mmcv import Config
from mmcv.runner import wrap_fp16_model
from mmdet.core import encode_mask_results
from mmdet.models import build_detector
from torch.utils.data import DataLoader, Subset

from mmdet_ext.data.samples import NamedSubset

from ...base import files
from ...base.errors import UserError
from ...base.reading import Number
from ...rundir.run import Evaluation
from ...scoring.detection_files import DetectionWriter
from ...scoring.detections import Detections, of_image
from ...scoring.parts import ScoredDataset, ScoredSet
from ..mmdet_trainer.batches import collate, unpack
from ..mmdet_trainer.building import ShieldedLoader, rfnext_init_model
from ..mmdet_trainer.parallel import sync_batchnorm_alone
from ..training import loading
from . import scored_set
from .logit_adjustment import adjust
from .score_parts import PROPOSAL

Progress = Callable[[int, int], None]
CHUNKS = {"chunks": Number(1, 10**8), "images": Number(0)}
CHUNK = 200  # images: about 60,000 detections in memory, and the work that a restart may repeat


def infer(cfg: Config, checkpoint: Path, work: Evaluation, rank: int, world_size: int, device: str,
          settings: Mapping[str, Any], counts: Sequence[float] | None = None,
          on_progress: Progress | None = None) -> None:
    """Detect on this rank's images of ``cfg.data.test`` and write the missing chunks.

    Args:
        cfg: Resolved mmdet config, with ``custom_imports`` imported and the detection settings applied.
        checkpoint: In mmcv's format.
        work: The evaluation with its chunks.
        rank: 0 <= rank < world_size.
        world_size: Number of ranks that share the images; may differ from that of an earlier start.
        device: ``cpu`` or ``cuda:<index>``.
        settings: Detection settings; those of the logits are applied to the model.
        counts: Training instances of each class, if a setting needs them.
        on_progress: Called with (images done, images of this rank).

    Raises:
        UserError: Config, checkpoint and annotation file do not match.
    """
    dataset, batch, workers = scored_set.build(cfg)
    scored = scored_set.describe(dataset)
    chunks = divide(work, len(dataset), world_size)
    scored.write(work.scored_set_file)
    own = {number: positions for number, positions in enumerate(chunks)
           if number % world_size == rank and not work.chunk_file(number).exists()}
    if not own:
        return
    model = build_model(cfg, checkpoint, scored, device)
    adjust(model, settings, counts)
    share = NamedSubset(dataset, [position for positions in own.values() for position in positions])
    batches, begin = [], 0
    for positions in own.values():
        end = begin + len(positions)
        batches += [list(range(at, min(at + batch, end))) for at in range(begin, end, batch)]
        begin = end
    loader = ShieldedLoader(share, batch_sampler=batches, num_workers=workers,
                    collate_fn=partial(collate, samples_per_gpu=batch), pin_memory=device != "cpu")
    answers = run_inference(model, loader, device, scored)
    done = 0
    for number, positions in own.items():
        writer = DetectionWriter(len(dataset))
        for position in positions:
            writer.add(position, next(answers))
            done += 1
            if on_progress:
                on_progress(done, len(share))
        writer.write(work.chunk_file(number))


def divide(work: Evaluation, images: int, world_size: int) -> list[range]:
    """The positions of each chunk, as divided by the first start, regardless of the present number of ranks."""
    wanted = max(-(-images // CHUNK), min(images, 4 * world_size))
    work.detections_dir.mkdir(parents=True, exist_ok=True)
    files.create_exclusive(work.chunks_file, json.dumps({"chunks": wanted, "images": images}) + "\n")
    there = files.read_json(work.chunks_file, CHUNKS)
    if there["images"] != images:
        raise UserError(f"data.test: has {images} images, but had {there['images']} when this evaluation started; "
                        f"remove {work.detections_dir} to start over")
    # every n-th image, so that large and small ones are evenly distributed
    return [range(number, images, there["chunks"]) for number in range(there["chunks"])]


def run_inference(model: torch.nn.Module, loader: DataLoader, device: str, scored: ScoredSet) -> Iterator[Detections]:
    """The detections on each image of ``loader``, in its order.

    Args:
        model: An mmdet detector in eval mode on ``device``.
        loader: Batches of a :class:`Subset` of an mmdet dataset in test mode, not shuffled.
        device: The model's.
        scored: The ids of images and categories.
    """
    share = loader.dataset
    assert isinstance(share, Subset)
    positions = iter(share.indices)
    for data in loader:
        _, named = unpack((), data, torch.device(device))
        with torch.no_grad():
            results = model(return_loss=False, rescale=True, **named)
        for result in results:
            yield columns_at(scored, next(positions), result)


def columns_at(scored: ScoredSet, position: int, result: Any) -> Detections:
    """The detections on one image, with its ids of the image and the categories."""
    first = scored.parts[0]
    classes = len(first.categories) or None
    if scored.by_position:
        return columns_of(position, None, result, classes)
    return columns_of(first.images[position], first.categories, result, classes)


def build_model(cfg: Config, checkpoint: Path, scored: ScoredSet, device: str) -> torch.nn.Module:
    """The detector of ``cfg.model`` with a checkpoint's weights, in eval mode on ``device``.

    No initial weights are downloaded. A weight that is missing in the checkpoint is an error here; mmcv's own loading
    would leave it at its random value.
    """
    settings = copy.deepcopy(cfg.model)
    settings.pop("train_cfg", None)
    settings.pop("pretrained", None)
    with sync_batchnorm_alone():
        model = build_detector(settings, test_cfg=cfg.get("test_cfg"))
    rfnext_init_model(model, cfg)
    if cfg.get("fp16") is not None and device != "cpu":
        wrap_fp16_model(model)
    try:
        content = loading.read(checkpoint)
    except FileNotFoundError:
        raise UserError(f"{checkpoint}: does not exist") from None
    if not isinstance(content, dict):
        raise UserError(f"{checkpoint}: contains a {type(content).__name__}; expected a dict of weights")
    for part in scored.parts:
        check_classes(checkpoint, (content.get("meta") or {}).get("CLASSES"), part)
    load_weights(model, content.get("state_dict", content), checkpoint)
    model.CLASSES = scored.parts[0].classes
    model.to(device)
    model.eval()  # not chained: the eval() of a detector with a teacher returns None
    return model


def check_classes(checkpoint: Path, trained: Sequence[str] | None, part: ScoredDataset) -> None:
    """Refuse a checkpoint that was trained for other classes, or in another order.

    Checkpoints without class names (such as some converted ones) are accepted: the number of classes is checked with
    the first result of the model.
    """
    if trained is None or part.classes is None or tuple(trained) == tuple(part.classes):
        return
    remedy = "evaluate on a dataset with the classes that it was trained for"
    if len(trained) != len(part.classes):
        raise UserError(f"{checkpoint}: trained for {len(trained)} classes, but the test dataset has "
                        f"{len(part.classes)}; {remedy}")
    first = next(i for i, (a, b) in enumerate(zip(trained, part.classes)) if a != b)
    raise UserError(f"{checkpoint}: class {first} was {trained[first]!r} in training but is {part.classes[first]!r} in "
                    f"the test dataset; {remedy}")


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], checkpoint: Path) -> None:
    """Load weights into ``model``; refuse a checkpoint in which one is missing or has another shape.

    The buffers of a loss (class counts and values derived from them) come from the config, not from the checkpoint.
    Additional weights in the checkpoint cause a warning.
    """
    buffers = {name for name, _ in model.named_buffers() if ".loss_" in name}
    named = ((re.sub(r"^module\.", "", name), value) for name, value in weights.items())
    stripped = OrderedDict((name, value) for name, value in named if name not in buffers)
    if hasattr(weights, "_metadata"):  # versions of modules, by which some of them rename old weights
        stripped._metadata = weights._metadata  # type: ignore[attr-defined]
    try:
        missing, unknown = model.load_state_dict(stripped, strict=False)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n")[1].split())
        raise UserError(f"{checkpoint}: does not match this model ({first}); evaluate with its own config") from error
    missing = [n for n in missing if n not in buffers and not n.endswith("num_batches_tracked")]
    if missing:
        raise UserError(f"{checkpoint}: {len(missing)} weights of this model are missing (the first is "
                        f"{missing[0]}); evaluate with its own config")
    unknown = [n for n in unknown if ".loss_" not in n]
    if unknown:
        warnings.warn(f"{checkpoint}: ignoring {len(unknown)} weights that are not in this model (the first is "
                      f"{unknown[0]})", stacklevel=2)


def columns_of(image_id: int, cat_ids: Sequence[int] | None, result: Any, classes: int | None) -> Detections:
    """The result of an mmdet detector for one image as columns.

    Args:
        cat_ids: Category id of each label; None: keep the labels.
        result: Boxes by class, boxes and masks by class, or boxes without a class.
        classes: Expected number of classes; None: any.
    """
    boxes, masks = result if isinstance(result, tuple) else (result, None)
    if isinstance(boxes, np.ndarray) and boxes.ndim == 2:
        boxes, classes, cat_ids = [boxes], None, [PROPOSAL]
    if not isinstance(boxes, list) or classes not in (None, len(boxes)):
        answer = f"boxes for {len(boxes)} classes" if isinstance(boxes, list) else type(boxes).__name__
        raise UserError(f"model: returns {answer}, but the test dataset has {classes} categories; expected a detector "
                        "with that num_classes")
    stacked = np.concatenate(boxes).astype(np.float64)
    rles = mask_scores = None
    if masks is not None:
        encoded = encode_mask_results(masks)
        if isinstance(encoded, tuple):
            encoded, by_class = encoded
            mask_scores = np.concatenate([np.asarray(scores, np.float64).reshape(-1) for scores in by_class])
        rles = [rle for of_class in encoded for rle in of_class]
    # subtract corners in double precision, as in mmdet's results2json
    xywh = np.concatenate([stacked[:, :2], stacked[:, 2:4] - stacked[:, :2]], axis=1)
    categories = np.repeat(range(len(boxes)) if cat_ids is None else cat_ids, [len(of_class) for of_class in boxes])
    return of_image(image_id, categories, stacked[:, 4], xywh, rles, mask_scores)
