"""A grid in words, before it is submitted."""

from __future__ import annotations

from collections.abc import Sequence

from ..job.job import Job
from ..plan.plan import Plan
from ..reporting.tables import aligned
from ..rundir.spec import evaluation_job
from ..slurm import submit_limits
from .cells import Cell, short_names
from .group import Group

MOST_SHOWN = 40  # runs that are listed


def describe(group: Group, cells: Sequence[Cell], missing: Sequence[Cell], plans: Sequence[tuple[Cell, Plan]],
             queues: bool) -> str:
    """The runs with their settings, the jobs that they take, and the limits that these meet.

    Args:
        missing: The runs that are still to be submitted.
        plans: Those that are still to be created.
    """
    lines = [f"group {group.path}: {len(cells)} runs" + ("" if len(missing) == len(cells) else
                                                         f", {len(cells) - len(missing)} of them submitted already")]
    names = short_names(list(cells[0].settings))
    waiting = {cell.name for cell in missing}
    rows = [[f"  {cell.name}", *cell.settings.values(), "" if cell.name in waiting else "submitted"]
            for cell in cells[:MOST_SHOWN]]
    lines.append(aligned(["  run", *names.values(), ""], rows, left=len(rows[0])))
    lines += [f"  … and {len(cells) - MOST_SHOWN} more"] if len(cells) > MOST_SHOWN else []
    jobs = [(cell.job, len(plan.elements)) for cell, plan in plans if cell.job is not None]
    evaluated = sum(bool(elements) for _, elements in jobs)
    facts = [("new jobs", f"{len(jobs)} trainings, {evaluated} evaluations")] if jobs else []
    if jobs:
        hours = "GPU hours" if any(job.device == "cuda" for job, _ in jobs) else "rank hours"
        most = sum(_hours(*one) for one in jobs)
        facts.append((hours, f"at most {most:,.0f}, if each job takes all of its time limit once"))
    if group.at_once:
        facts.append(("at once", f"at most {group.at_once} of the runs"))
    if queues and jobs:
        facts += _limits(jobs[0][0], len(jobs) + evaluated)
    return "\n".join([*lines, *(f"  {name:<12}{text}" for name, text in facts)])


def _hours(job: Job, elements: int) -> float:
    scored = evaluation_job(job)
    return (job.world_size * job.time_minutes + elements * scored.world_size * scored.time_minutes) / 60


def _limits(job: Job, count: int) -> list[tuple[str, str]]:
    known = submit_limits.known(job)
    if not known:
        return []
    facts = [("limits", ", ".join(f"{name} {most}" for name, most in known.items()))]
    if min(known.values()) < count:
        facts.append(("", f"Slurm takes {min(known.values())} jobs of yours at a time: repeat the command when some "
                          "have ended, and it submits the rest"))
    return facts
