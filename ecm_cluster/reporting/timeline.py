"""The timeline of a run: the events of its ledger and of its evaluations, in words.

Either each of them, or condensed: a line for each attempt, with its commits, and repeated events and attempts together.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any, Mapping

from ..attempts import causes
from ..attempts.history import AttemptRecord, history
from ..base import fileserver, folders
from ..base.units import moment, size_text
from ..rundir.run import Run, Work

Row = Mapping[str, Any]
SINGLE, LAST_SINGLE = 9, 4  # attempts of a work that are shown singly; of more, the first and so many of the last
MOST_GROUPS = 5  # lines for the attempts between those
MOST_EVENTS, FIRST_EVENTS = 20, 4  # lines for events besides; of more, so many of the first and then the last
NEVER_TOGETHER = ("submitted", "cancelled", "resumed", "quarantine")  # though they differ in numbers alone
OF_ATTEMPTS = ("start", "commit", "end", "left", "abort", "complete", "phase", "staged", "released")


def read(run: Run) -> list[dict[str, Any]]:
    """All events of the run and of its evaluations, by time."""
    works = {"train": run, **{evaluation.key: evaluation for evaluation in run.evaluations()}}
    rows = [{"work": name, "attempt": e.attempt, "writer": e.writer, "kind": e.kind, "time": e.time, **e.fields}
            for name, events in zip(works, fileserver.each(lambda work: work.events(), list(works.values())))
            for e in events]
    # across writers only the clocks tell the order; within one, the stable sort keeps the sequence
    return sorted(rows, key=lambda row: row["time"])


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Without events of other ranks that report the same copy, or the same reason for not starting."""
    def where(row: Row) -> tuple[Any, ...]:
        return row["work"], row["attempt"], row.get("node"), row.get("pack")

    def copied_here(row: Row) -> bool:
        return bool(row["copied"] or row["repaired"])

    copied = {where(row) for row in rows if row["kind"] == "staged" and copied_here(row)}
    kept, said = [], set()
    for row in rows:
        if row["kind"] == "not-started":
            reason = row["work"], row["start"], row["detail"]
            repeats = reason in said
            said.add(reason)
        else:
            repeats = row["kind"] == "staged" and not copied_here(row) and where(row) in copied
        if not repeats:
            kept.append(row)
    return kept


def describe(row: Row, id_word: str) -> str | None:
    """One event in words; None if it is not shown, as what other ranks than rank 0 report."""
    words = WORDS.get(row["kind"])
    return words(row, id_word) if words else None


def _submitted(row: Row, id_word: str) -> str:
    return f"{row['stage']} submitted as {id_word} {row['job_id']}" + (" (found again)" if row.get("adopted") else "")


def _commit(row: Row, id_word: str) -> str:
    seconds = row.get("write_seconds", row.get("seconds"))
    return f"committed {row.get('checkpoint', 'a checkpoint')}" + ("" if seconds is None else f" in {seconds:.1f} s")


def _resumed(row: Row, id_word: str) -> str:
    now = row.get("overrides", {})
    changed = [f"{k} {v}" for k, v in {**now, **now.get("job", {})}.items() if k != "job"]
    return f"resumed: {', '.join(row.get('stages', ()))}" + (f" with {', '.join(changed)}" if changed else "")


def _end(row: Row, id_word: str) -> str:
    known = causes.CAUSES.get(row["cause"])
    return f"ended: {row['cause']}: {row.get('detail') or (known.text if known else '')}"


def _staged(row: Row, id_word: str) -> str:
    """What was staged on one node, and why it took as long as it did."""
    parts, scratch = [], folders.shortest(row["scratch"])
    if row["copied"]:
        speed = size_text(row["copied"] / max(row["seconds"], 1e-3))
        parts.append(f"{size_text(row['copied'])} staged to {scratch} in {row['seconds']:.1f} s ({speed}/s)")
    if row["repaired"]:
        parts.append(f"{size_text(row['repaired'])} repaired")
    if row["found"]:
        parts.append(f"{size_text(row['found'])} already there" + ("" if row["copied"] else f" in {scratch}"))
    if row["waited"] >= 0.5:  # less is not worth a word
        parts.append(f"waited {row['waited']:.1f} s for another process that copied")
    return f"{row['host']}: {', '.join(parts) or 'nothing to stage'}"


WORDS: dict[str, Callable[[Row, str], str | None]] = {
    "submitted": _submitted,
    "refused": lambda row, _: f"{row['stage']} not submitted: {row['reason']}",
    "start": lambda row, _: f"started on {row['host']}" if row.get("rank") == 0 else None,
    "commit": _commit,
    "cancelled": lambda row, _: f"cancelled {row['what']}",
    "resumed": _resumed,
    "commit-failed": lambda row, _: f"could not commit iteration {row['iteration']}: {row['reason']}",
    "warning": lambda row, _: f"warning: {row['text']}",
    "released": lambda row, _: f"evaluation of {row['at']} released",
    "successor": lambda row, id_word: f"{id_word} {row['job_id']} submitted in place of this one",
    "stopped": lambda row, _: f"stopped: {row['detail']}",
    "quarantine": lambda row, _: f"moved {row['checkpoint']} to quarantine: {row['reason']}",
    "requeue": lambda row, _: "requeued" if row["accepted"] else f"Slurm refused to requeue ({row['cause']})",
    "not-started": lambda row, _: f"{row['cause']}: {row['detail']}",
    "left-out": lambda row, _: f"node {row['node']} excluded from now on: {row['reason']}",
    "staged": _staged,
    "staging": lambda row, _: f"{row['host']}: {row['detail']}",
    "end": _end,
}


