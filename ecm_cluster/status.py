"""Say what every run is doing, and why; with RUN, the whole story of one."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from .attempts import endings
from .backends import choose
from .base import folders
from .base.errors import UserError
from .base.units import size_text
from .chain import chain, submissions, successor
from .console import cli, output
from .job import job as jobs
from .reporting import results
from .reporting import state as states
from .reporting.seen import Seen
from .rundir import runs
from .rundir.run import Run
from .slurm import commands

EPILOG = """examples:
  python -m ecm_cluster.status
  python -m ecm_cluster.status runs/mask_rcnn_r50_1x-001
  python -m ecm_cluster.status --json | jq '.[] | {run, state, iteration}'
"""


def parser() -> argparse.ArgumentParser:
    made = cli.Parser(prog="python -m ecm_cluster.status", description=__doc__, epilog=EPILOG)
    made.add_argument("run", nargs="?", metavar="RUN", help="a run directory, or the name of a run")
    made.add_argument("--runs-dir", default=None, help="folder that holds the runs (default: the site's, else runs)")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    runs_dir = folders.absolute(args.runs_dir or jobs.load(None, {}).runs_dir)
    if args.run:
        found = [runs.find(args.run, runs_dir)]
        _ = found[0].spec  # of one run alone, what cannot be read is an error
    elif args.runs_dir and not os.path.isdir(runs_dir):
        raise UserError(f"runs-dir: {runs_dir} is no folder; give the one that --runs-dir of submit named")
    else:
        found = runs.list_runs(runs_dir)
    own = [run for run in found if run.is_own]  # what others' runs name is shown, and never acted on
    if commands.slurm_available():
        for run in own:
            adopt(run)
            release(run)
    folded = states.fold(found)
    for number, state in enumerate(folded):
        if state.refused and found[number] in own and submitted_now(found[number]):
            folded[number] = states.fold([found[number]])[0]
    if args.json:
        values: Any = [{**s.as_dict(), **({"events": story(Seen(r.path))} if args.run else {})}
                       for r, s in zip(found, folded)]
        print(json.dumps(finite(values[0] if args.run else values), indent=1))
    elif args.run:
        print_story(Seen(found[0].path), folded[0])
    elif folded:
        print_table(folded)
    else:
        cli.say(f"no runs in {runs_dir}; `python -m ecm_cluster.submit` makes one")
    return cli.EXIT_OK


def adopt(run: Run) -> None:
    """Find jobs again whose submitter died, if the run can be read and nobody else is at it."""
    with contextlib.suppress(UserError, OSError):
        if choose.of(run).queues:
            submissions.try_adopt(run)


def submitted_now(run: Run) -> bool:
    """Whether Slurm takes an evaluation now that it has refused before."""
    with contextlib.suppress(UserError, OSError):
        submissions.require_owner(run, "")
        chain.submit_refused(run)
    return chain.refusal(run) is None


def release(run: Run) -> None:
    """Let evaluations start that no node could release; a run that cannot be read has none."""
    with contextlib.suppress(UserError, OSError):
        successor.release_due(run)


def finite(value: Any) -> Any:
    """The same with null for each number that JSON does not know, such as the loss of a training that diverged."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(folded: Sequence[states.RunState]) -> None:
    """One line a run."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    numbers = ("attempt", "iteration", "epoch", "loss", "AP")
    for name in ("run", "state", *numbers, "why"):
        table.add_column(name, overflow="fold", justify="right" if name in numbers else "left")
    for s in folded:
        cells = (s.run, s.state, str(s.attempt or ""), progress(s), "" if s.epoch is None else str(s.epoch),
                 "" if s.loss is None else f"{s.loss:.3f}", headline(s), cli.as_typed(s.reason))
        table.add_row(*(Text(output.printable(cell)) for cell in cells))  # no markup: a reason may hold [brackets]
    Console(file=output.bare(sys.stdout), width=None if sys.stdout.isatty() else 160).print(table)


def progress(s: states.RunState) -> str:
    """``300/900``, or what of it is known."""
    if s.iteration is None:
        return ""
    return f"{s.iteration}/{s.iterations}" if s.iterations else str(s.iteration)


def headline(s: states.RunState) -> str:
    """Box AP in percent, if the run is scored."""
    value = s.evaluation.get("bbox_AP")
    return "" if value is None else f"{100 * value:.1f}"


def story(run: Run) -> list[dict[str, Any]]:
    """Every event of the run and of its evaluations, as they came."""
    rows = [{"work": "train", "attempt": e.attempt, "writer": e.writer, "kind": e.kind, "time": e.time, **e.fields}
            for e in run.events()]
    for evaluation in run.evaluations():
        rows += [{"work": evaluation.key, "attempt": e.attempt, "writer": e.writer, "kind": e.kind, "time": e.time,
                  **e.fields} for e in evaluation.events()]
    # across writers only the clock can tell; within one, Python's stable sort keeps the sequence
    return sorted(rows, key=lambda row: row["time"])


def print_story(run: Run, s: states.RunState) -> None:
    """State, reason, next step, then what happened, attempt by attempt."""
    word = choose.of(run).id_word
    cli.say(f"{s.run}: {s.state}: {s.reason}")
    if s.next:
        cli.say(f"next: {s.next}")
    print(f"folder: {folders.shortest(s.path)}")
    if s.jobs:
        ids = ", ".join(f"{stage} {job_id or 'not recorded'}" for stage, job_id in s.jobs.items())
        print(f"{word}{'s' if len(s.jobs) > 1 else ''}: {ids}")
    if s.iteration is not None:
        speed = f", {s.seconds_per_iteration:.2f} s an iteration" if s.seconds_per_iteration else ""
        loss = f", loss {s.loss:.3f}" if s.loss is not None else ""
        print(f"progress: iteration {progress(s)}, epoch {s.epoch}{loss}{speed}")
    told = without_echoes(story(run))
    several = len({row["work"] for row in told}) > 2
    for row in told:
        text = tell(row, word)
        if text:
            when = time.strftime("%m-%d %H:%M:%S", time.localtime(row["time"]))
            which = row["work"].split("-")[0] if several else "evaluate"
            label = "train" if row["work"] == "train" else which
            label += f" attempt {row['attempt']}" if row["attempt"] else ""
            print(f"  {when}  {label:<{24 if several else 20}} {text}")
    found = results.rows(run)
    table = results.table_of(found)
    if table:
        print(f"\n{found[0].work.key}\n{table}" if len(found) == 1 else f"\n{table}")


def without_echoes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the ranks that found what another rank of their node had just copied, or that say the same of it."""
    def where(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["work"], row["attempt"], row.get("node"), row.get("pack")

    copied = {where(row) for row in rows if row["kind"] == "staged" and (row["copied"] or row["repaired"])}
    kept, said = [], set()
    for row in rows:
        if row["kind"] == "not-started":
            echo = (row["work"], row["start"], row["detail"]) in said
            said.add((row["work"], row["start"], row["detail"]))
        else:
            echo = row["kind"] == "staged" and not (row["copied"] or row["repaired"]) and where(row) in copied
        if not echo:
            kept.append(row)
    return kept


def tell(row: dict[str, Any], word: str) -> str | None:
    """One event in words, or None for what only rank 0's line need say.

    Args:
        word: What the backend's ids are ids of.
    """
    kind = row["kind"]
    if kind == "submitted":
        return f"{row['stage']} submitted as {word} {row['job_id']}" + (" (found again)" if row.get("adopted") else "")
    if kind == "refused":
        return f"{row['stage']} not submitted: {row['reason']}"
    if kind == "start":
        return f"started on {row['host']}" if row.get("rank") == 0 else None
    if kind == "commit":
        seconds = row.get("write_seconds", row.get("seconds"))
        named = row.get("checkpoint", "a checkpoint")
        return f"committed {named}" + ("" if seconds is None else f" in {seconds:.1f} s")
    if kind == "cancelled":
        return f"cancelled {row['what']}"
    if kind == "resumed":
        now = row.get("overrides", {})
        changed = [f"{k} {v}" for k, v in {**now, **now.get("job", {})}.items() if k != "job"]
        return f"resumed: {', '.join(row.get('stages', ()))}" + (f" with {', '.join(changed)}" if changed else "")
    if kind == "commit-failed":
        return f"could not commit iteration {row['iteration']}: {row['reason']}"
    if kind == "warning":
        return f"warning: {row['text']}"
    if kind == "released":
        return f"evaluation of {row['at']} released"
    if kind == "successor":
        return f"{word} {row['job_id']} submitted in place of this one"
    if kind == "stopped":
        return f"stopped: {row['detail']}"
    if kind == "quarantine":
        return f"put {row['checkpoint']} into quarantine: {row['reason']}"
    if kind == "requeue":
        return "requeued" if row["accepted"] else f"Slurm refused to requeue ({row['cause']})"
    if kind == "not-started":
        return f"{row['cause']}: {row['detail']}"
    if kind == "left-out":
        return f"node {row['node']} is left out from now on: {row['reason']}"
    if kind == "staged":
        return f"{row['host']}: {staged(row)}"
    if kind == "staging":
        return f"{row['host']}: {row['detail']}"
    if kind == "end":
        known = endings.ENDINGS.get(row["cause"])
        return f"ended: {row['cause']}: {row.get('detail') or (known.text if known else '')}"
    return None


def staged(row: dict[str, Any]) -> str:
    """What staging on one node came to, and why it took as long as it did."""
    parts, scratch = [], folders.shortest(row["scratch"])
    if row["copied"]:
        speed = size_text(row["copied"] / max(row["seconds"], 1e-3))
        parts.append(f"{size_text(row['copied'])} staged to {scratch} in {row['seconds']:.1f} s ({speed}/s)")
    if row["repaired"]:
        parts.append(f"{size_text(row['repaired'])} repaired")
    if row["found"]:
        parts.append(f"{size_text(row['found'])} were there" + ("" if row["copied"] else f" in {scratch}"))
    if row["waited"] >= 0.5:
        parts.append(f"{row['waited']:.1f} s waited for another process that copied")
    return ", ".join(parts) or "nothing to stage"


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
