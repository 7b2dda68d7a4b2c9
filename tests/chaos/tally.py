"""What the campaign counts, and how it is shown."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any


class Tally:
    """Counts of all runs; many threads may add to it.

    Args:
        wanted: Kills after which no further one is made.
    """

    def __init__(self, wanted: int) -> None:
        self.wanted, self.began = wanted, time.monotonic()
        self.points: Counter[str] = Counter()
        self.signals: Counter[str] = Counter()
        self.by_ranks: Counter[int] = Counter()
        self.troubles: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()  # calls, by the name of the errno
        self.why_resumed: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.interrupted = False
        self._lock = threading.Lock()

    @property
    def kills(self) -> int:
        return self.points.total() + self.signals.total()

    def wants_more(self) -> bool:
        return self.kills < self.wanted and not self.interrupted

    def killed(self, label: str, named: bool, ranks: int) -> None:
        with self._lock:
            (self.points if named else self.signals)[label] += 1
            self.by_ranks[ranks] += 1

    def troubled(self, label: str, count: int = 1) -> None:
        with self._lock:
            self.troubles[label] += count

    def resumed(self, reason: str) -> None:
        with self._lock:
            self.why_resumed.append(reason)

    def ended(self, **run: Any) -> None:
        with self._lock:
            self.runs.append(run)

    def total(self, what: str) -> int:
        return sum(run[what] for run in self.runs)

    @property
    def wrong(self) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["wrong"]]

    def figures(self) -> dict[str, Any]:
        """Everything that was counted."""
        return {"kills": self.kills, "at_named_points": self.points.total(), "by_signals": self.signals.total(),
                "points": dict(self.points.most_common()), "signals": dict(self.signals.most_common()),
                "besides": dict(self.troubles.most_common()), "failed_calls": dict(self.failed),
                "kills_by_ranks": dict(sorted(self.by_ranks.items())), "runs": len(self.runs),
                **{what: self.total(what) for what in ("attempts", "resumes", "iterations", "redone")},
                "compared_checkpoints": self.total("compared"), "why_resumed": self.why_resumed,
                "mismatches": sum(run["wrong"] == "mismatch" for run in self.runs),
                "lost": sum(run["wrong"] == "lost" for run in self.runs),
                "seconds": round(time.monotonic() - self.began), "each": self.runs}

    def table(self) -> str:
        """The figures as text."""
        said = self.figures()
        lines = ["", f"{'kills':<72}{said['kills']:>6}"]
        lines += [f"  with {ranks} rank{'s' * (ranks > 1):<61}{count:>6}"
                  for ranks, count in said["kills_by_ranks"].items()]
        for title, counts in (("at named points", said["points"]), ("by signals, at random moments", said["signals"]),
                              ("besides", said["besides"])):
            lines += ["", f"{title:<72}{sum(counts.values()):>6}"]
            lines += [f"  {label:<70}{count:>6}" for label, count in counts.items()]
        lines += ["", *(f"{f'file operations that failed with {name}':<72}{count:>6}"
                        for name, count in said["failed_calls"].items())]
        lines += ["", *(f"{name:<72}{value:>6}" for name, value in {
            "runs brought to their end": said["runs"] - said["lost"], "attempts": said["attempts"],
            "resumes typed": said["resumes"], "iterations of these runs": said["iterations"],
            "iterations done again": said["redone"],
            "checkpoints compared": said["compared_checkpoints"],
            "runs that differ from the undisturbed one": said["mismatches"], "runs lost": said["lost"]}.items())]
        return "\n".join(lines)