# ---------------------------------------------------------------------------------------------- condensed


def condensed(run: Run, rows: Sequence[Row], id_word: str, alive: bool) -> list[tuple[float, str]]:
    """The same in few lines, each with its time.

    Args:
        rows: From :func:`read`.
        alive: The newest attempt of the training is.
    """
    lines = [*_attempts(run, history(run, alive), "attempt", rows), *_events(rows, id_word)]
    works = [work for work in run.evaluations() if work.ledger_dir.exists()]
    of_works = list(zip(works, fileserver.each(history, works)))
    usual = [records for _, records in of_works if [record.cause for record in records] == ["complete"]]
    if len(usual) > 1:
        first, last = min(r.begin for r, in usual), max(r.end or r.begin for r, in usual)
        lines.append((first, f"{len(usual)} evaluations until {moment(last, first)}: ended: complete"))
    for work, records in of_works:
        if len(usual) <= 1 or records not in usual:
            label = f"evaluation of {work.key.split('-')[0]}" if len(of_works) > 1 else "evaluation"
            lines += _attempts(work, records, f"{label}, attempt", rows)
    return sorted(lines, key=lambda line: line[0])


def _attempts(work: Work, records: Sequence[AttemptRecord], label: str, rows: Sequence[Row],
              ) -> Iterable[tuple[float, str]]:
    of_work = "train" if isinstance(work, Run) else work.path.name
    commits = Counter(row["attempt"] for row in rows if row["kind"] == "commit" and row["work"] == of_work)
    ends = len(records) - LAST_SINGLE if len(records) > SINGLE else 1
    between = [list(group) for _, group in groupby(records[1:ends], lambda record: record.cause)]
    if len(between) > MOST_GROUPS:
        size = -(-(ends - 1) // MOST_GROUPS)
        between = [list(records[at:min(at + size, ends)]) for at in range(1, ends, size)]
    for group in (*([record] for record in records[:1]), *between, *([record] for record in records[ends:])):
        yield group[0].begin, _of_group(group, label, sum(commits[record.number] for record in group))


def _of_group(group: Sequence[AttemptRecord], label: str, commits: int) -> str:
    """One attempt, or several as one."""
    first, last = group[0], group[-1]
    parts = []
    if first.first is not None and last.last is not None:
        reached, newest = (max(number or 0 for number in numbers) for numbers in
                           ([r.last for r in group], [r.committed for r in group]))
        gained, lost = sum(record.gained for record in group), sum(record.lost for record in group)
        parts += [f"iterations {first.first} to {reached}, {gained} gained, {lost} lost",
                  f"{commits} commit{'s' * (commits > 1)}, newest iteration {newest}" if commits else "no commit"]
    until = "alive" if last.end is None else f"until {moment(last.end, first.begin)}"
    if len(group) == 1:
        ended = [] if first.end is None else [f"ended: {_reason(first)}"]
        who = f"{label} {first.number}" + (f" on {first.hosts[0]}" if first.hosts else "")
        who += f" and {len(first.hosts) - 1} more nodes" if len(first.hosts) > 1 else ""
    else:
        count = Counter(record.cause for record in group)
        ended = ["ended: " + ", ".join(f"{cause} {times}x" for cause, times in count.most_common())]
        who = f"{label}s {first.number} to {last.number}"
    return f"{who} {until}: " + "; ".join([*parts, *ended])


def _reason(record: AttemptRecord) -> str:
    if record.cause == "complete":
        return record.cause
    known = causes.CAUSES.get(record.cause or "")
    text = record.detail or (known.text if known else "")
    return text if (record.cause or "") in text else f"{record.cause}: {text}" if text else f"{record.cause}"


def _events(rows: Sequence[Row], id_word: str) -> list[tuple[float, str]]:
    """Everything else, what repeats as one line at its newest time."""
    found: dict[tuple[Any, ...], list[tuple[float, str]]] = {}
    for row in without_repeats(rows):
        text = describe(row, id_word)
        is_usual = row["kind"] in OF_ATTEMPTS or (row["kind"] == "requeue" and row["accepted"])
        if text and not is_usual:
            same = text if row["kind"] in NEVER_TOGETHER else re.sub(r"\d+", "0", text)
            found.setdefault((row["work"], row["kind"], same), []).append((row["time"], text))
    lines = []
    for each in found.values():
        (since, _), (newest, text) = each[0], each[-1]
        lines.append((newest, text + (f" ({len(each)} times since {moment(since, newest)})" if len(each) > 1 else "")))
    lines.sort()
    if len(lines) > MOST_EVENTS:
        cut = len(lines) - MOST_EVENTS + FIRST_EVENTS + 1
        lines[FIRST_EVENTS:cut] = [(lines[FIRST_EVENTS][0], f"({cut - FIRST_EVENTS} more events)")]
    return lines
