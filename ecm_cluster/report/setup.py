"""What was trained and with what: the job, what differs from the config it names, and the provenance of everything."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..base import units
from ..base.errors import UserError
from ..job.job import Job
from ..mmconfig import literals, lookup
from ..reporting.results import Row
from ..rundir.run import Run
from ..rundir.spec import RunSpec

LONGEST = 400  # characters of a value
MOST = 400  # options
# the last part of a key; class_counts and the like hold no secret
SECRET = re.compile(r"(?:^|_)(?:api_?key|token|secret|passw\w*|credentials?|auth)$", re.IGNORECASE)
NOT_SHOWN = ("config", "name", "options", "evaluation", "env", "runs_dir")  # of a job: they stand elsewhere


@dataclass(frozen=True)
class SetupLine:
    """One value; ``usual``: what it would be otherwise."""

    name: str
    value: str
    usual: str = ""


def text_of(name: str, value: Any) -> str:
    """A value as it is shown, without what may be a secret."""
    if SECRET.search(name.rpartition(".")[2]) and value not in (None, "", [], {}):
        return units.SET
    if isinstance(value, str):
        text = value
    else:
        try:
            text = literals.dump({"value": value}).strip().partition(" = ")[2] if value is not None else "None"
        except (UserError, ValueError):
            text = repr(value)
    text = " ".join(units.without_secrets(text).split())
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def options(run: Run) -> list[SetupLine]:
    """The mmdet options that were given for the run."""
    given = run.job().options
    return [SetupLine(name, text_of(name, value)) for name, value in list(given.items())[:MOST]]


def job(run: Run) -> list[SetupLine]:
    """What of the job differs from the defaults, with its evaluation."""
    now, changed = run.job(), run.overrides().job
    found = []
    for prefix, block in (("", now), ("evaluation.", now.evaluation)):
        usual = {f.name: getattr(type(block)(), f.name) for f in fields(block)}
        for f in fields(block):
            value = getattr(block, f.name)
            if (prefix or f.name not in NOT_SHOWN) and value != usual[f.name]:
                later = "changed by a resume" if not prefix and f.name in changed else ""
                found.append(SetupLine(prefix + f.name, text_of(f.name, value), later or text_of(f.name, usual[f.name])))
    if now.env:
        found.append(SetupLine("env", ", ".join(now.env)))
    return found


def batch(spec: RunSpec) -> list[SetupLine]:
    """The global batch and the learning rate, with the rule by which they follow from the config."""
    known = spec.batch
    pairs = (("Images per step", known.get("global")), ("per GPU", known.get("per_gpu")),
             ("Learning rate", known.get("lr")), ("rule", known.get("rule")))
    return [SetupLine(name, text_of(name, value)) for name, value in pairs if value is not None]


def model(run: Run) -> list[SetupLine]:
    """The few values of the resolved config that say what it is."""
    with contextlib.suppress(UserError, OSError):
        cfg = literals.load(run.config_file)
        keys = {"Model": "model.type", "Backbone": "model.backbone.type", "Depth": "model.backbone.depth",
                "Classes": "model.roi_head.bbox_head.num_classes", "Loss": "model.roi_head.bbox_head.loss_cls.type",
                "Optimizer": "optimizer.type", "Schedule": "lr_config.policy", "Runner": "runner.type",
                "Epochs": "runner.max_epochs", "Iterations": "runner.max_iters"}
        found = ((name, lookup.at(cfg, key)) for name, key in keys.items())
        return [SetupLine(name, text_of(name, value)) for name, value in found if isinstance(value, (str, int, float))]
    return []


def provenance(run: Run, main: Row | None) -> list[tuple[str, list[SetupLine]]]:
    """Groups of what the results come from: code, data, weights, versions."""
    spec = run.spec
    return [(title, rows) for title, rows in (
        ("Run", [SetupLine("directory", str(run.path)), SetupLine("identity", spec.run_id), SetupLine("config", spec.config),
                 SetupLine("resolved config", _of(spec.digests, "config"))]),
        ("Code", _code(run)),
        ("Data", _data(spec, main)),
        ("Weights", [SetupLine(*pair) for pair in _weights(spec.weights)]),
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


def differing(jobs: dict[str, Job]) -> list[tuple[str, list[str]]]:
    """What differs between the jobs of several runs: a row for each key, with the value in each."""
    flat = {run: {**asdict(one), **{f"option {k}": v for k, v in one.options.items()}} for run, one in jobs.items()}
    keys = dict.fromkeys(key for one in flat.values() for key in one)
    found = []
    for key in keys:
        values = [text_of(key, one[key]) if key in one else "" for one in flat.values()]
        if key not in ("name", "options", "env") and len(set(values)) > 1:
            found.append((key, values))
    return found
