"""Runs of the GPU suite through the real verbs, and what is compared between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from small import ROOT, await_state, job_flags, verb

from ecm_cluster.rundir import training_log
from ecm_cluster.rundir.run import Run

PAYLOAD = ROOT / "tests/gpu/payload"
PER_EPOCH, EPOCHS = 7, 3  # of the small data on one rank, with the repeats of rare classes
# (attempt, signal, iterations done when it comes)
SIGNALS_AND_A_KILL = [(1, "SIGTERM", 3), (2, "SIGUSR2", 8), (3, "SIGKILL", 13)]
A_SIGNAL_AND_A_KILL = [(1, "SIGTERM", 3), (2, "SIGKILL", 9)]

CONFIG = """
_base_ = ['{root}/configs/demo.py']
custom_imports = dict(imports=['mmdet_ext.register', 'gpu_suite'], allow_failed_imports=False)
custom_hooks = [dict(type='GpuSuite', folder={folder!r}, **{hook!r})]
"""
ROI_ALIGN_ON_CPU = """
model = dict(roi_head=dict(bbox_roi_extractor=dict(roi_layer=dict(type='RoIAlignOnCpu')),
                           mask_roi_extractor=dict(roi_layer=dict(type='RoIAlignOnCpu'))))
"""
PATIENCE = 900.0  # seconds; a busy machine takes minutes for four starts
# what differs between two runs that are the same: the clock, and how the allocator laid out its memory
INCIDENTAL = ("time", "data_time", "timestamp", "attempt", "memory")


def begin(data: Path, folder: Path, name: str, device: str, *flags: object, hook: Mapping[str, Any] | None = None,
          config: str = "", env: Mapping[str, str] | None = None, **options: Any) -> Run:
    """Submit the demo's detector on the small data to this machine.

    Args:
        folder: Exists; takes the run, the notes, and the config.
        hook: Arguments of the payload's hook.
        config: Lines for the config.
        options: mmdet options with __ for dots.
    """
    notes = folder / f"{name}-notes"
    notes.mkdir()
    file = folder / f"{name}.py"
    file.write_text(CONFIG.format(root=ROOT, folder=str(notes), hook=dict(hook or {})) + config)
    options = {"runner__max_epochs": EPOCHS, **options}
    verb("submit", *job_flags(data, folder, name, **options), "--cluster", "local", "--device", device,
         "--config", file, "--code", PAYLOAD, "--checkpoint-every", 2, *flags, env=env)
    return Run(folder / name)


def pair(data: Path, folder: Path, device: str, disturb: Sequence[tuple[int, str, int]], *flags: object,
         hook: Mapping[str, Any] | None = None, **rest: Any) -> tuple[Run, Run]:
    """The same training twice: one that nothing happens to, and one that is disturbed; both done."""
    made = []
    for name, said in (("straight", []), ("disturbed", disturb)):
        run = begin(data, folder, name, device, "--no-eval", *flags,
                    hook={**(hook or {}), "disturb": [list(d) for d in said]}, **rest)
        await_state(run, "done", seconds=PATIENCE)
        made.append(run)
    assert made[1].newest_attempt() == len(disturb) + 1, "every disturbance ends an attempt"
    return made[0], made[1]


def notes(run: Run) -> list[dict[str, Any]]:
    """What the hook noted in all attempts, steps that were done again included."""
    folder = run.path.parent / f"{run.name}-notes"
    return [json.loads(line) for path in sorted(folder.glob("*.notes")) for line in path.read_text().splitlines()]


def steps(run: Run) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """The notes of each (rank, iteration), one for each time it was done, without the attempt."""
    found: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for note in notes(run):
        note.pop("attempt")
        found.setdefault((note.pop("rank"), note.pop("iteration")), []).append(note)
    return found


def lines(run: Run, attempt: int | None = None) -> dict[int, dict[str, Any]]:
    """The log line of each iteration: those that count, or those of one attempt."""
    found = training_log.fold(run) if attempt is None else training_log.read(run, attempt)[1]
    return {line["iteration"]: {k: v for k, v in line.items() if k not in INCIDENTAL} for line in found}


def losses(line: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in line.items() if key.startswith("loss")}


def furthest(one: Mapping[int, Mapping[str, Any]], other: Mapping[int, Mapping[str, Any]], key: str = "loss") -> float:
    """The largest difference of a loss between two series, as a share of the second."""
    return max(abs(one[i][key] - other[i][key]) / abs(other[i][key]) for i in other)
