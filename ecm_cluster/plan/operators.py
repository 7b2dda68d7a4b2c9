"""What mmcv-full's operators were compiled for: the record that ``make setup`` leaves in an environment.

Standard library alone: the set-up writes it before anything is installed, a login node reads it without torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STAMP = "ecm-cluster.json"  # in the environment's own folder


@dataclass(frozen=True)
class Operators:
    """Compiled operators, or those that are wanted.

    Attributes:
        mmcv: Version of mmcv-full, as ``1.7.2``.
        torch: Version of torch with its local tag, as ``2.8.0+cu128``.
        torch_cuda: CUDA release of that torch, as ``12.8``; None for a torch without CUDA.
        cuda: CUDA release of the operators; None for the CPU alone.
        architectures: As nvcc names them: ``sm_90`` is code for one GPU, ``compute_90`` is PTX, which newer GPUs
            compile when it is loaded. None if nobody knows.
    """

    mmcv: str
    torch: str
    torch_cuda: str | None
    cuda: str | None
    architectures: tuple[str, ...] | None = None

    def describe(self) -> str:
        """As ``1.7.2: operators for CUDA 12.8 (sm_80, sm_90, PTX 90)``."""
        if self.cuda is None:
            return f"{self.mmcv}: operators for the CPU only"
        names = self.architectures
        shown = "architectures unknown" if names is None else ", ".join(
            [name for name in names if name.startswith("sm_")]
            + [f"PTX {name[len('compute_'):]}" for name in names if name.startswith("compute_")])
        return f"{self.mmcv}: operators for CUDA {self.cuda} ({shown})"

    def serve(self, wanted: Operators) -> bool:
        """Whether they do all that ``wanted`` asks for: CUDA operators also run on the CPU."""
        if wanted.cuda is None:
            return True
        return self.cuda is not None and set(wanted.architectures or ()) <= set(self.architectures or ())

    def remedy(self) -> str:
        """What brings operators for GPUs, where these are for the CPU alone."""
        if self.torch_cuda is None:
            return "its torch is a CPU build, too: install one for CUDA, and mmcv-full against it"
        return (f"load a CUDA {self.torch_cuda} toolkit (module load cuda/{self.torch_cuda}) and run `make setup` "
                "again; README, \"On a GPU cluster\", has the other ways")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse(record: Any) -> Operators | None:
    """The record as it was written; None where it is not one."""
    try:
        return Operators(**{**record, "architectures": record["architectures"] and tuple(record["architectures"])})
    except (KeyError, TypeError):
        return None


def of_interpreter(python: str) -> Operators | None:
    """What the environment of an interpreter records of itself; None if it was not made by ``make setup``.

    Args:
        python: Path of the interpreter; not resolved, as the one of an environment is a link to another.
    """
    try:
        return parse(json.loads((Path(python).parent.parent / STAMP).read_text(encoding="utf-8"))["operators"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def by_number(name: str) -> tuple[int, str]:
    """Key that sorts ``sm_90`` before ``sm_100``."""
    found = re.search(r"_(\d+)", name)
    return (int(found[1]) if found else 0, name)
