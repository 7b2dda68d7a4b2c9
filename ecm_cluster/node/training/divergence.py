"""A loss that is no longer a number: since which iteration, whether to stop, and which checkpoint is from before.

mmdet brings every logged loss to the host in each iteration, as the mean over all ranks; so to look costs nothing, and
all ranks see the same. With half precision, steps whose gradients overflow are skipped and the loss scale is lowered,
so a few losses in a row that are not finite are no sign of anything there.
"""

from __future__ import annotations

import math
from typing import Any

from ...attempts.failures import NotStartable
from ...rundir import checkpoints
from ...rundir.run import Run

SINCE = "not_finite_since"  # in runner.meta, and so in checkpoints: a resumed training knows since when
PATIENCE = 20  # optimizer steps in a row, with a loss scaler


class Diverged(NotStartable):
    """The loss is not finite, and the job says to stop then."""

    cause = "diverged"


class LossWatch:
    """Looks at the loss after each optimizer step.

    Attributes:
        since: The first iteration of those in a row whose loss, or norm of gradients, was not finite; else None.
        what: What it was: ``the loss was nan``.
        alarmed: Whether that was said.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.what = ""
        self.alarmed = False
        self._steps = 0

    def look(self, runner: Any) -> bool:
        """Whether this step is the one at which to say that the loss is not finite."""
        if self._steps == 0 and self.since is None and (runner.meta or {}).get(SINCE):
            self.since, self._steps = runner.meta[SINCE], PATIENCE  # as of the checkpoint
        found = _not_finite(runner)
        if found is None:
            return False
        self.what = found
        if self.since is None:
            self.since = runner._iter
        self._steps += 1
        scaled = any(getattr(hook, "loss_scaler", None) is not None for hook in runner.hooks)
        return not self.alarmed and self._steps >= (PATIENCE if scaled else 1)

    def recovered(self, runner: Any) -> bool:
        """Whether the loss is finite again, after the alarm; to be asked after :meth:`look`."""
        if self.since is None or _not_finite(runner) is not None:
            return False
        said, self.since, self._steps, self.alarmed = self.alarmed, None, 0, False
        if runner.meta:
            runner.meta.pop(SINCE, None)
        return said

    def alarm(self, runner: Any) -> str:
        """Take it down, and put it into words."""
        self.alarmed = True
        if self.since is None:  # another rank's loss, with a model that does not reduce its losses over the ranks
            self.since, self.what = runner._iter, "the loss of a rank was not finite"
        runner.meta = {**(runner.meta or {}), SINCE: self.since}
        return f"{self.what} from iteration {self.since} on"


def newest_before(run: Run, since: int, step: int) -> checkpoints.Manifest | None:
    """The newest checkpoint whose weights are known to be sound: they gave a finite loss at a later iteration.

    Args:
        since: The first iteration whose loss was not finite; the weights before it may be what made it so.
        step: Iterations of an optimizer step.
    """
    return max((m for m in checkpoints.accepted(run) if m.iteration <= since - 2 * step),
               key=lambda m: m.iteration, default=None)


def _not_finite(runner: Any) -> str | None:
    outputs = getattr(runner, "outputs", None)
    loss = (outputs.get("log_vars") or {}).get("loss") if isinstance(outputs, dict) else None
    if isinstance(loss, float) and not math.isfinite(loss):
        return f"the loss was {loss}"
    if any(getattr(hook, "loss_scaler", None) is not None for hook in runner.hooks):
        return None  # its gradients overflow by design
    norms = runner.log_buffer.val_history.get("grad_norm") or [0.0]
    return None if math.isfinite(norms[-1]) else f"the norm of the gradients was {float(norms[-1])}"
