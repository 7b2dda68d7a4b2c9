"""Detections of one evaluation to figures: each dataset by its own rule, and all of them as one where they are alike.

COCO's and LVIS's rules are scored from the annotation files. A dataset with an evaluation of its own (VOC, Open Images,
a class of the user's) and metrics that no scorer here has (proposals) are scored by mmdet's ``dataset.evaluate``, with
the config's ``evaluation`` as its arguments, on the model's results.
"""

from __future__ import annotations

import contextlib
import numbers
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...base.errors import UserError
from ...datacheck.entries import is_mask
from ...mmclasses.evaluation import OF_PROPOSALS, PLAIN, Protocol
from ...scoring import score as scoring
from ...scoring.detections import Detections
from ...scoring.metrics import plain_kind
from ...scoring.parts import OWN, ScoredDataset, ScoredSet, join
from .. import signals

if TYPE_CHECKING:
    import numpy as np

PROPOSAL = -1  # instead of a label, for boxes without a class


def score(scored: ScoredSet, found: Detections, protocol: Protocol, options: Mapping[str, Any],
          build: Callable[[], Any]) -> dict[str, Any]:
    """The figures of everything that is scored, in one document.

    Args:
        found: Detections on all images.
        options: Of :func:`ecm_cluster.scoring.score.score_document`: ``max_dets``, ``scorer``, ``replicates``, …
        build: Makes the dataset of ``data.test``; called where a dataset's own evaluation is needed.

    Returns:
        What ``score_document`` returns. Several datasets have figures by ``bbox@0``, ``bbox@1``, … in the order of the
        config, and by ``bbox`` for the whole where they are alike; mmdet's own stand at ``mmdet``. ``parts`` says which
        is which, ``notes`` what was asked for and could not be scored.
    """
    several, notes, documents = len(scored.parts) > 1, [], []
    made: list[tuple[str, dict[str, Any]]] = []  # suffix of the kinds, and a document
    whole = several and scored.alike
    for number, part in enumerate(scored.parts):
        suffix = f"@{number}" if several else ""
        if part.kind != OWN and (not protocol.metrics or set(protocol.metrics) & set(PLAIN)):
            document = part.restrict(scoring.read_annotations(part.ann_file))
            mine = scored.of_part(number, found)
            mine = part.place_ids(mine) if scored.by_position else mine
            kinds, lacking = kinds_of(document, mine, protocol.metrics)
            notes += [f"{part.ann_file}: {text}" for text in lacking]
            rules = {**options, "rule": part.kind, "protocol": protocol}
            scored_part = scoring.score_document(document, part.ann_file, mine, kinds, **rules)
            notes += scored_part.pop("notes", [])
            made.append((suffix, scored_part))
            documents += [(document, mine, kinds, rules)] if whole else []
    if len(documents) > 1:
        made.insert(0, ("", _whole(documents, scored)))
    wanted = [m for m in protocol.metrics if m not in PLAIN]
    if wanted or any(part.kind == OWN for part in scored.parts):
        made.append(("", _by_mmdet(scored, found, protocol, wanted, options, build())))
    result = {**_merged(made), "images": len(found.images), "detections": len(found)}
    if several:
        result["parts"] = [{"annotations": p.ann_file, "type": p.type, "images": len(p.images)} for p in scored.parts]
    if notes:
        result["notes"] = list(dict.fromkeys(notes))
    return result


def kinds_of(document: Mapping[str, Any], found: Detections, metrics: Sequence[str]) -> tuple[list[str], list[str]]:
    """The kinds of overlap that these detections are scored by, and what is requested but impossible."""
    bare = [a for a in document["annotations"] if not is_mask(a.get("segmentation"))]
    why = "the model gives no masks" if "segm" not in found.iou_types else None if not bare else (
        f"{len(bare)} of {len(document['annotations'])} annotations have no usable segmentation (the first is "
        f"{bare[0]['id']})")
    wanted = metrics or found.iou_types
    kinds = [kind for kind in PLAIN if kind in wanted and (kind == "bbox" or why is None)]
    return kinds, [f"segm is not scored: {why}"] if "segm" in wanted and why else []


def _whole(documents: Sequence[tuple[dict[str, Any], Detections, list[str], dict[str, Any]]], scored: ScoredSet,
           ) -> dict[str, Any]:
    from ...scoring.detections import concatenate

    joined, names = join([document for document, *_ in documents])
    renamed = [replace(mine, images=_renamed(mine.images, ids), image_id=_renamed(mine.image_id, ids))
               for (_, mine, *_), ids in zip(documents, names)]
    kinds = [kind for kind in PLAIN if all(kind in own for _, _, own, _ in documents)]
    where = " and ".join(part.ann_file for part in scored.parts)
    return scoring.score_document(joined, where, concatenate(renamed), kinds, **documents[0][3])


def _renamed(ids: np.ndarray, names: Mapping[int, int]) -> np.ndarray:
    import numpy as np

    return np.array([names[i] for i in ids.tolist()], np.int64)


