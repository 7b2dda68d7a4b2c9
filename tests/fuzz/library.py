"""The valid input that every case begins with: made once, by the project itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .case import Library
from .running import ROOT, environment

SETS = ("model.roi_head.bbox_head.num_classes=6", "model.roi_head.mask_head.num_classes=6", "runner.max_epochs=1",
        "log_config.interval=1")


def make(folder: Path, trained: bool = True) -> Library:
    """A data set, its pack, a scratch that holds it, a run with an evaluation; what is there already is kept.

    Args:
        trained: Train and score the run (10 s), or make one as those look, without a model.
    """
    library = Library(folder)
    if (folder / "whole").exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    text = (ROOT / "configs" / "demo.py").read_text()
    (folder / "demo.py").write_text(
        text.replace("'_base_/", f"'{ROOT}/configs/_base_/").replace("num_classes = 24", "num_classes = 6"))
    _verb(folder, "synthesize", library.data, "--train-images", 24, "--val-images", 8, "--classes", 6, "--seed", 1)
    _verb(folder, "stage", "pack", library.data, library.pack, "--shard-size", "100K")
    _verb(folder, "stage", "pack", library.data, folder / "half.pack", "--shard-size", "100K",
          killed_at="before-rename:pack.json")
    _verb(folder, "stage", "copy", library.pack, library.scratch)
    if trained:
        _verb(folder, "submit", "demo", "--cluster", "local", "--data-root", library.data, "--runs-dir",
              library.run.parent, "--name", "real", "--gpus", 1, "--scratch", folder / "node", "--wait",
              *(word for option in SETS for word in ("--set", option)))
    else:
        from scored import scored_run

        scored_run(library.run, {10: 0.1, 20: 0.3})
    (folder / "whole").touch()
    return library


def _verb(folder: Path, name: str, *words: object, killed_at: str = "") -> None:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    env = {**environment(folder), "PATH": os.environ["PATH"], "ECM_CLUSTER_KILL_AT": killed_at}
    done = subprocess.run([sys.executable, "-m", f"ecm_cluster.{name}", *map(str, words)], cwd=folder, env=env,
                          capture_output=True, text=True, check=False)
    if done.returncode != (-9 if killed_at else 0):
        sys.exit(f"could not create the input of the campaign: {name} gave {done.returncode}\n{done.stderr}")
