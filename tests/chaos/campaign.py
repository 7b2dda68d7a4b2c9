"""The campaign: undisturbed runs, disturbed ones side by side, and the comparison of each with its twin."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from comparing import bits, log_lines, state_in
from small import logs_of, verb

from ecm_cluster.rundir import checkpoints, training_log
from ecm_cluster.rundir.run import Run

from .disturbed import Disturbed, Wrong
from .places import Place
from .plan import Dice, Shape, data_set, shape_of
from .tally import Tally

KEPT = 3  # checkpoints besides epochs' ends, of disturbed runs; the undisturbed ones keep all


class Campaign:
    """Runs in a folder."""

    def __init__(self, folder: Path, place: Place, kills: int, seed: int, ranks: list[int],
                 say: Callable[[str], None], after_each: Callable[[Tally], None]) -> None:
        self.folder, self.place, self.seed, self.ranks, self.say = folder, place, seed, ranks, say
        self.tally, self.after_each = Tally(kills), after_each
        self.data, self.pack = data_set(folder / "data")
        self._references: dict[str, Run] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._numbers, self._lock = iter(range(1 << 20)), threading.Lock()

    def work(self) -> None:
        """One run after the other, until enough was killed."""
        while self.tally.wants_more():
            with self._lock:
                number = next(self._numbers)
            self.one(number)

    def one(self, number: int) -> None:
        """A disturbed run, and its comparison."""
        shape = shape_of(number, self.ranks)
        dice = Dice(self.seed, number, self.place.name, shape)
        run = Run(self.folder / "runs" / f"{number:03d}-{shape.name}")
        began, wrong, detail, compared = time.monotonic(), "", "", 0
        reference = self.reference(shape)
        disturbed = Disturbed(run, shape, self.place, dice, self.tally, startup_of(reference),
                              self.submit_words(shape, run.name, dice, KEPT), self.folder / f"{run.name}.order")
        try:
            disturbed.execute()
            compared, differences = compare(run, reference, self.tally, disturbed.disk_failed())
            wrong, detail = ("mismatch", "\n".join(differences)) if differences else ("", "")
        except Wrong as error:
            wrong, detail = "lost", f"{error}\n{logs_of(run)}"
        except Exception:
            wrong, detail = "lost", f"{traceback.format_exc()}\n{logs_of(run)}"
        done, redone = iterations(run)
        self.tally.ended(run=run.name, kills=disturbed.kills, attempts=run.newest_attempt(), resumes=disturbed.resumes,
                         iterations=done, redone=redone, compared=compared, wrong=wrong, detail=detail,
                         folder=str(run.path))
        self.say(f"{run.name}: {disturbed.kills} kills, {run.newest_attempt()} attempts, {disturbed.resumes} resumes, "
                 f"{redone} of {done} iterations again, {time.monotonic() - began:.0f} s: {wrong or 'same bits'}; "
                 f"{self.tally.kills} of {self.tally.wanted} kills")
        self.after_each(self.tally)
        if wrong:
            self.say(detail[-500:])
            verb("cancel", run.path, env=self.place.env, code=None)
        else:
            shutil.rmtree(run.path)
            shutil.rmtree(self.folder / "scratch" / run.name, ignore_errors=True)

    def reference(self, shape: Shape) -> Run:
        """The undisturbed run of a shape; made when it is first asked for.

        Raises:
            Wrong: It does not complete.
        """
        with self._lock:
            lock = self._locks.setdefault(shape.name, threading.Lock())
        with lock:
            if shape.name not in self._references:
                run = self._undisturbed(shape)
                self.say(f"{shape.name}: {iterations(run)[0]} iterations undisturbed, "
                         f"{startup_of(run):.0f} s to the first checkpoint")
                self._references[shape.name] = run
        return self._references[shape.name]

    def _undisturbed(self, shape: Shape) -> Run:
        """A run that nobody disturbs; another one where a disturbance of its neighbours has met it, too."""
        for number in itertools.count(1):
            run = Run(self.folder / "references" / f"{shape.name}-{number}")
            verb("submit", *self.submit_words(shape, run.name, None, 100000), env=self.place.env)
            alone = Disturbed(run, shape, self.place, Dice(0, 0, self.place.name, shape), self.tally, 0.0, [],
                              self.folder / "none")
            try:
                alone.wait(lambda: False)
            except Wrong:
                verb("cancel", run.path, env=self.place.env, code=None)
                raise
            if not alone.resumes and run.newest_attempt() == 1:
                return run
            self.say(f"{run.name}: was disturbed")
        raise AssertionError

    def submit_words(self, shape: Shape, name: str, dice: Dice | None, keep: int) -> list[str]:
        config = self.folder / f"{shape.name}.py"
        if not config.exists():
            shape.write_config(self.data, config)
        runs = self.folder / ("runs" if dice else "references")
        data = [str(self.data)]
        if dice:  # what the twin reads where it lies is copied to scratch here
            data = [str(self.pack), "--scratch", str(self.folder / "scratch" / name / self.place.scratch_of_node)]
        return ["demo", "--config", str(config), "--data-root", *data, "--runs-dir", str(runs), "--name", name,
                "--checkpoint-every", "1", "--keep", str(keep), "--hang-minutes", "20", "--no-eval",
                *self.place.flags(dice, shape)]


def run(folder: Path, place: Place, kills: int, seed: int, ranks: list[int], jobs: int = 1,
        after_each: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """The whole campaign; ``folder`` is made, and removed where all went well."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(folder, place, kills, seed, ranks, say, after_each)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in [pool.submit(campaign.work) for _ in range(jobs)]:
                future.result()
        except BaseException:
            campaign.tally.interrupted = True  # the other runs are cancelled
            raise
    if not campaign.tally.wrong:
        shutil.rmtree(folder)
    return campaign.tally


