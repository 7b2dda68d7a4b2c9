"""The timeline of a run: the events of its ledger and of its evaluations, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Mapping

from ..attempts import causes
from ..base import folders
from ..base.units import size_text
from ..rundir.run import Run

Row = Mapping[str, Any]


def read(run: Run) -> list[dict[str, Any]]:
    """All events of the run and of its evaluations, by time."""
    works = {"train": run, **{evaluation.key: evaluation for evaluation in run.evaluations()}}
    rows = [{"work": name, "attempt": e.attempt, "writer": e.writer, "kind": e.kind, "time": e.time, **e.fields}
            for name, work in works.items() for e in work.events()]
    # across writers only the clocks tell the order; within one, the stable sort keeps the sequence
    return sorted(rows, key=lambda row: row["time"])


def without_repeats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
