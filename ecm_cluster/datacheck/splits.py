"""The data of a run, checked before it is submitted: does it have what training and scoring need?

:func:`check` performs all of these checks. It needs neither torch nor mmdet nor numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmdet_ext.data import image_names

from ..annotations import layout
from ..base.errors import UserError
from ..mmclasses import evaluation
from ..mmclasses.classes import arguments_of
from ..mmclasses.datasets import Leaf, leaves, pipelines
from ..pack import manifest
from ..staging.planned import Staging
from . import entries, labels, voc

NO_EVAL = "or train without an evaluation (--no-eval)"
MISSING = {"train": "config: data.train is missing; add the dataset to train on",
           "test": "config: data.test is missing, and checkpoints are scored on it; add it (data.val has the same "
                   f"form), {NO_EVAL}"}
# the field of an image's record with the file's name; None: either
NAMED_BY = {**dict.fromkeys(labels.COCO_TYPES, "file_name"), "LVISV05Dataset": "file_name", "LVISDataset": "file_name",
            "LVISV1Dataset": "coco_url", "LVISFromFile": None}
OWN_METRICS = {**dict.fromkeys(("CustomDataset", *voc.TYPES), ("mAP", "recall")),
               **dict.fromkeys(("OpenImagesDataset", "OpenImagesChallengeDataset"), ("mAP",))}
PANOPTIC = "CocoPanopticDataset"


@dataclass
class DataFindings:
    """The result of the check.

    Attributes:
        summaries: Of the first annotation file of each split that could be read.
        labels: The name of each label, of each dataset whose classes are known, by its key in the config.
        problems: Why training or scoring would fail.
    """

    summaries: dict[str, layout.AnnotationSummary] = field(default_factory=dict)
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check(cfg: Mapping[str, Any], staging: Staging | None, scored: bool, trained: bool = True) -> DataFindings:
    """Check the data of training and, where something is scored, of the test split.

    Args:
        staging: Tells whether the data root is a pack, which is then searched for images; None: unknown.
    """
    found = DataFindings()
    for split in (*(["train"] if trained else []), *(["test"] if scored else [])):
        try:
            several = leaves(cfg, split)
            if not several:
                raise UserError(MISSING[split])
        except UserError as error:
            found.problems.append(str(error))
            continue
        for leaf in several:
            _collect(found, partial(_check_leaf, leaf, split, cfg, staging, found), leaf.key)
    if scored:
        _collect(found, partial(check_scoring, cfg))
    train = next((v for k, v in found.labels.items() if k.startswith("data.train")), None)
    for key, names in found.labels.items():
        if train is not None and names != train:
            found.problems.append(labels.difference(key, names, train))
    return found


def _collect(found: DataFindings, step: Callable[[], None], key: str = "data.test") -> None:
    try:
        step()
    except UserError as error:
        found.problems.append(str(error))
    except OSError as error:  # a folder without permission, a name that is too long
        found.problems.append(f"{key}: {str(error.filename)[:200]} cannot be read ({error.strerror})")


def _check_leaf(leaf: Leaf, split: str, cfg: Mapping[str, Any], staging: Staging | None, found: DataFindings) -> None:
    ann_file, prefix = leaf.path("ann_file"), leaf.path("img_prefix")
    if leaf.type in voc.TYPES:
        found.warnings += voc.check(leaf)
        found.labels[leaf.name("ann_file")] = labels.configured(leaf) or ()
        return
    known = leaf.type in NAMED_BY
    if ann_file is None:
        if known:
            raise UserError(f"config: {leaf.name('ann_file')} is missing; expected the annotation file of data.{split}")
        return
    path = Path(ann_file)
    if not known and (leaf.type == PANOPTIC or not is_coco(path)):
        if not path.exists():
            raise UserError(f"{leaf.name('ann_file')}: {path} does not exist; expected the annotations of data.{split}")
        return
    packed = any(Path(f"{path}{ending}").exists() for ending in (".zip", ".gz"))
    if not path.exists() and not packed and not leaf.type.startswith("LVIS"):
        raise UserError(f"{leaf.name('ann_file')}: {path} does not exist; expected an annotation file of COCO's form: "
                        "correct the path, or use --data-root")
    by_lvis = leaf.type.startswith("LVIS") if known else None
    summary = layout.check_annotation_file(path, leaf.name("ann_file"), by_lvis if split == "test" else False)
    found.summaries.setdefault(split, summary)
    said = f"{leaf.name('ann_file')}: {path}"
    problems, warnings = entries.check(path, said, needs_of(leaf, split, cfg, summary.lvis),
                                       [c["id"] for c in summary.categories])
    found.problems += problems if known else []
    found.warnings += warnings if known else problems + warnings  # a class of the user's own may read other fields
    if prefix is not None and not in_pack(staging, summary.first_image, Path(prefix), leaf.type):
        layout.check_images(summary, prefix, leaf.name("img_prefix"), leaf.type)
    names = labels.of_leaf(leaf, summary, said)
    if names is not None:
        found.labels[leaf.name("ann_file")] = names


def is_coco(path: Path) -> bool:
    """Whether a file of a dataset that is not mmdet's looks like COCO's JSON."""
    try:
        layout.check_annotation_file(path, lvis=False)
    except (UserError, ValueError):
        return False
    return True


def needs_masks(cfg: Mapping[str, Any], split: str) -> bool:
    """Whether every annotation of a split has to have a segmentation."""
    if split == "train":
        return any(step.get("type") == "LoadAnnotations" and step.get("with_mask") for _, step in pipelines(cfg, split))
    return "segm" in evaluation.protocol(cfg).metrics


def needs_of(leaf: Leaf, split: str, cfg: Mapping[str, Any], lvis: bool) -> entries.Needs:
    """What is read of each entry of a dataset's annotation file."""
    masks, scored = needs_masks(cfg, split), split == "test"
    # mmdet makes bitmaps of this size in training, and pycocotools rounds it
    side = layout.WHOLE if masks and not scored else layout.NUMBER
    images: dict[str, layout.Kind] = {"id": layout.ID, "height": side, "width": side}
    name = NAMED_BY.get(leaf.type)
    if name:
        images[name] = (str, "a string")
    if lvis:
        images.update({key: layout.LVIS_FIELDS["images"][key] for key in (
            "neg_category_ids", "not_exhaustive_category_ids")})
    annotations = {**layout.FIELDS["annotations"], **({"segmentation": layout.MASK} if masks else {})}
    if scored and "proposal" in evaluation.protocol(cfg).metrics:
        annotations["id"] = layout.NUMBER  # mmdet passes these to pycocotools as they are
    either = ("coco_url", "file_name") if leaf.type in NAMED_BY and not name else ()
    why = f"scoring{masks * ' (evaluation.metric has segm)'}" if scored else \
        f"training{masks * ' (LoadAnnotations has with_mask)'}"
    return entries.Needs(images, annotations, why, either, scored, _without_annotations(leaf, scored))


