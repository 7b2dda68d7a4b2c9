"""Which image an error is about: out of a data set's pipeline comes one that names its file, its id and its record.

mmdet's pipelines raise what OpenCV, numpy or pycocotools do ("'NoneType' object has no attribute 'shape'"), in a
process of the DataLoader. Nothing is done for a sample that is sound.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Subset

NAME = "BadSample"
NUMBERS = 6  # of the smallest polygon


class BadSample(ValueError):
    """A sample that could not be loaded; its text is one line: the image, the annotation file, the reason, a remedy.

    torch recreates it in the main process, from the whole traceback as a text: the last line is taken, and the rest
    is kept as its cause.
    """

    def __init__(self, text: str) -> None:
        before, _, own = text.rpartition(f"{NAME}: ")
        super().__init__(" ".join(own.split()))
        if before:
            self.__cause__ = RuntimeError(text)


def bad_sample(error: Exception, dataset: Any, index: int) -> BadSample:
    """The error to raise instead of another that a data set raised for a sample."""
    found = _sample_in(error)
    original = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if found is None:
        return BadSample(f"{NAME}: sample {index} of {type(dataset).__name__}: {original}")
    leaf, place = found
    record = dict(leaf.data_infos[place])
    prefix = getattr(leaf, "img_prefix", None)
    name = record.get("filename") or record.get("file_name") or "?"
    path = os.path.join(prefix, name) if prefix else name
    client = _client_arguments(leaf)
    read_from = client.get("folder") or client.get("pack")
    where = f", read from {read_from}" if read_from else ""
    reason = _reason(leaf, place, record, path, client) or original
    return BadSample(f"{NAME}: image {path}{where} (id {record.get('id')}, in {leaf.ann_file}): {reason}; replace the "
                     "file, or correct or remove its record")


def _sample_in(error: Exception) -> tuple[Any, int] | None:
    """The innermost data set that was at work on a sample, and which: wrappers and mixtures of images ask others."""
    found, trace = None, error.__traceback__
    while trace is not None:
        names = trace.tb_frame.f_locals
        own: Any = names.get("self")
        index: Any = names.get("idx", names.get("index"))
        if hasattr(own, "data_infos") and hasattr(own, "ann_file") and not isinstance(index, bool):
            try:
                if 0 <= int(index) < len(own.data_infos):
                    found = own, int(index)
            except (TypeError, ValueError):
                pass
        trace = trace.tb_next
    return found


def _client_arguments(leaf: Any) -> dict[str, Any]:
    """How the pipeline opens its images."""
    transforms = getattr(getattr(leaf, "pipeline", None), "transforms", ())
    each = (getattr(transform, "file_client_args", None) for transform in transforms)
    return next((dict(arguments) for arguments in each if arguments), {"backend": "disk"})


def _reason(leaf: Any, place: int, record: dict[str, Any], path: str, client: dict[str, Any]) -> str | None:
    """What is wrong with the image or its annotations, in words; None where nothing is found."""
    import mmcv

    try:
        content = mmcv.FileClient(**client).get(path)
    except FileNotFoundError:
        return "the file does not exist"
    except OSError as error:
        return f"the file cannot be read ({error.strerror})"
    except Exception as error:
        return f"the file cannot be read ({type(error).__name__}: {error})"
    return _of_image(bytes(content), record) or next(_of_masks(leaf, place, record), None)


def _of_image(content: bytes, record: dict[str, Any]) -> str | None:
    import cv2
    import numpy as np

    if not content:
        return "the file is empty"
    data = np.frombuffer(content, np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if decoded is None:
        return f"the file cannot be decoded as an image ({len(content):,} bytes, beginning with {content[:8]!r})"
    height, width = decoded.shape[:2]
    known = record.get("width"), record.get("height")
    if None not in known and known != (width, height):
        stored: Any = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        turned = " once its EXIF orientation is applied" if stored.shape != decoded.shape else ""
        return f"it has {width}×{height} pixels{turned}, and its record says {known[0]}×{known[1]}"
    return None


def _of_masks(leaf: Any, place: int, record: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the masks of a sample."""
    try:
        masks = leaf.get_ann_info(place).get("masks") or []
    except Exception as error:
        yield f"its annotations cannot be read ({type(error).__name__}: {error})"
        return
    size = [record.get("height"), record.get("width")]
    for number, mask in enumerate(masks, 1):
        if isinstance(mask, dict) and list(mask.get("size", size)) != size:
            yield (f"mask {number} of its annotations is encoded for {mask['size'][1]}×{mask['size'][0]} pixels, and "
                   f"the record says {size[1]}×{size[0]}")
        for polygon in mask if isinstance(mask, list) else ():
            count = len(polygon) if isinstance(polygon, (list, tuple)) else 1
            if count < NUMBERS or count % 2:
                yield (f"mask {number} of its annotations has a polygon of {count} number{'s' if count > 1 else ''}; "
                       f"expected an even count of {NUMBERS} or more")


class NamedSubset(Subset):
    """torch's ``Subset``, whose errors name the image."""

    def __getitem__(self, place: Any) -> Any:
        index = self.indices[place]
        try:
            return self.dataset[index]
        except Exception as error:
            raise bad_sample(error, self.dataset, index) from error

    def __getitems__(self, places: Any) -> list[Any]:
        return [self[place] for place in places]
