"""What a good answer is: the right code, a line or a few, no traceback, nothing half-made; afterwards all is well."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .case import Case

LINES = 6
NOISE = re.compile(r"Traceback|Exception ignored|Fatal Python error|Segmentation fault|core dumped|Aborted"
                   r"|During handling|most recent call last|^\s+File \"", re.M)
LEFT = re.compile(r"\.tmp-|ecm-cluster-check-|\.check-")


def faults(case: Case, well: Case) -> list[str]:
    """Everything that is wrong with the answer; empty: it is good."""
    return [*_of_code(case, well), *_of_words(case), *_of_the_world(case, well)]


def _may_fail(case: Case) -> bool:
    place = case.place
    return not place.starts or (not place.writable and case.call.acts)


def _of_code(case: Case, well: Case) -> Iterator[str]:
    code, good = case.bad.code, well.bad.code
    allowed = {0, 1} if case.call.name == "doctor" else {good}
    if _may_fail(case):
        allowed |= {1, 2}
    if case.place.streams_lost:
        allowed = {good if case.call.acts or good else 1}
        if case.call.name in ("cancel", "clean", "evaluate-csv", "compare-csv", "resume-dry"):
            allowed |= {0, 1}
    if code not in allowed:
        yield f"code {code}; expected {' or '.join(map(str, sorted(allowed)))}"
    elif code == good and not case.place.silent and not case.call.acts and case.place.starts \
            and not _alike(case.bad.out, well.bad.out) and not case.call.name.startswith(("stage", "doctor")):
        yield "another answer than where all is well"
    if case.after is not None and well.after is not None:
        same_again = {good} if code != good or case.place.streams_lost else {good, well.after.code}
        if case.after.code not in same_again | ({well.after.code} if code == 0 else set()):
            yield f"afterwards code {case.after.code}: {case.after.err.strip()[:200]}"


def _alike(one: str, other: str) -> bool:
    """Equal except for numbers, such as times and free space, and for characters that a locale lacks."""
    def core(text: str) -> str:
        return re.sub(r"[^a-wyz]+", " ", re.sub(r"\\x..|\\u....", "", text.lower()))

    return core(one)[:4000] == core(other)[:4000] or len(core(other)) > 2000


def _of_words(case: Case) -> Iterator[str]:
    said = case.bad.err
    if NOISE.search(said + case.bad.out):
        yield "a traceback or a crash"
    lines = said.strip().splitlines()
    if case.bad.code and case.call.name != "doctor":
        if len(lines) > LINES:
            yield f"{len(lines)} lines of errors"
        elif not lines and "2>" not in case.place.streams:
            yield "fails without a message"
    if any(len(line) > 1200 for line in lines):
        yield "a line that nobody reads to its end"


def _of_the_world(case: Case, well: Case) -> Iterator[str]:
    left = [path for path in case.new if LEFT.search(path)]
    if left:
        yield f"left behind: {', '.join(left[:3])}"
    if case.bad.code and case.call.makes and not case.place.streams:
        half = [path for path in case.new if path.startswith(case.call.makes + " ")]
        if half and case.bad.code != well.bad.code and case.after is not None and case.after.code != well.bad.code:
            yield f"half made: {half[0]}"
