"""The module of the verb ``submit``, which ``from ecm_cluster import submit`` gives to Python code, as a function."""

from __future__ import annotations

import sys
import types
from typing import Any


class CallableModule(types.ModuleType):
    """A module whose call submits a run."""

    def __call__(self, job: str | None = None, **keys: Any) -> Any:
        """Submit a run; see :meth:`ecm_cluster.interface.run.RunHandle.submit`."""
        from .run import RunHandle

        return RunHandle.submit(job, **keys)


def make_callable(name: str) -> None:
    """Make a module that is being imported one that can be called, as Python's data model allows."""
    sys.modules[name].__class__ = CallableModule
