"""How much time a run needs between a signal and its death, from what its commits cost before.

After a signal the ranks finish the step they are in, agree, take at most one more, wait for a checkpoint that may be
under way, and commit. Both the warning before a time limit (``--signal``) and the grace of a preemption must be
longer than that. What a step and a commit take is on record with every commit: a high quantile of the recent ones
counts, since the slowest ever may have been a process that was suspended, or a storage that hung once.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..base.units import parse_time
from ..job.job import Job
from ..rundir.run import Run
from ..rundir.runs import list_runs
from ..slurm.site import Preemption

MARGIN = 30.0  # seconds to ask Slurm twice, and to requeue
SHORTEST = 60  # seconds: twice the 30 s after which Slurm looks at time limits again
RECENT = 200  # commits
QUANTILE = 0.95
OUTLIER = 20  # times the median: no step of this training took so long on its own
# where nothing was measured: weights and momentum of Cascade R-CNN with ResNet-101, to a busy network file system
ASSUMED_BYTES, ASSUMED_BYTES_PER_SECOND, ASSUMED_STEP = 800e6, 200e6, 2.0


@dataclass(frozen=True)
class Cost:
    """What a stop costs.

    Attributes:
        slowest_step: Seconds of a slow step.
        commit: Seconds of a slow commit, from the first copied byte to the manifest.
        source: Whose figures these are, in words.
    """

    slowest_step: float
    commit: float
    source: str

    @property
    def stop_seconds(self) -> float:
        """From the signal to the manifest, at worst: two steps, the commit under way, and one more."""
        return 2 * self.slowest_step + 2 * self.commit


ASSUMED = Cost(ASSUMED_STEP, ASSUMED_BYTES / ASSUMED_BYTES_PER_SECOND,
               f"assumed: {ASSUMED_BYTES / 1e6:.0f} MB at {ASSUMED_BYTES_PER_SECOND / 1e6:.0f} MB/s")


def signal_lead(slowest_step_s: float, commit_s: float) -> int:
    """Seconds before a time limit at which Slurm must warn, in whole tens.

    Slurm may warn up to 60 s earlier, never later.
    """
    seconds = Cost(slowest_step_s, commit_s, "").stop_seconds + MARGIN
    return max(SHORTEST, math.ceil(seconds / 10) * 10)


def measured(run: Run) -> Cost | None:
    """What the run's recent commits say; None before its first."""
    commits = [e for e in run.events(writer="train000") if e.kind == "commit" and "write_seconds" in e.fields][-RECENT:]
    if not commits:
        return None
    # earlier versions recorded the slowest step since the attempt began: a repeated figure is not a further step
    steps = [step for (_, step), _ in groupby((e.attempt, float(e.get("slowest_step", 0.0))) for e in commits)]
    return Cost(slow([step for step in steps if step > 0]),
                slow([float(e["blocked_seconds"]) + float(e["write_seconds"]) for e in commits]),
                f"measured in {run.name}")


def slow(seconds: Sequence[float]) -> float:
    """What hardly any of these is longer than, those left out that no usual one explains."""
    if not seconds:
        return 0.0
    limit = OUTLIER * statistics.median_low(seconds)
    usual = sorted(s for s in seconds if s <= limit)
    return usual[math.ceil(QUANTILE * len(usual)) - 1]


def lead_of(run: Run, asked: int) -> int:
    """The lead for the next job of a run: what the job asks for, or longer where the run's commits need it."""
    cost = measured(run)
    return asked if cost is None else max(asked, signal_lead(cost.slowest_step, cost.commit))


def within(lead: int, limit: str) -> int:
    """The lead that a job of a time limit is given: half of it at most, or it would be warned as it begins."""
    return min(lead, 30 * parse_time(limit))


def expected(runs_dir: Path, config: str, job: Mapping[str, Any]) -> Cost:
    """What a new run will cost: as the newest run of the same config, options and device, else :data:`ASSUMED`."""
    for run in reversed(list_runs(runs_dir)):
        try:
            then = run.spec.job
            same = run.spec.config == config and all(getattr(then, k) == job[k]
                                                     for k in ("options", "device", "gpu_type"))
            cost = measured(run) if same else None
        except Exception:  # a run that cannot be read says nothing, and stops no other from being planned
            continue
        if cost is not None:
            return cost
    return ASSUMED


def at_submission(job: Job, config: str, preemption: Sequence[Preemption]) -> list[str]:
    """The warnings for a new run; see :func:`warnings`."""
    return warnings(expected(Path(job.runs_dir), config, job.as_dict()), job.signal_lead,
                    min((one for one in preemption if one.ends_the_job), key=lambda one: one.grace, default=None),
                    job.time)


def warnings(cost: Cost, lead: int, preemption: Preemption | None, limit: str) -> list[str]:
    """What a user should know at submission.

    Args:
        lead: Seconds of the warning before the time limit that the job asks for.
        preemption: The one that leaves the least time; None where none ends the job.
    """
    need, said = cost.stop_seconds, f"({cost.source}: step {cost.slowest_step:.3g} s, commit {cost.commit:.3g} s)"
    found = []
    if preemption is not None and need > preemption.grace:
        found.append(f"a stop may take {need:.0f} s {said}, and a preempted job of {preemption.where} has "
                     f"{preemption.grace} s and Slurm's KillWait: what was done since the last checkpoint may be lost; "
                     "make checkpoints more frequent (checkpoint_minutes), or choose another partition or QOS")
    wanted = signal_lead(cost.slowest_step, cost.commit)
    if wanted > within(wanted, limit):
        found.append(f"time: {limit} is short: of the {60 * parse_time(limit)} s of each start "
                     f"{within(wanted, limit)} s are kept for a stop that may take {need:.0f} s {said}; ask for more")
    elif wanted > lead:
        found.append(f"signal_lead: {lead} s before the time limit is short for a stop that may take {need:.0f} s "
                     f"{said}; use --signal-lead {wanted}")
    return found
