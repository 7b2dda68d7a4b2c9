"""Run by the job's interpreter: prints which packages are installed, then whether they can be imported.

Standard library only, for any Python from 3.8 on: two lines of JSON, the first one immediately.
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
import time
from importlib import metadata


def versions() -> dict:
    """The version of every installed distribution, by its normalised name."""
    found: dict = {}
    for one in metadata.distributions():
        name = one.metadata["Name"]
        if name:
            found.setdefault(name.lower().replace("_", "-").replace(".", "-"), one.version)
    return found


def imported(names: list) -> dict:
    """The errors of importing these modules, and the time that it took."""
    began, said = time.monotonic(), {}
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as error:  # a library may even exit
            said[name] = f"{type(error).__name__}: {error}".strip().replace("\n", " ")[:300]
            break  # the other modules import it, too
    torch = sys.modules.get("torch")
    return {"failed": said, "seconds": round(time.monotonic() - began, 1),
            "cuda": getattr(getattr(torch, "version", None), "cuda", None)}


if __name__ == "__main__":
    print(json.dumps({"python": platform.python_version(), "executable": sys.executable, "versions": versions()}),
          flush=True)
    if len(sys.argv) > 1:
        print(json.dumps(imported(sys.argv[1:])), flush=True)
