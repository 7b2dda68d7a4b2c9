"""The datasets that are scored, as mmdet made them: which images, which categories, which label is which.

Inference writes this beside the detections, so that they can be scored, again and in other ways, without mmdet and
without reading the config again. Detections of a single dataset with integer ids use these ids; otherwise (text ids,
several datasets at once) they use positions and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..base import files
from ..base.errors import UserError
from .detections import Detections

FORMAT = 1
COCO, LVIS, OWN = "coco", "lvis", "mmdet"  # the rules: COCO's, LVIS's, or the dataset's own `evaluate`


@dataclass(frozen=True)
class ScoredDataset:
    """One dataset.

    Attributes:
        kind: The rule that it is scored by.
        type: Its class.
        ann_file: Absolute path.
        images: Id of each image, in the order of the dataset.
        categories: Id of each category, by label.
        classes: Name of each class as the dataset has it, by label; None where it has none.
    """

    kind: str
    type: str
    ann_file: str
    images: Sequence[Any]
    categories: Sequence[Any]
    classes: Sequence[str] | None = None

    @property
    def numbered(self) -> bool:
        """Whether all ids are integers, as the columns need them."""
        return _are_numbers(self.images) and _are_numbers(self.categories)

    def restrict(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The images and categories of an annotation file that the dataset has; text ids become numbers.

        The numbers are positions among the sorted ids, so that pycocotools sorts them in the same order.

        Raises:
            UserError: The file lacks some of them.
        """
        renamed = {}
        for kind, ids in (("images", self.images), ("categories", self.categories)):
            lacking = set(ids) - {entry["id"] for entry in document[kind]}
            if lacking:
                raise UserError(f"{self.ann_file}: {kind}: {len(lacking)} of the {len(ids)} used for inference are not "
                                f"in it (the first is {min(lacking, key=str)!r}); score with the annotation file that "
                                "was used for inference")
            renamed[kind] = _names(ids)
        images, categories = renamed["images"], renamed["categories"]
        kept = [a for a in document["annotations"] if a["image_id"] in images and a["category_id"] in categories]
        if not all(isinstance(a["id"], int) for a in kept):  # pycocotools keeps them in arrays of numbers
            kept = [{**a, "id": number} for number, a in enumerate(kept, 1)]
        # a duplicate entry counts once, as in mmdet
        listed = {kind: {e["id"]: {**e, "id": names[e["id"]]} for e in document[kind] if e["id"] in names}
                  for kind, names in renamed.items()}
        for image in listed["images"].values():
            image.update({key: [categories[i] for i in image[key] if i in categories]
                          for key in ("neg_category_ids", "not_exhaustive_category_ids") if key in image})
        return {**document, **{kind: list(entries.values()) for kind, entries in listed.items()},
                "annotations": [{**a, "image_id": images[a["image_id"]], "category_id": categories[a["category_id"]]}
                                for a in kept]}

    def place_ids(self, found: Detections) -> Detections:
        """Detections by position in this dataset and label, under the ids that :meth:`restrict` gives."""
        import numpy as np

        images, categories = (np.array([names[i] for i in ids], np.int64)
                              for ids in (self.images, self.categories) for names in [_names(ids)])
        return replace(found, images=images[found.images], image_id=images[found.image_id],
                       category_id=categories[found.category_id])


@dataclass(frozen=True)
class ScoredSet:
    """Everything that is scored at once.

    Attributes:
        by_position: Detections name images by their position among all, and categories by label.
        whole: The parts are also scored together (mmdet's ``separate_eval=False``).
    """

    parts: Sequence[ScoredDataset]
    by_position: bool
    whole: bool = False

    @property
    def offsets(self) -> list[int]:
        """The position of each part's first image among all images, and their total number."""
        ends = [0]
        for part in self.parts:
            ends.append(ends[-1] + len(part.images))
        return ends

    def of_part(self, number: int, found: Detections) -> Detections:
        """The detections on one part, by position in it and label; unchanged if ids are kept."""
        if not self.by_position:
            return found
        begin, end = self.offsets[number : number + 2]
        inside = found.take((found.image_id >= begin) & (found.image_id < end))
        images = found.images[(found.images >= begin) & (found.images < end)]
        return replace(inside, images=images - begin, image_id=inside.image_id - begin)

    @property
    def alike(self) -> bool:
        """Whether the parts make one dataset: of one kind, with the same categories."""
        first = self.parts[0]
        return first.kind != OWN and all(
            (p.kind, list(p.categories)) == (first.kind, list(first.categories)) for p in self.parts)

    def write(self, path: str | Path) -> None:
        files.write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: str | Path) -> ScoredSet | None:
        """What :meth:`write` wrote; None if the file does not exist."""
        try:
            record = files.read_json(Path(path))
        except FileNotFoundError:
            return None
        return cls([ScoredDataset(**part) for part in record["parts"]], record["by_position"], record["whole"])


def _are_numbers(ids: Sequence[Any]) -> bool:
    return all(isinstance(i, int) and abs(i) < 1 << 63 for i in ids)


def _names(ids: Sequence[Any]) -> dict[Any, int]:
    """What each id is called in columns: itself, or its position among all if any is not an integer."""
    if _are_numbers(ids):
        return {i: i for i in ids}
    return {i: place for place, i in enumerate(sorted(set(ids)))}


def join(documents: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict[Any, int]]]:
    """One document of several with the same categories: images and annotations renumbered.

    Returns:
        It, and for each document the new id of each image.
    """
    joined: dict[str, Any] = {**documents[0], "images": [], "annotations": []}
    renamed: list[dict[Any, int]] = []
    for document in documents:
        begin = len(joined["images"])
        names = {image["id"]: begin + at for at, image in enumerate(document["images"])}
        joined["images"] += [{**image, "id": names[image["id"]]} for image in document["images"]]
        start = len(joined["annotations"]) + 1
        joined["annotations"] += [{**a, "id": start + at, "image_id": names[a["image_id"]]}
                                  for at, a in enumerate(document["annotations"])]
        renamed.append(names)
    return joined, renamed