def _without_annotations(leaf: Leaf, scored: bool) -> str:
    """The problem of a dataset without annotations; empty if it may have none."""
    if "ConcatDataset" in leaf.wrappers or leaf.numbers or leaf.key[-1].isdigit():  # others beside it have some
        return ""
    if scored:
        return f"so nothing can be scored; use a file with annotations as data.test, {NO_EVAL}"
    return "" if leaf.cfg.get("filter_empty_gt") is False else (
        f"and mmdet leaves out images without objects; correct the path, or set {leaf.key}.filter_empty_gt=False to "
        "train on such images")


def check_scoring(cfg: Mapping[str, Any]) -> None:
    """Check that the test split, the metrics and the model are compatible.

    Raises:
        UserError: They are not, as far as that is known here.
    """
    found, protocol = leaves(cfg, "test"), evaluation.protocol(cfg)
    for leaf in found:
        wrapped = [name for name in leaf.wrappers if name != "ConcatDataset"]
        if wrapped:
            raise UserError(f"config: data.test is inside a {wrapped[0]}, which mmdet cannot score; use the dataset "
                            f"itself, {NO_EVAL}")
        if leaf.type == PANOPTIC:
            raise UserError("config: data.test is a CocoPanopticDataset, whose panoptic maps are not kept here; use a "
                            f"CocoDataset to score boxes and masks, {NO_EVAL} and score with mmdet's tools/test.py")
        if leaf.type.startswith("OpenImages") and leaf.cfg.get("load_from_file") is False:
            raise UserError(f"config: {leaf.key}.load_from_file=False takes the sizes of images from the pipeline, "
                            f"which scoring does not run again; set meta_file, {NO_EVAL}")
        own = OWN_METRICS.get(leaf.type)
        if own and (len(protocol.metrics) > 1 or not set(protocol.metrics) <= set(own)):
            raise UserError(f"config: invalid evaluation.metric: {', '.join(map(str, protocol.metrics))}; a "
                            f"{leaf.type} is scored by one of {', '.join(own)}")
    kinds = {labels.rule(leaf.type) for leaf in found}
    if kinds and kinds <= {"coco", "lvis"}:
        evaluation.check_protocol(protocol)
    model, metrics = cfg["model"].get("type"), protocol.metrics
    by_mmdet = any(leaf.type in OWN_METRICS for leaf in found)
    if model == "RPN" and not (metrics and set(metrics) <= {"proposal", *evaluation.OF_PROPOSALS}):
        raise UserError("config: the model (RPN) gives proposals without classes; set evaluation.metric="
                        f"{'recall' if by_mmdet else 'proposal_fast'}, {NO_EVAL}")
    wrong = [metric for metric in metrics if metric in evaluation.OF_PROPOSALS]
    if wrong and model != "RPN" and arguments_of("model", str(model)):
        raise UserError(f"config: invalid evaluation.metric: {wrong[0]} is for models that give proposals without "
                        f"classes, and {model} gives boxes by class; set evaluation.metric="
                        f"{'mAP' if by_mmdet else 'proposal or bbox'}")


def in_pack(staging: Staging | None, image: Mapping[str, Any], prefix: Path, dataset: str) -> bool:
    """Whether the data root is a pack that holds the image which a plain data root would have below ``prefix``."""
    if staging is None or not staging.pack:
        return False
    index = manifest.read(staging.pack).open_index()
    names = (staging.within_pack(str(prefix / name)) for name in image_names.candidates(dict(image), dataset))
    return any(index.find(name) is not None for name in names)

