"""What is run, and what is killed when: everything that the seed decides."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from processes.ranks import detector
from small import first_images, make_data, verb

from ecm_cluster.mmconfig import config

IMAGES = 10  # an epoch of a few iterations


# ---------------------------------------------------------------------------------------------- what is run


@dataclass(frozen=True)
class Shape:
    """A job of which one run is left alone, and others are disturbed."""

    ranks: int
    loss: str
    iterations: int = 0  # 0: by epochs
    epochs: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        by = f"{self.iterations}-iterations" if self.iterations else f"{self.epochs}-epochs"
        extras = [extra for extra, key in (("ema", "custom_hooks"), ("workers", "data__workers_per_gpu"))
                  if key in self.options]
        return "-".join([f"{self.ranks}-ranks", self.loss, by, *extras])

    def write_config(self, data: Path, path: Path) -> None:
        """The mmdet config of the job."""
        cfg = detector(data, self.loss, **{"data__train__oversample_thr": 0.6, "log_config__interval": 1,
                                           **self.options})
        cfg["runner"] = ({"type": "IterBasedRunner", "max_iters": self.iterations} if self.iterations
                         else {"type": "EpochBasedRunner", "max_epochs": self.epochs})
        path.write_text(config.dump(cfg))


def _ema(kind: str) -> dict[str, Any]:
    return {"custom_hooks": [{"type": kind, "momentum": 0.1, "priority": 49}]}


WORKERS = {"data__workers_per_gpu": 2, "data__train_dataloader": {"persistent_workers": True}}
# by the number of ranks; runs of one number take these in turn
SHAPES = [
    Shape(1, "ecm", epochs=3, options=WORKERS),
    Shape(2, "seesaw", epochs=5, options=_ema("ExpMomentumEMAHook")),
    Shape(3, "ce", epochs=6, options={"data__workers_per_gpu": 1}),
    Shape(4, "ecm", epochs=8, options=_ema("LinearMomentumEMAHook")),
    Shape(1, "seesaw", iterations=36),
    Shape(2, "ecm", iterations=30, options=WORKERS),
    Shape(3, "seesaw", iterations=24),
    Shape(2, "ce", epochs=5),
]
COMMONNESS = {1: 4, 2: 4, 3: 1, 4: 1}  # of the numbers of ranks: a rank costs its imports at each start


def shape_of(number: int, ranks: list[int]) -> Shape:
    """The shape of a disturbed run, by the number of the run."""
    cycle = [r for turn in range(max(COMMONNESS.values())) for r in ranks if COMMONNESS.get(r, 1) > turn]
    turn, place = divmod(number, len(cycle))
    there = [shape for shape in SHAPES if shape.ranks == cycle[place]]
    return there[(turn * COMMONNESS.get(cycle[place], 1) + cycle[:place].count(cycle[place])) % len(there)]


def data_set(folder: Path) -> tuple[Path, Path]:
    """The few images that all runs learn, in files and as a pack: the files are for runs that nothing disturbs."""
    whole, few = folder / "all", folder / "few"
    few.mkdir(parents=True)
    first_images(make_data(whole), few, IMAGES)
    verb("stage", "pack", few, few.with_suffix(".pack"))
    return few, few.with_suffix(".pack")


# ---------------------------------------------------------------------------------------------- what is killed


@dataclass(frozen=True)
class Kill:
    """One thing done to a run.

    Attributes:
        label: Its row in the report.
        point: For ECM_CLUSTER_KILL_AT, ``{attempt}`` being the newest one's number; None: a signal.
        when: ``training``, ``start`` (of the next attempt), ``staging`` (of the first one), ``end`` (of the training),
            or what has to be done for a process to come to the point at all: ``signal``, ``kill``, ``preempt``.
        fatal: Whether the attempt ends.
        victim: Of a signal.
        rank: Of the victim.
        starting: Whether the moment is in the start of an attempt.
        fraction: Of the start's usual time, or of an iteration's.
        steps: Iterations that the attempt makes first, where the moment is not in its start.
    """

    label: str
    point: str | None = None
    when: str = "training"
    fatal: bool = True
    victim: str = ""
    signal: str = "SIGKILL"
    rank: int = 0
    starting: bool = False
    fraction: float = 0.0
    steps: int = 0


CHECKPOINT, MANIFEST = "checkpoints/iter_", "-a{attempt:04d}.json"
STEPS = ("after-data", "before-fsync", "before-rename", "after-rename")


def _points() -> list[tuple[float, Kill]]:
    """(weight, kill at a named point) of every place."""
    found = []
    for step in STEPS:
        found += [(1.0, Kill(f"{step}, checkpoint", f"{step}:{CHECKPOINT}", fatal=False)),
                  (1.0, Kill(f"{step}, manifest", f"{step}:{MANIFEST}", fatal=False)),
                  (0.4, Kill(f"{step}, rendezvous", f"{step}:rendezvous.json", "start")),
                  (0.5, Kill(f"{step}, completion mark", f"{step}:complete.json", "end")),
                  (0.3, Kill(f"{step}, word to the other ranks", f"{step}:abort.json", "kill")),
                  (0.3, Kill(f"{step}, decision after a stop", f"{step}:decision.json", "signal"))]
    return [*found,
            (1.0, Kill("before-manifest", f"before-manifest:{CHECKPOINT}", fatal=False)),
            (1.0, Kill("after-manifest", f"after-manifest:{CHECKPOINT}", fatal=False)),
            (2.0, Kill("before-commit-event", "before-commit-event")),
            (2.0, Kill("before-link, attempt", "before-link:/attempts/", "start"))]


def _signals(where: str) -> list[tuple[float, Kill]]:
    """(weight, signal) of a place."""
    found = [(3.0, Kill("SIGKILL to a worker", victim="worker")),
             (2.0, Kill("SIGKILL to a supervisor", victim="task")),
             (1.5, Kill("SIGKILL to the checkpoint writer", victim="writer", fatal=False)),
             (0.5, Kill("SIGKILL to a loader's worker", victim="loader"))]
    for name in ("SIGTERM", "SIGUSR2"):
        found += [(0.6, Kill(f"{name} to a worker", victim="worker", signal=name)),
                  (0.6, Kill(f"{name} to a supervisor", victim="task", signal=name))]
    if where == "local":
        return [*found, (1.0, Kill("SIGKILL to the driver", victim="driver")),
                (0.7, Kill("SIGTERM to the driver", victim="driver", signal="SIGTERM")),
                (0.7, Kill("SIGKILL to submitit's controller", victim="controller"))]
    return [*found, (1.0, Kill("scancel --signal=TERM", victim="job", signal="SIGTERM")),
            (1.0, Kill("scancel --signal=USR2", victim="job", signal="SIGUSR2")),
            (2.0, Kill("preemption", victim="preempt")), (1.0, Kill("scontrol requeue", victim="requeue")),
            (0.7, Kill("scancel", victim="cancel")), (0.7, Kill("power cut of a node", victim="node")),
            (0.5, Kill("SIGKILL to the batch shell", victim="batch")),
            (1.0, Kill("scontrol requeue, early, in a burst", victim="burst"))]


# the run's data are copied to scratch in its first start
STAGING = [Kill(f"{step}, staging", f"{step}:/scratch/", "staging", fatal=False)
           for step in ("block-written", "before-fsync", "before-rename", "before-manifest")]


ON_SLURM = [(2.0, Kill("before-requeue", "before-requeue", "preempt")),
            (2.0, Kill("after-requeue", "after-requeue", "preempt")),
            (2.0, Kill("after-requeue, batch shell", "after-requeue", "kill"))]
# while a verb is typed: it is killed, and typed again
VERBS = {("local", "submit"): ["before-rename:run.json", "after-driver", "before-rename:submissions/train.json"],
         ("local", "resume"): ["renewed:train.json", "after-driver", "before-rename:submissions/train.json"],
         ("slurm", "submit"): ["before-rename:run.json", "before-sbatch:train.json", "sbatch-answered",
                               "after-sbatch:train.json"],
         ("slurm", "resume"): ["renewed:train.json", "before-sbatch:train.json", "sbatch-answered",
                               "after-sbatch:train.json"]}
VERB_SHARE = {"submit": 0.3, "resume": 0.4}


# ---------------------------------------------------------------------------------------------- what is done besides


@dataclass(frozen=True)
class Trouble:
    """What is done to a run without killing a process, while kills continue.

    Attributes:
        label: Its row in the report.
        kind: ``writer`` (stopped, woken later), ``point`` (a process that reaches ``point`` is), ``faults``, ``typed``.
        seconds: How long.
        point: For ECM_CLUSTER_STOP_AT.
        node_fails: Whether Slurm gives the stopped process's node up meanwhile.
        error: Name of the errno.
        rate: Of file operations that fail with it.
        verb: Typed by a second user.
    """

    label: str
    kind: str
    seconds: float = 0.0
    point: str = ""
    node_fails: bool = False
    error: str = ""
    rate: float = 0.0
    verb: str = ""


LINK = "before-link:/attempts/"
TROUBLES = [(2.0, Trouble("the checkpoint writer stands still", "writer")),
            *((0.5, Trouble("a stale writer: stopped in its commit, woken later", "point", point=point))
              for point in (f"before-rename:{CHECKPOINT}", f"before-manifest:{CHECKPOINT}", "after-data:checkpoints/",
                            "before-commit-event")),
            (1.5, Trouble("rank 0 stalls before it takes its attempt", "point", point=LINK)),
            *((0.7, Trouble(f"{verb}, typed by a second user", "typed", verb=verb)) for verb in
              ("submit", "resume", "status")),
            *((0.8, Trouble("ESTALE", "faults", error="ESTALE", rate=rate)) for rate in (0.01, 0.1)),
            *((0.8, Trouble("ENOSPC", "faults", error="ENOSPC", rate=rate)) for rate in (0.1, 1.0))]
TROUBLES_ON_SLURM = [(2.0, Trouble("rank 0 stalls before it takes its attempt, and its node is given up", "point",
                                   point=LINK, node_fails=True))]
TROUBLE_SHARE = 0.6  # of kills beside which there is one


class Dice:
    """The choices for one run."""

    def __init__(self, seed: int, number: int, where: str, shape: Shape) -> None:
        self.random, self.where, self.shape = random.Random(f"{seed}/{number}"), where, shape

    def kill(self) -> Kill:
        """What comes next: a named point as often as a signal."""
        named = self.random.random() < 0.55  # some points need a signal first, which counts as one
        table = _points() + (ON_SLURM if self.where == "slurm" else []) if named else _signals(self.where)
        if "data__workers_per_gpu" not in self.shape.options:
            table = [(weight, kill) for weight, kill in table if kill.victim != "loader"]
        chosen = self.random.choices([kill for _, kill in table], [weight for weight, _ in table])[0]
        return Kill(**{**chosen.__dict__, "rank": self.random.randrange(self.shape.ranks),
                       "starting": not named and chosen.victim not in ("writer", "loader")
                       and self.random.random() < 0.35,
                       "fraction": self.random.random(), "steps": self.random.choice([0, 1, 1, 2, 3])})

    def trouble(self) -> Trouble | None:
        """What is done besides the next kill."""
        table = TROUBLES + (TROUBLES_ON_SLURM if self.where == "slurm" else [])
        chosen = self.random.choices([trouble for _, trouble in table], [weight for weight, _ in table])[0]
        long = 4.0 if chosen.kind == "faults" else 12.0
        chosen = replace(chosen, seconds=self.random.uniform(0.5, long))
        return chosen if self.random.random() < TROUBLE_SHARE else None

    def staging_point(self) -> Kill | None:
        """Where the first start is killed while it copies the data; None: nowhere."""
        chosen, share = self.random.choice(STAGING), self.random.random()
        return chosen if share < 0.4 else None

    def typed_twice(self) -> bool:
        """Whether a second user types the same verb at the same time."""
        return self.random.random() < 0.3

    def verb_point(self, verb: str) -> str | None:
        """Where a verb is killed; None: it is not."""
        points = VERBS[self.where, verb]
        chosen, share = self.random.choice(points), self.random.random()
        return chosen if share < VERB_SHARE[verb] else None

    def nodes(self) -> int:
        """Nodes of Slurm that the ranks are spread over."""
        return self.random.choice([n for n in (1, 2, 3) if self.shape.ranks % n == 0])

    def partition(self, names: list[str]) -> str:
        """Where Slurm requeues after a grace, at once, or not at all."""
        return self.random.choice(names)
