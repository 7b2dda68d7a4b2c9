"""A loss that is no longer a number: since which iteration, whether to stop, and which checkpoint is from before.

The trainer offers the loss of each step as a number on the host, the same on all ranks (mmdet's brings every logged
loss there anyhow, as the mean over all ranks); so the check costs nothing, and all ranks see the same. With half
precision, steps whose gradients overflow are skipped and the loss scale is lowered, so a few losses in a row that are
not finite mean nothing there.
"""

from __future__ import annotations

import math

from ...attempts.failures import NotStartable
from ...rundir import checkpoints
from ...rundir.run import Run
from .trainable import Trainable

SINCE = "not_finite_since"  # in a checkpoint's meta: a resumed training knows since when


class Diverged(NotStartable):
    """The loss is not finite, and the job asks to stop then."""

    cause = "diverged"


class LossWatch:
    """Looks at the loss after each optimizer step.

    Attributes:
        since: The first iteration of those in a row whose loss, or norm of gradients, was not finite; else None.
        what: What it was: ``the loss was nan``.
        alarmed: Whether that was reported.
    """

    def __init__(self) -> None:
        self.since: int | None = None
        self.what = ""
        self.alarmed = False
        self._steps: float = 0

    def resume(self, since: int | None) -> None:
        """Continue as of a checkpoint."""
        self.since, self._steps = since, 0 if since is None else math.inf  # no more patience

    def look(self, trainer: Trainable) -> bool:
        """Whether this step is the one at which to report that the loss is not finite."""
        found = trainer.not_finite()
        if found is None:
            return False
        self.what = found
        if self.since is None:
            self.since = trainer.iteration
        self._steps += 1
        return not self.alarmed and self._steps >= trainer.patience

    def recovered(self, trainer: Trainable) -> bool:
        """Whether the loss is finite again, after the alarm; to be asked after :meth:`look`."""
        if self.since is None or trainer.not_finite() is not None:
            return False
        reported, self.since, self._steps, self.alarmed = self.alarmed, None, 0, False
        return reported

    def alarm(self, trainer: Trainable) -> str:
        """Note that it is reported, and put it into words."""
        self.alarmed = True
        if self.since is None:  # another rank's loss, with a model that does not reduce its losses over the ranks
            self.since, self.what = trainer.iteration, "the loss of a rank was not finite"
        return f"{self.what} from iteration {self.since} on"


def newest_before(run: Run, since: int, step: int) -> checkpoints.Manifest | None:
    """The newest checkpoint whose weights are known to be sound: they gave a finite loss at a later iteration.

    Args:
        since: The first iteration whose loss was not finite; the weights before it may be what made it so.
        step: Iterations of an optimizer step.
    """
    return max((m for m in checkpoints.accepted(run) if m.iteration <= since - 2 * step),
               key=lambda m: m.iteration, default=None)
