"""Average precision of a set of detections, and the document that keeps it with its provenance.

hotcoco scores what has LVIS's rule; its arrays equal those of lvis-api to the last bit (:mod:`.hotcoco_api`), which
tests hold against lvis-api's own code, the reference (:mod:`.lvis_api`). What has COCO's rule is scored by pycocotools,
without APr, APc and APf. The name of the scorer is in the result.

numpy and the scorers are imported inside the functions: this module has to import on a login node.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import UserError, one_of
from ..mmclasses.evaluation import Protocol
from . import metrics, scorers
from .checks import check_annotations, check_finite, check_images, read_annotations, rule_of
from .detections import Detections, strongest
from .metrics import Progress
from .parts import LVIS, ScoredDataset

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
PROVENANCE = ("checkpoint_digest", "annotations_digest", "config_digest", "settings", "versions")


def score(annotation_file: str | Path, found: Detections, iou_types: Sequence[str] | None = None,
          max_dets: int | None = None, part: ScoredDataset | None = None, **options: Any) -> dict[str, Any]:
    """Score detections against an annotation file.

    Args:
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
                   on_progress: Progress | None = None, replicates: int = 0, rule: str | None = None,
                   protocol: Protocol | None = None, fixed: bool = False, **bootstrap: Any) -> dict[str, Any]:
    """Score detections against the content of an annotation file.

    Args:
        found: detections on all of its images, and on no other.
        iou_types: ``bbox``, ``segm`` or both; None means what the detections allow, so both if they have masks.
        max_dets: maximum detections per image by LVIS's rule (None: 300), per image and class by COCO's (None: as
            ``protocol`` says).
        scorer: one of ``SCORERS``; None, or one of another rule: the rule's default.
        on_progress: called with (iou type, categories done, categories in all).
        replicates: of the bootstrap over images (:mod:`.bootstrap`); 0 leaves the intervals out.
        rule: ``coco`` or ``lvis``; None: LVIS's where the document has LVIS's form.
        protocol: of COCO's rule: limits of detections and thresholds.
        fixed: Fixed AP by LVIS's rule: of the 10,000 detections of each class with the highest scores over the whole
            set, however many of them are on one image. The kinds are then ``bbox-fixed`` and ``segm-fixed``,
            ``max_dets`` is None, and there is no recall, as it has no limit that it could be named by.
        bootstrap: ``seed`` and ``confidence`` of the bootstrap.

    Returns:
        A dict that can be written as JSON, floats unrounded, None where a figure is undefined:
        ``scorer``, ``max_dets``, ``images``, ``detections``;
        ``figures``: for each iou type what :data:`.metrics.METRICS` lists, as fractions of one;
        ``per_class``: for each category, by ascending id, its id, name, frequency, image_count and
        instance_count (LVIS counts both in its *training* set; None in plain COCO), and AP for each iou type;
        with replicates ``bootstrap``: its settings and, for each iou type, the ``intervals`` of the figures.

    Raises:
        UserError: detections and annotations do not match, or lack what scoring needs.
    """
    iou_types = _check_settings(found, iou_types, max_dets, scorer)
    check_finite(found, iou_types)
    check_annotations(document, iou_types, annotation_file)
    check_images(document, found, annotation_file)
    rule, protocol = rule_of(document, annotation_file, rule), protocol or Protocol()
    scorer = scorer if scorer and scorers.SCORERS[scorer].rule == rule else scorers.default(rule)
    limits = (metrics.UNLIMITED,) if fixed else _limits(rule, max_dets, protocol)
    if fixed:
        _check_fixed(rule, max_dets)
    if replicates:
        _check_bootstrap(rule, replicates)
    score_by, curves, drawn = scorers.SCORERS[scorer].load(), {}, []
    for of_types, chosen in _chosen(found, iou_types, fixed):
        curves.update(score_by(document, chosen, of_types, limits, protocol.iou_thrs, on_progress))
        if replicates:
            drawn.append(_bootstrap(document, chosen, of_types, limits[-1], replicates, **bootstrap))
    result = {"scorer": scorer, "max_dets": limits[-1], "images": len(found.images), "detections": len(found),
              "figures": {t: {name: _defined(value) for name, value in metrics.figures(of_type).items()}
                          for t, of_type in curves.items()},
              "per_class": _per_class(document, {t: of_type.precision for t, of_type in curves.items()}),
              **({"bootstrap": _joined(drawn)} if drawn else {})}
    return _as_fixed(result, document, found) if fixed else result


