"""What is on record about a run besides its config, in sections that two runs can be compared in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..attempts.history import events_of, history
from ..base.reading import Unreadable
from ..rundir import records
from ..rundir.run import Run
from .changes import MISSING, Change, between, brief

# the same run elsewhere has other values; and the options of the config are in the config
ITS_OWN = ("name", "runs_dir", "config", "options")
OF_A_MACHINE = ("gpus", "driver", "cuda", "cpu", "platform", "python", "torch")


def sections(run: Run) -> dict[str, dict[str, Any]]:
    """Job, data, weights, environment and machine of a run."""
    spec = run.spec
    job = {key: value for key, value in spec.job.as_record().items()
           if key not in ITS_OWN or (key == "options" and spec.job.trainer)}
    return {
        "job": {"config": spec.config, "cluster": spec.cluster, **job, "virtual_ranks": spec.virtual_ranks,
                "batch": spec.batch},
        "data": {"annotations": spec.annotations, "class_counts": spec.class_counts,
                 "digests": {key: value for key, value in spec.digests.items() if key != "config"},
                 "pack": (spec.staging or {}).get("pack")},
        "weights": {str(each.get("key")): {key: each.get(key) for key in ("source", "digest")}
                    for each in spec.weights if isinstance(each, Mapping)},
        "environment": environment(run),
        "machine": machine(run, run.newest_attempt()),
    }


def environment(run: Run, attempt: int | None = None) -> dict[str, Any]:
    """What was installed at submission, or where an attempt trained: versions by name."""
    try:
        path = run.environment_file if attempt is None else run.environment_of(attempt)
        found = records.read(path, records.ENVIRONMENT)
    except (OSError, Unreadable) as error:
        if not isinstance(error, FileNotFoundError):
            run.note(error)
        return {} if attempt is not None else {"packages": run.spec.versions}  # all that earlier versions recorded
    packages = {each["name"]: each["version"] + _origin(each) for each in found.get("distributions", ())}
    plain = {name: found.get(name) for name in ("python", "implementation", "platform", "glibc")}
    return {**plain, "torch": found.get("torch") or {}, "conda": (found.get("conda") or {}).get("name"),
            "packages": packages}


def _origin(distribution: Mapping[str, Any]) -> str:
    origin = distribution.get("origin") or {}
    commit = str(origin.get("commit") or "")[:12]
    return f" ({commit or 'editable'})" if commit or origin.get("editable") else ""


def machine(run: Run, attempt: int) -> dict[str, Any]:
    """What an attempt trained on; empty where it is not on record."""
    seen = next((e for e in events_of(run, attempt) if e.kind == "machine"), None)
    return {key: seen.get(key) for key in OF_A_MACHINE} if seen else {}


def within(run: Run) -> list[str]:
    """What changed from attempt to attempt: by resumes, by other machines, by other packages; in words."""
    lines = [(event.attempt, f"resumed after attempt {event.attempt}{_resumed(event.fields)}")
             for event in events_of(run) if event.kind == "resumed"]
    before: tuple[dict[str, Any], dict[str, Any]] | None = None
    for record in history(run):
        now = {**machine(run, record.number), "ranks": record.gpus}, environment(run, record.number)
        known = (before or ({}, environment(run)))
        changes = between(known[0], now[0]) if before and len(now[0]) == len(known[0]) else []
        changes += between(known[1], now[1]) if now[1] else []
        lines += [(record.number - 1, f"attempt {record.number}: {change}") for change in changes]
        before = now[0], now[1] or known[1]
    return [text for _, text in sorted(lines, key=lambda line: line[0])]


def _resumed(fields: Mapping[str, Any]) -> str:
    now = fields.get("overrides") or {}
    point = now.get("from") or {}
    texts = {**{k: v for k, v in now.items() if k not in ("job", "from")}, **(now.get("job") or {}),
            **({"from iteration": point["iteration"]} if "iteration" in point else {})}
    return ": " + ", ".join(f"{key} {brief(value)}" for key, value in texts.items()) if texts else ""


def compare(a: Run, b: Run) -> dict[str, list[Change]]:
    """The differences of each section."""
    one, other = sections(a), sections(b)
    # a version that did not record a section cannot differ in it
    return {name: without_halves(between(one[name], other[name]))
            for name in one if name == "weights" or (one[name] and other[name])}


def without_halves(changes: Sequence[Change]) -> list[Change]:
    """Without what is null on one side and absent on the other: versions write more or less of that."""
    return [c for c in changes if {type(c.a), type(c.b)} != {type(None), type(MISSING)}]


