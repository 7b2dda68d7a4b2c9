"""The calls: each verb in the ways that it is used, in the world that :func:`make` makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scored import scored_run
from small import job_flags, make_data, verb
from steering import ended_run

from ecm_cluster.rundir.run import Run

IDLE = "/bin/true"  # in place of the interpreter of a run: a driver that is started ends at once


@dataclass(frozen=True)
class Call:
    """A verb and its words.

    Attributes:
        acts: It changes something, so that a place without room makes it fail.
        heavy: It loads numpy and the like, which needs memory.
        makes: What it makes in the world, if it succeeds; not there, or whole, where it fails.
    """

    name: str
    words: tuple[str, ...]
    acts: bool = False
    heavy: bool = False
    makes: str = ""


def make(world: Path) -> None:
    """Data, a pack, a run that crashed, two that are scored."""
    for name in ("home", "tmp", "work", "out"):
        (world / name).mkdir(parents=True)
    make_data(world / "data")
    verb("stage", "pack", world / "data", world / "data.pack")
    verb("stage", "copy", world / "data.pack", world / "staged")
    verb("stage", "copy", world / "data.pack", world / "unused")
    ended_run(world / "runs" / "over", iterations=(1, 2), python=IDLE)
    for number, name in enumerate(("scored", "other")):
        scored_run(world / "runs" / name, {10: 0.1 + number, 20: 0.3}, python=IDLE)
    broken = Run(world / "runs" / "over").quarantine_dir
    broken.mkdir()
    (broken / "iter_0000001-a0001.pth").write_bytes(b"weights")


def calls(world: Path) -> list[Call]:
    runs = world / "runs"
    over, scored, other = (str(runs / name) for name in ("over", "scored", "other"))
    flags = [*job_flags(world / "data", runs, "new"), "--python", IDLE]
    of_pack = [*job_flags(world / "data.pack", runs, "new"), "--python", IDLE]
    pack, out = str(world / "data.pack"), world / "out"
    return [
        Call("help", ("--help",)),
        Call("submit-help", ("submit", "--help")),
        Call("submit", ("submit", *flags, "--cluster", "local"), acts=True, makes="runs/new"),
        Call("submit-pack", ("submit", *of_pack, "--cluster", "local"), acts=True, makes="runs/new"),
        Call("submit-dry", ("submit", *flags, "--cluster", "local", "--dry-run")),
        Call("submit-slurm-dry", ("submit", *flags, "--dry-run")),
        Call("status", ("status", "--runs-dir", str(runs))),
        Call("status-json", ("status", "--runs-dir", str(runs), "--json")),
        Call("status-run", ("status", over)),
        Call("status-scored", ("status", scored)),
        Call("logs", ("logs", over)),
        Call("evaluate-shown", ("evaluate", scored, "--checkpoints", "all")),
        Call("evaluate-csv", ("evaluate", scored, "--checkpoints", "all", "--csv", str(out / "t.csv")), acts=True,
             makes="out/t.csv"),
        Call("evaluate-dry", ("evaluate", scored, "--checkpoints", "20", "--vary", "score_thr=0.2,0.3", "--dry-run"),
             acts=True),  # of one's own runs alone
        Call("evaluate", ("evaluate", scored, "--checkpoints", "20", "--vary", "score_thr=0.2,0.3"), acts=True),
        Call("compare", ("compare", scored, other)),
        Call("compare-csv", ("compare", scored, other, "--csv", str(out / "c.csv")), acts=True, makes="out/c.csv"),
        Call("diff", ("diff", scored, other)),
        Call("cancel", ("cancel", over), acts=True),
        Call("resume-dry", ("resume", over, "--dry-run"), acts=True),  # it waits for the run's lock
        Call("resume", ("resume", over), acts=True),
        Call("clean", ("clean", over, "--yes"), acts=True),
        Call("stage-pack", ("stage", "pack", str(world / "data"), str(out / "p.pack")), acts=True, heavy=True,
             makes="out/p.pack"),
        Call("stage-copy", ("stage", "copy", pack, str(out / "scratch")), acts=True, heavy=True),
        Call("stage-status", ("stage", "status", str(world / "staged"))),
        Call("stage-verify", ("stage", "verify", pack), heavy=True),
        Call("stage-verify-copy", ("stage", "verify", str(world / "staged")), acts=True, heavy=True),
        Call("stage-gc", ("stage", "gc", str(world / "unused")), acts=True),
        Call("doctor", ("doctor", "--cluster", "local", "--python", IDLE, "--runs-dir", str(runs))),
        Call("synthesize", ("synthesize", str(out / "made"), "--train-images", "24", "--val-images", "8", "--classes",
                            "6"), acts=True, heavy=True, makes="out/made"),
        Call("demo", ("demo", "--out", str(out / "demo")), acts=True, heavy=True),
    ]
