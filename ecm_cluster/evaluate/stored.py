"""What can be made of detections that are stored, without a GPU: a results file, and where the model goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Dict, List

from ..base import processes
from ..base.errors import Failed, UserError
from ..base.reading import Unreadable, read_json
from ..chain import evaluations
from ..chain.evaluations import Element
from ..console import cli
from ..job import eval_settings
from ..reporting.tables import aligned, percent
from ..rundir.run import Evaluation, Run
from ..scoring.metrics import in_words
from ..scoring.parts import ScoredSet

Wanted = Dict[Run, List[Element]]
SHOWN = 5  # confusions


def check_single(wanted: Wanted) -> None:
    """Refuse a results file for several sets of detections.

    Raises:
        UserError: It names them.
    """
    several = [(run, element) for run, elements in wanted.items() for element in elements]
    if len(several) > 1:
        said = "; ".join(f"{run.name}, {e.at}, {eval_settings.label(e.settings)}" for run, e in several[:4])
        raise UserError(f"results-json: a file holds the detections of one checkpoint under one set of settings, and "
                        f"these are {len(several)} ({said}{'; …' if len(several) > 4 else ''}); choose one with RUN, "
                        "--checkpoints and --vary")


def write_results(wanted: Wanted, given: str) -> None:
    """Write the only element's detections into a results file.

    Raises:
        UserError: They are not stored, or cannot be written in that form.
    """
    for run, (element,) in ((run, elements) for run, elements in wanted.items() if elements):
        work = evaluations.of_element(run, element)
        scored = None if work is None else ScoredSet.read(work.scored_set_file)
        if work is not None and scored is None and evaluations.has_detections(work):
            raise UserError(f"results-json: the detections of {run.name} are of an earlier version, which did not "
                            "record their ids; score its checkpoint file again with --config")
        if work is None or scored is None or not evaluations.has_detections(work):
            raise UserError(f"results-json: {run.name} has no stored detections of {element.at}, "
                            f"{eval_settings.label(element.settings)}; score it first, or add --wait")
        from ..scoring import results_file

        try:
            with cli.opened("results-json", given) as handle:
                count = results_file.write(handle, evaluations.chunk_files(work) or [], scored)
        except ImportError as error:
            raise UserError(f"results-json: {error.name} is not installed here; run it where the run was "
                            "trained") from None
        cli.acts()
        cli.say(f"{count} detections written to {given}", sys.stderr)


def analyse(wanted: Wanted) -> None:
    """Make the analysis of everything that is scored and has none.

    Raises:
        UserError: Another user's run.
        Failed: The process failed; it has said why.
    """
    for run, elements in wanted.items():
        works = [work for work in _scored(run, elements) if not work.analysis_file.exists()]
        if not works:
            continue
        run.require_own("analyse")
        cli.acts()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (
            str(processes.SOURCE), os.environ.get("PYTHONPATH", ""))))}
        done = subprocess.run(processes.command(sys.executable, "analysis", run.path, *(w.key for w in works)), env=env,
                              check=False, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise Failed(f"{run.name}: the analysis failed")


def _scored(run: Run, elements: Sequence[Element]) -> list[Evaluation]:
    works = dict.fromkeys(work.path for work in evaluations.works(run, elements)
                          if work is not None and work.all_metrics())
    return [run.evaluation(path.name) for path in works]


def show(wanted: Wanted) -> None:
    """Print the analyses that exist, in a few lines each."""
    for run, elements in wanted.items():
        for work in _scored(run, elements):
            try:
                document = read_json(work.analysis_file, {"iou_type": str, "tide": {str: {str: float}},
                                                          "confusions": [dict], "calibration": dict})
            except (OSError, Unreadable) as error:
                cli.say(f"warning: {work.analysis_file}: {error}", sys.stderr)
                continue
            print(f"\n{run.name}, {work.key}: {text(document)}\n{work.analysis_file}")


def text(document: Mapping[str, Any]) -> str:
    """The split of errors by frequency, and what is confused most."""
    split = document["tide"]
    errors = list(next(iter(split.values()), {}))
    rows = [[group, *(percent(gains.get(error)) for error in errors)] for group, gains in split.items()]
    lines = [f"what {in_words(document['iou_type'], 'AP50')} would gain without each kind of error",
             aligned(["", *errors], rows, left=1) if rows else "nothing to find: the images have no objects"]
    pairs = [f"{c.get('truth')} as {c.get('predicted')} ({c.get('count')})" for c in document["confusions"][:SHOWN]]
    if pairs:
        lines.append(f"most taken for something else: {', '.join(pairs)}")
    ece = document["calibration"].get("ece")
    return "\n".join([*lines, f"calibration error (ECE): {percent(ece if isinstance(ece, float) else None)}"])
