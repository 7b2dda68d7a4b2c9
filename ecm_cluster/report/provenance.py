"""Where the results of a run come from: its code, data, weights, environment and machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..base import units
from ..diff import facts
from ..reporting.results import Row
from ..rundir.run import Run
from ..rundir.spec import RunSpec
from .setup import SetupLine, text_of


def of(run: Run, main: Row | None) -> list[tuple[str, list[SetupLine]]]:
    """Groups of what the results come from: code, data, weights, versions."""
    spec = run.spec
    return [(title, rows) for title, rows in (
        ("Run", [SetupLine("directory", str(run.path)), SetupLine("identity", spec.run_id),
                 SetupLine("config", spec.config), SetupLine("resolved config", _of(spec.digests, "config"))]),
        ("Code", _code(run)),
        ("Data", _data(spec, main)),
        ("Weights", [SetupLine(*pair) for pair in _weights(spec.weights)]),
        ("Machine", machine(run)),
        ("Versions", [SetupLine(name, version) for name, version in spec.versions.items()])) if rows]


def _of(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""


def _code(run: Run) -> list[SetupLine]:
    code = {**run.spec.code, **run.overrides().code}
    found = [SetupLine("digest", _of(code, "digest"))]
    packages = code.get("packages")
    origins = dict(packages) if isinstance(packages, dict) else {}
    if isinstance(code.get("user"), dict):
        origins["own modules"] = code["user"]
    for name, origin in origins.items():
        commit = origin.get("commit") if isinstance(origin, dict) else None
        if isinstance(commit, str):
            found.append(SetupLine(f"git commit of {name}", commit + (", with changes that are not committed"
                                                                    if origin.get("dirty") else "")))
    number = code.get("number")
    if isinstance(number, int):
        found.append(SetupLine("version", f"{number}, from a resume with newer code"))
    return [s for s in found if s.value]


def _data(spec: RunSpec, main: Row | None) -> list[SetupLine]:
    found = []
    for split, path in spec.annotations.items():
        found.append(SetupLine(f"{split} annotations", path))
        key = {"test": "val_annotations"}.get(split, f"{split}_annotations")
        found.append(SetupLine(f"{split} digest", _of(spec.digests, key)))
    counts = [value for value in spec.class_counts.values() if isinstance(value, str)]
    found.append(SetupLine("class counts", ", ".join(counts)))
    found.append(SetupLine("pack", str((spec.staging or {}).get("pack") or "")))
    if main is not None:
        found.append(SetupLine("scored checkpoint", str(main.provenance["checkpoint"])))
        found.append(SetupLine("its digest", str(main.provenance.get("checkpoint_digest") or "")))
        if main.provenance.get("annotations_digest") != spec.digests.get("val_annotations"):
            found.append(SetupLine("scored on", str(main.provenance.get("annotations") or "")))
            found.append(SetupLine("with digest", str(main.provenance.get("annotations_digest") or "")))
    return [s for s in found if s.value]


def _weights(recorded: Iterable[Any]) -> Iterable[tuple[str, str]]:
    for one in recorded:
        if isinstance(one, dict):
            source = str(one.get("source") or one.get("url") or one.get("path") or "")
            yield str(one.get("key") or "weights"), units.without_secrets(source)
            if one.get("digest"):
                yield "digest", str(one["digest"])


def machine(run: Run) -> list[SetupLine]:
    """What the newest attempt trained on."""
    found = facts.machine(run, run.newest_attempt())
    return [SetupLine(name, text_of(name, value)) for name, value in found.items() if value not in (None, "", [], {})]


def packages(run: Run) -> list[SetupLine]:
    """Everything that was installed at submission."""
    found = facts.environment(run).get("packages") or {}
    return [SetupLine(name, version) for name, version in sorted(found.items(), key=lambda item: item[0].lower())]