def startup_of(run: Run) -> float:
    """Seconds from the beginning of the first attempt to its first checkpoint."""
    first = next(e for e in run.events() if e.kind == "commit" and e.attempt == 1)
    return first.time - run.read_attempt(1)["time"]


def iterations(run: Run) -> tuple[int, int]:
    """Iterations of a run, and how many were done again."""
    lines = sum(len(training_log.read(run, attempt)[1]) for attempt in run.attempts())
    return len(training_log.fold(run)), lines - len(training_log.fold(run))


def compare(run: Run, reference: Run, tally: Tally, disk_failed: bool) -> tuple[int, list[str]]:
    """How many checkpoints were compared, and in which ways a disturbed run differs from the undisturbed one."""
    last, there = checkpoints.last(run), checkpoints.last(reference)
    if last is None or there is None:
        return 0, ["not complete"]
    found = [f"{key}: {getattr(last, key)} instead of {getattr(there, key)}" for key in ("iteration", "epoch")
             if getattr(last, key) != getattr(there, key)]
    finished = {e.attempt for e in run.events() if e.kind == "complete"} | {run.newest_attempt()}
    if len(finished) != 1:
        found.append(f"completed by attempts {sorted(finished)}")
    by_iteration = {m.iteration: m for m in checkpoints.accepted(reference)}
    counting = checkpoints.accepted(run)
    for manifest in counting:
        twin = by_iteration[manifest.iteration]
        for key in ("epoch", "position", "epoch_end"):
            if getattr(manifest, key) != getattr(twin, key):
                found.append(f"{manifest.file}: {key} {getattr(manifest, key)} instead of {getattr(twin, key)}")
        found += [f"{manifest.file}: {what} differs" for what in
                  differing(state_in(manifest.path(run)), state_in(twin.path(reference)))]
    if counting[-1] != last:
        found.append(f"the completion mark names {last.file}, the last checkpoint is {counting[-1].file}")
    mine, theirs = log_lines(run), log_lines(reference)
    missing = [line["iteration"] for line in theirs if line not in mine]
    odd = [line["iteration"] for line in mine if line not in theirs]
    # a line that a full disk did not take comes with the next one, unless a process is killed in between
    if odd or len(mine) + len(missing) != len(theirs) or (missing and not disk_failed):
        found.append(f"the log differs: {len(mine)} lines instead of {len(theirs)}, odd {odd}, missing {missing}")
    tally.troubled("log lines that a failing disk did not take", len(missing))
    return len(counting), found


def differing(state: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Which parts of two states are not the same bits."""
    for meta in (state["meta"], other["meta"]):
        meta.pop("config_digest", None)  # the config names the folder of the data, which is not the same here
    parts = sorted(state.keys() | other.keys())
    return [part for part in parts if part not in state or part not in other or bits(state[part]) != bits(other[part])]
