"""Many cases side by side, and what came of them."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import areas, judging, running
from .case import Case, Library

REAL_EVERY = 50  # one case in so many is run as a process of its own, from its first import on


@dataclass
class Result:
    """One case's command line, and what was bad about the answer."""

    number: int
    area: str
    kinds: list[str]
    argv: list[str]
    bad: list[str]
    code: int
    said: str
    seconds: float


@dataclass
class Tally:
    results: list[Result] = field(default_factory=list)

    @property
    def bad(self) -> list[Result]:
        return [result for result in self.results if result.bad]

    def table(self) -> str:
        """Cases by area: how many, with which exit codes, how many badly answered."""
        rows = [("area", "cases", "code 0", "1", "2", "bad")]
        for area in [*areas.AREAS, "all"]:
            those = [r for r in self.results if area in (r.area, "all")]
            codes = Counter(r.code for r in those)
            if those:
                counts = (len(those), codes[0], codes[1], codes[2], sum(bool(r.bad) for r in those))
                rows.append((area, *map(str, counts)))
        return "\n".join("".join(cell.ljust(14) if at == 0 else cell.rjust(8) for at, cell in enumerate(row))
                         for row in rows)


def make(seed: int, number: int, folder: Path, library: Library) -> tuple[str, Case]:
    """The case of a number, with its input written to ``folder/work``."""
    rng = random.Random(f"{seed}-{number}")
    names = list(areas.AREAS)
    area = rng.choices(names, [weight for _, weight in areas.AREAS.values()])[0]
    (folder / "work").mkdir(parents=True)
    (folder / "home").mkdir()
    case = Case(number, rng, folder / "work", library)
    areas.AREAS[area][0](case)
    return area, case


def one(seed: int, number: int, folder: Path, library: Library, real: bool = False) -> tuple[Result, Case]:
    area, case = make(seed, number, folder, library)
    before = judging.digest(case.work)
    answer = running.run(case, folder, real)
    bad = judging.judge(case, answer, before, judging.digest(case.work))
    said = (answer.out + answer.err).decode("utf-8", "backslashreplace") + answer.kept
    return Result(number, area, case.kinds, case.argv, bad, answer.code, said, answer.seconds), case


def run(seed: int, numbers: Iterable[int], folder: Path, library: Library, jobs: int) -> Tally:
    """Run cases in so many processes; the folders of those that were answered badly are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    mine = [list(numbers)[k::jobs] for k in range(jobs)]
    pids = []
    for k, part in enumerate(mine):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _worker(seed, part, folder, library, folder / f"results-{k}.jsonl")
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    found: list[dict[str, Any]] = []
    for k in range(jobs):
        path = folder / f"results-{k}.jsonl"
        found += [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        path.unlink(missing_ok=True)
    if any(ends):
        raise RuntimeError("a process of the campaign has failed; its traceback is above")
    return Tally(sorted((Result(**values) for values in found), key=lambda r: r.number))


def _worker(seed: int, numbers: list[int], folder: Path, library: Library, results: Path) -> None:
    import traceback

    running.prepare()
    with open(results, "w") as reported:
        for number in numbers:
            place = folder / str(number)
            try:
                result, _ = one(seed, number, place, library, real=number % REAL_EVERY == 0)
            except Exception:
                traceback.print_exc()
                print(f"case {number} could not be created or judged", flush=True)
                raise
            reported.write(json.dumps(vars(result)) + "\n")
            reported.flush()
            if not result.bad:
                shutil.rmtree(place, ignore_errors=True)
