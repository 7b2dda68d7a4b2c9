"""The class counts of losses that name a file: read at submission, and frozen into the run's config."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..base import files
from ..base.errors import UserError
from ..mmconfig import config

OWN = "EffectiveClassMarginLoss"  # begins the names of the losses that also take their counts as stats_file


def problems(cfg: dict[str, Any]) -> list[str]:
    """Why the counts of a loss cannot be read or used, if they cannot; nothing is changed."""
    try:
        list(_read(cfg))
    except UserError as error:
        return [str(error)]
    return []


def freeze(cfg: dict[str, Any]) -> dict[str, str]:
    """Replace the file that a loss names by its counts, in place: a run must not change with the file.

    Returns:
        Digest of the counts, by the loss's type.

    Raises:
        UserError: They cannot be read, or a class has none.
    """
    digests = {}
    for block, counts in list(_read(cfg)):
        block.pop("stats_file", None)  # another name of the same
        block["class_counts"] = [int(n) if float(n).is_integer() else n for n in counts]
        digests[str(block.get("type"))] = files.digest_text(repr(block["class_counts"]))
    return digests


def _read(cfg: dict[str, Any]) -> Iterator[tuple[dict[str, Any], tuple[float, ...]]]:
    """(loss, counts) of each loss that names a file."""
    from mmdet_ext.data.class_counts import ClassCountError

    for block in config.nested(cfg["model"]):
        own = str(block.get("type")).startswith(OWN)
        given = [key for key in ("class_counts", "stats_file") if block.get(key) is not None]
        if own and len(given) != 1:
            raise UserError(f"{block['type']}: expected either class_counts or stats_file, found "
                            f"{'both' if given else 'neither'}: the training set's annotation file, a text file with "
                            "one count a line, or a list")
        key = given[0] if own else "class_counts"
        source = block.get(key)
        if not isinstance(source, str):
            continue
        try:
            counts = _of_file(source, block.get("count_field", "instance_count"), _stamp(source))
            counts.positive(clamp=bool(block.get("clamp_zero_counts")))
        except ClassCountError as error:
            text = str(error)
            text = text[len("class_counts: "):] if text.startswith("class_counts: ") else text
            raise UserError(f"{key}: {text}") from None
        yield block, counts.counts


@lru_cache(maxsize=8)
def _of_file(source: str, field: str, stamp: Any) -> Any:
    """A file is read once for the plan and the run; it takes a while if its annotations have to be counted."""
    from mmdet_ext.data.class_counts import read_class_counts

    return read_class_counts(source, field)


def _stamp(source: str) -> Any:
    try:
        found = os.stat(source)
    except OSError:
        return None  # reading it reports the error
    return found.st_mtime_ns, found.st_size, found.st_ino