def _joined(drawn: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The bootstraps of several kinds of overlap, which differ in their intervals alone."""
    return {**drawn[0], "intervals": {t: values for each in drawn for t, values in each["intervals"].items()}}


def _check_fixed(rule: str, max_dets: int | None) -> None:
    if rule != LVIS:
        raise UserError("fixed: only for annotation files of LVIS form; leave it out")
    if max_dets is not None:
        raise UserError("max_dets: Fixed AP has no maximum of detections per image; leave max_dets or fixed out")


def _chosen(found: Detections, iou_types: Sequence[str], fixed: bool) -> Iterator[tuple[Sequence[str], Detections]]:
    """The detections that are scored, by the kinds of overlap; kinds may differ in their scores."""
    if not fixed:
        yield iou_types, found
    for iou_type in iou_types if fixed else ():
        yield [iou_type], found.take(strongest(found.category_id, found.scores(iou_type), metrics.FIXED_DETS))


def _as_fixed(result: dict[str, Any], document: dict[str, Any], found: Detections) -> dict[str, Any]:
    """A result under names that nothing else has, with a note on what it lacks of the protocol."""
    import numpy as np

    def renamed(of_kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        return {kind + metrics.FIXED: {name: value for name, value in figures.items() if name.startswith("AP")}
                for kind, figures in of_kinds.items()}

    kinds = list(result["figures"])
    result.update(max_dets=None, figures=renamed(result["figures"]), per_class=[
        {name + (metrics.FIXED if name in kinds else ""): value for name, value in row.items()}
        for row in result["per_class"]])
    if "bootstrap" in result:
        result["bootstrap"]["intervals"] = renamed(result["bootstrap"]["intervals"])
    of_class = dict(zip(*(part.tolist() for part in np.unique(found.category_id, return_counts=True))))
    few = sum(of_class.get(category["id"], 0) < metrics.FIXED_DETS for category in document["categories"])
    largest = int(np.unique(found.image_id, return_counts=True)[1].max()) if len(found) else 0
    if few:
        result["notes"] = [f"Fixed AP: {few} of {len(document['categories'])} classes have fewer than "
                           f"{metrics.FIXED_DETS} detections (at most {largest} on an image)"]
    return result


def _check_settings(found: Detections, iou_types: Sequence[str] | None, max_dets: int | None, scorer: str | None,
                    ) -> Sequence[str]:
    """The iou types, as far as detections allow them."""
    if max_dets is not None and max_dets < 1:
        raise UserError(f"max_dets: invalid value {max_dets}; expected 1 or more, such as LVIS's 300 per image")
    iou_types = found.iou_types if iou_types is None else iou_types
    for iou_type in iou_types:
        found.scores(iou_type)  # rejects an unknown type, and segm without masks
    if scorer is not None and scorer not in scorers.SCORERS:
        raise one_of("scorer", scorer, scorers.SCORERS)
    return iou_types


def _limits(rule: str, max_dets: int | None, protocol: Protocol) -> Sequence[int]:
    """Limits of detections that figures are computed at, ascending."""
    if rule == LVIS:
        return (max_dets or metrics.MAX_DETS,)
    return protocol.proposal_nums if max_dets is None else (*(n for n in (1, 10) if n < max_dets), max_dets)


def _check_bootstrap(rule: str, replicates: int) -> None:
    from . import bootstrap

    bootstrap.check(replicates)
    if rule != LVIS:
        raise UserError("bootstrap: only for annotation files of LVIS form; leave it out")
    scorers.require_hotcoco("bootstrap")


def _bootstrap(document: dict[str, Any], found: Detections, iou_types: Sequence[str], max_dets: int,
               replicates: int, seed: int = 0, confidence: float = 0.95) -> dict[str, Any]:
    from . import bootstrap, hotcoco

    truth = hotcoco.GroundTruth(document)
    intervals = {iou_type: bootstrap.bootstrap(hotcoco.find_matches(truth, found, iou_type, max_dets),
                                               document["categories"], max_dets, replicates, seed, confidence)
                 for iou_type in iou_types}
    return {"replicates": replicates, "seed": seed, "confidence": confidence, "intervals": intervals}


def _defined(value: float) -> float | None:
    """lvis-api and pycocotools write -1 for a mean over nothing."""
    return None if value == -1 else float(value)


def _per_class(document: dict[str, Any], precisions: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    by_type = {iou_type: metrics.per_class(precision).tolist() for iou_type, precision in precisions.items()}
    return [{"id": category["id"], "name": category["name"],
             **{key: category.get(key) for key in ("frequency", "image_count", "instance_count")},
             **{iou_type: _defined(values[at]) for iou_type, values in by_type.items()}}
            for at, category in enumerate(sorted(document["categories"], key=lambda c: c["id"]))]


def versions() -> dict[str, str]:
    """Versions of what the figures depend on: Python and each library that is installed."""
    found = {"python": platform.python_version()}
    for name in ("hotcoco", "lvis", "pycocotools", "numpy", "torch", "torchvision", "mmcv-full", "mmdet"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def metrics_document(scored: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into ``metrics.json``: the result of :func:`score` and its provenance, ``PROVENANCE`` at least."""
    missing = [key for key in PROVENANCE if provenance.get(key) is None]
    if missing:
        raise ValueError(f"provenance lacks {', '.join(missing)}: figures without it cannot be trusted")
    return {"format": FORMAT, **scored, "provenance": dict(provenance)}
