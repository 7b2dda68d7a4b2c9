"""A group compared: its settings, their differences to a reference, and what is missing."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ..base.errors import UserError, one_of
from ..scoring.metrics import in_words
from ..sweeps.group import Group
from . import resampling
from .settings import GroupSetting, collect, differing_code, figures, kinds
from .significance import Difference, difference


@dataclass(frozen=True)
class Comparison:
    """Everything that is shown of a group.

    Attributes:
        differences: By setting, kind and figure.
    """

    name: str
    settings: list[GroupSetting]
    reference: GroupSetting
    kinds: list[str]
    differences: dict[tuple[str, str, str], Difference]
    missing: list[str]
    notes: list[str]


def compare(group: Group, args: argparse.Namespace) -> Comparison:
    """Raises UserError where nothing is scored, or the reference is unknown."""
    settings, missing = collect(group)
    shown = [args.iou] if args.iou else kinds(settings)
    if not any(setting.values(kind, "AP") for setting in settings for kind in shown):
        why = f" ({'; '.join(missing[:3])}{'; …' if len(missing) > 3 else ''})" if missing else ""
        what = f"{in_words(args.iou)} scores" if args.iou else "scores"
        raise UserError(f"RUN: no run of the group {group.name!r} has {what} of its last checkpoint yet{why}; "
                        f"`python -m ecm_cluster.status {group.name}` shows them")
    labels = [setting.label for setting in settings]
    if args.against is not None and args.against not in labels:
        raise one_of("against", args.against, labels)
    reference = settings[labels.index(args.against)] if args.against is not None else settings[0]
    replicates, notes = resampling.of_group(group, settings, shown, args.replicates, args.seed)
    differences = {}
    for setting in settings:
        for kind in shown if setting is not reference else ():
            for name in figures(settings, kind):
                found = difference(setting, reference, kind, name, replicates.get(kind, {}))
                if found is not None:
                    differences[setting.label, kind, name] = found
    return Comparison(group.name, settings, reference, shown, differences, missing, notes + differing_code(settings))
