"""Which checkpoints are to be scored, under which settings: from a job's evaluation block or ``--checkpoints``."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..base.errors import UserError
from ..job import eval_settings
from ..rundir import checkpoints
from ..rundir.checkpoints import Manifest
from ..rundir.run import Run
from .evaluations import LAST, Element


def combine(places: Iterable[str], grid: Sequence[Mapping[str, Any]]) -> list[Element]:
    """Every checkpoint under every combination; what differs in scoring alone shares an element."""
    ways: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
    for settings in grid:
        detection, scoring = eval_settings.split(settings)
        ways.setdefault(json.dumps(detection, sort_keys=True), (detection, []))[1].append(scoring)
    return [Element(at, detection, tuple(several)) for at in places for detection, several in ways.values()]


def changing(cfg: Mapping[str, Any], grid: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The combinations, seen to be possible with a config, and without what they do not change in it."""
    found: list[dict[str, Any]] = []
    for settings in grid:
        eval_settings.apply(copy.deepcopy(dict(cfg)), eval_settings.split(settings)[0])
        eval_settings.check_scoring(cfg, settings)
        less = eval_settings.reduced(cfg, settings)
        found += [] if less in found else [less]
    return found


def planned(block: Any, cfg: Mapping[str, Any]) -> list[Element]:
    """What a job's evaluation block (:class:`ecm_cluster.job.job.EvaluationOptions`) asks for, of a resolved config.

    Raises:
        UserError: An epoch that the training does not have, or a setting that its config does not.
    """
    if not block.enabled:
        return []
    runner = cfg["runner"]
    by_epoch = runner.get("type") == "EpochBasedRunner"
    total, unit = (runner.get("max_epochs", 0), "epoch") if by_epoch else (runner.get("max_iters", 0), "iteration")
    at: set[int] = set()
    if block.epochs is not None:
        if not by_epoch:
            raise UserError("evaluation.epochs: the config counts iterations (IterBasedRunner); use evaluation.every, "
                            "in iterations")
        at |= set(range(1, total)) if block.epochs == "all" else set(block.epochs)
        if at and max(at) > total:
            raise UserError(f"evaluation.epochs: invalid {max(at)}; expected epochs from 1 to {total} "
                            "(the training's last), or all")
    if block.every:
        at |= set(range(block.every, total, block.every))
    places = [f"{unit} {n}" for n in sorted(at) if n < total] + [LAST]
    return combine(places, changing(cfg, eval_settings.grid(block.settings, "evaluation.settings.")))


def parse_places(run: Run, asked: str, best: Manifest | None = None) -> list[str]:
    """What ``--checkpoints`` names, as elements have it.

    Args:
        asked: ``last``, ``all``, ``best``, or iterations with commas between them.
        best: The best checkpoint scored so far.

    Raises:
        UserError: There is no such checkpoint.
    """
    counting = checkpoints.accepted(run)
    if asked == LAST:
        if run.completion() is None:
            newest = f"its newest checkpoint is of iteration {counting[-1].iteration}" if counting else "it has none"
            example = counting[-1].iteration if counting else "N"
            raise UserError(f"checkpoints: {run.name} is not complete ({newest}); a half-trained model is scored only "
                            f"by its iteration, e.g. --checkpoints {example}")
        return [LAST]
    if asked == "all":
        places = [place_of(run, m) for m in counting]
        if not places:
            raise UserError(f"checkpoints: {run.name} has none yet; wait for the first commit")
        return list(dict.fromkeys(places))
    if asked == "best":
        if best is None:
            raise UserError(f"checkpoints: {run.name} is not scored yet, so none is the best; use all first")
        return [place_of(run, best)]
    if not re.fullmatch(r"[0-9]{1,18}(,[0-9]{1,18})*", asked):
        raise UserError(f"checkpoints: invalid {asked!r}; expected last, all, best, or iterations such as 12000,24000")
    known = {m.iteration: m for m in counting}
    wanted = [int(n) for n in asked.split(",")]
    missing = [n for n in wanted if n not in known]
    if missing:
        raise UserError(f"checkpoints: {run.name} has none of iteration {missing[0]}; it has "
                        f"{', '.join(map(str, sorted(known))) or 'none'}")
    return list(dict.fromkeys(place_of(run, known[n]) for n in wanted))


def place_of(run: Run, checkpoint: Manifest) -> str:
    """How an element names an existing checkpoint."""
    return LAST if run.completion() == checkpoint.file else f"iteration {checkpoint.iteration}"
