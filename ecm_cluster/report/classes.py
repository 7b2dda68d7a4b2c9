"""The AP of each class: against its training count, and of two runs against each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..reporting import results
from ..scoring.metrics import FREQUENCIES
from .drawing import scales
from .drawing.scales import Scale
from .scores import KINDS, word

EXTREMES = 5  # classes at each end of a group, in the table
LABELS = 3  # classes at each end of a group, in the chart
LABEL = (17.0, 6.0)  # percent of the chart that a label takes, in width and height


@dataclass(frozen=True)
class Dot:
    """A class in a chart. ``label``: its name, where there is room for it and it is among the extremes."""

    x: float
    y: float
    group: str
    text: str
    label: str = ""
    left: bool = False


@dataclass(frozen=True)
class Mean:
    """The mean AP of a frequency group, drawn over the span of its classes' counts."""

    left: float
    width: float
    y: float
    group: str
    text: str


@dataclass(frozen=True)
class Scatter:
    """A chart with a dot for each class."""

    title: str
    x: Scale
    y: Scale
    dots: tuple[Dot, ...]
    alt: str
    note: str = ""
    diagonal: bool = False
    means: tuple[Mean, ...] = ()


def rows(row: results.Row, kind: str) -> list[dict[str, Any]]:
    """Each class with its AP in percent (None if undefined) and its count of training images."""
    return [{"id": str(c["id"]), "name": c["name"], "group": c["frequency"] if c["frequency"] in FREQUENCIES else "",
             "images": c["image_count"], "instances": c["instance_count"],
             "ap": None if (ap := scales.plain(c.get(kind))) is None else 100 * ap} for c in row.document["per_class"]]


def kinds(row: results.Row) -> list[str]:
    return [kind for kind in KINDS if any(kind in c for c in row.document["per_class"])]


def count_name(found: Sequence[dict[str, Any]]) -> str:
    """What counts a class's training data: ``images``, ``instances``, or nothing, as in plain COCO."""
    return next((name for name in ("images", "instances") if any(c[name] for c in found)), "")


def against_count(row: results.Row, kind: str) -> Scatter | None:
    """AP against training images; None where the annotations count none."""
    found = rows(row, kind)
    name = count_name(found)
    known = [c for c in found if name and c[name] and c["ap"] is not None]
    if not known:
        return None
    x = scales.logarithmic(f"training {name}", [c[name] for c in known])
    y = scales.linear(f"{word(kind)} AP, %", [c["ap"] for c in known], zero=True)
    dots = [Dot(x.at(c[name]), y.at(c["ap"]), c["group"],
                f"{c['name']}: AP {c['ap']:.1f}, {c[name]} training {name}") for c in known]
    extreme = {c["id"] for _, best, worst in extremes(known, LABELS) for c in (*best, *worst)}
    dots = labelled(dots, [c["name"] if c["id"] in extreme else "" for c in known])
    title = f"{word(kind).capitalize()} AP of each class against its training {name}"
    zero = sum(c["ap"] == 0 for c in known)
    note = f"{zero} of {len(known)} classes have an AP of 0." if zero else ""
    means = tuple(_means(known, name, x, y))
    said = "; ".join(mean.text for mean in means)
    return Scatter(title, x, y, tuple(dots), " ".join(f"{title}: {len(known)} classes. {note} {said}".split()), note,
                   means=means)


def _means(found: Sequence[dict[str, Any]], count: str, x: Scale, y: Scale) -> Iterator[Mean]:
    for group, name in FREQUENCIES.items():
        inside = [c for c in found if c["group"] == group]
        if inside:
            mean = sum(c["ap"] for c in inside) / len(inside)
            left, right = (x.at(pick(c[count] for c in inside)) for pick in (min, max))
            yield Mean(left, round(max(right - left, 1.0), 2), y.at(mean), group,
                       f"mean of {len(inside)} {name} classes: {mean:.1f}")


def labelled(dots: Sequence[Dot], names: Sequence[str]) -> list[Dot]:
    """The dots with these labels, as far as none covers another."""
    taken: list[tuple[float, float]] = []
    found = []
    for dot, name in zip(dots, names):
        left = dot.x > 80
        place = (dot.x - (LABEL[0] if left else 0), dot.y)
        free = name and all(abs(place[0] - a) > LABEL[0] or abs(place[1] - b) > LABEL[1] for a, b in taken)
        if free:
            taken.append(place)
        found.append(Dot(dot.x, dot.y, dot.group, dot.text, name if free else "", left))
    return found


def extremes(found: Sequence[dict[str, Any]], count: int) -> list[tuple[str, list[Any], list[Any]]]:
    """For each frequency group (or all, without groups) the best and the worst classes.

    Of equal ones the rarest are the best, and the most frequent the worst.
    """
    groups = [g for g in FREQUENCIES if any(c["group"] == g for c in found)] or [""]
    chosen = []
    for group in groups:
        inside = [c for c in found if (c["group"] == group or not group) and c["ap"] is not None]
        ordered = sorted(inside, key=lambda c: (-c["ap"], c["images"] or c["instances"] or 0, c["name"]))
        best = ordered[:min(count, (len(ordered) + 1) // 2)]
        worst = [c for c in ordered[::-1][:count] if c not in best]
        chosen.append((FREQUENCIES.get(group, "all"), best, worst))
    return chosen


def in_both(one: results.Row, other: results.Row, kind: str) -> list[tuple[dict[str, Any], float]]:
    """The classes that have an AP in two runs, each with its AP in the second."""
    theirs = {c["id"]: c["ap"] for c in rows(other, kind)}
    return [(c, theirs[c["id"]]) for c in rows(one, kind) if c["ap"] is not None and theirs.get(c["id"]) is not None]


def against_each_other(one: results.Row, other: results.Row, kind: str, names: tuple[str, str]) -> Scatter | None:
    """AP of each class in two runs; None where they have no class in common."""
    both = in_both(one, other, kind)
    if not both:
        return None
    x = scales.linear(f"{names[0]}: AP, %", [value for c, b in both for value in (c["ap"], b)], zero=True)
    y = Scale(f"{names[1]}: AP, %", x.low, x.high, x.ticks)
    dots = [Dot(x.at(c["ap"]), y.at(b), c["group"], f"{c['name']}: {c['ap']:.1f} → {b:.1f} ({b - c['ap']:+.1f})")
            for c, b in both]
    by_change = sorted(range(len(both)), key=lambda at: both[at][1] - both[at][0]["ap"])
    named = {*by_change[:LABELS], *by_change[-LABELS:]}
    dots = labelled(dots, [c["name"] if at in named else "" for at, (c, _) in enumerate(both)])
    up, down = sum(b > c["ap"] for c, b in both), sum(b < c["ap"] for c, b in both)
    title = f"{word(kind).capitalize()} AP of each class in both runs"
    note = f"{up} classes are better in {names[1]} (above the line), {down} are worse."
    return Scatter(title, x, y, tuple(dots), f"{title}: {len(both)} classes. {note}", note, diagonal=True)
