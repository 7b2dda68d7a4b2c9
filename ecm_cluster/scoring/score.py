"""Average precision of a set of detections, and the document that keeps it with where it came from.

hotcoco scores (:mod:`.hotcoco_api`), which gives the arrays of lvis-api to the last bit; where it is not installed,
or on request, lvis-api's own code does (:mod:`.lvis_api`), the reference. What is scored by COCO's rule is scored by
pycocotools, without APr, APc and APf. What scored is in the result.

numpy, hotcoco, lvis and pycocotools are imported inside the functions: this module has to import on a login node.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple

from ..base.errors import UserError, one_of
from ..mmclasses.evaluation import Protocol
from . import metrics as lvis_figures
from .detections import Detections, no_collection
from .parts import LVIS, Part

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
PROVENANCE = ("checkpoint_digest", "annotations_digest", "config_digest", "settings", "versions")
# what is done, the iou type at hand, categories done, categories in all
Progress = Callable[[str, int, int], None]
Scored = Tuple[Dict[str, float], "np.ndarray"]


def score(annotation_file: str | Path, found: Detections, iou_types: Sequence[str] | None = None,
          max_dets: int | None = None, part: Part | None = None, **options: Any) -> dict[str, Any]:
    """Score detections against an annotation file.

    Args:
        annotation_file: LVIS JSON, or COCO JSON.
        found: detections on all images that are scored, and on no other.
        part: what of the file is scored and by whose rule; None: all of it, by LVIS's where the file has LVIS's form.
        iou_types, max_dets, options: as for :func:`score_document`, which says what is returned and raised.
    """
    _check_settings(found, iou_types, max_dets, options.get("scorer"))  # before anything is read
    document = read_annotations(annotation_file)
    if part is not None:
        document, options = part.restrict(document), {**options, "rule": part.kind}
    return score_document(document, annotation_file, found, iou_types, max_dets, **options)


def score_document(document: dict[str, Any], annotation_file: str | Path, found: Detections,
                   iou_types: Sequence[str] | None = None, max_dets: int | None = None, scorer: str | None = None,
                   on_progress: Progress | None = None, replicates: int = 0, seed: int = 0, confidence: float = 0.95,
                   rule: str | None = None, protocol: Protocol | None = None) -> dict[str, Any]:
    """Score detections against the content of an annotation file.

    Args:
        annotation_file: how messages call it.
        found: detections on all of its images, and on no other.
        iou_types: ``bbox``, ``segm`` or both; None means what the detections allow, so both if they have masks.
        max_dets: detections that count, of an image by LVIS's rule (None: 300), of an image and class by COCO's (None:
            as ``protocol`` says).
        scorer: one of ``SCORERS``; None means hotcoco where it is installed, else lvis.
        on_progress: called with (iou type, categories done, categories in all).
        replicates: of the bootstrap over images (:mod:`.bootstrap`); 0 leaves the intervals out.
        seed: of the bootstrap.
        confidence: of its intervals.
        rule: ``coco`` or ``lvis``; None: LVIS's where the document has LVIS's form.
        protocol: of COCO's rule: limits of detections and thresholds.

    Returns:
        A dict that is JSON as it stands, floats unrounded, None where a figure is undefined:
        ``scorer``, ``max_dets``, ``images``, ``detections``;
        ``figures``: for each iou type what :func:`.figures.names` lists, as fractions of one;
        ``per_class``: for each category, by ascending id, its id, name, frequency, image_count and
        instance_count (LVIS counts both in its *training* set; None in plain COCO), and AP for each iou type;
        with replicates ``bootstrap``: its settings and, for each iou type, the ``intervals`` of the figures.

    Raises:
        UserError: detections and annotations do not go together, or lack what scoring needs.
    """
    scorer, iou_types = _check_settings(found, iou_types, max_dets, scorer)
    _check_finite(found, iou_types)
    protocol = protocol or Protocol()
    _check_annotations(document, iou_types, annotation_file)
    _check_images(document, found, annotation_file)
    if rule == LVIS or rule is None and is_lvis(document, annotation_file):
        if not is_lvis(document, annotation_file):
            raise UserError(f"{annotation_file}: its images have no neg_category_ids and its categories no frequency, "
                            "which LVIS's rule needs; with data.test.type CocoDataset it is scored by COCO's")
        max_dets = max_dets or lvis_figures.MAX_DETS
    else:
        scorer = "coco"
        limits = protocol.proposal_nums if max_dets is None else (*(n for n in (1, 10) if n < max_dets), max_dets)
        max_dets = limits[-1]
    if replicates:
        _check_bootstrap(scorer, replicates, confidence)
    if scorer == "coco":
        scored = _score_coco(document, found, iou_types, limits, protocol.iou_thrs)
    else:
        scored = SCORERS[scorer](document, found, iou_types, max_dets, on_progress)
    result = {"scorer": scorer, "max_dets": max_dets, "images": len(found.images), "detections": len(found),
              "figures": {t: _figures(figures, max_dets) for t, (figures, _) in scored.items()},
              "per_class": _per_class(document, {t: precision for t, (_, precision) in scored.items()})}
    if replicates:
        result["bootstrap"] = {
            "replicates": replicates, "seed": seed, "confidence": confidence,
            "intervals": _intervals(document, found, iou_types, max_dets, replicates, seed, confidence)}
    return result


def _check_settings(found: Detections, iou_types: Sequence[str] | None, max_dets: int | None, scorer: str | None,
                    ) -> tuple[str, Sequence[str]]:
    """The scorer and the iou types, as far as detections allow them."""
    if max_dets is not None and max_dets < 1:
        raise UserError(f"max_dets: {max_dets} is not positive; LVIS counts 300 detections an image")
    iou_types = found.iou_types if iou_types is None else iou_types
    for iou_type in iou_types:
        found.scores(iou_type)  # refuses an unknown type, and segm without masks
    return _known_scorer(scorer), iou_types


def _known_scorer(scorer: str | None) -> str:
    installed = util.find_spec("hotcoco") is not None
    if scorer is None:
        return "hotcoco" if installed else "lvis"
    if scorer not in SCORERS:
        raise one_of("scorer", scorer, SCORERS)
    if scorer == "hotcoco" and not installed:
        raise UserError("scorer: hotcoco is not installed here; install it (Python 3.10 or newer) or ask for lvis")
    return scorer


def _score_hotcoco(document: dict[str, Any], found: Detections, iou_types: Sequence[str], max_dets: int,
                   on_progress: Progress | None) -> dict[str, Scored]:
    from . import hotcoco

    ground_truth, groups = hotcoco.GroundTruth(document), lvis_figures.groups(document["categories"])
    scored = {}
    for iou_type in iou_types:
        precision, recall = hotcoco.evaluate(ground_truth, found, iou_type, max_dets)
        scored[iou_type] = (lvis_figures.summarize(precision, recall, groups, max_dets), precision)
        if on_progress:
            on_progress(iou_type, len(ground_truth.categories), len(ground_truth.categories))
    return scored


def _intervals(document: dict[str, Any], found: Detections, iou_types: Sequence[str], max_dets: int,
               replicates: int, seed: int, confidence: float) -> dict[str, Any]:
    from . import bootstrap, hotcoco

    ground_truth, groups = hotcoco.GroundTruth(document), lvis_figures.groups(document["categories"])
    return {iou_type: bootstrap.bootstrap(hotcoco.find_matches(ground_truth, found, iou_type, max_dets), groups,
                                          max_dets, replicates, seed, confidence) for iou_type in iou_types}


def _check_bootstrap(scorer: str, replicates: int, confidence: float) -> None:
    from . import bootstrap

    bootstrap.check(replicates, confidence)
    if scorer == "coco":
        raise UserError("bootstrap: only for annotation files of LVIS form; leave it out")
    if util.find_spec("hotcoco") is None:
        raise UserError("bootstrap: needs hotcoco, which is not installed here (it wants Python 3.10 or newer)")


def _score_lvis(document: dict[str, Any], found: Detections, iou_types: Sequence[str], max_dets: int,
                on_progress: Progress | None) -> dict[str, Scored]:
    from . import lvis

    ground_truth = lvis.GroundTruth(document)
    scored = {}
    for iou_type in iou_types:
        def on_category(done: int, total: int, iou_type: str = iou_type) -> None:
            if on_progress:
                on_progress(iou_type, done, total)

        evaluation = lvis.evaluate(ground_truth, found, iou_type, max_dets, on_category)
        scored[iou_type] = (dict(evaluation.results), evaluation.eval["precision"])
    return scored


def _score_coco(document: dict[str, Any], found: Detections, iou_types: Sequence[str], limits: Sequence[int],
                iou_thrs: Sequence[float]) -> dict[str, Scored]:
    from . import coco

    return {iou_type: coco.evaluate(document, found, iou_type, limits, iou_thrs) for iou_type in iou_types}


SCORERS = {"hotcoco": _score_hotcoco, "lvis": _score_lvis}


def read_annotations(path: str | Path) -> dict[str, Any]:
    """Parse an annotation file and see that it is one."""
    try:
        with no_collection():
            document = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such annotation file") from None
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON annotation file ({error})") from error
    if not isinstance(document, dict) or not {"images", "categories"} <= document.keys():
        raise UserError(f"{path}: not an LVIS or COCO file, which has images, annotations and categories")
    return {"annotations": [], **document}  # pycocotools reads those of a test set without any


def is_lvis(document: dict[str, Any], path: str | Path) -> bool:
    """Whether the annotations are of LVIS form (True) or plain COCO form (False); a mixture is refused."""
    images, categories = document["images"], document["categories"]
    fields = {
        "images: neg_category_ids": ["neg_category_ids" in image for image in images],
        "images: not_exhaustive_category_ids": ["not_exhaustive_category_ids" in image for image in images],
        "categories: frequency": [category.get("frequency") in ("r", "c", "f") for category in categories],
    }
    if not any(any(has) for has in fields.values()):
        return False
    for field, has in fields.items():
        if not all(has):
            wrong = f"{field} is missing or wrong in {has.count(False)} of {len(has)} entries"
            raise UserError(f"{path}: {wrong}; an LVIS file has it in all (a frequency is r, c or f)")
    return True


def _check_finite(found: Detections, iou_types: Sequence[str]) -> None:
    import numpy as np

    wrong = ~np.isfinite(found.bbox).all(axis=1)
    for iou_type in iou_types:
        wrong |= ~np.isfinite(found.scores(iou_type))
    if wrong.any():
        raise UserError(f"detections: {int(wrong.sum())} of {len(found)} have a box or a score that is no finite "
                        f"number (the first is on image {int(found.image_id[np.argmax(wrong)])}); the model that "
                        "found them has diverged: evaluate an earlier checkpoint")


def _check_annotations(document: dict[str, Any], iou_types: Sequence[str], path: str | Path) -> None:
    fields = ["id", "image_id", "category_id", "area"]
    fields += ["bbox"] if "bbox" in iou_types else []
    fields += ["segmentation"] if "segm" in iou_types else []
    for field in fields:
        lacking = sum(field not in annotation for annotation in document["annotations"])
        if lacking:
            raise UserError(f"{path}: annotations: {field} is missing in {lacking} of {len(document['annotations'])} "
                            "entries; scoring needs it in all")
    for kind in ("images", "annotations", "categories"):
        ids = [entry["id"] for entry in document[kind]]
        if len(set(ids)) < len(ids):
            raise UserError(f"{path}: {kind}: {len(ids) - len(set(ids))} ids are there twice; give each its own")


def _check_images(document: dict[str, Any], found: Detections, path: str | Path) -> None:
    known, seen = {image["id"] for image in document["images"]}, set(found.images.tolist())
    if known != seen:
        raise UserError(f"{path}: {len(known - seen)} of its {len(known)} images were not looked at, and "
                        f"{len(seen - known)} that were are not in it (the first is {min(known ^ seen)}); "
                        "score with the annotation file that inference ran on")


def _defined(value: float) -> float | None:
    """lvis-api and pycocotools write -1 for a mean over nothing."""
    return None if value == -1 else float(value)


def _figures(figures: dict[str, float], max_dets: int) -> dict[str, float | None]:
    names = dict.fromkeys([*lvis_figures.names(max_dets), *(n for n in figures if n.startswith("AR"))])
    return {name: _defined(figures.get(name, -1)) for name in names}


def _per_class(document: dict[str, Any], precisions: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    by_type = {iou_type: lvis_figures.per_class(precision).tolist() for iou_type, precision in precisions.items()}
    return [{"id": category["id"], "name": category["name"],
             **{key: category.get(key) for key in ("frequency", "image_count", "instance_count")},
             **{iou_type: _defined(values[at]) for iou_type, values in by_type.items()}}
            for at, category in enumerate(sorted(document["categories"], key=lambda c: c["id"]))]


def versions() -> dict[str, str]:
    """Versions of what decides the figures: Python and each library that is installed."""
    found = {"python": platform.python_version()}
    for name in ("hotcoco", "lvis", "pycocotools", "numpy", "torch", "torchvision", "mmcv-full", "mmdet"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def metrics_document(metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``metrics.json``: the figures of :func:`score` and where they came from.

    Args:
        metrics: result of :func:`score`.
        provenance: what the figures can be traced by, ``PROVENANCE`` at least.
    """
    missing = [key for key in PROVENANCE if provenance.get(key) is None]
    if missing:
        raise ValueError(f"provenance lacks {', '.join(missing)}: figures without it cannot be trusted")
    return {"format": FORMAT, **metrics, "provenance": dict(provenance)}