def _by_mmdet(scored: ScoredSet, found: Detections, protocol: Protocol, wanted: Sequence[str],
              options: Mapping[str, Any], dataset: Any) -> dict[str, Any]:
    """The figures of the datasets' own ``evaluate``: of all where any has a rule of its own, else of ``wanted``."""
    if options.get("replicates") or {"max_dets", "fixed"} & set(options):
        raise UserError("bootstrap, max_dets, fixed: a dataset that is scored by mmdet's own `evaluate` has none of "
                        "them; leave them out")
    import numpy as np

    arguments = dict(protocol.options)
    if wanted and all(part.kind != OWN for part in scored.parts):
        arguments.update(metric=list(wanted), proposal_nums=protocol.proposal_nums)
        if protocol.iou_thrs:
            arguments["iou_thrs"] = np.array(protocol.iou_thrs, np.float64)
        from . import scored_set

        for part in scored_set.members(dataset):
            for annotation in part.coco.anns.values():
                annotation.setdefault("iscrowd", 0)  # as in COCO's rule here; LVIS has none
    results = results_of(scored, found, bool(protocol.metrics) and set(protocol.metrics) <= set(OF_PROPOSALS))
    with numpy_as_it_was(), signals.ordinary_children():
        figures = dataset.evaluate(results, **arguments)
    return {"scorer": "mmdet", "max_dets": None, "images": len(found.images), "detections": len(found),
            "figures": {"mmdet": {str(name): float(value) for name, value in figures.items()
                                  if isinstance(value, numbers.Real)}}, "per_class": []}


@contextlib.contextmanager
def numpy_as_it_was() -> Iterator[None]:
    """For mmdet's evaluations and lvis-api: ``np.float`` and arrays of arrays, which numpy 1.24 removed."""
    import numpy as np
    from mmdet.core.evaluation import recall

    def array(values: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        ragged = isinstance(values, list) and len({np.shape(value) for value in values}) > 1
        if not ragged or args or kwargs:
            return np.array(values, *args, **kwargs)
        made = np.empty(len(values), object)
        made[:] = values
        return made

    lacks = not hasattr(np, "float")
    if lacks:
        np.float = float  # type: ignore[attr-defined]
    recall.np = types.SimpleNamespace(**{**vars(np), "array": array})
    try:
        yield
    finally:
        recall.np = np
        if lacks:
            del np.float  # type: ignore[attr-defined]


def results_of(scored: ScoredSet, found: Detections, only_proposals: bool = False) -> list[Any]:
    """Detections as mmdet's models give them, image by image: boxes by class, with masks where there are some.

    Args:
        only_proposals: Boxes have no class, even where nothing was found.
    """
    import numpy as np

    proposals = only_proposals or bool(len(found)) and bool((found.category_id == PROPOSAL).all())
    order = {image: at for at, image in enumerate(found.images.tolist())}
    place = np.array([order[i] for i in found.image_id.tolist()], np.int64)
    corners = np.hstack([found.bbox[:, :2], found.bbox[:, :2] + found.bbox[:, 2:], found.score[:, None]])
    boxes = corners.astype(np.float32).reshape(-1, 5)
    results: list[Any] = []
    by_image = np.argsort(place, kind="stable")
    ends = np.searchsorted(place[by_image], np.arange(len(order)), side="right")
    for image, (begin, end) in enumerate(zip([0, *ends[:-1]], ends)):
        rows = by_image[begin:end]
        if proposals:
            results.append(boxes[rows])
            continue
        part = scored.parts[int(np.searchsorted(scored.offsets, image, side="right")) - 1]
        labels = found.category_id[rows] if scored.by_position else _labels(part, found.category_id[rows])
        by_class = [rows[labels == label] for label in range(len(part.categories))]
        answer: Any = [boxes[own] for own in by_class]
        if found.masks is not None:
            masks: Any = [[_encoded(found, row) for row in own.tolist()] for own in by_class]
            if found.masks.score is not None:
                masks = (masks, [found.masks.score[own] for own in by_class])
            answer = (answer, masks)
        results.append(answer)
    return results


def _labels(part: ScoredDataset, ids: np.ndarray) -> np.ndarray:
    import numpy as np

    label = {category: at for at, category in enumerate(part.categories)}
    return np.array([label[i] for i in ids.tolist()], np.int64)


def _encoded(found: Detections, row: int) -> dict[str, Any]:
    assert found.masks is not None
    rle = found.masks.rle(row)
    return {"size": rle["size"], "counts": rle["counts"].encode()}


def _merged(made: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """One document of several; the kinds of each get its suffix."""
    if not made:
        raise UserError("config: evaluation.metric names no metric that this model's predictions can be scored by")
    merged: dict[str, Any] = {**made[0][1], "figures": {}, "per_class": []}
    classes: dict[Any, dict[str, Any]] = {}
    intervals: dict[str, Any] = {}
    for suffix, document in made:
        renamed = {kind: kind + suffix for kind in document["figures"]}
        merged["figures"].update({renamed[kind]: figures for kind, figures in document["figures"].items()})
        for row in document["per_class"]:
            own = classes.setdefault((row["id"], row["name"]), {k: v for k, v in row.items() if k not in renamed})
            own.update({renamed[kind]: row[kind] for kind in renamed})
        for kind, interval in (document.get("bootstrap") or {"intervals": {}})["intervals"].items():
            intervals[renamed[kind]] = interval
    known = [kind for kind in merged["figures"] if plain_kind(kind) in PLAIN]
    merged["per_class"] = [{**row, **{kind: row.get(kind) for kind in known}} for row in classes.values()]
    if "bootstrap" in merged:
        merged["bootstrap"] = {**merged["bootstrap"], "intervals": intervals}
    if len(made) > 1:
        merged["scorer"] = ", ".join(dict.fromkeys(document["scorer"] for _, document in made))
    return merged
