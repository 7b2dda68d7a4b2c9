"""What was trained: the model, the batch, the job, and what differs from the config that it was made from."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..base import units
from ..base.errors import UserError
from ..diff import base
from ..diff.changes import MISSING, between
from ..mmconfig import literals, lookup
from ..rundir.run import Run
from ..rundir.spec import RunSpec

LONGEST = 240  # characters of a value
MOST = 300  # rows
ABSENT = "–"
ITS_OWN = ("name", "options", "env", "runs_dir")  # of a job: options are in the config
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
                default = "changed by a resume" if not prefix and f.name in changed else \
                    text_of(f.name, usual[f.name])
                found.append(SetupLine(prefix + f.name, text_of(f.name, value), default))
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


def against_base(run: Run) -> tuple[str, list[SetupLine]] | None:
    """The config that the run's was made from, and what differs; None where that config is not available."""
    found = base.against_base(run)
    if found is None:
        return None
    name, changes = found
    given = [c for c in changes if not (isinstance(c.a, str) and isinstance(c.b, list))]  # counts, read from that file
    return name, [SetupLine(c.key, _side(c.key, c.b), _side(c.key, c.a)) for c in given[:MOST]]


def _side(key: str, value: Any) -> str:
    return ABSENT if value is MISSING else text_of(key, value)


def differing(runs: Mapping[str, Run]) -> list[tuple[str, list[str]]]:
    """What differs between the jobs and the configs of several runs: a row for each key, with the value in each."""
    flat = {name: {**asdict(run.job()), "evaluation": asdict(run.job().evaluation)} for name, run in runs.items()}
    keys = dict.fromkeys(key for one in flat.values() for key in one if key not in ITS_OWN)
    found = [(key, [text_of(key, one.get(key)) for one in flat.values()]) for key in keys]
    configs = {}
    for name, run in runs.items():
        with contextlib.suppress(UserError, OSError):
            configs[name] = base.config_of(run)
    if len(configs) == len(runs):
        found += _of_configs(configs)
    return [(key, values) for key, values in found if len(set(values)) > 1][:MOST]


def _of_configs(configs: Mapping[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    first, *others = configs.values()
    changes = [{c.key: c for c in between(first, other)} for other in others]
    rows = []
    for key in dict.fromkeys(key for one in changes for key in one):
        of_first = next(_side(key, one[key].a) for one in changes if key in one)
        rows.append((f"config: {key}", [of_first, *(_side(key, one[key].b) if key in one else of_first
                                                    for one in changes)]))
    return rows
