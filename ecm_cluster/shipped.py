"""Files of this installation, and files of the same names where a user happens to stand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .errors import UserError


def meant(what: str, given: str, shipped: Sequence[Path]) -> Path | None:
    """The file that a name means: one here, else one of this installation; None where there is neither.

    Raises:
        UserError: Another user has put a file of that name here, and it would be taken for this installation's.
    """
    here, ours = Path(given), next((path for path in shipped if path.is_file()), None)
    if not here.is_file():
        return ours
    if ours is not None and not given.startswith(("/", "./", "../")) and not here.samefile(ours) \
            and here.stat().st_uid not in (0, os.geteuid()):
        raise UserError(f"{what}: {given!r} in this folder belongs to another user, and has the name of a file that is "
                        f"shipped; give ./{given} or {ours}")
    return here
