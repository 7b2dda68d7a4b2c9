"""The hardware that mmcv-full's operators were compiled for, as recorded by ``make setup`` in an environment.

Standard library only: the set-up writes it before anything is installed, and a login node reads it without torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STAMP = "ecm-cluster.json"  # in the directory of the environment


@dataclass(frozen=True)
class Operators:
    """Compiled or requested operators.

    Attributes:
        mmcv: Version of mmcv-full, as ``1.7.2``.
        torch: Version of torch with its local tag, as ``2.8.0+cu128``.
        torch_cuda: CUDA release of that torch, as ``12.8``; None for a torch without CUDA.
        cuda: CUDA release of the operators; None for CPU operators.
        architectures: In nvcc's notation: ``sm_90`` is machine code for one type of GPU, ``compute_90`` is PTX, which
            newer GPUs compile at load time. None: unknown.
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
        """Whether they can be used instead of ``wanted``: CUDA operators also run on the CPU."""
        if wanted.cuda is None:
            return True
        return self.cuda is not None and set(wanted.architectures or ()) <= set(self.architectures or ())

    def remedy(self) -> str:
        """How to get operators for GPUs if these are for the CPU."""
        if self.torch_cuda is None:
            return "its torch is a CPU build, too: install one for CUDA, and rebuild mmcv-full with it"
        return (f"load a CUDA {self.torch_cuda} toolkit (module load cuda/{self.torch_cuda}) and run `make setup` "
                "again; alternatives: README, \"On a GPU cluster\"")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse(record: Any) -> Operators | None:
    """The record as it was written; None if it is invalid."""
    try:
        return Operators(**{**record, "architectures": record["architectures"] and tuple(record["architectures"])})
    except (KeyError, TypeError):
        return None


def of_interpreter(python: str) -> Operators | None:
    """The record in an interpreter's environment; None if ``make setup`` did not create it.

    Args:
        python: Path of the interpreter; not resolved, since in an environment it is a link to another one.
    """
    try:
        return parse(json.loads((Path(python).parent.parent / STAMP).read_text(encoding="utf-8"))["operators"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def by_number(name: str) -> tuple[int, str]:
    """Sort key that puts ``sm_90`` before ``sm_100``."""
    found = re.search(r"_(\d+)", name)
    return (int(found[1]) if found else 0, name)
