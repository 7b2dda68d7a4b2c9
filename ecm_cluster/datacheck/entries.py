"""Every entry of an annotation file: does it have what training and scoring read?

A file of up to ``PARSED`` bytes is parsed, and every entry is checked. A larger one (LVIS's training set has 1.1 GB and
1.3 million annotations, which take 20 s and 8 GB to parse) is searched as text: for as many fields of each name as
there are entries, values of the right type, and categories that exist. If that leaves a doubt, it is parsed as well, so
that the entry can be named. Needs the standard library only.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..annotations import layout, outline

PARSED = 48 << 20  # bytes, which take about a second
CHUNK = 64 << 20  # bytes: bounds the memory that a check takes; LVIS v1's training annotations have 1 GB
SAFE = 2**53  # what numpy and pycocotools represent exactly
BEGINS: dict[type, str] = {int: "0123456789", float: "0123456789", str: '"', list: "[", dict: "{"}


@dataclass(frozen=True)
class Needs:
    """What is read of each entry.

    Attributes:
        images, annotations: Fields, and their types.
        why: What needs them, in words.
        either: Fields of which each image has to have one, as text.
        scored: Whether they are scored: then no entry is skipped, and ids are sorted.
        lacking: The problem of a file without annotations; empty: it may have none.
    """

    images: Mapping[str, layout.Kind]
    annotations: Mapping[str, layout.Kind]
    why: str
    either: tuple[str, ...] = ()
    scored: bool = False
    lacking: str = ""


class _Faults:
    """Each kind of fault (list, field, problem): the text of its first occurrence, and their number."""

    def __init__(self) -> None:
        self.times: Counter[tuple[str, str, str]] = Counter()
        self._first: dict[tuple[str, str, str], str] = {}

    def add(self, key: str, name: str, problem: str, text: str) -> None:
        self._first.setdefault((key, name, problem), text)
        self.times[key, name, problem] += 1

    def lines(self, said: str) -> Iterator[str]:
        for fault, text in self._first.items():
            more = self.times[fault] - 1
            yield f"{said}: {text}" + (f" (and {more} more of {fault[0]!r})" if more else "")


def check(path: Path, said: str, needs: Needs, categories: Iterable[Any]) -> tuple[list[str], list[str]]:
    """What is wrong with the entries of an annotation file whose outline is valid.

    Returns:
        Problems and warnings; one line for each kind, with the first entry.
    """
    listed = set(categories)
    if path.stat().st_size > PARSED and _looks_complete(path, needs, listed):
        return [], []
    content = outline.parse(path, said)
    faults, warnings = _Faults(), _Faults()
    images = _check_list(content, "images", needs, faults)
    annotations = content.get("annotations", [])
    if not isinstance(annotations, list):
        return [f"{said}: 'annotations' is {layout.brief(annotations)}; expected a list"], []
    if not annotations and needs.lacking:
        return [f"{said} has no annotations, {needs.lacking}"], []
    ids: set[Any] = set()
    for number, one in enumerate(annotations, 1):
        if not isinstance(one, dict):
            faults.add("annotations", "", "", f"entry {number} of 'annotations' is {layout.brief(one)}; expected an "
                       "object")
            continue
        where = f"entry {number} of 'annotations' (id {layout.brief(one.get('id'))})"
        if one.get("ignore") and not needs.scored:  # mmdet reads nothing else of it
            continue
        _check_fields(one, where, "annotations", needs.annotations, needs.why, faults)
        _check_annotation(one, where, images, listed, ids, faults, warnings)
        mask = one.get("segmentation") if needs.scored or _is_used(one) else None
        if "segmentation" in needs.annotations and isinstance(mask, layout.MASK[0]) and not is_mask(mask):
            faults.add("annotations", "segmentation", "form", f"{where} has 'segmentation' "
                       f"{layout.brief(mask)}; expected polygons of at least 6 numbers, or an "
                       "encoding with counts and size: remove the annotation or correct it")
    for key, ids_of in (("image_id", "images"), ("category_id", "categories")):
        unknown = warnings.times["annotations", key, "unknown"]
        if unknown and unknown == len(annotations):  # often numbers in one list and text in the other
            return [*faults.lines(said), f"{said}: no annotation has {'an' if key[0] == 'i' else 'a'} {key} that is "
                    f"listed in '{ids_of}'; expected the same ids in both lists, numbers or text alike"], []
    for key, known in (("images", images), ("categories", listed)) if needs.scored else ():
        if {str} < {type(own) for own in known}:
            faults.add(key, "id", "mixed", f"{key!r} has ids that are numbers and ids that are text, which scoring "
                       "cannot sort; expected one of the two")
    return list(faults.lines(said)), list(warnings.lines(said))


def _is_used(one: Mapping[str, Any]) -> bool:
    """Whether mmdet uses the mask of an annotation with valid fields: not of crowds and empty boxes."""
    box, area = one.get("bbox"), one.get("area")
    numbers = [area, *box[2:]] if isinstance(box, list) and len(box) == 4 else []
    return not one.get("iscrowd") and bool(numbers) and all(isinstance(n, (int, float)) for n in numbers) \
        and numbers[0] > 0 and min(numbers[1:]) >= 1


def is_mask(mask: Any) -> bool:
    """Whether pycocotools accepts it: polygons of finite numbers (a first one of 4 is taken for a box), or an encoding.

    A NaN makes it allocate all of the memory.
    """
    if isinstance(mask, list) and all(isinstance(part, list) for part in mask):
        try:
            return bool(mask) and len(mask[0]) > 4 and all(math.isfinite(sum(part)) for part in mask)
        except (TypeError, OverflowError):
            return False
    if isinstance(mask, list):
        return all(isinstance(part, dict) and is_mask(part) for part in mask)
    return isinstance(mask, dict) and "counts" in mask and "size" in mask


def _check_list(content: Mapping[str, Any], key: str, needs: Needs, faults: _Faults) -> set[Any]:
    """The ids of a list of objects, each with its fields."""
    ids: dict[Any, Any] = {}
    for number, one in enumerate(content[key], 1):
        if not isinstance(one, dict):
            faults.add(key, "", "", f"entry {number} of {key!r} is {layout.brief(one)}; expected an object")
            continue
        where = f"entry {number} of {key!r} (id {layout.brief(one.get('id'))})"
        _check_fields(one, where, key, needs.images, needs.why, faults)
        if needs.either and not any(isinstance(one.get(name), str) and one[name] for name in needs.either):
            faults.add(key, "", "name", f"{where} has no {' or '.join(needs.either)}; expected the name of its file: "
                       "add one to every entry, or use another file")
        own = one.get("id")
        if isinstance(own, layout.ID[0]) and ids.setdefault(own, one) != one:  # an exact duplicate is harmless
            faults.add(key, "id", "twice", f"{where} has the id of another entry; expected one id for each")
    return set(ids)


def _check_fields(one: Mapping[str, Any], where: str, key: str, fields: Mapping[str, layout.Kind], why: str,
                  faults: _Faults) -> None:
    for name, (types, word) in fields.items():
        value = one.get(name)
        if isinstance(value, types) and not isinstance(value, bool):
            most = 2**63 - 1 if types is layout.ID[0] else SAFE
            if isinstance(value, (int, float)) and not -most <= value <= most:  # nor is NaN
                faults.add(key, name, "large", f"{where} has {name!r} {layout.brief(value)}; expected a finite number "
                           f"of at most {most.bit_length()} bits")
            continue
        wrong = f"has no {name!r}" if name not in one else f"has {name!r} {layout.brief(value)}"
        faults.add(key, name, "lacks" if name not in one else "wrong",
                   f"{where} {wrong}; expected {word}, which {why} needs: add it to every entry, or use another file")


def _check_annotation(one: Mapping[str, Any], where: str, images: set[Any], categories: set[Any], ids: set[Any],
                      faults: _Faults, warnings: _Faults) -> None:
    """What single fields do not show."""
    box, category, image, own = (one.get(name) for name in ("bbox", "category_id", "image_id", "id"))
    if isinstance(box, list) and (len(box) != 4 or not all(
            isinstance(n, (int, float)) and not isinstance(n, bool) and -SAFE <= n <= SAFE for n in box)):
        faults.add("annotations", "bbox", "length",
                   f"{where} has 'bbox' {layout.brief(box)}; expected x, y, width, height")
    for key, value, known, of in (("category_id", category, categories, "categories"),
                                  ("image_id", image, images, "images")):
        if isinstance(value, layout.ID[0]) and value not in known:
            warnings.add("annotations", key, "unknown", f"{where} has {key} {layout.brief(value)}, which is not listed "
                         f"in '{of}': it is ignored")
    if isinstance(own, layout.ID[0]):
        if own in ids:
            faults.add("annotations", "id", "twice", f"{where} has the id of another annotation; expected one id for "
                       "each")
        ids.add(own)


# ---------------------------------------------------------------------------------------------- as text


def _looks_complete(path: Path, needs: Needs, categories: set[Any]) -> bool:
    """Whether a search of the text finds every required field in every entry, of the right type; False: in doubt."""
    annotated = [name for name in needs.annotations if name != "id"]
    pictured = [name for name in needs.images if name not in ("id", *needs.annotations)]
    counts, met = dict.fromkeys([*annotated, *pictured, *needs.either], 0), set()
    first = {name: re.compile(b'"%s":\\s*(-?.)' % name.encode()) for name in counts}
    begins = {name: _begins({**needs.images, **needs.annotations}.get(name, (str, ""))) for name in counts}
    value = re.compile(rb'"category_id":\s*(-?\d+)\s*[,}]')
    joined = re.compile(rb"\}\s*\{")  # without a comma: two objects in one file
    for number, text in enumerate(_chunks(path)):
        if b"NaN" in text or b"Infinity" in text or joined.search(text) or number and text.lstrip().startswith(b"{"):
            return False
        for name in counts:
            found = (value if name == "category_id" else first[name]).findall(text)
            counts[name] += len(found)
            if name == "category_id":
                met.update(found)
            elif not {one[-1:] for one in set(found)} <= begins[name]:
                return False
    entries, pictures = {counts[name] for name in annotated}, {counts[name] for name in pictured}
    if needs.either and not pictures & {counts[name] for name in needs.either}:
        return False
    return len(entries) == 1 and entries != {0} and len(pictures) <= 1 and pictures != {0} \
        and met <= {str(category).encode() for category in categories}


def _begins(kind: layout.Kind) -> set[bytes]:
    """How the text of such a value may begin."""
    types = kind[0] if isinstance(kind[0], tuple) else (kind[0],)
    return {sign.encode() for one in types for sign in BEGINS[one]}


def _chunks(path: Path) -> Iterator[bytes]:
    """The text in pieces that end with a brace, so that no field is split."""
    rest = b""
    with open(path, "rb") as handle:
        while True:
            more = handle.read(CHUNK)
            if not more:
                break
            end = more.rfind(b"}") + 1
            yield rest + more[:end]
            rest = more[end:]
    yield rest
